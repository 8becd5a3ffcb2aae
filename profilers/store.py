"""Measurements kept from study to study: every raw sample, by what was measured, where and how.

The file is a cache: it may be deleted at any time, several processes may use it at once, and what is damaged in it is
ignored, counted and measured again. Nothing is ever found for another device, runtime version or protocol.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..spaces.errors import CandidateError
from .estimate import Estimate
from .graph import Graph
from .measurement import Measurement
from .profiler import Profiler

__all__ = ["MeasurementStore", "Stored", "digest_of"]

WAIT_S = 5.0
"""Longest wait for another process that writes."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS measurements (
    model TEXT NOT NULL, device TEXT NOT NULL, taken_s REAL NOT NULL, check_sum INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_what ON measurements (model, device);
PRAGMA user_version = 1;
"""

SCHEMA_VERSION = 1
"""Of the file; one of another version is left alone."""


class MeasurementStore:
    """A file of measurements.

    >>> store = MeasurementStore(Path("measurements.db"))                       # doctest: +SKIP
    >>> store.find(digest_of(Path("model.onnx")), profiler.fingerprint())       # doctest: +SKIP

    Args:
        path: of the file; None for the user's cache folder.

    Attributes:
        damaged: number of entries, or whole files, that were found damaged and ignored.
    """

    def __init__(self, path: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        self.path = path or cache / "hwnas" / "measurements.db"
        self.damaged = 0

    def find(self, model: str, fingerprint: Mapping[str, Any]) -> Measurement | None:
        """Returns the last measurement that was not noisy, or None.

        Args:
            model: digest of the file, see `digest_of`.
            fingerprint: of the device, runtime and protocol.
        """
        with self._open() as opened:
            if opened is None:
                return None
            sought = "SELECT check_sum, body FROM measurements WHERE model = ? AND device = ? ORDER BY rowid DESC"
            for check_sum, body in opened.execute(sought, (model, _key(fingerprint))):
                found = self._read(check_sum, body)
                if found is not None and found.quality == "ok":
                    return found
        return None

    def add(self, model: str, fingerprint: Mapping[str, Any], measurement: Measurement) -> None:
        """Keeps a measurement; does nothing where the file cannot be written."""
        body = zlib.compress(json.dumps(measurement.to_json()).encode())
        with self._open() as opened:
            if opened is not None:
                row = (model, _key(fingerprint), time.time(), zlib.crc32(body), body)
                opened.execute("INSERT INTO measurements VALUES (?, ?, ?, ?, ?)", row)
                opened.commit()

    def _read(self, check_sum: object, body: object) -> Measurement | None:
        try:
            if not isinstance(body, bytes) or zlib.crc32(body) != check_sum:
                raise ValueError("damaged")
            return Measurement.from_json(json.loads(zlib.decompress(body)))
        except (ValueError, zlib.error, CandidateError, RecursionError):
            self.damaged += 1
            return None

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """Gives a connection, or None where there can be none; a damaged file is moved aside, not deleted."""
        opened = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            opened = self._connected()
            yield opened
        except sqlite3.OperationalError:  # locked for long, read-only, disk full: measure without it
            if opened is None:
                yield None
        except OSError:
            if opened is None:
                yield None
        except sqlite3.DatabaseError:  # damaged beyond the header
            self._set_aside()
            if opened is None:
                yield None
        finally:
            if opened is not None:
                opened.close()

    def _connected(self) -> sqlite3.Connection:
        for last in (False, True):
            opened = sqlite3.connect(self.path, timeout=WAIT_S)
            try:
                (version,) = opened.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    opened.execute("PRAGMA journal_mode = WAL")
                    opened.executescript(_SCHEMA)
                elif version != SCHEMA_VERSION:
                    raise sqlite3.OperationalError(f"{self.path} is of another version of hwnas")
                return opened
            except sqlite3.OperationalError:
                opened.close()
                raise
            except sqlite3.DatabaseError:  # not a database
                opened.close()
                if last:
                    raise
                self._set_aside()
        raise AssertionError("unreachable")

    def _set_aside(self) -> None:
        self.damaged += 1
        for name in (self.path.name, f"{self.path.name}-wal", f"{self.path.name}-shm"):
            with contextlib.suppress(OSError):
                self.path.with_name(name).replace(self.path.with_name(f"{name}.damaged"))


class Stored(Profiler):
    """A profiler that asks the store first, and keeps there what it measures.

    Args:
        profiler: what measures.
        store: where measurements are kept.
        ask: False to keep them, and never to look.
    """

    def __init__(self, profiler: Profiler, store: MeasurementStore, *, ask: bool = True) -> None:
        self.profiler, self.store, self.ask = profiler, store, ask
        self.reused = 0
        """Number of measurements that did not have to be taken."""

    @property
    def provenance(self) -> Literal["measured", "estimated"]:  # type: ignore[override]  # that of what it wraps
        return self.profiler.provenance

    @property
    def here(self) -> bool:  # type: ignore[override]  # as above
        return self.profiler.here

    @property
    def gives_outputs(self) -> bool:  # type: ignore[override]  # as above
        return self.profiler.gives_outputs

    @property
    def deadline_s(self) -> float:  # type: ignore[override]  # as above
        return self.profiler.deadline_s

    def measure(self, path: Path, inputs: Path | None = None) -> Measurement | Estimate:
        if self.ask:
            found = self.store.find(digest_of(path), self.profiler.fingerprint())
            if found is not None and not self.profiler.outdated(found) and not self._lacks_energy(found):
                self.reused += 1
                return found if self.profiler.tells_energy else replace(found, energy=None)
        return self.measure_again(path, inputs)

    def _lacks_energy(self, found: Measurement) -> bool:
        """True when energy is asked for, and this has none: the meter may have come back."""
        return self.profiler.tells_energy and (found.energy is None or found.energy.source == "missing")

    def measure_again(self, path: Path, inputs: Path | None = None) -> Measurement | Estimate:
        """Measures without asking the store. Estimates are not kept: they cost no time on a device."""
        told = self.profiler.measure(path, inputs)
        if isinstance(told, Measurement):
            self.store.add(digest_of(path), self.profiler.fingerprint(), told)
        return told

    def graph(self, path: Path) -> Graph:
        return self.profiler.graph(path)

    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        return self.profiler.run(path, x, out, deadline_s)

    def fingerprint(self) -> dict[str, Any]:
        return self.profiler.fingerprint()

    def outdated(self, measurement: Measurement) -> bool:
        return self.profiler.outdated(measurement)

    def restart(self) -> None:
        self.profiler.restart()

    def close(self) -> None:
        self.profiler.close()


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(fingerprint: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(fingerprint), sort_keys=True).encode()).hexdigest()
