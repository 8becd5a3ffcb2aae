"""ncnn and MNN: damaged files, silent converters, what stands in the files."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.profilers import LocalProfiler, Runtime, get_runtime
from hwnas.profilers.runtimes.conversion import check_agreement, convert_with
from hwnas.profilers.runtimes.ncnn_file import read_layers, read_model, write_model
from hwnas.spaces.errors import CandidateError


@pytest.fixture(params=["ncnn", "mnn"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    found = get_runtime(request.param)
    available = found.available()
    if not available.ok:
        pytest.skip(f"{request.param}: {available.missing}")
    return found


class Odd(nn.Module):
    """An odd number of channels and sides that no layout is a multiple of; the output keeps its four axes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.ReLU6(), nn.Conv2d(6, 5, 1))
        self.up = nn.ConvTranspose2d(5, 4, 2, 2, groups=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.up(self.layers(x))
        return out


class Tokens(nn.Module):
    """A reduction over tokens: pnnx overlooks its axes in a file of opset 18."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.patch(x).flatten(2).transpose(1, 2).mean(1))
        return out


@pytest.mark.parametrize(("model", "shape"), [(Odd(), (1, 3, 9, 7)), (Tokens(), (1, 3, 12, 8))])
def test_shapes_and_layouts(runtime: Runtime, tmp_path: Path, model: nn.Module, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    artifact = runtime.convert(model, torch.zeros(shape), tmp_path / f"model{runtime.suffix}")
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(runtime.load(artifact)(x), expected, rtol=1e-4, atol=1e-5)
    graph = runtime.executed_graph(artifact)
    if isinstance(model, Odd):
        assert graph.macs == 6 * 9 * 7 * 5 + 6 * 5 * 7 * 5 + 5 * 4 * 4 * 7 * 5
        groups = {"ncnn": [3, 1], "mnn": [3, 3, 1]}  # MNN makes two depthwise ones of the grouped one
        assert [node.group for node in graph.nodes if node.op == "Conv"] == groups[runtime.name]


def test_the_same_model_is_the_same_file(runtime: Runtime, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Odd()
    files = [tmp_path / f"{name}{runtime.suffix}" for name in "ab"]
    for file in files:
        runtime.convert(model, torch.zeros(1, 3, 9, 7), file)
    if runtime.name == "ncnn":  # MNN writes a new identifier each time
        assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].stat().st_size == files[1].stat().st_size


def test_damaged_files_fail_alone(runtime: Runtime, tmp_path: Path) -> None:
    """Cut off, and with bytes changed: an error of the candidate, or a model that still runs; never a lost process."""
    path = tmp_path / f"model{runtime.suffix}"
    runtime.convert(Odd(), torch.zeros(1, 3, 9, 7), path)
    whole, rng = path.read_bytes(), random.Random(0)
    damaged = [whole[: len(whole) * part // 8] for part in range(8)]
    for _ in range(12):
        changed = bytearray(whole)
        for _ in range(4):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(changed))
    bad = tmp_path / f"bad{runtime.suffix}"
    refused = 0
    with LocalProfiler(runtime.name, budget_s=0.01, attempts=1, reference=tmp_path / "reference.json") as profiler:
        profiler.measure(path)
        pid = profiler.child.pid
        for data in damaged:
            bad.write_bytes(data)
            try:
                profiler.graph(bad)
            except CandidateError as error:
                refused += 1
                assert error.code in ("export", "non_finite"), error
        assert profiler.child.pid == pid, "the process has survived them all"
    assert refused >= (len(damaged) if runtime.name == "ncnn" else 8)


def test_a_converter_that_fails_is_the_candidates_fault(tmp_path: Path) -> None:
    for command in (["false"], ["sh", "-c", "echo why; kill -SEGV $$"], ["true"], ["/no/such/program"]):
        with pytest.raises(CandidateError) as raised:
            convert_with(command, tmp_path, tmp_path / "made")
        assert raised.value.code == "export"
    with pytest.raises(CandidateError, match=r"SIGSEGV.*why"):
        convert_with(["sh", "-c", "echo why; kill -SEGV $$"], tmp_path, tmp_path / "made")


def test_a_file_that_computes_something_else_is_found(runtime: Runtime, tmp_path: Path) -> None:
    path = tmp_path / f"model{runtime.suffix}"
    runtime.convert(Tokens(), torch.zeros(1, 3, 12, 8), path)
    x = np.ones((1, 3, 12, 8), np.float32)
    right = runtime.load(path)(x)
    check_agreement(runtime.name, path, x, right)
    with pytest.raises(CandidateError, match="differs"):
        check_agreement(runtime.name, path, x, right[:, ::-1].copy())
    with pytest.raises(CandidateError, match="shape"):
        check_agreement(runtime.name, path, x, right[:, :3])


PARAM = """7767517
3 3
Input in0 0 1 in0
Convolution conv 1 1 in0 1 0=2 1=1 5=1 6=2
ReLU relu 1 1 1 out0
"""


def test_layers_are_read() -> None:
    layers = read_layers(PARAM)
    assert [(layer.kind, layer.bottoms, layer.tops) for layer in layers][1:] == [
        ("Convolution", ("in0",), ("1",)),
        ("ReLU", ("1",), ("out0",)),
    ]
    assert layers[1].integer(0) == 2 and layers[1].integer(11, 7) == 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        PARAM.replace("7767517", "7767516"),
        PARAM.replace("3 3", "4 3"),
        PARAM.replace("3 3", "3 1000000000"),
        PARAM.replace("3 3", "-3 3"),
        PARAM.replace("conv 1 1", "conv 9 1"),
        PARAM.replace("conv 1 1", "conv -1 1"),
        PARAM.replace("1 1 in0 1", "1 1 nothing 1"),
        PARAM.replace("0=2", "x=2"),
        PARAM[: len(PARAM) // 2],
    ],
)
def test_text_that_is_no_model(text: str) -> None:
    with pytest.raises(CandidateError) as raised:
        read_layers(text)
    assert raised.value.code == "export"


def test_foreign_zips(tmp_path: Path) -> None:
    path = tmp_path / "model.ncnn"
    write_model(path, PARAM, b"\x00" * 16, (1, 1, 4, 4), (1, 2, 4, 4))
    assert read_model(path).output_shape == (1, 2, 4, 4)
    for shapes in ((0, 1, 4, 4), (1, 4)):
        write_model(path, PARAM, b"", shapes, (1, 2))
        with pytest.raises(CandidateError):
            read_model(path)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        with zipfile.ZipFile(path, "w", method) as file:
            file.writestr("model.param", PARAM * (method + 1))
        with pytest.raises(CandidateError):
            read_model(path)


@pytest.mark.parametrize(
    "text",
    [
        PARAM.replace("ReLU", "Nonsense"),
        PARAM.replace("out0", "end"),
        PARAM.replace("6=2", "6=200000"),
    ],
)
def test_models_that_ncnn_would_trust(tmp_path: Path, text: str) -> None:
    ncnn = get_runtime("ncnn")
    if not ncnn.available().ok:
        pytest.skip("no ncnn")
    path = tmp_path / "model.ncnn"
    write_model(path, text, b"\x00" * 64, (1, 1, 4, 4), (1, 2, 4, 4))
    with pytest.raises(CandidateError) as raised:
        ncnn.load(path)
    assert raised.value.code == "export"
