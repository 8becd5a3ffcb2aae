"""The additive model and a Gaussian process on what it leaves over, where that pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .additive import AdditiveModel
from .intervals import NORMAL_QUANTILE, half_width, ordinary
from .left_out import around, excess, folds, log_cost
from .model import Range, TotalsModel, aligned, check_samples, finite

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["AdditiveGpModel"]

TRIED_FROM = 20
"""Fewest samples for which a process is tried: with fewer, a gain at left-out samples is luck too often."""

FEW, FOLDS, INNER = 40, 10, 10
"""Up to so many samples each is left out alone, then there are so many folds; and inside a fold, for its residuals."""

HYPER_SAMPLES = 200
"""Samples at most that the hyper-parameters are chosen on; the process itself sees all."""

LENGTHS = (0.5, 1.0, 2.0, 4.0)
"""Length scales that are tried, in units of the square root of the number of totals that vary."""

RATIOS = tuple(10.0 ** (step / 2) for step in range(-4, 5))
"""Ratios of noise to signal variance that are tried, 0.01 to 100."""

CHUNK = 2000
"""Graphs predicted at once: bounds the memory."""


class AdditiveGpModel(TotalsModel):
    """Additive costs times exp(a Gaussian process on the logarithms of the totals).

    The process (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5) learns the
    logarithms of measured / predicted at left-out samples: residuals of a fit to the same samples would be too small.
    Kernel: squared exponential; hyper-parameters by marginal likelihood on a grid with weak log-normal priors. It is on
    only when it lowers the squared error at left-out samples by more than one standard error; else the model is the
    additive one. Intervals are as wide as the errors of the combination at left-out samples, in units of the process's
    standard deviation.
    """

    name: ClassVar[str] = "additive+gp"
    min_samples: ClassVar[int] = AdditiveModel.min_samples

    def __init__(self) -> None:
        super().__init__()
        self.base = AdditiveModel()
        self.why = ""
        """Whether the process is on, and why, in one line."""
        self._all: _Part | None = None
        self._errors: list[float] = []
        self._wide = 0.0
        """Half-width of an interval, in standard deviations of the process."""
        self._noise = 0.0

    @property
    def on(self) -> bool:
        """True when the process takes part in predictions."""
        return self._all is not None

    def fit_totals(
        self, x: Array, values: Sequence[float] | Array, noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        import numpy as np

        y = np.array(values, dtype=float)
        check_samples(len(x), y.tolist(), self.min_samples, noise)
        self.base.fit_totals(x, y, noise, at_random)
        self._all = None
        self.range, self._noise = Range.of(x), noise
        if len(y) < TRIED_FROM:
            self.why = f"off: tried from {TRIED_FROM} samples on"
            return self
        scale = _Scale.of(x)
        alone, both, scores = np.zeros(len(y)), np.zeros(len(y)), np.zeros(len(y))
        for out in folds(len(y), len(y) if len(y) <= FEW else FOLDS):
            own = AdditiveModel(self.base.shrinkage).choose(x[~out], y[~out])
            part = _Part.fit(own, scale, x[~out], y[~out])
            said, sd = part.predict(x[out])
            alone[out] = np.log(y[out]) - part.additive(x[out])
            both[out] = np.log(y[out]) - said
            scores[out] = np.abs(both[out]) / sd
        gain, spread = excess(alone, both)
        told = f"squared error at left-out samples {np.mean(alone**2):.3g} without, {np.mean(both**2):.3g} with"
        if gain <= spread:
            self.why = f"off: {told}"
            return self
        self.why = f"on: {told}"
        self._all, self._errors = _Part.fit(self.base, scale, x, y), both.tolist()
        self._wide = half_width(ordinary(scores, at_random))
        return self

    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        import numpy as np

        if self._all is None:
            return self.base.predict_totals(x)
        told = [self._chunk(x[start : start + CHUNK]) for start in range(0, len(x), CHUNK)]
        value, low, high = (np.concatenate(parts) for parts in zip(*told, strict=True))
        return value, low, high

    def _chunk(self, x: Array) -> tuple[Array, Array, Array]:
        import numpy as np

        assert self._all is not None
        said, sd = self._all.predict(x)
        value = np.exp(said)
        return value, *around(value, np.maximum(self._wide * sd, NORMAL_QUANTILE * self._noise))

    @property
    def judged(self) -> tuple[str, ...]:
        return self.features if self.on else self.base.judged

    @property
    def left_out_errors(self) -> list[float]:
        return list(self._errors) if self.on else self.base.left_out_errors

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"features": list(self.features), "range": self.range.to_json()}
        told |= {"why": self.why, "base": self.base.to_json()}
        if self._all is None:
            return {**told, "process": None}
        process = {
            "totals": self._all.x.tolist(),
            "all": self._all.to_json(),
            "errors": self._errors,
            "wide": self._wide,
            "noise": self._noise,
        }
        return {**told, "process": process}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        import numpy as np

        model, process, names = cls(), data["process"], data["features"]
        model.base, model.why = AdditiveModel.from_json(data["base"]), str(data["why"])
        model.range = Range.from_json(data["range"], names, cls.features)
        if process is None:
            return model
        x = np.array([aligned([finite(item) for item in row], names, cls.features) for row in process["totals"]])
        scale = _Scale.of(x)
        model._errors = [finite(item) for item in process["errors"]]
        model._wide, model._noise = finite(process["wide"]), finite(process["noise"])
        if len(x) != len(model._errors) or model._wide < 0:
            raise ValueError("totals and errors of a process do not fit together")
        model._all = _Part.from_json(process["all"], names, cls.features, scale, x)
        return model


@dataclass(frozen=True)
class _Scale:
    """Totals as points: logarithms with mean 0 and standard deviation 1 over the samples; constant ones left out."""

    unit: Array
    mean: Array
    sd: Array

    @classmethod
    def of(cls, x: Array) -> _Scale:
        import numpy as np

        present = (x > 0).sum(axis=0)
        unit = np.where(present > 0, x.sum(axis=0) / np.maximum(present, 1), 1.0)
        points = np.log1p(x / unit)
        sd = points.std(axis=0)
        return cls(unit, points.mean(axis=0), np.where(sd > 1e-9, sd, np.inf))

    def points(self, x: Array) -> Array:
        """(n, k) → (n, k), divided by the root of the number of totals that vary."""
        import numpy as np

        vary = max(int(np.isfinite(self.sd).sum()), 1)
        found: Array = (np.log1p(x / self.unit) - self.mean) / self.sd / math.sqrt(vary)
        return found


@dataclass(frozen=True)
class _Part:
    """Costs and a process, both fitted on the same samples.

    Attributes:
        costs: per unit of each feature, (k,).
        residuals: logarithms of measured / predicted at left-out samples, (n,).
        length, signal, ratio: length scale, signal variance, noise variance / signal variance.
        x: totals of the samples, (n, k).
    """

    scale: _Scale
    costs: Array
    residuals: Array
    length: float
    signal: float
    ratio: float
    x: Array

    @classmethod
    def fit(cls, base: AdditiveModel, scale: _Scale, x: Array, y: Array) -> _Part:
        import numpy as np

        residuals = np.zeros(len(y))
        for out in folds(len(y), INNER):
            residuals[out] = np.log(y[out]) - log_cost(x[out], base.solve(x[~out], y[~out]))
        step = -(-len(y) // HYPER_SAMPLES)
        length, signal, ratio = _hyper(scale.points(x[::step]), residuals[::step])
        return cls(scale, base.solve(x, y), residuals, length, signal, ratio, x)

    def additive(self, x: Array) -> Array:
        """Logarithms of the additive costs, (m,)."""
        return log_cost(x, self.costs)

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Logarithms of the costs and their standard deviations, noise included, (m,) each."""
        import numpy as np
        from scipy.linalg import solve_triangular

        root, weights = self._solved
        near = _kernel(self.scale.points(x), self.scale.points(self.x), self.length)
        known = solve_triangular(root, near.T, lower=True, check_finite=False)
        variance = self.signal * np.maximum(1 + self.ratio - (known**2).sum(axis=0), self.ratio)
        return self.additive(x) + near @ weights, np.sqrt(variance)

    @cached_property
    def _solved(self) -> tuple[Array, Array]:
        """The Cholesky root of the samples' kernel with noise, (n, n), and its inverse times the residuals, (n,)."""
        import numpy as np
        from scipy.linalg import cho_solve

        points = self.scale.points(self.x)
        root = np.linalg.cholesky(_kernel(points, points, self.length) + self.ratio * np.eye(len(points)))
        solved: Array = cho_solve((root, True), self.residuals)
        return np.asarray(root, float), solved

    def to_json(self) -> dict[str, Any]:
        numbers = {"length": self.length, "signal": self.signal, "ratio": self.ratio}
        return {"costs": self.costs.tolist(), "residuals": self.residuals.tolist(), **numbers}

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], names: Sequence[str], features: Sequence[str], scale: _Scale, x: Array
    ) -> _Part:
        import numpy as np

        costs = np.array(aligned([finite(item) for item in data["costs"]], names, features))
        residuals = np.array([finite(item) for item in data["residuals"]])
        length, signal, ratio = (finite(data[key]) for key in ("length", "signal", "ratio"))
        if len(residuals) != len(x) or min(length, signal, ratio) <= 0 or (costs < 0).any():
            raise ValueError("not a part of a process")
        return cls(scale, costs, residuals, length, signal, ratio, x)


