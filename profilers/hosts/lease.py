"""The lease of a device: one client at a time, held by a lock of the kernel on the machine that the device hangs on.

There is no clock and no expiry in it: the kernel lets go of the lock when the process that holds it ends, however that
ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ...spaces.errors import DeviceError

__all__ = ["hold_lease", "lease_folder"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")


PAUSE_S = 0.02
"""Between two looks at a lock that someone else holds."""


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
    """Holds a device of this machine for this process alone.

    Args:
        device: name of the device, `board` for the machine itself.
        wait_s: longest time to wait for it.

    Raises:
        DeviceError: `device_busy`, someone else has held it all the time; or there is no place for the lock.
    """
    if not _NAME.fullmatch(device):
        raise DeviceError("not the name of a device")
    path = lease_folder() / f"hwnas-{device}.lock"
    end = time.monotonic() + wait_s
    try:
        while (file := _locked(path)) is None:
            if time.monotonic() >= end:
                raise DeviceError(f"device_busy: someone else has held it for {wait_s:g} s")
            time.sleep(PAUSE_S)
    except OSError as error:
        raise DeviceError(f"no lease: {path}: {error.strerror}") from None
    try:
        yield
    finally:
        os.close(file)


def _locked(path: Path) -> int | None:
    """Takes the lock if it is free; returns its descriptor."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file  # else it was removed meanwhile: this lock keeps nobody out
    except BlockingIOError:
        pass
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None
