"""How good predictions are, in the figures that papers give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .model import Prediction

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["Accuracy", "accuracy", "interval_accuracy", "paired_ceiling"]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Predictions against measurements.

    Attributes:
        spearman: rank correlation; nan when one side is constant.
        kendall: tau-b; nan when one side is constant.
        mape: mean absolute error as a share of the measured value.
        within_5: share of the predictions at most 5 % off.
        within_10: share at most 10 % off.
    """

    spearman: float
    kendall: float
    mape: float
    within_5: float
    within_10: float

    def to_json(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def accuracy(predicted: Sequence[float] | Array, measured: Sequence[float] | Array) -> Accuracy:
    """Compares predictions with measurements.

    Args:
        predicted: (n,), finite.
        measured: (n,), finite and above 0.

    Raises:
        ValueError: lengths differ, there are fewer than two, or a value is not as said.

    >>> accuracy([1.0, 2.0, 3.2], [1.0, 2.0, 3.0]).within_5
    0.6666666666666666
    """
    import numpy as np
    from scipy.stats import kendalltau, spearmanr

    said, true = np.asarray(predicted, float), np.asarray(measured, float)
    if said.shape != true.shape or said.ndim != 1:
        raise ValueError(f"{said.size} predictions but {true.size} measurements")
    if len(true) < 2:
        raise ValueError("an accuracy needs at least two predictions")
    if not (np.isfinite(said).all() and np.isfinite(true).all() and (true > 0).all()):
        raise ValueError("predictions must be finite, measurements finite and above 0")
    ranked = np.ptp(said) > 0 and np.ptp(true) > 0
    error = np.abs(said / true - 1)
    return Accuracy(
        spearman=float(spearmanr(said, true).statistic) if ranked else math.nan,
        kendall=float(kendalltau(said, true).statistic) if ranked else math.nan,
        mape=float(error.mean()),
        within_5=float(np.mean(error <= 0.05)),
        within_10=float(np.mean(error <= 0.10)),
    )


def interval_accuracy(predictions: Sequence[Prediction], measured: Sequence[float] | Array) -> tuple[float, float]:
    """Returns the share of the measurements inside their intervals, and the median half-width as a share of the value.

    Raises:
        ValueError: lengths differ, or there are none.
    """
    import numpy as np

    if len(predictions) != len(measured) or not predictions:
        raise ValueError(f"{len(predictions)} intervals but {len(measured)} measurements")
    inside = [one.low <= value <= one.high for one, value in zip(predictions, measured, strict=True)]
    widths = [(one.high - one.low) / 2 / one.value for one in predictions]
    return float(np.mean(inside)), float(np.median(widths))


def paired_ceiling(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """Returns the highest Spearman correlation that predictions can have with measurements as noisy as these.

    The square root of the reliability, the correlation of two measurements of the same things (Spearman, The proof and
    measurement of association between two things, American Journal of Psychology 15, 1904); on ranks.

    Raises:
        ValueError: lengths differ, or there are fewer than three pairs.
    """
    from scipy.stats import spearmanr

    if len(first) != len(second) or len(first) < 3:
        raise ValueError("a ceiling needs at least three pairs of measurements")
    found = float(spearmanr([*first, *second], [*second, *first]).statistic)  # neither of a pair is the first
    return math.sqrt(max(found, 0.0))
