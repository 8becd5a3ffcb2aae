"""What happens when things go wrong: exit codes, one line, nothing lost, nothing left running."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from hwnas.search.cli import main
from hwnas.search.run_data import RunData

StudyFile = Callable[..., Path]
ChildrenOf = Callable[[Path], list[int]]


class Hwnas(Protocol):
    def __call__(
        self, *words: object, cwd: Path, timeout: float = 240.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Runs a command line in this process; returns its exit code and what it said on standard error."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> tuple[int, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr().err.strip()
        assert "Traceback" not in said
        return code, said

    yield run
    signal.signal(signal.SIGTERM, before)


def start(path: Path, folder: Path, *words: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hwnas", "run", str(path), "--out", str(folder), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **more)


def wait_for(event: str, folder: Path, process: subprocess.Popen[str], times: int = 1) -> None:
    log = folder / "events.jsonl"
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if log.exists() and log.read_text().count(f'"event": "{event}"') >= times:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    raise AssertionError(f"no '{event}' in {log}")


def gone(children: Callable[[], list[int]]) -> bool:
    end = time.monotonic() + 10
    while children() and time.monotonic() < end:
        time.sleep(0.05)
    return not children()


# ---- files and folders


def test_a_locked_study(tmp_path: Path, study_file: StudyFile, call: Call) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / "study.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 4711 on elsewhere\n")
        file.flush()
        code, said = call("run", study_file(tmp_path), "--out", folder)
    assert code == 75
    assert said == f"hwnas: {folder} is in use by process 4711 on elsewhere: wait for it, or stop it first"
    assert [path.name for path in folder.iterdir()] == ["study.lock"]


def test_a_locked_study_is_refused_before_anything_heavy_is_imported(tmp_path: Path, study_file: StudyFile) -> None:
    (tmp_path / "run").mkdir()
    code = (
        "import sys; from hwnas.search.cli import main; code = main(sys.argv[1:]);"
        "print(code, [m for m in ('torch', 'optuna', 'pandas', 'plotly', 'onnxruntime') if m in sys.modules])"
    )
    with (tmp_path / "run" / "study.lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        words = ["run", str(study_file(tmp_path)), "--out", str(tmp_path / "run")]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout == "75 []\n"


@pytest.mark.parametrize("verb", ["report", "select", "dashboard", "export"])
@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_a_run_folder_that_is_not_one(tmp_path: Path, call: Call, verb: str, what: str) -> None:
    folder = tmp_path / "run"
    if what == "empty":
        folder.mkdir()
    elif what == "file":
        folder.touch()
    code, said = call(verb, folder, *(["0123"] if verb == "export" else []))
    assert code == 2 and str(folder) in said and "\n" not in said


@pytest.mark.parametrize("file", ["trials.parquet", "front.parquet", "environment.json", "study.yaml"])
@pytest.mark.parametrize("spoil", ["cut", "garbage", "empty"])
@pytest.mark.usefixtures("fake_machine")
def test_a_corrupt_file_is_named(tmp_path: Path, study_file: StudyFile, call: Call, file: str, spoil: str) -> None:
    folder = tmp_path / "run"
    assert call("run", study_file(tmp_path, search={"trials": 2}, verify={"finalists": 1}), "--out", folder)[0] == 0
    path = folder / file
    content = path.read_bytes()
    spoiled = {"cut": content[: len(content) // 2], "garbage": b"\x80\0[{" + content[9:], "empty": b""}[spoil]
    path.write_bytes(spoiled)
    for verb in ("select", "report"):
        code, said = call(verb, folder)
        if (file, spoil) == ("study.yaml", "cut") and code == 0:
            continue  # half a study file may be a study file
        assert code == 65 and str(path) in said and "\n" not in said, verb
    assert path.read_bytes() == spoiled
    if file == "environment.json":
        code, said = call("run", study_file(tmp_path, search={"trials": 2}, verify={"finalists": 1}), "--out", folder)
        assert code == 65 and str(path) in said and "\n" not in said
        assert path.read_bytes() == spoiled


@pytest.mark.usefixtures("fake_machine")
def test_tables_are_made_anew_and_a_torn_log_goes_on(tmp_path: Path, study_file: StudyFile, call: Call) -> None:
    path, folder = study_file(tmp_path, verify={"finalists": 1}), tmp_path / "run"
    assert call("run", path, "search.trials=2", "--out", folder)[0] == 0
    (folder / "trials.parquet").write_bytes(b"garbage")
    (folder / "front.parquet").write_bytes(b"")
    with (folder / "events.jsonl").open("ab") as log:
        log.write(b'{"event": "told", "num')
    assert call("run", path, "search.trials=3", "--out", folder)[0] == 0
    assert len(RunData.load(folder).rows) == 3
    assert all(json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines())


@pytest.mark.usefixtures("fake_machine")
@pytest.mark.parametrize("spoil", [b"garbage", b"[]", b'{"arch_id": 3}', b""])
def test_a_corrupt_verification_is_named(tmp_path: Path, study_file: StudyFile, call: Call, spoil: bytes) -> None:
    path, folder = study_file(tmp_path, search={"trials": 2}, verify={"finalists": 1}), tmp_path / "run"
    assert call("run", path, "--out", folder)[0] == 0
    [kept] = folder.glob("artifacts/*/verified.json")
    kept.write_bytes(spoil)
    code, said = call("run", path, "--out", folder)
    assert code == 65 and str(kept) in said.splitlines()[-1]


@pytest.mark.usefixtures("fake_machine")
@pytest.mark.parametrize("spoil", ["garbage", "[]", '{"top1_test": 3}', '{"top1_test": {"model": "x"}}'])
def test_corrupt_test_scores_are_named(tmp_path: Path, study_file: StudyFile, call: Call, spoil: str) -> None:
    path, folder = study_file(tmp_path, search={"trials": 2}, verify={"finalists": 1}), tmp_path / "run"
    assert call("run", path, "--out", folder)[0] == 0
    [kept] = folder.glob("artifacts/*/test.json")
    kept.write_text(spoil)
    code, said = call("run", path, "--out", folder)
    assert code == 65 and str(kept) in said.splitlines()[-1]


@pytest.mark.usefixtures("fake_machine")
def test_an_empty_database_is_left_as_it_is(tmp_path: Path, study_file: StudyFile, call: Call) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "study.yaml").write_text(study_file(tmp_path).read_text())
    (folder / "study.db").touch()
    code, said = call("report", folder)
    assert code == 2 and "no trials yet" in said and (folder / "study.db").stat().st_size == 0


@pytest.mark.usefixtures("fake_machine")
def test_an_old_front_is_said_to_be_old(tmp_path: Path, study_file: StudyFile, call: Call) -> None:
    path, folder = study_file(tmp_path, verify={"finalists": 1}), tmp_path / "run"
    assert call("run", path, "search.trials=2", "--out", folder)[0] == 0
    for verb in ("select", "report"):
        assert "verifies it again" not in call(verb, folder)[1]
    log, ended = folder / "events.jsonl", []
    for line in log.read_text().splitlines():
        ended += [line] if json.loads(line)["event"] == "told" else []
    log.write_text(log.read_text() + ended[-1] + "\n")  # as when a longer run was killed
    for verb in ("select", "report"):
        assert "verifies it again" in call(verb, folder)[1]


@pytest.mark.usefixtures("fake_machine")
def test_data_that_has_changed(
    tmp_path: Path, study_file: StudyFile, call: Call, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = study_file(tmp_path, search={"trials": 2}, verify={"finalists": 1}), tmp_path / "run"
    assert call("run", path, "--out", folder)[0] == 0
    sound = fake_machine.describe

    def describe(self: Any, request: Mapping[str, Any]) -> dict[str, Any]:
        return {**sound(self, request), "digest": "1" * 64}

    monkeypatch.setattr(fake_machine, "describe", describe)
    code, said = call("run", path, "--out", folder)
    assert code == 65 and said.endswith("restore it, or give the study another name")


@pytest.mark.usefixtures("fake_machine")
def test_code_that_has_changed(tmp_path: Path, study_file: StudyFile, call: Call) -> None:
    own, folder = tmp_path / "own.py", tmp_path / "run"
    own.write_text(
        "from torch import nn\nfrom hwnas.spaces import space\n@space(input_shape=(1, 8, 8))\n"
        "def own(choose):\n    return nn.Linear(8, choose.one_of('width', [4, 8, 16]))\n"
    )
    path = study_file(tmp_path, space={"use": "own"}, search={"trials": 2}, verify={"finalists": 1})
    command = ("run", path, "--out", folder, "--allow-code", own)
    assert call(*command)[0] == 0
    assert call(*command)[0] == 0
    own.write_text(own.read_text().replace("nn.Linear(8,", "nn.Linear(4,"))
    code, said = call(*command)
    assert code == 2 and "--allow-code is not the one" in said and "\n" not in said


@pytest.mark.parametrize("where", ["/proc/run", "/dev/null/run", "file/run"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, study_file: StudyFile, call: Call, where: str) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / where
    code, said = call("run", study_file(tmp_path), "--out", folder)
    assert code == 74 and str(folder.parent) in said and "\n" not in said


def test_spaces_that_do_not_work(tmp_path: Path, study_file: StudyFile, call: Call, fake_machine: Any) -> None:
    out = ("--out", tmp_path / "run")
    code, said = call("run", study_file(tmp_path, space={"use": "mobil"}), *out)
    assert code == 2 and "did you mean 'mobile'?" in said and "--allow-code" in said and "\n" not in said
    assert not (tmp_path / "run").exists()
    code, said = call("run", study_file(tmp_path, space={"use": "mobile", "params": {"width": 2.5}}), *out)
    assert code == 2 and "width" in said
    own = tmp_path / "own.py"
    own.write_text("from hwnas.spaces import space\n@space(input_shape=(1, 8, 8))\ndef none(choose):\n    return 1/0\n")
    code, said = call("run", study_file(tmp_path, space={"use": "none"}), *out, "--allow-code", own)
    assert code == 2 and "ZeroDivisionError" in said and "\n" not in said
    fails = tmp_path / "fails.py"
    fails.write_text("1 / 0\n")
    code, said = call("run", study_file(tmp_path, space={"use": "none"}), *out, "--allow-code", fails)
    assert code == 2 and said.startswith("--allow-code: "), "the file is at fault, not the study"
    own = tmp_path / "fixed.py"
    own.write_text(
        "from torch import nn\nfrom hwnas.spaces import space\n"
        "@space(input_shape=(1, 8, 8))\ndef fixed(choose):\n    return nn.Flatten()\n"
    )
    code, said = call("run", study_file(tmp_path, space={"use": "fixed"}), *out, "--allow-code", own)
    assert code == 2 and "no choice" in said and ": space.use: " in said and "\n" not in said


# ---- bugs


@pytest.mark.usefixtures("fake_machine")
@pytest.mark.parametrize("where", ["hwnas.search.driver.Driver._tell", "hwnas.search.report.page.page_info"])
def test_a_bug_leaves_its_traceback_in_the_log(
    tmp_path: Path, study_file: StudyFile, call: Call, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("in a test")

    monkeypatch.setattr(where, broken)
    log = tmp_path / "run" / "run.log"
    code, said = call("run", study_file(tmp_path, verify={"finalists": 1}), "--out", tmp_path / "run")
    assert code == 1
    last = said.splitlines()[-1]
    assert last == f"hwnas: a bug in hwnas: ZeroDivisionError: in a test (the traceback is in {log})"
    text = log.read_text()
    assert text.count("Traceback (most recent call last)") == 1 and ", in broken" in text


# ---- signals


class _Swallows:
    """Python prints what a `__del__` raises, and goes on."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("fake_machine")
