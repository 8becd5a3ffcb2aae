"""LiteRT (TensorFlow Lite) on the CPU: fp32 and int8 files, and the operators of a file.

The first conversion of a process imports the converter, which takes seconds. What takes the time of a conversion is
torch.export's decomposition, which the converter runs three times over, and the lowering of operators by way of jax.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...spaces.errors import CandidateError
from ..graph import Graph, Node, Shape, count_macs, peak_bytes
from .onnx_file import export_failed, replacing
from .runtime import Artifact, Availability, Runtime, Session

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["LiteRt"]

INSTALL = f"pip install --no-deps -r {Path(__file__).with_name('litert.txt')}"
"""An extra cannot say it: the converter's packages name others that they do not need, and versions that do not fit."""

LARGEST_BYTES = 8 << 30
"""Largest sum of the tensors that a file may declare."""

_OPERATORS = {
    "CONV_2D": "Conv",
    "DEPTHWISE_CONV_2D": "Conv",
    "TRANSPOSE_CONV": "ConvTranspose",
    "FULLY_CONNECTED": "Gemm",
    "BATCH_MATMUL": "MatMul",
    "AVERAGE_POOL_2D": "AveragePool",
    "MAX_POOL_2D": "MaxPool",
    "MEAN": "ReduceMean",
    "SUM": "ReduceSum",
    "REDUCE_MAX": "ReduceMax",
    "LOGISTIC": "Sigmoid",
    "CONCATENATION": "Concat",
    "QUANTIZE": "QuantizeLinear",
    "DEQUANTIZE": "DequantizeLinear",
    "MAXIMUM": "Max",
    "MINIMUM": "Min",
    "PADV2": "Pad",
    "RELU6": "Clip",
    "PRELU": "PRelu",
    "RESIZE_BILINEAR": "Resize",
    "RESIZE_NEAREST_NEIGHBOR": "Resize",
    "EXPAND_DIMS": "Unsqueeze",
    "BROADCAST_TO": "Expand",
}
"""LiteRT's operators → the names of ONNX, by which operators are counted; others keep their own, as `HardSwish`."""

_IMAGES = frozenset({"Conv", "ConvTranspose", "AveragePool", "MaxPool"})
"""Operators whose shapes are given as (N, C, H, W); LiteRT has the channels last."""

_DELEGATE = "DELEGATE"


class LiteRt(Runtime):
    """Batch 1, one float or int8 input, the built-in kernels and the XNNPACK delegate.

    Needs `ai-edge-litert` to run a file, and `litert-torch` and `ai-edge-quantizer` besides to convert a module.
    Per-kernel times are not there: the interpreter's profiler cannot be reached from Python.
    """

    name: ClassVar[str] = "litert"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    suffix: ClassVar[str] = ".tflite"
    converters: ClassVar[tuple[str, ...]] = ("litert-torch", "litert-converter", "ai-edge-quantizer")

    def start(self) -> None:
        import_module("ai_edge_litert.interpreter")

    @staticmethod
    def available() -> Availability:
        needed = {
            "ai-edge-litert": "ai_edge_litert",
            "litert-torch": "litert_torch",
            "ai-edge-quantizer": "ai_edge_quantizer",
            "litert-converter": "litert_converter",
        }
        missing = [package for package, module in needed.items() if util.find_spec(module) is None]
        if missing:
            return Availability(False, missing=", ".join(missing), install=INSTALL)
        return Availability(True, metadata.version("ai-edge-litert"))

    def _write(
        self, model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, samples: torch.Tensor
    ) -> None:
        """An int8 file is static: activations int8, weights int8 per channel, also input and output."""
        with replacing(path) as aside:
            try:
                with _hushed(), _evaluated(model):
                    data = _converted(model, example)
                    if precision == "int8":
                        data = _quantised(data, samples)
            except (OSError, MemoryError):
                raise
            except Exception as error:  # whatever a candidate's code or the converter raises
                raise export_failed(error) from error
            aside.write_bytes(data)

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> LiteRtSession:
        path, _ = self.opened(artifact, precision)
        return LiteRtSession(path, threads)

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        """The file's operators in order; `domain` says which kernels run one: `xnnpack` or LiteRT's own (`litert`).

        What XNNPACK fuses further it does not tell.
        """
        return self.load(artifact, threads, precision).graph()


