"""Errors at samples that a fit did not see, and intervals from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = ["around", "excess", "folds", "log_cost", "squared"]

LEAST, MOST = 1e-6, 20.0
"""Half-width of an interval as a logarithm: at least a share of rounding, at most what stays a number."""


def folds(count: int, most: int) -> list[Mask]:
    """Which samples are left out together: as many masks (count,) as there are folds, each sample in one of them.

    Neighbours are in different folds, so that a drift along the samples is in all of them.
    """
    import numpy as np

    number = min(count, most)
    return [np.arange(count) % number == fold for fold in range(number)]


def around(value: Array, wide: Array | float) -> tuple[Array, Array]:
    """Lower and upper ends, (m,) each, so far from the values (m,) as logarithms."""
    import numpy as np

    wide = np.clip(wide, LEAST, MOST)
    return value * np.exp(-wide), value * np.exp(wide)


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
