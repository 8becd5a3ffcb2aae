"""The model that predicts left-out samples best, or one as good that is simpler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .additive import AdditiveModel
from .additive_gp import AdditiveGpModel
from .bank import BankEntry
from .choosing import choose
from .left_out import excess, squared
from .model import Range, TotalsModel, model_class
from .transfer import TransferModel
from .trees import TreesModel, installed

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["AutoModel"]

TREES_FROM = 100
"""Fewest samples for which trees are tried."""


class AutoModel(TotalsModel):
    """Tries `additive`, `transfer`, `additive+gp` and `trees`, from simple to complex.

    All are compared by their squared errors at left-out samples (each model's own). The simplest is taken
    whose error is at most one standard error of the difference above the least (the one-standard-error rule: Breiman et
    al., Classification and Regression Trees, 1984, section 3.4.3). Of the additive model's penalties, the one with the
    least error is a candidate.

    Args:
        bank: devices for `transfer`; those that come with hwnas when left out.
        target: what is learned.
    """

    name: ClassVar[str] = "auto"
    min_samples: ClassVar[int] = AdditiveModel.min_samples

    def __init__(self, bank: Sequence[BankEntry] | None = None, target: str = "latency_ms") -> None:
        super().__init__()
        self._bank, self.target = bank, target
        self.chosen: TotalsModel | None = None
        self.candidates: dict[str, str] = {}
        """Candidate → its error at left-out samples, or why it was not tried."""
        self.why = ""
        """What was chosen and why, in one line."""

    def fit_totals(
        self, x: Array, values: Sequence[float] | Array, noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        tried: dict[str, TotalsModel] = {}
        tried["additive"] = choose({"": x}, values, noise=noise, at_random=at_random).model
        transfer = TransferModel(self._bank, self.target).fit_totals(x, values, noise, at_random)
        process = AdditiveGpModel().fit_totals(x, values, noise, at_random)
        self.candidates = {"additive": ""}
        for model, on in ((transfer, transfer.weight > 0), (process, process.on)):
            self.candidates[model.name] = "" if on else model.why
            if on:
                tried[model.name] = model
        self.candidates["trees"] = self._no_trees(len(x))
        if not self.candidates["trees"]:
            tried["trees"] = TreesModel().fit_totals(x, values, noise, at_random)
        errors = {name: float(squared(model.left_out_errors).mean()) ** 0.5 for name, model in tried.items()}
        best = min(errors, key=lambda name: errors[name])
        name = next(name for name in tried if _as_good(tried[name], tried[best]))
        self.chosen, self.range = tried[name], tried[name].range
        self.candidates |= {name: f"{error:.4f}" for name, error in errors.items()}
        told = ", ".join(f"{name} {text}" for name, text in self.candidates.items() if name in tried)
        rule = "the least error" if name == best else f"simpler than {best} and within one standard error of it"
        self.why = f"{name}: {rule} at left-out samples ({told})"
        return self

    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        return self._fitted().predict_totals(x)

    @property
    def judged(self) -> tuple[str, ...]:
        return self._fitted().judged

    @property
    def left_out_errors(self) -> list[float]:
        return self._fitted().left_out_errors

    def to_json(self) -> dict[str, Any]:
        model = self._fitted()
        told: dict[str, Any] = {"features": list(self.features), "range": self.range.to_json(), "target": self.target}
        told |= {"why": self.why, "candidates": self.candidates}
        return {**told, "model": model.name, "parameters": model.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        model = cls(target=str(data["target"]))
        kind = model_class(str(data["model"]))
        if not issubclass(kind, TotalsModel) or kind is cls:
            raise ValueError(f"a choice of the kind {kind.name!r}")
        model.chosen = kind.from_json(data["parameters"])
        model.why = str(data["why"])
        model.candidates = {str(name): str(text) for name, text in data["candidates"].items()}
        model.range = Range.from_json(data["range"], data["features"], cls.features)
        return model

    def _fitted(self) -> TotalsModel:
        if self.chosen is None:
            raise ValueError("the cost model is not fitted")
        return self.chosen

    @staticmethod
    def _no_trees(count: int) -> str:
        """Why trees are not tried; empty when they are."""
        if count < TREES_FROM:
            return f"tried from {TREES_FROM} samples on"
        return "" if installed() else "lightgbm is not installed"


def _as_good(model: TotalsModel, best: TotalsModel) -> bool:
    """True when the error of the one is at most a standard error of the difference above that of the best."""
    more, spread = excess(model.left_out_errors, best.left_out_errors)
    return model is best or more <= spread
