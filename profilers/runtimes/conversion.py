"""What the conversion of an ONNX file into a runtime's own file needs: a quiet tool, and a look at what came out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...spaces.errors import CandidateError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["answer_of", "check_agreement", "convert_with"]

DEADLINE_S = 300.0
"""Longest time of one tool."""

TOLERANCE = 1e-3
"""Largest difference of a converted fp32 network, relative to its largest output; as in the parity check of a study."""

LEAST_COSINE = 0.5
"""Least cosine of the answers of a quantised file and its source: below it something else than rounding is wrong."""


def convert_with(command: Sequence[str], folder: Path, made: Path) -> None:
    """Runs a converter in a folder of its own; what it prints is only read when it fails.

    Args:
        command: the program and its arguments.
        folder: where it runs; it may leave files there.
        made: the file that it has to make.

    Raises:
        CandidateError: `export`, it fails, crashes, hangs or leaves no file.
    """
    name = made.name
    try:
        # a group of its own, so that nothing of it is left after a deadline
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise CandidateError("export", f"cannot start {command[0]}: {error.strerror}") from None
    with process:
        try:
            said, _ = process.communicate(timeout=DEADLINE_S)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CandidateError("export", f"no {name} after {DEADLINE_S:g} s") from None
            raise
    if process.returncode != 0 or not made.is_file():
        raise CandidateError("export", f"no {name} ({_ending(process.returncode)}): {_last_line(said)}"[:300])


def answer_of(source: Path, x: Array) -> tuple[Array, Array]:
    """Returns a sample (1, C, H, W), and what onnxruntime makes of it with an fp32 ONNX file.

    A sample of zeros is a place-holder; a random one tells more.

    Raises:
        CandidateError: onnxruntime cannot run the file.
    """
    import numpy as np

    from .ort import OnnxRuntime

    session = OnnxRuntime().load(source)
    x = np.ascontiguousarray(x, np.float32)
    if not x.any():
        x = np.random.default_rng(0).standard_normal(session.input_shape).astype(np.float32)
    return x, session(x)


def check_agreement(runtime: str, made: Path, x: Array, expected: Array, precision: str = "fp32") -> None:
    """Compares a converted file with its source, in a process of its own: a converter can be wrong silently.

    Where the source's own answer is not finite there is nothing to compare.

    Args:
        runtime: name of the runtime that `made` is for.
        made: the file.
        x: one sample (1, C, H, W).
        expected: the source's answer.
        precision: of `made`.

    Raises:
        CandidateError: `export` when they disagree; as `Session` when the file does not load or run.
    """
    import numpy as np

    from ..child import Child

    if not np.isfinite(expected).all():
        return
    inputs, outputs = made.with_name("agreement.x.npy"), made.with_name("agreement.y.npy")
    np.save(inputs, x)
    request = {"do": "run", "path": str(made), "runtime": runtime, "threads": 1, "precision": precision}
    with Child("hwnas.profilers.runner", [runtime], env={"OMP_NUM_THREADS": "1"}, name=f"{runtime} runner") as child:
        child.call({**request, "x": str(inputs), "out": str(outputs)}, DEADLINE_S)
    got = np.load(outputs, allow_pickle=False)
    if got.shape != expected.shape:
        raise CandidateError("export", f"{runtime}'s file gives shape {got.shape}, the ONNX file {expected.shape}")
    difference = float(np.abs(got - expected).max() / max(1e-6, float(np.abs(expected).max())))
    cosine = float((got * expected).sum() / max(1e-12, float(np.linalg.norm(got) * np.linalg.norm(expected))))
    if precision == "fp32" and difference > TOLERANCE:
        raise CandidateError("export", f"{runtime}'s file differs from the ONNX file by {difference:.1%}")
    if precision != "fp32" and cosine < LEAST_COSINE:
        raise CandidateError(
            "export", f"answers of {runtime}'s file and of the ONNX file have a cosine of {cosine:.3f}"
        )


def _ending(status: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"exit status {status}"


def _last_line(said: bytes) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
