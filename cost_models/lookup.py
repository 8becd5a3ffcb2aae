"""A table of the times of kernels, added up: the way of once-for-all and FBNet."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..profilers.graph import Graph, Node
from ..spaces.errors import DataError
from .intervals import NORMAL_QUANTILE, half_width, ordinary
from .least_squares import nonnegative
from .left_out import LEAST, folds
from .model import CostModel, Prediction, Range, check_samples, check_spread, finite, stretched

if TYPE_CHECKING:
    import numpy as np

    from ..profilers.runtimes.runtime import Kernel

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["LookupModel", "TableRow", "kernel_times", "signature", "table_of"]

FEATURES = ("calls", "kernels_ms")

MOSTLY = 0.5
"""From this share of the time on that comes from kernels which are not in the table, a prediction says so."""

WORST_GUESS = 2.0
"""Largest error of an interpolated kernel that is believed, as a logarithm."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A kernel that was timed.

    Attributes:
        ms: its time, above 0.
        kind: operator and whether it is depthwise; only these are interpolated from one another.
        macs, bytes: its multiply-adds; what it reads and writes, weights included.
    """

    ms: float
    kind: str
    macs: int
    bytes: int


def signature(node: Node) -> str:
    """What decides the time of a kernel: operator, shapes, type, groups, attributes (kernel, strides, activation)."""
    attributes = sorted((str(key), value) for key, value in node.attributes.items())
    parts = [node.domain, node.op, node.inputs, node.outputs, node.weights, node.dtype, node.group, attributes]
    return json.dumps(parts, separators=(",", ":"), default=str)


def kernel_times(graph: Graph, kernels: Sequence[Kernel]) -> tuple[float, ...]:
    """Times of a runtime's profiler in the order of the graph's nodes, in ms; 0 for a node that it does not tell.

    Args:
        graph: executed graph of the same file.
        kernels: of `Runtime.kernels`.

    Raises:
        DataError: none of the kernels is in the graph.
    """
    told = {kernel.name: kernel.ms for kernel in kernels}
    found = tuple(float(told.get(node.name, 0.0)) for node in graph.nodes)
    if not any(found):
        raise DataError(f"none of {len(kernels)} timed kernels has the name of one of {len(graph.nodes)} in the graph")
    return found


def table_of(timed: Iterable[tuple[Graph, Sequence[float]]]) -> dict[str, TableRow]:
    """A table from the times of kernels: the median of all that have the same signature.

    Args:
        timed: graphs and the times of their nodes in ms, 0 where none was taken. A block or a kernel that was measured
            by itself is a graph of one node.

    Raises:
        ValueError: a graph has another number of times, or one is negative or not finite.
    """
    times: dict[str, list[float]] = {}
    nodes: dict[str, Node] = {}
    for graph, values in timed:
        if len(values) != len(graph.nodes):
            raise ValueError(f"{len(values)} times for {len(graph.nodes)} kernels")
        for node, ms in zip(graph.nodes, values, strict=True):
            if not math.isfinite(ms) or ms < 0:
                raise ValueError(f"a kernel's time must be finite and at least 0, not {ms!r}")
            if ms > 0:
                key = signature(node)
                nodes[key] = node
                times.setdefault(key, []).append(float(ms))
    return {key: TableRow(statistics.median(ms), *_work(nodes[key])) for key, ms in times.items()}


class LookupModel(CostModel):
    """Times of single kernels from a table, added up: scale * sum + constant, both fitted on whole networks.

    Profilers of kernels have a clock of their own, and small kernels overlap or wait: so the sum is not the whole, and
    measured networks decide scale and constant (both non-negative, relative errors). A kernel that is not in the table
    is interpolated from the nearest of its kind, by work; its error, learned by leaving rows out, widens the interval.

    Args:
        table: signature → row, see `table_of`. Without one there is nothing to add up, and `fit` says so.
    """

    name: ClassVar[str] = "lookup"
    min_samples: ClassVar[int] = 3

    def __init__(self, table: Mapping[str, TableRow] | None = None) -> None:
        self.table = dict(table or {})
        self.constant, self.scale = 0.0, 0.0
        self.guess_error = 0.0
        """Root mean square error of an interpolated kernel, as a logarithm."""
        self.range = Range()
        self._wide = 0.0
        """Half-width of the intervals, as a logarithm; 0 before the first fit."""

    def fit(
        self, graphs: Sequence[Graph], values: Sequence[float], noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        import numpy as np

        check_samples(len(graphs), values, self.min_samples, noise)
        if not self.table:
            raise ValueError("a lookup model needs the times of kernels, and none was given")
        x = np.array([[1.0, self._sum(graph)[0]] for graph in graphs])
        check_spread(x, values)
        y = np.array(values, dtype=float)
        self.constant, self.scale = nonnegative(x, y).tolist()
        errors = np.zeros(len(y))
        for out in folds(len(y), len(y)):
            said = np.maximum(x[out] @ nonnegative(x[~out], y[~out]), 1e-9 * y[out])
            errors[out] = np.log(y[out] / said)
        self._wide = max(half_width(ordinary(errors, at_random), noise), LEAST)
        self.range = Range.of(x, [op for graph in graphs for op in graph.uncounted])
        self.guess_error = self._guess_error()
        return self

    def predict(self, graph: Graph) -> Prediction:
        import numpy as np

        if not self._wide:
            raise ValueError("the cost model is not fitted")
        total, guessed, strange = self._sum(graph)
        x = np.array([[1.0, total]])
        value = max(self.constant + self.scale * total, 1e-12)
        share = guessed / total if total > 0 else 0.0
        beyond = self.range.distances(x)[0]
        far = [name for name, distance in zip(FEATURES, beyond, strict=True) if distance > MOSTLY]
        outside = (*far, *(["kernels not in the table"] if share > MOSTLY else []), *strange)
        wide = min(math.hypot(self._wide, NORMAL_QUANTILE * share * self.guess_error), 20.0)
        ends = value, value * math.exp(-wide), value * math.exp(wide)
        return Prediction(*(stretched(*ends, 1 + max(float(beyond.max()), 1.0)) if far or strange else ends), outside)

    def to_json(self) -> dict[str, Any]:
        if not self._wide:
            raise ValueError("the cost model is not fitted")
        rows = [[key, row.ms, row.kind, row.macs, row.bytes] for key, row in self.table.items()]
        fitted = {"constant": self.constant, "scale": self.scale, "guess_error": self.guess_error}
        return {"table": rows, **fitted, "wide": self._wide, "range": self.range.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        table = {}
        for key, ms, kind, macs, size in data["table"]:
            table[str(key)] = TableRow(finite(ms), str(kind), int(macs), int(size))
        model = cls(table)
        model.constant, model.scale, model.guess_error = (finite(data[k]) for k in ("constant", "scale", "guess_error"))
        model._wide = finite(data["wide"])
        model.range = Range.from_json(data["range"], FEATURES, FEATURES)
        if model._wide <= 0 or not table:
            raise ValueError("not fitted, or an empty table")
        if min(row.ms for row in table.values()) <= 0 or min(model.constant, model.scale) < 0:
            raise ValueError("times must be above 0, scale and constant at least 0")
        return model

    def _sum(self, graph: Graph) -> tuple[float, float, tuple[str, ...]]:
        """Sum of the times, the part of it that is interpolated, and operators of which the table has none."""
        total = guessed = 0.0
        strange = set()
        for node in graph.nodes:
            row = self.table.get(signature(node))
            if row is not None:
                total += row.ms
                continue
            kind, macs, size = _work(node)
            alike = [row for row in self.table.values() if row.kind == kind]
            if not alike:
                strange.add(f"operator {node.op}")
            ms = _nearest(alike or list(self.table.values()), macs, size)
            total, guessed = total + ms, guessed + ms
        return total, guessed, tuple(sorted(strange))

    def _guess_error(self) -> float:
        """What interpolation would have said of the rows of the table, each left out in turn."""
        errors = []
        rows = list(self.table.values())
        for place, row in enumerate(rows):
            alike = [other for at, other in enumerate(rows) if at != place and other.kind == row.kind]
            if alike:
                errors.append(min(abs(math.log(row.ms / _nearest(alike, row.macs, row.bytes))), WORST_GUESS))
        return math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else WORST_GUESS


def _work(node: Node) -> tuple[str, int, int]:
    """Kind, multiply-adds, bytes."""
    kind = f"{node.domain}:{node.op}{' depthwise' if node.depthwise else ''}"
    return kind, node.macs, node.bytes_in + node.bytes_out + node.weight_bytes


def _nearest(rows: Sequence[TableRow], macs: int, size: int) -> float:
    """The time of the row with the most similar work, times the ratio of the work."""

    def distance(row: TableRow) -> float:
        return abs(math.log((1 + macs) / (1 + row.macs))) + abs(math.log((1 + size) / (1 + row.bytes)))

    row = min(rows, key=distance)
    ratio = macs / row.macs if macs and row.macs else (1 + size) / (1 + row.bytes)
    return row.ms * ratio
