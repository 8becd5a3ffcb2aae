"""The memory that a model takes in a process: its resident set, against what is computed of its activations.

Standard library only. Linux; elsewhere the highest resident set of the process's life is all there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..spaces.errors import CandidateError

__all__ = ["Memory", "measure_memory"]

Method = Literal["VmHWM", "ru_maxrss"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written to clear_refs it sets the highest resident set to the one of now (proc(5))."""


@dataclass(frozen=True)
class Memory:
    """Memory of one model in a process of its own, in megabytes (10^6 bytes).

    Attributes:
        peak_mb: highest resident set while the model was loaded and run, above the one before: weights, activations and
            the runtime's buffers for them.
        first_mb: the same for the first model of a process: with what the runtime reads and sets up once.
        method: `VmHWM`, the kernel's peak, set back before; or `ru_maxrss`, the peak of the process's life, which can
            only be lower than the truth once it is subtracted from.
        arena_mb: most that the runtime's own allocator had in use, None where the runtime does not tell.
    """

    peak_mb: float
    first_mb: float
    method: Method
    arena_mb: float | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise CandidateError("bad_result", f"no such method: {self.method!r}"[:200])
        for value in (self.peak_mb, self.first_mb, *(() if self.arena_mb is None else (self.arena_mb,))):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise CandidateError("bad_result", f"a memory must be a finite number, 0 or more, not {value!r}"[:200])

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Memory:
        """Reads what `to_json` wrote, or what a runner answered.

        Raises:
            CandidateError: `bad_result`, it is not of that form.
        """
        try:
            return cls(**data)
        except TypeError as error:
            raise CandidateError("bad_result", f"not a memory: {error}"[:300]) from None


def measure_memory(work: Callable[[], object], arena_bytes: Callable[[], int | None] = lambda: None) -> Memory:
    """Returns the memory that `work` takes; it is called twice.

    The first call also reads the runtime's code and sets it up, so the second is the one that counts.

    Args:
        work: loads a model, runs it, and lets go of it.
        arena_bytes: asked at the end; it may use memory of its own.
    """
    first_mb, _ = _above(work)
    peak_mb, method = _above(work)
    arena = arena_bytes()
    return Memory(peak_mb, first_mb, method, None if arena is None else arena / 1e6)


def _above(work: Callable[[], object]) -> tuple[float, Method]:
    """Returns the peak of the resident set in `work` above the one before it in MB, and how it was found."""
    _give_back()
    before = _status("VmRSS")
    try:
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        reset = before is not None
    except OSError:
        reset = False
    highest = _highest()
    work()
    if reset:
        peak, base, method = _status("VmHWM") or 0, before or 0, get_args(Method)[0]
    else:
        peak, base, method = _highest(), highest, get_args(Method)[1]
    return max(0, peak - base) / 1e6, method


def _give_back() -> None:
    """Returns free memory to the system, where the C library can."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int | None:
    """Reads a size of /proc/self/status in bytes; None where there is none."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _STATUS.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None


def _highest() -> int:
    """Highest resident set of the process's life in bytes; macOS counts in bytes, Linux in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
