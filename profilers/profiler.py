"""Profilers: what a model costs on a device."""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ..spaces.errors import CandidateError, DataError, DeviceError
from .child import Child
from .estimate import Estimate
from .fingerprint import fingerprint
from .golden import golden_file
from .graph import Graph
from .measurement import Measurement, pool
from .memory import Memory
from .meters.energy import LONGEST_S, Energy, estimated_energy
from .meters.meter import MODEL, NONE, stated_watts
from .model_gate import check_model
from .protocol import CEILING_S, SLOW, VERSION
from .reference import ReferenceMemory
from .runtimes.runtime import get_runtime

if TYPE_CHECKING:
    from .runtimes.runtime import Kernel

__all__ = ["LocalProfiler", "Profiler", "measured", "open_profiler"]


_FATAL = ("crash", "timeout", "oom", "bad_result")
"""Beginnings of the codes after which the golden network is run: the process died, or answered nonsense."""

GOLDEN_S = 60.0
"""Longest time for the golden network."""


class Profiler(ABC):
    """Measures model files on one device."""

    provenance: ClassVar[Literal["measured", "estimated"]] = "measured"
    """What a reading of this profiler is."""

    here: ClassVar[bool] = True
    """Whether it measures this machine, which is then to be kept quiet."""

    gives_outputs: ClassVar[bool] = True
    """Whether `run` and `graph` are the device's own, not those of the same file and runtime on this machine."""

    deadline_s: float
    """Longest time of one request."""

    tells_energy: bool = False
    """Whether its measurements are to have an energy, be it measured or estimated."""

    @abstractmethod
    def measure(self, path: Path, inputs: Path | None = None) -> Measurement | Estimate:
        """Times one inference of the model at `path`, or estimates its time.

        Args:
            path: the model.
            inputs: an .npy file of real samples (n, C, H, W), which are run in turn; random ones when left out.

        Raises:
            CandidateError: the model crashed, hung, gave NaN or does not load; the profiler stays usable.
            DeviceError: the device is missing or was lost.
        """

    @abstractmethod
    def graph(self, path: Path) -> Graph:
        """The kernels that the runtime executes for the model at `path`.

        Raises:
            CandidateError, DeviceError: as `measure`.
        """

    @abstractmethod
    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        """Runs the model on samples, one by one, on the device.

        Args:
            path: the model.
            x: an .npy file of samples, (n, C, H, W) float32.
            out: where to leave the outputs as .npy; None uses a file beside `x` that is removed.
            deadline_s: longest time for all samples; the profiler's own when left out.

        Returns:
            The outputs as a numpy array, (n, …).

        Raises:
            CandidateError, DeviceError: as `measure`.
            DataError: `x` does not fit the model.
        """

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for two measurements to be comparable."""

    def outdated(self, measurement: Measurement) -> bool:
        """True when the device has since been seen faster than it was when this was measured. Measure again."""
        return False

    def restart(self) -> None:
        """Has the next request served by a fresh process, where there is one."""
        return None

    def close(self) -> None:
        """Lets go of the device."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalProfiler(Profiler):
    """This machine, in a child process of its own.

    >>> with LocalProfiler(threads=1) as profiler:                            # doctest: +SKIP
    ...     profiler.measure(Path("model.onnx")).median_ms
    1.42

    Args:
        runtime: name of the runtime, see `runtime_names`.
        threads: threads of one inference.
        precision: what the runtime computes in; an int8 model needs an int8 file.
        deadline_s: longest time of one request; what takes longer fails with `timeout`. The runtime's own, 60 s or 300
            where it compiles the network, when left out.
        budget_s: longest time of timed inferences per attempt, in seconds.
        attempts: how often a noisy measurement is taken before it is kept as noisy.
        cores: of the machine, on which it runs; all when left out.
        memory_mb: largest address space of the child in megabytes; a model that needs more fails with `oom`.
        log: file for what the child prints.
        reference: file that remembers the reference's usual time; None for the user's cache folder.
        meter: what tells the energy, `{"use": NAME, …}`; see `hwnas.profilers.meters.meter`. None measures no energy.

    Raises:
        UsageError: the energy model has no power.
        DeviceError: the runtime is missing or unknown, or cannot do the precision.
    """

    def __init__(
        self,
        runtime: str = "onnxruntime",
        threads: int = 1,
        precision: str = "fp32",
        deadline_s: float | None = None,
        *,
        budget_s: float = CEILING_S,
        attempts: int = 3,
        cores: Sequence[int] = (),
        memory_mb: int | None = None,
        log: Path | None = None,
        reference: Path | None = None,
        meter: Mapping[str, Any] | None = None,
    ) -> None:
        found = get_runtime(runtime)
        available = found.available()
        if not available.ok:
            raise DeviceError(f"{runtime} is missing ({available.missing}): {available.install}")
        found.check_precision(precision)
        if threads < 1:
            raise DeviceError(f"threads must be at least 1, not {threads}")
        self.runtime, self.threads, self.precision = runtime, threads, precision
        self.deadline_s = found.deadline_s if deadline_s is None else deadline_s
        self.budget_s, self.attempts = budget_s, attempts
        self.cores = list(cores)
        self.quarantined = ""
        """Why the device is not to be used any more; empty while it is sound."""
        one = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        env = {**one, "OMP_NUM_THREADS": str(threads)}
        how: dict[str, Any] = {"env": env, "name": f"{runtime} runner", "log": log}
        self.child = Child("hwnas.profilers.runner", [runtime], private=True, memory_mb=memory_mb, **how)
        self._memory = ReferenceMemory(reference)
        self._watts = stated_watts(meter)
        self.tells_energy = meter is not None and meter["use"] != NONE
        self._meter = None if meter is None or meter["use"] in (MODEL, NONE) else dict(meter)
        own = {"precision": precision, "threads": threads, "cores_used": self.cores, "protocol": VERSION}
        metered = {} if meter is None or meter["use"] == NONE else {"meter": dict(meter)}
        self._fingerprint = {**fingerprint(runtime), **own, **metered}

    def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
        """Times one inference of the model at `path`; repeats a noisy measurement, and the calm attempts count.

        Raises:
            CandidateError, DeviceError: as `Profiler.measure`.
        """
        taken: list[Measurement] = []
        end = time.monotonic() + self.deadline_s
        while True:
            # the energy is taken once: a noisy latency does not make it noisy
            meter = None if any(item.energy for item in taken) else self._meter
            begun = time.monotonic()
            taken.append(self._measure_once(path, inputs, max(end - begun, 0.1), meter))
            if meter is not None:
                end += time.monotonic() - begun  # its windows take long, and the latency may need another attempt
            end += float((taken[-1].conditions or {}).get("load_s", 0.0))  # a compiler's time is not another attempt's
            pooled = pool(taken)
            enough = pooled.quality == "ok" or len(taken) >= self.attempts
            if enough or time.monotonic() + 2 * self.budget_s > end:
                return pooled if self._watts is None else replace(pooled, energy=_estimate(self._watts, pooled))

    def memory(self, path: Path) -> Memory:
        """Says how much memory a model takes, in a process of its own that has loaded no other.

        Raises:
            CandidateError: as `measure`.
            DeviceError: as `measure`; or a compiler runs in that process, whose memory would be taken for the model's.
        """
        if not get_runtime(self.runtime).tells_resident:
            raise DeviceError(f"{self.runtime} compiles in the process that measures: its memory is not the model's")
        self.child.renew()
        try:
            return Memory.from_json(self._ask("memory", path))
        finally:
            self.child.renew()

    def graph(self, path: Path) -> Graph:
        return Graph.from_json(self._ask("graph", path)["graph"])

    def kernels(self, path: Path, runs: int = 50) -> tuple[Kernel, ...]:
        """Times of single kernels, as `Runtime.kernels`.

        Raises:
            CandidateError, DeviceError: as `Profiler.measure`.
        """
        from .runtimes.runtime import Kernel

        return tuple(Kernel(**kernel) for kernel in self._ask("kernels", path, runs=runs)["kernels"])

    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        import numpy as np

        kept = out is not None
        out = out or x.with_name(f"{x.stem}.{self.child.pid or 0}.out.npy")
        try:
            self._ask("run", path, deadline_s, x=str(x.resolve()), out=str(out.resolve()))
            return np.load(out, allow_pickle=False)
        finally:
            if not kept:
                out.unlink(missing_ok=True)

    def fingerprint(self) -> dict[str, Any]:
        """Of this machine, the runtime and the protocol; see `hwnas.profilers.fingerprint`."""
        return dict(self._fingerprint)

    def outdated(self, measurement: Measurement) -> bool:
        usual, then = self._memory.usual_s, (measurement.conditions or {}).get("usual_s")
        return bool(usual and then and then > SLOW * usual)

    def restart(self) -> None:
        self.child.renew()

    def close(self) -> None:
        self._memory.save()
        self.child.close()

    def _ask(self, do: str, path: Path, deadline_s: float | None = None, **more: Any) -> dict[str, Any]:
        """Asks the child; what kills it is the candidate's fault while the golden network still runs.

        Raises:
            CandidateError, DataError: as `Profiler.measure`.
            DeviceError: the device is quarantined.
        """
        if self.quarantined:
            raise DeviceError(f"{self.runtime} is quarantined: {self.quarantined}")
        check_model(path)
        try:
            return self._call(do, path, self.deadline_s if deadline_s is None else deadline_s, **more)
        except CandidateError as error:
            if error.code.startswith(_FATAL):
                self._blame(error)
            raise

    def _call(self, do: str, path: Path, deadline_s: float, **more: Any) -> dict[str, Any]:
        how = {"runtime": self.runtime, "threads": self.threads, "precision": self.precision}
        return self.child.call({"do": do, "path": str(path.resolve()), **how, **more}, deadline_s)

    def _blame(self, error: CandidateError) -> None:
        """Runs the golden network.

        Raises:
            DeviceError: it fails too, so the device is quarantined.
        """
        with tempfile.TemporaryDirectory(prefix="hwnas-golden-") as folder:
            golden = golden_file(get_runtime(self.runtime), self.precision, Path(folder))
            if golden is None:
                return
            try:
                self._call("measure", golden, GOLDEN_S, budget_s=0.0)
            except (CandidateError, DataError) as again:
                self.quarantined = f"after '{error}' the golden network failed too: {again}"[:300]
                raise DeviceError(f"{self.runtime} is quarantined: {self.quarantined}") from None

    def _measure_once(
        self, path: Path, inputs: Path | None, deadline_s: float, meter: Mapping[str, Any] | None
    ) -> Measurement:
        how: dict[str, Any] = {"budget_s": self.budget_s, "usual_s": self._memory.usual_s, "cores": self.cores}
        if inputs is not None:
            how["inputs"] = str(inputs.resolve())
        answer = self._ask("measure", path, deadline_s + (LONGEST_S if meter else 0.0), meter=meter, **how)
        measurement = Measurement.from_json({**answer, "fingerprint": self._fingerprint})
        reference = (measurement.conditions or {}).get("reference_s")
        if isinstance(reference, float) and reference > 0:
            self._memory.add(reference)
        return measurement


