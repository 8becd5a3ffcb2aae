"""What Arm's Vela estimates for the corners of the built-in space on two Ethos-U accelerators, and what that costs.

`python benchmarks/ethos_u.py` prints a row per network and accelerator: estimated milliseconds, SRAM and flash, the
operators that the CPU would have to run, the processor seconds of the conversion, and the seconds of the estimate. The
line before the table is what the import of the converter costs, once per process. Weights are random: nothing here
depends on them but flash, where Vela's compression does a little.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hwnas.profilers import get_runtime
from hwnas.profilers.runtimes.ethos_u import EthosUProfiler
from hwnas.spaces import Architecture, Space, load_space

CALIBRATION = 16


def corners(space: Space) -> Iterator[tuple[str, Architecture]]:
    smallest, largest = space.corners()
    yield from (("smallest", smallest), ("middle", space.middle()), ("largest", largest))


def converted(space: Space, architecture: Architecture, path: Path, seed: int) -> float:
    """Writes the int8 file; returns the processor seconds it took."""
    torch.manual_seed(seed)
    model, x = space.build(architecture), torch.randn(CALIBRATION, *space.input_of(architecture))
    start = time.process_time()
    get_runtime("ethos-u55-128").convert(model, x[:1], path, "int8", x)
    return time.process_time() - start


def first_conversion() -> float:
    """Returns the processor seconds of the first conversion of a process, of the smallest network there is."""
    start = time.process_time()
    with tempfile.TemporaryDirectory(prefix="hwnas-benchmark-") as folder:
        model, x = torch.nn.Linear(8, 8), torch.zeros(1, 8)
        get_runtime("litert").convert(model, x, Path(folder) / "first.tflite")
    return time.process_time() - start


def rows(sides: list[int], accelerators: list[str], seed: int) -> Iterator[dict[str, Any]]:
    profilers = [EthosUProfiler(name, deadline_s=300.0) for name in accelerators]
    with tempfile.TemporaryDirectory(prefix="hwnas-benchmark-") as folder:
        for side in sides:
            space = load_space("mobile", input_shape=(3, side, side), num_classes=10)
            for role, architecture in corners(space):
                path = Path(folder) / f"{role}-{side}.tflite"
                seconds = converted(space, architecture, path, seed)
                macs = profilers[0].graph(path).macs
                for profiler in profilers:
                    start = time.perf_counter()
                    told = profiler.estimate(path)
                    yield {
                        "input": f"3x{side}x{side}",
                        "network": role,
                        "resolution": space.input_of(architecture)[1],
                        "macs": macs,
                        "device": profiler.accelerator,
                        "ms": told.latency_ms,
                        "sram_mb": told.sram_bytes / 1e6,
                        "flash_mb": told.flash_bytes / 1e6,
                        "on_cpu": len(told.on_cpu),
                        "convert_cpu_s": seconds,
                        "estimate_s": time.perf_counter() - start,
                    }
    for profiler in profilers:
        profiler.close()


def shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 96], help="sides of the input images")
    parser.add_argument("--accelerators", nargs="+", default=["ethos-u55-128", "ethos-u65-256"])
    parser.add_argument("--seed", type=int, default=0, help="of the random weights and samples")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    print(f"first conversion of the process: {first_conversion():.1f} processor seconds")
    found: list[dict[str, Any]] = []
    for row in rows(options.sides, options.accelerators, options.seed):
        if not found:
            print(" | ".join(row))
        found.append(row)
        print(" | ".join(shown(value) for value in row.values()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
