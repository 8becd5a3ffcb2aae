"""Where and in which circumstances a number was measured. Standard library only: the measuring child imports it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["conditions", "fingerprint", "stolen_share"]

_PACKAGES = {"litert": "ai-edge-litert"}
"""Runtime → its package, where that has another name."""


def fingerprint(runtime: str = "onnxruntime") -> dict[str, Any]:
    """What must be equal for two measurements to be comparable.

    Args:
        runtime: name of the runtime.
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
        runtime: _version(_PACKAGES.get(runtime, runtime)),
    }


def conditions() -> dict[str, Any]:
    """What may differ from minute to minute: load, stolen and total processor time, clock.

    `jiffies` are since boot; the difference of two calls is what counts (`stolen_share`).
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found: dict[str, Any] = {"loadavg": load, "jiffies": _jiffies()}
    clock = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if clock:
        found["cpu_mhz"] = int(clock) / 1000
    return found


def stolen_share(before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """Shares of the processor time between two `conditions()`: stolen by the host, and busy in all processes."""
    first, last = before.get("jiffies", {}), after.get("jiffies", {})
    total = last.get("total", 0) - first.get("total", 0)
    if total <= 0:
        return {"steal": 0.0, "busy": 0.0}
    return {name: round((last[name] - first[name]) / total, 4) for name in ("steal", "busy")}


def _jiffies() -> dict[str, int]:
    """Totals of the first line of /proc/stat (proc(5)): user nice system idle iowait irq softirq steal."""
    fields = [int(field) for field in _read("/proc/stat").partition("\n")[0].split()[1:9]]
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


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    return ""
