"""The executed graph of a cell of NAS-Bench-201 in its skeleton, without building a module."""

from __future__ import annotations

from typing import Literal

from ..profilers.graph import Graph
from ..spaces.nasbench201 import EDGES, OUTPUT, Cell
from .graph_builder import GraphBuilder

__all__ = ["HOW", "How", "executed", "nasbench201_graph", "nasbench201_network"]

How = Literal["eager", "converted", "multiplied"]
HOW: tuple[How, ...] = ("eager", "converted", "multiplied")
"""Ways to execute a cell."""

CHANNELS = (16, 32, 64)
CELLS_PER_STAGE = 5

Edge = tuple[int, int]


def nasbench201_graph(
    cell: Cell, how: How = "converted", input_shape: tuple[int, int, int] = (3, 32, 32), num_classes: int = 10
) -> Graph:
    """Returns the graph of a network of the space `nasbench201`.

    Args:
        cell: the cell, repeated.
        how: `eager`, as torch runs the benchmark's code: all edges, `none` as a multiplication, all of them summed.
            `converted`, as a runtime executes a file of this space: live edges, folded and fused. `multiplied`, as
            `executed` says.
        input_shape: channels, height, width; the sides are multiples of 4.
        num_classes: number of classes.
    """
    builder = GraphBuilder(input_shape, converted=how != "eager")
    edges = executed(cell, how)
    if how != "eager" and not cell.live:
        return builder.graph(-1)  # zeros whatever comes in: nothing is left to execute
    return builder.graph(nasbench201_network(builder, cell, edges, num_classes))


def nasbench201_network(
    builder: GraphBuilder, cell: Cell, edges: frozenset[Edge], num_classes: int, cells: int = CELLS_PER_STAGE
) -> int:
    """Writes down the network in which some edges of a cell are executed; returns its output.

    Args:
        builder: of the space's input.
        cell: the cell, repeated.
        edges: those of which something is executed.
        num_classes: number of classes.
        cells: of each stage.
    """
    x = builder.convolution(-1, CHANNELS[0], 3)
    for stage, channels in enumerate(CHANNELS):
        if stage:
            x = _reduction(builder, x, channels)
        for _ in range(cells):
            x = _cell(builder, x, cell, edges)
    x = builder.relu(builder.normalisation(x))
    return builder.classifier(x, num_classes)


def executed(cell: Cell, how: How) -> frozenset[Edge]:
    """Returns the edges of which something is executed.

    `multiplied` is a converter that knows `none` as a multiplication by zero, and not that what a convolution makes of
    zeros, its bias, is the same everywhere. It drops what does not reach the output, keeps an operation on zeros, and
    takes a multiplication of a convolution's output into the weights: a convolution that ends in `none` stays, anything
    else that ends there is a constant zero. So HW-NAS-Bench's phones and boards behave; the rule was read off one of
    them (pixel3: what the cells with `none` cost), and holds on the other (docs/cost_models.md).
    """
    operations = dict(zip(EDGES, cell.operations, strict=True))
    if how == "eager":
        return frozenset(EDGES)
    if how == "converted":
        return cell.live
    present = [edge for edge in EDGES if operations[edge] != "none"]
    used = {OUTPUT}
    for source, target in reversed(present):
        if target in used:
            used.add(source)
    kept = {edge for edge in present if edge[1] in used}
    return frozenset(kept | _kept_convolutions(operations, used))


def _kept_convolutions(operations: dict[Edge, str], used: set[int]) -> set[Edge]:
    """The edges before a `none` that stay, as their last operation is a convolution."""

    def is_there(edge: Edge) -> bool:
        return operations[edge] != "none"

    def convolves(edge: Edge) -> bool:
        return operations[edge].startswith("nor_conv")

    first, second = 1 not in used, 2 not in used
    kept: set[Edge] = set()
    alone = first and not is_there((1, 2))  # node 1 is read by `none` alone
    if alone and convolves((0, 1)) and not (second and is_there((0, 2))):
        kept.add((0, 1))
    if second:
        through = is_there((1, 2)) and (is_there((0, 1)) or operations[1, 2] != "skip_connect")
        if is_there((0, 2)) and not through:
            if convolves((0, 2)) and not (alone and convolves((0, 1))):
                kept.add((0, 2))
        elif through and not is_there((0, 2)):
            last = (0, 1) if operations[1, 2] == "skip_connect" else (1, 2)
            if convolves(last):
                kept |= {(1, 2)} | ({(0, 1)} if is_there((0, 1)) else set())
    return kept


def _cell(builder: GraphBuilder, x: int, cell: Cell, edges: frozenset[Edge]) -> int:
    """One cell on a value; `x` stands in for the zeros that a kept operation is applied to."""
    terms: dict[int, list[int]] = {node: [] for node in range(OUTPUT + 1)}
    values = {0: x}
    for target in range(1, OUTPUT + 1):
        for (source, to), operation in zip(EDGES, cell.operations, strict=True):
            if to == target and (source, to) in edges and (source in values or operation != "skip_connect"):
                term = _operation(builder, values.get(source, x), operation)
                terms[target] = [builder.total([*terms[target], term])]  # added as soon as it is there
        if target < OUTPUT and terms[target]:
            values[target] = builder.total(terms[target])
            if not any((target, later) in edges for later in range(target + 1, OUTPUT + 1)):
                terms[OUTPUT].append(values[target])  # a convolution with weights of zero: it is added all the same
    return builder.total(terms[OUTPUT])


def _operation(builder: GraphBuilder, x: int, operation: str) -> int:
    channels = builder.shape(x)[1]
    if operation == "none":
        return builder.zero(x)
    if operation == "skip_connect":
        return x
    if operation == "avg_pool_3x3":
        return builder.average_pool(x, 3)
    return builder.convolution(builder.relu(x), channels, {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[operation])


def _reduction(builder: GraphBuilder, x: int, channels: int) -> int:
    """The residual block of stride 2 between stages."""
    shortcut = builder.convolution(builder.average_pool(x, 2, 2), channels, 1, normalised=False)
    y = builder.convolution(builder.relu(x), channels, 3, 2)
    y = builder.convolution(builder.relu(y), channels, 3)
    return builder.total([shortcut, y])
