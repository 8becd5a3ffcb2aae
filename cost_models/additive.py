"""A cost as a sum of non-negative costs per unit of work: the first model to try, good from about ten samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .features import FEATURE_SETS, FEATURES, FeatureSet
from .intervals import half_width, ordinary
from .left_out import folds
from .model import Range, TotalsModel, aligned, check_samples, finite

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["AdditiveModel"]

SHRINKAGE = 2e-3
"""Weight of the penalty that keeps unidentified costs moderate. Chosen on 100 splits of measured networks of `mobile`
at 8 x 8 and 32 x 32; from 1e-3 to 3e-3 the share within 10 % changes by at most a point (docs/cost_models.md)."""

FEW, FOLDS = 40, 20
"""Up to so many samples each is left out alone; of more, so many folds."""

CHOOSING_FOLDS = 5
"""Folds in which `choose` compares the sets of features."""

ROBUST = 1.5
"""From so many robust standard deviations on an error counts by its size, not its square."""

_REWEIGHTED = 4
"""Times that the weights of the samples are set anew, at most."""

_SAME = 0.02
"""The weights are settled when none changes by more."""

_LEAST = 1e-6
"""Half-width of an interval as a share, at least: a share of rounding."""

_MANY = 60
"""From so many samples on, the least-squares problem is first made small by a QR decomposition."""


class AdditiveModel(TotalsModel):
    """Non-negative least squares on the totals of the executed graph, weighted for relative errors.

    Minimises sum(w ((X c - y) / y)^2) + shrinkage * sum((c / p - 1)^2) over c >= 0, where p are the usual costs of the
    set of features, scaled to the samples, or give every feature the same share (root mean square over the samples) of
    the cost where none are stated. Of the sets that with the smallest error at left-out samples is taken; the features
    of the others cost nothing. The weights w are Huber's (Robust Statistics, 1981, chapter 7): 1 but for samples with
    an error far beyond the median, so that one bad measurement does not decide.

    Intervals are as wide as the errors at left-out samples say (`intervals.py`), on the logarithm of the ratio so that
    they are never negative; wider where the left-out fits disagree more than at any sample (jackknife: Efron and Stein,
    Annals of Statistics 9, 1981).
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
        self.chosen: FeatureSet | None = None
        """Features that the cost is made of; None before a fit, and in a model of a file."""
        self._used: tuple[str, ...] = self.features
        self.at_random: list[bool] = []
        """Which samples were drawn at random; empty when it is not known."""
        self.spread = 0.0
        """Largest jackknife standard error of the predictions at the samples, as a logarithm; 0: not known."""
        self.noise = 0.0
        """Relative standard deviation of one measurement; 0: not known."""

    def choose(self, x: Array, y: Array) -> Self:
        """Chooses the set of features alone, in few folds; `solve` can be asked then, and nothing else."""
        self.chosen = min(_sets(x), key=lambda one: self._leave_out(x, y, one, CHOOSING_FOLDS)[0])
        return self

    def solve(self, x: Array, y: Array) -> Array:
        """Costs per unit of each feature, (k,), from totals (n, k) and costs (n,), in the set chosen; not kept.

        Raises:
            ValueError: no set of features was chosen: neither `fit_totals` nor `choose` was called.
        """
        import numpy as np

        if self.chosen is None:
            raise ValueError("no set of features was chosen")
        return np.array(_solve(x, y, self.shrinkage, self.chosen))

    def fit_totals(
        self, x: Array, values: Sequence[float] | Array, noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        """As `TotalsModel.fit_totals`; `at_random` tells which samples were drawn at random, (n,), if it is known."""
        import numpy as np

        y = np.array(values, dtype=float)
        check_samples(len(x), y.tolist(), self.min_samples, noise)
        ordinary(y, at_random)  # checks the lengths
        self.range, self.noise, self.at_random = Range.of(x), noise, [bool(mark) for mark in at_random]
        number = len(y) if len(y) <= FEW else FOLDS
        tried = [(self._leave_out(x, y, one, number), one) for one in _sets(x)]
        (_, self.left_out), self.chosen = min(tried, key=lambda one: one[0][0])
        self.costs, self._used = self.solve(x, y).tolist(), self.chosen.features
        self.spread = float(self._jackknife(x).max())
        return self

    def _leave_out(
        self, x: Array, y: Array, chosen: FeatureSet, number: int
    ) -> tuple[float, list[tuple[list[float], float]]]:
        """Mean absolute error at left-out samples, each as 1 at most, and `left_out` of the set."""
        import numpy as np

        residuals = np.zeros(len(y))
        fits: list[list[float]] = [[]] * len(y)
        for out in folds(len(y), number):
            costs = _solve(x[~out], y[~out], self.shrinkage, chosen)
            said = np.maximum(x[out] @ np.array(costs), 1e-9 * y[out])
            residuals[out] = np.log(y[out] / said)
            for place in np.flatnonzero(out):
                fits[place] = costs
        error = float(np.minimum(np.abs(residuals), 1.0).mean())
        return error, [(costs, float(told)) for costs, told in zip(fits, residuals, strict=True)]

    @property
    def left_out_errors(self) -> list[float]:
        if not self.left_out:
            raise ValueError("the cost model is not fitted")
        return [residual for _, residual in self.left_out]

    @property
    def judged(self) -> tuple[str, ...]:
        return self._used

    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        import numpy as np

        if not self.costs:
            raise ValueError("the cost model is not fitted")
        value = np.maximum(x @ np.array(self.costs), 1e-12)
        usual = half_width(ordinary(self.left_out_errors, self.at_random), self.noise)
        odd = np.maximum(self._jackknife(x) / self.spread, 1.0) if self.spread > _LEAST else np.ones(len(x))
        wide = np.clip(usual * odd, _LEAST, 20.0)
        return value, value * np.exp(-wide), value * np.exp(wide)

    def _jackknife(self, x: Array) -> Array:
        """Standard errors of the logarithms of the values, (m,), from the left-out fits."""
        import numpy as np

        fits: dict[tuple[float, ...], None] = dict.fromkeys(tuple(costs) for costs, _ in self.left_out)
        said = np.log(np.maximum(x @ np.array(list(fits)).T, 1e-12))
        error: Array = math.sqrt(max(len(fits) - 1, 1)) * said.std(axis=1)
        return error

    def to_json(self) -> dict[str, Any]:
        if not self.costs:
            raise ValueError("the cost model is not fitted")
        return {
            "features": list(self.features),
            "used": list(self._used),
            "costs": self.costs,
            "left_out": [{"costs": costs, "residual": residual} for costs, residual in self.left_out],
            "at_random": self.at_random,
            "spread": self.spread,
            "noise": self.noise,
            "range": self.range.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """A file of schema 1 has neither noise nor range nor marks, and its residuals have lost their sign."""
        model, names = cls(), data["features"]
        model.costs = _costs(data["costs"], names, cls.features)
        newer = [name for name in cls.features if name not in names]  # nothing is known of their cost
        model._used = (*map(str, data.get("used", names)), *newer)
        model.left_out = [
            (_costs(item["costs"], names, cls.features), finite(item["residual"])) for item in data["left_out"]
        ]
        model.at_random = [bool(mark) for mark in data.get("at_random", [])]
        ordinary(model.left_out_errors, model.at_random)  # checks the lengths
        model.spread = _not_negative(data.get("spread", 0.0))
        model.noise = _not_negative(data.get("noise", 0.0))
        if "range" in data:
            model.range = Range.from_json(data["range"], names, cls.features)
        if len(model.left_out) < cls.min_samples:
            raise ValueError("too few samples")
        return model


def _sets(x: Array) -> list[FeatureSet]:
    """The sets of features to choose between; of totals that are not those of `features.py`, all in one."""
    if x.shape[1] == len(FEATURES):
        return list(FEATURE_SETS.values())
    return [FeatureSet(FEATURES[: x.shape[1]], {})]


def _solve(x: Array, y: Array, shrinkage: float, chosen: FeatureSet) -> list[float]:
    """Costs per unit of each feature, 0 outside the set; (n, k), (n,) → (k,)."""
    import numpy as np

    rows = x[:, chosen.columns] / y[:, None]
    if chosen.usual:
        unit = np.array([chosen.usual[name] for name in chosen.features])
        penalty = np.full(len(unit), math.sqrt(shrinkage))
    else:
        mean = np.sqrt((rows**2).mean(axis=0))
        unit = 1 / np.where(mean > 0, mean, 1.0)
        penalty = np.where(mean > 0, math.sqrt(shrinkage), 0.0)
    rows = rows * unit
    sums = rows.sum(axis=1)
    share = sums.sum() / (sums @ sums)  # so that the units themselves, times this, fit the samples as well as they can
    weights = np.ones(len(y))
    costs = _least_squares(rows, weights, penalty, share)
    for _ in range(_REWEIGHTED):
        errors = np.abs(np.log(np.maximum(rows @ costs, 1e-3)))
        limit = ROBUST * 1.4826 * float(np.median(errors))  # 1.4826: from the median to a normal standard deviation
        if limit < 1e-9:
            break
        before, weights = weights, np.minimum(1.0, limit / np.maximum(errors, 1e-12))
        if np.abs(np.sqrt(weights) - np.sqrt(before)).max() < _SAME:
            break
        costs = _least_squares(rows, weights, penalty, share)
    found = np.zeros(x.shape[1])
    found[chosen.columns] = costs * unit
    return [float(cost) for cost in found]


def _least_squares(rows: Array, weights: Array, penalty: Array, share: float) -> Array:
    """Costs c >= 0 with the smallest sum(w (rows c - 1)^2) + sum(penalty^2 (c / share - 1)^2), (k,)."""
    import numpy as np
    from scipy.optimize import nnls

    root = np.sqrt(weights)
    matrix = np.vstack([rows * root[:, None], np.diag(penalty / share)])
    wanted = np.concatenate([root, penalty])
    if len(rows) > _MANY:
        triangle: Array = np.asarray(np.linalg.qr(np.column_stack([matrix, wanted]), mode="r"))
        matrix, wanted = triangle[:, :-1], triangle[:, -1]
    costs: Array = nnls(matrix, wanted, maxiter=1000)[0]
    return costs


def _costs(items: Sequence[Any], names: Sequence[str], features: Sequence[str]) -> list[float]:
    """Costs by feature, in the order of `features`."""
    return aligned([_not_negative(item) for item in items], names, features)


def _not_negative(item: Any) -> float:
    number = finite(item)
    if number < 0:
        raise ValueError(f"a cost must be at least 0, not {item!r}")
    return number
