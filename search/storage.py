"""The study on disk: Optuna's storage with one writer, the lock, and the log of events.

A trial is stored twice: when it is asked, as one record with everything it takes to evaluate it, and when it is told.
Whatever kills the driver in between leaves a trial that is `running` and whole, and the next driver adopts it.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
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

from ..spaces import Architecture
from ..spaces.errors import DataError, DiskError, HwnasError, UsageError
from .files import disk_errors

__all__ = ["EventLog", "StudyStore", "open_readable"]

OUTCOME = "outcome"
"""User attribute with everything that was found out about a trial; see `Outcome` in `outcome.py`."""

_METRIC_NAMES = "study:metric_names"
"""Optuna's own key (`Study.set_metric_names`): names of the objectives in its plots and tables."""
_OPTUNA_TABLES = {"studies", "version_info", "alembic_version"}
_NOT_WRITABLE = ("full", "readonly", "unable to open", "disk I/O", "is locked")
"""Words of SQLite for what is not the database's fault."""


class StudyStore:
    """The trials of a study in `study.db`, and a copy of them in memory that is always up to date.

    Args:
        path: the SQLite file; made when it is not there.
        name: the study's name.
        directions: `minimize` or `maximize` for each objective.
        metrics: the objectives' names, for Optuna's own plots.

    Raises:
        DataError: the file is not a sound database.
        UsageError: it holds the trials of another study.
        DiskError: it cannot be written.
    """

    def __init__(self, path: Path, name: str, directions: Sequence[str], metrics: Sequence[str]) -> None:
        self.path = path
        _prepare(path)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with self._errors(loading=True):
            self._storage = optuna.storages.RDBStorage(
                f"sqlite:///{path.resolve()}", engine_kwargs={"connect_args": {"timeout": 30}}
            )
            self._study_id = self._study(name, [StudyDirection[direction.upper()] for direction in directions])
            if not self._storage.get_study_system_attrs(self._study_id).get(_METRIC_NAMES):
                self._storage.set_study_system_attr(self._study_id, _METRIC_NAMES, list(metrics))
            self.trials: list[FrozenTrial] = self._storage.get_all_trials(self._study_id, deepcopy=False)
            for number, trial in enumerate(self.trials):
                check_trial(trial, number, path)

    def ask(self, template: FrozenTrial) -> FrozenTrial:
        """Stores a running trial as one record and returns it with its number.

        Optuna's own `create_new_trial` asks the database several times for each parameter, which is most of the time of
        a trial that trains nothing.
        """
        from optuna.storages._rdb import models

        number = len(self.trials)
        with self._errors(), self._session() as session:
            kept = models.TrialModel(
                study_id=self._study_id, number=number, state=template.state, datetime_start=template.datetime_start
            )
            session.add(kept)
            session.flush()
            key = int(kept.trial_id)
            for name, options in template.distributions.items():
                internal = options.to_internal_repr(template.params[name])
                text = optuna.distributions.distribution_to_json(options)
                session.add(
                    models.TrialParamModel(trial_id=key, param_name=name, param_value=internal, distribution_json=text)
                )
            attributes = (
                (models.TrialUserAttributeModel, template.user_attrs),
                (models.TrialSystemAttributeModel, template.system_attrs),
            )
            for model, values in attributes:
                _write_attributes(session, model, key, values, known={})
        trial = _copy(template)
        trial.number, trial._trial_id = number, key
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
        """Ends a running trial, in one transaction.

        Args:
            number: the trial's.
            state: COMPLETE, PRUNED or FAIL.
            values: one for each objective when complete, else None.
            violations: by how much each limit is broken; at most 0 where it holds.
            outcome: JSON plain; everything else that was found out.
        """
        from optuna.storages._rdb import models

        trial = self.trials[number]
        key = trial._trial_id
        kept = {name: float(value) for name, value in violations.items()}
        told: dict[str, Any] = {
            OUTCOME: {**outcome, "violations": kept, "digest": _digest(trial, values, kept, outcome)}
        }
        if outcome.get("reason") or "reason" in trial.user_attrs:
            told["reason"] = outcome["reason"]
        limits = _constraints(kept)
        ended = _copy(trial)
        ended.state, ended.values, ended.datetime_complete = state, values, datetime.now()
        ended.user_attrs |= _as_stored(told)
        ended.system_attrs |= limits
        with self._errors(), self._session() as session:
            row = session.get_one(models.TrialModel, key)
            _write_attributes(session, models.TrialUserAttributeModel, key, told, trial.user_attrs)
            _write_attributes(session, models.TrialSystemAttributeModel, key, limits, trial.system_attrs)
            for place, value in enumerate(values or ()):
                stored, kind = models.TrialValueModel.value_to_stored_repr(value)
                session.add(models.TrialValueModel(trial_id=key, objective=place, value=stored, value_type=kind))
            row.state, row.datetime_complete = state, ended.datetime_complete
        self.trials[number] = ended

    @contextmanager
    def _session(self) -> Iterator[Any]:
        """Gives a session of SQLAlchemy: one transaction, all of it or nothing."""
        session = self._storage.scoped_session()
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.close()

    def _study(self, name: str, directions: list[StudyDirection]) -> int:
        """Returns the id of the study; makes it, also in place of one that never had a trial."""
        for found in self._storage.get_all_studies():
            if found.study_name == name and found.directions == directions:
                return found._study_id
            if self._storage.get_n_trials(found._study_id):
                what = "another study" if found.study_name != name else "this study with other objectives"
                raise UsageError(f"{self.path} holds {what}: rename the study, or remove the folder")
            self._storage.delete_study(found._study_id)
        return self._storage.create_new_study(directions, name)

    def close(self) -> None:
        """Folds the write-ahead log into `study.db`, so that the one file is the whole study."""
        with contextlib.suppress(Exception):
            self._storage.remove_session()
            self._storage.engine.dispose()
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _errors(self, *, loading: bool = False) -> Iterator[None]:
        """Says in one line what the database could not do; whatever goes wrong while loading is the file's fault."""
        import sqlalchemy.exc

        try:
            yield
        except HwnasError:
            raise
        except Exception as error:
            if not loading and not isinstance(
                error, optuna.exceptions.StorageInternalError | sqlalchemy.exc.SQLAlchemyError | sqlite3.Error
            ):
                raise
            cause = _one_line(error.__cause__ or error)
            if any(word in cause for word in _NOT_WRITABLE):
                raise DiskError(f"cannot write {self.path}: {cause}") from error
            raise DataError(f"{self.path} is corrupt ({cause}); the file is left as it is") from error


