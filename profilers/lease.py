"""The lease of a device: one client at a time, held by a lock of the kernel on the machine that the device hangs on.

There is no clock and no expiry in it: the kernel lets go of the lock when the process that holds it ends, however that
ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ..spaces.errors import DeviceError

__all__ = ["hold_lease", "lease_folder"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


class _TimeUp(Exception):
    """The wait for the lock has lasted long enough."""


def lease_folder() -> Path:
    """Returns the folder of the locks: the user's runtime folder, or one of the user's own for temporary files.

    Raises:
        DeviceError: it belongs to someone else, or cannot be made.
    """
    uid = os.getuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{uid}")
    folder = runtime if runtime.is_dir() else Path(tempfile.gettempdir(), f"hwnas-{uid}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise DeviceError(f"no folder for the lease: {folder}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        raise DeviceError(f"no folder for the lease: {folder} belongs to someone else")
    return folder


@contextlib.contextmanager
def hold_lease(device: str, wait_s: float) -> Iterator[None]:
    """Holds a device of this machine for this process alone. Main thread only: it uses the alarm signal.

    Args:
        device: name of the device, `board` for the machine itself.
        wait_s: longest time to wait for it.

    Raises:
        DeviceError: `device_busy`, someone else has held it all the time; or there is no place for the lock.
    """
    if not _NAME.fullmatch(device):
        raise DeviceError("not the name of a device")
    path = lease_folder() / f"hwnas-{device}.lock"
    try:
        with _alarm(wait_s):
            file = _locked(path)
    except _TimeUp:
        raise DeviceError(f"device_busy: someone else has held it for {wait_s:g} s") from None
    except OSError as error:
        raise DeviceError(f"no lease: {path}: {error.strerror}") from None
    try:
        yield
    finally:
        os.close(file)


def _locked(path: Path) -> int:
    """Waits for the lock; the kernel serves those who wait in turn."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # the file was removed meanwhile: this lock keeps nobody out


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def up(number: int, frame: FrameType | None) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
