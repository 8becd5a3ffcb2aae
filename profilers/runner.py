"""The measuring process: loads model files into a runtime and times, runs or describes them.

Run as `python -m hwnas.profilers.runner RUNTIME` by `LocalProfiler`. Imports numpy and the runtime, and torch only for
a runtime that is made of it, so that it starts fast and that nothing else lives in the process that measures. Every
request names `path`, `runtime`, `threads` and `precision`.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces.errors import CandidateError, DataError, DeviceError
from . import protocol
from .fingerprint import conditions, fingerprint, used_shares
from .isolation import cut_network
from .memory import measure_memory
from .meters.energy import measured_energy
from .runtimes.runtime import Session, get_runtime
from .serve import serve

__all__ = ["graph", "kernels", "measure", "memory", "ping", "run"]

Request = dict[str, Any]
Array = np.ndarray[Any, np.dtype[np.float32]]

_network = True
"""Whether this process can reach a network."""

INPUTS = 4
"""Different random inputs, in turn, when none are given."""


def measure(request: Request) -> Request:
    """Times a model, with a reference network between the blocks; see `protocol.py`.

    Request: `budget_s`, longest time of timed inferences; `usual_s`, the reference's usual time as far as known;
    `inputs`, an .npy file of real samples, or `seed` of random ones; `cores`, those to run on; `meter`, options of the
    meter that then takes the energy of the same inference, or nothing.

    Raises:
        CandidateError: `export` when the model does not load, `non_finite` when its output is not finite.
        DataError: `inputs` do not fit the model.
        DeviceError: the cores cannot be had.
    """
    _pin(request.get("cores"))
    session = _open(request)
    inputs = _inputs(request, session.input_shape)
    start = time.perf_counter()
    for x in inputs:
        if not np.isfinite(session(x[None])).all():
            raise CandidateError("non_finite", "the model's output holds NaN or infinity")
    bound = np.ascontiguousarray(inputs[:1])
    infer = session.bind(bound)
    each, warmup = _warm_up(infer, (time.perf_counter() - start) / len(inputs))

    def turn(number: int) -> None:
        np.copyto(bound[0], inputs[number % len(inputs)])

    before = conditions()
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    blocks, references = _blocks(infer, turn, each, request["budget_s"], request.get("usual_s"))
    after = conditions()
    here, around = protocol.floor_ms(references), protocol.beside(references)
    usual = min(here, request.get("usual_s") or here)
    found = {
        "blocks": [[value * 1e3 for value in block] for block in blocks],
        "disturbance": [value / usual for value in around],
        "warmup": warmup + len(inputs),
        "process": os.getpid(),
        "fingerprint": fingerprint(request["runtime"]),
        "conditions": {
            "threads": request["threads"],
            "affinity": sorted(os.sched_getaffinity(0)),
            "reference_s": here,
            "usual_s": usual,
            "slowdown": max(float(np.quantile(around, protocol.BESIDE)) / usual, 1.0),
            "inputs": "given" if request.get("inputs") else "random",
            "preempted": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
            "process": os.getpid(),
            "network": _network,
            **{name: after.get(name) for name in ("loadavg", "cpu_mhz", "celsius") if after.get(name) is not None},
            **used_shares(before, after, request["threads"]),
        },
    }
    if request.get("meter"):  # last: nothing above sees its windows
        found["energy"] = measured_energy(infer, request["meter"], request["runtime"]).to_json()
    return found


def graph(request: Request) -> Request:
    """Describes what the runtime really executes."""
    runtime = get_runtime(request["runtime"])
    return {"graph": runtime.executed_graph(*_file(request)).to_json()}


def kernels(request: Request) -> Request:
    """Times the model's kernels with the runtime's own profiler, where it has one. Request: `runs`."""
    timed = get_runtime(request["runtime"]).kernels(*_file(request), request["runs"])
    return {"kernels": [asdict(kernel) for kernel in timed]}


def run(request: Request) -> Request:
    """Runs a model on samples, one by one; request: `x` and `out` (.npy files).

    Raises:
        CandidateError: as `measure`.
        DataError: `x` is not an array of that shape.
    """
    session = _open(request)
    samples = _samples(request["x"], session.input_shape)
    result = np.concatenate([session(samples[place : place + 1]) for place in range(len(samples))])
    if not np.isfinite(result).all():
        raise CandidateError("non_finite", "the model's output holds NaN or infinity")
    out = Path(request["out"])
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            np.save(file, result)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    return {"samples": len(result), "shape": list(result.shape)}


def memory(request: Request) -> Request:
    """Says how much memory a model takes; for a process that has not loaded one before."""

    def load_and_run() -> None:
        session = _open(request)
        infer = session.bind(_inputs(request, session.input_shape)[:1])
        for _ in range(protocol.MIN_WARMUP):
            infer()

    return measure_memory(load_and_run, lambda: get_runtime(request["runtime"]).arena_bytes(*_file(request))).to_json()


def ping(request: Request) -> Request:
    """Answers, so that the process is known to be up."""
    return {"pong": True, "network": _network, "fingerprint": fingerprint(), "conditions": conditions()}


def _file(request: Request) -> tuple[Path, int, str]:
    return Path(request["path"]), request["threads"], request["precision"]


def _open(request: Request) -> Session:
    return get_runtime(request["runtime"]).load(*_file(request))


def _pin(cores: list[int] | None) -> None:
    if cores:
        try:
            os.sched_setaffinity(0, cores)
        except OSError as error:
            raise DeviceError(f"cannot run on cores {cores}: {error.strerror}") from None


def _inputs(request: Request, shape: tuple[int, ...]) -> Array:
    """Returns samples (n, C, H, W)."""
    if request.get("inputs"):
        return _samples(request["inputs"], shape)
    rng = np.random.default_rng(request.get("seed", 0))
    return rng.standard_normal((INPUTS, *shape[1:])).astype(np.float32)


def _samples(path: str, shape: tuple[int, ...]) -> Array:
    """Reads samples (n, C, H, W).

    Raises:
        DataError: it is no array, or not of that shape.
    """
    try:
        samples = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not a numpy array ({error})") from None
    if samples.shape[1:] != shape[1:]:
        raise DataError(f"{path}: samples of shape {samples.shape[1:]}, the model takes {shape[1:]}")
    if not len(samples):
        raise DataError(f"{path}: no samples")
    return np.ascontiguousarray(samples, dtype=np.float32)


def _warm_up(infer: Callable[[], object], first_s: float) -> tuple[float, int]:
    """Runs until caches and allocator are warm: until the last third of the times is no faster than the one before.

    Returns:
        Seconds of one inference, and how many were run.
    """
    times: list[float] = []
    begin = time.perf_counter()
    while True:
        start = time.perf_counter()
        infer()
        times.append(time.perf_counter() - start)
        passed, third = time.perf_counter() - begin, len(times) // 3
        if len(times) < protocol.MIN_WARMUP or passed < protocol.WARMUP_S:
            continue
        last, before = statistics.median(times[-third:]), statistics.median(times[-2 * third : -third])
        if last > 0.98 * before or passed > 10 * protocol.WARMUP_S:
            return min(last, first_s), len(times)


def _blocks(
    infer: Callable[[], object], turn: Callable[[int], None], each_s: float, budget_s: float, usual_s: float | None
) -> tuple[list[list[float]], list[float]]:
    """Takes blocks until the floor is settled, for `budget_s` seconds at most, and at least `MIN_BLOCKS`.

    Returns:
        Seconds of single inferences per block, and seconds of the reference before, between and after them (n + 1).
    """
    iterations = min(max(round(protocol.BLOCK_S / each_s), 1), protocol.MAX_BLOCK_ITERATIONS)
    rewarm = each_s < protocol.REWARMED_S
    reference = _make_reference()
    if usual_s is not None:
        _await_calm(reference, usual_s, min(protocol.PATIENCE_S, budget_s))
    clock = time.perf_counter
    begin = clock()
    end, look = begin + budget_s, begin + min(protocol.FLOOR_S, budget_s)
    blocks: list[list[float]] = []
    references = [reference()]
    while len(blocks) < protocol.MIN_BLOCKS or clock() < end:
        turn(len(blocks))
        if rewarm:
            infer()
        block = []
        for _ in range(iterations):
            start = clock()
            infer()
            block.append(clock() - start)
        blocks.append(block)
        references.append(reference())
        if clock() > look and len(blocks) >= protocol.MIN_BLOCKS:
            if protocol.settled(blocks, references, usual_s):
                break
            look = clock() + protocol.CHECK_S
    return blocks, references


def _await_calm(reference: Callable[[], float], usual_s: float, patience_s: float) -> None:
    """Waits until the reference runs at its usual speed three times in a row, but not longer than `patience_s`."""
    end, calm = time.perf_counter() + patience_s, 0
    while calm < 3 and time.perf_counter() < end:
        calm = calm + 1 if reference() <= protocol.SLOW * usual_s else 0
        if calm == 0:
            time.sleep(0.02)


def _make_reference() -> Callable[[], float]:
    """The reference network: a perceptron of two layers, (196, 48) -> (196, 192) -> (196, 48), by numpy.

    3.6 million multiply-adds on 300 kB feel what a small network feels: a lower clock, a neighbour on the same core, in
    its second-level cache and beyond. numpy computes it, so that it is the same for every runtime.
    """
    rng = np.random.default_rng(0)
    x, w, v = (rng.standard_normal(shape).astype(np.float32) for shape in ((196, 48), (48, 192), (192, 48)))
    hidden, out = np.empty((196, 192), np.float32), np.empty((196, 48), np.float32)
    clock = time.perf_counter

    def once() -> float:
        start = clock()
        np.matmul(x, w, out=hidden)
        np.maximum(hidden, 0, out=hidden)
        np.matmul(hidden, v, out=out)
        return clock() - start

    def reference() -> float:
        return min(once(), once())  # the first has to fetch its data again

    for _ in range(20):
        reference()
    return reference


if __name__ == "__main__":
    _network = not cut_network()  # before anything starts a thread
    get_runtime(sys.argv[1]).start()
    serve({"graph": graph, "kernels": kernels, "measure": measure, "memory": memory, "ping": ping, "run": run})
