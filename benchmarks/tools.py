"""Does hwnas give the latencies that the runtimes' own tools give? The aim is within 5 %.

OpenVINO brings a tool, `benchmark_app`. The wheels of onnxruntime, ncnn and MNN have none; for these the tool is the
loop of their C++ tools (onnxruntime_perf_test, benchncnn, MNN's benchmark) written with their Python packages alone, in
a process of its own: warm up, time each inference, median. All with the same file, threads and element type.

The two take turns, tool, hwnas, tool, hwnas, for a busy machine changes its mind every few seconds. `ratio` is the
median over the rounds of tool / hwnas of the same round; `best` is the fastest of the tool over the fastest of hwnas.

    python benchmarks/tools.py
    python benchmarks/tools.py --runtimes openvino --networks vit --rounds 9
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.profilers import LocalProfiler, conditions, get_runtime
from hwnas.spaces.errors import DeviceError, HwnasError

SECONDS = 1.0
"""Time of a tool's loop."""

WARM_UP = 10

Row = dict[str, Any]


def benchmark_app(model: Path, threads: int) -> float:
    """Median in ms of OpenVINO's tool, one stream and synchronous, as the profiler runs a network."""
    main = "from openvino.tools.benchmark.main import main; main()"
    how = ["-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1", "-pin", "NO", "-infer_precision", "f32"]
    command = [sys.executable, "-c", main, "-m", str(model), *how, "-nthreads", str(threads), "-t", f"{SECONDS:g}"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    found = re.search(r"Median:\s+([\d.]+) ([mu])s", said)
    if found is None:
        raise DeviceError(f"benchmark_app gave no median: {said.strip()[-200:]}")
    return float(found.group(1)) / (1e3 if found.group(2) == "u" else 1)


def plain_loop(runtime: str) -> Callable[[Path, int], float]:
    """Returns a function that runs one of LOOPS in a process of its own and gives the median in ms."""

    def run(model: Path, threads: int) -> float:
        command = [sys.executable, __file__, "--loop", runtime, str(model), str(threads)]
        env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
        if done.returncode != 0:
            raise DeviceError(f"the loop of {runtime} failed: {done.stderr.strip()[-200:]}")
        return float(done.stdout.split()[-1])

    return run


def _onnxruntime(model: str, threads: int) -> Callable[[], object]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0]
    feed = {entry.name: np.random.default_rng(0).standard_normal(entry.shape).astype(np.float32)}
    return lambda: session.run(None, feed)


def _ncnn(model: str, threads: int) -> Callable[[], object]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(model) as file:
        file.extractall(folder)
        net.load_param(f"{folder}/model.param")
        net.load_model(f"{folder}/model.bin")
        shape = json.loads(Path(folder, "model.json").read_text())["input"]
    mat = ncnn.Mat(np.random.default_rng(0).standard_normal(shape[1:]).astype(np.float32)).clone()

    def infer() -> object:
        extractor = net.create_extractor()
        extractor.input("in0", mat)
        return extractor.extract("out0")

    return infer


def _mnn(model: str, threads: int) -> Callable[[], object]:
    import MNN

    interpreter = MNN.Interpreter(model)
    interpreter.setSessionMode(1)  # release
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    given, made = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)

    def tensor(shape: tuple[int, ...]) -> Any:
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return MNN.Tensor(shape, MNN.Halide_Type_Float, values, MNN.Tensor_DimensionType_Caffe)

    x, y = tensor(given.getShape()), tensor(made.getShape())

    def infer() -> object:
        given.copyFrom(x)
        interpreter.runSession(session)
        return made.copyToHostTensor(y)

    return infer


LOOPS = {"onnxruntime": _onnxruntime, "ncnn": _ncnn, "mnn": _mnn}

TOOLS: dict[str, tuple[str, Callable[[Path, int], float]]] = {
    "openvino": ("benchmark_app", benchmark_app),
    **{runtime: ("plain loop", plain_loop(runtime)) for runtime in LOOPS},
}
"""Runtime → what its tool is called here, and what runs it."""


def loop_ms(infer: Callable[[], object]) -> float:
    """Times single inferences for SECONDS and returns the median in ms."""
    for _ in range(WARM_UP):
        infer()
    times = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        infer()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def compare(runtime: str, network: str, seed: int, threads: int, rounds: int) -> Row:
    """Returns the row of a runtime on a network."""
    import torch
    from networks import SIDE, make

    name, tool = TOOLS[runtime]
    row: Row = {"runtime": runtime, "tool": name, "network": network, "threads": threads}
    found = get_runtime(runtime)
    available = found.available()
    if not available.ok:
        return {**row, "failed": f"missing: {available.missing}"}
    with tempfile.TemporaryDirectory(prefix="hwnas-tools-") as folder:
        path = Path(folder) / f"model{found.suffix}"
        try:
            found.convert(make(network, seed), torch.zeros(1, 3, SIDE, SIDE), path)
            with LocalProfiler(runtime, threads) as profiler:
                taken = [(tool(path, threads), profiler.measure(path)) for _ in range(rounds)]
        except HwnasError as error:
            return {**row, "failed": str(error)}
    theirs, ours = [value for value, _ in taken], [measurement.median_ms for _, measurement in taken]
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return {
        **row,
        "tool_ms": theirs,
        "hwnas_ms": ours,
        "noisy": sum(measurement.quality == "noisy" for _, measurement in taken),
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "best": min(theirs) / min(ours),
    }


def _text(row: Row) -> str:
    name = f"{row['network']:10} {row['runtime']:12} {row['tool']:14}"
    if "failed" in row:
        return f"{name} {row['failed']}"
    medians = f"{statistics.median(row['tool_ms']):9.3f} {statistics.median(row['hwnas_ms']):9.3f}"
    span = f"{min(row['ratios']):.3f} to {max(row['ratios']):.3f}"
    return (
        f"{name} {medians} {row['ratio']:7.3f} {span:>15} {row['best']:7.3f} {row['noisy']:3} of {len(row['ratios'])}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", default=",".join(TOOLS), help="comma separated")
    parser.add_argument("--networks", default="mobilenet,resnet18,vit", help="comma separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--loop", nargs=3, metavar=("RUNTIME", "MODEL", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        runtime, model, threads = options.loop
        print(loop_ms(LOOPS[runtime](model, int(threads))))
        return 0
    before, rows = conditions()["loadavg"], []
    headings = f"{'tool ms':>9} {'hwnas ms':>9} {'ratio':>7} {'over rounds':>15} {'best':>7} {'noisy':>8}"
    print(f"{'network':10} {'runtime':12} {'tool':14} {headings}")
    for network in options.networks.split(","):
        for runtime in options.runtimes.split(","):
            row = compare(runtime, network, options.seed, options.threads, options.rounds)
            print(_text(row), flush=True)
            rows.append(row)
    print(f"load before: {before:.2f} on {os.cpu_count()} cores")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
