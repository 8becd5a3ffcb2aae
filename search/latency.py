"""A device of the study: its profiler with its meter, and the cost models that learn from what it measures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cost_models.fitted import Provenance
from ..profilers import Estimate, Graph, Measurement, MeasurementStore, Stored, get_runtime, open_profiler
from ..profilers.measurement import pool
from ..profilers.meters.meter import NONE
from ..spaces.errors import CandidateError, DataError
from .energy import ENERGY, energy_metric, energy_reading
from .files import read_json, write_json
from .known_devices import how_to_open
from .learning import Learner, read_fitted
from .metrics import Reading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..profilers import Child
    from ..spaces import Space
    from .study_schema import CostModelSpec, DeviceSpec, RunSpec

__all__ = ["Device", "Quiet", "read_measurement"]


ATTEMPTS = 3
"""Measurements at most, while a reading leaves open what it is to decide."""
CALM_S = 2.0
"""Seconds to wait for a busy machine to calm down, before it is asked again."""
SAMPLE_S, SMALLEST_SAMPLE_BYTES = 0.05, 256
"""Seconds allowed for one sample of a data set, and the size by which samples are counted (8 x 8 float32)."""


class Quiet:
    """Keeps the machine quiet during a measurement: one at a time, and the training children stand still."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: list[Child] = []

    def watch(self, child: Child) -> None:
        """Adds a child that is paused during measurements."""
        self._children.append(child)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        with self._lock:
            for child in self._children:
                child.pause()
            try:
                yield
            finally:
                for child in self._children:
                    child.resume()


