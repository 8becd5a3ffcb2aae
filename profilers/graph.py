"""The graph that a runtime really executes: one node per kernel launched, with shapes, work and traffic."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

from ..spaces.errors import DataError

__all__ = ["Graph", "Node"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One kernel launch.

    Attributes:
        name: unique in its graph.
        op: the runtime's operator name, e.g. `Conv`, `ReorderOutput`.
        domain: the operator's domain; empty for standard ONNX.
        inputs: shapes of the inputs that are activations, in order.
        outputs: shapes of the outputs, in order.
        dtype: of the first output, e.g. `float32`.
        group: groups of a convolution, 1 elsewhere.
        attributes: what else tells the kernel's cost, e.g. `{"kernel": [3, 3], "strides": [1, 1]}`.
        weight_bytes: bytes of constants that it reads.
        bytes_in: bytes of activations that it reads.
        bytes_out: bytes that it writes.
        macs: multiply-adds; 0 for an operator that none are counted for.
        weights: shapes of the constants that it reads, in order.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    dtype: str
    group: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weight_bytes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    macs: int = 0
    weights: tuple[Shape, ...] = ()

    @property
    def depthwise(self) -> bool:
        """True for a convolution in which every filter sees one input channel."""
        if self.op not in _CONVOLUTIONS or self.group == 1:
            return False
        weight = _filters(self.weights, self.outputs)
        if weight is None:  # computed, so not among the constants
            return bool(self.inputs) and self.group == self.inputs[0][1]
        return weight[1] == 1

    @property
    def counted(self) -> bool:
        """True when `macs` is known: counted, or none by definition (elementwise, pooling, layout)."""
        return self.macs > 0 if self.op in _COUNTERS else self.op in _WITHOUT_MACS


@dataclass(frozen=True, slots=True)
class Graph:
    """Kernels in the order executed, and which feeds which.

    Attributes:
        nodes: the kernels.
        edges: (from, to) as positions in `nodes`.
        runtime: name and version of the runtime that executes it.
        peak_activation_bytes: largest sum of live activations, graph inputs included.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    runtime: str = ""
    peak_activation_bytes: int = 0

    def __post_init__(self) -> None:
        count = len(self.nodes)
        if any(not 0 <= a < b < count for a, b in self.edges):
            raise DataError("a graph's edges go from an earlier to a later node")

    @property
    def depth(self) -> int:
        """Number of kernels on the longest chain.

        >>> node = Node("a", "Relu", "", ((1, 8),), ((1, 8),), "float32")
        >>> Graph((node, node, node), ((0, 1), (0, 2))).depth
        2
        """
        return max(self._levels(), default=0)

    @property
    def parallel_width(self) -> int:
        """Number of kernels on the fullest level, that could run at the same time: the level of a kernel is the number
        of kernels on the longest chain that ends in it.

        >>> node = Node("a", "Relu", "", ((1, 8),), ((1, 8),), "float32")
        >>> Graph((node, node, node), ((0, 1), (0, 2))).parallel_width
        2
        """
        return max(Counter(self._levels()).values(), default=0)

    def _levels(self) -> list[int]:
        """Number of kernels on the longest chain that ends in each."""
        levels = [1] * len(self.nodes)
        for start, end in sorted(self.edges):
            levels[end] = max(levels[end], levels[start] + 1)
        return levels

    @property
    def macs(self) -> int:
        """Multiply-adds of one inference."""
        return sum(node.macs for node in self.nodes)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Names of the operators whose multiply-adds are unknown (their traffic still counts), sorted."""
        return tuple(sorted({node.op for node in self.nodes if not node.counted}))

    def to_json(self) -> dict[str, Any]:
        """A JSON-plain dictionary; `from_json` reads it back."""
        return {**asdict(self), "nodes": [_plain(node) for node in self.nodes], "edges": [list(e) for e in self.edges]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Graph:
        """Reads what `to_json` wrote.

        Raises:
            DataError: it is not of that form.
        """
        try:
            return cls(
                nodes=tuple(_node(item) for item in data["nodes"]),
                edges=tuple((int(start), int(end)) for start, end in data["edges"]),
                runtime=str(data.get("runtime", "")),
                peak_activation_bytes=int(data.get("peak_activation_bytes", 0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"not an executed graph: {error}") from None


def _plain(node: Node) -> dict[str, Any]:
    return {
        **asdict(node),
        **{name: [list(shape) for shape in getattr(node, name)] for name in ("inputs", "outputs", "weights")},
        "attributes": dict(node.attributes),
    }


def _node(item: Mapping[str, Any]) -> Node:
    shapes = {name: _shapes(item.get(name, ())) for name in ("inputs", "outputs", "weights")}
    return Node(**{**item, **shapes, "attributes": dict(item.get("attributes", {}))})


def _shapes(lists: Sequence[Sequence[int]]) -> tuple[Shape, ...]:
    return tuple(tuple(int(side) for side in shape) for shape in lists)


def peak_bytes(spans: Sequence[tuple[int, int, int]], steps: int) -> int:
    """Largest sum of live tensors.

    Args:
        spans: first and last step in which a tensor lives, and its bytes.
        steps: number of kernels.

    >>> peak_bytes([(0, 1, 8), (1, 2, 4), (2, 2, 16)], 3)
    20
    """
    changes = [0] * (steps + 1)
    for first, last, size in spans:
        if first < steps and last >= first:
            changes[first] += size
            changes[min(last + 1, steps)] -= size
    return max(accumulate(changes[:steps]), default=0)


def peak_activations(nodes: Sequence[Node], edges: Collection[tuple[int, int]]) -> int:
    """Largest sum of live activations: an output lives from its kernel to the last that reads it.

    Args:
        nodes: in the order executed.
        edges: (from, to) as positions in `nodes`.
    """
    last: dict[int, int] = {}
    for start, end in edges:
        last[start] = max(end, last.get(start, end))
    spans = [(place, last.get(place, len(nodes)), node.bytes_out) for place, node in enumerate(nodes)]
    begun = [(0, 0, nodes[0].bytes_in)] if nodes else []
    return peak_bytes([*begun, *spans], len(nodes))


def count_macs(op: str, inputs: Sequence[Shape], weights: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Multiply-adds of an operator, 0 where none are counted (convention: one multiply-add is one; a bias is none).

    Args:
        op: operator name.
        inputs: shapes of the activations read.
        weights: shapes of the constants read.
        outputs: shapes written.
    """
    counter = _COUNTERS.get(op)
    if counter is None or not outputs:
        return 0
    return counter(inputs, weights, outputs)


