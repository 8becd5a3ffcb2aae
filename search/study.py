"""One search, from its study file to its verified front."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..profilers.meters.meter import NONE
from ..spaces.errors import (
    DataError,
    DiskError,
    HwnasError,
    InfeasibleError,
    InterruptedStudyError,
    SpaceError,
)
from .begun import check_environment, check_same_study, logged, write_environment
from .files import bugs_logged, disk_errors, write_text
from .interrupts import asked
from .metrics import Limit
from .quantities import counted
from .reporter import Reporter, Silent
from .run_data import RunData
from .study_file import dump_study, fault_at, load_study_file

if TYPE_CHECKING:
    import pandas as pd

    from ..spaces import Architecture, Shape, Space
    from .driver import Driver
    from .evaluation import Bench
    from .feasibility import LimitCheck, Probe, TimePlan
    from .latency import Device
    from .selection import Selection
    from .study_schema import DeviceSpec, StudySpec
    from .tables import Tables
    from .verification import Verified

__all__ = ["Check", "Result", "Study"]

LOG = "run.log"
"""File in the run folder for what children print, and for the traceback of a bug."""
SHIPPING = "local onnxruntime"
"""What compares and tests the files to ship when every device replays a table; no name of a study's device."""
COVERED = 100
"""Random architectures that are looked for in the tables, to warn of a space that they hardly cover."""
FEW = 10_000
"""Architectures of a space for each one in the tables, from which on the search keeps to those."""
RESERVE_BYTES = 32 << 20
"""Free space on the disk without which nothing is started."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        folder: the run folder.
        trials: number of trials in it.
        front: number of networks on the verified front.
        verified: number of finalists verified, those that another one beats included.
        refused: number of finalists refused: they broke a limit when they were measured, or failed.
    """

    folder: Path
    trials: int
    front: int
    verified: int
    refused: int


@dataclass(frozen=True)
class Check:
    """What a study will meet, without a training.

    Attributes:
        space: the space's name.
        size: number of its architectures, None when infinite or too many to count.
        data: name and size of the data set.
        probes: the costs of the smallest, the middle, the largest and some random architectures.
        limits: how each limit fares among them.
        plan: how long it will take.
    """

    space: str
    size: int | None
    data: str
    probes: Sequence[Probe]
    limits: Sequence[LimitCheck]
    plan: TimePlan

    def to_dict(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "size": self.size,
            "data": self.data,
            "probes": [probe.to_dict() for probe in self.probes],
            "limits": [check.to_dict() for check in self.limits],
            "plan": self.plan.to_dict(),
        }


