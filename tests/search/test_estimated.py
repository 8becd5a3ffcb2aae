"""A study on a device that is only estimated: whatever is shown of it says so."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from hwnas.profilers import get_runtime
from hwnas.search.cli import main
from hwnas.search.metrics import Metric, Reading
from hwnas.search.quantities import format_reading, label
from hwnas.search.run_data import RunData
from hwnas.search.study import Study
from hwnas.search.study_file import load_study_text
from hwnas.spaces.errors import DeviceError


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The command line sets a handler of its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


StudyFile = Callable[..., Path]
TEXT = """
version: 1
name: npu
space: {use: mobile}
data: {use: digits}
devices: {npu: {runtime: ethos-u55-128}, cpu: {runtime: onnxruntime}}
objectives: [{metric: top1}, {metric: latency_ms@npu}]
limits: [sram_mb@npu <= 0.2]
"""


def test_an_estimated_device_is_int8() -> None:
    assert load_study_text(TEXT).devices["npu"].precision == "int8"
    with pytest.raises(DeviceError, match="has no 'fp32'"):
        load_study_text(TEXT, ["devices.npu.precision=fp32"])


def test_only_an_estimate_tells_of_memory() -> None:
    assert Metric.parse("flash_mb@npu") in load_study_text(TEXT, ["track=[flash_mb@npu]"]).metrics
    with pytest.raises(DeviceError, match="sram_mb@cpu': only estimated devices"):
        load_study_text(TEXT, ["limits=[sram_mb@cpu <= 1]"])


def test_an_estimate_is_written_with_a_tilde() -> None:
    assert format_reading("sram_mb@npu", Reading(0.25, source="estimated")) == "~0.250 MB"
    assert label("flash_mb@npu") == "Flash on npu"


@pytest.mark.slow
@pytest.mark.skipif(not get_runtime("ethos-u55-128").available().ok, reason="Vela or LiteRT is missing")
def test_a_study_says_what_was_estimated(
    tmp_path: Path, study_file: StudyFile, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_file(
        tmp_path,
        devices={"npu": {"runtime": "ethos-u55-128"}, "cpu": {"runtime": "onnxruntime"}},
        objectives=[{"metric": "top1"}, {"metric": "latency_ms@npu"}, {"metric": "latency_ms@cpu"}],
        limits=["sram_mb@npu <= 0.2"],
        track=["flash_mb@npu"],
        search={"trials": 3, "sampler": "random", "seed": 0},
        quality={"rungs": [{"epochs": 1}], "seeds": 1, "learning_rate": 0.02},
        verify={"finalists": 2},
    )
    folder = tmp_path / "run"
    Study.from_yaml(path, folder=folder).run()
    estimated = {"latency_ms@npu", "sram_mb@npu", "flash_mb@npu"}
    for name in ("trials.parquet", "front.parquet"):
        table = pd.read_parquet(folder / name)
        for metric in estimated:
            assert set(table[f"{metric}.source"]) == {"estimated"} and (table[metric] > 0).all(), (name, metric)
        assert set(table["latency_ms@cpu.source"]) == {"measured"}
    samples = pd.read_parquet(folder / "measurements.parquet")
    assert set(samples["device"]) == {"cpu"}, "an estimate has no samples"
    run = RunData.load(folder)
    for member in run.verified:
        files = folder / "artifacts" / member.arch_id
        assert (files / "model.int8.tflite").is_file() and not list(files.glob("seed*"))
        card = (files / "card.md").read_text()
        assert "| latency_ms@npu | ~" in card and "| estimated |" in card
        assert set(pd.read_parquet(files / "layers.parquet")["device"]) == {"npu", "cpu"}
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text()
    note = "not measured on a device: latency_ms@npu, sram_mb@npu"
    assert note in page and "estimated" in page
    capsys.readouterr()
    assert main(["select", str(folder)]) == 0
    told = capsys.readouterr().out
    assert note in told and "~" in told
    again = Study.from_yaml(path, folder=folder).run()
    assert again.trials == 3, "what is finished is not estimated again"


@pytest.mark.slow
@pytest.mark.skipif(not get_runtime("ethos-u55-128").available().ok, reason="Vela or LiteRT is missing")
def test_a_tflite_file_is_profiled_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)),
        torch.randn(4, 3, 8, 8),
    )
    path = tmp_path / "model.tflite"
    get_runtime("litert").convert(model, x[:1], path, "int8", x)

    def profiled(*arguments: str) -> tuple[int, str, str]:
        code = main(["profile", str(path), *arguments])
        return (code, *capsys.readouterr())

    _, out, _ = profiled("--device", "litert", "--device", "ethos-u55-128", "--json")
    measured, estimated = json.loads(out)["profiles"]
    assert measured["device"] == "litert:int8" and measured["latency_ms"]["median"] > 0
    assert measured["macs"] == 4 * 27 * 36 + 144 * 10 and measured["fingerprint"]["litert"] != "missing"
    assert estimated["source"] == "estimated" and estimated["latency_ms"] > 0 and estimated["sram_bytes"] > 0
    code, out, _ = profiled("--device", "ethos-u55-128", "--layers")
    assert code == 0 and "estimated by the vendor's tool, not measured" in out and "Gemm" in out
    code, _, err = profiled("--device", "onnxruntime")
    assert code == 2 and "does not run .tflite files" in err
    path.write_bytes(path.read_bytes()[:99])
    code, _, err = profiled("--device", "litert")
    assert code == 65 and "export: litert cannot load" in err
