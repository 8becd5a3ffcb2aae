"""How a candidate is evaluated: computed, predicted, measured, then trained; the first broken limit ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..profilers import Child
from ..spaces import Architecture
from ..spaces.errors import CandidateError, InterruptedStudyError
from .energy import demand, needed
from .files import write_text
from .latency import Device, Quiet
from .metrics import Limit, Metric, Reading
from .outcome import Outcome, share_reading
from .quantities import is_guess
from .rungs import RungBoard

if TYPE_CHECKING:
    from .study_schema import StudySpec
    from .tables import Tables

__all__ = ["Bench", "Evaluator", "parity", "probe_files", "remove"]

PARITY_TOLERANCE = 1e-3
"""Largest difference between torch and an fp32 file, relative to the largest output."""
LEAST_COSINE = 0.95
"""Least cosine between the outputs of torch and of a file in another precision; a wrong layout gives about 0."""


START_S = 300.0
"""Longest time in which a worker loads data and space, in seconds."""


class _Rejected(Exception):
    """The candidate needs no further spending; carries the reason."""


@dataclass(frozen=True)
class Bench:
    """What all evaluators of a study share.

    Attributes:
        spec: the resolved study.
        folder: the run folder.
        devices: those of the study that run models, by name.
        board: of the rungs of quality.
        quiet: shared with the devices.
        allow_code: file with the user's space, or None.
        tables: what replay devices and a table of quality tell, or None.
    """

    spec: StudySpec
    folder: Path
    devices: Mapping[str, Device]
    board: RungBoard
    quiet: Quiet
    allow_code: Path | None = None
    tables: Tables | None = None
    closing: threading.Event = field(default_factory=threading.Event)
    """Set when the driver stops: evaluators start nothing more."""
    workers: dict[int, Child] = field(default_factory=dict)
    """The children so far, by their number."""

    @property
    def measured(self) -> list[Device]:
        """The devices that a metric of the study names."""
        named = {metric.device for metric in self.spec.metrics}
        return [device for name, device in self.devices.items() if name in named]

    @property
    def scratch(self) -> Path:
        """Folder for the workers' temporary files, which they leave behind when they are killed."""
        return self.folder.resolve() / "scratch"

    @property
    def runtimes(self) -> list[list[str]]:
        """Runtime and precision of each device, in the study's order."""
        return [[device.runtime, device.precision] for device in self.devices.values()]

    def begun_with(self) -> dict[str, dict[str, str]]:
        """Returns the files of cost models that devices began with: place in the study file → `file` and `digest`."""
        told = {f"cost_model.from.{name}": device.begun_with for name, device in self.devices.items()}
        return {place: file for place, file in told.items() if file is not None}

    def artifacts(self, arch_id: str) -> Path:
        return self.folder / "artifacts" / arch_id

    def worker(self, slot: int) -> Child:
        """Returns the child that builds, exports and trains as number `slot` of those that run at the same time."""
        if slot in self.workers:
            return self.workers[slot]
        threads = self.spec.run.threads
        arguments = [str(self.folder), "--threads", str(threads)]
        if self.allow_code is not None:
            arguments += ["--allow-code", str(self.allow_code)]
        child = Child(
            "hwnas.search.worker",
            arguments,
            env={"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "TMPDIR": str(self.scratch)},
            name=f"worker {slot}",
            log=self.folder / "run.log",
        )
        self.quiet.watch(child)
        self.workers[slot] = child
        return child

    def close(self) -> None:
        """Ends every child; what is under way fails with DeviceError or InterruptedStudyError."""
        self.closing.set()
        for child in self.workers.values():
            child.close()
        for device in self.devices.values():
            device.close()


@dataclass
class _Progress:
    """What is known of a candidate so far."""

    limits: tuple[Limit, ...]
    readings: dict[str, Reading] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    rungs: list[float] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)
    training: dict[str, Any] | None = None
    foretold: dict[str, Reading] = field(default_factory=dict)

    @contextmanager
    def timed(self, stage: str, device: Device | None = None) -> Iterator[None]:
        """Adds the time inside to its stage, and to the device's part of it."""
        start = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - start
            part = f"{stage}@{device.name}" if device else stage
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
            self.parts[part] = self.parts.get(part, 0.0) + spent

    def learn(self, readings: Mapping[str, Reading], *, surely: bool) -> None:
        """Takes readings in, and rejects the candidate when one breaks a limit.

        Args:
            readings: metric → reading.
            surely: reject only when the whole interval breaks the limit.

        Raises:
            _Rejected: with the reason.
        """
        self.readings.update(readings)
        for limit in self.limits:
            reading = readings.get(str(limit.metric))
            if reading is None or reading.value is None:
                continue
            if limit.surely_broken_by(reading) if surely else limit.broken_by(reading):
                raise _Rejected(f"infeasible: {limit.metric} {_said(reading)}, limit {limit.sign} {limit.bound:g}")

    def outcome(self, state: Any, reason: str = "") -> Outcome:
        return Outcome(
            state, self.readings, reason, self.seconds, self.rungs, self.uncounted, self.training, self.foretold
        )


