"""The side of the board: one request from standard input, one line of answer, and gone.

Run as `python -m hwnas.profilers.hosts.board`, or as the file that `hwnas devices add` sends. It holds the lease of the
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

from ...spaces.errors import CandidateError
from ..model_gate import check_model
from .lease import hold_lease
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
        work: does it; `hwnas.profilers.hosts.board.work` when left out.
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
    shutil.rmtree(folder, ignore_errors=True)  # before the answer: whoever has it may end this process at once
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
    from ..runtimes.runtime import get_runtime

    runtime = get_runtime(request.runtime)
    with _profiler(request) as profiler:
        if request.do == "fingerprint":
            return {**_flat(profiler.fingerprint()), **_board()}
        path = model.with_suffix(runtime.suffix)
        model.rename(path)
        check_model(path)
        if request.do == "graph":
            return {"graph": profiler.graph(path).to_json()}
        x = _array(samples, request.shape) if request.shape else None
        if request.do == "run":
            return _run(profiler, path, x)
        told: dict[str, Any] = profiler.measure(path, x).to_json()
        told["fingerprint"] = {**_flat(told["fingerprint"]), **_board()}
        return _shortened(told)


def _profiler(request: Request) -> Any:
    from ..profiler import LocalProfiler

    class Bare(LocalProfiler):
        """Leaves it to the other side to ask for the golden network."""

        def _blame(self, error: CandidateError) -> None:
            return None

    how: dict[str, Any] = {"budget_s": request.budget_s, "attempts": request.attempts}
    return Bare(request.runtime, request.threads, request.precision, request.deadline_s, **how)


def _array(samples: Path, shape: tuple[int, ...]) -> Path:
    """Writes the samples as numpy reads them."""
    import numpy as np

    path = samples.with_suffix(".npy")
    np.save(path, np.fromfile(samples, "<f4").reshape(shape))
    return path


def _run(profiler: Any, path: Path, x: Path | None) -> dict[str, Any]:
    import numpy as np

    outputs = np.ascontiguousarray(profiler.run(path, x), "<f4")
    return {"shape": list(outputs.shape), "data": base64.b64encode(outputs.tobytes()).decode()}


def _shortened(told: dict[str, Any]) -> dict[str, Any]:
    """A measurement as it goes over the wire: in steps of a nanosecond, and every k-th block where there are many."""
    step = -(-sum(map(len, told["blocks"])) // MOST_SAMPLES)
    parts = told["conditions"].get("parts") or [{"blocks": len(told["blocks"])}]
    blocks: list[list[float]] = []
    ratios: list[float] = []
    begin, sizes = 0, []
    for part in parts:
        end = begin + part["blocks"]
        kept = range(begin, end, step)
        blocks += [[max(round(value, 6), 1e-6) for value in told["blocks"][place]] for place in kept]
        ratios += [round(told["disturbance"][place], 5) for place in kept if told["disturbance"]]
        sizes.append(len(kept))
        begin = end
    conditions = _flat(told["conditions"])
    if "parts" in told["conditions"]:
        conditions["parts"] = [{**_flat(part), "blocks": size} for part, size in zip(parts, sizes, strict=True)]
    return {**told, "blocks": blocks, "disturbance": ratios, "conditions": conditions}


def _flat(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if value is None or isinstance(value, str | int | float)}


def _board() -> dict[str, Any]:
    """What single-board computers say of themselves (device tree)."""
    with contextlib.suppress(OSError):
        name = Path("/proc/device-tree/model").read_text("utf-8", "replace").strip("\0\n ")
        return {"board": "".join(c for c in name if c.isprintable())[:100]} if name else {}
    return {}


def _let_children_find_this() -> None:
    """Where this runs from one file, children import from it too."""
    home = Path(__file__).parents[3]
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
            with contextlib.suppress(OSError):  # who is gone shows at standard input
                os.write(self._answers, b" ")  # the other side need not wait for the thread

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
