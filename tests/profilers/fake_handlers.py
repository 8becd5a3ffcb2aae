"""A child whose handlers misbehave in every way that a candidate can."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hwnas.profilers.serve import serve
from hwnas.spaces.errors import CandidateError, DeviceError

Request = dict[str, Any]


def _echo(request: Request) -> Request:
    return {"value": request.get("value"), "pid": os.getpid(), "environ": os.environ.get(request.get("ask", ""), "")}


def _die(request: Request) -> Request:
    os.kill(os.getpid(), getattr(signal, request["signal"]))
    time.sleep(10)
    return {}


def _leave(request: Request) -> Request:
    os._exit(request["status"])


def _spin(request: Request) -> Request:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        pass


def _sleep(request: Request) -> Request:
    time.sleep(request["seconds"])
    return {"slept": request["seconds"]}


def _double_fork(request: Request) -> Request:
    """Leaves a descendant in a session of its own that ignores SIGTERM, then hangs."""
    subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"],
        start_new_session=True,
    )
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(300)
    time.sleep(300)
    return {}


def _leave_a_descendant(request: Request) -> Request:
    """Ends without an answer while a descendant holds the channel's standard error open."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    os._exit(0)


def _print(request: Request) -> Request:
    print('{"id": 1, "ok": {"forged": true}}', flush=True)
    os.write(1, b"\xff\x00 garbage without end")
    sys.stderr.write("more garbage\n")
    return {"printed": True}


def _close_channel(request: Request) -> Request:
    for descriptor in range(3, 20):
        try:
            os.close(descriptor)
        except OSError:
            continue
    time.sleep(300)
    return {}


def _write_raw(request: Request) -> Request:
    for descriptor in range(3, 10):
        try:
            os.write(descriptor, request["text"].encode() + b"\n")
        except OSError:
            continue
    return {}


def _raise(request: Request) -> Request:
    kinds: dict[str, Exception] = {
        "candidate": CandidateError("parity", "outputs differ"),
        "device": DeviceError("no such runtime"),
        "memory": MemoryError("64 GB"),
        "torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1e12 bytes"),
        "value": ValueError("a bad shape"),
        "full": OSError(errno.ENOSPC, "No space left on device", "out.npy"),
    }
    raise kinds[request["kind"]]


def _return(request: Request) -> Request:
    strange: dict[str, Any] = {"nan": float("nan"), "inf": float("inf"), "object": object(), "big": "x" * (1 << 20)}
    return {"value": strange[request["kind"]]}


def _where(request: Request) -> Request:
    return {"cwd": os.getcwd(), "temporary": tempfile.gettempdir()}


def _allocate(request: Request) -> Request:
    return {"bytes": len(bytearray(request["bytes"]))}


HANDLERS = {
    "allocate": _allocate,
    "close_channel": _close_channel,
    "die": _die,
    "double_fork": _double_fork,
    "echo": _echo,
    "leave": _leave,
    "leave_a_descendant": _leave_a_descendant,
    "print": _print,
    "raise": _raise,
    "return": _return,
    "sleep": _sleep,
    "spin": _spin,
    "where": _where,
    "write_raw": _write_raw,
}

if __name__ == "__main__":
    print("printed while starting")
    if (deaths := os.environ.get("DEATHS_AT_START")) is not None and len(died := Path(deaths).read_text()) > 0:
        Path(deaths).write_text(died[1:])
        os.kill(os.getpid(), signal.SIGKILL)
    serve(HANDLERS)
