"""How wide an interval must be, told by the errors at samples that a fit did not see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["LEVEL", "half_width", "ordinary"]

LEVEL = 0.9
"""Share of the intervals that are to hold the truth."""

NORMAL_QUANTILE = 1.645
"""Half-width of the 90 % interval of a normal distribution, in standard deviations."""

FEWEST = 3
"""Random samples that tell the errors by themselves; with fewer, all samples do."""


def half_width(errors: Sequence[float] | Array, noise: float = 0.0) -> float:
    """Half-width of a 90 % interval for one more value like these.

    From 9 errors on their conformal quantile (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005,
    chapter 2), interpolated between ranks, so that it holds 90 % on average and not up to 100 %. Fewer have no such
    quantile: Student's t then, with the errors' root mean square and as many degrees of freedom as there are errors.

    Args:
        errors: at left-out samples, signed or not, (n,) with n above 0.
        noise: standard deviation of one measurement, in the unit of the errors; 0: not known. The interval is never
            narrower than its own.

    >>> half_width([0.1] * 19)
    0.1
    """
    import numpy as np
    from scipy.stats import t

    sizes = np.sort(np.abs(np.asarray(errors, float)))
    rank = LEVEL * (len(sizes) + 1)
    if rank <= len(sizes):
        found = float(np.interp(rank, np.arange(1, len(sizes) + 1), sizes))
    else:
        found = float(t.ppf((1 + LEVEL) / 2, len(sizes))) * math.sqrt(float(np.mean(sizes**2)))
    return max(found, NORMAL_QUANTILE * noise)


def ordinary(errors: Sequence[float] | Array, at_random: Sequence[bool] = ()) -> Array:
    """The errors that tell those at ordinary networks.

    Designed samples are extreme: a fit without one of them is further off there than it ever is elsewhere, by how much
    differs from device to device. So only those at random count, where there are 3 or more.

    Args:
        errors: at left-out samples, (n,).
        at_random: which samples were drawn at random, (n,); empty when it is not known.

    Raises:
        ValueError: the lengths differ.
    """
    import numpy as np

    found = np.asarray(errors, float)
    if not len(at_random):
        return found
    if len(at_random) != len(found):
        raise ValueError(f"{len(found)} errors but {len(at_random)} marks of what was drawn at random")
    drawn = found[np.asarray(at_random, bool)]
    return drawn if len(drawn) >= FEWEST else found
