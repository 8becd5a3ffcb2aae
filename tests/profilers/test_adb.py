"""A phone behind adb: the whole way with a stand-in for adb, and every way in which it can go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hwnas.profilers.golden import golden_model
from hwnas.profilers.hosts.adb import open_phone, parse_phone
from hwnas.profilers.hosts.remote import RemoteProfiler
from hwnas.profilers.hosts.wire import Request
from hwnas.spaces.errors import CandidateError, DeviceError

HERE = Path(__file__).parent
TOOL = "/data/local/tmp/onnxruntime_perf_test"


class FakePhone:
    """The state of the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "phone").mkdir(parents=True)

    def mode(self, text: str) -> None:
        (self.folder / "mode").write_text(text)

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.folder / "phone").rglob("*") if path.is_file()]


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    adb = binaries / "adb"
    adb.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(HERE / "fake_adb.py"))} "$@"\n')
    adb.chmod(0o755)
    monkeypatch.setenv("PATH", str(binaries), prepend=":")
    made = FakePhone(tmp_path / "state")
    monkeypatch.setenv("FAKE_ADB", str(made.folder))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return made


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden.onnx"
    path.write_bytes(golden_model())
    return path


def profiler_of(text: str = "SERIAL1", runtime: str = "onnxruntime", tool: str = TOOL, **more: Any) -> RemoteProfiler:
    return open_phone(text, runtime, tool=tool, **{"backoff_s": (0.01, 0.01, 0.01), **more})


def test_the_whole_way(phone: FakePhone, golden: Path) -> None:
    with profiler_of() as profiler:
        found = profiler.fingerprint()
        assert found["phone"] == "Pixel 8" and found["serial"] == "SERIAL1" and found["host"] == "adb:SERIAL1"
        told = profiler.measure(golden)
        assert len(told.blocks) == 8 and len(told.blocks[0]) == 50
        assert 1.5 < told.median_ms < 1.6
        assert told.conditions and told.conditions["thermal_status"] == 1 and not told.conditions["throttled"]
        assert told.quality == "ok", told.disturbances
        assert not profiler.gives_outputs
    assert all(call[:2] == ["-s", "SERIAL1"] for call in phone.calls)
    assert phone.files == [], "nothing is left on the phone"


@pytest.mark.parametrize("how", ["hot before", "hot after"])
def test_a_hot_phone_disturbs_the_measurement(phone: FakePhone, golden: Path, how: str) -> None:
    phone.mode(how)
    with profiler_of() as profiler:
        told = profiler.measure(golden)
    assert told.conditions and told.conditions["thermal_status"] == 2
    assert told.quality == "noisy" and told.disturbances == ("the processor was throttled",)


@pytest.mark.parametrize(("how", "median"), [("", 1.5), ("old", 1.5)])
def test_litert(phone: FakePhone, tmp_path: Path, how: str, median: float) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"\x1c\0\0\0TFL3" + b"\0" * 100)
    phone.mode(how)
    with profiler_of(runtime="litert", tool="/data/local/tmp/benchmark_model") as profiler:
        told = profiler.measure(model)
        assert told.median_ms == pytest.approx(median)
        assert len(told.blocks) == 8
    phone.mode("silent")
    with (
        profiler_of(runtime="litert", tool="/data/local/tmp/benchmark_model") as profiler,
        pytest.raises(CandidateError, match="bad_result: the benchmark program gave no times"),
    ):
        profiler.measure(model)


@pytest.mark.parametrize("how", ["gone", "offline", "unauthorized", "closed"])
def test_a_phone_that_is_gone_is_tried_again(phone: FakePhone, golden: Path, how: str) -> None:
    phone.mode(f"{how},{how},")
    with profiler_of() as profiler:
        assert profiler.measure(golden).median_ms > 0


@pytest.mark.parametrize("how", ["gone", "offline", "unauthorized", "closed"])
def test_a_phone_that_stays_away_is_put_in_quarantine(phone: FakePhone, golden: Path, how: str) -> None:
    phone.mode(how)
    with profiler_of() as profiler:
        with pytest.raises(DeviceError, match=r"adb:SERIAL1: adb: .*quarantine") as raised:
            profiler.measure(golden)
        assert "\n" not in str(raised.value)
        tried = len(phone.calls)
        assert tried == 4
        with pytest.raises(DeviceError, match="quarantine"):
            profiler.measure(golden)
        assert len(phone.calls) == tried


def test_a_phone_that_goes_while_it_measures(phone: FakePhone, golden: Path) -> None:
    phone.mode(",,,,,,,gone,")
    with profiler_of() as profiler:
        assert profiler.measure(golden).median_ms > 0, "it came back"


def test_a_phone_that_hangs(phone: FakePhone, golden: Path) -> None:
    phone.mode("hang")
    start = time.monotonic()
    with profiler_of(deadline_s=1.0, backoff_s=()) as profiler, pytest.raises(DeviceError, match="timeout"):
        profiler.measure(golden)
    assert time.monotonic() - start < 20


def test_a_program_that_hangs_leaves_nothing_on_the_phone(phone: FakePhone, golden: Path) -> None:
    phone.mode("hang there")
    with profiler_of(deadline_s=3.0, backoff_s=()) as profiler, pytest.raises(DeviceError, match="golden"):
        profiler.measure(golden)
    programs = [call for call in phone.calls if TOOL in call and "timeout" in call]
    assert programs and all(call[2:6] == ["shell", "timeout", "-s", "9"] for call in programs)
    assert all(1 <= int(call[6]) <= 3 for call in programs), "the phone ends the program with the deadline"
    assert phone.files == []


