"""The command line on a finished study: every verb, JSON, exit codes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from hwnas.search.cli import main
from hwnas.search.cli.entry import VERBS
from hwnas.search.run_data import RunData


class Hwnas(Protocol):
    def __call__(
        self, *words: object, cwd: Path, timeout: float = 240.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


StudyFile = Callable[..., Path]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Runs a command line in this process; returns its exit code, its output and what it said."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    yield run
    signal.signal(signal.SIGTERM, before)


def parsed(text: str) -> Any:
    data = json.loads(text)
    assert data["schema_version"] == 1
    return data


def test_every_verb_has_help(call: Call) -> None:
    code, out, _ = call("--help")
    assert code == 0 and all(verb in out for verb in VERBS)
    for verb in VERBS:
        code, out, said = call(verb, "--help")
        assert code == 0 and out.startswith(f"Usage: hwnas {verb}") and not said


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hwnas.search.cli import main; main(['--help']);"
        "print([m for m in ('torch', 'optuna', 'pandas', 'plotly', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rum"], "no verb 'rum' (did you mean 'run'?)"),
        (["run"], "Missing argument 'STUDY'"),
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["select", "--wide"], "No such option '--wide'"),
        (["init", "../x"], "../x"),
        (["profile", "nowhere.onnx"], "nowhere.onnx"),
        (["devices", "--threads", "0"], "--threads"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(call: Call, words: list[str], says: str) -> None:
    code, out, said = call(*words)
    assert code == 2 and not out
    assert says.lower() in said.lower() and len(said.strip().splitlines()) == 1


def test_version(call: Call) -> None:
    code, out, _ = call("--version")
    assert code == 0 and out.startswith("hwnas 0.")


def test_what_a_run_prints_as_json(finished: Path) -> None:
    told = parsed((finished.parent.parent / "stdout.json").read_text())
    data = RunData.load(finished)
    assert told["trials"] == len(data.rows) == 8
    assert [member["arch_id"] for member in told["front"]] == [row.arch_id for row in data.verified]
    for member in told["front"]:
        assert member["readings"]["latency_ms@cpu"]["source"] == "measured"
        assert member["readings"]["latency_ms@cpu"]["value"] <= 50 and member["readings"]["macs"]["value"] <= 45000
        assert 0 <= member["top1_test"]["value"] <= 1
    assert (finished / "report.html").is_file() and told["report"].endswith("report.html")


def test_select(call: Call, finished: Path) -> None:
    code, out, _ = call("select", finished, "--json")
    assert code == 0 and parsed(out)
    code, out, said = call("select", finished)
    assert code == 0 and "Best inside the limits" in out and "next: hwnas export" in said
    code, out, said = call("select", finished, "latency_ms@cpu <= 0.000001", "--json")
    assert code == 3 and parsed(out) and "nothing fits" in said
    code, out, said = call("select", finished, "latency_ms@gpu <= 1")
    assert code == 2 and "unknown device 'gpu'" in said


def test_export(call: Call, finished: Path, tmp_path: Path) -> None:
    member = RunData.load(finished).verified[0]
    code, out, _ = call("export", finished, member.arch_id[:6], "--to", tmp_path / "out", "--json")
    told = parsed(out)
    assert code == 0 and told["arch_id"] == member.arch_id and 0 <= told["parity"]["cpu"] < 1e-3
    assert {Path(path).name for path in told["paths"]} == {path.name for path in (tmp_path / "out").iterdir()}
    card = (tmp_path / "out" / "card.md").read_text()
    assert member.arch_id in card and "| measured |" in card
    code, out, said = call("export", finished, "zzzz", "--to", tmp_path / "no")
    assert code == 2 and "no network 'zzzz'" in said
    code, out, said = call("export", finished, member.arch_id, "--format", "tflite")
    assert code == 2 and "tflite" in said


def test_export_of_a_run_whose_files_are_gone(call: Call, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    member = RunData.load(tmp_path / "run").verified[0]
    (tmp_path / "run" / "artifacts" / member.arch_id / "model.onnx").unlink()
    code, _, said = call("export", tmp_path / "run", member.arch_id, "--to", tmp_path / "out")
    assert code == 65 and "model.onnx is missing" in said and not (tmp_path / "out").exists()


def test_report(call: Call, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    code, out, _ = call("report", tmp_path / "run", "--json")
    assert code == 0 and Path(parsed(out)["path"]).read_text().startswith("<!doctype html>")


def test_profile_agrees_with_the_run(call: Call, finished: Path) -> None:
    member = RunData.load(finished).verified[0]
    code, out, _ = call("profile", finished / "artifacts" / member.arch_id / "model.onnx", "--layers", "--json")
    [told] = parsed(out)["profiles"]
    assert code == 0 and told["latency_ms"]["median"] > 0 and told["operators"] == len(told["layers"]["nodes"]) > 3
    assert told["size_mb"] == pytest.approx(member.value("size_mb"))


def test_profile_on_several_devices(call: Call, finished: Path) -> None:
    model = finished / "artifacts" / RunData.load(finished).verified[0].arch_id / "model.onnx"
    devices = ("--device", "onnxruntime", "--device", "onnxruntime:int8")
    code, out, _ = call("profile", model, *devices, "--json")
    plain, quantised = parsed(out)["profiles"]
    assert code == 0 and (plain["device"], quantised["device"]) == ("onnxruntime:fp32", "onnxruntime:int8")
    assert plain["macs"] == pytest.approx(quantised["macs"], rel=0.3), "onnxruntime pads the channels of fp32"
    assert quantised["size_mb"] != plain["size_mb"]
    code, out, _ = call("profile", model, *devices, "--layers")
    assert code == 0 and "QLinearConv" in out and "uint8" in out and "float32" in out
    code, _, said = call("profile", model, "--device", "onnxruntime:int3")
    assert code == 4 and "int3" in said


def test_profile_of_a_file_that_is_no_model(call: Call, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing of the sort")
    code, out, said = call("profile", tmp_path / "model.onnx")
    assert code == 65 and str(tmp_path / "model.onnx") in said and len(said.strip().splitlines()) == 1 and not out


def test_doctor_and_devices(call: Call) -> None:
    code, out, _ = call("doctor", "--json")
    told = parsed(out)
    assert code == 0 and told["versions"]["torch"] and told["runtimes"]["onnxruntime"]["ok"]
    code, out, _ = call("doctor")
    assert code == 0 and "onnxruntime" in out
    code, out, _ = call("devices", "--json")
    assert code == 0 and parsed(out)["devices"][0]["runtime"] == "onnxruntime"


def test_init_writes_a_file_that_check_accepts(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, said = call("init", "mine", "--json")
    assert code == 0 and parsed(out)["path"] == "mine.yaml" and "next: hwnas check mine.yaml" in said
    code, _, said = call("init", "mine")
    assert code == 2 and "mine.yaml exists" in said
    code, out, _ = call("check", "mine.yaml", "--show-resolved")
    assert code == 0 and "name: mine" in out


def test_a_finished_run_is_whole(finished: Path) -> None:
    data = RunData.load(finished)
    assert data.measurements is not None and len(data.measurements) > 50
    assert set(data.measurements["phase"]) == {"search", "verify"}
    assert (data.measurements["ms"] > 0).all()
    environment = json.loads((finished / "environment.json").read_text())
    assert {"versions", "devices", "data", "seed"} <= environment.keys()
    for row in data.verified:
        assert row.readings["top1"].source == row.readings["latency_ms@cpu"].source == "measured"
        folder = finished / "artifacts" / row.arch_id
        assert {"arch.json", "model.onnx", "weights.safetensors", "card.md"} <= {path.name for path in folder.iterdir()}
    assert not list(finished.rglob("*.part")) and not list(finished.rglob("*.npy"))


def test_an_empty_pipe_is_no_error(finished: Path) -> None:
    command = f"{sys.executable} -m hwnas select {finished} --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.slow
def test_a_limit_out_of_reach_is_said_by_check_and_run(tmp_path: Path, study_file: StudyFile, hwnas: Hwnas) -> None:
    path = study_file(tmp_path, limits=["params <= 10"])
    checked = hwnas("check", path, "--samples", 1, "--json", cwd=tmp_path)
    assert checked.returncode == 3 and "'params <= 10' is out of reach" in checked.stderr
    assert parsed(checked.stdout)["limits"][0]["reachable"] is False
    done = hwnas("run", path, cwd=tmp_path)
    assert done.returncode == 3 and "limit 'params <= 10' is out of reach: the smallest of" in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "front.parquet").exists()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_with_real_training(
    tmp_path: Path, study_file: StudyFile, hwnas: Hwnas
) -> None:
    path = study_file(tmp_path, search={"trials": 12, "seed": 2}, verify={"finalists": 1})
    found = []
    for name in ("a", "b"):
        done = hwnas("run", path, "--out", tmp_path / name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        rows = RunData.load(tmp_path / name).rows
        found.append([(row.arch_id, row.value("top1"), row.value("macs")) for row in rows])
    assert found[0] == found[1]


@pytest.mark.slow
def test_two_workers_measure_one_at_a_time(tmp_path: Path, study_file: StudyFile, hwnas: Hwnas) -> None:
    path = study_file(
        tmp_path,
        objectives=[{"metric": "top1"}, {"metric": "latency_ms@cpu"}],
        search={"trials": 8, "seed": 2, "sampler": "random"},
        run={"workers": 2},
    )
    done = hwnas("run", path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = RunData.load(tmp_path / "runs" / "tiny").rows
    assert len({row.arch_id for row in rows}) == 8 and {row.state for row in rows} == {"complete"}
    assert parsed(done.stdout)["trials"] == 8
