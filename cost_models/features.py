"""Totals over the executed graph: what the time of a network is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..profilers.graph import Graph, Node
from .kernel_work import BLOCKED, depthwise_steps, padded_macs, vector_steps

if TYPE_CHECKING:
    import numpy as np

__all__ = ["DESIGNED_ON", "FEATURES", "FEATURE_SETS", "FeatureSet", "totals"]

_LIGHT = frozenset(
    [
        "Cast",
        "Concat",
        "DequantizeLinear",
        "Dropout",
        "Flatten",
        "Gather",
        "GlobalAveragePool",
        "HardSigmoid",
        "Identity",
        "QLinearConcat",
        "QuantizeLinear",
        "ReorderInput",
        "ReorderOutput",
        "Reshape",
        "Shape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)
"""Operators that do little before they begin: they move, copy, convert or sum up."""

_CHEAP_ACTIVATIONS = frozenset({"", "Clip", "Relu"})
"""Fused activations that cost one instruction per value."""

_POOLS = frozenset({"AveragePool", "MaxPool"})


def _costly_activation(node: Node) -> float:
    """Values that go through a fused activation such as hard-swish."""
    fused = node.attributes.get("activation", "")
    return node.bytes_out / 4 if fused not in _CHEAP_ACTIVATIONS else 0.0


def _window_values(node: Node) -> float:
    """Values that the windows of a pooling operator read, each as often as it is read."""
    kernel = node.attributes.get("kernel")
    if node.op not in _POOLS or not kernel:
        return 0.0
    return float(math.prod(node.outputs[0]) * math.prod(kernel))


_OF_NODE: dict[str, Callable[[Node], float]] = {
    "kernels": lambda node: node.op not in _LIGHT,
    "light_kernels": lambda node: node.op in _LIGHT,
    "weight_bytes": lambda node: node.weight_bytes,
    "unblocked_convolutions": lambda node: "Conv" in node.op and node.domain != BLOCKED,
    "macs": lambda node: 0 if node.depthwise else node.macs,
    "depthwise_macs": lambda node: node.macs if node.depthwise else 0,
    "bytes_moved": lambda node: node.bytes_in + node.bytes_out,
    "costly_activations": _costly_activation,
    "window_values": _window_values,
    "padded_macs": padded_macs,
    "depthwise_steps": depthwise_steps,
    "vector_steps": vector_steps,
}
"""Feature → its value for one kernel; totals are sums."""

_OF_GRAPH: dict[str, Callable[[Graph], float]] = {"calls": lambda graph: 1.0, "depth": lambda graph: graph.depth}
"""Feature → its value for a graph as a whole."""

FEATURES: tuple[str, ...] = (*_OF_GRAPH, *_OF_NODE)
"""Names of the totals, in the order of `totals`."""


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Features that together explain a cost.

    Attributes:
        features: their names.
        usual: cost per unit of each where nothing is known, up to a common factor; empty when none can be stated, and
            each feature is then expected to have the same share of the cost.
    """

    features: tuple[str, ...]
    usual: Mapping[str, float]

    @property
    def columns(self) -> list[int]:
        """Places in `FEATURES`."""
        return [FEATURES.index(name) for name in self.features]


_USUAL_NS = {
    "calls": 10_000.0,
    "depth": 300.0,
    "kernels": 1_000.0,
    "light_kernels": 500.0,
    "weight_bytes": 0.05,
    "padded_macs": 0.02,
    "depthwise_steps": 0.67,
    "vector_steps": 0.33,
}
"""A plain core of 3 GHz: 16 multiply-adds or one vector instruction a cycle, two cycles for a depthwise step, 20 GB/s
of weights, and a microsecond to begin a kernel. Only the ratios matter, and only where the samples say nothing."""

FEATURE_SETS: Mapping[str, FeatureSet] = MappingProxyType(
    {
        "executed": FeatureSet(tuple(_USUAL_NS), MappingProxyType(_USUAL_NS)),
        "counted": FeatureSet(
            tuple(name for name in FEATURES if name not in ("padded_macs", "depthwise_steps", "vector_steps")),
            MappingProxyType({}),
        ),
    }
)
"""Work as a vector unit executes it, for processors; work as the formulas count it, for whatever else. A model takes
the set that predicts left-out samples better."""

DESIGNED_ON = FEATURE_SETS["counted"].columns
"""Places of the features that a design of samples is spread over: few samples cannot tell all of them apart."""


def totals(graph: Graph) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The features of a graph.

    Returns:
        (k,) float64, none negative, in the order of `FEATURES`.
    """
    import numpy as np

    whole = [float(of(graph)) for of in _OF_GRAPH.values()]
    sums = [float(sum(of(node) for node in graph.nodes)) for of in _OF_NODE.values()]
    return np.array(whole + sums)
