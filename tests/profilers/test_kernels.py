"""Times of single kernels, of the runtimes whose profilers tell them."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.profilers import Artifact, Kernel, LocalProfiler, Runtime, get_runtime

TIMED = ("onnxruntime", "openvino", "ncnn", "mnn")


@pytest.fixture(params=TIMED, scope="module")
def runtime(request: pytest.FixtureRequest) -> Runtime:
    found = get_runtime(request.param)
    available = found.available()
    if not available.ok:
        pytest.skip(f"{request.param}: {available.missing}")
    return found


@pytest.fixture(scope="module")
def made(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A network of about a millisecond: convolutions with nothing between them that could be fused away."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    path = tmp_path_factory.mktemp("model") / f"model{runtime.suffix}"
    return runtime.convert(model, torch.zeros(1, 3, 64, 64), path)


def whole_ms(runtime: Runtime, artifact: Artifact) -> float:
    infer = runtime.load(artifact).bind(np.zeros(artifact.input_shape, np.float32))
    times = []
    for _ in range(60):
        start = time.perf_counter()
        infer()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[10:])


def test_the_sum_is_about_the_whole(runtime: Runtime, made: Artifact) -> None:
    """Within .5 to 3; a busy machine may slow one of the two down, so each has three tries."""
    ratios = []
    for _ in range(3):
        kernels = runtime.kernels(made)
        ratios.append(sum(kernel.ms for kernel in kernels) / whole_ms(runtime, made))
        if 0.5 < ratios[-1] < 3:
            break
    assert 0.5 < ratios[-1] < 3, f"sum / whole {ratios}"


def heaviest(kernels: tuple[Kernel, ...]) -> set[str]:
    return {kernel.op for kernel in sorted(kernels, key=lambda kernel: -kernel.ms)[:3]}


def test_kernels_are_those_of_the_graph(runtime: Runtime, made: Artifact) -> None:
    kernels, graph = runtime.kernels(made, runs=20), runtime.executed_graph(made)
    ops = {node.name: node.op for node in graph.nodes}
    assert [kernel.name for kernel in kernels] == list(ops), "the same names in the same order"
    assert all(kernel.op == ops[kernel.name] for kernel in kernels)
    assert all("Conv" in op for op in heaviest(kernels)), "the convolutions are what takes the time"
    assert {kernel.placement for kernel in kernels} == {"CPU"}


def test_the_child_times_them_too(runtime: Runtime, made: Artifact, tmp_path: Path) -> None:
    with LocalProfiler(runtime.name, reference=tmp_path / "reference.json") as profiler:
        told = profiler.kernels(made.path, runs=3)
    assert [kernel.op for kernel in told] == [kernel.op for kernel in runtime.kernels(made, runs=3)]


def test_int8_kernels(tmp_path: Path) -> None:
    runtime = get_runtime("onnxruntime")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    artifact = runtime.convert(
        model, torch.zeros(1, 3, 16, 16), tmp_path / "model.onnx", "int8", torch.randn(8, 3, 16, 16)
    )
    assert [kernel.op for kernel in runtime.kernels(artifact, runs=3)].count("QLinearConv") == 2