def measured(profiler: Profiler, path: Path, processes: int = 1) -> Measurement:
    """Measures a model in several fresh processes, which together are one measurement.

    Raises:
        CandidateError: as `Profiler.measure`.
        DeviceError: as `Profiler.measure`, or the device is estimated.
    """
    taken: list[Measurement] = []
    for _ in range(processes):
        profiler.restart()
        told = profiler.measure(path)
        if isinstance(told, Estimate):
            raise DeviceError("this device is estimated, not measured")
        taken.append(told)
    return pool(taken)


def open_profiler(
    runtime: str = "onnxruntime",
    threads: int = 1,
    precision: str = "fp32",
    *,
    deadline_s: float | None = None,
    host: str = "local",
    log: Path | None = None,
    meter: Mapping[str, Any] | None = None,
    **how: Any,
) -> Profiler:
    """The profiler of a device: host, runtime, precision and threads.

    Args:
        runtime: name of the runtime.
        threads: threads of one inference.
        precision: of the runtime.
        deadline_s: longest time of one request; the runtime's own when left out.
        host: `local`, `ssh:[USER@]HOST[:PORT]`, or `adb:SERIAL[@[USER@]HOST[:PORT]]`.
        log: file for what a child of this machine prints.
        meter: what tells the energy; of other hosts only a stated power is known.
        **how: of a host that is not this machine, see `SshProfiler` and `open_phone`.

    Raises:
        DeviceError: the host or the runtime is missing or unknown, or cannot do the precision.
    """
    from .runtimes.runtime import estimated_names

    if deadline_s is None:
        deadline_s = get_runtime(runtime).deadline_s
    kind, _, where = host.partition(":")
    if kind == "ssh":
        from .hosts.ssh import SshProfiler

        return SshProfiler(where, runtime, threads, precision, deadline_s, meter=meter, **how)
    if kind == "adb":
        from .hosts.adb import open_phone

        return open_phone(where, runtime, threads, precision, deadline_s, meter=meter, **how)
    if host != "local":
        raise DeviceError(f"no host '{host}' (known: local, ssh:[USER@]HOST[:PORT], adb:SERIAL)"[:200])
    if runtime in estimated_names():
        from .runtimes.ethos_u import EthosUProfiler

        get_runtime(runtime).check_precision(precision)
        return EthosUProfiler(runtime, deadline_s, log=log)
    return LocalProfiler(runtime, threads, precision, deadline_s, log=log, meter=meter)


def _estimate(watts: float, measurement: Measurement) -> Energy:
    return estimated_energy(watts, measurement.low_ms, measurement.latency_ms, measurement.high_ms)
