"""Does the front hold when it is run again? Each shipped ONNX file, in a fresh process, with onnxruntime alone.

    python benchmarks/reproduce.py runs/digits

For every member of the verified front: the accuracy on the test part and the median latency of a plain loop, beside
what `front.parquet` records. The fresh process imports numpy and onnxruntime and nothing of hwnas. A neighbour that
takes the processor slows a plain loop down; the load is printed, and `--passes` takes the best of several.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hwnas.search.data import load_data, resize
from hwnas.search.run_data import RunData
from hwnas.search.study_file import load_study_file
from hwnas.spaces import Architecture, load_space

LOOP = """
import sys, time
import numpy as np, onnxruntime as ort
model, x, y, threads = sys.argv[1], np.load(sys.argv[2]), np.load(sys.argv[3]), int(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
right = sum(int(session.run(None, {name: x[i:i + 1]})[0].argmax() == y[i]) for i in range(len(y)))
times = []
end = time.perf_counter() + 1.5
while time.perf_counter() < end:
    feed = {name: x[len(times) % len(x)][None]}
    start = time.perf_counter()
    session.run(None, feed)
    times.append(time.perf_counter() - start)
print(right / len(y), 1000 * float(np.median(times)))
"""


def again(model: Path, x: Path, y: Path, threads: int) -> tuple[float, float]:
    """Returns (accuracy, median latency in ms) of a plain loop in a process of its own."""
    command = [sys.executable, "-I", "-c", LOOP, str(model), str(x), str(y), str(threads)]
    accuracy, ms = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(accuracy), float(ms)


def rows_of(folder: Path, passes: int) -> list[dict[str, Any]]:
    """Runs every member of the front again."""
    run = RunData.load(folder)
    spec = load_study_file(folder / "study.yaml")
    if spec.data is None:
        raise SystemExit(f"{folder}: its study has no data, so nothing can be run again")
    data = load_data(spec.data, folder, spec.search.seed)
    environment = json.loads((folder / "environment.json").read_text("utf-8"))
    space = load_space(
        spec.space.use,
        input_shape=tuple(environment["input"]),
        num_classes=environment["num_classes"],
        params=spec.space.params,
        allow_code=None,
    )
    device, about = next(iter(spec.devices.items()))
    latency = f"latency_ms@{device}"
    assert run.front is not None, "the study has not ended"
    rows = []
    images, labels = data.open_test()
    with tempfile.TemporaryDirectory(prefix="hwnas-benchmark-") as scratch:
        x, y = Path(scratch) / "x.npy", Path(scratch) / "y.npy"
        np.save(y, labels.numpy())
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(passes):  # in turn, so that a slow spell of the machine does not hit one network alone
            for _, member in run.front.iterrows():
                shape = space.input_of(Architecture.from_json(member["arch"]))
                np.save(x, resize(images, shape[1:]).numpy())
                model = folder / "artifacts" / member["arch_id"] / "model.onnx"
                found.setdefault(member["arch_id"], []).append(again(model, x, y, about.threads))
    for _, member in run.front.iterrows():
        accuracy = found[member["arch_id"]][0][0]
        ms = min(ms for _, ms in found[member["arch_id"]])
        rows.append(
            {
                "arch_id": member["arch_id"],
                "recorded top1": member["top1_test"],
                "again top1": accuracy,
                "points": 100 * abs(accuracy - member["top1_test"]),
                "recorded ms": member[latency],
                "again ms": ms,
                "percent": 100 * (ms / member[latency] - 1),
            }
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with a verified front")
    parser.add_argument("--passes", type=int, default=3, help="fresh processes a network; the fastest counts")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    rows = rows_of(options.run, options.passes)
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    close = sum(abs(row["percent"]) <= 15 for row in rows)
    exact = sum(row["points"] <= 0.1 for row in rows)
    print(f"accuracy within 0.1 points: {exact} of {len(rows)}; latency within 15 %: {close} of {len(rows)}")
    print(f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0 if exact == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
