"""Runtimes: what turns a module into a file and runs it.

Runtimes that make their file from an ONNX file (`OnnxBased`) share one export of a candidate.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ...spaces.errors import DataError, DeviceError, did_you_mean
from ..graph import Graph

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = [
    "Artifact",
    "Availability",
    "Kernel",
    "OnnxBased",
    "Runtime",
    "Session",
    "estimated_names",
    "get_runtime",
    "runtime_names",
    "stored_as",
]


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


@dataclass(frozen=True, slots=True)
class Kernel:
    """What a runtime's own profiler tells of one kernel.

    Attributes:
        name: the runtime's own.
        op: what it computes, in the runtime's words.
        ms: median over the runs, in ms; a profiler's clock is part of it, so the sum exceeds the whole.
        placement: where it runs, e.g. `CPU` or the name of a delegate.
    """

    name: str
    op: str
    ms: float
    placement: str = "CPU"


class Session(ABC):
    """A model file that a runtime has loaded, for one inference at a time."""

    input_shape: tuple[int, ...]
    """(1, C, H, W)"""

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """Runs one sample (1, C, H, W) float32 and returns the model's first output.

        Raises:
            CandidateError: `crash:NAME`, the runtime refuses.
        """

    @abstractmethod
    def bind(self, x: Array) -> Callable[[], object]:
        """Returns a function that runs the model on `x`, with as little around it as the runtime allows.

        `x` may be changed in place between calls; after `take` the next call runs on what it then holds.
        """

    def take(self) -> None:
        """Copies the bound input again, where a runtime has it in a place of its own; not part of an inference."""
        return None


class Runtime(ABC):
    """What turns a module into a file, runs that file and tells what it executes.

    A new runtime is one file with a subclass, an entry in `_RUNTIMES`, and passes `tests/contracts/test_runtimes.py`.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str] = ".onnx"
    """Of the files that it runs."""
    converters: ClassVar[tuple[str, ...]] = ()
    """Packages beside torch, onnx and onnxruntime whose versions decide what is in its files."""
    deadline_s: ClassVar[float] = 60.0
    """Longest time of one request to a measuring process, when none is stated; to compile is part of it."""
    tells_resident: ClassVar[bool] = True
    """Whether the memory of a process that opens a file is the model's; not where a compiler runs in it."""
    module: ClassVar[str] = ""
    """The module that runs files; its name when left out."""

    @staticmethod
    @abstractmethod
    def available() -> Availability:
        """Whether the runtime is installed. Cheap: it does not import the runtime."""

    def start(self) -> None:
        """Imports what `load` needs: the measuring process does so before its first request."""
        import_module(self.name)

    def file(self, model: Path, precision: str) -> Path:
        """Returns the file that this runtime needs, beside the fp32 ONNX file of the same network.

        >>> str(get_runtime("onnxruntime").file(Path("model.onnx"), "int8"))
        'model.int8.onnx'
        """
        stored = stored_as(precision)
        return model.with_suffix(self.suffix if stored == "fp32" else f".{stored}{self.suffix}")

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
            calibration: inputs (n, C, H, W), for int8; the example alone when left out.

        Raises:
            CandidateError: `export`, with the reason.
            DeviceError: no such precision.
            DiskError: the file cannot be written.
        """
        self.check_precision(precision)
        self._write(model, example, path, precision, example if calibration is None else calibration)
        return Artifact(path, self.name, precision, tuple(example.shape), path.stat().st_size)

    @abstractmethod
    def _write(
        self, model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, samples: torch.Tensor
    ) -> None:
        """Writes the file, aside first and then renamed; `samples` are those to calibrate with, (n, C, H, W)."""

    @abstractmethod
    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Session:
        """Opens a model in this process.

        Args:
            artifact: the model, or its file.
            threads: threads of one inference.
            precision: one of `precisions`; the artifact's own, or fp32 for a file, when left out.

        Raises:
            CandidateError: `export`, the runtime cannot load the file.
            DataError: there is no such file.
            DeviceError: the machine cannot do the precision.
        """

    @abstractmethod
    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        """The kernels that the runtime launches for one inference.

        Raises:
            CandidateError, DataError, DeviceError: as `load`.
        """

    def kernels(
        self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None, runs: int = 50
    ) -> tuple[Kernel, ...]:
        """Times of single kernels by the runtime's own profiler, in the order executed; empty where it has none.

        Raises:
            CandidateError, DataError, DeviceError: as `load`.
        """
        return ()

    def arena_bytes(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> int | None:
        """The most bytes that the runtime's own allocator has in use during one inference; None where it does not tell.

        Raises:
            CandidateError, DataError, DeviceError: as `load`.
        """
        return None

    def check_precision(self, precision: str) -> None:
        """Raises DeviceError when the runtime has no such precision."""
        if precision not in self.precisions:
            raise DeviceError(f"{self.name} has no precision '{precision}'{did_you_mean(precision, self.precisions)}")

    def opened(self, artifact: Artifact | Path, precision: str | None) -> tuple[Path, str]:
        """Returns the file and the precision that arguments of `load` mean.

        Raises:
            DataError: there is no such file.
            DeviceError: no such precision.
        """
        path = artifact.path if isinstance(artifact, Artifact) else artifact
        precision = precision or (artifact.precision if isinstance(artifact, Artifact) else "fp32")
        self.check_precision(precision)
        if not path.is_file():
            raise DataError(f"{path}: no such model file")
        return path, precision


class OnnxBased(Runtime):
    """A runtime that makes its file from an ONNX file, or runs that."""

    def _write(
        self, model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, samples: torch.Tensor
    ) -> None:
        from .onnx_file import write_onnx

        if path.suffix == ".onnx" and stored_as(precision) == "fp32":
            write_onnx(model, example, path)
        else:
            with tempfile.TemporaryDirectory(prefix="hwnas-convert-") as folder:
                plain = Path(folder) / "model.onnx"
                write_onnx(model, example, plain)
                self.convert_file(plain, path, precision, samples)

    def convert_file(self, source: Path, path: Path, precision: str, calibration: torch.Tensor) -> None:
        """Makes this runtime's file from an fp32 ONNX file, where that is another one.

        Args:
            source: a file of `write_onnx`, or one like it.
            path: the file to write; it may be `source`, which is then left as it is.
            precision: one of `precisions`.
            calibration: inputs (n, C, H, W), for int8.

        Raises:
            CandidateError, DeviceError, DiskError: as `convert`.
        """
        from .onnx_file import quantise

        self.check_precision(precision)
        if path != source:
            quantise(source, calibration, path)


def stored_as(precision: str) -> Literal["fp32", "int8"]:
    """Returns the precision of the file that a runtime needs: bf16 is a runtime's own way to run an fp32 file."""
    return "int8" if precision == "int8" else "fp32"


