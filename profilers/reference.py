"""The reference's usual time, remembered from measurement to measurement and from process to process.

A process that starts while a neighbour is busy would take the slow reference for the usual one, and every number with
it. So the last times are kept in a small file of the user's cache, per machine and for a day.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from collections import deque
from pathlib import Path
from typing import Any

from .fingerprint import fingerprint
from .protocol import VERSION

__all__ = ["ReferenceMemory"]

KEPT = 50
"""Number of last windows that count: a machine that really became slower is believed when a tenth of them is left."""

WINDOW_S = 300.0
"""Of each window, the fastest time counts: a neighbour may be busy for long, but seldom without a gap."""

OLDEST_S = 24 * 3600.0


class ReferenceMemory:
    """The reference's times in the last windows of time in which something was measured on this machine, in seconds.

    Args:
        path: file to keep them in; None for the user's cache folder. A file that cannot be read or written is ignored.
    """

    def __init__(self, path: Path | None = None) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        self._path = path or cache / "hwnas" / "reference.json"
        self._key = hashlib.sha256(json.dumps([VERSION, fingerprint()], sort_keys=True).encode()).hexdigest()[:16]
        self._last: deque[tuple[float, float]] = deque(self._read().get(self._key, []), maxlen=KEPT)

    @property
    def usual_s(self) -> float | None:
        """The time that one in ten of those remembered does not exceed, or None: one lucky time does not count."""
        ascending = sorted(value for _, value in self._last)
        return ascending[max(math.ceil(len(ascending) / 10) - 1, 0)] if ascending else None

    def add(self, reference_s: float) -> None:
        """Remembers one more time."""
        now = time.time()
        if self._last and 0 <= now - self._last[-1][0] < WINDOW_S:
            begun, fastest = self._last.pop()
            self._last.append((begun, min(fastest, reference_s)))
        else:
            self._last.append((now, reference_s))

    def save(self) -> None:
        """Writes the file; does nothing where that is not possible."""
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({**self._read(), self._key: list(self._last)}), encoding="utf-8")
            aside.replace(self._path)

    def _read(self) -> dict[str, list[tuple[float, float]]]:
        """All entries of the file that are well formed and not old."""
        try:
            data: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                str(key): [(float(t), float(v)) for t, v in items if _credible(float(t), float(v))]
                for key, items in data.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}


def _credible(written: float, value: float) -> bool:
    return math.isfinite(value) and value > 0 and 0 <= time.time() - written <= OLDEST_S
