"""The tables of a run folder, made from what is stored with its trials."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spaces.errors import DataError, UsageError
from .evaluation import signed
from .files import write_aside
from .latency import read_measurement
from .metrics import Limit, Metric, Reading
from .outcome import Outcome, violations
from .pareto import nondominated
from .storage import OUTCOME, check_trial, open_readable

if TYPE_CHECKING:
    import pandas as pd
    from optuna.trial import FrozenTrial

    from .study_schema import StudySpec
    from .verification import Verified

__all__ = ["Row", "front_of", "rows_of", "table_of", "write_parquet"]

ALWAYS = ("params", "macs", "size_mb", "peak_memory_mb")
"""Computed for every candidate, so always in the tables."""


class Row:
    """A trial as tables and fronts see it.

    Args:
        trial: as Optuna stored it.
        limits: the study's.
    """

    def __init__(self, trial: FrozenTrial, limits: Sequence[Limit]) -> None:
        told = trial.user_attrs.get(OUTCOME) if trial.state.is_finished() else None  # cut off while it was told
        self.number = trial.number
        self.arch_id = str(trial.user_attrs["arch_id"])
        self.arch = str(trial.user_attrs["arch"])
        self.outcome = Outcome("running", {}) if told is None else Outcome.from_dict(told)
        broken = any(value > 0 for value in violations(limits, self.outcome.readings).values())
        self.feasible = self.outcome.state in ("complete", "pruned") and not broken

    @property
    def counts(self) -> bool:
        """True when the trial can be on a front."""
        return self.outcome.state == "complete" and self.feasible


def rows_of(trials: Iterable[FrozenTrial], limits: Sequence[Limit]) -> list[Row]:
    return [Row(trial, limits) for trial in trials]


def objective_values(objectives: Sequence[Metric], readings: Iterable[Mapping[str, Reading]]) -> Any:
    """Returns an (n, m) array in which less is better."""
    return np.array([[signed(metric, reading[str(metric)]) for metric in objectives] for reading in readings])


def front_of(rows: Sequence[Row], objectives: Sequence[Metric]) -> set[int]:
    """Returns the numbers of the complete, feasible trials that no other one dominates."""
    able = [row for row in rows if row.counts]
    if not able:
        return set()
    keep = nondominated(objective_values(objectives, (row.outcome.readings for row in able)))
    return {row.number for row, kept in zip(able, keep, strict=True) if kept}


def table_of(rows: Sequence[Row], spec: StudySpec) -> pd.DataFrame:
    """Returns `trials.parquet`: one row a trial."""
    import pandas as pd

    objectives = [o.metric for o in spec.objectives]
    front = front_of(rows, objectives)
    names = list(dict.fromkeys([*map(str, spec.metrics), *ALWAYS]))
    foretold = [str(metric) for metric in spec.metrics if metric.device]
    records = []
    for row in rows:
        record: dict[str, Any] = {
            "number": row.number,
            "arch_id": row.arch_id,
            "arch": row.arch,
            "state": row.outcome.state,
            "reason": row.outcome.reason or None,
            "seconds": sum(row.outcome.seconds.values()) if row.outcome.seconds else None,
            **reading_columns(names, row.outcome.readings),
            **_foretold_columns(foretold, row),
            "feasible": row.feasible,
            "on_front": row.number in front,
        }
        records.append(record)
    columns = [*_LEADING, *_reading_names(names), *_foretold_names(foretold), "feasible", "on_front"]
    return _typed(pd.DataFrame.from_records(records, columns=columns))


def stored_table(folder: Path) -> pd.DataFrame:
    """Returns what `trials.parquet` of a run folder would be now, from its database.

    Raises:
        DataError: the database or the study file is corrupt.
    """
    from .study_file import load_study_file

    path = folder / "study.db"
    storage = open_readable(path)
    try:
        trials = [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
    finally:
        storage.remove_session()
        storage.engine.dispose()
    for number, trial in enumerate(trials):
        check_trial(trial, number, path)
    try:
        spec = load_study_file(folder / "study.yaml")
    except UsageError as error:
        raise DataError(str(error)) from error
    return table_of(rows_of(trials, spec.limits), spec)


def front_table(
    rows: Mapping[str, Row],
    front: Sequence[Verified],
    tested: Mapping[str, Mapping[str, Reading]],
    spec: StudySpec,
) -> pd.DataFrame:
    """Returns `front.parquet`: the columns of `trials.parquet`, and the accuracy of the shipped file on the test part.

    Args:
        rows: the trials by architecture.
        front: the verified front.
        tested: by architecture, `top1_test` and those of other precisions.
        spec: the study.
    """
    import pandas as pd

    names = list(dict.fromkeys([*map(str, spec.metrics), *ALWAYS]))
    tests = list(dict.fromkeys(["top1_test", *(name for readings in tested.values() for name in readings)]))
    records = [
        {
            "number": rows[member.arch_id].number,
            "arch_id": member.arch_id,
            "arch": rows[member.arch_id].arch,
            "state": "complete",
            "reason": None,
            "seconds": member.seconds,
            **reading_columns(names, member.readings),
            **reading_columns(tests, tested.get(member.arch_id, {})),
            "feasible": member.feasible,
            "on_front": True,
        }
        for member in front
    ]
    columns = [*_LEADING, *_reading_names([*names, *tests]), "feasible", "on_front"]
    return _typed(pd.DataFrame.from_records(records, columns=columns))


def _foretold_names(metrics: Iterable[str]) -> list[str]:
    return [f"{metric}.predicted{part}" for metric in metrics for part in ("", ".low", ".high", ".by")]


def _foretold_columns(metrics: Iterable[str], row: Row) -> dict[str, Any]:
    """Returns what was predicted of metrics that were measured afterwards, and by which cost model."""
    columns: dict[str, Any] = {}
    for metric in metrics:
        told = row.outcome.foretold.get(metric)
        values = (None, None, None, None) if told is None else (told.value, told.low, told.high, told.model or None)
        columns |= dict(zip(_foretold_names([metric]), values, strict=True))
    return columns


_LEADING = ("number", "arch_id", "arch", "state", "reason", "seconds")


def _reading_names(names: Iterable[str]) -> list[str]:
    return [f"{name}{part}" for name in names for part in ("", ".low", ".high", ".source", *_noisy_of(name))]


def _noisy_of(name: str) -> tuple[str, ...]:
    """Measurements on a device may be noisy, other readings are not."""
    return (".noisy",) if "@" in name and not name.startswith("top1") else ()


def reading_columns(names: Iterable[str], readings: Mapping[str, Reading]) -> dict[str, Any]:
    """Returns the four columns of each metric, and a fifth of those that are measured on a device."""
    columns: dict[str, Any] = {}
    for name in names:
        reading = readings.get(name, Reading.missing())
        columns |= {
            name: reading.value,
            f"{name}.low": reading.low,
            f"{name}.high": reading.high,
            f"{name}.source": reading.source,
            **{f"{name}{part}": reading.noisy for part in _noisy_of(name)},
        }
    return columns


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Gives every column its type, also when the table is empty or a column has no value."""
    texts = {"arch_id", "arch", "state", "reason"}
    for column in frame.columns:
        if column in ("feasible", "on_front") or str(column).endswith(".noisy"):
            frame[column] = frame[column].astype("bool")
        elif column == "number":
            frame[column] = frame[column].astype("int64")
        elif column in texts or str(column).endswith((".source", ".predicted.by")):
            frame[column] = frame[column].astype("string")
        else:
            frame[column] = frame[column].astype("float64")
    return frame


