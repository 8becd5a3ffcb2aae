"""Files that are whole or not there: written aside, flushed to the disk, renamed."""

from __future__ import annotations

import errno
import json
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..spaces.errors import DataError, DiskError, HwnasError

__all__ = ["LOGGED", "bugs_logged", "disk_errors", "read_json", "write_aside", "write_json", "write_text"]

LOGGED = "the traceback is in "
"""How the note on a logged error begins."""

_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into DiskError, one line that names the path."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        if error.errno in _DISK:
            raise DiskError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
        raise


@contextmanager
def bugs_logged(log: Path) -> Iterator[None]:
    """Appends the traceback of an error that nobody expected to a file, and notes on the error where it is."""
    try:
        yield
    except (HwnasError, BrokenPipeError):
        raise
    except Exception as error:
        if not any(note.startswith(LOGGED) for note in getattr(error, "__notes__", ())):
            with suppress(OSError), log.open("a", encoding="utf-8") as file:
                when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
                file.write(
                    f"{when} process {os.getpid()}: a bug in hwnas\n{''.join(traceback.format_exception(error))}"
                )
                error.add_note(f"{LOGGED}{log}")
        raise


@contextmanager
def write_aside(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file next to `path` for writing; at the end it takes the place of `path`, or nothing has changed.

    Raises:
        DiskError: the disk is full, or the path cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text, whole or not at all."""
    with write_aside(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        DataError: it cannot be read as JSON; the message names it.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({error})") from error
