"""Everything hwnas raises on purpose.

    HwnasError                      exit code
    ├── UsageError (ValueError)         2   bad usage or study file
    │   ├── StudyFileError              2   with file, line, column and key
    │   └── SpaceError                  2   a space, or a decision in it, is not well formed
    ├── InfeasibleError (ValueError)    3   nothing can meet, or nothing met, the limits
    ├── DeviceError (RuntimeError)      4   device or runtime missing or lost
    ├── DataError (ValueError)         65   corrupt or untrusted data
    ├── DiskError (OSError)            74   the disk is full or a file cannot be written
    ├── StudyLockedError (RuntimeError)75   another driver holds the study
    ├── InterruptedStudyError          130  stopped by the user; the same command resumes
    └── CandidateError (RuntimeError)   -   one candidate failed; the study goes on

The lowest layer of the package, so that every folder can import it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "CandidateError",
    "DataError",
    "DeviceError",
    "DiskError",
    "HwnasError",
    "InfeasibleError",
    "InterruptedStudyError",
    "SpaceError",
    "StudyFileError",
    "StudyLockedError",
    "UsageError",
    "did_you_mean",
    "quoted",
]


class HwnasError(Exception):
    """Base of all errors that hwnas raises on purpose; `str(error)` is one line for the user."""

    exit_code: int = 1


class UsageError(HwnasError, ValueError):
    """What was asked for makes no sense: a bad argument, limit, name or file."""

    exit_code = 2


class StudyFileError(UsageError):
    """A study file is not legal. Formats as `file:line:column: key: message`.

    Args:
        path: the study file.
        message: what is wrong and what to do, in one line.
        key: dotted key, e.g. `search.sampler`; empty for the file as a whole.
        line: 1-based line, or None where there is none.
        column: 1-based column, or None where there is none.
    """

    def __init__(
        self, path: Path | str, message: str, *, key: str = "", line: int | None = None, column: int | None = None
    ) -> None:
        super().__init__(path, message, key, line, column)
        self.path = path
        self.message = message
        self.key = key
        self.line = line
        self.column = column

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.path, self.line, self.column) if part is not None)
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class SpaceError(UsageError):
    """A space, or a decision taken in it, is not well formed.

    Args:
        message: what is wrong, in one line.
        key: the key below `space` in a study file that is at fault, e.g. `("params", "width")`; empty when none is.
    """

    def __init__(self, message: str, *, key: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.key = key


class InfeasibleError(HwnasError, ValueError):
    """No candidate meets the limits."""

    exit_code = 3


class DeviceError(HwnasError, RuntimeError):
    """A device, runtime or meter is missing or was lost; the message says how to get it."""

    exit_code = 4


class DataError(HwnasError, ValueError):
    """A file is corrupt, or is not what its name says."""

    exit_code = 65


class DiskError(HwnasError, OSError):
    """The disk is full or a path cannot be written."""

    exit_code = 74


class StudyLockedError(HwnasError, RuntimeError):
    """Another driver works on the study."""

    exit_code = 75


class InterruptedStudyError(HwnasError, RuntimeError):
    """The user stopped the study; the same command resumes it."""

    exit_code = 130


class CandidateError(HwnasError, RuntimeError):
    """One candidate failed; the study goes on without it.

    Args:
        code: the reason, from a closed list: `timeout`, `oom`, `non_finite`, `bad_result`, `crash:SIGSEGV` (any signal,
            exit status or exception), `build`, `export`, `parity`, `data` (a table does not have it).
        detail: one line for the user.
    """

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ` (did you mean 'x'?)` for the nearest known name, or the list of names when none is near.

    >>> did_you_mean("sampller", ["sampler", "seed"])
    " (did you mean 'sampler'?)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""


def quoted(text: str, most: int = 120) -> str:
    r"""Returns a foreign text in quotes on one line for a message, its middle left out where it is long.

    >>> quoted("a\nb")
    "'a\\nb'"
    """
    shown = repr(text)
    return shown if len(shown) <= most else f"{shown[: most // 2]}...{shown[-most // 4 :]}"
