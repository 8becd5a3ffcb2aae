"""One search, from its study file to its verified front."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..profilers import get_runtime, runtime_names
from ..profilers.meters.meter import AUTO, NONE
from ..spaces.errors import (
    DataError,
    DiskError,
    HwnasError,
    InfeasibleError,
    InterruptedStudyError,
    SpaceError,
    UsageError,
)
from .files import disk_errors, read_json, write_json, write_text
from .metrics import Limit
from .reporter import Reporter, Silent
from .run_data import RunData
from .study_file import dump_study, fault_at, load_study_file

if TYPE_CHECKING:
    import pandas as pd

    from ..spaces import Shape, Space
    from .driver import Driver
    from .evaluation import Bench
    from .feasibility import LimitCheck, Probe
    from .selection import Selection
    from .study_schema import DeviceSpec, StudySpec
    from .verification import Verified

__all__ = ["Check", "Result", "Study"]

MAY_CHANGE = {"search": ("trials", "time_limit", "stop"), "run": None, "verify": None, "export": None}
"""Keys of a study file that may be another when a run is resumed; None stands for the whole section."""
RESERVE_BYTES = 32 << 20
"""Free space on the disk without which nothing is started."""


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        folder: the run folder.
        trials: number of trials in it.
        front: number of networks on the verified front.
        verified: number of finalists verified.
    """

    folder: Path
    trials: int
    front: int
    verified: int


