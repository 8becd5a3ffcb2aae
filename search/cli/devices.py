"""`hwnas devices`"""

from __future__ import annotations

from pathlib import Path

import click

from .common import as_json, next_command, print_json, print_table


@click.command("devices")
@click.option("--test", is_flag=True, help="Measure a small reference network on each.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads of one inference.")
@as_json
def command(test: bool, threads: int, as_json: bool) -> None:
    """List the devices of this machine, and test them.

    In this version a device is this machine with a runtime; boards and phones are not in it yet.
    """
    from ...profilers import fingerprint, get_runtime, runtime_names

    found = []
    for name in runtime_names():
        runtime = get_runtime(name)
        available = runtime.available()
        entry: dict[str, object] = {
            "host": "local",
            "runtime": name,
            "precisions": list(runtime.precisions),
            "threads": threads,
            "ok": available.ok,
            "version": available.version if available.ok else None,
            "install": None if available.ok else available.install,
            "cpu": fingerprint(name).get("cpu") if available.ok else None,
        }
        if test and available.ok:
            entry["test"] = _tested(name, threads)
        found.append(entry)
    if as_json:
        print_json({"devices": found})
        return
    headings = ["host", "runtime", "version", "precisions", "cpu", *(["test"] if test else [])]
    rows = []
    for entry in found:
        precisions = entry["precisions"]
        assert isinstance(precisions, list)
        state = entry["version"] or f"missing: {entry['install']}"
        row = ["local", str(entry["runtime"]), str(state), ", ".join(precisions), str(entry["cpu"] or "")]
        rows.append([*row, *([str(entry.get("test", ""))] if test else [])])
    print_table(headings, rows)
    next_command("hwnas", "profile", "model.onnx")


def _tested(runtime: str, threads: int) -> str:
    """Measures a small network and returns one line about it."""
    import tempfile

    import torch
    from torch import nn

    from ...profilers import LocalProfiler, get_runtime

    with tempfile.TemporaryDirectory(prefix="hwnas-test-") as folder, LocalProfiler(runtime, threads) as profiler:
        model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16 * 16, 10)).eval()
        found = get_runtime(runtime)
        path = found.file(Path(folder) / "test.onnx", "fp32")
        found.convert(model, torch.zeros(1, 3, 32, 32), path)
        told = profiler.measure(path)
    return f"{told.latency_ms:.4f} ms ({told.quality})"
