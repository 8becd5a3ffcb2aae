"""What an evaluation found out about a candidate, as it is stored with its trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .metrics import Limit, Metric, Reading
from .run_data import State

__all__ = ["Outcome", "share_reading", "violations"]

Z90 = 1.6449
"""Standard normal quantile of a two-sided 90 % interval."""


@dataclass(frozen=True)
class Outcome:
    """The end of a trial.

    Attributes:
        state: complete, pruned (a limit is broken, or a rung was not passed) or fail.
        readings: metric → reading, for every metric that became known.
        reason: why it is not complete, or empty.
        seconds: stage → seconds spent on it.
        rungs: what each passed rung said, cheapest first: the proxy's score, or the share of correct samples.
        uncounted: operators that could not be counted.
        training: of the last rung: `correct`, `total`, `epochs`, `losses`.
        foretold: what the cost model said of metrics that were measured afterwards.
    """

    state: State
    readings: Mapping[str, Reading]
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    rungs: Sequence[float] = ()
    uncounted: Sequence[str] = ()
    training: Mapping[str, Any] | None = None
    foretold: Mapping[str, Reading] = field(default_factory=dict)

    def values(self, objectives: Sequence[Metric]) -> list[float] | None:
        """Returns the objectives' values of a complete trial, else None."""
        if self.state != "complete":
            return None
        found = [self.readings[str(metric)].value for metric in objectives]
        if any(value is None for value in found):
            raise ValueError(f"a complete trial has all its objectives, not {found}")
        return [float(value) for value in found if value is not None]

    def to_dict(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "readings": {name: reading.to_dict() for name, reading in self.readings.items()},
            "reason": self.reason,
            "seconds": {stage: round(spent, 4) for stage, spent in self.seconds.items()},
            "rungs": list(self.rungs),
            "uncounted": list(self.uncounted),
            "training": dict(self.training) if self.training is not None else None,
            "foretold": {name: reading.to_dict() for name, reading in self.foretold.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        return cls(
            data["state"],
            {name: Reading.from_dict(reading) for name, reading in data["readings"].items()},
            data["reason"],
            data["seconds"],
            data["rungs"],
            data["uncounted"],
            data["training"],
            {name: Reading.from_dict(reading) for name, reading in data["foretold"].items()},
        )


def share_reading(correct: int, total: int) -> Reading:
    """Returns a share of samples with its 90 % interval (Wilson 1927), which is about the finite sample alone."""
    share = correct / total
    z = Z90 * Z90 / total
    middle = (share + z / 2) / (1 + z)
    reach = Z90 * math.sqrt(share * (1 - share) / total + z / (4 * total)) / (1 + z)
    return Reading(share, max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach)))


def violations(limits: Sequence[Limit], readings: Mapping[str, Reading]) -> dict[str, float]:
    """Returns by how much each limit is broken (at most 0 where it holds), for the metrics that have a value."""
    told = {}
    for limit in limits:
        reading = readings.get(str(limit.metric))
        if reading is not None and reading.value is not None:
            told[str(limit)] = limit.violation(reading.value)
    return told
