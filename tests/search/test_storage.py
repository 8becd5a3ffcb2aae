"""The database, the lock and the log of events."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hwnas.search.lock import study_lock
from hwnas.search.proposer import Proposer
from hwnas.search.storage import EventLog, StudyStore, open_readable
from hwnas.spaces import load_space
from hwnas.spaces.errors import DataError, DiskError, HwnasError, StudyLockedError, UsageError

MAXIMIZE_MINIMIZE = ("maximize", "minimize")


def open_store(folder: Path, name: str = "s", directions: tuple[str, ...] = MAXIMIZE_MINIMIZE) -> StudyStore:
    return StudyStore(folder / "study.db", name, directions, [f"metric{i}" for i in range(len(directions))])


def fill(folder: Path, trials: int = 6) -> StudyStore:
    """Makes a closed database with complete, pruned and failed trials, the last one running."""
    space = load_space("mobile", input_shape=(1, 8, 8), num_classes=10)
    store = open_store(folder)
    for number in range(trials):
        seen = {trial.user_attrs["arch_id"] for trial in store.trials}
        proposal = Proposer(space, directions=MAXIMIZE_MINIMIZE, sampler="tpe", seed=0).propose(store.trials, seen)
        assert proposal is not None
        trial = store.ask(proposal.template)
        assert trial.number == number
        if number == trials - 1:
            break
        state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[number % 3]
        values = [0.1 * number, 2.0] if state == TrialState.COMPLETE else None
        reason = "" if state == TrialState.COMPLETE else "timeout: in a test"
        outcome = {"state": state.name.lower(), "reason": reason, "readings": {"macs": number}}
        store.tell(number, state, values, {"macs <= 1": number - 1.0, "size_mb <= 1": -0.5}, outcome)
    store.close()
    return store


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The database that `fill` makes."""
    folder = tmp_path_factory.mktemp("filled")
    fill(folder)
    return (folder / "study.db").read_bytes()


@pytest.fixture
def run(tmp_path: Path, filled: bytes) -> Path:
    """A folder with that database."""
    (tmp_path / "study.db").write_bytes(filled)
    return tmp_path


def essence(store: StudyStore) -> list[tuple[Any, ...]]:
    return [(t.number, t.state, t.values, t.params, t.user_attrs, t.system_attrs) for t in store.trials]


def test_what_is_stored_is_read_again(tmp_path: Path) -> None:
    written = fill(tmp_path)
    store = open_store(tmp_path)
    assert essence(store) == essence(written)
    assert store.trials[-1].state == TrialState.RUNNING
    assert {"arch", "arch_id"} <= set(store.trials[-1].user_attrs)
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"], "the one file is the whole study"


def test_a_trial_is_asked_in_one_transaction_with_its_parameters(tmp_path: Path) -> None:
    fill(tmp_path, trials=1)
    connection = sqlite3.connect(tmp_path / "study.db")
    assert connection.execute("SELECT count(*) FROM trial_params").fetchone()[0] > 3
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    connection.close()


