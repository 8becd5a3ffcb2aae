"""What every runtime does, whatever it is."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.profilers import Artifact, Graph, LocalProfiler, Measurement, Runtime, get_runtime, runtime_names
from hwnas.spaces.errors import CandidateError, DataError, DeviceError, DiskError

SLOW = ("executorch", "litert", "torch-aoti", "torch-compile")
"""Their conversions take seconds, or they compile."""


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in runtime_names()],
    scope="module",
)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    found = get_runtime(request.param)
    available = found.available()
    if not available.ok:
        assert available.missing and available.install
        pytest.skip(f"{request.param}: {available.missing}")
    return found


class Gate(nn.Module):
    """Squeeze-excite, hard-swish and a residual: what the fusions of a runtime work on."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Hardsigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(x)
        out: torch.Tensor = x + y * self.gate(y)
        return out


MACS = 8 * 9 * 64 + 8 * 25 * 64 + 8 * 8 + 8 * 10
"""Of `network`."""


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Gate(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )
    with torch.no_grad():
        made(torch.randn(32, 1, 8, 8) + 1)
    return made


@pytest.fixture(scope="module")
def made(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Artifact]:
    model = network()
    path = tmp_path_factory.mktemp("model") / f"model{runtime.suffix}"
    return model, runtime.convert(model, torch.zeros(1, 1, 8, 8), path)


def test_the_artifact_tells_what_it_is(runtime: Runtime, made: tuple[nn.Module, Artifact]) -> None:
    model, artifact = made
    assert artifact.runtime == runtime.name
    assert artifact.precision in runtime.precisions
    assert artifact.input_shape == (1, 1, 8, 8)
    assert artifact.size_bytes == artifact.path.stat().st_size > 0
    assert os.listdir(artifact.path.parent) == [artifact.path.name], "one file, nothing left aside"
    assert model.training and all(module.training for module in model.modules()), "the model is left as it was"


def answers(model: nn.Module, x: np.ndarray) -> np.ndarray:
    was = model.training
    with torch.no_grad():
        found: np.ndarray = model.eval()(torch.from_numpy(x)).numpy()
    model.train(was)
    return found


def samples(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 1, 8, 8)).astype(np.float32)


def test_parity_with_torch(runtime: Runtime, made: tuple[nn.Module, Artifact]) -> None:
    model, artifact = made
    run, x = runtime.load(artifact), samples(5)
    found = np.concatenate([run(x[place : place + 1]) for place in range(5)])
    np.testing.assert_allclose(found, answers(model, x), rtol=1e-4, atol=1e-5)


def test_every_precision_agrees_with_torch(runtime: Runtime, tmp_path: Path) -> None:
    model, x = network(), samples(32)
    expected = answers(model, x)
    for precision in runtime.precisions:
        path = tmp_path / f"{precision}{runtime.suffix}"
        artifact = runtime.convert(model, torch.zeros(1, 1, 8, 8), path, precision, torch.from_numpy(x))
        assert artifact.precision == precision and os.listdir(tmp_path) == [path.name]
        try:
            run = runtime.load(artifact)
        except DeviceError as error:
            assert "this processor has no" in str(error)
        else:
            found = np.concatenate([run(x[place : place + 1]) for place in range(len(x))])
            cosine = (found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)
            assert cosine > {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.9999, "int8": 0.99}[precision]
            assert precision == "fp32" or not np.allclose(found, expected, rtol=1e-5, atol=0), "really another one"
            graph = runtime.executed_graph(artifact)
            assert (graph.macs, graph.uncounted) == (MACS, ()), precision
            if precision == "int8":
                assert any("8" in node.dtype for node in graph.nodes), "not undone by the runtime"
        path.unlink()


