"""Phones behind `adb`: the machine that they hang on pushes the model, runs a benchmark program and reads its times.

The user has put the program on the phone: `onnxruntime_perf_test` of onnxruntime or `benchmark_model` of LiteRT
(TensorFlow Lite). Every word for the phone's shell is a constant, a number, a digest or a checked path. Runs as part of
the board's side, under the lease of the phone.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...spaces.errors import CandidateError, DeviceError
from ..model_gate import check_model
from .wire import Lost, Request

__all__ = ["SUFFIXES", "work_on_phone"]

PLACE = "/data/local/tmp"
"""Where a shell of adb may write."""
PROCESSES = 8
"""Starts of the benchmark program; each is a block of the measurement."""
RUNS = 50
"""Timed inferences of one start."""
MAX_OUTPUT_BYTES = 1 << 20
THROTTLED = 2
"""Android's thermal status (THERMAL_STATUS_MODERATE) from which the phone slows down."""
CLEAN_UP_S = 5.0
"""Time in which the files on the phone are removed, whether or not the deadline has passed."""

_TIED = (
    'import ctypes,os,sys;getattr(ctypes.CDLL(None),"prctl",lambda *no:0)(1,9,0,0,0);'
    "os.getppid()==int(sys.argv[1]) or sys.exit(1);os.execv(sys.argv[2],sys.argv[2:])"
)
"""Becomes another program that the kernel kills when its parent ends (PR_SET_PDEATHSIG, SIGKILL; prctl is Linux)."""

SUFFIXES = {"onnxruntime": ".onnx", "litert": ".tflite"}
"""Runtime → its model files."""

_GONE = re.compile(
    r"(?:device '[^']*' not found|device (?:still )?(?:offline|unauthorized|authorizing|connecting)"
    r"|no devices/emulators found|error: closed|protocol fault|cannot connect to daemon)",
)
_PERF_LINE = re.compile(r"[^,\n]{0,256},([0-9.e+-]{1,24}),\d{1,20},-?\d{1,6},\d{1,9}")
_STAT = re.compile(r"count=(\d+) .*?\bavg=([0-9.e+]+)\b(?:.*?\bmedian=([0-9.e+]+))?")
_PROPERTIES = {"phone": "ro.product.model", "soc": "ro.soc.model", "android": "ro.build.version.release"}


def work_on_phone(request: Request, model: Path) -> dict[str, Any]:
    """Measures a model on a phone, or says what the phone is.

    Raises:
        CandidateError: `crash:…` or `timeout`, the benchmark program fails with this model; `bad_result`.
        DeviceError: adb, the program or a way to do this is missing.
        Lost: the phone is gone.
    """
    phone = _Phone(request)
    phone.shell("echo", "here")
    if not request.tool:
        raise DeviceError("which benchmark program is on the phone? `hwnas devices add NAME adb:SERIAL --tool PATH`")
    if phone.try_shell("ls", request.tool)[0]:
        raise DeviceError(f"{request.tool} is not on the phone")
    if request.do == "fingerprint":
        return phone.fingerprint()
    if request.do != "measure":
        raise DeviceError(f"a phone cannot do '{request.do}': benchmark programs give times and nothing else")
    suffix = SUFFIXES.get(request.runtime)
    if suffix is None:
        raise DeviceError(f"phones run {', '.join(SUFFIXES)}, not {request.runtime}")
    path = model.with_suffix(suffix)
    model.rename(path)
    check_model(path)
    place = f"{PLACE}/hwnas-{request.lease}"
    there = f"{place}/{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}{suffix}"
    try:
        phone.shell("mkdir", place)
        phone.call("push", str(path), there)
        take = _TAKERS[request.runtime]
        before = phone.thermal_status()
        blocks = [take(phone, request, there, f"{place}/{start}") for start in range(PROCESSES)]
        heat = [status for status in (before, phone.thermal_status()) if status is not None]
    finally:
        phone.clean_up(place)
    return {
        "blocks": blocks,
        "disturbance": [],
        "warmup": 0,
        "process": 0,
        "conditions": {"threads": request.threads, **(_heat(max(heat)) if heat else {})},
        "fingerprint": {**phone.fingerprint(), "precision": request.precision},
    }


