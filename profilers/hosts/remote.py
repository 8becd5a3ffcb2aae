"""Devices that another machine holds: the sender's side of what `board` serves.

What goes wrong on the way is never the candidate's fault: it is tried again, and then the device is in quarantine,
which ends a study with exit code 4, ready to be taken up. A candidate is at fault when the board says so, and, where it
crashed or hung, when a golden network still runs there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

from ...spaces.errors import CandidateError, DataError, DeviceError
from ..graph import Graph
from ..measurement import Measurement
from ..meters.energy import Energy, estimated_energy
from ..meters.meter import NONE, stated_watts
from ..model_gate import check_model
from ..profiler import Profiler
from ..runtimes.runtime import get_runtime
from .wire import MAX_ANSWER_BYTES, MAX_S, BadAnswer, Lost, Request, plain, read_answer

__all__ = ["RemoteProfiler"]

BACKOFF_S = (1.0, 5.0, 15.0)
"""Waits before the second, third and fourth try."""
IDLE_S = 15.0
"""Longest silence of the other side; it gives signs of life while it works."""
OVERHEAD_S = 60.0
"""Time of a request beside its own deadline: the start of the runner and of the runtime."""
LEASE_WAIT_S = 300.0
"""Longest wait for a device that someone else uses."""
CHUNK_BYTES = 8 << 20
"""Samples that go over the wire at once."""
ANSWER_FLOATS = 150_000
"""Outputs that come back at once."""
LARGEST_DRIFT = 0.1
"""Share by which the golden network's latency may differ from that of the day the device was added."""
_TAIL_BYTES = 4096


