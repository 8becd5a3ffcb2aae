"""A persistent, killable child process that answers JSON requests.

Whatever happens in the child (a crash, a hang, garbage on its output), the parent gets one error with a reason, and the
next call finds a fresh child.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from uuid import uuid4

from ..spaces import errors
from ..spaces.errors import CandidateError, DeviceError, HwnasError
from .isolation import MEMORY_VARIABLE
from .serve import PARENT_VARIABLE, PROTOCOL

__all__ = ["Child"]

START_DEADLINE_S = 120.0
"""Longest time from the start of a child to its greeting; importing torch on a loaded machine takes long."""

START_TRIES = 3
"""How often a child that dies before its greeting is started."""

MAX_ANSWER_BYTES = 64 << 20
"""Longest answer that is read."""

_MARK_VARIABLE = "HWNAS_CHILD"
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY", re.IGNORECASE)
_TICK_S = 0.1


class Child:
    """One child process, started at the first call and again after each death.

    >>> with Child("hwnas.profilers.runner", env={"OMP_NUM_THREADS": "1"}) as child:
    ...     child.call({"do": "ping"}, deadline_s=30)["pong"]
    True

    Args:
        module: run as `python -m module args…`; it must end in `serve(handlers)`.
        args: command line arguments of the module.
        env: environment variables to set; variables that look like secrets are not passed on.
        name: for messages.
        private: give it a folder of its own to be in and to write temporary files to, removed in the end.
        memory_mb: largest address space, in megabytes; beyond it the call fails with `oom`. None for no limit.
        log: file to which the child's standard error is appended; None keeps it in an unnamed temporary file.

    Calls from several threads are served one after the other.
    """

    def __init__(
        self,
        module: str,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        name: str = "child",
        log: Path | None = None,
        *,
        private: bool = False,
        memory_mb: int | None = None,
    ) -> None:
        self.name = name
        self._command = [sys.executable, "-P", "-m", module, *args]
        self._env = dict(env or {})
        if memory_mb is not None:
            self._env[MEMORY_VARIABLE] = str(memory_mb * 1_000_000)
        self._private = private
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._log_path = log
        self._log: IO[bytes] | None = None
        self._mark = f"{os.getpid()}-{uuid4().hex}"
        self._process: subprocess.Popen[bytes] | None = None
        self._received = bytearray()
        self._calls = 0
        self._busy = threading.Lock()
        self._gate = threading.Lock()
        self._clock = _PausableClock()
        self._closing = False
        _alive.add(self)

    @property
    def pid(self) -> int | None:
        """Process id of the running child, or None."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def call(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Args:
            request: JSON plain; `do` names the handler.
            deadline_s: longest time to wait in seconds, without paused time and without the child's start.

        Raises:
            CandidateError: `timeout`, `crash:…`, `oom`, `non_finite`, `bad_result`, or what the handler raised.
            DeviceError: the child cannot be started, or was closed meanwhile.
            HwnasError: the handler's own.
        """
        with self._busy:
            self._closing = False
            try:
                process = self._process if self.pid is not None else None
                if process is None:
                    process = self._start_again()
                return self._exchange(process, request, deadline_s)
            except CandidateError as error:
                if self.pid is None or error.code == "timeout":
                    self._kill()
                raise
            except HwnasError:
                raise
            except BaseException:  # also KeyboardInterrupt: the child is in the middle of something
                self._kill()
                raise

    def pause(self) -> None:
        """Stops the child (SIGSTOP) until `resume`; deadlines stand still meanwhile."""
        with self._gate:
            self._clock.pause()
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets a paused child go on."""
        with self._gate:
            self._clock.resume()
            self._signal(signal.SIGCONT)

    def renew(self) -> None:
        """Ends the process when no call is in progress any more; the next call starts a fresh one."""
        with self._busy:
            self._kill()

    def close(self) -> None:
        """Ends the child; a call in progress in another thread raises DeviceError. A later call starts a new one."""
        self._closing = True
        process = self._process
        if process is not None and not self._busy.locked() and not self._clock.paused:
            with contextlib.suppress(OSError):
                _stream(process.stdin).close()  # the polite way: the child's loop ends
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        self._kill()
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_again(self) -> subprocess.Popen[bytes]:
        """Starts the process; again when it dies, for something may have killed it on its way.

        Raises:
            DeviceError: it died START_TRIES times, or hung.
        """
        tries = 0
        while True:
            try:
                return self._start()
            except CandidateError as error:
                self._kill()
                tries += 1
                if self._closing or tries == START_TRIES or error.code == "timeout":
                    raise DeviceError(f"{self.name}: the child process cannot start ({error})") from None

    def _start(self) -> subprocess.Popen[bytes]:
        """Starts the process and waits for its greeting.

        Raises:
            CandidateError: it died or hung.
        """
        self._kill()
        self._received.clear()
        if self._log is None:
            self._log = _open_log(self._log_path)
        kept = {key: value for key, value in os.environ.items() if not _SECRET.search(key)}
        own = {PARENT_VARIABLE: str(os.getpid()), _MARK_VARIABLE: self._mark, "PYTHONUNBUFFERED": "1"}
        if self._private:
            kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, filter(None, _search_path(kept))))
            self._folder = tempfile.TemporaryDirectory(prefix="hwnas-child-", ignore_cleanup_errors=True)
            own["TMPDIR"] = self._folder.name
        folder = None if self._folder is None else self._folder.name
        process = _spawn(self._command, {**kept, **self._env, **own}, self._log, folder)
        self._process = process
        os.set_blocking(_stream(process.stdin).fileno(), False)
        with self._gate:
            if self._clock.paused:
                self._signal(signal.SIGSTOP)
        end = self._clock.now() + START_DEADLINE_S
        while True:
            with contextlib.suppress(ValueError):  # a line printed while the module was imported
                greeting = json.loads(self._read_line(process, end))
                if isinstance(greeting, dict) and greeting.get("protocol") == PROTOCOL:
                    return process

    def _exchange(
        self, process: subprocess.Popen[bytes], request: Mapping[str, Any], deadline_s: float
    ) -> dict[str, Any]:
        self._calls += 1
        line = json.dumps({**request, "id": self._calls}, allow_nan=False).encode() + b"\n"
        end = self._clock.now() + deadline_s
        self._write(process, line, end)
        answer = self._read_line(process, end)
        try:
            told = json.loads(answer)
            if told["id"] != self._calls:
                raise ValueError("an answer to another request")
            if "ok" in told:
                result: dict[str, Any] = told["ok"]
                return result
            raised = _revive(told)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._kill()
            raise CandidateError("bad_result", f"the answer is not of the protocol ({error})"[:300]) from None
        raise raised

    def _write(self, process: subprocess.Popen[bytes], data: bytes, end: float) -> None:
        stdin = _stream(process.stdin).fileno()
        while data:
            self._wait(process, [], [stdin], end)
            try:
                data = data[os.write(stdin, data) :]
            except BlockingIOError:
                continue
            except (BrokenPipeError, OSError):
                raise self._death(process) from None

    def _read_line(self, process: subprocess.Popen[bytes], end: float) -> bytes:
        """Reads up to the next newline; `end` is on the pausable clock."""
        stdout = _stream(process.stdout).fileno()
        while b"\n" not in self._received:
            self._wait(process, [stdout], [], end)
            data = os.read(stdout, 1 << 16)
            if not data:
                raise self._death(process)
            self._received += data
            if len(self._received) > MAX_ANSWER_BYTES:
                self._kill()
                raise CandidateError("bad_result", f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        return line

    def _wait(self, process: subprocess.Popen[bytes], read: list[int], write: list[int], end: float) -> None:
        """Blocks until a descriptor is ready, the child is dead, or the deadline has passed.

        Raises:
            CandidateError: `timeout`, or how the child died.
        """
        while True:
            left = end - self._clock.now()
            if left <= 0 and not self._clock.paused:
                self._kill()
                raise CandidateError("timeout", f"{self.name}: no answer within the deadline")
            try:
                readable, writable, _ = select.select(read, write, [], min(max(left, 0.0), _TICK_S))
                ended = not readable and process.poll() is not None
                if ended and read:  # a descendant may hold the pipe open, so that no end of file comes
                    readable = select.select(read, [], [], 0)[0]
            except (OSError, ValueError):  # closed by another thread
                raise self._death(process) from None
            if readable or (writable and not ended):
                return
            if ended:
                raise self._death(process)

    def _death(self, process: subprocess.Popen[bytes]) -> HwnasError:
        """The error for a child that is gone, or has closed its channel."""
        if self._closing:
            return DeviceError(f"{self.name}: closed during a call")
        try:
            status = process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._kill()
            return CandidateError("crash:channel", f"{self.name} closed its channel without an answer")
        last = self._last_line()
        if status == -signal.SIGKILL:
            return CandidateError("oom", f"{self.name} was killed by the system (out of memory?) {last}".strip())
        if status < 0:
            return CandidateError(f"crash:{_signal_name(-status)}", last)
        return CandidateError(f"crash:exit{status}", last)

    def _last_line(self) -> str:
        """The last line the child wrote to its log, for messages."""
        if self._log is None:
            return ""
        with contextlib.suppress(OSError, ValueError):
            size = os.fstat(self._log.fileno()).st_size
            tail = os.pread(self._log.fileno(), 4096, max(size - 4096, 0)).decode(errors="replace")
            lines = [line.strip() for line in tail.splitlines() if line.strip()]
            telling = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
            return (telling or lines or [""])[-1][:300]
        return ""

    def _signal(self, number: int) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)

    def _kill(self) -> None:
        """Kills the child, its group and every descendant that left the group."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        for _ in range(20):  # a descendant may be forking while it is looked for
            strays = list(_marked(self._mark))
            for pid in strays:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not strays:
                break
            time.sleep(0.01)
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                _stream(stream).close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


class _PausableClock:
    """Seconds on the monotonic clock, without the time spent paused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None
        self._lost = 0.0

    @property
    def paused(self) -> bool:
        return self._since is not None

    def now(self) -> float:
        with self._lock:
            return (time.monotonic() if self._since is None else self._since) - self._lost

    def pause(self) -> None:
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()

    def resume(self) -> None:
        with self._lock:
            if self._since is not None:
                self._lost += time.monotonic() - self._since
                self._since = None


