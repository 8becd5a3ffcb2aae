"""Asks Arm's compiler Vela what a network costs on an Ethos-U: `python -m hwnas.profilers.runtimes.vela`.

Vela is native code that may crash on a file it does not expect, so LiteRT, which checks a file as a whole, reads each
file first, and Vela runs in a process that can be killed.
"""

from __future__ import annotations

import csv
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...spaces.errors import CandidateError
from ..serve import serve
from .litert import LiteRtSession

__all__ = ["estimate"]


def estimate(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles a file and returns what Vela says of it.

    Request: `path`; `accelerator`, `system_config` and `memory_mode`, in Vela's words.
    Returns the fields of `Estimate`.

    Raises:
        CandidateError: `export`, the file is no int8 TFLite file, or Vela cannot compile it.
    """
    path = Path(request["path"])
    if not LiteRtSession(path, threads=1).quantised:
        raise CandidateError("export", "an Ethos-U runs int8 files only")
    with tempfile.TemporaryDirectory(prefix="hwnas-vela-") as folder:
        network = Path(folder) / "network.tflite"  # vela writes the file's name into its tables as it is
        shutil.copyfile(path, network)
        _compile(network, request)
        (summary,) = _rows(next(Path(folder).glob("network_summary_*.csv")))
        operators = _rows(Path(folder) / "network_per-layer.csv")
    seconds, cycles = float(summary["inference_time"]), float(summary["cycles_total"])
    on_cpu = [row["Original Operator"] for row in operators if row["Target"] != "NPU"]
    if not on_cpu and not (math.isfinite(seconds) and seconds > 0):
        raise CandidateError("bad_result", f"Vela estimates {summary['inference_time']} s for the whole network")
    return {
        "latency_ms": 1e3 * seconds if math.isfinite(seconds) else 0.0,
        "cycles": int(cycles) if math.isfinite(cycles) else 0,
        "sram_bytes": _bytes(summary["sram_memory_used"]),
        "flash_bytes": _bytes(summary["on_chip_flash_memory_used"]) + _bytes(summary["off_chip_flash_memory_used"]),
        "operators": len(operators),
        "on_cpu": on_cpu,
    }


def _compile(network: Path, request: dict[str, Any]) -> None:
    from ethosu.vela.vela import main

    options = {
        "--config": "Arm/vela.ini",
        "--accelerator-config": request["accelerator"],
        "--system-config": request["system_config"],
        "--memory-mode": request["memory_mode"],
        "--output-dir": str(network.parent),
    }
    flat = [word for option in options.items() for word in option]
    try:
        failed = main([str(network), *flat, "--verbose-performance"])
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # vela's and regor's exceptions have no common base
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CandidateError("export", f"vela cannot compile the model: {first}"[:300]) from None
    if failed:
        raise CandidateError("export", "vela cannot compile the model")


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _bytes(kilobytes: str) -> int:
    """Vela counts in units of 1024 bytes."""
    return round(1024 * float(kilobytes))


if __name__ == "__main__":
    serve({"estimate": estimate})
