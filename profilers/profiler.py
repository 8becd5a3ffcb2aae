"""Profilers: what a model costs on a device."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

from ..spaces.errors import DeviceError
from .child import Child
from .graph import Graph
from .measurement import QUIET, Measurement
from .model_gate import check_model
from .reference import ReferenceMemory

__all__ = ["LocalProfiler", "Profiler", "open_profiler", "pool"]


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

    @abstractmethod
    def measure(self, path: Path) -> Measurement:
        """Times one inference of the model at `path`.

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
        deadline_s: longest time of one request; what takes longer fails with `timeout`.
        budget_s: seconds of timed inferences per attempt.
        attempts: how often a noisy measurement is repeated before it is kept as noisy.
        log: file for what the child prints.
        reference: file that remembers the reference's usual time; None for the user's cache folder.

    Raises:
        DeviceError: the runtime is missing or unknown, or cannot do the precision.
    """

    def __init__(
        self,
        runtime: str = "onnxruntime",
        threads: int = 1,
        precision: str = "fp32",
        deadline_s: float = 60.0,
        *,
        budget_s: float = 0.6,
        attempts: int = 3,
        log: Path | None = None,
        reference: Path | None = None,
    ) -> None:
        from .runtime import get_runtime

        found = get_runtime(runtime)
        available = found.available()
        if not available.ok:
            raise DeviceError(f"{runtime} is missing ({available.missing}): {available.install}")
        found.check_precision(precision)
        if threads < 1:
            raise DeviceError(f"threads must be at least 1, not {threads}")
        self.runtime, self.threads, self.precision = runtime, threads, precision
        self.deadline_s, self.budget_s, self.attempts = deadline_s, budget_s, attempts
        one = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        env = {**one, "OMP_NUM_THREADS": str(threads)}
        self.child = Child("hwnas.profilers.runner", [runtime], env=env, name=f"{runtime} runner", log=log)
        self._memory = ReferenceMemory(reference)

    def measure(self, path: Path) -> Measurement:
        """Times one inference of the model at `path`; repeats a noisy measurement and keeps the quietest blocks of all.

        Raises:
            CandidateError, DeviceError: as `Profiler.measure`.
        """
        taken: list[Measurement] = []
        end = time.monotonic() + self.deadline_s
        while True:
            got = self._measure_once(path, max(end - time.monotonic(), 0.1))
            taken.append(got)
            pooled = pool(taken)
            enough = pooled.quality == "ok" or len(taken) >= self.attempts
            if enough or time.monotonic() + 2 * self.budget_s > end:
                return pooled

    def graph(self, path: Path) -> Graph:
        return Graph.from_json(self._ask("graph", path)["graph"])

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
        """Of this machine and the runtime; see `hwnas.profilers.fingerprint`."""
        from .fingerprint import fingerprint

        return {**fingerprint(self.runtime), "precision": self.precision, "threads": self.threads}

    def outdated(self, measurement: Measurement) -> bool:
        """True when the reference has since been found faster: what counted as quiet then was not. Measure again."""
        usual, then = self._memory.usual_s, (measurement.conditions or {}).get("usual_s")
        return bool(usual and then and then > QUIET * usual)

    def close(self) -> None:
        self._memory.save()
        self.child.close()

    def _ask(self, do: str, path: Path, deadline_s: float | None = None, **more: Any) -> dict[str, Any]:
        check_model(path)
        how = {"runtime": self.runtime, "threads": self.threads, "precision": self.precision}
        request: Mapping[str, Any] = {"do": do, "path": str(path.resolve()), **how, **more}
        return self.child.call(request, self.deadline_s if deadline_s is None else deadline_s)

    def _measure_once(self, path: Path, deadline_s: float) -> Measurement:
        answer = self._ask("measure", path, deadline_s, budget_s=self.budget_s, usual_s=self._memory.usual_s)
        measurement = Measurement.from_json(answer)
        reference = (measurement.conditions or {}).get("reference_s")
        if isinstance(reference, float) and reference > 0:
            self._memory.add(reference)
        return measurement


def open_profiler(
    runtime: str = "onnxruntime",
    threads: int = 1,
    precision: str = "fp32",
    *,
    deadline_s: float = 60.0,
    host: str = "local",
    log: Path | None = None,
    **how: Any,
) -> Profiler:
    """The profiler of a device: host, runtime, precision and threads.

    Args:
        runtime: name of the runtime.
        threads: threads of one inference.
        precision: of the runtime.
        deadline_s: longest time of one request.
        host: `local`, `ssh:[USER@]HOST[:PORT]`, or `adb:SERIAL[@[USER@]HOST[:PORT]]`.
        log: file for what a child of this machine prints.
        **how: of a host that is not this machine, see `SshProfiler` and `open_phone`.

    Raises:
        DeviceError: the host or the runtime is missing or unknown, or cannot do the precision.
    """
    kind, _, where = host.partition(":")
    if kind == "ssh":
        from .ssh import SshProfiler

        return SshProfiler(where, runtime, threads, precision, deadline_s, **how)
    if kind == "adb":
        from .adb import open_phone

        return open_phone(where, runtime, threads, precision, deadline_s, **how)
    if host != "local":
        raise DeviceError(f"no host '{host}' (known: local, ssh:[USER@]HOST[:PORT], adb:SERIAL)"[:200])
    return LocalProfiler(runtime, threads, precision, deadline_s, log=log)


def pool(taken: Sequence[Measurement]) -> Measurement:
    """All blocks of several attempts, each against the fastest reference among them."""
    last = taken[-1]
    usual = [float((item.conditions or {}).get("usual_s") or 0.0) for item in taken]
    best = min(usual)
    scales = [value / best if best > 0 else 1.0 for value in usual]
    return replace(
        last,
        blocks=tuple(block for item in taken for block in item.blocks),
        disturbance=tuple(
            ratio * scale for item, scale in zip(taken, scales, strict=True) for ratio in item.disturbance
        ),
        conditions={
            **(last.conditions or {}),
            "usual_s": best,
            "attempts": sum(int((item.conditions or {}).get("attempts", 1)) for item in taken),
        },
    )
