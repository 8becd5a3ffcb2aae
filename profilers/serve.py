"""The child's side of `Child`: answers JSON requests on stdin/stdout until stdin ends.

A request is one line, `{"id": 1, "do": "measure", …}`; `do` names the handler. The answer is one line, one of

    {"id": 1, "ok": {…}}                                      what the handler returned
    {"id": 1, "failure": "non_finite", "detail": "…"}         the candidate failed; raised as CandidateError
    {"id": 1, "error": "DeviceError", "message": "…"}         raised as that error

Standard library only, so that the child starts fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from ..spaces.errors import CandidateError, HwnasError
from .isolation import limit_memory

__all__ = ["Handler", "serve"]

Handler = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes a request, returns what JSON can hold (no NaN, no infinity)."""

PROTOCOL = 1
"""Version of the lines exchanged; said in the greeting."""

PARENT_VARIABLE = "HWNAS_PARENT_PID"
"""Environment variable with the process id of the parent that a child must not outlive."""

MAX_FILE_BYTES = 4 << 30
"""Largest file a child may write: a candidate that prints without end cannot fill the disk."""

_PR_SET_PDEATHSIG = 1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_OUT_OF_MEMORY = ("allocate memory", "not enough memory", "out of memory", "bad_alloc")


def serve(handlers: Mapping[str, Handler]) -> None:
    """Answers requests until the parent closes the channel or dies.

    Whatever the handlers print goes to standard error, never into the channel.

    Args:
        handlers: what can be asked for, by name.
    """
    requests, answers = _take_channel()
    _die_with_parent()
    os.register_at_fork(after_in_child=_set_parent_death_signal)
    _contain()
    _send(answers, {"ready": os.getpid(), "protocol": PROTOCOL})
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            _send(answers, _answer(handlers, line))


def _take_channel() -> tuple[int, int]:
    """Moves the channel to private descriptors; stdin becomes empty and stdout becomes standard error."""
    requests, answers = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    sys.stdout.flush()
    os.dup2(2, 1)
    return requests, answers


def _set_parent_death_signal() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends; leaves at once if that has already happened."""
    with contextlib.suppress(OSError, AttributeError):  # prctl is Linux; elsewhere the end of stdin is the only sign
        _set_parent_death_signal()
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None and os.getppid() != int(parent):
        os._exit(1)


def _contain() -> None:
    """No core dump, no endless file, first choice of the kernel when memory runs out."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_memory()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if hard == resource.RLIM_INFINITY or hard > MAX_FILE_BYTES:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, hard))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _answer(handlers: Mapping[str, Handler], line: bytes) -> dict[str, Any]:
    request = json.loads(line)
    try:
        result = handlers[request["do"]](request)
        json.dumps(result, allow_nan=False)
    except CandidateError as error:
        told: dict[str, Any] = {"failure": error.code, "detail": error.detail}
    except HwnasError as error:
        told = {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # whatever a candidate does must not end the service
        traceback.print_exc()
        told = _failure(error)
    else:
        told = {"ok": result}
    return {"id": request["id"], **told}


def _failure(error: Exception) -> dict[str, str]:
    """Names what went wrong with a candidate."""
    detail = traceback.format_exception_only(error)[-1].strip()[:500]
    if isinstance(error, OSError) and error.errno in _FULL:  # not the candidate's fault
        return {"error": "DiskError", "message": f"cannot write {error.filename or 'a file'}: {error.strerror}"}
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
        return {"failure": "oom", "detail": detail}
    if isinstance(error, ValueError) and "JSON compliant" in str(error):
        return {"failure": "non_finite", "detail": "the answer holds NaN or infinity"}
    if isinstance(error, TypeError) and "JSON serializable" in str(error):
        return {"failure": "bad_result", "detail": detail}
    return {"failure": f"crash:{type(error).__name__}", "detail": detail}


def _send(answers: int, message: dict[str, Any]) -> None:
    data = json.dumps(message, allow_nan=False).encode() + b"\n"
    sys.stdout.flush()
    sys.stderr.flush()
    while data:
        data = data[os.write(answers, data) :]
