"""The measuring process: loads model files into a runtime and times, runs or describes them.

Run as `python -m hwnas.profilers.runner RUNTIME` by `LocalProfiler`. Imports numpy and the runtime, never torch, so
that it starts in a fraction of a second and that nothing else lives in the process that measures. Every request names
`path`, `runtime`, `threads` and `precision`.
"""

from __future__ import annotations

import itertools
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..spaces.errors import CandidateError, DataError
from .fingerprint import conditions, fingerprint, stolen_share
from .runtime import Session, get_runtime
from .serve import serve

__all__ = ["graph", "measure", "ping", "run"]

Request = dict[str, Any]

BLOCK_S = 0.0015
"""Aimed length of a block: short against the bursts of other processes, long against the clock."""

MIN_BLOCKS = 15
MAX_BLOCK_ITERATIONS = 50
WARMUP_S = 0.05
MIN_WARMUP = 3

_REFERENCE_SIDE = 64
_REFERENCE_REPEATS = 12


def measure(request: Request) -> Request:
    """Times a model, with a reference between the blocks.

    Request: `budget_s`; `usual_s`: the reference's usual time as far as known; `seed` of the input.

    Raises:
        CandidateError: `export` when the model does not load, `non_finite` when its output is not finite.
    """
    before = conditions()
    session = _open(request)
    x = _input(session.input_shape, request.get("seed", 0))
    start = time.perf_counter()
    if not np.isfinite(session(x)).all():
        raise CandidateError("non_finite", "the model's output holds NaN or infinity")
    infer = session.bind(x)
    each, warmup = _warm_up(infer, time.perf_counter() - start)
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    blocks, references = _blocks(infer, each, request["budget_s"])
    here = float(np.quantile(references, 0.05))
    usual = min(here, request.get("usual_s") or here)
    around = [max(pair) / usual for pair in itertools.pairwise(references)]
    return {
        "blocks": [[value * 1e3 for value in block] for block in blocks],
        "disturbance": around,
        "warmup": warmup + 1,
        "process": os.getpid(),
        "fingerprint": {**fingerprint(request["runtime"]), "precision": request["precision"]},
        "conditions": {
            "threads": request["threads"],
            "reference_s": here,
            "usual_s": usual,
            "preempted": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
            "loadavg": before["loadavg"],
            **stolen_share(before, conditions()),
        },
    }


def graph(request: Request) -> Request:
    """Describes what the runtime really executes."""
    runtime = get_runtime(request["runtime"])
    return {"graph": runtime.executed_graph(*_file(request)).to_json()}


def run(request: Request) -> Request:
    """Runs a model on samples, one by one; request: `x` and `out` (.npy files).

    Raises:
        CandidateError: as `measure`.
        DataError: `x` is not an array of that shape.
    """
    session = _open(request)
    try:
        samples = np.load(request["x"], allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{request['x']}: not a numpy array ({error})") from None
    shape = session.input_shape
    if samples.shape[1:] != shape[1:]:
        raise DataError(f"{request['x']}: samples of shape {samples.shape[1:]}, the model takes {shape[1:]}")
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    outputs = [session(samples[place : place + 1]) for place in range(len(samples))]
    if not outputs:
        raise DataError(f"{request['x']}: no samples")
    result = np.concatenate(outputs)
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


def ping(request: Request) -> Request:
    """Answers, so that the process is known to be up."""
    return {"pong": True, "fingerprint": fingerprint(), "conditions": conditions()}


def _file(request: Request) -> tuple[Path, int, str]:
    return Path(request["path"]), request["threads"], request["precision"]


def _open(request: Request) -> Session:
    return get_runtime(request["runtime"]).load(*_file(request))


def _input(shape: tuple[int, ...], seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _warm_up(infer: Callable[[], object], first_s: float) -> tuple[float, int]:
    """Runs until caches and allocator are warm.

    Returns:
        Seconds of one inference, and how many were run.
    """
    times: list[float] = []
    end = time.perf_counter() + WARMUP_S
    while len(times) < MIN_WARMUP or time.perf_counter() < end:
        start = time.perf_counter()
        infer()
        times.append(time.perf_counter() - start)
    return statistics.median([*times[len(times) // 2 :], min(first_s, times[-1])]), len(times)


def _blocks(infer: Callable[[], object], each_s: float, budget_s: float) -> tuple[list[list[float]], list[float]]:
    """Takes blocks for `budget_s` seconds, at least `MIN_BLOCKS`.

    Returns:
        Seconds of single inferences per block, and seconds of the reference before, between and after them (n + 1).
    """
    iterations = min(max(round(BLOCK_S / each_s), 1), MAX_BLOCK_ITERATIONS)
    rewarm = iterations >= 3  # the reference has used the first-level cache: for a short inference that would show
    reference = _make_reference()
    clock = time.perf_counter
    end = clock() + budget_s
    blocks: list[list[float]] = []
    references = [reference()]
    while len(blocks) < MIN_BLOCKS or clock() < end:
        if rewarm:
            infer()
        block = []
        for _ in range(iterations):
            start = clock()
            infer()
            block.append(clock() - start)
        blocks.append(block)
        references.append(reference())
    return blocks, references


def _make_reference() -> Callable[[], float]:
    """A fixed piece of work whose time tells how free the core is: a small product of matrices."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_REFERENCE_SIDE, _REFERENCE_SIDE)).astype(np.float32) for _ in range(2))
    c = np.empty_like(a)
    clock = time.perf_counter

    def reference() -> float:
        times = []
        for _ in range(_REFERENCE_REPEATS):
            start = clock()
            np.matmul(a, b, out=c)
            np.matmul(a, b, out=c)
            times.append(clock() - start)
        return statistics.median(times)

    for _ in range(20):
        reference()
    return reference


if __name__ == "__main__":
    runtime = get_runtime(sys.argv[1])
    import_module(runtime.module or runtime.name)  # its import is not part of the first request
    serve({"graph": graph, "measure": measure, "ping": ping, "run": run})
