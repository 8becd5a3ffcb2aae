"""What is particular to LiteRT: files of its own, float in and out, what XNNPACK takes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.profilers import LocalProfiler, get_runtime
from hwnas.profilers.runtimes.litert import INSTALL, LiteRt
from hwnas.spaces.errors import CandidateError

HERE = get_runtime("litert").available().ok
needs_litert = pytest.mark.skipif(not HERE, reason="litert is missing")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.Hardswish(),
        nn.Conv2d(8, 16, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )


MACS = 8 * 27 * 64 + 16 * 18 * 64 + 16 * 64 * 10


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network in each precision."""
    torch.manual_seed(1)
    folder, x = tmp_path_factory.mktemp("litert"), torch.randn(16, 3, 16, 16)
    made = {precision: folder / f"{precision}.tflite" for precision in LiteRt.precisions}
    for precision, path in made.items():
        LiteRt().convert(network(), x[:1], path, precision, x)
    return made


def test_the_way_to_install_it_is_there() -> None:
    listed = Path(INSTALL.rpartition(" ")[2])
    lines = [line for line in listed.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = (listed.resolve().parents[2] / "constraints.txt").read_text().splitlines()
    both = {line.partition("==")[0] for line in lines} & {line.partition("==")[0] for line in pinned}
    assert both and all(line in pinned for line in lines if line.partition("==")[0] in both), "the same versions"


@needs_litert
@pytest.mark.slow
def test_float_in_and_out_whatever_the_file_has_inside(files: dict[str, Path]) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    plain, quantised = (LiteRt().load(files[precision]) for precision in ("fp32", "int8"))
    assert (plain.quantised, quantised.quantised) == (False, True)
    a, b = plain(x), quantised(x)
    assert a.dtype == b.dtype == np.float32 and a.shape == b.shape == (1, 10)
    assert 0 < np.abs(a - b).mean() < 0.2 * np.abs(a).mean()
    far = quantised(1e6 * x)  # beyond what int8 holds: the ends of the range, not wrapped around
    np.testing.assert_allclose(far, quantised(1e9 * x))


@needs_litert
@pytest.mark.slow
def test_the_graph_says_which_kernels_run_an_operator(files: dict[str, Path]) -> None:
    plain, quantised = (LiteRt().executed_graph(files[precision]) for precision in ("fp32", "int8"))
    assert plain.macs == quantised.macs == MACS and not plain.uncounted and not quantised.uncounted
    assert {node.domain for node in plain.nodes} == {"xnnpack"}
    assert {node.op for node in quantised.nodes if node.domain == "litert"} == {"HardSwish"}
    grouped = next(node for node in plain.nodes if node.group == 4)
    assert (grouped.inputs[0], grouped.outputs, grouped.weights[0]) == ((1, 8, 8, 8), ((1, 16, 8, 8),), (16, 2, 3, 3))
    assert not grouped.depthwise and grouped.attributes["kernel"] == [3, 3]
    assert quantised.peak_activation_bytes < plain.peak_activation_bytes / 3
    weights = [sum(node.weight_bytes for node in graph.nodes) for graph in (plain, quantised)]
    assert weights[1] < weights[0] / 2


def _with_input(data: bytes, shape: list[int]) -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape = np.array(shape, np.int32)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@needs_litert
@pytest.mark.slow
def test_spoiled_files_are_refused_before_they_are_run(files: dict[str, Path], tmp_path: Path) -> None:
    data, path = files["fp32"].read_bytes(), tmp_path / "model.tflite"
    rng = np.random.default_rng(0)
    for _ in range(40):
        path.write_bytes(data[: rng.integers(len(data))])
        with pytest.raises(CandidateError) as raised:
            LiteRt().load(path)
        assert raised.value.code == "export"
    for shape in ([1, 3, 2**31 - 1, 2**31 - 1], [1, 3, 2**16, 2**16]):
        path.write_bytes(_with_input(data, shape))
        with pytest.raises(CandidateError, match="bytes") as raised:
            LiteRt().load(path)
        assert raised.value.code == "export"


@needs_litert
@pytest.mark.slow
def test_flipped_bytes_end_no_profiler(files: dict[str, Path], tmp_path: Path) -> None:
    data, path = files["int8"].read_bytes(), tmp_path / "model.tflite"
    rng = np.random.default_rng(1)
    outcomes = set()
    with LocalProfiler(
        "litert", precision="int8", budget_s=0.01, attempts=1, reference=tmp_path / "r.json"
    ) as profiler:
        for _ in range(20):
            spoiled = bytearray(data)
            for place in rng.integers(8, len(data), 4):
                spoiled[place] ^= int(rng.integers(1, 256))
            path.write_bytes(spoiled)
            try:
                profiler.measure(path)
                outcomes.add("measured")
            except CandidateError as error:
                outcomes.add(error.code.partition(":")[0])
        assert profiler.measure(files["int8"]).median_ms > 0
    assert outcomes <= {"measured", "export", "crash", "non_finite", "timeout", "oom"} and "export" in outcomes


@needs_litert
@pytest.mark.slow
def test_nothing_is_left_behind(files: dict[str, Path]) -> None:
    assert sorted(os.listdir(files["fp32"].parent)) == ["fp32.tflite", "int8.tflite"]
    assert LiteRt().kernels(files["fp32"]) == ()