class Evaluator:
    """Evaluates one candidate at a time with a worker of its own.

    Args:
        bench: shared by all evaluators of the study.
        slot: number of this evaluator, from 0.
    """

    def __init__(self, bench: Bench, slot: int) -> None:
        self.bench = bench
        self.child = bench.worker(slot)

    def evaluate(self, architecture: Architecture) -> Outcome:
        """Returns what a candidate is worth; whatever fails in a child is part of the answer.

        Raises:
            HwnasError: not the candidate's fault: the disk, the device, the data, or the driver is closing.
        """
        progress = _Progress(self.bench.spec.limits)
        try:
            deadline = self._deadline()
            self._cost(architecture, progress, deadline)
            self._quality(architecture, progress, deadline)
        except _Rejected as rejected:
            return progress.outcome("pruned", str(rejected))
        except CandidateError as error:
            return progress.outcome("fail", str(error))
        return progress.outcome("complete")

    def costs_of(
        self, architecture: Architecture, devices: Collection[str] | None = None, *, fresh: bool = False
    ) -> tuple[Mapping[str, Reading], Mapping[str, float]]:
        """Returns the costs of an untrained network, limits or not, and the seconds that each took.

        Args:
            architecture: which.
            devices: names of those that it is converted for and measured on; None for all.
            fresh: nothing is taken from the store or the cache, so that the seconds are those of a new network.

        Returns:
            Metric → reading, and part → seconds: `build`, `count`, `export`, and for each device `convert@NAME`,
            `predict@NAME` and `measure@NAME`.

        Raises:
            CandidateError: it cannot be built, exported or run.
        """
        progress = _Progress(())
        self._cost(architecture, progress, self._deadline(), devices, fresh=fresh)
        return progress.readings, progress.parts

    def train(self, architecture: Architecture, seed: int, epochs: int, weights: Path) -> dict[str, Any]:
        """Trains from scratch and writes the weights; returns `correct`, `total`, `seconds`, `losses`."""
        deadline = self._deadline()
        request = {"do": "train", "arch": architecture.to_json(), "seed": seed, "epochs": epochs}
        return self._call(deadline, **request, weights=str(weights))

    def told(self, architecture: Architecture) -> dict[str, Reading]:
        """Returns what tables say of an architecture: metric → reading.

        Raises:
            CandidateError: one that the study needs is not there.
        """
        return self.bench.tables.readings(architecture.id) if self.bench.tables else {}

    def epoch_seconds(self, architecture: Architecture, seed: int) -> float:
        """Returns the seconds of one epoch of training, warmed up."""
        deadline = self._deadline()
        request = {"do": "train", "arch": architecture.to_json(), "seed": seed}
        self._call(deadline, **request, epochs=1)
        return float(self._call(deadline, **request, epochs=1)["seconds"])

    def export(self, architecture: Architecture, weights: Path, model: Path, probe: Path) -> float:
        """Writes the model file of trained weights, and samples to compare it on; returns its size in megabytes."""
        deadline = self._deadline()
        paths = {"weights": str(weights), "model": str(model), "probe": str(probe)}
        request = {"arch": architecture.to_json(), "runtimes": self.bench.runtimes, **paths}
        return float(self._call(deadline, do="export", **request)["size_mb"])

    def _deadline(self) -> float:
        """Returns when a trial that begins now has to end; the child is up then, so that its start is not counted."""
        if self.child.pid is None and self.bench.spec.builds:
            self._call(time.monotonic() + START_S, do="warm")
        return time.monotonic() + self.bench.spec.run.trial_timeout

    def _call(self, deadline: float, **request: Any) -> dict[str, Any]:
        if self.bench.closing.is_set():
            raise InterruptedStudyError("the driver is stopping")
        return self.child.call(request, deadline_s=max(1.0, deadline - time.monotonic()))

    def _cost(
        self,
        architecture: Architecture,
        progress: _Progress,
        deadline: float,
        names: Collection[str] | None = None,
        *,
        fresh: bool = False,
    ) -> None:
        """What tables tell, then computed, predicted and measured costs; on the devices of these names, or on all."""
        progress.learn(self.told(architecture), surely=True)
        if not self.bench.spec.builds:
            return
        devices = list(self.bench.devices.values())
        wanted = [each for each in devices if names is None or each is devices[0] or each.name in names]
        folder = self.bench.artifacts(architecture.id)
        write_text(folder / "arch.json", architecture.to_json() + "\n")
        model, probe = folder / "untrained.onnx", folder / "probe"
        try:
            told = self._call(
                deadline,
                do="prepare",
                arch=architecture.to_json(),
                seed=self._seed,
                model=str(model),
                probe=str(probe),
                runtimes=[[each.runtime, each.precision] for each in wanted],
                fresh=fresh,
            )
            progress.seconds.update(told["seconds"])
            progress.parts.update(_parted(told, wanted))
            progress.uncounted.extend(told["uncounted"])
            computed = {name: Reading(value, source="computed") for name, value in told["computed"].items()}
            progress.learn(computed, surely=False)
            for device in self.bench.measured:
                if names is None or device.name in names:
                    self._latency(device, architecture.id, model, probe, progress, fresh=fresh)
        finally:
            remove(model, *(device.file(model) for device in self.bench.devices.values()), *probe_files(probe))

    def _latency(
        self, device: Device, arch_id: str, model: Path, probe: Path, progress: _Progress, *, fresh: bool
    ) -> None:
        with progress.timed("predict", device):
            graph = device.graph(model)
            guesses = device.predict(graph)
        deciding = {metric: guess for metric, guess in guesses.items() if guess.decides}
        progress.learn(deciding, surely=True)
        if device.predicts_only and device.metric in deciding:
            return
        if not device.knows(arch_id):  # else it would be no prediction, but a memory
            progress.foretold.update(guesses)
        with progress.timed("measure", device):
            parity(device, model, probe)
            measured = device.measure(arch_id, model, graph, inputs=probe_files(probe)[0], fresh=fresh)
        demand(needed(self.bench.spec), measured)
        progress.learn(measured, surely=True)

    def _quality(self, architecture: Architecture, progress: _Progress, deadline: float) -> None:
        """Trains, rung by rung, when the study asks for quality at all, and no table tells it."""
        spec = self.bench.spec
        if not spec.trains or all(metric.name != "top1" for metric in spec.metrics):
            return
        rungs = self.bench.spec.quality.rungs
        for number, rung in enumerate(rungs):
            with progress.timed("train"):
                if rung.proxy is not None:
                    score = self._call(deadline, do="score", arch=architecture.to_json(), seed=self._seed)["score"]
                else:
                    told = self._call(
                        deadline, do="train", arch=architecture.to_json(), seed=self._seed, epochs=rung.epochs
                    )
                    score = told["correct"] / told["total"]
                    progress.training = {**told, "epochs": rung.epochs}
                    progress.readings["top1"] = share_reading(told["correct"], told["total"])
            progress.rungs.append(score)
            if not self.bench.board.goes_on(number, score, costs(self.bench.spec, progress.readings)):
                raise _Rejected(f"rung {number + 1} of {len(rungs)}: not among the best {rung.keep:.0%}")

    @property
    def _seed(self) -> int:
        return self.bench.spec.search.seed


