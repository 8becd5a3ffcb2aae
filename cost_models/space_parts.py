"""Parts of the networks of a space, each with the totals that it adds: one graph with it less one without it.

A part is written down between a made-up beginning, which gives it an input of the right shape and layout, and the
space's own head. What the head costs after it and not before it is the part's, so that the differences add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from ..profilers.graph import Graph
from ..spaces import Architecture, Cell, FBNet, Mobile, NasBench201, Space, Value
from ..spaces.fbnet import BLOCKS, STEM
from ..spaces.mobile import Plan, Stage
from .fbnet_graph import fbnet_head, fbnet_layer
from .fusion import Rule, applied, rules_of
from .graph_builder import GraphBuilder
from .mobile_graph import bottleneck, mobile_head, mobile_network
from .nasbench201_graph import CELLS_PER_STAGE, nasbench201_network

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["PARTS", "Measure", "Part", "Written"]

Options = Mapping[str, tuple[Value, ...]]
Shape = tuple[int, int, int]
Write = Callable[[GraphBuilder, int], int]
"""Writes some layers on a value; returns the value that they make."""

BLOCKED, PLAIN = 0, 1
"""Layouts between layers."""


@dataclass(frozen=True)
class Part:
    """What a part adds to the totals.

    Attributes:
        knobs: decisions that it depends on.
        totals: per layout before it, per combination of these in the order of `itertools.product`: (k,).
        after: per layout before it, per combination: the layout after it.
    """

    knobs: tuple[str, ...]
    totals: list[list[Array]]
    after: list[list[int]]


@dataclass(frozen=True)
class Written:
    """How a runtime executes what is written."""

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, runtime: str, precision: str, block: int | None) -> Written | None:
        """None where there are no rules."""
        rules = rules_of(runtime, precision, block)
        return None if rules is None else cls(rules)

    def graph(self, shape: Shape, write: Write) -> Graph:
        """Returns the graph of what is written on an input."""
        builder = GraphBuilder(shape, converted=False)
        return applied(builder.network(write(builder, -1)), self.rules).graph("")


class Measure:
    """Totals of parts, worked out once for each.

    Args:
        written: how a runtime executes them.
        totals_of: totals of a graph, (k,).
    """

    def __init__(self, written: Written, totals_of: Callable[[Graph], Array]) -> None:
        self._written, self._totals_of = written, totals_of
        self._heads: dict[tuple[Any, ...], Array] = {}

    def whole(self, shape: Shape, write: Write) -> Array:
        """Totals of a network."""
        return self._totals_of(self._written.graph(shape, write))

    def added(self, shape: Shape, layer: Write, head: Write, key: Any, layout: int = BLOCKED) -> Array:
        """Totals that a layer adds before a head.

        Args:
            shape: of the layer's input.
            layer: writes it.
            head: writes the head.
            key: tells heads apart.
            layout: of the layer's input.
        """
        without = self._heads.get((shape, key, layout))
        if without is None:
            without = self.whole(shape, lambda builder, x: head(builder, _begun(builder, x, layout)))
            self._heads[shape, key, layout] = without
        return self.whole(shape, lambda b, x: head(b, layer(b, _begun(b, x, layout)))) - without

    def layout(self, shape: Shape, layer: Write, before: int) -> int:
        """The layout that a layer leaves its output in."""
        graph = self._written.graph(shape, lambda builder, x: layer(builder, _begun(builder, x, before)))
        return BLOCKED if graph.nodes[-1].op == "ReorderOutput" else PLAIN


def _begun(builder: GraphBuilder, x: int, layout: int) -> int:
    """A value of the input's shape, in a layout."""
    channels = builder.shape(x)[1]
    y = builder.convolution(x, channels, 1)
    return y if layout == BLOCKED else builder.shuffle(y, 1)


def mobile_parts(space: Space, options: Options, measure: Measure) -> Iterator[Part]:
    """Stem with head, then each stage: its first block, and as many others as its depth says."""
    assert isinstance(space, Mobile)
    top = ("resolution", "width", "activation")
    settings = list(product(*(options[name] for name in top)))
    wholes, plans = [], []
    for setting in settings:
        made = dict(zip(top, setting, strict=True)) | {
            name: all_[-1] for name, all_ in options.items() if name not in top
        }
        architecture = Architecture(space.name, tuple(made.items()))
        plan = space.plan(architecture)
        wholes.append(measure.whole(space.input_of(architecture), _bare(plan)))
        plans.append((plan, space.input_of(architecture)))
    yield Part(top, [wholes], [[BLOCKED] * len(wholes)])
    numbers = [int(name.removeprefix("stage").removesuffix(".depth")) for name in options if name.endswith(".depth")]
    for place, number in enumerate(number for number in numbers if options[f"stage{number}.depth"] != (0,)):
        names = tuple(f"stage{number}.{knob}" for knob in ("depth", "kernel", "expand", "se"))
        sums = [total for plan, shape in plans for total in _stage(measure, plan, shape, place, names, options)]
        yield Part((*top, *names), [sums], [[BLOCKED] * len(sums)])