_alive: weakref.WeakSet[Child] = weakref.WeakSet()
_spawner: ThreadPoolExecutor | None = None
_spawner_lock = threading.Lock()


@atexit.register
def _close_all() -> None:
    for child in list(_alive):
        child.close()


def _spawn(command: list[str], env: dict[str, str], log: IO[bytes], folder: str | None) -> subprocess.Popen[bytes]:
    """Starts the process from a thread that lives as long as this process.

    The kernel's parent-death signal is sent when the *thread* that started the child ends, so a caller's short-lived
    thread must not be the one.
    """
    global _spawner
    with _spawner_lock:
        if _spawner is None:
            _spawner = ThreadPoolExecutor(1, thread_name_prefix="hwnas-spawner")

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=env,
            cwd=folder,
            start_new_session=True,
            bufsize=0,
        )

    started = _spawner.submit(start)
    try:
        return started.result()
    except OSError as error:
        raise DeviceError(f"cannot start {command[0]}: {error}") from error
    except BaseException:  # interrupted while waiting: do not leave a process that nobody knows
        started.add_done_callback(_discard)
        raise


def _search_path(env: Mapping[str, str]) -> list[str]:
    return env.get("PYTHONPATH", "").split(os.pathsep)


def _discard(started: Future[subprocess.Popen[bytes]]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().kill()
        started.result().wait()


def _open_log(path: Path | None) -> IO[bytes]:
    if path is None:
        return tempfile.TemporaryFile("a+b")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+b")


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "the child was started with pipes"
    return stream


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def _marked(mark: str) -> Iterator[int]:
    """Process ids whose environment carries the mark (Linux; elsewhere none), zombies left out."""
    sought = f"{_MARK_VARIABLE}={mark}".encode()
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError):
                    if sought in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                        yield int(entry)


def _revive(told: Mapping[str, Any]) -> HwnasError:
    """The error that the child's handler raised."""
    if "failure" in told:
        return CandidateError(str(told["failure"]), str(told.get("detail", "")))
    kind = getattr(errors, str(told["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, HwnasError)) or kind in (errors.StudyFileError, CandidateError):
        kind = HwnasError
    revived: HwnasError = kind(str(told["message"]))
    return revived
