"""Totals over the executed graph: what the time of a network is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..profilers.graph import Graph, Node

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FEATURES", "totals"]

_LIGHT = frozenset(
    [
        "Cast",
        "Dropout",
        "Flatten",
        "GlobalAveragePool",
        "Identity",
        "ReorderInput",
        "ReorderOutput",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
    ]
)
"""Operators that do little but move, copy or sum up."""

_CHEAP_ACTIVATIONS = frozenset({"", "Clip", "Relu"})
"""Fused activations that cost one instruction per value."""

_POOLS = frozenset({"AveragePool", "MaxPool"})

_BLOCKED = "com.microsoft.nchwc"
"""Domain of onnxruntime's convolutions on channels in blocks; others are unrolled into a matrix product first."""


def _convolves(node: Node) -> bool:
    return "Conv" in node.op


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
    "unblocked_convolutions": lambda node: _convolves(node) and node.domain != _BLOCKED,
    "macs": lambda node: 0 if node.depthwise else node.macs,
    "depthwise_macs": lambda node: node.macs if node.depthwise else 0,
    "bytes_moved": lambda node: node.bytes_in + node.bytes_out,
    "weight_bytes": lambda node: node.weight_bytes,
    "costly_activations": _costly_activation,
    "window_values": _window_values,
}
"""Feature → its value for one kernel; totals are sums."""

_OF_GRAPH: dict[str, Callable[[Graph], float]] = {"calls": lambda graph: 1.0, "depth": lambda graph: graph.depth}
"""Feature → its value for a graph as a whole."""

FEATURES: tuple[str, ...] = (*_OF_GRAPH, *_OF_NODE)
"""Names of the totals, in the order of `totals`."""


def totals(graph: Graph) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The features of a graph.

    Returns:
        (k,) float64, none negative, in the order of `FEATURES`.
    """
    import numpy as np

    whole = [float(of(graph)) for of in _OF_GRAPH.values()]
    sums = [float(sum(of(node) for node in graph.nodes)) for of in _OF_NODE.values()]
    return np.array(whole + sums)