def open_readable(path: Path) -> optuna.storages.RDBStorage:
    """Opens a study's database for tools that only look at it.

    Raises:
        DataError: the file is not a sound database.
    """
    _prepare(path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    except Exception as error:  # whatever Optuna or SQLAlchemy makes of a file that is not theirs
        raise DataError(f"{path}: not an Optuna database ({_one_line(error)})") from error


def _constraints(violations: Mapping[str, float]) -> dict[str, Any]:
    """Returns limits the way Optuna 5 reads them (a value for each name) and the way optuna-dashboard does (a list)."""
    named = {f"constraints:{name}": value for name, value in violations.items()}
    return {**named, "constraints": list(violations.values())} if violations else {}


def _write_attributes(session: Any, model: Any, key: int, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Writes attributes of a trial; those that are known have a row, as an earlier driver was killed after it."""
    for name, value in values.items():
        text = json.dumps(value)
        if name in known:
            session.query(model).filter_by(trial_id=key, key=name).update({"value_json": text})
        else:
            session.add(model(trial_id=key, key=name, value_json=text))


def _copy(trial: FrozenTrial) -> FrozenTrial:
    """Returns a trial with attributes of its own, as they will be read again."""
    copied = copy.copy(trial)
    copied.user_attrs, copied.system_attrs = _as_stored(trial.user_attrs), _as_stored(trial.system_attrs)
    return copied


def _as_stored(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns attributes as JSON has them: lists in place of tuples."""
    stored: dict[str, Any] = json.loads(json.dumps(dict(attributes)))
    return stored


def check_trial(trial: FrozenTrial, number: int, path: Path) -> None:
    """Compares a trial with what else is known of it: its place, its architecture's id, the digest of its end.

    Raises:
        DataError: the trial is not what was written.
    """
    if trial.number != number or not _is_sound(trial):
        raise DataError(f"{path}: trial {number} is not what was written; the file is left as it is")


def _is_sound(trial: FrozenTrial) -> bool:
    try:
        if Architecture.from_json(trial.user_attrs["arch"]).id != trial.user_attrs["arch_id"]:
            return False
        if not trial.state.is_finished():
            return trial.state == TrialState.RUNNING
        told = dict(trial.user_attrs[OUTCOME])
        kept = told.pop("violations")
        stored = {name: trial.system_attrs[f"constraints:{name}"] for name in kept}
        digest = told.pop("digest")
        return bool(
            kept == stored
            and told["state"] == trial.state.name.lower()
            and digest == _digest(trial, trial.values, kept, told)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _digest(
    trial: FrozenTrial, values: Sequence[float] | None, violations: Mapping[str, float], outcome: Mapping[str, Any]
) -> str:
    floats = None if values is None else [float(v) for v in values]
    told = [trial.user_attrs["arch"], trial.params, floats, violations, outcome]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _prepare(path: Path) -> None:
    """Looks at an existing database without changing a byte of it; then sets a write-ahead log.

    SQLite's default with such a log is a sync at every commit, so that what was told survives a power cut.
    """
    fresh = not path.exists()
    if not fresh and path.stat().st_size == 0 and not path.with_name(f"{path.name}-wal").exists():
        path.unlink()  # a driver was killed between making the file and writing to it
        fresh = True
    try:
        if not fresh:
            _examine(path)
        with disk_errors(path), contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.OperationalError as error:
        raise DiskError(f"cannot write {path}: {_one_line(error)}") from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} is corrupt ({_one_line(error)}); the file is left as it is") from error


def _examine(path: Path) -> None:
    """Refuses a database that is corrupt, or not Optuna's."""
    address = f"{path.resolve().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=30)) as connection:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise DataError(f"{path} is corrupt ({_one_line(verdict)}); the file is left as it is")
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not tables & _OPTUNA_TABLES:
        raise DataError(f"{path} is not an Optuna database; the file is left as it is")


def _one_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