@dataclass(frozen=True)
class Check:
    """What a study will meet, without a training.

    Attributes:
        space: the space's name.
        size: number of its architectures, None when infinite or too many to count.
        data: name and size of the data set.
        probes: the costs of the smallest, the middle, the largest and some random architectures.
        limits: how each limit fares among them.
        plan: seconds of the search, the verification and both.
    """

    space: str
    size: int | None
    data: str
    probes: Sequence[Probe]
    limits: Sequence[LimitCheck]
    plan: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "space": self.space,
            "size": self.size,
            "data": self.data,
            "probes": [probe.to_dict() for probe in self.probes],
            "limits": [check.to_dict() for check in self.limits],
            "plan": dict(self.plan),
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
        if spec.data.path is not None:
            data = spec.data.model_copy(update={"path": str((base / spec.data.path).resolve())})
            spec = spec.model_copy(update={"data": data})
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
        with study_lock(self.folder), ExitStack() as stack:
            from .storage import EventLog  # takes half a second: a locked study is refused before

            events = EventLog(self.folder / "events.jsonl")
            stack.callback(events.close)
            store = self._open_store(events)
            stack.callback(store.close)
            self._check_same(bool(store.trials))
            events.write("started", pid=os.getpid(), trials=len(store.trials))
            bench, space, known = stack.enter_context(self._bench(space))
            from .driver import Driver

            reporter.note(f"data and space are sound; the run folder is {self.folder}")
            driver = Driver(bench, space, store, events, reporter)
            try:
                with driver.at_work():
                    return self._through(driver, known)
            except BaseException as error:
                with suppress(HwnasError):  # the database has it all: of two faults the first is to be told
                    self._write_trials(driver)
                if not isinstance(error, KeyboardInterrupt):
                    raise
                done = sum(trial.state.is_finished() for trial in store.trials)
                events.write("interrupted")
                raise InterruptedStudyError(
                    f"stopped after {done} of {self.spec.search.trials} trials; the same command goes on"
                ) from None

    def check(self, samples: int = 8) -> Check:
        """Builds, exports and measures a few architectures; nothing is trained but one epoch, for the plan.

        Args:
            samples: random architectures beside the smallest, the middle and the largest.
        """
        from .evaluation import Evaluator
        from .feasibility import check_limits, probe_space, time_plan

        space_at_once = self._space_at_once()
        self._metered()
        with self._bench(space_at_once) as (bench, space, known):
            evaluator = Evaluator(bench, 0)
            probes = probe_space(evaluator, space, self.spec.search.seed, samples)
            epoch_s = evaluator.epoch_seconds(space.middle(), self.spec.search.seed)
            data = known["data"]
            return Check(
                space.name,
                space.size(),
                f"{data['name']} ({data['train']} to train on, {data['validation']} to validate on)",
                probes,
                check_limits(probes, self.spec.limits),
                time_plan(self.spec, probes, epoch_s),
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
        verified, front = driver.verify()
        tested = driver.test(front)
        self._write_front(driver, verified, front, tested, known)
        trials = len(driver.store.trials)
        driver.events.write("finished", trials=trials, front=len(front))
        if not front:
            raise InfeasibleError(self._why_empty(driver, verified))
        return Result(self.folder, trials, len(front), len(verified))

    @contextmanager
    def _bench(self, space: Space | None) -> Iterator[tuple[Bench, Space, dict[str, Any]]]:
        """Makes what evaluators share, with data and space known to be sound; ends every child afterwards.

        Args:
            space: as far as `_space_at_once` knows it.
        """
        from .evaluation import START_S, Bench
        from .latency import Device, Quiet
        from .rungs import RungBoard

        write_text(self.folder / "study.yaml", dump_study(self.spec))
        quiet = Quiet()
        specs = self._metered()
        devices = {
            name: Device(name, device, self.spec.cost_model, self.folder, quiet, self.spec.run)
            for name, device in specs.items()
        }
        board = RungBoard([rung.keep for rung in self.spec.quality.rungs if rung.keep is not None])
        bench = Bench(self.spec, self.folder, devices, board, quiet, self.allow_code)
        shutil.rmtree(bench.scratch, ignore_errors=True)
        try:
            with disk_errors(bench.scratch):
                bench.scratch.mkdir(parents=True)
            data = bench.worker(0).call({"do": "describe"}, deadline_s=START_S)
            self._check_environment(data, {name: device.fingerprint() for name, device in devices.items()})
            with self._placed():
                spec = self.spec.space
                space = space or self._space(
                    spec.input or tuple(data["input"]), spec.num_classes or data["num_classes"]
                )
                _check_fit(space, data)
            bench.worker(0).call({"do": "warm"}, deadline_s=START_S)
            known = {"data": data, "input": list(space.input_shape), "num_classes": space.num_classes}
            self._write_environment(bench, known)
            yield bench, space, known
        finally:
            bench.close()
            shutil.rmtree(bench.scratch, ignore_errors=True)

    def _space_at_once(self) -> Space | None:
        """Returns the space when the study file tells all of it: to read the data takes a child some seconds.

        Raises:
            StudyFileError: the space is unknown, or its keys do not fit.
        """
        from ..spaces import find_space

        shape, classes = self.spec.space.input, self.spec.space.num_classes
        with self._placed():
            find_space(self.spec.space.use, self.allow_code)
            return self._space(shape, classes) if shape and classes else None

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

    def _space(self, shape: Shape, classes: int) -> Space:
        from ..spaces import load_space

        spec = self.spec.space
        return load_space(
            spec.use, input_shape=shape, num_classes=classes, params=spec.params, allow_code=self.allow_code
        )

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Says where in the study file an error of the space stands."""
        try:
            yield
        except SpaceError as error:
            if self._source is None:
                raise
            key = ("space", *(error.key or ("use",)))
            told = str(error)
            if error.key == ("input",) and self.spec.space.input is None:
                key, told = ("space", "use"), f"{told}, which is the shape of the data's samples"
            raise fault_at(*self._source, key, told, on_key=len(key) > 2) from error

    def _open_store(self, events: Any) -> Any:
        from .storage import StudyStore

        path, log = self.folder / "study.db", self.folder / "events.jsonl"
        asked, told = _logged(log)
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

    def _check_same(self, begun: bool) -> None:
        """Refuses to go on with another study in a folder that has trials."""
        path = self.folder / "study.yaml"
        if not begun or not path.exists():
            return
        before, now = load_study_file(path).model_dump(mode="json"), self.spec.model_dump(mode="json")
        for section, keys in MAY_CHANGE.items():
            for key in keys or list(now[section]):
                before[section].pop(key, None)
                now[section].pop(key, None)
        changed = next((section for section in now if now[section] != before.get(section)), None)
        if changed is not None:
            key = _first_change(changed, before.get(changed), now[changed])
            raise UsageError(
                f"{self.folder} was begun with another '{key}': change it back, or give the study another name (name=…)"
            )

    def _check_environment(self, data: Mapping[str, Any], now: Mapping[str, Mapping[str, object]]) -> None:
        """Refuses to go on with other data, or on another machine."""
        path = self.folder / "environment.json"
        if path.exists() and _logged(self.folder / "events.jsonl")[0]:
            try:
                before = read_json(path)
                digest, devices = before["data"]["digest"], dict(before["devices"])
                changed = [name for name, found in now.items() if not _alike(devices[name], found)]
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path} is corrupt: it lacks the data's digest or a device; restore it") from error
            if changed:
                raise UsageError(
                    f"device '{changed[0]}' of {self.folder} is not the one it was begun on (another processor, "
                    "meter or runtime version): its measurements would not compare; give the study another name"
                )
            if before.get("code") != _digest_of(self.allow_code):
                raise UsageError(
                    f"the file of --allow-code is not the one that {self.folder} was begun with: its architectures may "
                    "be other networks now; restore it, or give the study another name"
                )
            if digest != data["digest"]:
                raise DataError(
                    f"the data of {self.folder} has changed since it began: restore it, or give the study another name"
                )

    def _write_environment(self, bench: Bench, known: Mapping[str, Any]) -> None:
        used = {device.runtime for device in self.spec.devices.values()}
        packages = ("hwnas", "torch", "optuna", "onnx", "onnxruntime", "fvcore", "numpy", "pandas", "plotly")
        write_json(
            self.folder / "environment.json",
            {
                "versions": {
                    "python": platform.python_version(),
                    **{name: metadata.version(name) for name in packages},
                    **{name: get_runtime(name).available().version for name in sorted(used - set(packages))},
                },
                "devices": {name: device.fingerprint() for name, device in bench.devices.items()},
                "data": known["data"],
                "input": known["input"],
                "num_classes": known["num_classes"],
                "seed": self.spec.search.seed,
                "code": _digest_of(self.allow_code),
                "allow_code": self.allow_code and self.allow_code.name,
                "git": _git(),
            },
        )

    def _write_trials(self, driver: Driver) -> None:
        from .frames import rows_of, samples_of, table_of, write_parquet

        rows = rows_of(driver.store.trials, self.spec.limits)
        write_parquet(table_of(rows, self.spec), self.folder / "trials.parquet", schema_version=1)
        write_parquet(samples_of(self.folder), self.folder / "measurements.parquet", schema_version=1)

    def _write_front(
        self,
        driver: Driver,
        verified: Sequence[Verified],
        front: Sequence[Verified],
        tested: Mapping[str, Any],
        known: Mapping[str, Any],
    ) -> None:
        from .card import write_card
        from .frames import front_table, rows_of, write_parquet

        rows = {row.arch_id: row for row in rows_of(driver.store.trials, self.spec.limits)}
        write_parquet(front_table(rows, front, tested, self.spec), self.folder / "front.parquet", schema_version=1)
        for member in front:
            write_card(driver.bench, rows[member.arch_id], member, tested[member.arch_id], known)
        self._write_trials(driver)

    def _why_empty(self, driver: Driver, verified: Sequence[Verified]) -> str:
        from .selection import choose

        reasons = [v.reason for v in verified if v.reason]
        if reasons:
            return f"none of {len(verified)} finalists could be verified, the first because of {reasons[0]}"
        told = choose(RunData.load(self.folder), self.spec.limits).lines()
        return "nothing feasible: " + "; ".join(line.strip() for line in told if line.strip())


def _based(device: DeviceSpec, base: Path) -> DeviceSpec:
    """Returns a device whose meter names its files from the study file's folder on."""
    paths = {key: str((base / str(device.meter[key])).resolve()) for key in ("path", "marker") if key in device.meter}
    return device.model_copy(update={"meter": {**device.meter, **paths}}) if paths else device


def _first_change(key: str, before: Any, now: Any) -> str:
    """Returns the dotted key of the first difference."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*now, *before]):
            if before.get(name) != now.get(name):
                return _first_change(f"{key}.{name}", before.get(name), now.get(name))
    return key


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


def _alike(before: Mapping[str, object], now: Mapping[str, object]) -> bool:
    """True when measurements of both fingerprints compare."""
    npu = ("vela", "accelerator", "system_config", "memory_mode")
    keys = ("cpu", "cpu_flags", "gpu", "machine", "board", "phone", "soc", "serial", "protocol", *runtime_names(), *npu)
    meters = {before.get("meter", NONE), now.get("meter", NONE)}
    if len(meters) > 1 and AUTO not in meters:  # auto: there was none
        return False
    return all(before.get(key) == now.get(key) for key in keys)


def _logged(events: Path) -> tuple[int, set[int]]:
    """Returns how many trials drivers have asked for here, and the numbers of those that they told the end of.

    Both are logged after they were stored, so the database has at least as much. Broken lines are left out.
    """
    asked, told = 0, set()
    if events.exists():
        with events.open("rb") as lines:
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):
                    event = json.loads(line)
                    if event["event"] == "asked":
                        asked = max(asked, int(event["number"]) + 1)
                    elif event["event"] == "told":
                        told.add(int(event["number"]))
    return asked, told


def _digest_of(code: Path | None) -> str | None:
    """Returns the digest of a file that the user allowed to run."""
    return None if code is None else hashlib.sha256(code.read_bytes()).hexdigest()


def _git() -> str | None:
    """Returns the commit of the folder the study is run in, with `+` when it has changes; None outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
