"""A run folder as it was found on disk, checked and typed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from ..spaces.errors import DataError, UsageError
from .metrics import Direction, Limit, Reading, Source

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunData", "State", "Trial"]

State = Literal["complete", "pruned", "fail", "running"]
"""How a trial ended, or that it has not."""

_COLUMNS = ("number", "arch_id", "arch", "state", "reason", "seconds", "feasible", "on_front")
_TEST = "top1_test"


@dataclass(frozen=True, slots=True)
class Trial:
    """One row of `trials.parquet` or `front.parquet`.

    Attributes:
        number: the trial's number, from 0.
        arch_id: id of its architecture.
        decisions: the architecture's decisions, in the order made.
        state: complete, pruned, fail or running.
        reason: why it ended so; empty for a plain completion.
        seconds: wall time spent on it.
        readings: a reading per metric of the run.
        feasible: whether it held the study's limits.
        on_front: whether it was on the front of the search.
        test: accuracy of the first device's file on the test part; missing for all but the verified front.
        tests: the same of devices with another precision, by device.
        foretold: what was predicted for metrics that were measured later; from the optional columns `M.predicted`.
    """

    number: int
    arch_id: str
    decisions: Mapping[str, Any]
    state: State
    reason: str
    seconds: float | None
    readings: Mapping[str, Reading]
    feasible: bool
    on_front: bool
    test: Reading = field(default_factory=Reading.missing)
    tests: Mapping[str, Reading] = field(default_factory=dict)
    foretold: Mapping[str, Reading] = field(default_factory=dict)

    def reading(self, metric: str) -> Reading:
        """Returns the reading of a metric, missing where the run has no such metric."""
        return self.readings.get(metric) or Reading.missing()

    def value(self, metric: str) -> float | None:
        """Returns the middle value of a metric, None where it is missing."""
        return self.reading(metric).value


@dataclass(frozen=True)
class RunData:
    """Everything a run folder holds that pages and answers are made of.

    Attributes:
        folder: the run folder.
        study: the resolved study file as plain data.
        environment: versions, device fingerprints, seeds, data digest; empty where the file is missing.
        trials: one row per trial, columns as `docs/report.md` lists them.
        front: the verified front, None when the study has not ended.
        measurements: every raw sample, None where nothing was measured.
        events: the run's log of events, oldest first.
    """

    folder: Path
    study: dict[str, Any]
    environment: dict[str, Any]
    trials: pd.DataFrame
    front: pd.DataFrame | None = None
    measurements: pd.DataFrame | None = None
    events: tuple[dict[str, Any], ...] = ()

    @classmethod
    def load(cls, folder: Path | str) -> RunData:
        """Reads a run folder.

        Raises:
            UsageError: the folder is not a run, or nothing has been run in it yet.
            DataError: one of its files is corrupt; the message names it.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"no run folder '{folder}': give the folder that `hwnas run` wrote, e.g. runs/NAME")
        if not (folder / "study.yaml").is_file():
            raise UsageError(f"'{folder}' is not a run folder: it has no study.yaml")
        events = tuple(_read_events(folder / "events.jsonl"))
        trials = _trials(folder, events)
        front = folder / "front.parquet"
        raw = folder / "measurements.parquet"
        run = cls(
            folder=folder,
            study=_read_study(folder / "study.yaml"),
            environment=_read_environment(folder / "environment.json"),
            trials=trials,
            front=_read_frame(front) if front.is_file() else None,
            measurements=_read_frame(raw, ()) if raw.is_file() else None,
            events=events,
        )
        _ = (
            run.objectives,
            run.limits,
            run.rows,
            run.verified,
        )  # a spoiled file is found here, not half way through a page
        return run

    @property
    def trained(self) -> bool:
        """False for a study without a training: its front has readings of tables and devices, and nothing to ship."""
        quality = self.study.get("quality")
        table = isinstance(quality, Mapping) and quality.get("use") == "table"
        return not table and self.study.get("data") is not None

    @property
    def own_unit(self) -> bool:
        """True when the quality comes from a table in a unit of its own, and is not a share."""
        try:
            return bool(self.environment["tables"]["quality"]["own_unit"])
        except (KeyError, TypeError):
            return False

    @property
    def name(self) -> str:
        """The study's name, or the folder's where it has none."""
        return str(self.study.get("name") or self.folder.name)

    @cached_property
    def objectives(self) -> tuple[tuple[str, Direction], ...]:
        """The study's objectives in its own order: (metric, direction).

        Raises:
            DataError: the study has none, or one is not well formed.
        """
        path = self.folder / "study.yaml"
        try:
            pairs = tuple((str(item["metric"]), str(item["direction"])) for item in self.study["objectives"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{path}: objectives are missing or not a list of metric and direction") from error
        if not pairs or any(direction not in get_args(Direction) for _, direction in pairs):
            raise DataError(f"{path}: every objective needs a direction, minimize or maximize")
        return cast(tuple[tuple[str, Direction], ...], pairs)

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """The study's own limits.

        Raises:
            DataError: one of them is not a limit.
        """
        try:
            return tuple(Limit.parse(str(text)) for text in self.study.get("limits") or ())
        except (UsageError, TypeError) as error:
            raise DataError(f"{self.folder / 'study.yaml'}: limits: {error}") from error

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of the run: objectives first, then limited and tracked ones, then whatever else has columns."""
        names = [metric for metric, _ in self.objectives]
        names += [str(limit.metric) for limit in self.limits]
        names += [str(metric) for metric in self.study.get("track") or ()]
        frames = [self.trials] if self.front is None else [self.trials, self.front]
        names += [
            str(c).removesuffix(".source") for frame in frames for c in frame.columns if str(c).endswith(".source")
        ]
        return tuple(dict.fromkeys(name for name in names if name.partition("@")[0] != _TEST))

    @cached_property
    def rows(self) -> tuple[Trial, ...]:
        """All trials by number."""
        return self._typed(self.trials, "trials.parquet")

    @property
    def outdated(self) -> bool:
        """True when trials have come since the front was verified."""
        kinds = [event.get("event") for event in reversed(self.events)]
        return self.front is not None and "finished" in kinds and "told" in kinds[: kinds.index("finished")]

    @cached_property
    def refused(self) -> tuple[tuple[Trial, str], ...]:
        """The finalists that the last verification refused, each with its reason; empty while there is none."""
        rows = {trial.number: trial for trial in self.rows}
        return tuple(
            (rows[number], str(event.get("reason") or ""))
            for number, event in self._finalists.items()
            if number in rows and event.get("feasible") is False
        )

    @cached_property
    def screened(self) -> tuple[Trial, ...]:
        """The trials that a cost model refused: a limit was surely broken by what it predicted."""
        return tuple(trial for trial in self.rows if _was_screened(trial))

    @cached_property
    def beaten(self) -> int:
        """How many finalists were verified, and are not on the front: others beat them."""
        sound = sum(event.get("feasible") is True for event in self._finalists.values())
        return max(0, sound - len(self.verified))

    @property
    def _finalists(self) -> dict[int, dict[str, Any]]:
        """What the log says of each finalist of the driver that finished last, by the number of its trial."""
        kinds = [event.get("event") for event in self.events]
        if self.front is None or "finished" not in kinds:
            return {}
        end = len(kinds) - 1 - kinds[::-1].index("finished")
        begin = max((place for place in range(end) if kinds[place] == "started"), default=0)
        found = (event for event in self.events[begin:end] if event.get("event") == "verified")
        return {number: event for event in found if type(number := event.get("number")) is int}

    @cached_property
    def verified(self) -> tuple[Trial, ...]:
        """The verified front; empty when the study has not ended."""
        return () if self.front is None else self._typed(self.front, "front.parquet")

    def _typed(self, frame: pd.DataFrame, file: str) -> tuple[Trial, ...]:
        trials = []
        for index, row in enumerate(frame.to_dict("records")):
            try:
                trials.append(_trial({str(key): value for key, value in row.items()}, self.metrics, self.own_unit))
            except (TypeError, ValueError, KeyError) as error:
                raise DataError(f"{self.folder / file}: row {index} is not a trial: {error}") from error
        return tuple(sorted(trials, key=lambda trial: trial.number))


def _was_screened(trial: Trial) -> bool:
    """True when the metric that its reason names was no more than predicted."""
    code, _, rest = trial.reason.partition(": ")
    named = rest.split(maxsplit=1)[:1]
    return trial.state == "pruned" and code == "infeasible" and trial.reading("".join(named)).source == "predicted"


def _trial(row: Mapping[str, Any], metrics: tuple[str, ...], own_unit: bool) -> Trial:
    state = _text(row["state"])
    if state not in get_args(State):
        raise ValueError(f"unknown state '{state}'")
    return Trial(
        number=int(row["number"]),
        arch_id=_text(row["arch_id"]),
        decisions=_decisions(_text(row["arch"])),
        state=cast(State, state),
        reason=_text(row["reason"]),
        seconds=_number(row["seconds"]),
        readings={metric: _reading(row, metric, own_unit and metric == "top1") for metric in metrics},
        feasible=_flag(row["feasible"]),
        on_front=_flag(row["on_front"]),
        test=_reading(row, _TEST),
        tests={
            name.partition("@")[2]: _reading(row, name)
            for name in row
            if name.startswith(f"{_TEST}@") and not name.endswith((".low", ".high", ".source"))
        },
        foretold={metric: guess for metric in metrics if (guess := _foretold(row, metric)) is not None},
    )


def _foretold(row: Mapping[str, Any], metric: str) -> Reading | None:
    value = _number(row.get(f"{metric}.predicted"))
    if value is None:
        return None
    low, high = (_number(row.get(f"{metric}.predicted.{end}")) for end in ("low", "high"))
    model = _text(row.get(f"{metric}.predicted.by"))
    return Reading(value, low, high, "estimated" if model == "roofline" else "predicted", model=model)


def _reading(row: Mapping[str, Any], metric: str, own_unit: bool = False) -> Reading:
    value = _number(row.get(metric))
    source = _text(row.get(f"{metric}.source")) or "measured"
    if value is None or source == "missing":
        return Reading.missing()
    low, high = (_number(row.get(f"{metric}.{end}")) for end in ("low", "high"))
    return Reading(value, low, high, cast(Source, source), _flag(row.get(f"{metric}.noisy")), own_unit=own_unit)


def _number(value: Any) -> float | None:
    """Returns a finite float, None for a null."""
    if value is None or isinstance(value, str):
        return None
    try:
        number = float(value)
    except TypeError:  # pandas.NA
        return None
    return number if math.isfinite(number) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _flag(value: Any) -> bool:
    """Returns a truth value; a null is false (`bool(nan)` is not)."""
    number = _number(value)
    return number is not None and number != 0


def _decisions(text: str) -> Mapping[str, Any]:
    """Reads the decisions of a stored architecture; text that is not JSON is one decision, the architecture itself."""
    if not text:
        return {}
    if not text.lstrip().startswith("{"):
        return {"architecture": text}
    data = json.loads(text)
    decisions = data.get("decisions", data)
    return dict(decisions) if isinstance(decisions, Mapping) else dict(data)


def _trials(folder: Path, events: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns `trials.parquet`, or what the database has where that is more: in a run that goes on or was killed."""
    path, database = folder / "trials.parquet", folder / "study.db"
    frame = _read_frame(path) if path.is_file() else None
    told = len({event.get("number") for event in events if event.get("event") == "told"})
    stored = database.is_file() and database.stat().st_size > 0
    if frame is not None and (told <= int((frame["state"] != "running").sum()) or not stored):
        return frame
    if not stored:
        raise UsageError(f"'{folder}' has no trials yet: start it with `hwnas run {folder / 'study.yaml'}`")
    from .frames import stored_table

    return stored_table(folder)


def _read_frame(path: Path, columns: tuple[str, ...] = _COLUMNS) -> pd.DataFrame:
    import pandas as pd

    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow has its own hierarchy beside OSError and ValueError
        raise DataError(f"{path}: not a readable parquet file ({_one_line(error)})") from error
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(f"{path}: column{'s' if len(missing) > 1 else ''} {', '.join(missing)} missing")
    return frame


def _read_study(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable study file ({_one_line(error)})") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: not a study file")
    return data


def _read_environment(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable JSON ({_one_line(error)})") from error
    if not isinstance(data, dict):
        raise DataError(f"{path}: expected a JSON object")
    return data


def _read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the events; a line torn by a power cut is left out, as the driver does."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
