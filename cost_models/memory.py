"""Peak memory: what a device needs at its fullest moment, which is no sum over kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..profilers.graph import Graph
from .additive import AdditiveModel

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["MemoryModel"]


SHRINKAGE = 2e-5
"""Weight of the penalty towards equal shares: memory hardly varies between runs, and its shares are far from equal."""


class MemoryModel(AdditiveModel):
    """A constant, the weights and the peak of live activations, each with a non-negative factor.

    The constant is the runtime's own. The factors say how often the device holds the weights (a packed copy beside the
    file's) and how much of the computed peak its allocator really takes.
    """

    name: ClassVar[str] = "memory"
    features: ClassVar[tuple[str, ...]] = ("calls", "weight_bytes", "peak_activation_bytes")

    def __init__(self, shrinkage: float = SHRINKAGE) -> None:
        super().__init__(shrinkage)

    @staticmethod
    def totals_of(graph: Graph) -> Array:
        import numpy as np

        weights = sum(node.weight_bytes for node in graph.nodes)
        return np.array([1.0, float(weights), float(graph.peak_activation_bytes)])