class _Phone:
    """Runs adb."""

    def __init__(self, request: Request) -> None:
        adb = shutil.which("adb")
        if adb is None:
            raise DeviceError("adb is not on the PATH of the machine that the phone hangs on")
        self._begin = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), adb, "-s", request.phone]
        self._end = time.monotonic() + request.deadline_s
        self._request = request

    def call(self, *words: str) -> str:
        """Runs `adb WORDS`; what fails is the phone's or the link's fault."""
        status, said = self._run(words)
        if status:
            raise Lost(f"adb {words[0]} failed: {_last(said)}")
        return said

    def shell(self, *words: str) -> str:
        """Runs a command on the phone that always works there."""
        return self.call("shell", *words)

    def try_shell(self, *words: str) -> tuple[int, str]:
        """Runs a command on the phone; returns its status and what it said."""
        return self._run(("shell", *words))

    def try_program(self, *words: str) -> tuple[int, str]:
        """Runs a program on the phone, which ends there with the deadline even when this side is gone."""
        left = max(math.ceil(self._end - time.monotonic()), 1)
        return self.try_shell("timeout", "-s", "9", str(left), *words)

    def clean_up(self, place: str) -> None:
        """Removes a folder on the phone, if that can be done."""
        self._end = max(self._end, time.monotonic() + CLEAN_UP_S)
        with contextlib.suppress(Lost, CandidateError, DeviceError):
            self.try_shell("rm", "-r", place)

    def _run(self, words: tuple[str, ...]) -> tuple[int, str]:
        left = self._end - time.monotonic()
        if left <= 0:
            raise CandidateError("timeout", "no result within the deadline")
        with tempfile.TemporaryFile() as nothing:
            process = subprocess.Popen(
                [*self._begin, *words], stdin=nothing, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        assert process.stdout is not None, "it was started with a pipe"
        timer = threading.Timer(left, process.kill)
        timer.start()
        try:
            data = process.stdout.read(MAX_OUTPUT_BYTES + 1)
            if len(data) > MAX_OUTPUT_BYTES:
                raise CandidateError("bad_result", "the phone says too much")
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
        said = data.decode("utf-8", "replace").replace("\r", "")
        if time.monotonic() >= self._end:
            raise CandidateError("timeout", "no result within the deadline")
        if status and (gone := _GONE.search(said)):
            raise Lost(f"adb: {gone[0]}")
        return status, said

    def fingerprint(self) -> dict[str, Any]:
        found = {name: _plain(self.shell("getprop", key)) for name, key in _PROPERTIES.items()}
        status, said = self.try_shell("sha256sum", self._request.tool)
        program = said.split(" ")[0][:12] if not status else "unknown"
        return {**found, "serial": self._request.phone, self._request.runtime: f"program {_plain(program)}"}

    def thermal_status(self) -> int | None:
        """The phone's own word on its heat, 0 is none (Android's ThermalStatus); None where it says nothing."""
        status, said = self.try_shell("dumpsys", "thermalservice")
        match = re.search(r"Thermal Status: (\d)", said)
        return int(match[1]) if match and not status else None


def _heat(status: int) -> dict[str, Any]:
    """What the conditions say of a thermal status; one that slows the phone down disturbs the measurement."""
    return {"thermal_status": status, "throttled": status >= THROTTLED}


def _perf_test(phone: _Phone, request: Request, model: str, out: str) -> list[float]:
    """One start of `onnxruntime_perf_test`: its result file has a line for each inference, in seconds."""
    options = f"-I -m times -r {RUNS} -x {request.threads} -e cpu -o 99".split()
    _benchmark(phone, request.tool, *options, model, out)
    lines = phone.shell("cat", out).split("\n")
    return [_ms(match[1], 1e3) for line in lines if (match := _PERF_LINE.fullmatch(line))] or _no_times()


def _benchmark_model(phone: _Phone, request: Request, model: str, out: str) -> list[float]:
    """One start of `benchmark_model`: the median of its inferences, or their mean where it knows no median, in µs."""
    options = f"--graph={model} --num_threads={request.threads} --num_runs={RUNS} --min_secs=0 --warmup_min_secs=0.1"
    said = _benchmark(phone, request.tool, *options.split())
    found = _STAT.findall(said)
    if not found or int(found[-1][0]) < RUNS:
        return _no_times()
    _, mean, median = found[-1]
    return [_ms(median or mean, 1e-3)]


_TAKERS: dict[str, Callable[[_Phone, Request, str, str], list[float]]] = {
    "onnxruntime": _perf_test,
    "litert": _benchmark_model,
}


def _benchmark(phone: _Phone, *words: str) -> str:
    status, said = phone.try_program(*words)
    if status:
        code = f"crash:signal{status - 128}" if 128 < status < 160 else f"crash:exit{status}"
        raise CandidateError(code, f"{os.path.basename(words[0])}: {_last(said)}")
    return said


def _ms(text: str, factor: float) -> float:
    try:
        value = float(text) * factor
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise CandidateError("bad_result", "the benchmark program gave a time that is no number above 0")
    return value


def _no_times() -> list[float]:
    raise CandidateError("bad_result", "the benchmark program gave no times")


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return _plain(lines[-1] if lines else "no reason given")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text.strip()[:200]).strip()
