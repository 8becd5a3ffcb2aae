"""Peak memory: what a device needs at its fullest moment, which is no sum over kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..profilers.graph import Graph
from .intervals import half_width, ordinary
from .least_squares import nonnegative
from .left_out import around, folds, log_cost
from .model import Range, TotalsModel, aligned, check_samples, finite

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["MemoryModel"]

SHRINKAGE = 2e-5
"""Weight of the penalty towards equal shares: memory hardly varies between runs, and its shares are far from equal."""


class MemoryModel(TotalsModel):
    """A constant, the weights and the peak of live activations, each with a non-negative factor.

    The constant is the runtime's own. The factors say how often the device holds the weights (a packed copy beside the
    file's) and how much of the computed peak its allocator really takes.
    """

    name: ClassVar[str] = "memory"
    min_samples: ClassVar[int] = 4
    features: ClassVar[tuple[str, ...]] = ("calls", "weight_bytes", "peak_activation_bytes")

    def __init__(self) -> None:
        super().__init__()
        self.costs: list[float] = []
        self._errors: list[float] = []
        self._wide = 0.0

    @staticmethod
    def totals_of(graph: Graph) -> Array:
        import numpy as np

        weights = sum(node.weight_bytes for node in graph.nodes)
        return np.array([1.0, float(weights), float(graph.peak_activation_bytes)])

    def fit_totals(
        self, x: Array, values: Sequence[float] | Array, noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        import numpy as np

        y = np.array(values, dtype=float)
        check_samples(len(x), y.tolist(), self.min_samples, noise)
        errors = np.zeros(len(y))
        for out in folds(len(y), 40):
            errors[out] = np.log(y[out]) - log_cost(x[out], nonnegative(x[~out], y[~out], SHRINKAGE))
        self.range, self.costs = Range.of(x), nonnegative(x, y, SHRINKAGE).tolist()
        self._errors, self._wide = errors.tolist(), half_width(ordinary(errors, at_random), noise)
        return self

    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        import numpy as np

        if not self.costs:
            raise ValueError("the cost model is not fitted")
        value = np.exp(log_cost(x, np.array(self.costs)))
        return value, *around(value, self._wide)

    @property
    def left_out_errors(self) -> list[float]:
        if not self.costs:
            raise ValueError("the cost model is not fitted")
        return list(self._errors)

    def to_json(self) -> dict[str, Any]:
        if not self.costs:
            raise ValueError("the cost model is not fitted")
        fitted = {"costs": self.costs, "errors": self._errors, "wide": self._wide}
        return {"features": list(self.features), **fitted, "range": self.range.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        model, names = cls(), data["features"]
        model.costs = aligned([finite(item) for item in data["costs"]], names, cls.features)
        model._errors, model._wide = [finite(item) for item in data["errors"]], finite(data["wide"])
        model.range = Range.from_json(data["range"], names, cls.features)
        if min(model.costs) < 0 or model._wide < 0 or len(model._errors) < cls.min_samples:
            raise ValueError("too few samples, or a cost below 0")
        return model
