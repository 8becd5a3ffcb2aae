"""The energy of one inference, taken by a meter in the process and run that gave the latency.

Two idle windows stand around some busy ones. A window is long against the meter's own pace and steps. What the busy
windows took beyond idle power, over their inferences, is the energy; a meter that is silent, stays at zero or goes
backwards gives a missing reading with its reason, never a zero.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ...spaces.errors import CandidateError, DeviceError
from .meter import MODEL, Meter, open_meter

__all__ = ["Energy", "estimated_energy", "measure_energy", "measured_energy"]

Source = Literal["measured", "estimated", "missing"]

WINDOWS = 5
"""Busy windows; also the fewest whose extremes hold the median with 90 %."""

INTERVALS = 20
"""A window has at least this many intervals of the meter, ..."""

STEPS = 50
"""... and moves its counter by at least this many of its smallest steps."""

PACED = 0.8
"""Part of the intervals that are enough when the pace turns out to be slower than it was."""

LEAST_S, MOST_S = 0.2, 4.0
"""Shortest and longest window."""

LATEST_S, LONGEST_S = 45.0, 60.0
"""No window begins later than this, and more than all windows together take."""

SETTLE_S = 0.05
"""Untimed inferences before a busy window: the clock of an idle processor rises again."""


@dataclass(frozen=True)
class Energy:
    """The energy of one inference on one device.

    Attributes:
        source: measured, estimated (from a stated power) or missing.
        meter: name of the meter.
        covers: what it sees.
        energy_mj: of one inference beyond idle power, in mJ; the whole by an estimate; None when missing.
        low_mj: lower end of its interval.
        high_mj: upper end of its interval.
        idle_w: power while nothing ran, which is not part of `energy_mj`.
        busy_w: power while the model ran, idle power included.
        windows_mj: energy of one inference by each busy window.
        repetitions: inferences of each busy window.
        window_s: aimed length of a window.
        resolution_mj: smallest step of the meter's counter, 0 where power is sampled.
        reason: why it is missing, or what was assumed.
    """

    source: Source
    meter: str
    covers: str = ""
    energy_mj: float | None = None
    low_mj: float | None = None
    high_mj: float | None = None
    idle_w: float | None = None
    busy_w: float | None = None
    windows_mj: tuple[float, ...] = ()
    repetitions: tuple[int, ...] = ()
    window_s: float = 0.0
    resolution_mj: float = 0.0
    reason: str = ""

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise CandidateError("bad_result", f"energy is measured, estimated or missing, not {self.source!r}"[:200])
        ends = (self.low_mj, self.energy_mj, self.high_mj)
        if self.source == "missing":
            if any(end is not None for end in ends) or not self.reason:
                raise CandidateError("bad_result", "missing energy has a reason and no value")
            return
        found = (*ends, *self.windows_mj, *(value for value in (self.idle_w, self.busy_w) if value is not None))
        for value in found:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise CandidateError("bad_result", f"an energy or power must be finite, not {value!r}"[:200])
        low, middle, high = (value or 0.0 for value in ends)
        if not 0 <= low <= middle <= high or middle <= 0:
            raise CandidateError("bad_result", f"energy {low} to {middle} to {high} mJ is not in order above 0")

    @property
    def noisy(self) -> bool:
        """True when the interval is wider than 15 % of the value, as that of a latency."""
        return self.energy_mj is not None and (self.high_mj or 0) - (self.low_mj or 0) > 0.15 * self.energy_mj

    def to_json(self) -> dict[str, Any]:
        """A JSON-plain dictionary; `from_json` reads it back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Energy:
        """Reads what `to_json` wrote, or what a runner answered.

        Raises:
            CandidateError: `bad_result`, it is not of that form.
        """
        try:
            texts = [data.get(name, "") for name in ("meter", "covers", "reason")]
            if not all(isinstance(text, str) and len(text) <= 2000 for text in texts):
                raise ValueError("a text is none, or too long")
            lists = {name: tuple(data.get(name, ())) for name in ("windows_mj", "repetitions")}
            return cls(**{**data, **lists})
        except (TypeError, ValueError, AttributeError) as error:
            raise CandidateError("bad_result", f"not an energy: {error}"[:300]) from None


@dataclass(frozen=True)
class _Window:
    """What a meter said of a stretch of time."""

    total_mj: float
    seconds: float
    repetitions: int = 0

    @property
    def watts(self) -> float:
        return self.total_mj / self.seconds / 1e3


def measured_energy(infer: Callable[[], object], options: Mapping[str, Any], runtime: str = "") -> Energy:
    """Opens a meter, takes the energy of `infer`, and closes it; whatever fails is a missing energy with its reason.

    Raises:
        CandidateError, UsageError: of `infer`, or no such meter or option.
    """
    name = str(options["use"])
    try:
        meter = open_meter(options, runtime)
    except DeviceError as error:
        return Energy("missing", name, reason=str(error))
    try:
        return measure_energy(infer, meter)
    finally:
        try:
            meter.close()
        except Exception as error:  # the energy is known by now
            print(f"meter '{name}' could not be closed: {error}")