@pytest.mark.parametrize("death", ["client", "board"])
def test_adb_ends_with_the_board(phone: FakePhone, golden: Path, death: str) -> None:
    model = golden.read_bytes()
    request = Request(
        "0" * 32,
        "measure",
        phone="SERIAL1",
        tool=TOOL,
        model_bytes=len(model),
        model_sha256=hashlib.sha256(model).hexdigest(),
    )
    phone.mode("hang there")
    command = [sys.executable, "-P", "-m", "hwnas.profilers.hosts.board"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert process.stdin
    process.stdin.write(request.frame() + model)
    process.stdin.flush()
    end = time.monotonic() + 30
    while not any("timeout" in call for call in phone.calls):
        assert time.monotonic() < end, "the program was not started"
        time.sleep(0.02)
    adb = Path("/proc", (phone.folder / "pid").read_text())
    assert b"fake_adb" in (adb / "cmdline").read_bytes()
    if death == "client":
        process.stdin.close()  # all that a board sees of a client that is gone
    else:
        process.kill()
        process.stdin.close()
    start = time.monotonic()
    while adb.exists():
        assert time.monotonic() - start < 2.0, "adb goes on"
        time.sleep(0.01)
    process.wait(10)


def test_a_phone_that_says_too_much(phone: FakePhone, golden: Path) -> None:
    phone.mode("endless")
    with profiler_of(backoff_s=()) as profiler, pytest.raises(CandidateError, match="bad_result: the phone says too"):
        profiler.measure(golden)


@pytest.mark.parametrize("how", ["nan", "negative", "text", "zero", "huge", "silent"])
def test_strange_times(phone: FakePhone, golden: Path, how: str) -> None:
    phone.mode(how)
    with profiler_of(backoff_s=()) as profiler, pytest.raises(CandidateError, match="bad_result"):
        profiler.measure(golden)
    assert phone.files == []


def test_a_program_that_crashes_on_everything_is_the_phones_fault(phone: FakePhone, golden: Path) -> None:
    phone.mode("crash")
    with profiler_of(backoff_s=()) as profiler, pytest.raises(DeviceError, match="golden network does not run either"):
        profiler.measure(golden)


def test_no_program_there(phone: FakePhone, golden: Path) -> None:
    with profiler_of(tool="/data/local/tmp/none") as profiler, pytest.raises(DeviceError, match="is not on the phone"):
        profiler.measure(golden)
    with profiler_of(tool="") as profiler, pytest.raises(DeviceError, match="--tool"):
        profiler.measure(golden)


def test_no_adb_here(phone: FakePhone, golden: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with profiler_of() as profiler, pytest.raises(DeviceError, match="adb is not on the PATH"):
        profiler.measure(golden)


def test_a_phone_behind_a_gateway(board: Any, phone: FakePhone, golden: Path) -> None:
    board.env = {"PATH": os.environ["PATH"], "FAKE_ADB": str(phone.folder)}
    with profiler_of(f"SERIAL1@board:{board.port}", python=sys.executable) as profiler:
        profiler.send_runner()  # type: ignore[attr-defined]  # a phone behind ssh
        assert profiler.fingerprint()["host"] == f"adb:SERIAL1@board:{board.port}"
        assert 1.5 < profiler.measure(golden).median_ms < 1.6


@pytest.mark.parametrize(
    "text", ["", ";id", "-s", "$(id)", "a b", "a\nb", "../x", "x" * 100, "`id`", "serial'", "sérial", "SERIAL1@;id"]
)
def test_strange_serials_are_refused(phone: FakePhone, text: str) -> None:
    with pytest.raises(DeviceError) as raised:
        profiler_of(text)
    assert "\n" not in str(raised.value)
    assert phone.calls == []


@pytest.mark.parametrize("text", ["192.168.1.5:5555", "phone.local:5555", "adb-R5._adb-tls-connect._tcp"])
def test_phones_over_the_network_need_a_word(text: str) -> None:
    with pytest.raises(DeviceError, match="--allow-adb-tcp"):
        parse_phone(text)
    assert parse_phone(text, allow_tcp=True)[0] == text


@pytest.mark.parametrize("tool", ["x", "/x;id", "/x y", "/../x", "/x/$(id)", "-x", "/x'"])
def test_strange_programs_are_refused(tool: str) -> None:
    with pytest.raises(DeviceError, match="benchmark program"):
        profiler_of(tool=tool)


def test_other_runtimes_are_refused() -> None:
    with pytest.raises(DeviceError, match="phones run"):
        profiler_of(runtime="openvino")


@pytest.mark.slow
def test_a_study_on_a_phone(
    phone: FakePhone, tmp_path: Path, hwnas: Any, study_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    env = {name: os.environ[name] for name in ("PATH", "FAKE_ADB", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")}
    added = hwnas("devices", "add", "pixel", "adb:SERIAL1", "--tool", TOOL, cwd=tmp_path, env=env)
    assert added.returncode == 0, added.stderr
    path = study_file(
        tmp_path,
        devices={"pixel": {"host": "adb:SERIAL1"}},
        objectives=[{"metric": "top1"}, {"metric": "latency_ms@pixel"}],
        search={"trials": 2, "seed": 0, "sampler": "random"},
        verify={"finalists": 1},
    )
    done = hwnas("run", path, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    (verified,) = (tmp_path / "runs" / "tiny" / "artifacts").glob("*/verified.json")
    told = json.loads(verified.read_text())
    assert 1.5 <= told["readings"]["latency_ms@pixel"]["value"] < 1.6
    assert told["parity"] == {}, "the phone's outputs were not seen, so nothing is said of them"
    assert not list((tmp_path / "runs" / "tiny").rglob("layers.parquet")), "nor of its operators"
    exported = hwnas("export", tmp_path / "runs" / "tiny", verified.parent.name, cwd=tmp_path, env=env)
    assert exported.returncode == 0, exported.stderr
