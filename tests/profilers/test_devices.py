"""Boards and phones from the command line: added, listed, tested, used in `profile` and in a study, lost and found."""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hwnas.profilers.golden import golden_model
from hwnas.search.cli import main
from hwnas.search.known_devices import KnownDevice, devices_path, how_to_open, read_devices, write_devices
from hwnas.spaces.errors import DataError


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield tmp_path / "config"


def test_the_file_of_devices(configuration: Path) -> None:
    assert read_devices() == {}
    device = KnownDevice("ssh:pi@pi5.local", python="/opt/py/bin/python3", golden_ms=1.5, fingerprint={"cpu": "A76"})
    write_devices({"pi5": device})
    assert devices_path() == configuration / "hwnas" / "devices.json"
    assert read_devices() == {"pi5": device}
    known = {"python": "/opt/py/bin/python3", "golden_ms": 1.5}
    assert how_to_open("ssh:pi@pi5.local", "onnxruntime", "fp32", 1) == known
    for host in ("ssh:other", "local"):
        assert how_to_open(host, "onnxruntime", "fp32", 1) == {}


def test_devices_of_one_host() -> None:
    write_devices(
        {
            "a": KnownDevice("ssh:pi5", "ncnn", python="/a/python3", golden_ms=1.0),
            "b": KnownDevice("ssh:pi5", "openvino", python="/b/python3", golden_ms=2.0),
            "c": KnownDevice("ssh:pi5", "openvino", precision="bf16", python="/c/python3", golden_ms=3.0),
            "d": KnownDevice("ssh:pi5", "openvino", threads=4, python="/d/python3", golden_ms=4.0),
        }
    )
    assert how_to_open("ssh:pi5", "ncnn", "fp32", 1) == {"python": "/a/python3", "golden_ms": 1.0}
    assert how_to_open("ssh:pi5", "openvino", "fp32", 1) == {"python": "/b/python3", "golden_ms": 2.0}
    assert how_to_open("ssh:pi5", "openvino", "bf16", 1) == {"python": "/c/python3", "golden_ms": 3.0}
    assert how_to_open("ssh:pi5", "openvino", "fp32", 4) == {"python": "/d/python3", "golden_ms": 4.0}
    assert how_to_open("ssh:pi5", "openvino", "int8", 2) == {"python": "/b/python3"}, "its golden network differs"
    assert how_to_open("ssh:pi5", "onnxruntime", "fp32", 1) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema_version": 2, "devices": {}}',
        '{"schema_version": 1, "devices": []}',
        '{"schema_version": 1, "devices": {"pi5": {}}}',
        '{"schema_version": 1, "devices": {"../x": {"host": "ssh:a"}}}',
        '{"schema_version": 1, "devices": {"pi5": {"host": 1}}}',
        '{"schema_version": 1, "devices": {"pi5": {"host": "ssh:a", "threads": "1"}}}',
        '{"schema_version": 1, "devices": {"pi5": {"host": "ssh:a", "golden_ms": "1"}}}',
        '{"schema_version": 1, "devices": {"pi5": {"host": "ssh:a", "more": 1}}}',
    ],
)
def test_a_spoiled_file_of_devices(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    devices_path().parent.mkdir(parents=True)
    devices_path().write_text(text)
    with pytest.raises(DataError, match=r"devices\.json"):
        read_devices()
    assert main(["devices"]) == 65
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["add", ";id", "ssh:pi5"], 2, "NAME"),
        (["add", "../x", "ssh:pi5"], 2, "NAME"),
        (["add", "onnxruntime", "ssh:pi5"], 2, "runtime of this machine"),
        (["add", "ethos-u55-128", "ssh:pi5"], 2, "runtime of this machine"),
        (["add", "pi5", "pi5.local"], 2, "not a host"),
        (["add", "pi5", "ssh:pi5", "--runtime", "onnxruntme"], 2, "did you mean 'onnxruntime'"),
        (["add", "pi5", "ssh:pi5", "--runtime", "ethos-u55-128"], 2, "--runtime: unknown 'ethos-u55-128'"),
        (["add", "pi5", "ssh:pi5", "--precision", "in8"], 2, "did you mean 'int8'"),
        (["add", "pi5", "ssh:pi5", "--precision", "bf16"], 4, "onnxruntime has no precision 'bf16'"),
        (["add", "pi5", "ssh:;id"], 4, "not a destination"),
        (["add", "pi5", "ssh:-oProxyCommand=touch x"], 4, "not a destination"),
        (["add", "pi5", "ssh:pi5", "--python", "a b"], 4, "python"),
        (["add", "phone", "adb:;id"], 4, "not the serial number"),
        (["add", "phone", "adb:1.2.3.4:5555"], 4, "--allow-adb-tcp"),
        (["add", "phone", "adb:S1", "--tool", "x;id"], 4, "benchmark program"),
        (["test", "pi5"], 4, "no device 'pi5'"),
        (["remove", "pi5"], 4, "no device 'pi5'"),
    ],
)
def test_what_is_refused(words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", *words]) == code
    told = capsys.readouterr()
    assert says in told.err and told.err.count("\n") == 1 and not told.out
    assert not devices_path().exists()


def test_an_unknown_device_of_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(golden_model())
    write_devices({"pi5": KnownDevice("ssh:nowhere.invalid")})
    assert main(["profile", str(path), "--device", "pi4"]) == 4
    assert "did you mean 'pi5'" in capsys.readouterr().err


@pytest.mark.parametrize(("threads", "code"), [([], 4), (["--threads", "4"], 4), (["--threads", "1"], 2)])
def test_threads_of_an_added_device_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], threads: list[str], code: int
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(golden_model())
    write_devices({"pi5": KnownDevice("ssh:;id", threads=4)})  # not a destination: nothing is asked
    assert main(["profile", str(path), "--device", "pi5", *threads]) == code
    assert ("'pi5' was added with 4" if code == 2 else "not a destination") in capsys.readouterr().err