_Counter = Callable[[Sequence[Shape], Sequence[Shape], Sequence[Shape]], int]


def _of_convolution(inputs: Sequence[Shape], weights: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Each output value takes one multiply-add per weight of its filter, wherever the channels stand."""
    weight = _filters(weights, outputs)
    return 0 if weight is None else math.prod(outputs[0]) * math.prod(weight[1:])


def _filters(weights: Sequence[Shape], outputs: Sequence[Shape]) -> Shape | None:
    """The filters of a convolution, (out, in / group, *kernel); quantised ones also read scales, with fewer axes."""
    return next((shape for shape in weights if outputs and len(shape) == len(outputs[0])), None)


def _of_transposed_convolution(inputs: Sequence[Shape], weights: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Each input value meets every weight of its channel: `weight` is (in, out / group, *kernel)."""
    if not weights or not inputs:
        return 0
    return inputs[0][0] * math.prod(weights[0]) * math.prod(inputs[0][2:])


def _of_product(inputs: Sequence[Shape], weights: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Each output value takes as many multiply-adds as the inner dimension has entries."""
    operands = [*inputs, *weights]
    inner = operands[0][-1] if operands and operands[0] else 0
    return math.prod(outputs[0]) * inner


_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "QLinearConv"})
_COUNTERS: dict[str, _Counter] = {
    **dict.fromkeys(_CONVOLUTIONS, _of_convolution),
    "ConvTranspose": _of_transposed_convolution,
    **dict.fromkeys(
        ("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "MatMulInteger", "QGemm", "QLinearMatMul"), _of_product
    ),
}
"""Operator → multiply-adds."""

_WITHOUT_MACS = frozenset(
    [
        "Abs",
        "Add",
        "AveragePool",
        "BatchNormalization",
        "BiasGelu",
        "Broadcast",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "Convert",
        "DequantizeLinear",
        "Div",
        "Dropout",
        "Elu",
        "Erf",
        "Exp",
        "Expand",
        "FakeQuantize",
        "FastGelu",
        "Flatten",
        "Gather",
        "Gelu",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "InstanceNormalization",
        "LayerNormalization",
        "LeakyRelu",
        "Log",
        "Math",
        "Max",
        "MaxPool",
        "Mean",
        "Min",
        "Mul",
        "Neg",
        "PRelu",
        "Pad",
        "Pow",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QuantizeLinear",
        "QuickGelu",
        "Reciprocal",
        "ReduceMax",
        "ReduceMean",
        "ReduceSum",
        "Relu",
        "ReorderInput",
        "ReorderOutput",
        "Reshape",
        "Resize",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Softplus",
        "Split",
        "StridedSlice",
        "Subgraph",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Sum",
        "Tanh",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Upsample",
        "Where",
    ]
)
"""Operators that count no multiply-adds by convention: elementwise, pooling, normalisation, layout."""