@pytest.mark.parametrize(
    "where", ["search.driver.Driver._ask", "search.driver.test_accuracy", "search.feasibility._probe"]
)
def test_a_signal_that_python_swallows_is_not_lost(
    tmp_path: Path, study_file: StudyFile, call: Call, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from importlib import import_module

    from hwnas.search import interrupts

    module, _, name = f"hwnas.{where}".rpartition(".")
    holder = import_module(module) if name != "_ask" else import_module("hwnas.search.driver").Driver
    sound, calls = getattr(holder, name), list[int]()

    def swallowing(*arguments: object) -> object:
        assert not interrupts.asked(), "it goes on, although the user has asked to stop"
        calls.append(1)
        _Swallows()
        assert interrupts.asked()
        return sound(*arguments)

    monkeypatch.setattr(holder, name, swallowing)
    path = study_file(tmp_path, limits=["latency_ms@cpu <= 100"], search={"trials": 4}, verify={"finalists": 1})
    code, said = call("run", path, "--out", tmp_path / "run")
    assert code == 130 and len(calls) == 1
    assert "Exception ignored" not in said
    monkeypatch.undo()


def test_a_signal_that_becomes_another_error_is_not_lost(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def converted(*arguments: object, **more: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise ImportError("cannot import a part") from error

    monkeypatch.setattr("hwnas.search.known_devices.read_devices", converted)
    assert call("devices") == (130, "hwnas: interrupted")


def test_a_signal_within_an_exec_gives_the_exit_code() -> None:
    """CPython ends by SIGINT where a plain KeyboardInterrupt left an `exec`, and dataclasses are full of them."""
    code = (
        "import sys\nfrom hwnas.search import known_devices\nfrom hwnas.search.cli import main\n"
        "known_devices.read_devices = lambda: exec('import signal; signal.raise_signal(signal.SIGINT)')\n"
        "sys.exit(main(['devices']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (130, "hwnas: interrupted")


def test_handlers_are_left_as_they_were(call: Call) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook
    assert call("devices")[0] == 0
    assert before == ([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], sys.unraisablehook)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_stops_a_study_that_goes_on_later(
    tmp_path: Path, study_file: StudyFile, hwnas: Hwnas, children_of: ChildrenOf, number: int, workers: int
) -> None:
    path, folder = study_file(tmp_path, objectives=[{"metric": "macs"}], verify={"finalists": 1}), tmp_path / "run"
    process = start(path, folder, f"run.workers={workers}", "search.trials=400", start_new_session=True)
    wait_for("told", folder, process, times=2)
    os.killpg(process.pid, number)  # as Ctrl-C in a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in said and said.strip().splitlines()[-1].endswith("the same command goes on")
    assert gone(lambda: children_of(folder))
    done = len(RunData.load(folder).rows)
    more = hwnas("run", path, "--out", folder, f"search.trials={done + 1}", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    rows = RunData.load(folder).rows
    assert len(rows) == done + 1 and {row.state for row in rows} == {"complete"}


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.25, 1.0, 2.5])
def test_a_signal_while_it_starts(
    tmp_path: Path, study_file: StudyFile, children_of: ChildrenOf, moment: float
) -> None:
    process = start(study_file(tmp_path), tmp_path / "run", start_new_session=True)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    if moment > 0.5:  # before, Python itself may not be up
        assert process.returncode == 130 and "Traceback" not in said
    assert gone(lambda: children_of(tmp_path / "run"))


# ---- candidates

BAD_SPACE = """
import ctypes, os, signal, time
import torch
from torch import nn
from hwnas.spaces import Space

class Bad(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        if kind == "nan":
            nn.init.constant_(self.layers[1].weight, float("nan"))

    def forward(self, x):
        if self.kind == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.kind == "hang":
            while True:
                pass
        if self.kind == "exit":
            os._exit(7)
        if self.kind == "raise":
            raise RuntimeError("in a test")
        if self.kind == "memory":
            raise MemoryError
        if self.kind == "export":
            return self.layers(x) + torch.linalg.svdvals(x.flatten(1)).sum()
        if self.kind == "overflow" and self.training:
            return self.layers(x) * float("inf")
        return self.layers(x)

class Minefield(Space):
    name = "minefield"
    input_shape = (1, 8, 8)
    num_classes = 10

    def _decide(self, choose):
        kinds = ["sound", "nan", "segfault", "hang", "exit", "raise", "memory", "export", "overflow", "build"]
        choose.one_of("kind", kinds)
        choose.flag("other")

    def build(self, architecture):
        kind = architecture.as_dict()["kind"]
        if kind == "build":
            raise KeyError("in a test")
        return Bad(kind)
"""

REASONS = {
    "nan": "non_finite",
    "segfault": "crash:SIGSEGV",
    "hang": "timeout",
    "exit": "crash:exit7",
    "raise": "crash:RuntimeError",
    "memory": "oom",
    "export": "export",
    "overflow": "non_finite",
    "build": "build",
}


@pytest.mark.slow
def test_a_candidate_fails_alone(tmp_path: Path, study_file: StudyFile, hwnas: Hwnas, children_of: ChildrenOf) -> None:
    code = tmp_path / "mines.py"
    code.write_text(BAD_SPACE)
    path = study_file(
        tmp_path,
        space={"use": "minefield"},
        objectives=[{"metric": "top1"}, {"metric": "params"}],
        limits=["params <= 100000"],  # the smallest is looked at before the search
        search={"trials": 30, "sampler": "random"},
        run={"trial_timeout": 8},
        verify={"finalists": 1},
    )
    done = hwnas("run", path, "--allow-code", code, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    folder = tmp_path / "runs" / "tiny"
    rows = RunData.load(folder).rows
    assert len(rows) == len({row.arch_id for row in rows}) == 20
    for row in rows:
        kind = str(row.decisions["kind"])
        if kind == "sound":
            assert row.state == "complete" and row.feasible
        else:
            assert row.state == "fail" and row.reason.split(": ")[0] == REASONS[kind], (kind, row.reason)
            assert not row.feasible and not row.on_front and "\n" not in row.reason
    assert gone(lambda: children_of(folder))


# ---- the disk


def _may_unshare() -> bool:
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0


FULL = """
import json, os, pathlib, subprocess, sys, time
disk, study = pathlib.Path(sys.argv[1]), sys.argv[2]
command = [sys.executable, "-m", "hwnas", "run", study, "--out", str(disk / "run")]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)], check=True)
process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
log = disk / "run" / "events.jsonl"
while not (log.exists() and log.read_text().count('"told"') >= 2) and process.poll() is None:
    time.sleep(0.02)
with open(disk / "filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(1 << 16))
    except OSError:
        pass
    try:
        while True:
            filler.write(bytes(1 << 9))
    except OSError:
        pass
first = process.communicate(timeout=200)[1], process.returncode
nothing = subprocess.run(command, capture_output=True, text=True)
os.unlink(disk / "filler")
last = subprocess.run(command, capture_output=True, text=True)
import pandas
rows = pandas.read_parquet(disk / "run" / "trials.parquet")[["number", "state", "reason"]].fillna("").values.tolist()
print(json.dumps({"first": first, "nothing": [nothing.stderr, nothing.returncode],
                  "last": [last.stderr, last.returncode], "rows": rows}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not _may_unshare(), reason="no user namespaces here")
def test_a_full_disk(tmp_path: Path, study_file: StudyFile) -> None:
    path = study_file(tmp_path, objectives=[{"metric": "macs"}], search={"trials": 40}, verify={"finalists": 1})
    (tmp_path / "disk").mkdir()
    words = ["unshare", "-rm", sys.executable, "-c", FULL, str(tmp_path / "disk"), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for said, code in (told["first"], told["nothing"]):
        lines = [line for line in said.splitlines() if not line.startswith(("taking up", "data and space"))]
        assert code == 74 and len(lines) == 1, said
    assert "MB free" in told["nothing"][0]
    assert told["last"][1] == 0, told["last"][0]
    assert [number for number, *_ in told["rows"]] == list(range(40))
    assert {state for _, state, _ in told["rows"]} == {"complete"}, told["rows"]


@pytest.mark.slow
def test_a_limit_on_file_sizes(tmp_path: Path, study_file: StudyFile, hwnas: Hwnas) -> None:
    path, folder = study_file(tmp_path, objectives=[{"metric": "macs"}], verify={"finalists": 1}), tmp_path / "run"

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    process = start(path, folder, preexec_fn=small)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 74 and "Traceback" not in said and len(said.splitlines()) == 1, said
    done = hwnas("run", path, "--out", folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row.state for row in RunData.load(folder).rows] == ["complete"] * 6