def _said(reading: Reading) -> str:
    """Writes the value that broke a limit; of a guess the interval, and whose it is."""
    if not is_guess(reading):
        return f"{reading.value:.4g}"
    by = f" by {reading.model}" if reading.model else ""
    ends = "" if reading.low is None or reading.high is None else f"{reading.low:.4g} to {reading.high:.4g}"
    return f"~{reading.value:.4g}" + (f" ({ends}{by})" if ends else "")


def _parted(told: Mapping[str, Any], devices: Sequence[Device]) -> dict[str, float]:
    """Returns a worker's seconds, with each conversion apart, as that of the first device that asked for it."""
    parts = dict(told["seconds"])
    for runtime, precision, spent in told.get("conversions", ()):
        name = next(each.name for each in devices if (each.runtime, each.precision) == (runtime, precision))
        parts["export"] -= spent
        parts[f"convert@{name}"] = spent
    return parts


def costs(spec: StudySpec, readings: Mapping[str, Reading]) -> list[float]:
    """Returns the values of the objectives other than quality, turned so that less is better."""
    metrics = [o.metric for o in spec.objectives if o.metric.name != "top1"]
    return [signed(metric, readings[str(metric)]) for metric in metrics if str(metric) in readings]


def signed(metric: Metric, reading: Reading) -> float:
    """Returns a reading's value, negated when more is better."""
    if reading.value is None:
        raise ValueError(f"{metric} is missing")
    return reading.value if metric.kind.direction == "minimize" else -reading.value


