"""`hwnas profile` when converters misbehave."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from hwnas.profilers import get_runtime
from hwnas.profilers.golden import golden_model
from hwnas.search.cli import main

HERE = Path(__file__).parent


def processes_with(mark: str) -> list[int]:
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path("/proc", entry, "environ").read_bytes():
                found.append(int(entry))
        except OSError:
            continue
    return found


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("mnn", "ncnn", "openvino"):
        if not get_runtime(name).available().ok:
            pytest.skip(f"{name} is not installed")
    monkeypatch.setattr("hwnas.search.cli.profile.CONVERTER", "fake_converter")
    kept = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *kept]))
    monkeypatch.setenv("HWNAS_TEST_MARK", str(tmp_path))
    path = tmp_path / "model.onnx"
    path.write_bytes(golden_model())
    return path


def test_a_converter_that_dies_or_hangs_fails_its_device_alone(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ("mnn", "ncnn", "openvino:int8", "onnxruntime")
    devices = [word for name in names for word in ("--device", name)]
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = main(["profile", str(model), *devices, "--timeout", "8", "--json"])
    finally:
        signal.signal(signal.SIGTERM, before)
    out, said = capsys.readouterr()
    told = json.loads(out)
    assert code == 65 and [item["device"] for item in told["profiles"]] == ["onnxruntime:fp32"]
    assert [item["device"] for item in told["failed"]] == ["mnn:fp32", "ncnn:fp32", "openvino:int8"]
    for item, sign in zip(told["failed"], ("crash:SIGSEGV", "timeout", "oom"), strict=True):
        assert sign in item["error"] and "\n" not in item["error"] and item["error"] in said
    assert "Traceback" not in said and len(said.strip().splitlines()) == 3
    end = time.monotonic() + 5
    while processes_with(f"HWNAS_TEST_MARK={tmp_path}") and time.monotonic() < end:
        time.sleep(0.05)
    assert not processes_with(f"HWNAS_TEST_MARK={tmp_path}"), "nothing of a converter is left"


def test_no_device_is_left(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = main(["profile", str(model), "--device", "mnn", "--json"])
    finally:
        signal.signal(signal.SIGTERM, before)
    out, said = capsys.readouterr()
    assert code == 65 and "crash:SIGSEGV" in said and len(said.strip().splitlines()) == 1
    told = json.loads(out)
    assert told["profiles"] == [] and [failure["device"] for failure in told["failed"]] == ["mnn:fp32"]


def test_every_failure_is_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = main(["profile", str(model), "--device", "mnn", "--device", "openvino:int8"])
    finally:
        signal.signal(signal.SIGTERM, before)
    out, said = capsys.readouterr()
    assert code == 65 and not out and "Traceback" not in said
    assert "mnn:fp32: " in said and "crash:SIGSEGV" in said and "openvino:int8: " in said and "oom" in said