def test_a_meter_of_a_board_is_not_looked_for_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(golden_model())
    write_devices({"pi5": KnownDevice("ssh:;id")})
    words = ["profile", str(path), "--meter", f"csv:path={tmp_path / 'none.csv'}", "--device", "pi5"]
    assert main(words) == 4
    assert "not a destination" in capsys.readouterr().err, "the board's side is reached"
    assert main([*words, "--device", "onnxruntime"]) == 4
    assert "none.csv" in capsys.readouterr().err


def test_from_add_to_remove(board: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add = ["devices", "add", "pi5", board.host, "--python", sys.executable]
    assert main(add) == 4
    assert "--yes sends it" in capsys.readouterr().err
    assert not list(board.home.rglob("*.pyz")) and not devices_path().exists(), "nothing without being asked"
    assert main([*add, "--yes"]) == 0
    told = capsys.readouterr()
    assert "golden network: " in told.out and "next: hwnas profile" in told.err
    assert list(board.home.rglob("*.pyz"))
    assert (read_devices()["pi5"].golden_ms or 0) > 0

    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["devices"]
    assert next(entry for entry in listed if entry.get("name") == "pi5")["host"] == board.host

    path = tmp_path / "model.onnx"
    path.write_bytes(golden_model())
    assert main(["profile", str(path), "--device", "pi5", "--json"]) == 0
    (profile,) = json.loads(capsys.readouterr().out)["profiles"]
    assert profile["device"] == "pi5" and profile["latency_ms"]["median"] > 0 and profile["operators"] > 3
    assert profile["fingerprint"]["host"] == board.host

    assert main(["devices", "test", "pi5"]) == 0
    assert "times that of the day it was added" in capsys.readouterr().out
    (board.folder / "known_hosts").write_text("")
    assert main(["devices", "test", "--json"]) == 4
    (row,) = json.loads(capsys.readouterr().out)["devices"]
    assert not row["ok"] and "host key" in row["test"]

    assert main(["devices", "remove", "pi5"]) == 0
    assert read_devices() == {}


def test_a_name_that_does_not_resolve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = tmp_path / "tries"
    counted = f'echo >> {tries}; exec ssh -F /dev/null "$@"'
    monkeypatch.setenv("HWNAS_SSH", shlex.join(["sh", "-c", counted, "ssh"]))
    assert main(["devices", "add", "pi5", "ssh:nobody@nowhere.invalid"]) == 4
    told = capsys.readouterr().err
    assert "ssh:nobody@nowhere.invalid: its name does not resolve" in told and told.count("\n") == 1
    assert "quarantine" not in told
    assert tries.read_text() == "\n", "it is tried once"


def test_a_key_that_is_refused(board: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import asyncssh

    key = board.folder / "key"
    key.unlink()
    key.write_bytes(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    key.chmod(0o400)
    assert main(["devices", "add", "pi5", board.host, "--python", sys.executable]) == 4
    told = capsys.readouterr().err
    assert "Permission denied" in told and "quarantine" not in told and told.count("\n") == 1


def test_a_hostile_file_is_refused_by_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    model = onnx.load_model_from_string(golden_model())
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert main(["profile", str(path)]) == 65
    told = capsys.readouterr().err
    assert "external data" in told and told.count("\n") == 1


@pytest.mark.slow
def test_a_study_on_a_board_that_is_lost_and_found(board: Any, tmp_path: Path, hwnas: Any, study_file: Any) -> None:
    assert main(["devices", "add", "pi5", board.host, "--python", sys.executable, "--yes"]) == 0
    path = study_file(
        tmp_path,
        devices={"pi5": {"host": board.host}},
        objectives=[{"metric": "top1"}, {"metric": "latency_ms@pi5"}],
        search={"trials": 4, "seed": 0, "sampler": "random"},
        verify={"finalists": 1},
    )
    run = tmp_path / "runs" / "tiny"
    env = {name: os.environ[name] for name in ("HWNAS_SSH", "XDG_CONFIG_HOME")}

    def lose() -> None:
        log = run / "events.jsonl"
        while not log.exists() or log.read_text().count('"told"') < 2:
            time.sleep(0.02)
        board.drop_after = 0

    threading.Thread(target=lose, daemon=True).start()
    lost = hwnas("run", path, cwd=tmp_path, env=env)
    assert lost.returncode == 4, lost.stderr
    assert "quarantine" in lost.stderr.splitlines()[-1] and "Traceback" not in lost.stderr
    before = _states(run)
    assert "complete" in before.values() and "fail" not in before.values(), "a lost device fails nobody"
    board.drop_after = None
    done = hwnas("run", path, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    after = _states(run)
    assert set(after.values()) == {"complete"}
    assert set(before) <= set(after) == {0, 1, 2, 3}, "the same trials, taken up"
    fingerprint = json.loads((run / "environment.json").read_text())["devices"]["pi5"]
    assert fingerprint["host"] == board.host


def _states(run: Path) -> dict[int, str]:
    import pandas as pd

    table = pd.read_parquet(run / "trials.parquet")
    return {int(number): str(state) for number, state in zip(table["number"], table["state"], strict=True)}
