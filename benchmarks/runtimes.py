"""Every runtime on three networks: is it right, how fast, how large, and do its kernels add up?

For each runtime, network and precision: seconds of the conversion from the torch module, the file's size, the latency
as `hwnas profile` measures it (batch 1), the least cosine of eight outputs with torch's (without the mean over the
samples, which is alike for all), and the sum of the times of single kernels over the latency where the runtime tells
them (its own clock is part of that sum). What fails gives a row with the reason. A trailing ! marks a latency that was
taken on a busy machine. The weights are random: int8 loses more on them than on trained ones, in mobilenet everything.
On a busy machine large networks have a sum below the whole: each run is interrupted somewhere, each kernel rarely.

    python benchmarks/runtimes.py
    python benchmarks/runtimes.py --runtimes ncnn,mnn --networks vit --json rows.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import NETWORKS, SIDE, make, samples
from torch import nn

from hwnas.profilers import LocalProfiler, conditions, get_runtime, runtime_names
from hwnas.spaces.errors import HwnasError

SAMPLES = 8
CALIBRATION = 16

Row = dict[str, Any]


def rows_of(runtime: str, network: str, seed: int, threads: int, kernel_runs: int) -> list[Row]:
    """Returns a row for each precision of a runtime on one network; one row when the runtime is missing."""
    found = get_runtime(runtime)
    available = found.available()
    if not available.ok:
        failed = f"missing: {available.missing} ({available.install})"
        return [{"runtime": runtime, "version": "", "network": network, "precision": "", "failed": failed}]
    model, rows = make(network, seed), []
    for precision in found.precisions:
        row: Row = {"runtime": runtime, "version": available.version, "network": network, "precision": precision}
        rows.append(row)
        with tempfile.TemporaryDirectory(prefix="hwnas-runtimes-") as folder:
            try:
                _fill(row, model, Path(folder), seed, threads, kernel_runs)
            except HwnasError as error:
                row["failed"] = str(error)
    return rows


def _fill(row: Row, model: nn.Module, folder: Path, seed: int, threads: int, kernel_runs: int) -> None:
    """Adds what is found out to the row, step by step, so that it keeps what came before a failure."""
    found, precision = get_runtime(row["runtime"]), row["precision"]
    x, calibration = samples(SAMPLES, seed + 1), samples(CALIBRATION, seed + 2)
    np.save(folder / "x.npy", x.numpy())
    with torch.no_grad():
        expected = model(x).numpy()
    start = time.monotonic()
    artifact = found.convert(model, x[:1], folder / f"model{found.suffix}", precision, calibration)
    row["convert_s"] = time.monotonic() - start
    row["file_mb"] = artifact.size_bytes / 1e6
    with LocalProfiler(row["runtime"], threads, precision) as profiler:
        row["cosine"] = _least_cosine(profiler.run(artifact.path, folder / "x.npy"), expected)
        measurement = profiler.measure(artifact.path)
        row |= {f"{name}_ms": getattr(measurement, f"{name}_ms") for name in ("median", "low", "high", "p90")}
        row["quality"] = measurement.quality
        kernels = profiler.kernels(artifact.path, kernel_runs)
        row["kernels"] = len(kernels)
        row["sum_over_whole"] = sum(kernel.ms for kernel in kernels) / row["median_ms"] if kernels else None


def _least_cosine(got: Any, expected: Any) -> float:
    """Least cosine of the samples' outputs; without their mean over the samples, which is alike for all."""
    a, b = (np.asarray(values).reshape(len(values), -1) for values in (got, expected))
    a, b = a - b.mean(0), b - b.mean(0)
    return float(min((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


def _text(row: Row) -> str:
    name = f"{row['network']:10} {row['runtime']:12} {row['precision']:5}"
    shown: list[str] = []
    fields: list[tuple[str, Callable[[Row], str], int]] = [
        ("median_ms", lambda r: f"{r['median_ms']:.3f}{'!' if r['quality'] == 'noisy' else ' '}", 10),
        ("cosine", lambda r: f"{r['cosine']:.6f}", 9),
        ("convert_s", lambda r: f"{r['convert_s']:.1f}", 9),
        ("file_mb", lambda r: f"{r['file_mb']:.2f}", 8),
        ("kernels", lambda r: str(r["kernels"] or ""), 8),
        ("sum_over_whole", lambda r: "" if r["sum_over_whole"] is None else f"{r['sum_over_whole']:.2f}", 9),
    ]
    for key, show, width in fields:
        shown.append(f"{show(row) if key in row else '':>{width}}")
    return " ".join([name, *shown, row.get("failed", "")]).rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", default=",".join(runtime_names()), help="comma separated")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma separated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernel-runs", type=int, default=20, help="runs that the times of kernels are taken from")
    parser.add_argument("--seed", type=int, default=0, help="of weights and samples")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    before, rows = conditions()["loadavg"], []
    print(f"3x{SIDE}x{SIDE}, {options.threads} thread, seed {options.seed}")
    headings = f"{'ms':>10} {'cosine':>9} {'convert s':>9} {'file MB':>8} {'kernels':>8} {'sum/whole':>9}"
    print(f"{'network':10} {'runtime':12} {'':5} {headings}")
    for network in options.networks.split(","):
        for runtime in options.runtimes.split(","):
            for row in rows_of(runtime, network, options.seed, options.threads, options.kernel_runs):
                print(_text(row), flush=True)
                rows.append(row)
    print(f"load before: {before:.2f} on {os.cpu_count()} cores")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