class RemoteProfiler(Profiler):
    """A device that is reached by a command, to which the request goes and from which the answer comes.

    Args:
        command: starts the runner there; a list of words, no shell.
        host: for messages, as in a study file.
        runtime: name of the runtime there.
        threads: threads of one inference.
        precision: of the runtime.
        deadline_s: longest time of one request; an hour at most.
        phone: serial number of a phone at the other machine, or empty.
        tool: path of the benchmark program on the phone, or empty.
        budget_s: seconds of timed inferences per attempt.
        attempts: how often a noisy measurement is repeated.
        lease_wait_s: longest wait for a device that someone else uses.
        idle_s: longest silence of the other side.
        backoff_s: waits before it is tried again.
        meter: a stated power, from which the energy is estimated; with any other the energy is missing.
        golden_ms: what the golden network took when the device was added; None where that is not known.
    """

    here: ClassVar[bool] = False

    def __init__(
        self,
        command: Sequence[str],
        host: str,
        runtime: str = "onnxruntime",
        threads: int = 1,
        precision: str = "fp32",
        deadline_s: float = 60.0,
        *,
        phone: str = "",
        tool: str = "",
        budget_s: float = 0.6,
        attempts: int = 3,
        lease_wait_s: float = LEASE_WAIT_S,
        idle_s: float = IDLE_S,
        backoff_s: Sequence[float] = BACKOFF_S,
        meter: Mapping[str, Any] | None = None,
        golden_ms: float | None = None,
    ) -> None:
        self._meter = None if meter is None or meter["use"] == NONE else dict(meter)
        self.tells_energy = self._meter is not None
        self.command, self.host, self.deadline_s = list(command), host, deadline_s
        self.runtime, self.threads, self.precision = runtime, threads, precision
        self._golden_ms = golden_ms
        self._idle_s, self._backoff_s = idle_s, tuple(backoff_s)
        self._fixed = {
            "runtime": runtime,
            "threads": threads,
            "precision": precision,
            "phone": phone,
            "tool": tool,
            "budget_s": budget_s,
            "attempts": attempts,
            "lease_wait_s": lease_wait_s,
            "alive_s": idle_s / 3,
        }
        self._busy = threading.RLock()
        self._closing = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._quarantine = ""
        self._fingerprint: dict[str, Any] | None = None

    def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
        x = None if inputs is None or self._fixed["phone"] else self._some(inputs)
        measurement: Measurement = self._ask("measure", path, x=x)["measurement"]
        if self._meter is None:
            return measurement
        watts = stated_watts(self._meter)
        if watts is None:
            reason = f"meters of {self.host.partition(':')[0]} hosts are not read in this version"
            return replace(measurement, energy=Energy("missing", str(self._meter["use"]), reason=reason))
        ends = measurement.low_ms, measurement.latency_ms, measurement.high_ms
        return replace(measurement, energy=estimated_energy(watts, *ends))

    def graph(self, path: Path) -> Graph:
        graph: Graph = self._ask("graph", path)["graph"]
        return graph

    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        import numpy as np

        samples = _samples(x)
        results: list[Any] = []
        place, most = 0, 64  # the first answer tells how large one is
        while place < len(samples):
            size = max(samples[place : place + 1].nbytes, 1)
            part = samples[place : place + max(min(most, CHUNK_BYTES // size), 1)]
            first = results[0].shape[1:] if results else None
            told = self._ask("run", path, deadline_s, part, partial(_check_outputs, len(part), first))
            results.append(np.frombuffer(told["data"], "<f4").reshape(told["shape"]))
            place += len(part)
            most = max(ANSWER_FLOATS // max(results[-1][0].size, 1), 1)
        result = np.concatenate(results)
        if out is not None:
            np.save(out, result)
        return result

    def _some(self, inputs: Path) -> Any:
        """The first samples of a file, as many as go over the wire at once."""
        samples = _samples(inputs)
        return samples[: max(CHUNK_BYTES // max(samples[:1].nbytes, 1), 1)]

    def fingerprint(self) -> dict[str, Any]:
        """Of the device and its runtime, as the other side tells it; asked for once."""
        if self._fingerprint is None:
            told = self._ask("fingerprint")
            own = {"host": self.host, "precision": self.precision, "threads": self.threads}
            self._fingerprint = {**told, **own, **({} if self._meter is None else {"meter": self._meter})}
        return dict(self._fingerprint)

    def golden(self) -> Measurement:
        """Measures the golden network.

        Raises:
            CandidateError, DeviceError: it does not run there.
        """
        with golden_on_disk() as path:
            return self.measure(path)

    def close(self) -> None:
        self._closing.set()
        self._kill()

    def _ask(
        self,
        do: str,
        path: Path | None = None,
        deadline_s: float | None = None,
        x: Any = None,
        check: Callable[[dict[str, Any]], None] = lambda told: None,
    ) -> dict[str, Any]:
        """Asks, and asks again where the device was lost or `check` raises Lost for the answer.

        Raises:
            CandidateError: the candidate fails there.
            DeviceError: the device is lost, or lacks something.
        """
        if path is not None:
            check_model(path)
        with self._busy:
            why = self._quarantine
            for pause in () if why else (0.0, *self._backoff_s):
                if self._closing.wait(pause):
                    raise DeviceError(f"{self.host}: closed during a call")
                try:
                    try:
                        told = self._exchange(do, path, deadline_s or self.deadline_s, x)
                        check(told)
                        return told
                    except CandidateError as error:
                        sick = self._sick() if _may_be_the_device(error) else ""
                        if not sick:
                            raise
                        why = f"{sick} after '{error}'"
                except Lost as lost:  # of the request, of its answer, or of the golden network
                    why = str(lost)
                    if lost.final:
                        break
            self._quarantine = why
            raise DeviceError(f"{self.host}: {why}; the device is in quarantine until the next start")

    @property
    def has_golden(self) -> bool:
        """True when there is a golden network for its runtime: one that runs ONNX files."""
        with contextlib.suppress(DeviceError):
            return get_runtime(self.runtime).suffix == ".onnx"
        return False

    def _sick(self) -> str:
        """Says in words what is wrong with the device; empty when a golden network runs there as fast as it used to.

        Where there is no golden network, it is enough that the device answers.

        Raises:
            Lost: the device does not answer.
        """
        try:
            if not self.has_golden:
                self._exchange("fingerprint", None, self.deadline_s, None)
                return ""
            with golden_on_disk() as path:
                told: Measurement = self._exchange("measure", path, self.deadline_s, None)["measurement"]
        except CandidateError:
            return "the golden network does not run either"
        usual = self._golden_ms
        if usual is None or told.quality == "noisy" or abs(told.latency_ms / usual - 1) <= LARGEST_DRIFT:
            return ""
        return f"the golden network takes {told.latency_ms:.4g} ms, and took {usual:.4g} ms when the device was added,"

    def _exchange(self, do: str, path: Path | None, deadline_s: float, x: Any) -> dict[str, Any]:
        """One connection: a request and its answer.

        Raises:
            Lost: no answer, or not one to this request.
            CandidateError, DeviceError, DataError, DiskError: as the answer says.
        """
        deadline_s = min(deadline_s, MAX_S)
        model = b"" if path is None else path.read_bytes()
        samples = b"" if x is None else x.tobytes()
        request = Request(
            lease=uuid4().hex,
            do=do,
            deadline_s=deadline_s,
            shape=() if x is None else tuple(x.shape),
            model_bytes=len(model),
            model_sha256=hashlib.sha256(model).hexdigest() if model else "",
            samples_bytes=len(samples),
            samples_sha256=hashlib.sha256(samples).hexdigest() if samples else "",
            **self._fixed,  # type: ignore[arg-type]  # each of its own type
        )
        longest = deadline_s + request.lease_wait_s + OVERHEAD_S
        line = self._transfer([request.frame(), model, samples], longest)
        return read_answer(line.lstrip(b" "), request.lease, do, self.host)

    def _transfer(self, parts: Sequence[bytes], longest_s: float) -> bytes:
        """Sends bytes to the command and returns the line that it answers."""
        try:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise Lost(
                f"cannot start {self.command[0]}: {(error.strerror or str(error)).lower()}", final=True
            ) from None
        self._process = process
        if self._closing.is_set():
            self._kill()
        try:
            with _Pipes(process) as pipes:
                return pipes.exchange(parts, self._idle_s, longest_s)
        except _Ended as ended:
            raise self._why_ended(process, ended.said) from None
        finally:
            self._kill()

    def _why_ended(self, process: subprocess.Popen[bytes], said: bytes) -> Exception:
        """What to make of a command that ended without an answer."""
        if self._closing.is_set():
            return DeviceError(f"{self.host}: closed during a call")
        try:
            status = process.wait(5.0)
        except subprocess.TimeoutExpired:
            return Lost("the connection was closed without an answer")
        lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
        return self.explain(status, [plain(line, 200) for line in lines])

    def explain(self, status: int, said: list[str]) -> Lost:
        """What the end of the command without an answer means.

        Args:
            status: of its end.
            said: the last lines of its standard error.
        """
        last = f": {said[-1]}" if said else ""
        return Lost(f"the runner ended without an answer (status {status}){last}")

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class _Ended(Exception):
    """The command closed its side; with the last that it wrote to standard error."""

    def __init__(self, said: bytes) -> None:
        self.said = said


class _Pipes:
    """The three pipes of a process, none of which may block."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout and process.stderr, "the process was started with pipes"
        self._files = process.stdin, process.stdout, process.stderr
        self._said, self._said_all = b"", False
        self._got = bytearray()

    def __enter__(self) -> _Pipes:
        for file in self._files:
            os.set_blocking(file.fileno(), False)
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):
                file.close()

    def exchange(self, parts: Sequence[bytes], idle_s: float, longest_s: float) -> bytes:
        """Sends all parts and returns the first line.

        Raises:
            Lost: the other side was silent for too long, or takes too long.
            BadAnswer: the line is too long.
            _Ended: the other side has closed.
        """
        stdin, stdout, stderr = (file.fileno() for file in self._files)
        waiting = [memoryview(part) for part in parts if part]
        moved = begun = time.monotonic()
        listening = [stdout, stderr]
        while True:
            now = time.monotonic()
            left = min(moved + idle_s, begun + longest_s) - now
            if left <= 0:
                what = f"silent for {idle_s:g} s" if now >= moved + idle_s else f"no answer within {longest_s:g} s"
                raise Lost(f"timeout: {what}")
            readable, writable, _ = select.select(listening, [stdin] if waiting else [], [], left)
            if writable:
                with contextlib.suppress(BlockingIOError):
                    try:
                        waiting[0] = waiting[0][os.write(stdin, waiting[0][: 1 << 16]) :]
                        moved = begun = time.monotonic()  # the clock of the work starts when all is sent
                    except BrokenPipeError:  # what the other side says of it is still to be read
                        waiting.clear()
                if waiting and not waiting[0]:
                    waiting.pop(0)
            if stderr in readable:
                self._hear(stderr)
                if self._said_all:
                    listening.remove(stderr)
            if stdout in readable:
                data = _read(stdout)
                if data == b"":
                    self._drain(stderr)
                    raise _Ended(self._said)
                moved = time.monotonic()
                self._got += data or b""
                if len(self._got) > MAX_ANSWER_BYTES:
                    raise BadAnswer(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes")
                if data and b"\n" in data:
                    return bytes(self._got).partition(b"\n")[0]

    def _hear(self, stderr: int) -> None:
        data = _read(stderr)
        self._said_all = data == b""
        self._said = (self._said + (data or b""))[-_TAIL_BYTES:]

    def _drain(self, stderr: int) -> None:
        """Reads what was said last, for half a second at most."""
        end = time.monotonic() + 0.5
        while not self._said_all and (left := end - time.monotonic()) > 0:
            if select.select([stderr], [], [], left)[0]:
                self._hear(stderr)


def _read(descriptor: int) -> bytes | None:
    """What is there; empty at the end, None when there is nothing yet."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return None


def _samples(path: Path) -> Any:
    """Reads samples (n, C, H, W) as they go over the wire.

    Raises:
        DataError: it is no array, or an empty one.
    """
    import numpy as np

    try:
        samples = np.ascontiguousarray(np.load(path, allow_pickle=False), "<f4")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a numpy array ({error})") from None
    if not len(samples):
        raise DataError(f"{path}: no samples")
    return samples


def _check_outputs(samples: int, first: tuple[int, ...] | None, told: dict[str, Any]) -> None:
    """Raises BadAnswer unless there is an output for each sample, of the shape of the first answer's."""
    count, *shape = told["shape"]
    if count != samples:
        raise BadAnswer(f"{count} outputs for {samples} samples")
    if first is not None and tuple(shape) != first:
        raise BadAnswer(f"outputs of shape {tuple(shape)} after outputs of shape {first}")


@contextlib.contextmanager
def golden_on_disk() -> Iterator[Path]:
    """Has the golden network in a file inside."""
    from ..golden import golden_model

    with tempfile.TemporaryDirectory(prefix="hwnas-golden-") as folder:
        path = Path(folder) / "golden.onnx"
        path.write_bytes(golden_model())
        yield path


def _may_be_the_device(error: CandidateError) -> bool:
    return error.code in ("timeout", "oom") or error.code.startswith("crash:")
