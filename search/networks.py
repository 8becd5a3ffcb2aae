"""Networks of a space on one device: what it executes for them, and what is measured of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..cost_models.space_graphs import written_graph
from ..profilers import (
    Graph,
    LocalProfiler,
    Measurement,
    MeasurementStore,
    Profiler,
    Stored,
    estimated_names,
    get_runtime,
)
from ..profilers.measurement import pool
from ..spaces.errors import CandidateError, DeviceError
from . import interrupts

if TYPE_CHECKING:
    from ..spaces import Architecture
    from .space_files import SpaceFiles

__all__ = ["Networks", "Taken", "Target", "refuse_estimated"]

Target = Literal["latency_ms", "energy_mj", "peak_memory_mb"]
"""What a cost model can be fitted to."""

_SKETCHED_BY = "onnxruntime"
CALM_S = 2.0
"""Seconds to wait for a busy machine, before networks are measured again."""


@dataclass(frozen=True)
class Taken:
    """What was measured of a network.

    Attributes:
        value: of the target, in its unit.
        measurement: what the device said; None of a memory.
    """

    value: float
    measurement: Measurement | None = None

    @property
    def noisy(self) -> bool:
        """True when something disturbed it to its end."""
        return self.measurement is not None and self.measurement.quality == "noisy"


def refuse_estimated(runtime: str, estimated: bool = False) -> None:
    """Raises DeviceError for a device that is estimated, by its name or by what its profiler says."""
    if estimated or runtime in estimated_names():
        raise DeviceError(f"{runtime} is estimated by its vendor's tool: there is nothing to measure a fit on")


class Networks:
    """Networks of a space on one device: their executed graphs and what is measured of them.

    Args:
        files: writes the networks.
        profiler: of the device.
        runtime: name of the device's runtime.
        precision: of the device.
        target: what is measured.
        fresh: nothing is taken from the store of measurements.

    Raises:
        DeviceError: the device cannot tell the target.
    """

    def __init__(
        self,
        files: SpaceFiles,
        profiler: Profiler,
        runtime: str,
        precision: str,
        target: Target = "latency_ms",
        *,
        fresh: bool = False,
    ) -> None:
        refuse_estimated(runtime, profiler.provenance == "estimated")
        if target == "peak_memory_mb" and not (
            isinstance(profiler, LocalProfiler) and get_runtime(runtime).tells_resident
        ):
            raise DeviceError(
                f"peak_memory_mb cannot be measured with {runtime}: only on this machine, by few runtimes"
            )
        self._files, self._runtime, self._precision, self._target = files, runtime, precision, target
        self._own = profiler
        self._profiler = Stored(profiler, MeasurementStore(), ask=not fresh)
        self._sketcher: Profiler | None = None

    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for two measurements to be comparable."""
        return self._profiler.fingerprint()

    def graph(self, architecture: Architecture) -> Graph:
        """Returns what the device executes.

        Raises:
            CandidateError: it cannot be built, converted or run.
        """
        return self._profiler.graph(self._file(architecture))

    def sketch(self, architecture: Architecture) -> Graph:
        """Returns what onnxruntime in fp32 executes on this machine: quick, and enough to choose by.

        Raises:
            CandidateError: it cannot be built, converted or run.
        """
        written = written_graph(self._files.space, architecture, _SKETCHED_BY, "fp32")
        if written is not None:
            return written
        if self._sketcher is None:
            plain = (self._runtime, self._precision) == (_SKETCHED_BY, "fp32")
            self._sketcher = self._own if plain else LocalProfiler(_SKETCHED_BY)
        return self._sketcher.graph(self._files.file(architecture, _SKETCHED_BY, "fp32"))

    @property
    def sketches_fast(self) -> bool:
        """True when the space's graphs are written down without building a module."""
        return written_graph(self._files.space, self._files.space.middle(), _SKETCHED_BY, "fp32") is not None

    def close(self) -> None:
        """Lets go of what it opened itself; the profiler is the caller's."""
        if self._sketcher is not None and self._sketcher is not self._own:
            self._sketcher.close()

    def kernels_ms(self, architecture: Architecture, graph: Graph) -> tuple[float, ...]:
        """Returns the times of a network's kernels in ms, by the runtime's own profiler, in the order of its graph.

        Raises:
            CandidateError: it cannot be built, converted or run.
            DeviceError: the runtime tells no times of kernels.
        """
        from ..cost_models.lookup import kernel_times

        kernels = self._own.kernels(self._file(architecture)) if isinstance(self._own, LocalProfiler) else ()
        if not kernels:
            raise DeviceError(f"{self._runtime} tells no times of kernels, or not from here: take another --use")
        return kernel_times(graph, kernels)

    def measure(self, architecture: Architecture) -> Taken:
        """Measures a network; a latency may come from the store.

        Raises:
            CandidateError: it cannot be built, converted or run.
            DeviceError: the device or its meter is lost.
        """
        return self._taken(architecture, self._profiler.measure)

    def repeat(self, architecture: Architecture) -> Taken:
        """As `measure`, and nothing comes from the store."""
        return self._taken(architecture, self._profiler.measure_again)

    def restart(self) -> None:
        """Has what is measured next measured in a fresh process."""
        self._profiler.restart()

    def calmed(self, taken: Sequence[tuple[Architecture, Taken]]) -> Iterator[tuple[str, Taken]]:
        """Measures again what was disturbed; gives id and all measurements together."""
        again = [(architecture, earlier) for architecture, earlier in taken if earlier.noisy]
        if again:
            time.sleep(CALM_S)
        for architecture, earlier in again:
            interrupts.check()
            try:
                new = self.repeat(architecture)
            except CandidateError:  # it has been measured before: that counts
                continue
            if new.measurement is not None and earlier.measurement is not None:
                new = self._of(pool([earlier.measurement, new.measurement]))
            yield architecture.id, new

    def _file(self, architecture: Architecture) -> Path:
        return self._files.file(architecture, self._runtime, self._precision)

    def _taken(self, architecture: Architecture, ask: Callable[[Path], object]) -> Taken:
        file = self._file(architecture)
        if self._target == "peak_memory_mb":
            assert isinstance(self._own, LocalProfiler), "looked at when this was made"
            return Taken(_positive(self._own.memory(file).peak_mb, self._target))
        told = ask(file)
        assert isinstance(told, Measurement), "an estimated device was refused"
        return self._of(told)

    def _of(self, told: Measurement) -> Taken:
        value: float | None = told.latency_ms
        if self._target == "energy_mj":
            value = told.energy.energy_mj if told.energy and told.energy.source == "measured" else None
            if value is None:
                raise DeviceError(f"energy_mj cannot be measured: {told.energy.reason if told.energy else 'no meter'}")
        return Taken(_positive(value or 0.0, self._target), told)


def _positive(value: float, target: str) -> float:
    if not math.isfinite(value) or value <= 0:
        raise CandidateError("bad_result", f"a measured {target} must be above 0, not {value:g}")
    return value