class Device:
    """Measures latency and energy on one device, and predicts them; safe to use from several threads.

    Args:
        name: as in `latency_ms@name`.
        spec: of the study file.
        cost_model: of the study file.
        folder: the run folder.
        quiet: shared by all devices of the study.
        run: of the study file.
        at_random: candidates are drawn at random, not proposed by a sampler that learns.
    """

    def __init__(
        self,
        name: str,
        spec: DeviceSpec,
        cost_model: CostModelSpec,
        folder: Path,
        quiet: Quiet,
        run: RunSpec,
        at_random: bool = False,
    ) -> None:
        self.name = name
        self._at_random = at_random
        self.metric = f"latency_ms@{name}"
        self.runtime, self.precision, self._threads = spec.runtime, spec.precision, spec.threads
        self._spec = cost_model
        self._folder = folder
        self._quiet = quiet
        self._meter = str(spec.meter["use"])
        how: dict[str, Any] = {"host": spec.host, "deadline_s": run.trial_timeout, "log": folder / "run.log"}
        how |= how_to_open(spec.host, spec.runtime, spec.precision, spec.threads)
        profiler = open_profiler(spec.runtime, spec.threads, spec.precision, meter=spec.meter, **how)
        self._profiler = Stored(profiler, MeasurementStore(), ask=run.reuse)
        self._learners: dict[str, Learner] = {}
        self.begun_with: dict[str, str] | None = None
        """File and digest of the cost model that it began with."""

    def begin(self, space: Space, seed: int, path: Path | None, key: tuple[str, ...]) -> None:
        """Makes the cost models of its metrics.

        Args:
            space: of the study.
            seed: of the study.
            path: file of the latency model that it begins with, or None.
            key: where in the study file that is named.

        Raises:
            DataError: the file is missing or corrupt.
            WrongModelError: it is of another device, space, input or metric.
        """
        energy = self._meter != NONE and self._spec.use not in ("lookup", "roofline")  # which add up times
        names = ["latency_ms", *([ENERGY] if energy else [])]
        for name in names:
            shape = tuple(space.input_shape)
            fingerprint, classes = self._profiler.fingerprint(), space.num_classes
            provenance = Provenance(fingerprint, name, space.name, shape, seed, num_classes=classes)
            begun = None
            if path is not None and name == "latency_ms":
                begun, digest = read_fitted(path, provenance, key, self._spec.use)
                self.begun_with = {"file": path.name, "digest": digest}
            file = f"{self.name}.json" if name == "latency_ms" else f"{self.name}.{name}.json"
            how: dict[str, Any] = {"at_random": self._at_random, "log": self._folder / "run.log"}
            learner = Learner(self._spec, self._folder / "cost_models" / file, provenance, begun, self._threads, **how)
            self._learners[f"{name}@{self.name}"] = learner

    def load(self, arch_ids: Iterable[str]) -> None:
        """Learns from what was measured of these architectures, and from what it began with."""
        for learner in self._learners.values():
            learner.clear()
        for arch_id in arch_ids:
            folder = self._folder / "artifacts" / arch_id
            graph, measured = folder / f"graph-{self.name}.json", folder / f"measurement-{self.name}.json"
            if graph.is_file() and measured.is_file():
                self._learn(arch_id, _read_graph(graph), self._readings(read_measurement(measured)))
        for learner in self._learners.values():
            learner.fit()

    def fingerprint(self) -> dict[str, object]:
        """Returns what the device is: CPU, memory, governor, runtime and versions, meter."""
        return {**self._profiler.fingerprint(), "meter": self._meter}

    def file(self, model: Path) -> Path:
        """Returns the file that this device runs, given the fp32 file of a network."""
        return get_runtime(self.runtime).file(model, self.precision)

    @property
    def gives_outputs(self) -> bool:
        """True when `outputs` and `graph` are the device's own, not those of the same file on this machine."""
        return self._profiler.gives_outputs

    def graph(self, model: Path) -> Graph:
        """Returns what the runtime really executes for a network."""
        return self._profiler.graph(self.file(model))

    def predict(self, graph: Graph) -> dict[str, Reading]:
        """Returns a predicted reading with its interval for each metric of which enough was measured."""
        told = {metric: learner.predict(graph) for metric, learner in self._learners.items()}
        return {metric: reading for metric, reading in told.items() if reading is not None}

    def knows(self, arch_id: str) -> bool:
        """True when a cost model has learned from this architecture itself."""
        return any(learner.knows(arch_id) for learner in self._learners.values())

    @property
    def predicts_only(self) -> bool:
        """True when predictions stand in for measurements from now on; never where energy is asked for."""
        learner = self._learners.get(self.metric)
        return self._spec.stand_in and learner is not None and learner.ready and self._meter == NONE

    def measure(
        self,
        arch_id: str,
        model: Path,
        graph: Graph | None = None,
        stem: str = "measurement",
        inputs: Path | None = None,
        decided: Callable[[Reading], bool] = lambda reading: True,
        processes: int = 1,
        fresh: bool = False,
    ) -> dict[str, Reading]:
        """Measures a network and keeps every raw sample; with its graph, the cost model learns from it.

        Of a device that is not there, the readings are what its vendor's tool estimates; nothing learns from that.

        Returns:
            Its latency, and what else the device tells and the study names: metric → reading.

        Args:
            arch_id: whose artefacts it belongs to.
            model: its fp32 file.
            graph: what the runtime executes for it, or None.
            stem: what the kept file's name begins with.
            inputs: an .npy file of samples to run.
            decided: says whether a reading is sure enough; while it is not, there are up to ATTEMPTS measurements, each
                in a fresh process, and all of them count.
            processes: how many there are at least; with more than one, none is taken from the store.
            fresh: take none from the store, however many there are.
        """
        taken: list[Measurement] = []
        while True:
            with self._quiet.measuring() if self._profiler.here else nullcontext():
                if processes > 1:
                    self._profiler.restart()
                again = fresh or processes > 1 or bool(taken)
                ask = self._profiler.measure_again if again else self._profiler.measure
                told = ask(self.file(model), inputs)
            if isinstance(told, Estimate):
                return self._estimated(arch_id, told)
            taken.append(told)
            measurement = pool(taken)
            reading = self._readings(measurement)[self.metric]
            if len(taken) >= processes and (len(taken) >= ATTEMPTS or decided(reading)):
                break
            if reading.noisy:
                time.sleep(CALM_S)
        folder = self._folder / "artifacts" / arch_id
        write_json(folder / f"{stem}-{self.name}.json", measurement.to_json())
        if graph is not None:
            write_json(folder / f"graph-{self.name}.json", graph.to_json())
            self._learn(arch_id, graph, self._readings(measurement))
            for learner in self._learners.values():
                learner.fit()
        return self._readings(measurement)

    def _readings(self, measurement: Measurement) -> dict[str, Reading]:
        """Returns what a measurement tells: metric → reading."""
        ends = measurement.latency_ms, measurement.low_ms, measurement.high_ms
        energy = {energy_metric(self.name): energy_reading(measurement.energy)} if self._meter != NONE else {}
        return {self.metric: Reading(*ends, "measured", measurement.quality == "noisy"), **energy}

    def _learn(self, arch_id: str, graph: Graph, readings: Mapping[str, Reading]) -> None:
        for metric, learner in self._learners.items():
            learner.learn(arch_id, graph, readings[metric])

    def _estimated(self, arch_id: str, told: Estimate) -> dict[str, Reading]:
        """Keeps an estimate; returns its readings: metric → reading."""
        write_json(self._folder / "artifacts" / arch_id / f"estimate-{self.name}.json", told.to_json())
        values = {
            "latency_ms": told.latency_ms,
            "sram_mb": told.sram_bytes / 1e6,
            "flash_mb": told.flash_bytes / 1e6,
        }
        return {f"{name}@{self.name}": Reading(value, source="estimated") for name, value in values.items()}

    def outputs(self, model: Path, inputs: Path) -> NDArray[np.float32]:
        """Runs a network on an .npy file of samples (n, C, H, W), one by one; returns the outputs (n, classes)."""
        deadline_s = self._profiler.deadline_s + SAMPLE_S * inputs.stat().st_size / SMALLEST_SAMPLE_BYTES
        outputs: NDArray[np.float32] = self._profiler.run(self.file(model), inputs, deadline_s=deadline_s)
        return outputs

    def close(self) -> None:
        self._profiler.close()


def read_measurement(path: Path) -> Measurement:
    """Reads a measurement that was kept.

    Raises:
        DataError: the file is not one; the message names it.
    """
    try:
        return Measurement.from_json(read_json(path))
    except CandidateError as error:
        raise DataError(f"{path} is corrupt ({error.detail}): remove it, or restore it") from error


def _read_graph(path: Path) -> Graph:
    data = read_json(path)
    try:
        return Graph.from_json(data)
    except DataError as error:
        raise DataError(f"{path} is corrupt ({error}): remove it, or restore it") from error