_RUNTIMES = {
    "onnxruntime": ("ort", "OnnxRuntime"),
    "openvino": ("ov", "OpenVino"),
    "litert": ("litert", "LiteRt"),
    "ncnn": ("ncnn_runtime", "Ncnn"),
    "mnn": ("mnn", "Mnn"),
    "executorch": ("et", "ExecuTorch"),
    "torch": ("eager", "TorchEager"),
    "torch-compile": ("compiled", "TorchCompile"),
    "torch-aoti": ("compiled", "AotInductor"),
    "torch-cuda": ("eager", "TorchCuda"),
}
"""Name → module of this folder and class in it; imported when it is asked for."""

_ESTIMATED = {
    f"ethos-{name}": ("ethos_u", "EthosU")
    for name in (
        *(f"u55-{macs}" for macs in (32, 64, 128, 256)),
        *(f"u65-{macs}" for macs in (256, 512)),
        *(f"u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
    )
}
"""Accelerators that are estimated, not run, by the name of Vela's configuration."""


def runtime_names() -> tuple[str, ...]:
    """Names of all known runtimes, installed or not."""
    return tuple(_RUNTIMES)


def estimated_names() -> tuple[str, ...]:
    """Names of what is only estimated, installed or not."""
    return tuple(_ESTIMATED)


def get_runtime(name: str) -> Runtime:
    """The runtime of that name, installed or not; of an estimated name the one that makes and runs its files here.

    Raises:
        DeviceError: there is none; the message has near names.

    >>> get_runtime("onnxruntime").name
    'onnxruntime'
    """
    known = {**_RUNTIMES, **_ESTIMATED}
    if name not in known:
        raise DeviceError(f"unknown runtime '{name}'{did_you_mean(name, known)}")
    module, kind = known[name]
    found: type[Runtime] = getattr(import_module(f".{module}", __package__), kind)
    return found()