class Study:
    """A study and its run folder.

    >>> study = Study.from_yaml("study.yaml")            # doctest: +SKIP
    >>> study.run()                                      # doctest: +SKIP
    >>> study.select("latency_ms@cpu <= 2").lines()      # doctest: +SKIP

    Args:
        spec: the study file, read.
        base: folder that relative paths of the study file begin in.
        folder: the run folder; `runs/<name>` below the current folder when left out.
        allow_code: a Python file with the user's own spaces; it is executed.
    """

    def __init__(self, spec: StudySpec, base: Path, folder: Path | None = None, allow_code: Path | None = None) -> None:
        self.folder = folder or Path("runs") / spec.name
        self.allow_code = None if allow_code is None else allow_code.resolve()
        if spec.data is not None and spec.data.path is not None:
            data = spec.data.model_copy(update={"path": str((base / spec.data.path).resolve())})
            spec = spec.model_copy(update={"data": data})
        if spec.quality.path is not None:
            quality = spec.quality.model_copy(update={"path": str((base / spec.quality.path).resolve())})
            spec = spec.model_copy(update={"quality": quality})
        if spec.cost_model.from_ is not None:
            model = spec.cost_model.model_copy(update={"from_": _based_model(spec.cost_model.from_, base)})
            spec = spec.model_copy(update={"cost_model": model})
        self.spec = spec.model_copy(update={"devices": {n: _based(d, base) for n, d in spec.devices.items()}})
        self._source: tuple[Path, Sequence[str]] | None = None

    @classmethod
    def from_yaml(
        cls,
        path: Path | str,
        overrides: Sequence[str] = (),
        *,
        folder: Path | None = None,
        allow_code: Path | None = None,
    ) -> Study:
        """Reads a study file.

        Args:
            path: the file.
            overrides: `key=value` each, dotted, e.g. `search.trials=20`.
            folder: the run folder.
            allow_code: a Python file with the user's own spaces.

        Raises:
            StudyFileError: the file is not legal.
        """
        path = Path(path)
        study = cls(load_study_file(path, overrides), path.parent, folder, allow_code)
        study._source = path, overrides
        return study

    def run(self, reporter: Reporter | None = None) -> Result:
        """Starts the study, or takes it up where it was stopped; returns when its front is verified.

        Raises:
            InfeasibleError: a limit is out of reach, or no candidate met the limits.
            StudyLockedError: another driver works on it.
            InterruptedStudyError: the user stopped it.
            HwnasError: the data, the disk or a device is at fault.
        """
        from .lock import study_lock

        reporter = reporter or Silent()
        space = self._space_at_once()
        self._metered()
        self._check_disk()
        with study_lock(self.folder), bugs_logged(self.folder / LOG), ExitStack() as stack:
            from .storage import EventLog  # takes half a second: a locked study is refused before

            events = EventLog(self.folder / "events.jsonl")
            stack.callback(events.close)
            store = self._open_store(events)
            stack.callback(store.close)
            if store.trials:
                check_same_study(self.folder, self.spec)
            events.write("started", pid=os.getpid(), trials=len(store.trials))
            bench, space, known = stack.enter_context(self._bench(space))
            from .driver import Driver

            sound = [*(["data"] if known["data"] else []), *(["tables"] if bench.tables else [])]
            reporter.note(f"{', '.join(sound)} and space are sound; the run folder is {self.folder}")
            only = None
            if bench.tables and not any(space.random(f"covered/{i}").id in bench.tables for i in range(COVERED)):
                only = _only(self.spec, space, bench.tables)
                then = "the search keeps to those that are" if only else "most trials will fail"
                reporter.note(f"none of {COVERED} random architectures is in the tables: {then}")
            driver = Driver(bench, space, store, events, reporter, only)
            try:
                with driver.at_work():
                    return self._through(driver, known)
            except BaseException as error:
                with suppress(HwnasError):  # the database has it all: of two faults the first is to be told
                    self._write_trials(driver)
                if not isinstance(error, KeyboardInterrupt) and (isinstance(error, HwnasError) or not asked()):
                    raise
                done = sum(trial.state.is_finished() for trial in store.trials)
                events.write("interrupted")
                raise InterruptedStudyError(
                    f"stopped after {done} of {self.spec.search.trials} trials; the same command goes on"
                ) from None

    def check(self, samples: int = 8, told: Callable[[str], None] = lambda text: None) -> Check:
        """Builds, exports and measures a few architectures; nothing is trained but one epoch, for the plan.

        Args:
            samples: random architectures beside the smallest, the middle and the largest.
            told: is called with what is under way.
        """
        from .evaluation import Evaluator
        from .feasibility import check_limits, probe_space, table_probes, time_plan

        space_at_once = self._space_at_once()
        self._metered()
        told("data and space")
        start = time.monotonic()
        with self._bench(space_at_once) as (bench, space, known):
            start_s = time.monotonic() - start
            evaluator = Evaluator(bench, 0)
            seed, limits, tables = self.spec.search.seed, self.spec.limits, bench.tables
            if tables and not self.spec.builds:
                ours = (o.metric for o in self.spec.objectives if str(o.metric) in tables.metrics)
                metric = str(next((metric for metric in ours if metric.device), self.spec.objectives[0].metric))
                probes = table_probes(tables, metric)
            else:
                probes = probe_space(evaluator, space, seed, samples, limits, told)
            epoch_s, validation = 0.0, 0
            if self.spec.trains:
                told("an epoch of training")
                epoch_s = evaluator.epoch_seconds(space.middle(), seed)
                validation = known["data"]["validation"]
            return Check(
                space.name,
                space.size(),
                _described(known["data"], tables, [space.random(f"{seed}/check/{i}").id for i in range(samples)]),
                probes,
                check_limits(probes, limits, tables),
                time_plan(self.spec, probes, epoch_s, start_s, validation),
            )

    def frame(self) -> pd.DataFrame:
        """Returns `trials.parquet`: one row a trial."""
        return RunData.load(self.folder).trials

    def front(self) -> pd.DataFrame | None:
        """Returns the verified front, or None when the study has not ended."""
        return RunData.load(self.folder).front

    def select(self, *limits: str) -> Selection:
        """Returns what to ship inside the limits (the study's own when none is given), and why."""
        from .selection import choose

        run = RunData.load(self.folder)
        return choose(run, [Limit.parse(limit) for limit in limits] or run.limits)

    def _through(self, driver: Driver, known: Mapping[str, Any]) -> Result:
        driver.preflight()
        driver.search()
        verified, front = driver.verify() if self.spec.trains else ([], driver.settle())
        tested = driver.test(front) if self.spec.trains else {}
        self._write_front(driver, front, tested, known)
        trials = len(driver.store.trials)
        driver.events.write("finished", trials=trials, front=len(front))
        if not front:
            raise InfeasibleError(self._why_empty(driver, verified))
        sound = sum(each.feasible for each in verified)
        return Result(self.folder, trials, len(front), sound, len(verified) - sound)

    @contextmanager
    def _bench(self, space: Space | None) -> Iterator[tuple[Bench, Space, dict[str, Any]]]:
        """Makes what evaluators share, with data and space known to be sound; ends every child afterwards.

        Args:
            space: as far as `_space_at_once` knows it.
        """
        from .evaluation import START_S, Bench
        from .latency import Device, Quiet
        from .rungs import RungBoard
        from .study_schema import DeviceSpec
        from .tables import read_tables

        write_text(self.folder / "study.yaml", dump_study(self.spec))
        quiet = Quiet()
        specs = {name: device for name, device in self._metered().items() if not device.is_replay}
        if not specs and self.spec.trains:  # what is shipped is compared with torch and tested here
            specs = {SHIPPING: DeviceSpec(meter={"use": NONE})}
        drawn = self.spec.search.sampler == "random"
        devices = {
            name: Device(name, device, self.spec.cost_model, self.folder, quiet, self.spec.run, drawn)
            for name, device in specs.items()
        }
        board = RungBoard([rung.keep for rung in self.spec.quality.rungs if rung.keep is not None])
        bench = Bench(self.spec, self.folder, devices, board, quiet, self.allow_code)
        shutil.rmtree(bench.scratch, ignore_errors=True)
        try:
            with disk_errors(bench.scratch):
                bench.scratch.mkdir(parents=True)
            data = None
            if self.spec.data is not None and self.spec.builds:
                data = bench.worker(0).call({"do": "describe"}, deadline_s=START_S)
            with self._placed():
                space = space or self._fitting_space(data)
                if data is not None:
                    _check_fit(space, data)
            with self._placed():
                tables = read_tables(self.spec, space)
                tables.demand_one()
            with self._placed():
                self._begin(devices, space)
            now = {name: device.fingerprint() for name, device in devices.items()}
            digests = {**tables.digests(), **bench.begun_with()}
            check_environment(self.folder, self.allow_code, data, now, digests)
            if tables:
                bench = replace(bench, tables=tables)
            if self.spec.builds:
                bench.worker(0).call({"do": "warm"}, deadline_s=START_S)
            known = {"data": data, "input": list(space.input_shape), "num_classes": space.num_classes}
            write_environment(bench, known)
            yield bench, space, known
        finally:
            bench.close()
            shutil.rmtree(bench.scratch, ignore_errors=True)

    def _begin(self, devices: Mapping[str, Device], space: Space) -> None:
        """Makes the devices' cost models, from those files on that the study names."""
        files = self.spec.fitted
        several = isinstance(self.spec.cost_model.from_, Mapping)
        for name, device in devices.items():
            key = ("cost_model", "from", *([name] if several else []))
            device.begin(space, self.spec.search.seed, Path(files[name]) if name in files else None, key)

    def _fitting_space(self, data: Mapping[str, Any] | None) -> Space:
        """Returns the space, with the data's shape and classes where the study file says neither."""
        shape, classes = self.spec.space.input, self.spec.space.num_classes
        if data is not None:
            shape, classes = shape or tuple(data["input"]), classes or data["num_classes"]
        return self._space(shape, classes)

    def _space_at_once(self) -> Space | None:
        """Returns the space when the study file tells all of it: to read the data takes a child some seconds.

        Raises:
            StudyFileError: the space is unknown, or its keys do not fit.
        """
        from ..spaces import find_space

        shape, classes = self.spec.space.input, self.spec.space.num_classes
        with self._placed():
            find_space(self.spec.space.use, self.allow_code)
            known = (shape and classes) or self.spec.data is None
            return self._space(shape, classes) if known else None

    def _metered(self) -> dict[str, DeviceSpec]:
        """Returns the devices, each with the meter that is really used.

        Raises:
            DeviceError: an objective or a limit needs a meter that is not there.
            UsageError: no such meter or option.
        """
        from .energy import MeterUsageError, meters_of

        try:
            meters = meters_of(self.spec)
        except MeterUsageError as error:
            if self._source is None:
                raise
            raise fault_at(*self._source, error.key, str(error)) from error
        return {name: d.model_copy(update={"meter": meters[name]}) for name, d in self.spec.devices.items()}

    def _space(self, shape: Shape | None, classes: int | None) -> Space:
        from ..spaces import load_space

        spec = self.spec.space
        return load_space(
            spec.use, input_shape=shape, num_classes=classes, params=spec.params, allow_code=self.allow_code
        )

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Says where in the study file an error of the space, a table's column or a cost model stands."""
        from .learning import WrongModelError
        from .tables import ColumnError

        try:
            yield
        except (ColumnError, WrongModelError) as error:
            if self._source is None:
                raise
            raise fault_at(*self._source, error.key, str(error)) from error
        except SpaceError as error:
            if self._source is None:
                raise
            key = ("space", *(error.key or ("use",)))
            told = str(error)
            if error.key == ("input",) and self.spec.space.input is None and self.spec.data is not None:
                key, told = ("space", "use"), f"{told}, which is the shape of the data's samples"
            raise fault_at(*self._source, key, told, on_key=len(key) > 2) from error

    def _open_store(self, events: Any) -> Any:
        from .storage import StudyStore

        path, log = self.folder / "study.db", self.folder / "events.jsonl"
        asked, told = logged(self.folder)
        if asked and (not path.exists() or path.stat().st_size == 0):
            raise DataError(f"{path} is missing or empty, but {log} has trials: restore it")
        objectives = self.spec.objectives
        store = StudyStore(path, self.spec.name, [o.direction for o in objectives], [str(o.metric) for o in objectives])
        ended = {trial.number for trial in store.trials if trial.state.is_finished()}
        if asked > len(store.trials) or not told <= ended:
            store.close()
            raise DataError(f"{path} has lost trials that {log} has: restore it; the file is left as it is")
        return store

    def _check_disk(self) -> None:
        parent = next(p for p in (self.folder, *self.folder.resolve().parents) if p.exists())
        stat = os.statvfs(parent)
        if (free := stat.f_bavail * stat.f_frsize) < RESERVE_BYTES:
            raise DiskError(f"{parent}: {free / 1e6:.1f} MB free, {RESERVE_BYTES / 1e6:.0f} MB needed: free some space")

    def _write_trials(self, driver: Driver) -> None:
        from .frames import rows_of, samples_of, table_of, write_parquet

        rows = rows_of(driver.store.trials, self.spec.limits)
        write_parquet(table_of(rows, self.spec), self.folder / "trials.parquet", schema_version=1)
        write_parquet(samples_of(self.folder), self.folder / "measurements.parquet", schema_version=1)

    def _write_front(
        self,
        driver: Driver,
        front: Sequence[Verified],
        tested: Mapping[str, Any],
        known: Mapping[str, Any],
    ) -> None:
        from .card import write_card
        from .frames import front_table, rows_of, write_parquet

        rows = {row.arch_id: row for row in rows_of(driver.store.trials, self.spec.limits)}
        write_parquet(front_table(rows, front, tested, self.spec), self.folder / "front.parquet", schema_version=1)
        for member in front:
            if self.spec.trains:
                write_card(driver.bench, rows[member.arch_id], member, tested[member.arch_id], known)
            else:
                write_text(driver.bench.artifacts(member.arch_id) / "arch.json", rows[member.arch_id].arch + "\n")
        self._write_trials(driver)

    def _why_empty(self, driver: Driver, verified: Sequence[Verified]) -> str:
        from .selection import choose

        reasons = [v.reason for v in verified if v.reason]
        if reasons:
            return f"{counted(len(verified), 'finalist')} refused, none verified; the first because of {reasons[0]}"
        rows = RunData.load(self.folder).rows
        failed = [row.reason for row in rows if row.state == "fail"]
        if failed and len(failed) == len(rows):
            return f"no trial of {len(rows)} could be completed, the first because of {failed[0]}"
        told = choose(RunData.load(self.folder), self.spec.limits).lines()
        return "nothing feasible: " + "; ".join(line.strip() for line in told if line.strip())


