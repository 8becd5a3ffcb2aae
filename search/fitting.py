"""The cost model of a device, fitted to a few networks of a space that are chosen and measured now."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cost_models import AdditiveModel, totals
from ..cost_models.fitted import Fitted, Provenance, Sample, device_of, fit_model
from ..cost_models.model import check_samples, model_class
from ..cost_models.trees import INSTALL, installed
from ..profilers import Graph
from ..spaces.errors import CandidateError, DataError, DeviceError, HwnasError, UsageError
from . import interrupts
from .files import read_json, write_json
from .lock import file_lock

if TYPE_CHECKING:
    import numpy as np

    from ..spaces import Architecture, Space
    from .networks import Networks, Taken, Target

__all__ = ["Fit", "Task", "default_path", "fit_device"]

POOL, WRITTEN_POOL, POOL_PER_SAMPLE = 64, 500, 3
"""Random architectures from which the samples are chosen: at least so many, more where their graphs are written down
without building a module, and so many for each sample."""
REPEATED = 3
"""The first networks, which are measured twice: how much the two differ is the noise."""
FEWEST_TO_STOP = 9
"""Fewest samples after which fitting may stop early: with fewer there is no 90 % quantile of their errors."""
NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a normal variable, in standard deviations."""
LEAST_NOISE = 0.001
"""Noise where a device's clock is too coarse for three pairs to differ."""
MOST_FAILURES = 10
"""Networks that fail, before it is the space or the device that is at fault and not one of them."""
SCHEMA_VERSION = 1
"""Of the file with what an interrupted fit has measured."""


@dataclass(frozen=True)
class Task:
    """What is to be fitted.

    Attributes:
        space: whose networks.
        target: what is measured of them, with its unit.
        samples: networks to measure, those of earlier fits included.
        seed: of the pool and of the choice.
        use: name of the cost model, or `auto`.
    """

    space: Space
    target: Target = "latency_ms"
    samples: int = 10
    seed: int = 0
    use: str = "auto"

    def check(self) -> None:
        """Refuses what cannot be fitted, before anything is measured.

        Raises:
            UsageError: no such cost model, not for this target, or it needs other samples.
            DeviceError: a package that it needs is missing.
        """
        if self.use == "roofline":
            raise UsageError("'roofline' learns from no measurement: a study takes it with cost_model.use=roofline")
        try:
            fit_model(self.use, (), target=self.target)
        except UsageError:
            raise
        except ValueError:  # there are no samples yet
            pass
        fewest = AdditiveModel.min_samples if self.use == "auto" else model_class(self.use).min_samples
        if self.samples < fewest:
            raise UsageError(f"--samples {self.samples}: the cost model '{self.use}' needs at least {fewest} networks")
        if self.use == "trees" and not installed():
            raise DeviceError(f"cost model 'trees' needs LightGBM: {INSTALL}")


@dataclass(frozen=True)
class Fit:
    """What a fit came to.

    Attributes:
        fitted: the model with its samples, as it is in the file.
        stopped: why fewer networks than asked for were measured; empty when they were not.
        failed: networks that could not be built or measured, and why.
        measured: number of networks that were measured now; the others are of earlier fits.
        noisy: number of those whose measurement something disturbed to its end.
    """

    fitted: Fitted
    stopped: str
    failed: Mapping[str, str]
    measured: int
    noisy: int

    @property
    def why(self) -> str:
        """What the model is, and why it and no other where there was a choice."""
        return getattr(self.fitted.model, "why", "") or self.fitted.model.name

    @property
    def left_out(self) -> list[float]:
        """log(measured / predicted) at each sample, by a fit without it; empty where the model does not tell."""
        return list(getattr(self.fitted.model, "left_out_errors", ()))

    @property
    def left_out_error(self) -> float | None:
        """Mean absolute error at left-out samples, as a share of the measured value; None where it is not told."""
        errors = self.left_out
        return sum(abs(math.expm1(-error)) for error in errors) / len(errors) if errors else None


_OF_SAMPLE = ("value", "name", "at_random", "device", "kernels_ms")