def test_optuna_sees_the_study_with_names_constraints_and_front(tmp_path: Path) -> None:
    fill(tmp_path)
    study = optuna.load_study(study_name="s", storage=open_readable(tmp_path / "study.db"))
    assert study.metric_names == ["metric0", "metric1"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    first = study.trials[0]
    assert first.system_attrs["constraints:macs <= 1"] == -1.0
    assert first.system_attrs["constraints"] == [-1.0, -0.5]
    assert study.trials[1].user_attrs["reason"] == "timeout: in a test"


@pytest.mark.parametrize("earlier", [True, False])
def test_a_told_trial_that_was_cut_off_is_told_anew(run: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool) -> None:
    store = open_store(run)
    if earlier:  # a version that told a trial in several transactions was killed between them
        for key, value in (("outcome", {"state": "pruned"}), ("reason", "infeasible")):
            store._storage.set_trial_user_attr(store.trials[5]._trial_id, key, value)
        store._storage.set_trial_system_attr(store.trials[5]._trial_id, "constraints:size_mb <= 1", 3.0)
    else:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("sqlalchemy.orm.Session.commit", lambda session: (_ for _ in ()).throw(KeyboardInterrupt))
            store.tell(5, TrialState.PRUNED, None, {"macs <= 1": 3.0}, {"state": "pruned", "reason": "infeasible"})
    store.close()
    store = open_store(run)
    assert store.trials[5].state == TrialState.RUNNING
    store.tell(5, TrialState.COMPLETE, [1.0, 2.0], {"size_mb <= 1": -1.0}, {"state": "complete", "reason": ""})
    store.close()
    last = open_store(run).trials[5]
    assert (last.state, last.user_attrs.get("reason", ""), last.values) == (TrialState.COMPLETE, "", [1.0, 2.0])


def test_a_study_without_trials_may_be_made_anew(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    open_store(tmp_path, "other", ("minimize",)).close()
    fill_other = open_store(tmp_path, "other", ("minimize",))
    assert fill_other.trials == []
    fill_other.close()


@pytest.mark.parametrize(("name", "directions"), [("other", MAXIMIZE_MINIMIZE), ("s", ("minimize", "minimize"))])
def test_another_study_with_trials_is_refused(run: Path, name: str, directions: tuple[str, ...]) -> None:
    before = (run / "study.db").read_bytes()
    with pytest.raises(UsageError, match=r"study\.db holds"):
        open_store(run, name, directions)
    assert (run / "study.db").read_bytes() == before


def _foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()


def _wrong_version(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v9.9.9'")
    connection.close()


def _edit(statement: str) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            assert connection.execute(statement).rowcount > 0
        connection.close()

    return edit


SPOILED: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(os.urandom(4096)),
    "a text": lambda path: path.write_text("hello\n"),
    "header": lambda path: path.write_bytes(b"X" * 16 + path.read_bytes()[16:]),
    "first half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "first page": lambda path: path.write_bytes(path.read_bytes()[:4096]),
    "foreign": _foreign,
    "schema version": _wrong_version,
    "value": _edit("UPDATE trial_values SET value = value + 1 WHERE trial_id = 1"),
    "state": _edit("UPDATE trials SET state = 'PRUNED' WHERE trial_id = 1"),
    "no such state": _edit("UPDATE trials SET state = 'GONE' WHERE trial_id = 1"),
    "parameter": _edit("UPDATE trial_params SET param_value = 1 - param_value WHERE param_id = 1"),
    "architecture": _edit("UPDATE trial_user_attributes SET value_json = '\"{}\"' WHERE key = 'arch'"),
    "not JSON": _edit("UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'outcome'"),
    "constraint": _edit("UPDATE trial_system_attributes SET value_json = '9.0' WHERE key = 'constraints:macs <= 1'"),
    "a trial less": _edit("DELETE FROM trials WHERE number = 2"),
    "a number twice": _edit("UPDATE trials SET number = 1 WHERE number = 2"),
}


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_spoiled_database_is_named_and_left_as_it_is(run: Path, spoil: str) -> None:
    path = run / "study.db"
    SPOILED[spoil](path)
    before = path.read_bytes()
    with pytest.raises(DataError) as raised:
        open_store(run)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert path.read_bytes() == before


def test_flipped_bytes_are_noticed_or_harmless(run: Path) -> None:
    path = run / "study.db"
    store = open_store(run)
    sound = essence(store)
    store.close()
    content = path.read_bytes()
    rng = random.Random(0)
    noticed = 0
    for _ in range(25):
        spoiled = bytearray(content)
        for _ in range(3):
            place = rng.randrange(len(content))
            spoiled[place] ^= 1 << rng.randrange(8)
        path.write_bytes(spoiled)
        for more in ("-wal", "-shm"):
            path.with_name(f"study.db{more}").unlink(missing_ok=True)
        try:
            store = open_store(run)
        except HwnasError as error:
            noticed += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            found = [(n, s, v, p, u.get("outcome"), u["arch_id"]) for n, s, v, p, u, _ in essence(store)]
            assert found == [(n, s, v, p, u.get("outcome"), u["arch_id"]) for n, s, v, p, u, _ in sound]
            store.close()
    assert noticed > 0


@pytest.mark.parametrize("spoil", ["garbage", "a text", "first half", "foreign", "schema version"])
def test_tools_that_only_look_refuse_a_spoiled_database(run: Path, spoil: str) -> None:
    SPOILED[spoil](run / "study.db")
    with pytest.raises(DataError, match=r"study\.db"):
        open_readable(run / "study.db")


def test_an_emptied_database_of_a_killed_start_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    assert open_store(tmp_path).trials == []


def test_a_path_that_cannot_be_written_is_a_matter_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot write"):
        StudyStore(tmp_path / "nowhere" / "study.db", "s", MAXIMIZE_MINIMIZE, ["a", "b"])


def _hold(folder: Path, ready: Any, leave: Any) -> None:
    with study_lock(folder):
        ready.set()
        leave.wait(60)


def test_a_second_driver_is_told_who_holds_the_study(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, leave))
    holder.start()
    assert ready.wait(60)
    start = time.monotonic()
    with pytest.raises(StudyLockedError, match=rf"in use by process {holder.pid} on {os.uname().nodename}"):
        study_lock(tmp_path).__enter__()
    assert time.monotonic() - start < 1
    holder.kill()
    holder.join()
    with study_lock(tmp_path):
        pass  # the kernel let go of it


def test_the_lock_of_a_folder_that_cannot_be_is_a_matter_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="file"), study_lock(tmp_path / "file" / "run"):
        pass


def test_the_log_drops_a_torn_tail_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for number in range(20):
        log.write("told", number=number)
    log.close()
    whole = path.read_bytes()
    for cut in random.Random(0).sample(range(len(whole)), 40):
        for tail in (b"", b"\0" * 100, b'{"event": "to'):
            path.write_bytes(whole[:cut] + tail)
            log = EventLog(path)
            log.write("last")
            log.close()
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert [line["number"] for line in lines[:-1]] == list(range(whole[:cut].count(b"\n")))
            assert lines[-1]["event"] == "last"