class LiteRtSession(Session):
    """A model that LiteRT has loaded.

    An int8 file takes and gives int8; the session quantises what it is given and dequantises the answer. The bound
    function does neither: on a device the samples come from a sensor, and the answer is compared as it is.

    Args:
        path: the file.
        threads: threads of one inference.

    Raises:
        CandidateError: `export`, LiteRT cannot load it, it declares more than LARGEST_BYTES, or has not exactly one
            input of type float or int8.
    """

    def __init__(self, path: Path, threads: int) -> None:
        with _hushed_interpreter() as interpreter:
            try:
                self._interpreter = interpreter(str(path), num_threads=threads)  # checks that the file is whole
                self._check_size()
                self._interpreter.allocate_tensors()
            except (MemoryError, CandidateError):
                raise
            except Exception as error:  # ValueError and RuntimeError
                raise CandidateError("export", f"litert cannot load the model: {_first_line(error)}") from None
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1 or inputs[0]["dtype"].__name__ not in ("float32", "int8", "uint8"):
            found = ", ".join(f"{item['name']}: {item['dtype'].__name__}" for item in inputs)
            raise CandidateError("export", f"a model must have one float or int8 input, found {found or 'none'}"[:300])
        self._input, self._output = inputs[0], self._interpreter.get_output_details()[0]
        self.input_shape = tuple(int(side) for side in self._input["shape"])

    @property
    def quantised(self) -> bool:
        """True when the file computes in int8."""
        return any(item["dtype"].__name__ == "int8" for item in self._tensors())

    def __call__(self, x: Array) -> Array:
        try:
            self._interpreter.set_tensor(self._input["index"], _stored(x, self._input))
            self._interpreter.invoke()
            return _real(self._interpreter.get_tensor(self._output["index"]), self._output)
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise CandidateError("crash:litert", _first_line(error)) from None

    def bind(self, x: Array) -> Callable[[], object]:
        invoke, answer, place = self._interpreter.invoke, self._interpreter.get_tensor, self._output["index"]
        self._given = x
        self.take()

        def bound() -> object:
            invoke()
            return answer(place)

        return bound

    def take(self) -> None:
        """LiteRT keeps a copy; its `benchmark_model` fills the inputs outside the time of a run, too."""
        self._interpreter.set_tensor(self._input["index"], _stored(self._given, self._input))

    def graph(self) -> Graph:
        """The operators that LiteRT launches, and what it gives to XNNPACK."""
        launches = self._interpreter._get_ops_details()
        operators = [item for item in launches if item["op_name"] != _DELEGATE]
        tensors = {item["index"]: item for item in self._tensors()}
        makers = {int(made): place for place, item in enumerate(operators) for made in item["outputs"]}
        delegated = _delegated(launches, operators, makers)
        given = {int(self._input["index"])}
        nodes: list[Node] = []
        edges: set[tuple[int, int]] = set()
        for place, item in enumerate(operators):
            reads = [int(read) for read in item["inputs"] if read >= 0]
            activations = [read for read in reads if read in makers or read in given]
            edges |= {(makers[read], place) for read in activations if read in makers}
            domain = "xnnpack" if place in delegated else "litert"
            constants = [tensors[read] for read in reads if read not in activations]
            made = [tensors[int(made)] for made in item["outputs"]]
            name = f"{place}:{made[0]['name']}" if made else f"{place}"
            nodes.append(_node(name, item["op_name"], domain, [tensors[read] for read in activations], constants, made))
        peak = _peak(operators, makers, tensors, given, {int(self._output["index"])})
        return Graph(tuple(nodes), tuple(sorted(edges)), f"litert {metadata.version('ai-edge-litert')}", peak)

    def _tensors(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._interpreter.get_tensor_details()
        return found

    def _check_size(self) -> None:
        declared = sum(_size(item) for item in self._tensors())
        if declared > LARGEST_BYTES:
            raise CandidateError("export", f"the model declares tensors of {declared} bytes")


def _converted(model: torch.nn.Module, example: torch.Tensor) -> bytes:
    """Returns the fp32 file of a model."""
    import litert_torch
    import torch

    with torch.no_grad():
        data: bytes = litert_torch.convert(_folded(model), (example,)).model_content()
    return data


def _folded(model: torch.nn.Module) -> torch.nn.Module:
    """A copy with batch normalisation folded into convolutions, which is a quarter of the conversion's time.

    A model that torch.fx cannot trace is returned as it is; the converter folds then.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        return fuse(model)
    except (OSError, MemoryError):
        raise
    except Exception:  # whatever a candidate's code raises: the converter may get further
        return model


def _quantised(data: bytes, calibration: torch.Tensor) -> bytes:
    """Returns the int8 file of an fp32 one.

    Args:
        data: the fp32 file.
        calibration: samples (n, C, H, W) as the network takes them.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    ((signature, names),) = Interpreter(model_content=data).get_signature_list().items()
    samples = [{names["inputs"][0]: calibration[place : place + 1].numpy()} for place in range(len(calibration))]
    worker = quantizer.Quantizer(data, recipe.static_wi8_ai8())
    return bytes(worker.quantize(worker.calibrate({signature: samples})).quantized_model)


def _delegated(launches: list[dict[str, Any]], operators: list[dict[str, Any]], makers: dict[int, int]) -> set[int]:
    """Returns which operators a delegate has taken: those between its outputs and its inputs."""
    taken: set[int] = set()
    for launch in launches:
        if launch["op_name"] == _DELEGATE:
            begins = {int(read) for read in launch["inputs"]}
            waiting = [int(made) for made in launch["outputs"]]
            while waiting:
                tensor = waiting.pop()
                place = makers.get(tensor)
                if place is not None and tensor not in begins and place not in taken:
                    taken.add(place)
                    waiting += [int(read) for read in operators[place]["inputs"]]
    return taken


def _node(
    name: str,
    kind: str,
    domain: str,
    inputs: list[dict[str, Any]],
    constants: list[dict[str, Any]],
    outputs: list[dict[str, Any]],
) -> Node:
    op = _OPERATORS.get(kind, "".join(part.capitalize() for part in kind.split("_")))
    shapes = [_shape(item) for item in inputs]
    weights = [_shape(item) for item in constants]
    made = [_shape(item) for item in outputs]
    if op in _IMAGES:
        shapes, made = [_channels_first(shape) for shape in shapes], [_channels_first(shape) for shape in made]
        weights = [_filters(kind, shape) for shape in weights]
    reach = shapes
    if op == "Gemm" and weights:  # it may take the samples unflattened
        reach = [(1, weights[0][-1]), *shapes[1:]]
    elif op == "MatMul" and shapes and made:  # either operand may be transposed: (.., m, k) or (.., k, m)
        reach = [(shapes[0][-1] * shapes[0][-2] // max(made[0][-2], 1),), *shapes[1:]]
    counted = [shape for shape in weights if len(shape) > 1] if op in ("Conv", "ConvTranspose", "Gemm") else weights
    return Node(
        name=name,
        op=op,
        domain=domain,
        inputs=tuple(shapes),
        outputs=tuple(made),
        dtype=outputs[0]["dtype"].__name__ if outputs else "",
        group=_groups(kind, shapes, weights),
        attributes={"kernel": list(weights[0][2:])} if op in ("Conv", "ConvTranspose") and weights else {},
        weight_bytes=sum(map(_size, constants)),
        bytes_in=sum(map(_size, inputs)),
        bytes_out=sum(map(_size, outputs)),
        macs=count_macs(op, reach, counted, made),
        weights=tuple(weights),
    )


def _groups(kind: str, inputs: list[Shape], weights: list[Shape]) -> int:
    if kind == "DEPTHWISE_CONV_2D" and inputs:
        return inputs[0][1]
    if kind == "CONV_2D" and inputs and weights and len(weights[0]) == 4:
        return max(inputs[0][1] // max(weights[0][1], 1), 1)
    return 1


def _channels_first(shape: Shape) -> Shape:
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape


def _filters(kind: str, shape: Shape) -> Shape:
    """Returns the shape of filters as ONNX has it, (out, in / group, *kernel), or (in, out, *kernel) transposed."""
    if len(shape) != 4:
        return shape
    first, high, wide, last = shape
    turned = kind in ("DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")  # (1, *kernel, out) and (out, *kernel, in)
    return (last, first, high, wide) if turned else (first, last, high, wide)


def _peak(
    operators: list[dict[str, Any]],
    makers: dict[int, int],
    tensors: dict[int, dict[str, Any]],
    given: set[int],
    kept: set[int],
) -> int:
    """Largest sum of live activations: a tensor lives from the operator that makes it to the last that reads it."""
    last = {int(read): place for place, item in enumerate(operators) for read in item["inputs"]}
    end = len(operators) - 1
    spans = [
        (makers.get(item, 0), end if item in kept else last.get(item, makers.get(item, 0)), _size(tensors[item]))
        for item in (*given, *makers)
    ]
    return peak_bytes(spans, len(operators))


def _shape(tensor: dict[str, Any]) -> Shape:
    return tuple(int(side) for side in tensor["shape"])


def _size(tensor: dict[str, Any]) -> int:
    import numpy as np

    return math.prod(_shape(tensor)) * int(np.dtype(tensor["dtype"]).itemsize)


def _stored(x: Array, tensor: dict[str, Any]) -> Array:
    """Returns samples in the type of a file's input."""
    import numpy as np

    kind = tensor["dtype"]
    if kind is np.float32:
        return np.ascontiguousarray(x, np.float32)
    scale, zero = tensor["quantization"]
    bounds = np.iinfo(kind)
    stored: Array = np.clip(np.round(x / (scale or 1.0)) + zero, bounds.min, bounds.max).astype(kind)
    return stored


def _real(y: Array, tensor: dict[str, Any]) -> Array:
    """Returns a file's output as float32."""
    import numpy as np

    if y.dtype.kind not in "iu":
        return np.asarray(y, np.float32)
    scale, zero = tensor["quantization"]
    real: Array = ((y.astype(np.float32) - zero) * (scale or 1.0)).astype(np.float32)
    return real


@contextlib.contextmanager
def _hushed_interpreter() -> Iterator[Callable[..., Any]]:
    """Gives the interpreter's class, without the line that LiteRT prints with its first model."""
    with _hushed():
        from ai_edge_litert.interpreter import Interpreter

        yield Interpreter


@contextlib.contextmanager
def _evaluated(model: torch.nn.Module) -> Iterator[None]:
    """A model in evaluation mode, left as it was."""
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in was_training.items():
            module.training = mode


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Nothing of what Python and C++ print, and no warnings: the converter and LiteRT write to the descriptors."""
    kept = [os.dup(1), os.dup(2)]
    try:
        with (
            tempfile.TemporaryFile() as sink,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            os.dup2(sink.fileno(), 1)
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        for number, saved in enumerate(kept, start=1):
            os.dup2(saved, number)
            os.close(saved)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
