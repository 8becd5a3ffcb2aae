"""The driver with fake children: what is stored, whatever kills it and wherever."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import FrozenTrial, TrialState

from hwnas.search.latency import Quiet
from hwnas.search.metrics import Reading
from hwnas.search.outcome import Outcome
from hwnas.search.quantities import format_reading
from hwnas.search.reporter import Silent
from hwnas.search.run_data import RunData
from hwnas.search.study import Study
from hwnas.spaces.errors import CandidateError, DataError, DiskError, InfeasibleError, InterruptedStudyError, UsageError

pytestmark = pytest.mark.usefixtures("fake_machine")
StudyFile = Callable[..., Path]


def trials_of(folder: Path) -> list[FrozenTrial]:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    try:
        [study] = storage.get_all_studies()
        return storage.get_all_trials(study._study_id)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def essence(folder: Path) -> list[tuple[Any, ...]]:
    """What must be the same however often a study was killed."""
    return [
        (t.number, t.state, t.user_attrs["arch_id"], t.params, t.values, t.user_attrs.get("reason"), t.constraints)
        for t in trials_of(folder)
    ]


def run(path: Path, folder: Path, *overrides: str) -> Path:
    Study.from_yaml(path, overrides, folder=folder).run()
    return folder


def test_a_study_ends_with_all_its_files(tmp_path: Path, study_file: StudyFile) -> None:
    result = Study.from_yaml(study_file(tmp_path), folder=tmp_path / "run").run()
    assert (result.trials, result.verified) == (6, 2) and 1 <= result.front <= 2
    data = RunData.load(tmp_path / "run")
    assert [trial.number for trial in data.rows] == list(range(6))
    assert len({trial.arch_id for trial in data.rows}) == 6
    assert all(trial.value("top1") is not None for trial in data.verified)
    assert all(trial.test.value is not None for trial in data.verified)
    for member in data.verified:
        folder = tmp_path / "run" / "artifacts" / member.arch_id
        assert {"model.onnx", "weights.safetensors", "arch.json", "card.md"} <= {p.name for p in folder.iterdir()}
    assert not list((tmp_path / "run").rglob("*.part")) and not list((tmp_path / "run").rglob("probe.*"))
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == ["started", *["asked", "told"] * 6, "verified", "verified", "finished"]


def test_what_each_device_executes_is_kept(tmp_path: Path, study_file: StudyFile) -> None:
    objectives = [{"metric": "top1"}, {"metric": "latency_ms@cpu"}]
    folder = run(study_file(tmp_path, objectives=objectives), tmp_path / "run")
    for member in RunData.load(folder).verified:
        layers = pd.read_parquet(folder / "artifacts" / member.arch_id / "layers.parquet")
        assert layers[["device", "operator", "output", "macs"]].values.tolist() == [["cpu", "Conv", "1x4x8x8", 2304]]


def test_the_same_seed_gives_the_same_trials_and_another_does_not(tmp_path: Path, study_file: StudyFile) -> None:
    path = study_file(tmp_path)
    first, second = run(path, tmp_path / "a"), run(path, tmp_path / "b")
    other = run(path, tmp_path / "c", "search.seed=1")
    assert essence(first) == essence(second) != essence(other)


def test_a_study_in_two_parts_is_the_study_in_one(tmp_path: Path, study_file: StudyFile) -> None:
    path = study_file(tmp_path, limits=["macs <= 800000"])
    whole = run(path, tmp_path / "whole", "search.trials=14")
    for trials in (3, 4, 14):
        parts = run(path, tmp_path / "parts", f"search.trials={trials}")
    assert essence(whole) == essence(parts)
    assert {state for _, state, *_ in essence(whole)} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_finished_study_asks_for_nothing_more(tmp_path: Path, study_file: StudyFile) -> None:
    path = study_file(tmp_path)
    before = essence(run(path, tmp_path / "run"))
    assert essence(run(path, tmp_path / "run")) == before
    assert len(essence(run(path, tmp_path / "run", "search.trials=2"))) == 6


def test_failures_have_reasons_and_harm_nobody_else(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter(["timeout", "crash:SIGSEGV", "oom", "non_finite", "export", "bad_result"])
    sound = fake_machine.prepare

    def prepare(self: Any, request: dict[str, Any]) -> Any:
        code = next(codes, None)
        if code is not None:
            raise CandidateError(code, "in a test")
        return sound(self, request)

    monkeypatch.setattr(fake_machine, "prepare", prepare)
    folder = run(study_file(tmp_path), tmp_path / "run", "search.trials=10")
    found = trials_of(folder)
    reasons = [trial.user_attrs["reason"] for trial in found[:6]]
    assert reasons == [
        f"{code}: in a test" for code in ("timeout", "crash:SIGSEGV", "oom", "non_finite", "export", "bad_result")
    ]
    assert [trial.state for trial in found] == [TrialState.FAIL] * 6 + [TrialState.COMPLETE] * 4
    rows = RunData.load(folder).rows
    assert [row.state for row in rows] == ["fail"] * 6 + ["complete"] * 4
    assert not any(row.feasible or row.on_front for row in rows[:6])


def test_a_broken_limit_is_a_constraint_in_both_forms(tmp_path: Path, study_file: StudyFile) -> None:
    limits = ["macs <= 600000", "size_mb <= 1"]
    folder = run(study_file(tmp_path, limits=limits, search={"trials": 12, "seed": 3}), tmp_path / "run")
    found = trials_of(folder)
    assert {trial.state for trial in found} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in found:
        macs = trial.user_attrs["outcome"]["readings"]["macs"]["value"]
        assert trial.system_attrs["constraints:macs <= 600000"] == macs - 600000
        assert trial.system_attrs["constraints"] == list(trial.system_attrs["constraints"])
        assert trial.system_attrs["constraints"][0] == macs - 600000
        assert (trial.state == TrialState.PRUNED) == (macs > 600000)
    assert all(row.feasible == (row.state == "complete") for row in RunData.load(folder).rows)


def test_rungs_prune_and_are_remembered_over_a_resume(tmp_path: Path, study_file: StudyFile) -> None:
    rungs = [{"proxy": "synflow", "keep": 0.7}, {"epochs": 1, "keep": 0.5}, {"epochs": 2}]
    path = study_file(tmp_path, quality={"rungs": rungs, "seeds": 1})
    whole = run(path, tmp_path / "whole", "search.trials=16")
    for trials in range(1, 17, 3):
        parts = run(path, tmp_path / "parts", f"search.trials={trials}")
    assert essence(whole) == essence(parts)
    reasons = {trial.user_attrs.get("reason", "") for trial in trials_of(whole)}
    assert {"", "rung 1 of 3: not among the best 70%", "rung 2 of 3: not among the best 50%"} == reasons


def test_a_small_space_is_exhausted_and_no_more(tmp_path: Path, study_file: StudyFile) -> None:
    params = {"width": [0.25, 0.5], "activation": "relu", "stage*.depth": 1, "stage*.kernel": 3, "stage*.expand": 2}
    path = study_file(tmp_path, space={"use": "mobile", "params": params}, search={"trials": 100, "seed": 0})
    folder = run(path, tmp_path / "run")
    ids = [trial.user_attrs["arch_id"] for trial in trials_of(folder)]
    assert len(ids) == len(set(ids)) == 2 * 2**3  # widths, and squeeze-excite in each stage
    assert len(essence(run(path, tmp_path / "run"))) == len(ids)


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_share_the_trials(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    lock, now = threading.Lock(), itertools.count()
    sound = fake_machine.train
    running = [0]

    def train(self: Any, request: dict[str, Any]) -> Any:
        with lock:
            running[0] += 1
            together.append(running[0])
        time.sleep(0.02 + 0.01 * (next(now) % 3))
        with lock:
            running[0] -= 1
        return sound(self, request)

    monkeypatch.setattr(fake_machine, "train", train)
    folder = run(study_file(tmp_path), tmp_path / "run", "search.trials=15", f"run.workers={workers}")
    found = trials_of(folder)
    assert len({trial.user_attrs["arch_id"] for trial in found}) == len(found) == 15
    assert all(trial.state.is_finished() for trial in found)
    assert 2 <= max(together) <= workers


def test_an_unmeetable_limit_ends_it_at_once(tmp_path: Path, study_file: StudyFile) -> None:
    path = study_file(tmp_path, limits=["macs <= 0.5"])
    with pytest.raises(InfeasibleError, match=r"'macs <= 0.5' is out of reach: the smallest of 13 .* has macs \d"):
        run(path, tmp_path / "run")
    assert not trials_of(tmp_path / "run")
    path = study_file(tmp_path, objectives=[{"metric": "top1"}, {"metric": "params"}, {"metric": "macs"}])
    assert len(essence(run(path, tmp_path / "run"))) == 6  # nothing had begun: the study may still be another


def test_a_corner_that_crashes_does_not_end_a_study_with_limits(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = fake_machine.prepare
    calls = itertools.count()

    def prepare(self: Any, request: dict[str, Any]) -> Any:
        if next(calls) == 0:
            raise CandidateError("crash:SIGSEGV")
        return sound(self, request)

    monkeypatch.setattr(fake_machine, "prepare", prepare)
    folder = run(study_file(tmp_path, limits=["macs <= 900000"]), tmp_path / "run")
    assert len(essence(folder)) == 6


def test_nothing_feasible_ends_with_the_nearest(tmp_path: Path, study_file: StudyFile) -> None:
    path = study_file(tmp_path, limits=["top1 >= 0.999"])
    with pytest.raises(InfeasibleError, match=r"nothing feasible: .*top1"):
        run(path, tmp_path / "run")
    assert len(trials_of(tmp_path / "run")) == 6
    assert (tmp_path / "run" / "trials.parquet").is_file()


def test_a_run_whose_tables_are_behind_is_read_from_its_database(tmp_path: Path, study_file: StudyFile) -> None:
    folder = run(study_file(tmp_path), tmp_path / "run")
    whole = RunData.load(folder).trials
    table = folder / "trials.parquet"
    whole.head(2).to_parquet(table)  # as after a kill: written by an earlier driver
    pd.testing.assert_frame_equal(RunData.load(folder).trials, whole)
    table.unlink()
    pd.testing.assert_frame_equal(RunData.load(folder).trials, whole)
    assert not table.exists(), "who reads does not write"


def test_the_test_part_is_read_once(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(study_file(tmp_path), tmp_path / "run")
    front = RunData.load(folder).front

    def part(self: Any, request: dict[str, Any]) -> Any:
        raise AssertionError("the test part is read again")

    monkeypatch.setattr(fake_machine, "part", part)
    again = RunData.load(run(study_file(tmp_path), folder)).front
    assert front is not None and again is not None
    pd.testing.assert_frame_equal(front, again)


def test_a_noisy_measurement_is_marked_to_the_end(
    tmp_path: Path, study_file: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(self: Any, arch_id: str, *args: Any, **more: Any) -> dict[str, Reading]:
        return {self.metric: Reading(1.0 + int(arch_id[:4], 16), 0.5, 2.0 + int(arch_id[:4], 16), noisy=True)}

    monkeypatch.setattr("tests.conftest.FakeDevice.measure", measure)
    objectives = [{"metric": "top1"}, {"metric": "latency_ms@cpu"}]
    folder = run(study_file(tmp_path, objectives=objectives), tmp_path / "run")
    data = RunData.load(folder)
    assert data.trials["latency_ms@cpu.noisy"].all() and data.front is not None
    assert all(trial.reading("latency_ms@cpu").noisy for trial in (*data.rows, *data.verified))
    assert format_reading("latency_ms@cpu", data.verified[0].reading("latency_ms@cpu")).endswith(" ms!")


def test_what_cannot_be_counted_is_told_once(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = fake_machine.prepare
    monkeypatch.setattr(fake_machine, "prepare", lambda *a: {**sound(*a), "uncounted": ["cumsum"]})
    notes: list[str] = []

    class Listener(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    Study.from_yaml(study_file(tmp_path), folder=tmp_path / "run").run(Listener())
    assert notes[1:] == ["macs leave out cumsum: nobody has told how to count them"]


def test_the_front_standing_still_stops_the_search(tmp_path: Path, study_file: StudyFile) -> None:
    search = {"trials": 200, "seed": 0, "sampler": "random", "stop": {"hypervolume_patience": 8}}
    folder = run(study_file(tmp_path, search=search), tmp_path / "run")
    rows = RunData.load(folder).rows
    newest = max(row.number for row in rows if row.on_front)
    assert len(rows) < 200 and len(rows) - 1 - newest == 8


def test_the_time_limit_stops_asking(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = fake_machine.prepare

    def prepare(self: Any, request: dict[str, Any]) -> Any:
        time.sleep(0.3)
        return sound(self, request)

    monkeypatch.setattr(fake_machine, "prepare", prepare)
    search = {"trials": 500, "seed": 0, "sampler": "random", "time_limit": 1}
    folder = run(study_file(tmp_path, search=search), tmp_path / "run")
    assert 1 <= len(essence(folder)) < 10
    assert all(trial.state.is_finished() for trial in trials_of(folder))


@pytest.mark.parametrize(
    "changed",
    [
        {"objectives": [{"metric": "top1"}, {"metric": "params"}]},
        {"objectives": [{"metric": "macs"}]},
        {"space": {"use": "mobile"}},
        {"limits": ["size_mb <= 1"]},
        {"search": {"trials": 6, "seed": 1, "sampler": "tpe"}},
        {"search": {"trials": 6, "seed": 0, "sampler": "random"}},
        {"quality": {"rungs": [{"epochs": 2}], "seeds": 1}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_study_in_the_same_folder_is_refused(
    tmp_path: Path, study_file: StudyFile, changed: dict[str, Any]
) -> None:
    folder = run(study_file(tmp_path), tmp_path / "run", "search.trials=2")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(UsageError, match=r"begun with another|other objectives"):
        run(study_file(tmp_path, **changed), folder)
    assert {name: (folder / name).read_bytes() for name in ("study.yaml", "trials.parquet")} == {
        name: before[name] for name in ("study.yaml", "trials.parquet")
    }
    (folder / "events.jsonl").unlink()  # the database alone knows that trials were made
    with pytest.raises(UsageError, match=r"begun with another|other objectives"):
        run(study_file(tmp_path, **changed), folder)


def test_what_is_about_the_run_and_not_the_study_may_change(tmp_path: Path, study_file: StudyFile) -> None:
    folder = run(study_file(tmp_path), tmp_path / "run", "search.trials=2")
    run(study_file(tmp_path), folder, "search.trials=3", "run.workers=2", "verify.finalists=1", "run.trial_timeout=9m")
    assert len(trials_of(folder)) == 3


def test_an_interrupt_loses_nothing(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study_file(tmp_path)
    whole = run(path, tmp_path / "whole")
    calls = itertools.count()

    class Stopping:
        def note(self, text: str) -> None: ...

        def trial(self, number: int, total: int, arch_id: str, outcome: Outcome) -> None:
            if next(calls) < 3:
                raise KeyboardInterrupt

        def finalist(self, *told: object) -> None:
            if next(calls) < 9:
                raise KeyboardInterrupt

    stops = 0
    while True:
        try:
            Study.from_yaml(path, folder=tmp_path / "run").run(Stopping())
            break
        except InterruptedStudyError as error:
            stops += 1
            assert "the same command goes on" in str(error) and error.exit_code == 130
            assert (tmp_path / "run" / "trials.parquet").is_file()
    assert stops >= 4
    assert essence(tmp_path / "run") == essence(whole)


def _kill_points(monkeypatch: pytest.MonkeyPatch, reached: Callable[[str], None]) -> None:
    """Calls `reached` before and after everything that changes the run folder."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    import hwnas.search.storage as storage

    def before(*args: Any) -> None:
        verb = args[2].split()[0]
        if verb not in ("SELECT", "PRAGMA"):
            reached(f"sql {verb}")

    def committed(connection: Any) -> None:
        reached("commit")

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "commit", committed)
    write, replace = storage.EventLog.write, Path.replace
    path_class = type(Path())

    def log(self: Any, kind: str, **told: Any) -> None:
        reached(f"before event {kind}")
        write(self, kind, **told)
        reached(f"after event {kind}")

    def rename(self: Path, target: Any) -> Path:
        reached(f"rename to {Path(target).name}")
        return replace(self, target)

    monkeypatch.setattr(storage.EventLog, "write", log)
    monkeypatch.setattr(path_class, "replace", rename)


