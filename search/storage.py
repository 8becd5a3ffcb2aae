"""The study on disk: Optuna's storage with one writer, the lock, and the log of events.

A trial is stored twice: when it is asked, as one record with everything it takes to evaluate it, and when it is told.
Whatever kills the driver in between leaves a trial that is `running` and whole, and the next driver adopts it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..spaces.errors import DataError, DiskError, StudyLockedError
from .files import disk_errors

__all__ = ["EventLog", "StudyStore", "open_readable", "study_lock"]

OUTCOME = "outcome"
"""User attribute with everything that was found out about a trial; see `Outcome` in `outcome.py`."""


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Holds the study for this driver; the kernel lets go of it when the process ends, however it ends.

    Raises:
        StudyLockedError: another driver holds it.
    """
    path = folder / "study.lock"
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise StudyLockedError(f"{folder} is in use by {holder}: wait for it, or stop it first") from None
        with disk_errors(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


class StudyStore:
    """The trials of a study in `study.db`, and a copy of them in memory that is always up to date.

    Args:
        path: the SQLite file; made when it is not there.
        name: the study's name.
        directions: `minimize` or `maximize` for each objective.
        metrics: the objectives' names, for Optuna's own plots.

    Raises:
        DataError: the file is not a sound database of this study.
        DiskError: it cannot be written.
    """

    def __init__(self, path: Path, name: str, directions: Sequence[str], metrics: Sequence[str]) -> None:
        self.path = path
        _prepare(path)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._errors():
            self._storage = optuna.storages.RDBStorage(
                f"sqlite:///{path.resolve()}", engine_kwargs={"connect_args": {"timeout": 30}}
            )
            names = optuna.get_all_study_names(self._storage)
            if names and names != [name]:
                raise DataError(f"{path} holds the study '{names[0]}', not '{name}'")
            study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=[StudyDirection[direction.upper()] for direction in directions],
                load_if_exists=True,
            )
            if not names:
                import warnings

                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    study.set_metric_names(list(metrics))
            self._study_id = self._storage.get_study_id_from_name(name)
            self.trials: list[FrozenTrial] = self._storage.get_all_trials(self._study_id, deepcopy=False)
        for trial in self.trials:
            check_trial(trial, path)

    def ask(self, template: FrozenTrial) -> FrozenTrial:
        """Stores a running trial as one record and returns it with its number."""
        with self._errors():
            trial = self._storage.get_trial(self._storage.create_new_trial(self._study_id, template))
        self.trials.append(trial)
        return trial

    def tell(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None,
        violations: Mapping[str, float],
        outcome: Mapping[str, Any],
    ) -> None:
        """Ends a running trial.

        Args:
            number: the trial's.
            state: COMPLETE, PRUNED or FAIL.
            values: one for each objective when complete, else None.
            violations: by how much each limit is broken; at most 0 where it holds.
            outcome: JSON plain; everything else that was found out.
        """
        trial = self.trials[number]
        key = trial._trial_id
        with self._errors():
            write_constraints(self._storage, key, violations)
            stamped = {**outcome, "digest": _digest(trial, values, outcome)}
            self._storage.set_trial_user_attr(key, OUTCOME, stamped)
            if outcome.get("reason"):
                self._storage.set_trial_user_attr(key, "reason", outcome["reason"])
            self._storage.set_trial_state_values(key, state, values)
            self.trials[number] = self._storage.get_trial(key)

    def close(self) -> None:
        """Folds the write-ahead log into `study.db`, so that the one file is the whole study."""
        with contextlib.suppress(Exception):
            self._storage.remove_session()
            self._storage.engine.dispose()
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Says in one line what the database could not do."""
        import sqlalchemy.exc

        try:
            yield
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error) as error:
            cause = str(error.__cause__ or error).splitlines()[0]
            if any(word in cause for word in ("full", "readonly", "unable to open", "disk I/O")):
                raise DiskError(f"cannot write {self.path}: {cause}") from error
            raise DataError(f"{self.path}: {cause}; the file is left as it is") from error


def open_readable(path: Path) -> optuna.storages.RDBStorage:
    """Opens a study's database for tools that only look at it.

    Raises:
        DataError: the file is not a sound database.
    """
    _prepare(path)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    except Exception as error:  # whatever Optuna or SQLAlchemy makes of a file that is not theirs
        raise DataError(f"{path}: not an Optuna database ({str(error).splitlines()[0]})") from error


def write_constraints(storage: optuna.storages.BaseStorage, trial_id: int, violations: Mapping[str, float]) -> None:
    """Writes limits the way Optuna 5 reads them (a value for each name) and the way optuna-dashboard does (a list)."""
    for name, value in violations.items():
        storage.set_trial_system_attr(trial_id, f"constraints:{name}", float(value))
    if violations:
        storage.set_trial_system_attr(trial_id, "constraints", [float(value) for value in violations.values()])


def check_trial(trial: FrozenTrial, path: Path) -> None:
    """Compares a finished trial with the digest stored in it.

    Raises:
        DataError: the trial is not what was written.
    """
    outcome = trial.user_attrs.get(OUTCOME)
    sound = "arch" in trial.user_attrs
    if sound and trial.state.is_finished():
        told = dict(outcome) if isinstance(outcome, dict) else {}
        sound = told.pop("digest", None) == _digest(trial, trial.values, told)
    if not sound:
        raise DataError(f"{path}: trial {trial.number} is not what was written; the file is left as it is")


def _digest(trial: FrozenTrial, values: Sequence[float] | None, outcome: Mapping[str, Any]) -> str:
    told = [trial.user_attrs.get("arch"), None if values is None else [float(v) for v in values], outcome]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _prepare(path: Path) -> None:
    """Checks an existing database, or makes a new one, with a write-ahead log and a sync at every commit."""
    fresh = not path.exists()
    if not fresh and path.stat().st_size == 0 and not path.with_name(f"{path.name}-wal").exists():
        path.unlink()  # a driver was killed between making the file and writing to it
    try:
        with disk_errors(path), contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            if not fresh:
                verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
                if verdict != "ok":
                    raise DataError(f"{path} is corrupt ({verdict.splitlines()[0]}); the file is left as it is")
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        raise DiskError(f"cannot write {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is corrupt ({error}); the file is left as it is") from error


class EventLog:
    """`events.jsonl`: one line for everything that happened, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            _cut_torn_tail(path)
            self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, event: str, **told: Any) -> None:
        """Appends an event; `told` is JSON plain."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "clock": round(time.monotonic(), 4)}
        with disk_errors(self.path):
            self._file.write(json.dumps({**line, "event": event, **told}) + "\n")
            self._file.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _cut_torn_tail(path: Path) -> None:
    """Cuts what a power cut left behind the last whole line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