def samples_of(folder: Path) -> pd.DataFrame:
    """Returns `measurements.parquet`: every raw sample that was kept in the artefacts.

    Columns: `arch_id, device, phase` (search or verify), `process, block, iteration, ms, quality`.
    """
    import pandas as pd

    parts = []
    for phase, stem in (("search", "measurement"), ("verify", "verified")):
        for path in sorted((folder / "artifacts").glob(f"*/{stem}-*.json")):
            measurement = read_measurement(path)
            lengths = [len(block) for block in measurement.blocks]
            parts.append(
                pd.DataFrame(
                    {
                        "arch_id": path.parent.name,
                        "device": path.stem.removeprefix(f"{stem}-"),
                        "phase": phase,
                        "process": np.repeat(measurement.processes, lengths),
                        "block": np.repeat(np.arange(len(lengths)), lengths),
                        "iteration": np.concatenate([np.arange(length) for length in lengths]),
                        "ms": np.concatenate(measurement.blocks),
                        "quality": measurement.quality,
                    }
                )
            )
    columns = ["arch_id", "device", "phase", "process", "block", "iteration", "ms", "quality"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def write_parquet(frame: pd.DataFrame, path: Path, **metadata: Any) -> None:
    """Writes a table, whole or not at all; `metadata` is kept in its schema as JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    if metadata:
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), b"hwnas": json.dumps(metadata, sort_keys=True).encode()}
        )
    with write_aside(path) as file:
        pq.write_table(table, file)