def _forked(work: Callable[[], object]) -> int:
    """Runs `work` in a fork of this process; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def _killed_at(path: Path, folder: Path, point: int, seen: Path | None = None) -> bool:
    """Runs the study in a fork that kills itself at a point; returns False when it ended before."""

    def work() -> None:
        count = itertools.count()

        def reached(what: str) -> None:
            if seen is not None:
                with seen.open("a") as file:
                    file.write(f"{what}\n")
            if next(count) == point:
                os.kill(os.getpid(), signal.SIGKILL)

        with pytest.MonkeyPatch.context() as patch:
            _kill_points(patch, reached)
            run(path, folder)

    status = _forked(work)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the run failed before point {point}"
    return os.WIFSIGNALED(status)


def _points(path: Path, folder: Path) -> list[str]:
    seen = folder.with_suffix(".points")
    assert not _killed_at(path, folder, -1, seen)
    return seen.read_text().splitlines()


@pytest.fixture
def crash_study(tmp_path: Path, study_file: StudyFile) -> Path:
    search = {"trials": 2, "seed": 5, "sampler": "tpe"}
    return study_file(tmp_path, limits=["macs <= 900000"], search=search, verify={"finalists": 1})


def _check_kills(tmp_path: Path, path: Path, points: range) -> int:
    """Kills a study at each point and lets it go on; returns how often that ended as if nothing had been."""
    whole = essence(run(path, tmp_path / "whole"))
    for point in points:
        folder = tmp_path / f"kill{point}"
        assert _killed_at(path, folder, point), f"point {point} was not reached"
        run(path, folder)
        assert essence(folder) == whole, f"killed at point {point}"
        assert [row.state for row in RunData.load(folder).rows] == [state.name.lower() for _, state, *_ in whole]
    return len(points)


def test_a_kill_at_any_write_is_as_if_it_had_not_been(tmp_path: Path, crash_study: Path) -> None:
    points = _points(crash_study, tmp_path / "counted")
    assert {"commit", "sql INSERT", "before event asked", "after event told", "rename to front.parquet"} <= set(points)
    first = points.index("before event started")
    some = range(first, len(points), max(1, (len(points) - first) // 8))
    assert _check_kills(tmp_path, crash_study, some) >= 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_every_other_write_is_as_if_it_had_not_been(tmp_path: Path, crash_study: Path) -> None:
    points = _points(crash_study, tmp_path / "counted")
    assert _check_kills(tmp_path, crash_study, range(0, len(points), 2)) == -(-len(points) // 2) > 20


def test_kill_after_kill_still_ends_the_same(tmp_path: Path, crash_study: Path) -> None:
    whole = essence(run(crash_study, tmp_path / "whole"))
    point, kills = 20, 0
    while _killed_at(crash_study, tmp_path / "run", point) and kills < 25:
        kills += 1
        point += 2
    assert kills >= 2
    run(crash_study, tmp_path / "run")
    assert essence(tmp_path / "run") == whole


@pytest.mark.parametrize("spoiled", ["drop", "old"])
def test_trials_lost_from_the_database_are_noticed(tmp_path: Path, study_file: StudyFile, spoiled: str) -> None:
    path = study_file(tmp_path)
    folder = run(path, tmp_path / "run", "search.trials=2")
    old = (folder / "study.db").read_bytes()
    run(path, folder, "search.trials=4")
    if spoiled == "old":
        (folder / "study.db").write_bytes(old)
    else:
        with sqlite3.connect(folder / "study.db") as connection:
            connection.execute("DELETE FROM trials WHERE number = 3")
        connection.close()
    before = (folder / "study.db").read_bytes()
    with pytest.raises(DataError, match=r"study\.db"):
        run(path, folder)
    assert (folder / "study.db").read_bytes() == before


def test_a_disk_that_fills_up_is_said_and_loses_nothing(
    tmp_path: Path, study_file: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study_file(tmp_path)
    whole = essence(run(path, tmp_path / "whole"))
    for after in (0, 2, 5, 8, 11, 13):
        folder = tmp_path / f"full{after}"
        with monkeypatch.context() as patch:
            _fill_up(patch, after)
            with pytest.raises(DiskError, match="no space left"):
                run(path, folder)
        assert not list(folder.rglob("*.part"))
        assert essence(run(path, folder)) == whole


def _fill_up(patch: pytest.MonkeyPatch, after: int) -> None:
    import errno

    writes = itertools.count()
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if next(writes) >= after:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    patch.setattr("hwnas.search.files.os.fsync", full)


def test_a_measurement_has_the_machine_to_itself() -> None:
    quiet = Quiet()
    said: list[str] = []

    class Child:
        def __init__(self, name: str) -> None:
            self.name = name

        def pause(self) -> None:
            said.append(f"pause {self.name}")

        def resume(self) -> None:
            said.append(f"resume {self.name}")

    for name in "ab":
        quiet.watch(Child(name))  # type: ignore[arg-type]  # all that is used of it

    def measure() -> None:
        with contextlib.suppress(CandidateError), quiet.measuring():
            said.append("begin")
            time.sleep(0.01)
            said.append("end")
            raise CandidateError("timeout")

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["pause a", "pause b", "begin", "end", "resume a", "resume b"] * 4
