"""Runtimes: what turns a module into a file and runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..spaces.errors import DeviceError, did_you_mean
from .graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["Artifact", "Availability", "Runtime", "get_runtime", "runtime_names"]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a runtime can be used here.

    Attributes:
        ok: True when it can.
        version: of the runtime; empty when missing.
        missing: what is missing, in one line; empty when nothing is.
        install: the command that installs it.
    """

    ok: bool
    version: str = ""
    missing: str = ""
    install: str = ""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model file that a runtime can load.

    Attributes:
        path: the file; it needs no other.
        runtime: name of the runtime.
        precision: e.g. `fp32`.
        input_shape: (1, C, H, W).
        size_bytes: of the file.
    """

    path: Path
    runtime: str
    precision: str
    input_shape: tuple[int, ...]
    size_bytes: int


class Runtime(ABC):
    """What turns a module into a file, runs that file and tells what it executes.

    A new runtime is one file with a subclass, an entry in `_RUNTIMES`, and passes `tests/contracts/test_runtimes.py`.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    runner: ClassVar[str]
    """Module of the measuring process; see `hwnas.profilers.runner`."""

    @staticmethod
    @abstractmethod
    def available() -> Availability:
        """Whether the runtime is installed. Cheap: it does not import the runtime."""

    @abstractmethod
    def convert(
        self,
        model: torch.nn.Module,
        example: torch.Tensor,
        path: Path,
        precision: str = "fp32",
        calibration: torch.Tensor | None = None,
    ) -> Artifact:
        """Writes the model's file, aside first and then renamed.

        Args:
            model: any mode; it is exported in evaluation mode and left as it was.
            example: one input, (1, C, H, W).
            path: the file to write.
            precision: one of `precisions`.
            calibration: inputs (n, C, H, W), for precisions that need them.

        Raises:
            CandidateError: `export`, with the reason.
            DeviceError: no such precision.
            DiskError: the file cannot be written.
        """

    @abstractmethod
    def load(
        self, artifact: Artifact | Path, threads: int = 1
    ) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
        """A function from one input (1, C, H, W) to the model's first output, in this process.

        Raises:
            CandidateError: `export`, the runtime cannot load the file.
            DataError: there is no such file.
        """

    @abstractmethod
    def executed_graph(self, artifact: Artifact | Path, threads: int = 1) -> Graph:
        """The kernels that the runtime launches for one inference.

        Raises:
            CandidateError, DataError: as `load`.
        """


def _onnxruntime() -> type[Runtime]:
    from .ort import OnnxRuntime

    return OnnxRuntime


_RUNTIMES: dict[str, Callable[[], type[Runtime]]] = {"onnxruntime": _onnxruntime}


def runtime_names() -> tuple[str, ...]:
    """Names of all known runtimes, installed or not."""
    return tuple(_RUNTIMES)


def get_runtime(name: str) -> Runtime:
    """The runtime of that name, installed or not.

    Raises:
        DeviceError: there is none; the message has near names.

    >>> get_runtime("onnxruntime").name
    'onnxruntime'
    """
    if name not in _RUNTIMES:
        raise DeviceError(f"unknown runtime '{name}'{did_you_mean(name, _RUNTIMES)}")
    return _RUNTIMES[name]()()