def _only(spec: StudySpec, space: Space, tables: Tables) -> list[Architecture] | None:
    """Returns the architectures of the tables when these tell everything, and of next to none of the space."""
    if spec.exports:
        return None
    found, size = tables.architectures(), space.size()
    return found if size is None or size > FEW * len(found) else None


def _based_model(given: str | Mapping[str, str], base: Path) -> str | dict[str, str]:
    """Returns the files of cost models, named from the study file's folder on."""
    if isinstance(given, str):
        return str((base / given).resolve())
    return {name: str((base / path).resolve()) for name, path in given.items()}


def _based(device: DeviceSpec, base: Path) -> DeviceSpec:
    """Returns a device whose table, or whose meter's files, are named from the study file's folder on."""
    if device.table is not None:
        return device.model_copy(update={"table": str((base / device.table).resolve())})
    paths = {key: str((base / str(device.meter[key])).resolve()) for key in ("path", "marker") if key in device.meter}
    return device.model_copy(update={"meter": {**device.meter, **paths}}) if paths else device


def _described(data: Mapping[str, Any] | None, tables: Tables | None, random: Sequence[str]) -> str:
    """Says in a line what the networks learn from, and how many of some random architectures the tables have."""
    parts = ["none"]
    if data is not None:
        parts = [f"{data['name']} ({data['train']} to train on, {data['validation']} to validate on)"]
    if tables:
        common = tables.common()
        there = sum(arch_id in common for arch_id in random)
        parts.append(
            f"{len(common):,} architectures are in {' and '.join(tables.names)}, "
            f"{there} of {len(random)} random ones among them"
        )
    return "; ".join(parts)


def _check_fit(space: Space, data: Mapping[str, Any]) -> None:
    """Refuses data that a space cannot take."""
    channels, classes = data["input"][0], data["num_classes"]
    if space.input_shape[0] != channels:
        raise SpaceError(
            f"space '{space.name}' takes {space.input_shape[0]} channels, the data has {channels}", key=("input",)
        )
    if space.num_classes < classes:
        raise SpaceError(
            f"space '{space.name}' has {space.num_classes} classes, the data has {classes}", key=("num_classes",)
        )
