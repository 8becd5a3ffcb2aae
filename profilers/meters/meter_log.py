"""A meter that writes a CSV file by itself, while the measurement runs."""

from __future__ import annotations

import csv
import itertools
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ...spaces.errors import DeviceError
from ..runtimes.runtime import Availability
from .meter import Meter
from .power import integral_mj

__all__ = ["CsvMeter"]

TIMES = {"time_s": 1.0, "time_ms": 1e-3}
POWERS = {"power_w": 1.0, "power_mw": 1e-3}
CURRENTS = {"current_a": 1.0, "current_ma": 1e-3}
VOLTAGES = {"voltage_v": 1.0, "voltage_mv": 1e-3}
"""Columns and what turns them into s, W, A, V."""

POLL_S = 0.05
LONGEST_LINE = 4096
LAST_LINES = 50
"""Lines, at most, that tell the pace."""


class CsvMeter(Meter):
    """The log of an external meter, a CSV file that grows during the measurement.

    The first line names the columns: `time_s` or `time_ms`; `power_w` or `power_mw`, or a current and a voltage
    (`current_a`, `current_ma`, `voltage_v`, `voltage_mv`); others are left out. Of what the log held before the meter
    was opened only the last line counts; the last ones tell its pace.

    The meter's clock and this machine's are brought together in one of two ways. With `marker`, a file such as the
    value of a GPIO pin that is wired to the meter gets 1 at the begin and 0 at the end of every window, and the log's
    column `marker` shows it. Without, `time_s` is this machine's time (seconds since 1970) plus `offset_s`.

    Args:
        path: the log.
        marker: file to write 1 and 0 to.
        offset_s: the log's clock minus this machine's.
        wait_s: how long to wait for the lines of a window.
        interval_s: time between two lines, for a log that holds too few to tell its pace.

    Raises:
        DeviceError: there is no such file, or its first line does not name such columns.
    """

    name: ClassVar[str] = "csv"
    covers = "what the external meter is connected to"

    def __init__(
        self,
        path: Path | str,
        marker: Path | str | None = None,
        offset_s: float = 0.0,
        wait_s: float = 5.0,
        interval_s: float = 0.01,
    ) -> None:
        self._path, self._marker, self._wait_s = Path(path), None if marker is None else Path(marker), float(wait_s)
        first, lines, self._position = _ends(self._path)
        self._columns = [name.strip().lower() for name in next(csv.reader([first]), [])]
        self._scales = self._found()
        self._rest, self._fresh = b"", 0
        self._times: list[float] = []
        self._watts: list[float] = []
        self._edges: list[float] = []
        self._level = 0
        self._marks = 0
        # One look at the clock of the day: if it is set meanwhile, nothing changes.
        self._ahead_s = time.time() - time.monotonic() + float(offset_s)
        self.interval_s = self._pace(lines) or float(interval_s)
        if self._marker is None and lines:  # a window that begins before the next line needs the one before
            self._take(lines[-1])

    @staticmethod
    def available() -> Availability:
        return Availability(False, missing="no log named", install="{use: csv, path: LOG}")

    def mark(self) -> float:
        """Returns this moment on the log's clock, or with a marker the number of the mark."""
        if self._marker is None:
            return time.monotonic() + self._ahead_s
        self._marks += 1
        try:
            self._marker.write_text(str(self._marks % 2), encoding="ascii")
        except OSError as error:
            raise DeviceError(f"the marker {self._marker} cannot be written: {error.strerror}") from None
        return float(self._marks)

    def between_mj(self, begin: float, end: float) -> float:
        latest = time.monotonic() + self._wait_s
        while True:
            self._read()
            ends = self._on_log(begin), self._on_log(end)
            if ends[0] is not None and ends[1] is not None and self._times and self._times[-1] >= ends[1]:
                self.interval_s = _median_gap(self._times[-LAST_LINES:]) or self.interval_s
                return integral_mj(self._times, self._watts, ends[0], ends[1])
            if time.monotonic() > latest:
                break
            time.sleep(POLL_S)
        if self._fresh == 0:
            raise DeviceError(f"{self._path} has no new lines: is the meter logging?")
        what = "its marker did not follow" if self._marker else "its clock is another: give offset_s, or use a marker"
        raise DeviceError(f"{self._path} has no values for the time of the measurement ({what})")

    def _on_log(self, mark: float) -> float | None:
        """Returns when a mark was, on the log's clock; None when the log does not show it yet."""
        if self._marker is None:
            return mark
        return self._edges[int(mark) - 1] if len(self._edges) >= mark else None

    def _found(self) -> dict[str, float]:
        """Returns the columns that are used, with their scales."""
        groups = [TIMES, POWERS] if any(name in POWERS for name in self._columns) else [TIMES, CURRENTS, VOLTAGES]
        found = {}
        for group in groups:
            name = next((name for name in self._columns if name in group), None)
            if name is None:
                raise DeviceError(f"{self._path}: no column {' or '.join(group)} in its first line")
            found[name] = group[name]
        if self._marker is not None and "marker" not in self._columns:
            raise DeviceError(f"{self._path}: no column marker in its first line")
        return found

    def _pace(self, lines: Sequence[bytes]) -> float:
        """Returns the time between two lines in s, 0 when they do not tell it."""
        column, scale = next((self._columns.index(name), TIMES[name]) for name in self._scales if name in TIMES)
        try:
            rows = csv.reader(line.decode(errors="replace") for line in lines)
            return _median_gap([float(row[column]) * scale for row in rows])
        except (ValueError, IndexError):  # said where such a line is taken
            return 0.0

    def _read(self) -> None:
        """Takes in the lines that have come."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            new = file.read()
        self._position += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        for line in lines:
            if line.strip():
                self._take(line)
                self._fresh += 1

    def _take(self, line: bytes) -> None:
        cells = next(csv.reader([line.decode(errors="replace")]), [])
        row = dict(zip(self._columns, cells, strict=False))
        try:
            at, *factors = [float(row[name]) * scale for name, scale in self._scales.items()]
            level = int(float(row["marker"]) > 0.5) if self._marker else 0
        except (KeyError, ValueError):
            raise DeviceError(f"{self._path}: a line without the numbers it should have: {row}"[:200]) from None
        watts = math.prod(factors)
        if not math.isfinite(watts) or not math.isfinite(at):
            raise DeviceError(f"{self._path}: a line with {watts} W at {at} s")
        if self._times and at < self._times[-1]:
            raise DeviceError(f"{self._path}: its time goes backwards, from {self._times[-1]:g} to {at:g} s")
        if level != self._level:
            self._edges.append(at)
            self._level = level
        self._times.append(at)
        self._watts.append(watts)


def _median_gap(times: Sequence[float]) -> float:
    """Returns the median of the steps forward, 0 when there are none."""
    gaps = [after - before for before, after in itertools.pairwise(times) if 0 < after - before < math.inf]
    return statistics.median(gaps) if gaps else 0.0


def _ends(path: Path) -> tuple[str, list[bytes], int]:
    """Returns the first line of a log, the last whole ones after it (or none), and where those end."""
    try:
        with path.open("rb") as file:
            first = file.readline()
            size = file.seek(0, 2)
            start = file.seek(max(len(first), size - LONGEST_LINE))
            tail = file.read()
            whole = tail[: tail.rfind(b"\n") + 1]
            lines = [line for line in whole.split(b"\n") if line.strip()]
            torn = start > len(first) and len(lines) > 1  # the first of them may begin in the midst of a line
            return first.decode(errors="replace"), lines[1 if torn else 0 :][-LAST_LINES:], start + len(whole)
    except OSError as error:
        raise DeviceError(f"meter 'csv': {path} cannot be read: {error.strerror}") from None
