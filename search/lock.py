"""The lock of a run folder: one driver at a time."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..spaces.errors import StudyLockedError
from .files import disk_errors

__all__ = ["study_lock"]


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Holds the study for this driver; the kernel lets go of it when the process ends, however it ends.

    Raises:
        StudyLockedError: another driver holds it.
        DiskError: the folder cannot be written.
    """
    path = folder / "study.lock"
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise StudyLockedError(f"{folder} is in use by {holder}: wait for it, or stop it first") from None
        with disk_errors(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
