"""What a measuring process may not do: reach the network, and take all memory. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

__all__ = ["MEMORY_VARIABLE", "cut_network", "limit_memory"]

MEMORY_VARIABLE = "HWNAS_MEMORY_BYTES"
"""Environment variable with the largest address space of a child."""

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def cut_network() -> bool:
    """Moves this process to a network of its own that has no interface; False where the kernel does not allow that.

    It must run before the process has threads (unshare(2)). Files stay as accessible as they were to their owner.
    """
    user, group = os.getuid(), os.getgid()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
            return False
    except (OSError, AttributeError):  # not Linux
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    return True


def limit_memory() -> None:
    """Obeys `MEMORY_VARIABLE`: beyond it allocations fail, which ends as `oom`."""
    wanted = os.environ.get(MEMORY_VARIABLE)
    if wanted:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = int(wanted) if hard == resource.RLIM_INFINITY else min(int(wanted), hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
