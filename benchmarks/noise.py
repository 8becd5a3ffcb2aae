"""Do two passes over the same networks, minutes apart, agree? For a plain loop and for hwnas, quiet and beside a load.

Takes networks of nearly equal latency, in steps, measures all of them in several passes, and compares the passes: rank
correlation (Kendall), relative differences of the same network, seconds a network, the share that was marked noisy (few
when quiet, all beside a load), and the share of intervals that hold the median of the network's measurements.
The plain loop is what most scripts do: 50 inferences of each network after 10 to warm up, one after the other, median.
Beside a load means that a process spins on the other cores all the while.

    python benchmarks/noise.py --networks 12 --passes 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.profilers import LocalProfiler, Measurement, Repeatability, conditions, get_runtime
from hwnas.spaces import load_space

DRAWN = 120
"""Random architectures from which those of nearly equal latency are taken."""

LOOKS = 3
"""Times that each of them is looked at, in turn; the fastest counts."""


def networks(folder: Path, count: int, side: int, span: float, seed: int) -> list[Path]:
    """Exports random `mobile` networks and returns `count` of them, the slowest at most `span` times the fastest.

    They are as far apart as those drawn allow: the order of networks of equal latency is chance for every method.
    """
    import torch

    space = load_space("mobile", input_shape=(3, side, side), num_classes=10)
    paths = [folder / f"{draw}.onnx" for draw in range(DRAWN)]
    for draw, path in enumerate(paths):
        architecture = space.random(f"{seed}/{draw}")
        torch.manual_seed(seed)
        example = torch.zeros(1, *space.input_of(architecture))
        get_runtime("onnxruntime").convert(space.build(architecture), example, path)
    looks = [[plain_ms(path, runs=25, at=0.0) for path in paths] for _ in range(LOOKS)]
    latencies = np.min(looks, axis=0)
    ascending = [int(draw) for draw in np.argsort(latencies)]
    for step in np.linspace(span ** (1 / (count - 1)), 1.0, 200):  # the widest that so many of those drawn allow
        for place, first in enumerate(ascending):
            chosen = [first]
            for draw in ascending[place + 1 :]:
                if latencies[draw] >= step * latencies[chosen[-1]]:
                    chosen.append(draw)
            if len(chosen) >= count and latencies[chosen[count - 1]] <= span * latencies[first]:
                low, high = latencies[first], latencies[chosen[count - 1]]
                print(f"{count} networks of {low:.3f} to {high:.3f} ms, at least {step - 1:.2%} apart, seed {seed}")
                return [paths[draw] for draw in chosen[:count]]
    raise SystemExit(f"no {count} of {DRAWN} networks within a span of {span}: another --side or --seed, or fewer")


def plain_ms(path: Path, runs: int = 50, at: float = 0.5) -> float:
    """Times a model the plain way, in this process; returns that quantile in ms."""
    session = get_runtime("onnxruntime").load(path)
    infer = session.bind(np.random.default_rng(0).standard_normal(session.input_shape).astype(np.float32))
    for _ in range(10):
        infer()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        infer()
        times.append(time.perf_counter() - start)
    return float(np.quantile(times, at)) * 1e3


@contextlib.contextmanager
def spinning(on: bool) -> Iterator[None]:
    """Keeps the other cores busy inside, when it is on."""
    cores = sorted(os.sched_getaffinity(0))[1:] or [0] if on else []
    code = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    spinners = [subprocess.Popen([sys.executable, "-c", code, str(core)]) for core in cores]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def compare(models: list[Path], passes: int, pause_s: float, loaded: bool) -> list[dict[str, Any]]:
    """Measures all models in each pass by each method; returns a row for each method."""
    measured: list[tuple[Path, Measurement]] = []

    def ours(model: Path) -> float:
        measurement = profiler.measure(model)
        measured.append((model, measurement))
        return measurement.latency_ms

    with spinning(loaded), LocalProfiler() as profiler:
        methods: dict[str, Callable[[Path], float]] = {"plain loop": plain_ms, "hwnas": ours}
        medians: dict[str, list[tuple[float, ...]]] = {name: [] for name in methods}
        seconds = dict.fromkeys(methods, 0.0)
        for turn in range(passes):
            if turn:
                time.sleep(pause_s)
            for name, method in methods.items():
                start = time.monotonic()
                medians[name].append(tuple(method(model) for model in models))
                seconds[name] += time.monotonic() - start
    taken = passes * len(models)
    noisy = sum(measurement.quality == "noisy" for _, measurement in measured)
    middle = {model: statistics.median(m.latency_ms for of, m in measured if of == model) for model in models}
    inside = sum(m.low_ms <= middle[model] <= m.high_ms for model, m in measured)
    return [
        {
            "state": "loaded" if loaded else "quiet",
            "method": name,
            **Repeatability(tuple(medians[name]), noisy if name == "hwnas" else 0).to_json(),
            "seconds": seconds[name] / taken,
            "noisy_share": noisy / taken if name == "hwnas" else None,
            "inside_share": inside / taken if name == "hwnas" else None,
            "reasons": sorted({reason for _, m in measured for reason in m.disturbances}) if name == "hwnas" else [],
            "medians_ms": medians[name],
        }
        for name in methods
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--pause", type=float, default=20.0, help="seconds between passes")
    parser.add_argument("--side", type=int, default=96, help="of the square inputs; 96 gives networks of about 1 ms")
    parser.add_argument("--span", type=float, default=1.18, help="latency of the slowest network over the fastest")
    parser.add_argument("--seed", type=int, default=0, help="of the networks")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    before = conditions()["loadavg"]
    with tempfile.TemporaryDirectory(prefix="hwnas-noise-") as folder:
        models = networks(Path(folder), options.networks, options.side, options.span, options.seed)
        rows = [row for loaded in (False, True) for row in compare(models, options.passes, options.pause, loaded)]
    headings = f"{'Kendall':>8} {'median':>8} {'95 %':>8} {'worst':>8} {'s/network':>10} {'noisy':>7} {'inside':>7}"
    print(f"{'state':8} {'method':12} {headings}")
    for row in rows:
        noisy, inside = ("" if row[name] is None else f"{row[name]:.0%}" for name in ("noisy_share", "inside_share"))
        differences = " ".join(f"{row[f'{n}_difference']:8.1%}" for n in ("median", "resolvable", "worst"))
        shares = f"{row['seconds']:10.2f} {noisy:>7} {inside:>7}"
        print(f"{row['state']:8} {row['method']:12} {row['kendall']:8.3f} {differences} {shares}")
    print(f"load before: {before:.2f} on {os.cpu_count()} cores; 'quiet' is as quiet as the machine was")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