def _kernel(a: Array, b: Array, length: float) -> Array:
    """Squared exponential, (n, k), (m, k) → (n, m)."""
    import numpy as np

    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    found: Array = np.exp(-0.5 * np.maximum(square, 0.0) / length**2)
    return found


def _hyper(points: Array, residuals: Array) -> tuple[float, float, float]:
    """Length scale, signal variance and ratio of noise with the greatest posterior; the variance has its best value.

    Priors: log-normal, length about 1.5 (factor e), ratio about 1 (factor e^2).
    """
    import numpy as np

    best: tuple[float, float, float, float] = (-math.inf, 1.0, 1.0, 1.0)
    for length in LENGTHS:
        values, vectors = np.linalg.eigh(_kernel(points, points, length))
        turned = (vectors.T @ residuals) ** 2
        for ratio in RATIOS:
            spectrum = np.maximum(values, 0.0) + ratio
            signal = max(float(np.mean(turned / spectrum)), 1e-12)
            likelihood = -0.5 * (len(residuals) * math.log(signal) + float(np.log(spectrum).sum()))
            prior = -0.5 * math.log(length / 1.5) ** 2 - 0.5 * (math.log(ratio) / 2) ** 2
            best = max(best, (likelihood + prior, length, signal, ratio))
    return best[1], best[2], best[3]
