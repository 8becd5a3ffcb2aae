"""Which of several ways of executing a network a device has taken: the one that predicts left-out samples best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .additive import SHRINKAGE, AdditiveModel

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Chosen", "choose"]

SHRINKAGES = (SHRINKAGE, SHRINKAGE / 10)
"""Weights of the additive model's penalty that are tried."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen.

    Attributes:
        way: the key of the totals that it was fitted on.
        model: the fitted model.
    """

    way: str
    model: AdditiveModel


def choose(
    totals: Mapping[str, Array],
    values: Sequence[float] | Array,
    shrinkages: Sequence[float] = SHRINKAGES,
    noise: float = 0.0,
    at_random: Sequence[bool] = (),
) -> Chosen:
    """Fits an additive model for every way and penalty, and takes that with the smallest error at left-out samples.

    Nothing but the samples is looked at. Of equals the first is taken.

    Args:
        totals: way of executing → totals of the samples' graphs, (n, k).
        values: their measured costs, (n,).
        shrinkages: weights of the penalty to try.
        noise, at_random: as `AdditiveModel.fit_totals`.

    Raises:
        ValueError: there is nothing to choose from, or as `CostModel.fit`.
    """
    fitted = [
        Chosen(way, AdditiveModel(shrinkage).fit_totals(x, values, noise, at_random))
        for way, x in totals.items()
        for shrinkage in shrinkages
    ]
    if not fitted:
        raise ValueError("a choice needs at least one way of executing and one penalty")
    return min(fitted, key=lambda one: _error(one.model))


def _error(model: AdditiveModel) -> float:
    """Mean of the errors at left-out samples, each counted as 1 at most: one outlier does not decide."""
    errors = model.left_out_errors
    return sum(min(abs(error), 1.0) for error in errors) / len(errors)
