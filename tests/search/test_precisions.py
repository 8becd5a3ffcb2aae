"""A study whose devices differ in precision: which file is measured, scored and shipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from hwnas.profilers import get_runtime
from hwnas.profilers.runtimes.onnx_file import is_quantised
from hwnas.search.run_data import RunData
from hwnas.search.study import Study

StudyFile = Callable[..., Path]
DEVICES = {"c8": {"runtime": "onnxruntime", "precision": "int8"}, "c": {"runtime": "onnxruntime"}}


@pytest.mark.slow
def test_the_first_device_says_what_a_verified_network_is_worth(tmp_path: Path, study_file: StudyFile) -> None:
    devices = dict(DEVICES)
    if get_runtime("openvino").available().ok:
        devices["ov"] = {"runtime": "openvino"}
    objectives = [{"metric": "top1"}, *({"metric": f"latency_ms@{name}"} for name in devices)]
    path = study_file(
        tmp_path,
        devices=devices,
        objectives=objectives,
        search={"trials": 3, "sampler": "random", "seed": 0},
        quality={"rungs": [{"epochs": 1}], "seeds": 1, "learning_rate": 0.02},
        verify={"finalists": 2},
    )
    folder = tmp_path / "run"
    Study.from_yaml(path, folder=folder).run()
    run = RunData.load(folder)
    assert len(run.verified) >= 1 and not (folder / "scratch").exists()
    for member in run.verified:
        files = folder / "artifacts" / member.arch_id
        assert is_quantised(files / "model.int8.onnx") and not is_quantised(files / "model.onnx")
        assert member.value("size_mb") == (files / "model.int8.onnx").stat().st_size / 1e6, "of the first device's file"
        assert set(member.tests) == {"c"}, "of every other precision, once"
        assert all(reading.source == "measured" for reading in (member.test, *member.tests.values()))
        layers = pd.read_parquet(files / "layers.parquet")
        assert set(layers["device"]) == set(devices)
        assert layers[layers["device"] == "c8"]["type"].str.contains("int8").any()
        assert {"untrained.onnx", "untrained.int8.onnx"}.isdisjoint(path.name for path in files.iterdir())
        card = (files / "card.md").read_text()
        assert "`model.int8.onnx` on `c8` (int8)" in card and "top1_test@c" in card
    assert not list(folder.rglob("*.npy")) and not list(folder.rglob("seed*"))