@dataclass
class _Begun:
    """What a fit has measured so far, in a file beside its own, so that an interrupted one goes on from there.

    Attributes:
        path: of the file.
        of: what it is of; a file of anything else is not gone on from.
        samples: in the order measured.
        pairs: id → two measurements of the same network.
    """

    path: Path
    of: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    pairs: dict[str, tuple[float, float]] = field(default_factory=dict)

    def read(self) -> None:
        """Takes up what the file has, where it is there and of the same; else it will be written anew."""
        if not self.path.is_file():
            return
        try:
            data = read_json(self.path)
            if data["schema_version"] != SCHEMA_VERSION or data["of"] != self.of:
                return
            told = [
                Sample(Graph.from_json(one.pop("graph")), **{**one, "kernels_ms": tuple(one["kernels_ms"])})
                for one in data["samples"]
            ]
            check_samples(len(told), [one.value for one in told], 0)
            self.pairs = {str(name): (float(a), float(b)) for name, (a, b) in data["pairs"].items()}
            self.samples = told
        except (DataError, KeyError, TypeError, ValueError, AttributeError):  # it only saves time
            self.pairs = {}

    def write(self) -> None:
        samples = [
            {**{key: getattr(one, key) for key in _OF_SAMPLE}, "graph": one.graph.to_json()} for one in self.samples
        ]
        data = {"schema_version": SCHEMA_VERSION, "of": self.of, "pairs": self.pairs, "samples": samples}
        write_json(self.path, data)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    @property
    def noise(self) -> float:
        """Relative standard deviation of one measurement; 0 while nothing was measured twice.

        From the median difference of the pairs, as of normal errors: one that was badly disturbed does not decide.
        """
        if not self.pairs:
            return 0.0
        differences = [abs(math.log(second / first)) for first, second in self.pairs.values()]
        return max(statistics.median(differences) / (NORMAL_MEDIAN * math.sqrt(2)), LEAST_NOISE)


def default_path(device: str, runtime: str, precision: str, threads: int, task: Task) -> Path:
    """Returns where the cost model of a device is kept: in the user's data folder.

    Args:
        device: name of the device; empty for this machine.
        runtime, precision, threads: of the device.
        task: what is fitted.
    """
    data = Path(os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser())
    shape = "x".join(map(str, task.space.input_shape))
    parts = [device or "here", runtime, precision, f"{threads}t", task.space.name, shape]
    if task.target != "latency_ms":
        parts.append(task.target)
    return data / "hwnas" / "cost_models" / f"{'-'.join(parts)}.json"


def fit_device(
    networks: Networks,
    task: Task,
    path: Path,
    *,
    fresh: bool = False,
    told: Callable[[str], None] = lambda text: None,
) -> Fit:
    """Measures networks of a space, fits the cost model, and writes it.

    What the file has of the same device, space and seed is kept, and only what is missing is measured. From
    FEWEST_TO_STOP networks on it ends early when the additive model's error at left-out networks is no larger than the
    noise of the measurements.

    Args:
        networks: of the space on the device.
        task: what is fitted.
        path: the file of the cost model.
        fresh: nothing is taken from the file.
        told: is called with what is under way.

    Raises:
        UsageError: the file is of another device, space, input, target or seed, or the space has too few networks.
        DataError: the file is corrupt, or too many networks failed.
        DeviceError: the device is lost. What was measured is kept.
        StudyLockedError: another process fits this file.
    """
    task.check()
    with file_lock(path.with_name(f"{path.name}.lock"), path):
        return _fit_device(networks, task, path, fresh, told)


def _fit_device(networks: Networks, task: Task, path: Path, fresh: bool, told: Callable[[str], None]) -> Fit:
    provenance = _provenance(networks, task)
    of = json.loads(json.dumps(provenance.to_json()))
    begun = _Begun(path.with_name(f"{path.name}.begun"), of)
    noise = 0.0
    if not fresh:
        if path.exists():
            earlier = Fitted.load(path, provenance.fingerprint, any_device=True)
            _check_same(path, earlier, provenance)
            begun.samples, noise = list(earlier.samples), earlier.provenance.noise
        kept = _Begun(begun.path, begun.of)
        kept.read()
        if len(kept.samples) > len(begun.samples):
            begun = kept
    gathering = _Gathering(networks, task, begun, noise, told)
    gathering.run()
    noise = gathering.noise
    told("fitting")
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    try:
        model = fit_model(task.use, begun.samples, noise, task.target)
    except HwnasError:
        raise
    except ValueError as error:  # the samples, perhaps those of an earlier fit, do not do for this model
        raise UsageError(f"{path}: '{task.use}' cannot be fitted: {error}; --fresh begins anew") from error
    fitted = Fitted(model, tuple(begun.samples), replace(provenance, noise=noise, created=when))
    fitted.save(path)
    begun.remove()
    noisy = sum(taken.noisy for _, taken in gathering.taken.values())
    return Fit(fitted, gathering.stopped, gathering.failed, len(gathering.taken), noisy)


