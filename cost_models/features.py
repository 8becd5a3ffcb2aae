"""Totals over the executed graph: what the time of a network is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..profilers.graph import Graph, Node
from .kernel_work import depthwise_steps, padded_macs, vector_steps

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FEATURES", "totals"]

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

_OF_NODE: dict[str, Callable[[Node], float]] = {
    "kernels": lambda node: node.op not in _LIGHT,
    "light_kernels": lambda node: node.op in _LIGHT,
    "padded_macs": padded_macs,
    "depthwise_steps": depthwise_steps,
    "vector_steps": vector_steps,
    "weight_bytes": lambda node: node.weight_bytes,
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
