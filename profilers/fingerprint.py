"""Where and in which circumstances a number was measured. Standard library only: the measuring child imports it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import resource
import shutil
import subprocess
import time
from glob import glob
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["compiler", "conditions", "cpu_flags", "fingerprint", "used_shares"]

_PACKAGES = {"litert": "ai-edge-litert"}
"""Runtime → its package, where that has another name."""

COMPILED = ("torch-compile", "torch-aoti")
"""Runtimes whose speed is also the C++ compiler's."""


def fingerprint(runtime: str = "onnxruntime") -> dict[str, Any]:
    """What must be equal for two measurements to be comparable.

    Args:
        runtime: name of the runtime; one such as `torch-cuda` begins with its package's.
    """
    cpu = _cpu()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": hashlib.sha256(cpu.get("flags", cpu.get("Features", "")).encode()).hexdigest()[:12],
        "cores": os.cpu_count() or 1,
        "memory_gb": round(_memory_bytes() / 1e9, 1),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "machine": platform.machine(),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        runtime: _version(_PACKAGES.get(runtime, runtime.partition("-")[0])),
        **({"gpu": _gpus()} if runtime.endswith("-cuda") else {}),
        **({"compiler": compiler()} if runtime in COMPILED else {}),
    }


def compiler() -> str:
    """Name and version of the C++ compiler that torch takes, `CXX` or g++; empty where there is none."""
    found = shutil.which(os.environ.get("CXX") or "g++")
    return "" if found is None else f"{Path(found).name} {_compiler_version(found)}"


@functools.cache
def _compiler_version(path: str) -> str:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        options = ["-dumpfullversion", "-dumpversion"]
        return subprocess.run([path, *options], capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    return "unknown"


def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the kernel's words, e.g. `avx2`."""
    cpu = _cpu()
    return frozenset(cpu.get("flags", cpu.get("Features", "")).split())


def conditions(root: str = "/") -> dict[str, Any]:
    """What may differ from minute to minute: load, processor time, clock, temperature, throttling.

    `jiffies`, `throttles`, `own_s` and `clock_s` count since some moment; differences tell (`used_shares`).

    Args:
        root: folder that has `proc` and `sys`.
    """
    cpu = f"{root}sys/devices/system/cpu"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    own = resource.getrusage(resource.RUSAGE_SELF)
    found: dict[str, Any] = {
        "loadavg": load,
        "jiffies": _jiffies(_read(f"{root}proc/stat")),
        "own_s": own.ru_utime + own.ru_stime,
        "clock_s": time.perf_counter(),
        "throttles": sum(map(_number, glob(f"{cpu}/cpu*/thermal_throttle/core_throttle_count"))),
    }
    if clock := _number(f"{cpu}/cpu0/cpufreq/scaling_cur_freq"):
        found["cpu_mhz"] = clock / 1000
    if degrees := [_number(path) for path in glob(f"{root}sys/class/thermal/thermal_zone*/temp")]:
        found["celsius"] = max(degrees) / 1000
    flags = _read(f"{root}sys/devices/platform/soc/soc:firmware/get_throttled") or _vcgencmd()
    if flags:
        with contextlib.suppress(ValueError):
            found["throttled_now"] = bool(int(flags, 16) & 0xF)
    return found


def used_shares(before: dict[str, Any], after: dict[str, Any], threads: int = 1) -> dict[str, Any]:
    """What happened between two `conditions()` of one process.

    Args:
        before, after: the two.
        threads: of the process; the cores beyond that are the others'.

    Returns:
        `busy` and `steal`, shares of all cores' time; `others`, the share of the other cores that other processes used
        (of all cores when none is left over); `throttled`.
    """
    told: dict[str, Any] = {
        "throttled": bool(after.get("throttled_now")) or after.get("throttles", 0) > before.get("throttles", 0)
    }
    first, last = before.get("jiffies", {}), after.get("jiffies", {})
    total = last.get("total", 0) - first.get("total", 0)
    passed = after["clock_s"] - before["clock_s"]
    if total <= 0 or passed <= 0:
        return told
    cores = os.cpu_count() or 1
    busy, steal = ((last[name] - first[name]) / total for name in ("busy", "steal"))
    others = max(busy * cores - (after["own_s"] - before["own_s"]) / passed, 0.0)
    left = cores - threads if cores > threads else cores
    return {**told, "busy": round(busy, 4), "steal": round(steal, 4), "others": round(min(others / left, 1.0), 4)}


def _jiffies(stat: str) -> dict[str, int]:
    """Totals of the first line of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal."""
    fields = [int(field) for field in stat.partition("\n")[0].split()[1:9]]
    if len(fields) < 8:
        return {}
    return {"total": sum(fields), "busy": sum(fields) - fields[3] - fields[4] - fields[7], "steal": fields[7]}


def _cpu() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    block = _read("/proc/cpuinfo").partition("\n\n")[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}


def _memory_bytes() -> int:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def _gpus() -> str:
    """Names of the NVIDIA devices, as their driver on Linux gives them."""
    texts = [_read(str(path)) for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    lines = [line for text in texts for line in text.splitlines() if line.startswith("Model:")]
    return ", ".join(line.partition(":")[2].strip() for line in lines) or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _vcgencmd() -> str:
    """The throttle flags of a Raspberry Pi; empty elsewhere.

    Bits 0 to 3 are what holds it back now, 16 to 19 what did since it was started
    (https://www.raspberrypi.com/documentation/computers/os.html, `vcgencmd get_throttled`).
    """
    tool = shutil.which("vcgencmd")
    if tool is None:
        return ""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=False).stdout
        return told.strip().removeprefix("throttled=")[:20]
    return ""


def _number(path: str) -> float:
    """The number in a file; 0 when there is none."""
    with contextlib.suppress(ValueError):
        return float(_read(path))
    return 0.0


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    return ""
