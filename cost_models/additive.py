"""A cost as a sum of non-negative costs per unit of work: the first model to try, good from about ten samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .model import Range, TotalsModel, aligned, check_samples, finite

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["AdditiveModel"]

LEVEL = 0.9
"""Of the intervals."""

SHRINKAGE = 2e-3
"""Weight of the penalty that keeps unidentified costs moderate. Chosen on 100 splits of measured networks of `mobile`
at 8 x 8 and 32 x 32; from 1e-3 to 3e-3 the share within 10 % changes by at most a point (docs/cost_models.md)."""

NORMAL_QUANTILE = 1.645
"""Half-width of the 90 % interval of a normal distribution, in standard deviations."""

FOLDS = 40
"""From more samples than these on, several are left out together (CV+ of the same paper): 40 fits, not n."""

LEAST_HALF_WIDTH = 0.02
"""Smallest half-width of an interval, as a share: two measurements of one network differ by that much."""


class AdditiveModel(TotalsModel):
    """Non-negative least squares on the totals of the executed graph, weighted for relative errors.

    Minimises sum(((X c - y) / y)^2) + shrinkage * sum((c / p - 1)^2) over c >= 0, where p gives every feature the same
    share (root mean square over the samples) of the cost. Intervals are jackknife+ (Barber et al., Predictive inference
    with the jackknife+, Annals of Statistics 49, 2021) on the logarithm of the ratio, so that they are never negative.
    """

    name: ClassVar[str] = "additive"
    min_samples: ClassVar[int] = 4

    def __init__(self, shrinkage: float = SHRINKAGE) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.costs: list[float] = []
        """Cost per unit of each feature, in the unit of the fitted values."""
        self.left_out: list[tuple[list[float], float]] = []
        """Per sample: costs fitted without it, and log(measured / predicted by them)."""
        self.noise = 0.0
        """Relative standard deviation of one measurement; 0: not known."""

    def solve(self, x: Array, y: Array) -> Array:
        """Costs per unit of each feature, (k,), from totals (n, k) and measured costs (n,); no interval, not kept."""
        import numpy as np

        return np.array(_solve(x, y, self.shrinkage))

    def fit_totals(self, x: Array, values: Sequence[float] | Array, noise: float = 0.0) -> Self:
        import numpy as np

        y = np.array(values, dtype=float)
        check_samples(len(x), y.tolist(), self.min_samples, noise)
        self.range, self.noise = Range.of(x), noise
        self.costs = _solve(x, y, self.shrinkage)
        residuals = np.zeros(len(y))
        fits: list[list[float]] = [[]] * len(y)
        folds = min(len(y), FOLDS)
        for fold in range(folds):
            out = np.arange(len(y)) % folds == fold
            costs = _solve(x[~out], y[~out], self.shrinkage)
            said = np.maximum(x[out] @ np.array(costs), 1e-9 * y[out])
            residuals[out] = np.log(y[out] / said)
            for place in np.flatnonzero(out):
                fits[place] = costs
        self.left_out = [(costs, float(residual)) for costs, residual in zip(fits, residuals, strict=True)]
        return self

    @property
    def left_out_errors(self) -> list[float]:
        if not self.left_out:
            raise ValueError("the cost model is not fitted")
        return [residual for _, residual in self.left_out]

    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        import numpy as np

        if not self.costs:
            raise ValueError("the cost model is not fitted")
        value = np.maximum(x @ np.array(self.costs), 1e-12)
        said = np.log(np.maximum(x @ np.array([costs for costs, _ in self.left_out]).T, 1e-12))
        residuals = np.abs(self.left_out_errors)
        low, high = _ends(np.sort(said - residuals, axis=1), np.sort(said + residuals, axis=1))
        least = max(LEAST_HALF_WIDTH, NORMAL_QUANTILE * self.noise)
        return value, np.minimum(np.exp(low), value / (1 + least)), np.maximum(np.exp(high), value * (1 + least))

    def to_json(self) -> dict[str, Any]:
        if not self.costs:
            raise ValueError("the cost model is not fitted")
        return {
            "features": list(self.features),
            "costs": self.costs,
            "left_out": [{"costs": costs, "residual": residual} for costs, residual in self.left_out],
            "noise": self.noise,
            "range": self.range.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """A file of schema 1 has neither noise nor range, and its residuals have lost their sign."""
        model, names = cls(), data["features"]
        model.costs = _costs(data["costs"], names, cls.features)
        model.left_out = [
            (_costs(item["costs"], names, cls.features), finite(item["residual"])) for item in data["left_out"]
        ]
        model.noise = _not_negative(data.get("noise", 0.0))
        if "range" in data:
            model.range = Range.from_json(data["range"], names, cls.features)
        if len(model.left_out) < cls.min_samples:
            raise ValueError("too few samples")
        return model


def _solve(x: Array, y: Array, shrinkage: float) -> list[float]:
    """Costs per unit of each feature; (n, k), (n,) → (k,)."""
    import numpy as np
    from scipy.optimize import nnls

    rows = x / y[:, None]
    usual = np.sqrt((rows**2).mean(axis=0))
    scale = np.where(usual > 0, usual, 1.0)
    rows = rows / scale
    shares = rows.sum(axis=1)
    share = shares.sum() / (shares @ shares)  # so that equal shares fit the samples as well as they can
    penalty = np.where(usual > 0, math.sqrt(shrinkage), 0.0)
    wanted = np.concatenate([np.ones(len(y)), penalty])
    costs, _ = nnls(np.vstack([rows, np.diag(penalty / share)]), wanted, maxiter=1000)
    return [float(cost) for cost in costs / scale]


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


def _costs(items: Sequence[Any], names: Sequence[str], features: Sequence[str]) -> list[float]:
    """Costs by feature, in the order of `features`."""
    return aligned([_not_negative(item) for item in items], names, features)


def _not_negative(item: Any) -> float:
    number = finite(item)
    if number < 0:
        raise ValueError(f"a cost must be at least 0, not {item!r}")
    return number
