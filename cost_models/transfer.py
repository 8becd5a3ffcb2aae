"""The additive model with costs of other devices as its first guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .additive import SHRINKAGE, AdditiveModel
from .bank import BankEntry, known_to_all, read_bank
from .intervals import half_width, ordinary
from .least_squares import nonnegative
from .left_out import around, excess, folds, log_cost, squared
from .model import Range, TotalsModel, aligned, check_samples, finite

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["TransferModel"]

WEIGHTS = (0.03, 0.3, 3.0, 30.0)
"""Weights of the bank's costs that are tried, beside none at all."""

FEW, FOLDS, INNER = 40, 10, 5
"""Up to so many samples each is left out alone, then there are so many folds; and inside a fold, for the weight."""


class TransferModel(TotalsModel):
    """Non-negative costs that are drawn towards a mixture of other devices' costs.

    The mixture has non-negative shares of the bank's devices, fitted on the samples, so that a device's own scale is
    free. The costs c minimise sum(((X c - y) / y)^2) + weight * sum((u (c - mixture))^2), where u c is the share of a
    feature in the cost of a usual sample. A feature that is not in every entry of the bank has the additive model's
    penalty instead. The weight is chosen at left-out samples, by the one-standard-error rule in favour of none: then it
    is 0 and the model is the additive one. Intervals are as wide as the errors at left-out samples say.
    """

    name: ClassVar[str] = "transfer"
    min_samples: ClassVar[int] = AdditiveModel.min_samples

    def __init__(self, bank: Sequence[BankEntry] | None = None, target: str = "latency_ms") -> None:
        super().__init__()
        self._bank, self.target = bank, target
        self.base = AdditiveModel()
        self.weight = 0.0
        """Of the bank's costs; 0: they do not help here."""
        self.why = ""
        """What the weight is, and why, in one line."""
        self.mixture: dict[str, float] = {}
        """Device of the bank → its share; only those above 0."""
        self.costs: list[float] = []
        self._errors: list[float] = []
        self._wide = 0.0
        """Half-width of the intervals, as a logarithm."""

    def fit_totals(
        self, x: Array, values: Sequence[float] | Array, noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        import numpy as np

        y = np.array(values, dtype=float)
        check_samples(len(x), y.tolist(), self.min_samples, noise)
        self.base.fit_totals(x, y, noise, at_random)
        self.range, self.weight, self.mixture = Range.of(x), 0.0, {}
        bank = [entry for entry in (read_bank() if self._bank is None else self._bank) if entry.target == self.target]
        prior = _Prior(bank, self.features)
        if not prior.devices:
            self.why = f"weight 0: the bank has no device of {self.target}"
            return self
        self._errors = [0.0] * len(y)
        for out in _folds(len(y)):
            inner, inside = y[~out], x[~out]
            tried = _errors(prior, inside, inner, INNER)
            chosen = prior.solve(x[~out], y[~out], _weight(tried))
            for place in np.flatnonzero(out):
                self._errors[place] = float(np.log(y[place]) - log_cost(x[place : place + 1], chosen)[0])
        tried = _errors(prior, x, y, FEW if len(y) <= FEW else FOLDS)
        self.weight = _weight(tried)
        told = ", ".join(f"{weight:g}: {np.sqrt(squared(errors).mean()):.3f}" for weight, errors in tried.items())
        self.why = f"weight {self.weight:g}; error at left-out samples by weight {told}"
        if not self.weight:
            return self
        self.mixture = prior.mixture(x, y)
        self.costs = prior.solve(x, y, self.weight).tolist()
        self._wide = half_width(ordinary(self._errors, at_random), noise)
        return self

    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        import numpy as np

        if not self.weight:
            return self.base.predict_totals(x)
        value = np.exp(log_cost(x, np.array(self.costs)))
        return value, *around(value, self._wide)

    @property
    def judged(self) -> tuple[str, ...]:
        return self.features if self.weight else self.base.judged

    @property
    def left_out_errors(self) -> list[float]:
        return list(self._errors) if self.weight else self.base.left_out_errors

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"features": list(self.features), "range": self.range.to_json(), "target": self.target}
        told |= {"weight": self.weight, "why": self.why, "base": self.base.to_json()}
        if not self.weight:
            return told
        return {
            **told,
            "mixture": self.mixture,
            "costs": self.costs,
            "errors": self._errors,
            "wide": self._wide,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        model = cls(target=str(data["target"]))
        model.base = AdditiveModel.from_json(data["base"])
        model.range = Range.from_json(data["range"], data["features"], cls.features)
        model.why, model.weight = str(data["why"]), finite(data["weight"])
        if not model.weight:
            return model
        model.mixture = {str(name): finite(share) for name, share in data["mixture"].items()}
        model.costs = aligned([finite(item) for item in data["costs"]], data["features"], cls.features)
        model._errors, model._wide = [finite(item) for item in data["errors"]], finite(data["wide"])
        if len(model._errors) < cls.min_samples or min(model.costs) < 0 or model._wide < 0:
            raise ValueError("too few samples, or a cost below 0")
        return model


class _Prior:
    """The bank's costs in the order of the features."""

    def __init__(self, bank: Sequence[BankEntry], features: Sequence[str]) -> None:
        import numpy as np

        shared = known_to_all(bank)
        costs = [[entry.costs[name] if name in shared else 0.0 for name in features] for entry in bank]
        told = {entry.name: row for entry, row in zip(bank, costs, strict=True) if any(row)}
        self.devices = list(told)
        self.costs = np.array(list(told.values()), float).reshape(len(told), len(features))
        self.known = np.array([name in shared for name in features])

    def mixture(self, x: Array, y: Array) -> dict[str, float]:
        """Device → its share in the mixture that fits the samples; only those above 0."""
        shares = self._shares(x, y)
        return {name: float(share) for name, share in zip(self.devices, shares, strict=True) if share > 0}

    def _shares(self, x: Array, y: Array) -> Array:
        return nonnegative(x @ self.costs.T, y, SHRINKAGE)

    def solve(self, x: Array, y: Array, weight: float) -> Array:
        """Costs per unit of each feature, (k,); with weight 0 the additive model's."""
        import numpy as np
        from scipy.optimize import nnls

        if not weight:
            return AdditiveModel().solve(x, y)
        guess = self._shares(x, y) @ self.costs
        rows = x / y[:, None]
        usual = np.sqrt((rows**2).mean(axis=0))
        scale = np.where(usual > 0, usual, 1.0)
        rows = rows / scale
        shares = rows.sum(axis=1)
        even = shares.sum() / (shares @ shares)  # the same share for every feature, as the additive model has it
        own = SHRINKAGE**0.5
        strength = np.where(usual > 0, np.where(self.known, weight**0.5, own / even), 0.0)
        wanted = strength * np.where(self.known, guess * scale, even)
        costs, _ = nnls(np.vstack([rows, np.diag(strength)]), np.concatenate([np.ones(len(y)), wanted]), maxiter=1000)
        found: Array = costs / scale
        return found


def _errors(prior: _Prior, x: Array, y: Array, most: int) -> dict[float, Array]:
    """Weight → errors at left-out samples as logarithms, (n,)."""
    import numpy as np

    found = {weight: np.zeros(len(y)) for weight in (0.0, *WEIGHTS)}
    for out in folds(len(y), most):
        for weight, errors in found.items():
            errors[out] = np.log(y[out]) - log_cost(x[out], prior.solve(x[~out], y[~out], weight))
    return found


def _folds(count: int) -> list[Mask]:
    return folds(count, FEW if count <= FEW else FOLDS)


def _weight(tried: Mapping[float, Array]) -> float:
    """The weight with the smallest error, or 0 when that is not better by more than one standard error."""
    best = min(tried, key=lambda weight: float(squared(tried[weight]).mean()))
    gain, spread = excess(tried[0.0], tried[best])
    return best if gain > spread else 0.0