def measure_energy(
    infer: Callable[[], object],
    meter: Meter,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """Returns the energy of one `infer()`, or a missing one with the reason.

    The interval is that of the windows' median (the extremes of five hold it with 94 %), widened by one step and one
    interval of the meter at the ends of a window, and by how far the two idle windows differ.
    """
    try:
        return _measured(infer, meter, clock, sleep)
    except DeviceError as error:
        return Energy("missing", meter.name, getattr(meter, "covers", ""), reason=str(error))


def estimated_energy(watts: float, low_ms: float, latency_ms: float, high_ms: float) -> Energy:
    """Returns a stated power times the latency: W x ms = mJ."""
    return Energy(
        "estimated",
        MODEL,
        energy_mj=watts * latency_ms,
        low_mj=watts * low_ms,
        high_mj=watts * high_ms,
        reason=f"a stated power of {watts:g} W x latency",
    )


def _measured(
    infer: Callable[[], object], meter: Meter, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Energy:
    latest = clock() + LATEST_S

    def busy(window_s: float) -> _Window:
        if clock() > latest:
            raise DeviceError(f"inferences are too slow to fill {WINDOWS} windows in {LATEST_S:g} s")
        _repeat(infer, SETTLE_S, clock)
        return _window(meter, lambda: _repeat(infer, window_s, clock), clock)

    def idle(window_s: float) -> _Window:
        return _window(meter, lambda: _rest(sleep, window_s), clock)

    window_s = _long_enough(busy, meter)
    first = idle(window_s)
    windows = [busy(window_s) for _ in range(WINDOWS)]
    last = idle(window_s)
    idle_w = (first.watts + last.watts) / 2
    each = [(window.total_mj - idle_w * window.seconds * 1e3) / window.repetitions for window in windows]
    busy_w = statistics.median(window.watts for window in windows)
    value = statistics.median(each)
    if value <= 0:
        raise DeviceError(f"meter '{meter.name}' sees no more power than at idle ({busy_w:.3g} W, idle {idle_w:.3g} W)")
    reach = max(_unsure_mj(window, meter, abs(first.watts - last.watts) / 2) for window in windows)
    return Energy(
        "measured",
        meter.name,
        meter.covers,
        value,
        max(0.0, min(each) - reach),
        max(each) + reach,
        idle_w,
        busy_w,
        tuple(each),
        tuple(window.repetitions for window in windows),
        window_s,
        meter.resolution_mj,
    )


def _long_enough(busy: Callable[[float], _Window], meter: Meter) -> float:
    """Returns the length of a window in which the counter moves far enough, in s.

    Raises:
        DeviceError: it does not, in the longest window.
    """
    window_s = _paced(meter)
    while True:
        moved = busy(window_s).total_mj
        far = moved > 0 and moved >= STEPS * meter.resolution_mj
        if far and window_s >= PACED * _paced(meter):
            return window_s
        if window_s >= MOST_S:
            break
        window_s = _paced(meter) if far else min(4 * window_s, MOST_S)
    if moved == 0:
        raise DeviceError(f"meter '{meter.name}' stayed at the same value for {MOST_S:g} s of work")
    raise DeviceError(
        f"meter '{meter.name}' is too coarse: {moved:.3g} mJ in {MOST_S:g} s, with steps of {meter.resolution_mj:g} mJ"
    )


def _paced(meter: Meter) -> float:
    """Returns the shortest window for a meter's pace, in s; that of a log is known better with every window."""
    return min(max(LEAST_S, INTERVALS * meter.interval_s), MOST_S)


def _window(meter: Meter, work: Callable[[], int], clock: Callable[[], float]) -> _Window:
    """Does some work between two marks of a meter; `work` returns its repetitions.

    Raises:
        DeviceError: the meter is lost, or what it says cannot be.
    """
    begin, start = _asked(meter, meter.mark), clock()
    repetitions = work()
    seconds, end = clock() - start, _asked(meter, meter.mark)
    total_mj = _asked(meter, lambda: meter.between_mj(begin, end))
    if total_mj < 0:
        raise DeviceError(f"meter '{meter.name}' went backwards, by {-total_mj:.3g} mJ")
    return _Window(total_mj, seconds, repetitions)


def _asked(meter: Meter, ask: Callable[[], object]) -> float:
    try:
        value = ask()
    except DeviceError:
        raise
    except Exception as error:  # whatever a plug-in does
        raise DeviceError(f"meter '{meter.name}': {type(error).__name__}: {error}"[:300]) from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DeviceError(f"meter '{meter.name}' says {'nothing' if value is None else repr(value)[:40]}")
    return float(value)


def _repeat(infer: Callable[[], object], seconds: float, clock: Callable[[], float]) -> int:
    """Runs for a time, at least once; returns how often."""
    end, count = clock() + seconds, 0
    while count == 0 or clock() < end:
        infer()
        count += 1
    return count


def _rest(sleep: Callable[[float], None], seconds: float) -> int:
    """Does nothing for a time, no repetition of anything."""
    sleep(seconds)
    return 0


def _unsure_mj(window: _Window, meter: Meter, idle_apart_w: float) -> float:
    """What is not known of one inference's energy by one window."""
    meter_mj = meter.resolution_mj + meter.interval_s * window.watts * 1e3
    return (meter_mj + idle_apart_w * window.seconds * 1e3) / window.repetitions
