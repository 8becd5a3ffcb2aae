"""Errors at samples that a fit did not see, and intervals from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["excess", "folds", "log_cost", "plus_interval", "squared"]

LEVEL = 0.9
"""Of the intervals."""

LEAST_HALF_WIDTH = 0.02
"""Smallest half-width of an interval, as a share: two measurements of one network differ by that much."""

NORMAL_QUANTILE = 1.645
"""Half-width of the 90 % interval of a normal distribution, in standard deviations."""


def folds(count: int, most: int) -> list[Mask]:
    """Which samples are left out together: as many masks (count,) as there are folds, each sample in one of them.

    Neighbours are in different folds, so that a drift along the samples is in all of them.
    """
    import numpy as np

    number = min(count, most)
    return [np.arange(count) % number == fold for fold in range(number)]


def plus_interval(value: Array, centres: Array, errors: Array, noise: float = 0.0) -> tuple[Array, Array]:
    """Ends of the CV+ intervals.

    Barber et al., Predictive inference with the jackknife+, Annals of Statistics 49, 2021. With fewer than 9 samples
    the 90 % quantiles do not exist; the outermost ends are moved out by a quarter of their distance then.

    Args:
        value: predicted, (m,), above 0.
        centres: logarithms of what each sample's left-out fit predicts, (m, n).
        errors: absolute error of each sample as a logarithm, not negative; (m, n), or (n,) for all alike.
        noise: relative standard deviation of one measurement.

    Returns:
        Lower and upper ends, (m,) each: at least 2 %, or the noise's own interval, from the value.
    """
    import numpy as np

    lows, highs = np.sort(centres - errors, axis=1), np.sort(centres + errors, axis=1)
    count = lows.shape[1]
    below, above = math.floor((1 - LEVEL) * (count + 1) + 1e-9), math.ceil(LEVEL * (count + 1) - 1e-9)
    if below >= 1 and above <= count:
        low, high = lows[:, below - 1], highs[:, above - 1]
    else:
        margin = 0.25 * (highs[:, -1] - lows[:, 0])
        low, high = lows[:, 0] - margin, highs[:, -1] + margin
    least = 1 + max(LEAST_HALF_WIDTH, NORMAL_QUANTILE * noise)
    said = np.log(value)
    low, high = np.clip(low, said - 20, None), np.clip(high, None, said + 20)
    return np.minimum(np.exp(low), value / least), np.maximum(np.exp(high), value * least)


def log_cost(x: Array, costs: Array) -> Array:
    """Logarithms of additive costs, (m,), from totals (m, k) and costs per unit (k,)."""
    import numpy as np

    found: Array = np.log(np.maximum(x @ costs, 1e-12))
    return found


def squared(errors: Sequence[float] | Array) -> Array:
    """Squares of errors given as logarithms, each error counted as 1 at most: one outlier decides nothing."""
    import numpy as np

    found: Array = np.minimum(np.abs(np.asarray(errors, float)), 1.0) ** 2
    return found


def excess(simple: Sequence[float] | Array, other: Sequence[float] | Array) -> tuple[float, float]:
    """By how much the mean squared error of the one exceeds the other's at the same samples, and its standard error.

    Args:
        simple, other: errors as logarithms, (n,).
    """
    import numpy as np

    difference = squared(simple) - squared(other)
    spread = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return float(np.mean(difference)), spread
