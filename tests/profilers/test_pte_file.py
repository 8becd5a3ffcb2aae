"""What is read from flatbuffers and ExecuTorch files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.profilers import Artifact, get_runtime
from hwnas.profilers.runtimes.flatbuffer import FlatbufferError, root
from hwnas.profilers.runtimes.pte_file import read_graph
from hwnas.spaces.errors import CandidateError, DeviceError

TABLE = struct.pack("<I4sHHHHiIBxxxI3s", 16, b"TEST", 8, 16, 4, 8, 8, 4, 7, 3, b"abc")
"""A table with a vector of bytes in field 0 and a byte in field 1, by the rules of flatbuffers."""


def test_a_flatbuffer_written_by_hand() -> None:
    table = root(TABLE, b"TEST")
    assert (table.whole(1, "B"), table.whole(2, "i", 5), table.table(3), table.numbers(4)) == (7, 5, None, ())
    with pytest.raises(FlatbufferError, match="TEST"):
        root(TABLE, b"ELSE")


@pytest.mark.parametrize("length", range(len(TABLE)))
def test_a_flatbuffer_that_ends_early(length: int) -> None:
    with pytest.raises(FlatbufferError):
        table = root(TABLE[:length], b"TEST")
        assert table.blob(0) == b"abc"
        table.whole(1, "B")


class Block(nn.Module):
    """A residual with functions that XNNPACK merges, and an operator that it does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.hardswish(self.norm(self.conv(x)))
        out: torch.Tensor = x + y * nn.functional.hardsigmoid(y.mean((2, 3), keepdim=True))
        return torch.cumsum(out, 1)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    runtime = get_runtime("executorch")
    if not runtime.available().ok:
        pytest.skip("executorch is not installed")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU6(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    folder, x = tmp_path_factory.mktemp("pte"), torch.randn(16, 1, 16, 16)
    return {name: runtime.convert(model, x[:1], folder / f"{name}.pte", name, x) for name in runtime.precisions}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_is_what_the_runtime_traces(artifacts: dict[str, Artifact], precision: str) -> None:
    runtime = get_runtime("executorch")
    graph, kernels = runtime.executed_graph(artifacts[precision]), runtime.kernels(artifacts[precision], runs=3)
    assert len(graph.nodes) == len(kernels), "one kernel for each node"
    domains = [("XNNPACK" if node.domain == "xnnpack" else "CPU") for node in graph.nodes]
    assert domains == [kernel.placement for kernel in kernels]
    assert any(node.op == "aten::cumsum" for node in graph.nodes) and graph.uncounted == ("aten::cumsum",)
    assert graph.macs == 8 * 9 * 49 + 8 * 49 * 9 * 4


@pytest.mark.slow
def test_a_spoiled_file_never_crashes_the_reader(artifacts: dict[str, Artifact], tmp_path: Path) -> None:
    good, rng = artifacts["int8"].path.read_bytes(), np.random.default_rng(0)
    read, path = 0, tmp_path / "bad.pte"
    for _ in range(300):
        data = bytearray(good)
        for place in rng.integers(0, 4000, size=4):
            data[int(place)] = int(rng.integers(256))
        path.write_bytes(data[: int(rng.integers(8, len(data)))])
        try:
            get_runtime("executorch").executed_graph(path)
            read += 1
        except CandidateError as error:
            assert error.code == "export"
    assert read < 300


@pytest.mark.slow
def test_threads_are_of_the_whole_process(artifacts: dict[str, Artifact]) -> None:
    runtime = get_runtime("executorch")
    session = runtime.load(artifacts["fp32"], threads=1)
    with pytest.raises(DeviceError, match="another number of threads"):
        runtime.load(artifacts["fp32"], threads=2)
    del session
    x = np.zeros((1, 1, 16, 16), np.float32)
    expected = runtime.load(artifacts["fp32"], threads=2)(x)
    np.testing.assert_allclose(runtime.load(artifacts["fp32"], threads=1)(x), expected, rtol=1e-4, atol=1e-5)


def test_other_files_have_no_graph(tmp_path: Path) -> None:
    with pytest.raises(FlatbufferError):
        read_graph(TABLE, "executorch")
    with pytest.raises(FlatbufferError):
        read_graph(b"", "executorch")
