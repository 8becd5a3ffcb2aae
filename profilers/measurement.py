"""What a device said about one model: every raw sample, and the statistics made of them (see `protocol.py`)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ..spaces.errors import CandidateError
from .meters.energy import Energy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Measurement", "pool"]

FEWEST_QUIET = 3
"""Fewest quiet blocks; with fewer, all blocks count."""

MAX_SAMPLES = 100_000
"""Largest number of samples of one attempt that is read."""


@dataclass(frozen=True)
class Measurement:
    """Times of one model on one device, of one attempt or of several.

    Attributes:
        blocks: times of single inferences in milliseconds, block by block, in the order taken.
        disturbance: per block, the reference's time beside it over its usual time, >= about 1; empty when the runner
            has no reference.
        warmup: untimed inferences before the first block.
        conditions: load, stolen time, reference, …; with several attempts `parts` has those of each.
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

    @property
    def latency_ms(self) -> float:
        """The latency to quote, in ms: the floor, as on an undisturbed machine. See `protocol.py`."""
        from .protocol import floor_ms

        return floor_ms(self._corrected)

    @property
    def low_ms(self) -> float:
        """Lower end of the 90 % interval of the latency, in ms."""
        return self._interval[0]

    @property
    def high_ms(self) -> float:
        """Upper end of the 90 % interval of the latency, in ms."""
        return self._interval[1]

    @property
    def median_ms(self) -> float:
        """Median of the samples in quiet blocks, in ms: what one inference took, disturbances that lasted included."""
        return statistics.median(self._samples)

    @property
    def p90_ms(self) -> float:
        """90 % of the samples in quiet blocks are at most this, in ms."""
        return _quantile(self._samples, 0.9)

    @property
    def p99_ms(self) -> float:
        """99 % of the samples in quiet blocks are at most this, in ms."""
        return _quantile(self._samples, 0.99)

    @property
    def min_ms(self) -> float:
        """Smallest of all samples, in ms."""
        return min(min(block) for block in self.blocks)

    @property
    def spread(self) -> float:
        """(p90 - latency) / latency: how far single inferences lie above the floor."""
        return self.p90_ms / self.latency_ms - 1

    @property
    def processes(self) -> tuple[int, ...]:
        """Id of the process that took each block."""
        told = [(int(part.conditions.get("process", self.process)), part.end - part.begin) for part in self._parts]
        return tuple(process for process, count in told for _ in range(count))

    @property
    def samples(self) -> int:
        """Number of timed inferences."""
        return sum(map(len, self.blocks))

    @property
    def quality(self) -> Literal["ok", "noisy"]:
        """`noisy` when something disturbed every attempt or the interval is wide; `disturbances` says what."""
        return "noisy" if self.disturbances else "ok"

    @cached_property
    def disturbances(self) -> tuple[str, ...]:
        """Why the measurement is noisy, in words; empty when it is not."""
        from .protocol import LARGEST_WIDTH, disturbances

        found = [] if any(part.calm for part in self._parts) else disturbances(self._kept[-1].conditions)
        width = (self.high_ms - self.low_ms) / self.latency_ms
        if width > LARGEST_WIDTH:
            found.append(f"the interval of the latency is {width:.0%} wide")
        return tuple(found)

    @cached_property
    def _parts(self) -> tuple[_Part, ...]:
        told = self.conditions or {}
        parts, begin = [], 0
        for conditions in told.get("parts") or [{**told, "blocks": len(self.blocks)}]:
            end = begin + int(conditions["blocks"])
            parts.append(_Part(begin, end, conditions))
            begin = end
        return tuple(parts)

    @property
    def _kept(self) -> tuple[_Part, ...]:
        """The attempts that nothing disturbed; all where there is none."""
        return tuple(part for part in self._parts if part.calm) or self._parts

    @cached_property
    def _corrected(self) -> NDArray[np.float64]:
        """Samples of the kept attempts over the reference's slow-down in each, in ms."""
        import numpy as np

        return np.concatenate(
            [np.concatenate(self.blocks[part.begin : part.end]) / part.corrected for part in self._kept]
        )

    @cached_property
    def _interval(self) -> tuple[float, float]:
        """The bootstrap interval, widened by what the attempts differ by and by what the correction may be wrong by."""
        import numpy as np

        from .protocol import MARGIN, floor_ms, interval_ms

        ends = [self.latency_ms]
        for part in self._kept:
            blocks = self.blocks[part.begin : part.end]
            own = floor_ms(np.concatenate(blocks))
            ends += [value / part.corrected for value in interval_ms(blocks)]
            ends += [own, own / part.slow**1.5]  # not slowed at all, or half as much again as the reference
        return min(ends) * (1 - MARGIN), max(ends) * (1 + MARGIN)

    @cached_property
    def _samples(self) -> list[float]:
        """Samples of the quiet blocks of the kept attempts in ms, ascending."""
        from .protocol import QUIET

        places = [place for part in self._kept for place in range(part.begin, part.end)]
        quiet = [place for place in places if self.disturbance and self.disturbance[place] <= QUIET]
        return sorted(v for place in (quiet if len(quiet) >= FEWEST_QUIET else places) for v in self.blocks[place])

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
            attempts = len(data.get("conditions", {}).get("parts") or [None])
            if sum(len(block) for block in data["blocks"]) > MAX_SAMPLES * attempts:
                raise ValueError(f"more than {MAX_SAMPLES} samples an attempt")
            made = cls(
                blocks=tuple(tuple(block) for block in data["blocks"]),
                disturbance=tuple(data.get("disturbance", ())),
                warmup=int(data.get("warmup", 0)),
                conditions=dict(data.get("conditions", {})),
                fingerprint=dict(data.get("fingerprint", {})),
                process=int(data.get("process", 0)),
                energy=Energy.from_json(data["energy"]) if "energy" in data else None,
            )
            if made._parts[-1].end != len(made.blocks) or any(part.begin >= part.end for part in made._parts):
                raise ValueError("the parts do not have the blocks")
            for part in made._parts:
                part.check()
            return made
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CandidateError("bad_result", f"not a measurement: {error}"[:300]) from None