def _bare(plan: Plan) -> Write:
    """A network without stages."""
    return lambda builder, x: mobile_network(builder, replace(plan, stages=()))


def _stage(
    measure: Measure, plan: Plan, shape: Shape, place: int, names: tuple[str, ...], options: Options
) -> Iterator[Array]:
    """Totals of a stage for all its choices, in the order of `itertools.product`."""
    inputs = plan.stages[place - 1].channels if place else plan.stem
    strides = [plan.stem_stride, *(stage.stride for stage in plan.stages[:place])]
    before = (inputs, *_sides(shape, strides))
    after = (plan.stages[place].channels, *_sides(shape, [*strides, plan.stages[place].stride]))
    depths, *blocks = (options[name] for name in names)
    pairs = []
    for kernel, expand, se in product(*blocks):
        stage = replace(plan.stages[place], kernel=int(kernel), expand=int(expand), se=bool(se))
        pairs.append(
            tuple(_block(measure, plan, at, stage, stride) for at, stride in ((before, stage.stride), (after, 1)))
        )
    for depth in depths:
        for first, other in pairs:
            yield (first + (int(depth) - 1) * other) if depth else 0 * first


def _block(measure: Measure, plan: Plan, shape: Shape, stage: Stage, stride: int) -> Array:
    return measure.added(
        shape,
        lambda builder, x: bottleneck(builder, x, stage, stride, plan.activation),
        lambda builder, x: mobile_head(builder, x, plan),
        (plan.head, plan.activation),
    )


def _sides(shape: Shape, strides: list[int]) -> tuple[int, int]:
    height, width = shape[1:]
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
    return height, width


def fbnet_parts(space: Space, options: Options, measure: Measure) -> Iterator[Part]:
    """Stem with head, then each layer, on an input in blocks and on one that is not."""
    assert isinstance(space, FBNet)
    plan = space.plan(space.corners()[0])

    def head(builder: GraphBuilder, x: int) -> int:
        return fbnet_head(builder, x, plan)

    def bare(builder: GraphBuilder, x: int) -> int:
        return head(builder, builder.relu(builder.convolution(x, STEM, 3, plan.stem_stride)))

    yield Part((), [[measure.whole(space.input_shape, bare)]], [[BLOCKED]])
    inputs, strides = STEM, [plan.stem_stride]
    for (_, channels, stride), (name, names) in zip(plan.layers, options.items(), strict=True):
        shape = (inputs, *_sides(space.input_shape, strides))
        writers = [_layer(str(block), channels, stride) for block in names]
        yield Part(
            (name,),
            [[measure.added(shape, write, head, "", before) for write in writers] for before in (BLOCKED, PLAIN)],
            [[measure.layout(shape, write, before) for write in writers] for before in (BLOCKED, PLAIN)],
        )
        inputs = channels
        strides.append(stride)


def _layer(name: str, channels: int, stride: int) -> Write:
    return lambda builder, x: fbnet_layer(builder, x, BLOCKS.get(name), channels, stride)


def nasbench201_parts(space: Space, options: Options, measure: Measure) -> Iterator[Part]:
    """Networks as wholes, worked out once where live edges are the same; a cell more adds as much as the cell before.

    Cells that are equal but for the names of their parts (`Cell.key`) are not taken for one: the order of a sum decides
    which convolution adds. Of a cell without a live edge nothing is executed.
    """
    assert isinstance(space, NasBench201)
    known: dict[str, Array] = {}
    sums = []
    for operations in product(*options.values()):
        cell = Cell(tuple(str(operation) for operation in operations)).simplified()
        key = str(cell)
        if key not in known:
            one, two = (measure.whole(space.input_shape, _cells(cell, count, space.num_classes)) for count in (1, 2))
            known[key] = one + (CELLS_PER_STAGE - 1) * (two - one)
        sums.append(known[key])
    yield Part(tuple(options), [sums], [[BLOCKED] * len(sums)])


def _cells(cell: Cell, count: int, classes: int) -> Write:
    """Cells in each stage, or nothing where no edge is live."""
    return lambda builder, x: nasbench201_network(builder, cell, cell.live, classes, count) if cell.live else x


PARTS: dict[type[Space], Callable[[Space, Options, Measure], Iterator[Part]]] = {
    FBNet: fbnet_parts,
    Mobile: mobile_parts,
    NasBench201: nasbench201_parts,
}
"""Space → its parts."""
