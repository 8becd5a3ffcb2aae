"""Locks: one driver at a time on a run folder, one fit at a time on the file of a cost model."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..spaces.errors import StudyLockedError
from .files import disk_errors

__all__ = ["file_lock", "study_lock"]


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Holds the study for this driver; the kernel lets go of it when the process ends, however it ends.

    Raises:
        StudyLockedError: another driver holds it.
        DiskError: the folder cannot be written.
    """
    with file_lock(folder / "study.lock", folder):
        yield


@contextmanager
def file_lock(path: Path, what: Path) -> Iterator[None]:
    """As `study_lock`, by any file; it stays there, as its removal could let two in.

    Args:
        path: the file that is locked.
        what: it is for, as the message says.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise StudyLockedError(f"{what} is in use by {holder}: wait for it, or stop it first") from None
        with disk_errors(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
