"""Meters that tell power now and then: its integral over time is the energy."""

from __future__ import annotations

import bisect
import contextlib
import math
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ...spaces.errors import DeviceError
from ..runtimes.runtime import Availability
from .meter import Meter

__all__ = ["InaMeter", "SampledMeter", "integral_mj"]

FEWEST_SAMPLES = 4
"""A gap between two samples is at most this part of a window."""
LATEST_S = 2.0
"""How long to wait for the sample that ends a window."""

HWMON = Path("/sys/class/hwmon")


def integral_mj(times: Sequence[float], watts: Sequence[float], begin: float, end: float) -> float:
    """Returns the energy of sampled power by the trapezium rule, in mJ.

    Args:
        times: of the samples in s, rising.
        watts: of the samples.
        begin: of the window, on the same clock.
        end: of the window.

    Raises:
        DeviceError: the samples do not reach over the window, or leave too large a gap in it.

    >>> integral_mj([0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 3.0, 3.0], 0.5, 2.5)
    4000.0
    """
    first, last = bisect.bisect_right(times, begin) - 1, bisect.bisect_left(times, end)
    if first < 0 or last >= len(times):
        raise DeviceError("the meter has no values for the time of the measurement")
    gap = max(times[i + 1] - times[i] for i in range(first, last))
    if gap * FEWEST_SAMPLES > end - begin:
        raise DeviceError(f"the meter was silent for {gap:.3g} s in a window of {end - begin:.3g} s")
    joules = 0.0
    for i in range(first, last):
        (t0, p0), (t1, p1) = (times[i], watts[i]), (times[i + 1], watts[i + 1])
        if t1 <= t0:
            continue
        a, b = max(t0, begin), min(t1, end)
        slope = (p1 - p0) / (t1 - t0)
        joules += (b - a) * (p0 + slope * ((a + b) / 2 - t0))
    return joules * 1e3


class SampledMeter(Meter):
    """A meter that is asked for its power again and again, in a thread of its own."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._watts: list[float] = []
        self._failed: Exception | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name=f"meter {self.name}")
        self._thread.start()
        if not self._begun.wait(LATEST_S + 2 * self.interval_s):  # not in this thread: a serial line may hang
            raise DeviceError(f"meter '{self.name}' says nothing")
        if self._failed is not None:
            raise DeviceError(str(self._failed)) from None

    @abstractmethod
    def watts(self) -> float:
        """Returns the power now, in W.

        Raises:
            DeviceError: it cannot be read.
        """

    def mark(self) -> float:
        return time.monotonic()

    def between_mj(self, begin: float, end: float) -> float:
        latest = time.monotonic() + LATEST_S + 2 * self.interval_s
        while self._failed is None and self._times[-1] < end and time.monotonic() < latest:
            time.sleep(self.interval_s)
        if self._failed is not None:
            raise DeviceError(str(self._failed)) from None
        with self._lock:
            return integral_mj(self._times, self._watts, begin, end)

    def close(self) -> None:
        self._over.set()
        self._thread.join(LATEST_S)

    def _sample(self) -> None:
        try:
            while not self._over.is_set():
                self._take()
                self._begun.set()
                self._over.wait(self.interval_s)
        except Exception as error:  # also of a plug-in; told by the constructor or by `between_mj`
            self._failed = error
            self._begun.set()

    def _take(self) -> None:
        before = time.monotonic()
        watts = self.watts()
        if not math.isfinite(watts) or watts < 0:
            raise DeviceError(f"the meter says {watts} W")
        with self._lock:
            self._times.append((before + time.monotonic()) / 2)
            self._watts.append(watts)


class InaMeter(SampledMeter):
    """The INA3221 of a Jetson, through hwmon: the channel of the whole board where it is labelled, else all channels.

    Args:
        path: folder with the `hwmonN` folders.

    Raises:
        DeviceError: there is no such sensor.
    """

    name: ClassVar[str] = "ina"
    automatic: ClassVar[bool] = True
    interval_s = 0.005

    def __init__(self, path: Path | str = HWMON) -> None:
        channels = _channels(Path(path))
        whole = [(label, channel) for label, channel in channels if label in ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0")]
        self._channels = whole or channels
        if not channels:
            raise DeviceError(f"no INA3221 in {path}: Jetson boards have one")
        self.covers = "the whole board" if whole else "rails " + ", ".join(label for label, _ in channels)
        super().__init__()

    @staticmethod
    def available() -> Availability:
        if _channels(HWMON):
            return Availability(True)
        return Availability(False, missing="no INA3221 in /sys/class/hwmon", install="Jetson boards have one")

    def watts(self) -> float:
        return sum(_scaled(millivolts) * _scaled(milliamperes) for _, (millivolts, milliamperes) in self._channels)


def _channels(root: Path) -> list[tuple[str, tuple[Path, Path]]]:
    """Returns label, and files of voltage (mV) and current (mA), of every channel in use; see the kernel's ina3221."""
    found = []
    for folder in sorted(root.glob("hwmon*")):
        with contextlib.suppress(OSError):
            if "ina3221" not in (folder / "name").read_text(encoding="utf-8", errors="replace"):
                continue
            for number in (1, 2, 3):
                label, files = (
                    folder / f"in{number}_label",
                    (folder / f"in{number}_input", folder / f"curr{number}_input"),
                )
                if label.is_file() and all(file.is_file() for file in files):
                    found.append((label.read_text(encoding="utf-8", errors="replace").strip(), files))
    return found


def _scaled(path: Path) -> float:
    """Reads thousandths."""
    try:
        return int(path.read_text(encoding="utf-8", errors="replace")) / 1e3
    except (OSError, ValueError) as error:
        raise DeviceError(f"{path}: {error}") from None
