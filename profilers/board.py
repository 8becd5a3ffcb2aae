"""The side of the board: one request from standard input, one line of answer, and gone.

Run as `python -m hwnas.profilers.board`, or as the file that `hwnas devices add` sends. It holds the lease of the
device while it works, and measures in a child as any other machine does. It ends when its input ends (the other side is
gone), when its time is up, or when it has answered; the lease is free then, and the child ends with it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import select
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .lease import hold_lease
from .model_gate import check_model
from .wire import Request, encode_error, encode_ok

__all__ = ["main", "work"]

READ_S = 600.0
"""Longest time in which a request has to arrive."""
SPARE_S = 60.0
"""Time beside a request's own deadline: for the start of the runtime."""
MOST_SAMPLES = 40_000
"""Samples of a measurement that go over the wire: a line of at most 1 MiB."""
NO_LEASE = "0" * 32

Work = Callable[[Request, Path, Path], dict[str, Any]]


def main(work: Work | None = None) -> None:
    """Serves one request.

    Args:
        work: does it; `hwnas.profilers.board.work` when left out.
    """
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever is printed never reaches the channel
    _let_children_find_this()
    folder = Path(tempfile.mkdtemp(prefix="hwnas-board-"))
    watch = _Watch(folder, answers)
    try:
        _answer(answers, watch, folder, work or globals()["work"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # not later: the watch reads standard input in a thread of its own


def _answer(answers: int, watch: _Watch, folder: Path, work: Work) -> None:
    lease, model, samples = NO_LEASE, folder / "model", folder / "samples"
    try:
        request = Request.receive(sys.stdin.buffer, model, samples)
        lease = request.lease
        watch.begin(request.lease_wait_s + request.deadline_s + SPARE_S, request.alive_s)
        with hold_lease(f"adb-{request.phone}".replace(":", "_") if request.phone else "board", request.lease_wait_s):
            line = encode_ok(lease, work(request, model, samples))
    except EOFError:
        return
    except Exception as error:
        line = encode_error(lease, error)
    watch.end()
    with contextlib.suppress(BrokenPipeError):
        while line:
            line = line[os.write(answers, line) :]


def work(request: Request, model: Path, samples: Path) -> dict[str, Any]:
    """Does what is asked for; the lease is held.

    Raises:
        CandidateError: the model is refused, or fails.
        DeviceError: the runtime is missing here.
        Lost: the phone is gone.
    """
    if request.phone:
        from .phone import work_on_phone

        return work_on_phone(request, model)
    from .fingerprint import fingerprint
    from .profiler import LocalProfiler
    from .runtime import get_runtime

    runtime = get_runtime(request.runtime)
    with LocalProfiler(
        request.runtime,
        request.threads,
        request.precision,
        request.deadline_s,
        budget_s=request.budget_s,
        attempts=request.attempts,
    ) as profiler:
        if request.do == "fingerprint":
            return {**fingerprint(request.runtime), **_board()}
        path = model.with_suffix(runtime.suffix)
        model.rename(path)
        check_model(path)
        if request.do == "graph":
            return {"graph": profiler.graph(path).to_json()}
        if request.do == "run":
            return _run(profiler, path, samples, request.shape)
        told = profiler.measure(path).to_json()
        told["conditions"] = {**_flat(told["conditions"]), **_throttling()}
        told["fingerprint"] = {**told["fingerprint"], **_board()}
        return _shortened(told)


def _run(profiler: Any, path: Path, samples: Path, shape: tuple[int, ...]) -> dict[str, Any]:
    import numpy as np

    x = samples.with_suffix(".npy")
    np.save(x, np.fromfile(samples, "<f4").reshape(shape))
    outputs = np.ascontiguousarray(profiler.run(path, x), "<f4")
    return {"shape": list(outputs.shape), "data": base64.b64encode(outputs.tobytes()).decode()}


def _shortened(told: dict[str, Any]) -> dict[str, Any]:
    """A measurement as it goes over the wire: in steps of a nanosecond, and every k-th block where there are many."""
    blocks, disturbance = told["blocks"], told["disturbance"]
    step = -(-sum(map(len, blocks)) // MOST_SAMPLES)
    told["blocks"] = [[max(round(value, 6), 1e-6) for value in block] for block in blocks[::step]]
    told["disturbance"] = [round(ratio, 5) for ratio in disturbance[::step]]
    return told


def _flat(conditions: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in conditions.items() if value is None or isinstance(value, str | int | float)}


def _board() -> dict[str, Any]:
    """What single-board computers say of themselves (device tree)."""
    with contextlib.suppress(OSError):
        name = Path("/proc/device-tree/model").read_text("utf-8", "replace").strip("\0\n ")
        return {"board": "".join(c for c in name if c.isprintable())[:100]} if name else {}
    return {}


def _throttling() -> dict[str, Any]:
    """Of a Raspberry Pi: bits 0 to 3 are what holds it back now, 16 to 19 what did since it was started."""
    import subprocess

    tool = shutil.which("vcgencmd")
    if tool is None:
        return {}
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run([tool, "get_throttled"], capture_output=True, text=True, timeout=5, check=False).stdout
        return {"throttled": told.strip().removeprefix("throttled=")[:20]}
    return {}


def _let_children_find_this() -> None:
    """Where this runs from one file, children import from it too."""
    home = Path(__file__).parents[2]
    if home.is_file():
        os.environ["PYTHONPATH"] = str(home)


class _Watch:
    """Ends this process when the other side is gone or the time is up; gives signs of life meanwhile."""

    def __init__(self, folder: Path, answers: int) -> None:
        self._folder = folder
        self._answers = answers
        self._end = time.monotonic() + READ_S
        self._alive_s: float | None = None
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, seconds: float, alive_s: float) -> None:
        """The request has been read: from now on its end means that the other side is gone."""
        with self._lock:
            self._end = time.monotonic() + seconds
            self._alive_s = alive_s

    def end(self) -> None:
        """The answer is on its way: nothing may stand between its bytes."""
        with self._lock:
            self._alive_s = None
            self._end = time.monotonic() + READ_S

    def _watch(self) -> None:
        said = time.monotonic()
        while time.monotonic() < self._end:
            with self._lock:
                alive_s = self._alive_s
                if alive_s is not None and time.monotonic() - said >= alive_s:
                    said = time.monotonic()
                    try:
                        os.write(self._answers, b" ")
                    except OSError:
                        break
            if alive_s is None:
                time.sleep(0.05)
                continue
            if select.select([0], [], [], min(alive_s, 0.5))[0] and not os.read(0, 4096):
                break
        shutil.rmtree(self._folder, ignore_errors=True)
        os._exit(1)


if __name__ == "__main__":
    main()
