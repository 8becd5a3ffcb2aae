"""The protocol of a latency measurement: its constants, and the statistics that both sides of the pipe share.

Samples come in blocks of a few milliseconds. Between the blocks the runner times a small reference network of its own.
The latency is the *floor*: the 1 % quantile of all samples, over the reference's own slow-down. Disturbances only ever
add time, so that the floor repeats from minute to minute where the median does not; and what slows the machine for
longer than a measurement (a neighbour in the shared cache, a lower clock) slows the reference too.
`docs/profiling.md` says how that compares with other protocols, `benchmarks/noise.py` what it is worth.

The measuring process imports this file: numpy and the standard library only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["VERSION", "disturbances", "floor_ms", "interval_ms", "settled"]

VERSION = 2
"""Of the protocol: measurements of different versions are not compared."""

BLOCK_S = 0.003
"""Aimed length of a block: short against the bursts of other processes, long against the clock."""

MIN_BLOCKS, MAX_BLOCK_ITERATIONS = 15, 50
REWARMED_S = 0.005
"""Shorter inferences are run once, untimed, after each reference, which has used the caches: that would show."""

FLOOR_S, CEILING_S = 0.25, 0.8
"""Shortest and longest time of timed inferences in one attempt; between them the interval's width decides."""

CHECK_S = 0.1
"""Between two looks at the interval's width."""

WIDTH = 0.01
"""The interval's width over the floor at which an attempt ends."""

WARMUP_S, MIN_WARMUP = 0.05, 3

PATIENCE_S = 0.5
"""Longest wait, before an attempt, for the reference to run at its usual speed."""

QUIET = 1.06
"""Largest slow-down of the reference network beside a quiet block."""

QUIET_BLOCKS = 10
"""Fewest quiet blocks before an attempt may end early."""

BESIDE = 0.05
"""The slow-down of an attempt is that beside this share of its blocks, the best: a gap must be as long as a block."""

FLOOR = 0.01
"""The share of samples below the floor. The smallest sample alone is an outlier too often on some clocks."""

SLOW = 1.03
"""Slow-down of the reference network's floor, against its usual one, from which a measurement is disturbed."""

MOST_CORRECTED = 1.05
"""Largest slow-down that is divided out. Beyond, a network may have been slowed much less than the reference, so the
latency stays within 5 % of times that were seen, and the interval says the rest."""

OTHERS = 0.15
"""Share of the other cores that other processes may use. With no core left over: of all cores."""

STEAL = 0.05
"""Share of the cores' time that the host may take."""

MARGIN = 0.015
"""Added to both ends of an interval: calm measurements differ by about that all the same (benchmarks/noise.py)."""

LARGEST_WIDTH = 0.12
"""Interval's width over the floor, above which a measurement is noisy."""

_RESAMPLES = 64


def floor_ms(samples: NDArray[np.float64] | Sequence[float]) -> float:
    """Returns the floor of samples (n,), in their unit."""
    import numpy as np

    return float(np.quantile(np.asarray(samples, dtype=np.float64), FLOOR))


def interval_ms(blocks: Sequence[Sequence[float]], level: float = 0.9) -> tuple[float, float]:
    """Returns the bootstrap interval of the floor (percentile method; Efron & Tibshirani 1993, chapter 13).

    Whole blocks are resampled, because times within one are alike. The same blocks give the same interval.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = [np.asarray(block, dtype=np.float64) for block in blocks]
    joined = np.concatenate(arrays)
    owner = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    order = np.argsort(joined, kind="stable")
    ascending, owner = joined[order], owner[order]
    floors = np.empty(_RESAMPLES)
    for turn in range(_RESAMPLES):
        weights = np.bincount(rng.integers(0, len(arrays), len(arrays)), minlength=len(arrays))[owner]
        total = np.cumsum(weights)
        floors[turn] = ascending[np.searchsorted(total, max(FLOOR * total[-1], 1))]
    low, high = np.quantile(floors, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def beside(references: Sequence[float]) -> list[float]:
    """Returns the slower of the reference's times on both sides of each block (n,), of the n + 1 times between them."""
    return [max(pair) for pair in itertools.pairwise(references)]


def settled(blocks: Sequence[Sequence[float]], references: Sequence[float], usual_s: float | None) -> bool:
    """True when enough blocks were quiet and the floor's interval is narrow enough to stop.

    Args:
        blocks: seconds of single inferences.
        references: seconds of the reference before, between and after the blocks.
        usual_s: its usual time, if known.
    """
    limit = QUIET * min(usual_s or math.inf, min(references))
    if sum(value <= limit for value in beside(references)) < QUIET_BLOCKS:
        return False
    low, high = interval_ms(blocks)
    return high - low <= WIDTH * low


def disturbances(conditions: Mapping[str, Any]) -> list[str]:
    """Says what disturbed an attempt, in words; empty when nothing did.

    Args:
        conditions: as the runner tells them: `slowdown`, `others`, `steal`, `throttled`; what is missing is not judged.
    """
    found = []
    slow = float(conditions.get("slowdown", 1.0))
    if slow > SLOW:
        found.append(f"the reference network ran {slow - 1:.0%} slower than usual")
    if float(conditions.get("others", 0.0)) > OTHERS:
        found.append(f"other processes kept {float(conditions['others']):.0%} of the other cores busy")
    if float(conditions.get("steal", 0.0)) > STEAL:
        found.append(f"the host took {float(conditions['steal']):.0%} of the time")
    if conditions.get("throttled"):
        found.append("the processor was throttled")
    return found