@dataclass(frozen=True, slots=True)
class _Part:
    """One attempt.

    Attributes:
        begin, end: its blocks.
        conditions: as the runner told them.
    """

    begin: int
    end: int
    conditions: Mapping[str, Any]

    def check(self) -> None:
        """Raises ValueError or TypeError when a condition that counts is no finite number >= 0."""
        for name in ("slowdown", "others", "steal", "usual_s"):
            if not 0 <= self.conditions.get(name, 1.0) < math.inf:
                raise ValueError(f"{name} must be a finite number, at least 0")

    @property
    def slow(self) -> float:
        """Slow-down of the reference, at least 1."""
        return max(float(self.conditions.get("slowdown", 1.0)), 1.0)

    @property
    def corrected(self) -> float:
        """What times are divided by."""
        from .protocol import MOST_CORRECTED

        return min(self.slow, MOST_CORRECTED)

    @property
    def calm(self) -> bool:
        """True when nothing disturbed it."""
        from .protocol import disturbances

        return not disturbances(self.conditions)


def pool(taken: Sequence[Measurement]) -> Measurement:
    """All blocks of several attempts, each against the fastest reference among them."""
    told = [part.conditions for item in taken for part in item._parts]
    sizes = [part.end - part.begin for item in taken for part in item._parts]
    best = min((float(each["usual_s"]) for each in told if "usual_s" in each), default=None)
    parts, scales = [], []
    for each, size in zip(told, sizes, strict=True):
        scale = each["usual_s"] / best if best and "usual_s" in each else 1.0
        slower = {"usual_s": best, "slowdown": each.get("slowdown", 1.0) * scale} if scale != 1.0 else {}
        parts.append({**each, **slower, "blocks": size})
        scales += [scale] * size
    ratios = [ratio for item in taken for ratio in item.disturbance]
    last = {name: value for name, value in parts[-1].items() if name != "blocks"}
    pooled = replace(
        taken[-1],
        blocks=tuple(block for item in taken for block in item.blocks),
        disturbance=tuple(ratio * scale for ratio, scale in zip(ratios, scales, strict=True)) if ratios else (),
        conditions={**last, "parts": parts} if len(parts) > 1 else last,
    )
    return replace(pooled, energy=_pooled_energy(taken, pooled))


def _pooled_energy(taken: Sequence[Measurement], pooled: Measurement) -> Energy | None:
    """The middle one of those measured, as wide as they differ; else an estimate, of the pooled latency."""
    told = [item.energy for item in taken if item.energy is not None]
    measured = sorted((one for one in told if one.source == "measured"), key=lambda one: one.energy_mj or 0.0)
    if measured:
        low = min(one.low_mj or 0.0 for one in measured)
        high = max(one.high_mj or 0.0 for one in measured)
        return replace(measured[(len(measured) - 1) // 2], low_mj=low, high_mj=high)
    for item in taken:
        if item.energy is not None and item.energy.source == "estimated":
            watts = (item.energy.energy_mj or 0.0) / item.latency_ms
            low, middle, high = (watts * end for end in (pooled.low_ms, pooled.latency_ms, pooled.high_ms))
            return replace(item.energy, energy_mj=middle, low_mj=low, high_mj=high)
    return told[0] if told else None


def _quantile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    return ascending[max(math.ceil(share * len(ascending)) - 1, 0)]