def parity(device: Device, model: Path, probe: Path) -> float:
    """Compares what a device computes with what torch computed on the same real samples.

    Args:
        device: runs the file.
        model: the exported fp32 file.
        probe: stem of two files: `.x.npy` (n, C, H, W), and torch's outputs `.y.npy` (n, classes).

    Returns:
        Largest difference, relative to the largest output.

    Raises:
        CandidateError: `parity` when they differ by more than PARITY_TOLERANCE in fp32, or have a cosine of less than
            LEAST_COSINE in another precision; `non_finite` when one is not finite.
    """
    inputs, outputs = probe_files(probe)
    expected = np.load(outputs, allow_pickle=False)
    got = device.outputs(model, inputs)
    if got.shape != expected.shape:
        raise CandidateError("parity", f"{device.name} gives shape {got.shape}, torch {expected.shape}")
    if not np.isfinite(got).all():
        raise CandidateError("non_finite", f"an output on {device.name} is not finite")
    difference = float(np.abs(got - expected).max() / max(1e-6, float(np.abs(expected).max())))
    if device.precision != "fp32":
        cosine = float((got * expected).sum() / max(1e-12, float(np.linalg.norm(got) * np.linalg.norm(expected))))
        if cosine < LEAST_COSINE:
            raise CandidateError("parity", f"outputs of {device.name} and torch have a cosine of {cosine:.3f}")
    elif difference > PARITY_TOLERANCE:
        raise CandidateError("parity", f"{device.name} differs from torch by {difference:.1%} of the largest output")
    return difference


def probe_files(probe: Path) -> tuple[Path, Path]:
    """Returns the files with the samples and with torch's outputs."""
    return probe.with_name(f"{probe.name}.x.npy"), probe.with_name(f"{probe.name}.y.npy")


def remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