def _provenance(networks: Networks, task: Task) -> Provenance:
    space = task.space
    shape, classes = space.input_shape, space.num_classes
    return Provenance(networks.fingerprint(), task.target, space.name, shape, task.seed, num_classes=classes)


def _check_same(path: Path, earlier: Fitted, wanted: Provenance) -> None:
    """Refuses to add samples to those of something else.

    Raises:
        UsageError: the message names what differs.
    """
    there, instead = earlier.provenance, "give another --out, or --fresh to replace it"
    if earlier.foreign:
        here = [(name, there.fingerprint.get(name), wanted.fingerprint.get(name)) for name in earlier.foreign[:3]]
        told = ", ".join(f"{name} {_shown(old)}, here {_shown(new)}" for name, old, new in here)
        raise UsageError(f"{path} is of another device ({told}): {instead}")
    for what in ("target", "space", "input_shape", "seed"):
        old, new = getattr(there, what), getattr(wanted, what)
        if old != new:
            name = what.replace("_shape", "")
            raise UsageError(f"{path} was fitted with {name} {_shown(old)}, not {_shown(new)}: {instead}")
    if there.num_classes not in (0, wanted.num_classes):  # 0: of an older file, that does not say it
        told = f"{there.num_classes} classes, not {wanted.num_classes}"
        raise UsageError(f"{path} was fitted with {told}: {instead}")


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class _Gathering:
    """Chooses networks and measures them, until there are enough."""

    def __init__(
        self, networks: Networks, task: Task, begun: _Begun, noise: float, told: Callable[[str], None]
    ) -> None:
        self._networks, self._task, self._begun, self._told = networks, task, begun, told
        self._noise = noise
        self._device = device_of(networks.fingerprint(), task.target)
        self._pool: list[tuple[Architecture, np.ndarray[Any, Any]]] = []
        self._repeated = bool(noise)
        self.taken: dict[str, tuple[Architecture, Taken]] = {}
        """What was measured now, by id."""
        self.failed: dict[str, str] = {}
        self.stopped = ""

    @property
    def noise(self) -> float:
        return self._noise or self._begun.noise

    def run(self) -> None:
        begun, wanted = self._begun, self._task.samples
        if len(begun.samples) < wanted and not self._enough():
            self._draw()
        while len(begun.samples) < wanted and not self.stopped:
            for architecture, at_random in self._chosen(wanted - len(begun.samples)):
                interrupts.check()
                if not self._take(architecture, at_random):
                    break  # another is chosen in its place
                if len(begun.samples) >= REPEATED and not self._repeated:
                    self._repeat()
                if len(begun.samples) < wanted and self._enough():
                    break
        if not self._repeated:  # all samples are of a fit that was interrupted in its repeats
            if not self._pool:
                self._draw()
            self._repeat()
        self._calm()

    def _draw(self) -> None:
        """Draws the pool, the same for the same seed; a larger one begins with the smaller."""
        task, names = self._task, set[str]()
        least = WRITTEN_POOL if self._networks.sketches_fast else POOL
        size = max(least, POOL_PER_SAMPLE * max(task.samples, len(self._begun.samples)))
        for draw in range(20 * size):
            if len(self._pool) == size:
                break
            architecture = task.space.random(f"{task.seed}/fit/{draw}")
            if architecture.id in names:
                continue
            names.add(architecture.id)
            interrupts.check()
            self._told(f"graph of network {len(self._pool) + 1} of {size} to choose from")
            try:
                self._pool.append((architecture, totals(self._networks.sketch(architecture))))
            except CandidateError as error:
                self._fail(architecture, error)
        if len(self._pool) < task.samples:
            raise UsageError(
                f"space '{task.space.name}' has only {len(self._pool)} different networks that can be built: "
                f"--samples {task.samples} is too many"
            )

    def _chosen(self, count: int) -> list[tuple[Architecture, bool]]:
        """Returns the next `count` networks in the order to measure, and whether each is drawn at random."""
        import numpy as np

        from ..cost_models.features import DESIGNED_ON
        from ..cost_models.sampling import AT_RANDOM, designed

        sound = [(arch, row) for arch, row in self._pool if arch.id not in self.failed]
        done = {one.name for one in self._begun.samples}
        kept = [place for place, (arch, _) in enumerate(sound) if arch.id in done]
        count = min(count, len(sound) - len(kept))
        if count < 1:
            raise DataError(f"too few networks of space '{self._task.space.name}' can be measured: {self._failures()}")
        random_so_far = sum(one.at_random for one in self._begun.samples)
        drawn = min(max(round(AT_RANDOM * self._task.samples) - random_so_far, 0), count)
        features = np.array([row for _, row in sound])[:, DESIGNED_ON]
        rows = designed(features, count, self._task.seed, drawn / count, kept)
        by_design, at_random = rows[: count - drawn], rows[count - drawn :]
        order = [(row, False) for row in by_design]
        for nth, row in enumerate(at_random, 1):  # evenly among the others, so that an early end has some, too
            order.insert(round(nth * len(rows) / (drawn + 1)), (row, True))
        return [(sound[row][0], is_random) for row, is_random in order]

    def _take(self, architecture: Architecture, at_random: bool) -> bool:
        """Measures a network; False when it failed.

        Raises:
            DataError: too many have failed.
        """
        begun = self._begun
        self._told(f"network {len(begun.samples) + 1} of {self._task.samples}: {architecture.id}")
        try:
            graph = self._networks.graph(architecture)
            kernels = self._networks.kernels_ms(architecture, graph) if self._task.use == "lookup" else ()
            taken = self._networks.measure(architecture)
        except CandidateError as error:
            self._fail(architecture, error)
            return False
        self.taken[architecture.id] = architecture, taken
        begun.samples.append(Sample(graph, taken.value, architecture.id, at_random, self._device, kernels))
        begun.write()
        return True

    def _fail(self, architecture: Architecture, error: CandidateError) -> None:
        self.failed[architecture.id] = str(error)
        if len(self.failed) >= MOST_FAILURES:
            raise DataError(
                f"{len(self.failed)} networks of space '{self._task.space.name}' failed: {self._failures()}"
            )

    def _failures(self) -> str:
        return next((f"{name}: {why}" for name, why in self.failed.items()), "there are no more")

    def _repeat(self) -> None:
        """Measures the first networks once more, in a fresh process."""
        by_id = {architecture.id: architecture for architecture, _ in self._pool}
        self._networks.restart()
        for one in self._begun.samples[:REPEATED]:
            interrupts.check()
            if one.name in by_id and one.name not in self._begun.pairs:
                self._told(f"{one.name} once more, for the noise")
                with suppress(CandidateError):  # it ran before: that measurement counts
                    self._begun.pairs[one.name] = one.value, self._networks.repeat(by_id[one.name]).value
                    self._begun.write()
        self._repeated = True

    def _enough(self) -> bool:
        """True when another network would tell nothing that can be told from noise."""
        samples, noise = self._begun.samples, self.noise
        if len(samples) < FEWEST_TO_STOP or not noise:
            return False
        model = AdditiveModel().fit([one.graph for one in samples], [one.value for one in samples])
        if model.left_out_error > noise:
            return False
        self.stopped = (
            f"stopped at {len(samples)} of {self._task.samples} networks: left-out ones are predicted within "
            f"{model.left_out_error:.1%}, and two measurements differ by the noise of {noise:.1%}"
        )
        return True

    def _calm(self) -> None:
        """Measures again what was disturbed."""
        begun = self._begun
        places = {one.name: place for place, one in enumerate(begun.samples)}
        self._told("networks whose measurement was disturbed, once more")
        for name, taken in self._networks.calmed(list(self.taken.values())):
            self.taken[name] = self.taken[name][0], taken
            begun.samples[places[name]] = replace(begun.samples[places[name]], value=taken.value)
            begun.write()
