"""What a study learns of a device: a cost model for each of its metrics, fitted anew as measurements come in."""

from __future__ import annotations

import hashlib
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..cost_models.auto import AutoModel
from ..cost_models.fitted import Fitted, Provenance, Sample, device_of, fit_model
from ..cost_models.model import model_class
from ..cost_models.roofline import machine_peaks
from ..cost_models.trees import INSTALL, installed
from ..spaces.errors import DeviceError, HwnasError, UsageError
from .metrics import Reading
from .outcome import Z90

if TYPE_CHECKING:
    from ..cost_models import CostModel
    from ..profilers import Graph
    from .study_schema import CostModelSpec

__all__ = ["Learner", "WrongModelError", "read_fitted", "samples_fitted"]

EVERY = 40
"""Up to so many samples, a model is fitted to each new one; beyond, when they have grown by a twentieth."""


class WrongModelError(UsageError):
    """A cost model of the study file is of another device, space or target; `key` says where in the study file."""

    def __init__(self, message: str, key: tuple[str, ...]) -> None:
        super().__init__(message)
        self.key = key


class Learner:
    """Learns one metric of a device from its measurements, in the order in which they come.

    Safe to use from several threads.

    Args:
        spec: of the study file.
        path: where the model is kept, with its samples.
        provenance: what it is of.
        begun: what it begins with, or None.
        threads: of one inference.
        at_random: what it learns from is drawn at random, not proposed by a sampler that looks for good ones.
        log: where is noted why a model could not be fitted, or None.

    Raises:
        DeviceError: a package that the model needs is missing.
        DataError: nothing is known of the processor that the model needs to know.
    """

    def __init__(
        self,
        spec: CostModelSpec,
        path: Path,
        provenance: Provenance,
        begun: Fitted | None = None,
        threads: int = 1,
        *,
        at_random: bool = False,
        log: Path | None = None,
    ) -> None:
        self._spec, self._path, self._provenance, self._begun = spec, path, provenance, begun
        self._at_random, self._log, self._noted = at_random, log, False
        self._device = device_of(provenance.fingerprint, provenance.target)
        if spec.use == "trees" and not installed():
            raise DeviceError(f"cost model 'trees' needs LightGBM: {INSTALL}")
        self._peaks = machine_peaks(threads) if spec.use == "roofline" else None
        fewest = 0 if spec.use == "none" else model_class("additive" if spec.use == "auto" else spec.use).min_samples
        self._first = fewest if begun or not fewest else max(fewest, spec.samples)
        self._lock = threading.Lock()
        self._samples: dict[str, Sample] = {}
        self._noises: dict[str, float] = {}
        self._model: CostModel | None = None
        self._fitted_on = -1
        self.clear()

    @property
    def ready(self) -> bool:
        """True when it predicts."""
        return self._model is not None

    def knows(self, arch_id: str) -> bool:
        """True when it has learned from this architecture itself."""
        return arch_id in self._samples

    def clear(self) -> None:
        """Forgets all but what it begins with; `fit` comes next."""
        with self._lock:
            self._samples = {each.name: each for each in self._begun.samples} if self._begun else {}
            self._noises = {}
            self._model, self._fitted_on = None, -1

    def learn(self, arch_id: str, graph: Graph, reading: Reading) -> None:
        """Takes in what was measured; `fit` makes use of it."""
        if reading.value is None or reading.value <= 0 or reading.source != "measured":
            return
        with self._lock:
            self._samples[arch_id] = Sample(graph, reading.value, arch_id, self._at_random, self._device)
            self._noises.pop(arch_id, None)
            if reading.low is not None and reading.high is not None and not reading.noisy:
                self._noises[arch_id] = (reading.high - reading.low) / (2 * Z90 * reading.value)

    def fit(self) -> None:
        """Fits the model, where it is due, and keeps it; from measurements that do not do, the one before stays."""
        if self._spec.use == "none":
            return
        with self._lock:
            count = samples_fitted(len(self._samples), self._first)
            if count is None or count == self._fitted_on:
                return
            samples = list(self._samples.values())[:count]
            target, noise = self._provenance.target, self._noise_of(samples)
            self._fitted_on = count
            try:
                self._model = fit_model(self._spec.use, samples, noise, target, peaks=self._peaks)
            except HwnasError:
                raise
            except ValueError as error:  # e.g. all are equal: the clock is too coarse, which ends no study
                self._note(str(error))
                return
            provenance = replace(self._provenance, noise=noise)
            Fitted(self._model, tuple(samples), provenance).save(self._path)

    def predict(self, graph: Graph) -> Reading | None:
        """Returns a predicted reading with its interval, or None while too little was measured."""
        with self._lock:
            model = self._model
        if model is None:
            return None
        told = model.predict(graph)
        reason = f"far outside the measured networks: {', '.join(told.outside)}" if told.outside else ""
        return Reading(told.value, told.low, told.high, model.source, reason=reason, model=_name_of(model))

    def _note(self, why: str) -> None:
        """Says once in the log why there is no new model."""
        if self._log is None or self._noted:
            return
        self._noted = True
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        with suppress(OSError), self._log.open("a", encoding="utf-8") as file:
            file.write(f"{when} cost model {self._path.name} is not fitted yet: {why}\n")

    def _noise_of(self, samples: Sequence[Sample]) -> float:
        """Relative standard deviation of one measurement of these; 0 while it is not known."""
        noises = [self._noises[one.name] for one in samples if one.name in self._noises]
        if len(noises) >= 3 or self._begun is None:
            return statistics.median(noises) if noises else 0.0
        return self._begun.provenance.noise


