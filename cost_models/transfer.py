"""The additive model with costs of other devices as its first guess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .additive import SHRINKAGE, AdditiveModel
from .bank import BankEntry, read_bank
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
    feature in the cost of a usual sample. Devices whose costs are of another set of features than the additive model's
    take no part. The weight is chosen at left-out samples, by the one-standard-error rule in favour of none: then it
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
        prior = _Prior(bank, self.base)
        if not prior.devices:
            self.why = f"weight 0: the bank has no device of {self.target} with these features"
            return self
        self._errors = [0.0] * len(y)
        for out in _folds(len(y)):
            inside, inner = x[~out], y[~out]
            own = _Prior(bank, AdditiveModel().choose(inside, inner))
            costs = own.solve(inside, inner, _weight(_errors(own, inside, inner, INNER)))
            for place in np.flatnonzero(out):
                self._errors[place] = float(np.log(y[place]) - log_cost(x[place : place + 1], costs)[0])
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
        return self.base.judged

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
    """The bank's costs of the features that an additive model has chosen.

    Args:
        bank: entries without one of these features are left out.
        base: has chosen its set of features.
    """

    def __init__(self, bank: Sequence[BankEntry], base: AdditiveModel) -> None:
        import numpy as np

        assert base.chosen is not None
        names, self._columns = base.chosen.features, base.chosen.columns
        told = {entry.name: [entry.costs[name] for name in names] for entry in bank if set(names) <= set(entry.costs)}
        self._base = base
        self.devices = [name for name, costs in told.items() if any(costs)]
        self._costs = np.array([told[name] for name in self.devices], float).reshape(-1, len(names))

    def mixture(self, x: Array, y: Array) -> dict[str, float]:
        """Device → its share in the mixture that fits the samples; only those above 0."""
        shares = self._shares(x[:, self._columns], y)
        return {name: float(share) for name, share in zip(self.devices, shares, strict=True) if share > 0}

    def _shares(self, x: Array, y: Array) -> Array:
        return nonnegative(x @ self._costs.T, y, SHRINKAGE)

    def solve(self, x: Array, y: Array, weight: float) -> Array:
        """Costs per unit of each feature, (k,); with weight 0, or without a device, the additive model's."""
        import numpy as np
        from scipy.optimize import nnls

        if not weight or not self.devices:
            return self._base.solve(x, y)
        own = x[:, self._columns]
        guess = self._shares(own, y) @ self._costs
        rows = own / y[:, None]
        usual = np.sqrt((rows**2).mean(axis=0))
        scale = np.where(usual > 0, usual, 1.0)
        strength = np.where(usual > 0, weight**0.5, 0.0)
        wanted = np.concatenate([np.ones(len(y)), strength * guess * scale])
        costs, _ = nnls(np.vstack([rows / scale, np.diag(strength)]), wanted, maxiter=1000)
        found = np.zeros(x.shape[1])
        found[self._columns] = np.where(
            usual > 0, costs / scale, guess
        )  # work that no sample had costs what it does there
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
