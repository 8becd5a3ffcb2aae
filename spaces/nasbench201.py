"""`nasbench201`: the 15,625 cells of NAS-Bench-201 in its macro skeleton.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020
(arXiv:2001.00326); its sizes and the form of its strings are those of its code (github.com/D-X-Y/AutoDL-Projects).
Deciding needs no torch; the layers are in `nasbench201_net.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING

from .architecture import Architecture, Value
from .chooser import Chooser
from .decision import OneOf
from .errors import SpaceError, did_you_mean, quoted
from .mobile import LARGEST_SIDE
from .narrowing import Params, narrowed
from .space import Shape, Space

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Cell", "NasBench201"]

OPERATIONS = ("skip_connect", "none", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
"""What an edge can be, from cheap to dear; a cell of `none` alone would not see its input, so it is not the first."""

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""From node and to node, in the order of the string; node 0 is the input, node 3 the output."""

OUTPUT = 3

_ALLOWED = OneOf(OPERATIONS)
_NAMES = tuple(f"edge{source}{target}" for source, target in EDGES)

Edge = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: each node is the sum of its edges, each edge an operation on an earlier node.

    An edge is *live* when it is on a path from input to output without `none`. The other edges are dead: eager torch
    executes them, a converted graph has no operator of theirs.

    Args:
        operations: of the edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3.

    >>> cell = Cell.parse("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|")
    >>> sorted(cell.live)
    [(0, 3)]
    >>> str(cell.simplified())
    '|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|'
    """

    operations: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Reads the benchmark's string, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`.

        Raises:
            SpaceError: it is no such string; the message says where.
        """
        nodes, operations = text.split("+"), []
        if len(nodes) != OUTPUT:
            raise SpaceError(f"a cell is {OUTPUT} nodes joined by '+', not {len(nodes)}")
        for target, node in enumerate(nodes, start=1):
            edges = node[1:-1].split("|")
            if len(node) < 2 or node[0] != "|" or node[-1] != "|" or len(edges) != target:
                form = "".join(f"|op~{source}" for source in range(target))
                raise SpaceError(f"node {target} is {quoted(node)}, expected {form}|")
            for source, edge in enumerate(edges):
                operation, _, number = edge.rpartition("~")
                if number != str(source):
                    raise SpaceError(f"node {target} has an edge {quoted(edge)}, expected op~{source}")
                if operation not in OPERATIONS:
                    near = did_you_mean(operation, OPERATIONS)
                    raise SpaceError(f"node {target} has the operation {quoted(operation)}{near}")
                operations.append(operation)
        return cls(tuple(operations))

    def __str__(self) -> str:
        texts: dict[int, str] = {}
        for (source, target), operation in zip(EDGES, self.operations, strict=True):
            texts[target] = texts.get(target, "|") + f"{operation}~{source}|"
        return "+".join(texts.values())

    @property
    def live(self) -> frozenset[Edge]:
        """The edges on a path from input to output without `none`; none at all when there is no such path."""
        present = [edge for edge, operation in zip(EDGES, self.operations, strict=True) if operation != "none"]
        fed, used = {0}, {OUTPUT}
        for source, target in present:  # in this order a node's edges in come before its edges out
            if source in fed:
                fed.add(target)
        for source, target in reversed(present):
            if target in used:
                used.add(source)
        return frozenset((source, target) for source, target in present if source in fed and target in used)

    def simplified(self) -> Cell:
        """Returns the cell as a converted graph has it: every dead edge is `none`."""
        live, edges = self.live, zip(EDGES, self.operations, strict=True)
        return Cell(tuple(operation if edge in live else "none" for edge, operation in edges))

    def key(self) -> str:
        """Returns a text that two cells share exactly when they are the same network but for the names of its parts.

        Dead edges are left out, `skip_connect` is followed to what it passes on, sums have no order, and two operations
        are one only when they are on one edge. 5,425 of the 15,625 cells differ so. (The paper's count of 6,466 is of
        strings that spell a node out wherever it is used and keep the zeros in a sum.)
        """
        applied, result = self._applied()
        spelled = {"x": "x"}
        for name, (operation, inputs) in applied.items():
            spelled[name] = f"{operation}({'+'.join(sorted(spelled[part] for part in inputs))})"
        alike = [[name for name in applied if spelled[name] == text] for text in sorted({*spelled.values()} - {"x"})]
        return min(
            _numbered(applied, result, [name for group in groups for name in group])
            for groups in product(*map(permutations, alike))
        )

    def _applied(self) -> tuple[dict[str, tuple[str, list[str]]], list[str]]:
        """Returns each live operation by its edge's name with the terms of the sum it is applied to, and the output's.

        A term is the name of an operation, or `x`, the input.
        """
        live, nodes = self.live, {0: ["x"]}
        applied: dict[str, tuple[str, list[str]]] = {}
        for name, (source, target), operation in zip(_NAMES, EDGES, self.operations, strict=True):
            terms = nodes.setdefault(target, [])
            if (source, target) not in live:
                continue
            if operation == "skip_connect":
                terms += nodes[source]
            else:
                applied[name] = (operation, nodes[source])
                terms.append(name)
        return applied, nodes[OUTPUT]


