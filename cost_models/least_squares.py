"""Non-negative least squares on relative errors, for a handful of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["nonnegative"]


def nonnegative(x: Array, y: Array, shrinkage: float = 0.0) -> Array:
    """Factors c >= 0 with the smallest sum(((x c - y) / y)^2) + shrinkage * sum((c / p - 1)^2), (k,).

    p gives every column the same share (root mean square over the rows) of y; a column of zeros gets 0.

    Args:
        x: (n, k), none negative.
        y: (n,), above 0.
        shrinkage: weight of the penalty.
    """
    import numpy as np
    from scipy.optimize import nnls

    rows = x / y[:, None]
    usual = np.sqrt((rows**2).mean(axis=0))
    scale = np.where(usual > 0, usual, 1.0)
    rows = rows / scale
    shares = rows.sum(axis=1)
    even = shares.sum() / max(float(shares @ shares), 1e-300)
    penalty = np.where(usual > 0, shrinkage**0.5, 0.0)
    wanted = np.concatenate([np.ones(len(y)), penalty])
    factors, _ = nnls(np.vstack([rows, np.diag(penalty / max(even, 1e-300))]), wanted, maxiter=1000)
    found: Array = factors / scale
    return found