def arrays(value: object) -> Iterator[np.ndarray]:
    """All arrays in a runtime's own kind of answer."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, torch.Tensor):
        yield value.float().cpu().numpy()
    elif isinstance(value, Mapping):
        yield from arrays(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from arrays(item)


def test_a_bound_input_is_what_runs(runtime: Runtime, made: tuple[nn.Module, Artifact]) -> None:
    run = runtime.load(made[1])
    assert run.input_shape == (1, 1, 8, 8)
    for seed in range(3):
        infer = run.bind(samples(1, seed).copy())  # nobody else keeps the samples
        gc.collect()
        infer()
        found = next(array for array in arrays(infer()) if array.shape == (1, 10))
        np.testing.assert_allclose(found, answers(made[0], samples(1, seed)), rtol=1e-4, atol=1e-5)


def test_a_bound_input_that_changes_in_place(runtime: Runtime, made: tuple[nn.Module, Artifact]) -> None:
    run, bound = runtime.load(made[1]), samples(1)
    infer = run.bind(bound)
    for seed in (3, 4, 3):
        np.copyto(bound, samples(1, seed))
        run.take()
        for _ in range(2):
            found = next(array for array in arrays(infer()) if array.shape == (1, 10))
            np.testing.assert_allclose(found, answers(made[0], samples(1, seed)), rtol=1e-4, atol=1e-5)


def test_conversion_prints_nothing(runtime: Runtime, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.convert(network(), torch.zeros(1, 1, 8, 8), tmp_path / f"model{runtime.suffix}")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


class Unconvertible(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such luck")


def test_what_cannot_be_converted_fails_alone(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match="no such luck") as raised:
        runtime.convert(Unconvertible(), torch.zeros(1, 1, 8, 8), tmp_path / f"model{runtime.suffix}")
    assert raised.value.code == "export"
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="file"):
        runtime.convert(network(), torch.zeros(1, 1, 8, 8), tmp_path / "file" / f"model{runtime.suffix}")


def test_unknown_precision(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="int3"):
        runtime.convert(network(), torch.zeros(1, 1, 8, 8), tmp_path / f"model{runtime.suffix}", precision="int3")


def test_each_precision_has_a_file_of_its_own_or_shares_the_fp32_one(runtime: Runtime) -> None:
    files = {precision: runtime.file(Path("a/model.onnx"), precision) for precision in runtime.precisions}
    assert all(file.parent == Path("a") and file.suffix == runtime.suffix for file in files.values())
    assert "int8" not in files or files["int8"] != files.get("fp32")


def test_kernels_are_timed_or_there_are_none(runtime: Runtime, made: tuple[nn.Module, Artifact]) -> None:
    kernels = runtime.kernels(made[1], runs=5)
    assert all(kernel.name and kernel.op and kernel.ms >= 0 and kernel.placement for kernel in kernels)


def test_files_that_are_no_model(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such"):
        runtime.load(tmp_path / f"none{runtime.suffix}")
    (tmp_path / f"bad{runtime.suffix}").write_bytes(b"\x00garbage" * 50)
    with pytest.raises(CandidateError) as raised:
        runtime.load(tmp_path / f"bad{runtime.suffix}")
    assert raised.value.code == "export"


def test_the_executed_graph(runtime: Runtime, made: tuple[nn.Module, Artifact]) -> None:
    _, artifact = made
    graph = runtime.executed_graph(artifact)
    depthwise = [node for node in graph.nodes if node.depthwise]
    assert len(depthwise) == 1 and depthwise[0].macs == 8 * 25 * 64
    assert graph.macs == MACS
    assert graph.uncounted == ()
    assert 1 < graph.depth <= len(graph.nodes)
    assert not any(node.op == "BatchNormalization" for node in graph.nodes), "folded"
    first = next(node for node in graph.nodes if node.macs)
    assert first.bytes_in == 4 * 64 and first.bytes_out == 4 * 8 * 64
    assert 2 * 4 * 8 * 64 <= graph.peak_activation_bytes <= 4 * 4 * 8 * 64
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph
    assert runtime.name in graph.runtime


def test_the_profiler_measures_runs_and_describes(
    runtime: Runtime, made: tuple[nn.Module, Artifact], tmp_path: Path
) -> None:
    model, artifact = made
    x = samples(4, seed=1)
    np.save(tmp_path / "x.npy", x)
    with LocalProfiler(runtime.name, budget_s=0.1, attempts=1, reference=tmp_path / "reference.json") as profiler:
        measurement = profiler.measure(artifact.path)
        graphs = profiler.graph(artifact.path), runtime.executed_graph(artifact)
        outputs = profiler.run(artifact.path, tmp_path / "x.npy")
        assert measurement.process == profiler.child.pid != os.getpid()
    np.testing.assert_allclose(outputs, answers(model, x), rtol=1e-4, atol=1e-5)
    assert sorted(os.listdir(tmp_path)) == ["reference.json", "x.npy"]
    first, second = (sorted((node.op, node.outputs, node.macs) for node in graph.nodes) for graph in graphs)
    assert first == second, "the same in the child; a runtime may name and order its own nodes differently each time"
    assert 0.001 < measurement.median_ms < 50
    assert len(measurement.blocks) >= 15 and len(measurement.disturbance) == len(measurement.blocks)
    assert Measurement.from_json(json.loads(json.dumps(measurement.to_json()))) == measurement
    assert measurement.fingerprint and runtime.name in measurement.fingerprint
    assert measurement.fingerprint["precision"] == "fp32"


@pytest.mark.parametrize("bad", ["none", "bad"])
def test_the_profiler_survives_a_bad_file(
    runtime: Runtime, made: tuple[nn.Module, Artifact], tmp_path: Path, bad: str
) -> None:
    (tmp_path / f"bad{runtime.suffix}").write_bytes(b"\x08garbage")
    with LocalProfiler(runtime.name, budget_s=0.05, attempts=1, reference=tmp_path / "reference.json") as profiler:
        with pytest.raises((CandidateError, DataError)):
            profiler.measure(tmp_path / f"{bad}{runtime.suffix}")
        assert profiler.measure(made[1].path).median_ms > 0


class Products(nn.Module):
    """Attention and a transposed convolution: products that runtimes fuse or keep in float."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Linear(8, 32)
        self.upscale = nn.ConvTranspose2d(1, 4, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = self.tokens(x[:, 0])
        y = (t @ t.transpose(1, 2)).softmax(-1) @ t
        out: torch.Tensor = self.upscale(x).mean((1, 2, 3)) + y.mean((1, 2))
        return out[:, None]


def test_products_are_counted_or_named(runtime: Runtime, tmp_path: Path) -> None:
    everything = 8 * 8 * 32 + 2 * 8 * 8 * 32 + 64 * 4 * 4
    for precision in set(runtime.precisions) - {"bf16"}:
        path = tmp_path / f"{precision}{runtime.suffix}"
        artifact = runtime.convert(Products(), torch.zeros(1, 1, 8, 8), path, precision, torch.from_numpy(samples(8)))
        graph = runtime.executed_graph(artifact)
        assert graph.macs == everything or graph.uncounted, precision


class NotFinite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)
        nn.init.constant_(self.layer.weight, float("nan"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x).mean((2, 3))
        return out


def test_an_answer_that_is_not_finite(runtime: Runtime, tmp_path: Path) -> None:
    artifact = runtime.convert(NotFinite(), torch.zeros(1, 1, 8, 8), tmp_path / f"model{runtime.suffix}")
    np.save(tmp_path / "x.npy", np.ones((1, 1, 8, 8), np.float32))
    with LocalProfiler(runtime.name, reference=tmp_path / "reference.json") as profiler:
        for ask in (lambda: profiler.measure(artifact.path), lambda: profiler.run(artifact.path, tmp_path / "x.npy")):
            with pytest.raises(CandidateError) as raised:
                ask()
            assert raised.value.code == "non_finite"


def test_unknown_names() -> None:
    with pytest.raises(DeviceError, match="did you mean 'onnxruntime'"):
        get_runtime("onnxruntim")
    with pytest.raises(DeviceError, match="int3"):
        LocalProfiler(precision="int3")
    with pytest.raises(DeviceError, match="threads"):
        LocalProfiler(threads=0)


def test_the_measuring_process_is_light() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import hwnas.profilers.runner; "
        "print(time.perf_counter() - start, *(name.partition('.')[0] for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *modules = done.stdout.split()
    assert "hwnas" in modules and "numpy" in modules
    assert not {"torch", "onnx", "onnxruntime", "openvino", "pandas", "optuna", "fvcore"} & set(modules)
    assert float(seconds) < 5
