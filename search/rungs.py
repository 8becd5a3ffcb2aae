"""Which candidates go on to the next rung of quality."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import numpy as np

from .pareto import crowding, ranks

__all__ = ["RungBoard"]


class RungBoard:
    """Remembers what every rung said of every candidate, and lets the best share of each go on.

    Best is by non-dominated rank over quality so far and the other objectives, then by crowding, so that small networks
    compete with small ones. Decisions are made as candidates come: no rung waits for a full round (asynchronous, as in
    ASHA; Li et al. 2020).

    Args:
        keeps: for each rung but the last, the share that goes on.
    """

    def __init__(self, keeps: Sequence[float]) -> None:
        self._keeps = tuple(keeps)
        self._scores: list[list[tuple[float, ...]]] = [[] for _ in keeps]
        self._lock = threading.Lock()

    def note(self, rung: int, score: float, costs: Sequence[float]) -> None:
        """Records an earlier candidate: `score` is better when higher, `costs` when lower."""
        if rung < len(self._scores):
            with self._lock:
                self._scores[rung].append((-score, *costs))

    def goes_on(self, rung: int, score: float, costs: Sequence[float]) -> bool:
        """Records a candidate and tells whether it is among the best share at this rung."""
        if rung >= len(self._keeps):
            return True
        with self._lock:
            self._scores[rung].append((-score, *costs))
            values = np.array(self._scores[rung])
        rank = ranks(values)
        spread = crowding(values[rank == rank[-1]])  # the candidate is the last of its rank
        before = int((rank < rank[-1]).sum()) + int((spread > spread[-1]).sum())
        return before < math.ceil(self._keeps[rung] * len(values))
