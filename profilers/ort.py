"""onnxruntime on the CPU: export through torch's ONNX exporter, fp32."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..spaces.errors import CandidateError, DeviceError, DiskError, did_you_mean
from .graph import Graph
from .runtime import Artifact, Availability, Runtime

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["OnnxRuntime"]

OPSET = 18


class OnnxRuntime(Runtime):
    """Batch 1, one float input, one file without external data, batch normalisation folded into the convolutions."""

    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    runner: ClassVar[str] = "hwnas.profilers.runner"

    @staticmethod
    def available() -> Availability:
        missing = [name for name in ("onnxruntime", "onnx") if util.find_spec(name) is None]
        if missing:
            return Availability(False, missing=", ".join(missing), install=f"pip install {' '.join(missing)}")
        return Availability(True, metadata.version("onnxruntime"))

    def convert(
        self,
        model: torch.nn.Module,
        example: torch.Tensor,
        path: Path,
        precision: str = "fp32",
        calibration: torch.Tensor | None = None,
    ) -> Artifact:
        if precision not in self.precisions:
            raise DeviceError(f"{self.name} has no precision '{precision}'{did_you_mean(precision, self.precisions)}")
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _export(model, example, aside)
            size = aside.stat().st_size
            aside.replace(path)
        except OSError as error:
            raise DiskError(f"{path}: cannot write the model ({error.strerror or error})") from error
        finally:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
        return Artifact(path, self.name, precision, tuple(example.shape), size)

    def load(
        self, artifact: Artifact | Path, threads: int = 1
    ) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
        from .session import open_session, run_once

        session = open_session(_path(artifact), threads)
        return lambda x: run_once(session, x)

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1) -> Graph:
        from .session import executed_graph

        return executed_graph(_path(artifact), threads)


def _path(artifact: Artifact | Path) -> Path:
    return artifact.path if isinstance(artifact, Artifact) else artifact


def _export(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    """Writes the ONNX file, by the tracing exporter, or by the graph-capturing one where that fails.

    Both are torch.onnx.export. Tracing takes 0.07 s for a network of 30 layers and the other 1.5 s
    (torch 2.13, 2.4 GHz), which would be most of a short trial; the files run equally fast.

    Raises:
        CandidateError: `export`, neither can.
    """
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with _quiet():
            try:
                _trace(model, example, path)
            except (OSError, MemoryError):
                raise
            except Exception as first:  # an operator or a construct that tracing does not know
                try:
                    _capture(model, example, path)
                except Exception:
                    raise first from None  # the plainer of the two reasons
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a candidate's code or the exporter raises
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
        raise CandidateError("export", reason[:300]) from error
    finally:
        for module, mode in was_training.items():
            module.training = mode


def _trace(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    import torch

    with torch.no_grad():
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            verbose=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
        )


def _capture(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    import torch

    with torch.no_grad():
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=["output"],
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of the exporters' prints, warnings and log lines."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
