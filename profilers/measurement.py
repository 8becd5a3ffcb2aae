"""What a device said about one model: every raw sample, and the statistics made of them.

Samples come in blocks of a few milliseconds. Before and after each block the runner times a fixed piece of work of its
own, the reference. A block is *quiet* when the reference ran at its usual speed on both sides: nothing else held the
core, its hardware twin or the memory meanwhile. The statistics are made of the quiet blocks; all are kept.

Without quiet blocks the measurement is noisy. Its fastest samples fell into gaps between the disturbances, so the 2 %
quantile of all samples stands for the median then, inside a wide interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..spaces.errors import CandidateError
from .energy import Energy

__all__ = ["Measurement"]

QUIET = 1.06
"""Largest slow-down of the reference, against its usual time, beside a quiet block.

On the machine of `docs/profiling.md` the reference varies by 1 % when nothing disturbs it and slows down by 1.35 when
the other hardware thread of the core is busy.
"""

FEWEST_QUIET = 3
"""Fewest quiet blocks that are used; with fewer the fastest samples have to do."""

ENOUGH_QUIET = 8
"""Fewest quiet blocks of a measurement that is not noisy."""

LARGEST_SPREAD = 0.15
"""Largest (high - low) / median of a measurement that is not noisy."""

MAX_SAMPLES = 100_000
"""Largest number of samples that is read from a runner."""


@dataclass(frozen=True)
class Measurement:
    """Times of one model on one device.

    Attributes:
        blocks: times of single inferences in milliseconds, block by block, in the order taken.
        disturbance: per block, the reference's time beside it over its usual time, >= about 1; empty when the runner
            has no reference (all blocks then count as quiet).
        warmup: untimed inferences before the first block.
        conditions: load, stolen time, reference, attempts.
        fingerprint: of the device and runtime.
        process: id of the process that measured.
        energy: of one inference, None when no meter was asked for.

    >>> Measurement(((1.0, 1.2, 1.1), (1.1, 1.1, 1.1)), warmup=3).median_ms
    1.1
    """

    blocks: tuple[tuple[float, ...], ...]
    warmup: int = 0
    conditions: Mapping[str, Any] | None = None
    fingerprint: Mapping[str, Any] | None = None
    process: int = 0
    disturbance: tuple[float, ...] = ()
    energy: Energy | None = None

    def __post_init__(self) -> None:
        if not self.blocks or not all(self.blocks):
            raise CandidateError("bad_result", "a measurement without samples")
        if self.disturbance and len(self.disturbance) != len(self.blocks):
            raise CandidateError("bad_result", "not one disturbance per block")
        for value in (*self.disturbance, *(value for block in self.blocks for value in block)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise CandidateError("bad_result", f"a time must be a finite number above 0, not {value!r}"[:200])

    @cached_property
    def kept(self) -> tuple[int, ...]:
        """Positions of the blocks that the statistics use: the quiet ones; all of them where there are too few."""
        quiet = tuple(place for place, ratio in enumerate(self.disturbance) if ratio <= QUIET)
        return quiet if len(quiet) >= FEWEST_QUIET else tuple(range(len(self.blocks)))

    @property
    def _blind(self) -> bool:
        """True when next to no block was quiet."""
        return bool(self.disturbance) and self.quiet_blocks < FEWEST_QUIET

    @cached_property
    def quiet_blocks(self) -> int:
        """Number of undisturbed blocks."""
        return sum(ratio <= QUIET for ratio in self.disturbance) if self.disturbance else len(self.blocks)

    @cached_property
    def _medians(self) -> list[float]:
        """Medians of the kept blocks in ms, ascending."""
        return sorted(statistics.median(self.blocks[place]) for place in self.kept)

    @cached_property
    def _samples(self) -> list[float]:
        """Samples of the kept blocks in ms, ascending."""
        return sorted(value for place in self.kept for value in self.blocks[place])

    @property
    def median_ms(self) -> float:
        """Median of the quiet blocks' medians, in ms: the latency to quote."""
        if self._blind:
            return _quantile(self._samples, 0.02)
        return statistics.median(self._medians)

    @property
    def p90_ms(self) -> float:
        """90 % of the samples in kept blocks are at most this, in ms."""
        return _quantile(self._samples, 0.9)

    @property
    def p99_ms(self) -> float:
        """99 % of the samples in kept blocks are at most this, in ms."""
        return _quantile(self._samples, 0.99)

    @property
    def min_ms(self) -> float:
        """Smallest of all samples, in ms."""
        return min(min(block) for block in self.blocks)

    @property
    def low_ms(self) -> float:
        """Lower end of the 90 % interval of the median, in ms."""
        return self.min_ms if self._blind else self._medians[_interval(len(self._medians))[0]]

    @property
    def high_ms(self) -> float:
        """Upper end of the 90 % interval of the median, in ms."""
        return statistics.median(self._medians) if self._blind else self._medians[_interval(len(self._medians))[1]]

    @property
    def quality(self) -> Literal["ok", "noisy"]:
        """`noisy` when too few blocks were quiet, or the interval is wide: measure again, or on a quieter machine."""
        wide = self.high_ms - self.low_ms > LARGEST_SPREAD * self.median_ms
        few = bool(self.disturbance) and self.quiet_blocks < ENOUGH_QUIET
        return "noisy" if wide or few else "ok"

    def to_json(self) -> dict[str, Any]:
        """A JSON-plain dictionary; `from_json` reads it back."""
        return {
            "blocks": [list(block) for block in self.blocks],
            "disturbance": list(self.disturbance),
            "warmup": self.warmup,
            "conditions": dict(self.conditions or {}),
            "fingerprint": dict(self.fingerprint or {}),
            "process": self.process,
            **({} if self.energy is None else {"energy": self.energy.to_json()}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Reads what `to_json` wrote, or what a runner answered.

        Raises:
            CandidateError: `bad_result`, it is not of that form or holds a time that is no finite number above 0.
        """
        try:
            unknown = set(data) - {"blocks", "disturbance", "warmup", "conditions", "fingerprint", "process", "energy"}
            if unknown:
                raise ValueError(f"unknown keys {sorted(unknown)}")
            if sum(len(block) for block in data["blocks"]) > MAX_SAMPLES:
                raise ValueError(f"more than {MAX_SAMPLES} samples")
            return cls(
                blocks=tuple(tuple(block) for block in data["blocks"]),
                disturbance=tuple(data.get("disturbance", ())),
                warmup=int(data.get("warmup", 0)),
                conditions=dict(data.get("conditions", {})),
                fingerprint=dict(data.get("fingerprint", {})),
                process=int(data.get("process", 0)),
                energy=Energy.from_json(data["energy"]) if "energy" in data else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CandidateError("bad_result", f"not a measurement: {error}"[:300]) from None


def _quantile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return ascending[max(math.ceil(share * len(ascending)) - 1, 0)]


def _interval(count: int, level: float = 0.9) -> tuple[int, int]:
    """Positions of the order statistics that hold the median with at least `level` (distribution-free).

    The number of values below the median is binomial with probability 1/2 (David & Nagaraja, Order Statistics, 7.1).
    For fewer than five values no interval reaches the level: the extremes are given.
    """
    if count > 200:
        half = 1.6449 * math.sqrt(count) / 2
        return max(math.floor(count / 2 - half), 0), min(math.ceil(count / 2 + half), count - 1)
    tail, low = 0.0, 0
    for below in range(count // 2):
        tail += math.comb(count, below) / 2**count
        if tail > (1 - level) / 2:
            break
        low = below
    return low, count - 1 - low
