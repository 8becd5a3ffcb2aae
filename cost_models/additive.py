"""A cost as a sum of non-negative costs per unit of work: the first model to try, good from about ten samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..profilers.graph import Graph
from .features import FEATURE_SETS, FEATURES, FeatureSet, totals
from .model import CostModel, Prediction, check_samples

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["AdditiveModel"]

LEVEL = 0.9
"""Of the intervals."""

SHRINKAGE = 2e-3
"""Weight of the penalty that keeps unidentified costs moderate. Chosen on 100 splits of measured networks of `mobile`
at 8 x 8 and 32 x 32; from 1e-3 to 3e-3 the share within 10 % changes by at most a point (docs/cost_models.md)."""

FOLDS = 40
"""From more samples than these on, several are left out together (CV+ of the same paper): 40 fits, not n."""

LEAST_HALF_WIDTH = 0.02
"""Smallest half-width of an interval, as a share: two measurements of one network differ by that much."""


class AdditiveModel(CostModel):
    """Non-negative least squares on the totals of the executed graph, weighted for relative errors.

    Minimises sum(((X c - y) / y)^2) + shrinkage * sum((c / p - 1)^2) over c >= 0, where p are the usual costs of the
    set of features, scaled to the samples, or give every feature the same share (root mean square over the samples) of
    the cost where none are stated. Of the sets that with the smallest error at left-out samples is taken; the features
    of the others cost nothing. Intervals are jackknife+ (Barber et al., Predictive inference with the jackknife+,
    Annals of Statistics 49, 2021) on the logarithm of the ratio, so that they are never negative.
    """

    name: ClassVar[str] = "additive"
    min_samples: ClassVar[int] = 4

    def __init__(self, shrinkage: float = SHRINKAGE) -> None:
        self.shrinkage = shrinkage
        self.costs: list[float] = []
        """Cost per unit of each feature, in the unit of the fitted values."""
        self.left_out: list[tuple[list[float], float]] = []
        """Per sample: costs fitted without it, and |log(measured / predicted by them)|."""

    def fit(self, graphs: Sequence[Graph], values: Sequence[float]) -> Self:
        import numpy as np

        check_samples(len(graphs), values, self.min_samples)
        return self.fit_totals(np.array([totals(graph) for graph in graphs]), values)

    def fit_totals(self, x: Array, values: Sequence[float] | Array) -> Self:
        """As `fit`, from the totals of the graphs, (n, k) in the order of `FEATURES`.

        Raises:
            ValueError: see `CostModel.fit`.
        """
        import numpy as np

        y = np.array(values, dtype=float)
        check_samples(len(x), y.tolist(), self.min_samples)
        fitted = [(_solve(x, y, self.shrinkage, one), self._leave_out(x, y, one)) for one in FEATURE_SETS.values()]
        self.costs, self.left_out = min(fitted, key=lambda one: _error(one[1]))
        return self

    def _leave_out(self, x: Array, y: Array, features: FeatureSet) -> list[tuple[list[float], float]]:
        """Per sample: costs fitted without it, and |log(measured / predicted by them)|."""
        import numpy as np

        residuals = np.zeros(len(y))
        fits: list[list[float]] = [[]] * len(y)
        folds = min(len(y), FOLDS)
        for fold in range(folds):
            out = np.arange(len(y)) % folds == fold
            costs = _solve(x[~out], y[~out], self.shrinkage, features)
            said = np.maximum(x[out] @ np.array(costs), 1e-9 * y[out])
            residuals[out] = np.abs(np.log(y[out] / said))
            for place in np.flatnonzero(out):
                fits[place] = costs
        return [(costs, float(residual)) for costs, residual in zip(fits, residuals, strict=True)]

    @property
    def left_out_error(self) -> float:
        """Root mean square of the errors at left-out samples, as |log ratio|, each counted as 1 at most.

        Raises:
            ValueError: the model is not fitted.
        """
        if not self.left_out:
            raise ValueError("the cost model is not fitted")
        return _error(self.left_out)

    def predict(self, graph: Graph) -> Prediction:
        value, low, high = (float(part[0]) for part in self.predict_totals(totals(graph)[None]))
        return Prediction(value, low, high)

    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        """As `predict`, for many at once.

        Args:
            x: totals of graphs, (m, k) in the order of `FEATURES`.

        Returns:
            Values, lower and upper ends of the 90 % intervals, each (m,).

        Raises:
            ValueError: the model is not fitted.
        """
        import numpy as np

        if not self.costs:
            raise ValueError("the cost model is not fitted")
        value = np.maximum(x @ np.array(self.costs), 1e-12)
        said = np.log(np.maximum(x @ np.array([costs for costs, _ in self.left_out]).T, 1e-12))
        residuals = np.array([residual for _, residual in self.left_out])
        low, high = _ends(np.sort(said - residuals, axis=1), np.sort(said + residuals, axis=1))
        return (
            value,
            np.minimum(np.exp(low), value * (1 - LEAST_HALF_WIDTH)),
            np.maximum(np.exp(high), value * (1 + LEAST_HALF_WIDTH)),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "features": list(FEATURES),
            "costs": self.costs,
            "left_out": [{"costs": costs, "residual": residual} for costs, residual in self.left_out],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        if tuple(data["features"]) != FEATURES:
            raise ValueError("fitted on other features")
        model = cls()
        model.costs = _costs(data["costs"])
        model.left_out = [(_costs(item["costs"]), _finite(item["residual"])) for item in data["left_out"]]
        if len(model.left_out) < cls.min_samples:
            raise ValueError("too few samples")
        return model


def _error(left_out: Sequence[tuple[list[float], float]]) -> float:
    """Root mean square of residuals, each counted as 1 at most."""
    return math.sqrt(sum(min(residual, 1.0) ** 2 for _, residual in left_out) / len(left_out))


def _solve(x: Array, y: Array, shrinkage: float, features: FeatureSet) -> list[float]:
    """Costs per unit of each feature, 0 outside the set; (n, k), (n,) → (k,)."""
    import numpy as np
    from scipy.optimize import nnls

    rows = x[:, features.columns] / y[:, None]
    if features.usual:
        unit = np.array([features.usual[name] for name in features.features])
        penalty = np.full(len(unit), math.sqrt(shrinkage))
    else:
        mean = np.sqrt((rows**2).mean(axis=0))
        unit = 1 / np.where(mean > 0, mean, 1.0)
        penalty = np.where(mean > 0, math.sqrt(shrinkage), 0.0)
    rows = rows * unit
    sums = rows.sum(axis=1)
    factor = sums.sum() / (sums @ sums)  # so that the units themselves, times this, fit the samples as well as they can
    wanted = np.concatenate([np.ones(len(y)), penalty])
    costs, _ = nnls(np.vstack([rows, np.diag(penalty / factor)]), wanted, maxiter=1000)
    found = np.zeros(x.shape[1])
    found[features.columns] = costs * unit
    return [float(cost) for cost in found]


def _ends(lows: Array, highs: Array) -> tuple[Array, Array]:
    """Ends of the jackknife+ intervals, (m,), from the ascending ends of n leave-one-out intervals, (m, n) each.

    With n < 9 the 90 % quantiles do not exist; the outermost ends are moved out by a quarter of their distance then.
    """
    count = lows.shape[1]
    below = math.floor((1 - LEVEL) * (count + 1) + 1e-9)
    above = math.ceil(LEVEL * (count + 1) - 1e-9)
    if below >= 1 and above <= count:
        return lows[:, below - 1], highs[:, above - 1]
    margin = 0.25 * (highs[:, -1] - lows[:, 0])
    return lows[:, 0] - margin, highs[:, -1] + margin


def _costs(items: Sequence[Any]) -> list[float]:
    if len(items) != len(FEATURES):
        raise ValueError(f"{len(items)} costs for {len(FEATURES)} features")
    return [_finite(item) for item in items]


def _finite(item: Any) -> float:
    if isinstance(item, bool) or not isinstance(item, int | float) or not math.isfinite(item) or item < 0:
        raise ValueError(f"a cost must be a finite number of at least 0, not {item!r}")
    return float(item)
