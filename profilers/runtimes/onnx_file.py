"""ONNX files: written from a torch module, and quantised. Every runtime of this version reads them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...spaces.errors import CandidateError, DataError, DiskError

if TYPE_CHECKING:
    import torch

__all__ = ["export_failed", "input_shape", "is_quantised", "quantise", "replacing", "without_noise", "write_onnx"]

OPSET = 18


def write_onnx(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
    """Writes a model as one ONNX file without external data, with batch normalisation folded; whole or not at all.

    Args:
        model: any mode; it is exported in evaluation mode and left as it was.
        example: one input, (1, C, H, W).
        path: the file to write.

    Raises:
        CandidateError: `export`, with the reason.
        DiskError: the file cannot be written.
    """
    with replacing(path) as aside:
        _export(model, example, aside)


def quantise(source: Path, calibration: torch.Tensor, path: Path) -> None:
    """Writes an int8 file: activations uint8, weights int8 per channel, quantise-dequantise pairs around operators.

    The ranges of activations are the smallest and the largest value on the calibration samples. On x86 uint8 times int8
    is the fast form, and one scale for all channels loses far more accuracy. Accuracy is lost all the same: score the
    file. onnxruntime runs the calibration on all cores.

    Args:
        source: a file of `write_onnx`.
        calibration: samples (n, C, H, W) as the network takes them.
        path: the file to write.

    Raises:
        CandidateError: `export`, with the reason.
        DiskError: the file cannot be written.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no annotations
        def __init__(self) -> None:
            self._left = iter(range(len(calibration)))
            self._name = _input_of(source).name

        def get_next(self) -> dict[str, object] | None:
            place = next(self._left, None)
            return None if place is None else {self._name: calibration[place : place + 1].numpy()}

    with replacing(path) as aside, tempfile.TemporaryDirectory(prefix="hwnas-quantise-") as folder, without_noise():
        plain = os.path.join(folder, "plain.onnx")
        try:
            quant_pre_process(str(source), plain, skip_symbolic_shape=True)
            quantization.quantize_static(
                plain,
                str(aside),
                Samples(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except (OSError, MemoryError):
            raise
        except Exception as error:  # its exceptions have no common base
            raise export_failed(error) from error


def is_quantised(path: Path) -> bool:
    """True when a file has quantised operators.

    Raises:
        CandidateError: `export`, it is not an ONNX file.
        DataError: it cannot be read.
    """
    return any("QuantizeLinear" in node.op_type or node.op_type.startswith("QLinear") for node in _graph(path).node)


def input_shape(path: Path) -> tuple[int, ...]:
    """Returns the shape of a file's first input; open axes count as 1.

    Raises:
        CandidateError: `export`, it is not an ONNX file, or has no input.
    """
    return tuple(max(int(side.dim_value), 1) for side in _input_of(path).type.tensor_type.shape.dim)


def _input_of(path: Path) -> Any:
    """The first input that is no constant."""
    graph = _graph(path)
    constants = {item.name for item in graph.initializer}
    found = next((item for item in graph.input if item.name not in constants), None)
    if found is None:
        raise CandidateError("export", "the model has no input")
    return found


def _graph(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path), load_external_data=False).graph
    except MemoryError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # protobuf's exceptions have no common base
        raise export_failed(error) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write to, which takes the place of `path` in the end, or is gone."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def export_failed(error: Exception) -> CandidateError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return CandidateError("export", f"{type(error).__name__}: {lines[0] if lines else ''}"[:300])


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
        with without_noise():
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
        raise export_failed(error) from error
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
def without_noise() -> Iterator[None]:
    """Nothing of the exporters' prints, warnings and log lines."""
    root, silent = logging.getLogger(), logging.NullHandler()
    loggers = [root, *(logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export"))]
    root.addHandler(silent)  # or onnxruntime's first warning would set up a handler of its own
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
        root.removeHandler(silent)