def _numbered(applied: dict[str, tuple[str, list[str]]], result: list[str], order: list[str]) -> str:
    """Writes operations in an order, with their places in it as names."""
    number = {"x": "x", **{name: str(place) for place, name in enumerate(order)}}

    def total(terms: list[str]) -> str:
        return "+".join(sorted(number[term] for term in terms))

    return ";".join([*(f"{applied[name][0]}({total(applied[name][1])})" for name in order), total(result)])


class NasBench201(Space):
    """Three stages of five equal cells, at 16, 32 and 64 channels, with a residual block of stride 2 between.

    Knobs: `edge01`, `edge02`, `edge12`, `edge03`, `edge13`, `edge23`, the operation from one node to another. The
    canonical string is the benchmark's. Every cell is an architecture of its own, as in the tables, though some are the
    same network (`Cell.key`).

    Args:
        input_shape: channels, height, width, the sides multiples of 4; 3 x 32 x 32 when left out.
        num_classes: number of classes; 10 when left out.
        params: narrows knobs.

    >>> space = NasBench201()
    >>> space.string_of(space.corners()[1])
    '|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|'
    """

    name = "nasbench201"
    input_shape = (3, 32, 32)
    num_classes = 10

    def __init__(
        self, input_shape: Shape | None = None, num_classes: int | None = None, params: Params | None = None
    ) -> None:
        super().__init__(input_shape, num_classes, params)
        if any(side % 4 or side > LARGEST_SIDE for side in self.input_shape[1:]):
            raise SpaceError(
                f"space 'nasbench201' takes inputs with sides that are multiples of 4, at most {LARGEST_SIDE}, "
                f"not {self.input_shape[1]}x{self.input_shape[2]}",
                key=("input",),
            )

    def _decide(self, choose: Chooser) -> None:
        for name in _NAMES:
            choose.ask(name, _ALLOWED)

    def build(self, architecture: Architecture) -> nn.Module:
        """Returns the network with fresh weights."""
        from .nasbench201_net import NasBench201Net

        return NasBench201Net(self.cell_of(architecture), self.input_shape[0], self.num_classes)

    def size(self, cap: int | None = None) -> int:
        """Returns the exact number of architectures."""
        return math.prod(narrowed(name, _ALLOWED, self.params).count or 1 for name in _NAMES)

    def cell_of(self, architecture: Architecture) -> Cell:
        """Returns the cell of an architecture.

        Raises:
            SpaceError: a decision is missing.
        """
        made = architecture.as_dict()
        try:
            return Cell(tuple(str(made[name]) for name in _NAMES))
        except KeyError as error:
            raise SpaceError(f"an architecture of space 'nasbench201' lacks the decision {error}") from error

    def _write(self, architecture: Architecture) -> str:
        return str(self.cell_of(architecture))

    def _read(self, text: str) -> Mapping[str, Value]:
        return dict(zip(_NAMES, Cell.parse(text).operations, strict=True))