def _name_of(model: CostModel) -> str:
    """Returns the name of a model; of `auto` that of the chosen one."""
    chosen = model.chosen if isinstance(model, AutoModel) else None
    return (chosen or model).name


def samples_fitted(count: int, first: int) -> int | None:
    """Returns to how many of so many samples a model is fitted; None while there are too few.

    A pure function of their number, so that a study that was stopped goes on with the same model.

    Args:
        count: samples so far.
        first: at how many the model is used for the first time; 0 for a model that learns from none.
    """
    if not first:
        return 0
    fitted, following = None, first
    while following <= count:
        fitted = following
        following += 1 if following < EVERY else following // 20
    return fitted


def read_fitted(path: Path, wanted: Provenance, key: tuple[str, ...], use: str = "auto") -> tuple[Fitted, str]:
    """Reads the cost model that a study begins with; returns it with the SHA-256 of its file.

    Args:
        path: the file.
        wanted: the study's device, metric, space and input.
        key: of the study file.
        use: the cost model that is to learn from it.

    Raises:
        DataError: the file is missing or corrupt.
        WrongModelError: it is of another device, target, space or input, which the message names, or lacks what is
            needed.
    """
    found = Fitted.load(path, wanted.fingerprint, any_device=True)
    told = found.provenance
    if not told.fingerprint or not found.samples:
        raise WrongModelError(f"{path} does not say of which device it is, or has no samples: fit it again", key)
    for what in ("target", "space", "input_shape"):
        ours, theirs = getattr(wanted, what), getattr(told, what)
        if ours != theirs:
            name, (theirs, ours) = what.partition("_")[0], map(_shown, (theirs, ours))
            raise WrongModelError(f"{path} is of another {name}: {theirs}, here {ours}", key)
    if use == "lookup" and not any(sample.kernels_ms for sample in found.samples):
        raise WrongModelError(f"{path} has no times of kernels: fit it with --use lookup", key)
    if found.foreign:
        name = found.foreign[0]
        more = f" (and {', '.join(found.foreign[1:4])})" if found.foreign[1:] else ""
        said = f"{name} {told.fingerprint.get(name)!r}, here {wanted.fingerprint.get(name)!r}{more}"
        raise WrongModelError(f"{path} is of another device: {said}", key)
    return found, hashlib.sha256(path.read_bytes()).hexdigest()


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value) or "not said"
