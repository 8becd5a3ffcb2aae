"""torch itself, operator by operator: on the CPU, and on a CUDA device.

Measured is what torch takes for the operators of the network with batch normalisation folded, channels last, without
gradients; not what Python takes for `nn.Module.forward`. The file is that of `aten_file`.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...spaces.errors import CandidateError, DeviceError
from ..fingerprint import cpu_flags
from ..graph import Graph, Node, Shape, count_macs, peak_activations
from .aten import onnx_name
from .aten_file import read_aten, write_aten
from .folding import fold
from .module_conversion import converting
from .runtime import Artifact, Availability, Kernel, Runtime, Session

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["TorchCuda", "TorchEager", "TorchSession", "first_line"]

_TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Of processors that multiply bfloat16: x86 and Arm."""
_CUDA_FILES = ("/dev/nvidiactl", "/dev/dxg")
"""One of them exists where there is a driver of a CUDA device."""
_CAPTURE_RUNS = 3
"""Inferences before one is captured, as torch's documentation asks for."""


class TorchEager(Runtime):
    """Batch 1, one float input, on the CPU; the threads are those of the whole process."""

    name: ClassVar[str] = "torch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    suffix: ClassVar[str] = ".aten"
    device: ClassVar[str] = "cpu"

    @staticmethod
    def available() -> Availability:
        missing = [name for name in ("torch", "safetensors") if util.find_spec(name) is None]
        if missing:
            return Availability(False, missing=", ".join(missing), install=f"pip install {' '.join(missing)}")
        return Availability(True, metadata.version("torch"))

    def start(self) -> None:
        import torch  # noqa: F401

    def _write(
        self, model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, samples: torch.Tensor
    ) -> None:
        with converting(model, path) as aside:
            write_aten(fold(model, example), example, aside)

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> TorchSession:
        path, precision = self.opened(artifact, precision)
        self.check_processor(precision)
        return TorchSession(path, threads, precision)

    def check_processor(self, precision: str) -> None:
        """Raises DeviceError when this machine's processor has no such arithmetic."""
        if precision == "bf16" and not _BF16_FLAGS & cpu_flags():
            raise DeviceError(f"{self.name}: this processor has no bf16; ask for fp32")

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        """The operators that torch dispatches, with the shapes of one inference."""
        session = self.load(artifact, threads, precision)
        return session.graph(f"{self.name} {metadata.version('torch')}")

    def kernels(
        self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None, runs: int = 50
    ) -> tuple[Kernel, ...]:
        """Times of single operators, waited for one by one, by a clock around each."""
        return self.load(artifact, threads, precision).kernels(runs)


class TorchCuda(TorchEager):
    """As `torch`, on the first CUDA device; an inference is one replay of a CUDA graph, waited for.

    The input lies on the device already. fp32 means fp32: TF32, which cuDNN would use by default, is off.
    """

    name: ClassVar[str] = "torch-cuda"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")
    device: ClassVar[str] = "cuda"

    @staticmethod
    def available() -> Availability:
        found = TorchEager.available()
        if not found.ok:
            return found
        if found.version.endswith("+cpu"):
            return Availability(False, missing="a torch with CUDA", install="see https://pytorch.org/get-started")
        if not any(os.path.exists(path) for path in _CUDA_FILES):
            return Availability(False, missing="a CUDA device", install="a machine with one and NVIDIA's driver")
        return found

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> CudaSession:
        import torch

        path, precision = self.opened(artifact, precision)
        if not torch.cuda.is_available():
            raise DeviceError("torch-cuda: torch finds no CUDA device")
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise DeviceError("torch-cuda: this processor has no bf16; ask for fp16")
        return CudaSession(path, threads, precision, self.device)


class TorchSession(Session):
    """A network of ATen operators.

    Args:
        path: the file.
        threads: threads of one inference, and of all others in this process.
        precision: fp32, fp16 or bf16.
        device: as torch names it.

    Raises:
        CandidateError: `export`, it is not such a file.
    """

    def __init__(self, path: Path, threads: int, precision: str, device: str = "cpu") -> None:
        import torch

        torch.set_num_threads(threads)
        module, self.input_shape = read_aten(path)
        self._type: torch.dtype = getattr(torch, _TYPES[precision])
        module.to(device, self._type)
        self._module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not annotated
        self._device = device

    def __call__(self, x: Array) -> Array:
        import torch

        try:
            with torch.inference_mode():
                found: Array = self._module.forward(self._taken(x))[0].float().cpu().numpy()
        except MemoryError:
            raise
        except Exception as error:  # torch raises RuntimeError and many more
            raise CandidateError("crash:torch", first_line(error)) from None
        return found

    def bind(self, x: Array) -> Callable[[], object]:
        """To set the channels last is part of an inference: other runtimes do so, too."""
        import torch

        forward, sample, last = self._module.forward, torch.from_numpy(x), torch.channels_last
        kind = self._type

        def bound() -> object:
            with torch.inference_mode():
                return forward(sample.to(kind, memory_format=last))

        return bound

    def graph(self, runtime: str) -> Graph:
        """The operators with the shapes of one inference."""
        recorded = self._interpreted(1)
        places = {node: place for place, node in enumerate(recorded)}
        edges = {
            (places[source], place)
            for node, place in places.items()
            for source in _sources(node)
            if source in places  # not the input or a weight
        }
        nodes = tuple(_node(node, value) for node, (value, _) in recorded.items())
        return Graph(nodes, tuple(sorted(edges)), runtime, peak_activations(nodes, edges))

    def kernels(self, runs: int) -> tuple[Kernel, ...]:
        """Median times of the operators."""
        return tuple(
            Kernel(node.name, str(node.target), statistics.median(times), self._device.upper())
            for node, (_, times) in self._interpreted(runs).items()
        )

    def _interpreted(self, runs: int) -> dict[Any, tuple[Any, list[float]]]:
        """Runs operator by operator; returns for each its result and its times in ms."""
        import numpy as np
        import torch

        recorded: dict[Any, tuple[Any, list[float]]] = {}
        wait = self._wait

        class Recorder(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> Any:
                start = time.perf_counter()
                value = super().run_node(n)
                wait()
                ms = (time.perf_counter() - start) * 1e3
                if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload):
                    n.meta["shapes"] = [_shapes(self.env[item]) for item in n.all_input_nodes if item in self.env]
                    recorded.setdefault(n, (value, []))[1].append(ms)
                return value

        recorder = Recorder(self._module, garbage_collect_values=False)
        x = self._taken(np.zeros(self.input_shape, np.float32))
        try:
            with torch.inference_mode():
                for _ in range(runs):
                    recorder.run(x)
        except Exception as error:  # as above
            raise CandidateError("export", f"torch cannot run the model: {first_line(error)}") from None
        return recorded

    def _taken(self, x: Array) -> torch.Tensor:
        import torch

        return torch.from_numpy(x).to(self._device, self._type, memory_format=torch.channels_last)

    def _wait(self) -> None:
        """Returns when all that was asked for is done: on the CPU, at once."""


class CudaSession(TorchSession):
    """As `TorchSession`, on a CUDA device."""

    def __init__(self, path: Path, threads: int, precision: str, device: str) -> None:
        import torch

        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.benchmark = True  # the shapes never change
        super().__init__(path, threads, precision, device)

    def bind(self, x: Array) -> Callable[[], object]:
        """Captures one inference; a network that cannot be captured is run operator by operator."""
        import torch

        sample, forward = self._taken(x), self._module.forward
        self._given, self._held = x, sample
        with torch.inference_mode():
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(_CAPTURE_RUNS):
                    forward(sample)
            torch.cuda.current_stream().wait_stream(aside)
            captured = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(captured):
                    outputs = forward(sample)
            except RuntimeError:
                return lambda: self._plainly(sample)

        def bound() -> object:
            captured.replay()
            torch.cuda.synchronize()
            return outputs

        return bound

    def take(self) -> None:
        """Copies the input to the device, where an inference reads it."""
        import torch

        self._held.copy_(torch.from_numpy(self._given))
        torch.cuda.synchronize()

    def _plainly(self, sample: torch.Tensor) -> object:
        import torch

        with torch.inference_mode():
            outputs = self._module.forward(sample)
        torch.cuda.synchronize()
        return outputs

    def _wait(self) -> None:
        import torch

        torch.cuda.synchronize()


def _sources(node: Any) -> list[Any]:
    """The operators that an operator reads from, through the picking of one of several results."""
    found = []
    for source in node.all_input_nodes:
        found += (
            _sources(source) if source.op == "call_function" and not hasattr(source.target, "_schema") else [source]
        )
    return found


def _node(node: Any, value: Any) -> Node:
    """Describes an operator; its inputs are those that are no weights."""
    weights: list[Shape] = []
    inputs: list[Shape] = []
    sizes = {"weights": 0, "inputs": 0}
    for source, shapes in zip(node.all_input_nodes, node.meta["shapes"], strict=True):
        constant = source.op == "get_attr"
        (weights if constant else inputs).extend(shape for shape, _ in shapes)
        sizes["weights" if constant else "inputs"] += sum(size for _, size in shapes)
    schema = node.target._schema
    told = {item.name: value for item, value in zip(schema.arguments, node.args, strict=False)} | dict(node.kwargs)
    op = onnx_name(schema.name)
    if schema.name == "aten::addmm" and len(inputs) > 1:
        inputs = inputs[1:] + inputs[:1]  # the bias comes first
    if told.get("transposed") is True:
        op = "ConvTranspose"
    outputs = tuple(shape for shape, _ in _shapes(value))
    kernel = {"kernel": list(weights[0][2:])} if op in ("Conv", "ConvTranspose") and weights else {}
    return Node(
        name=node.name,
        op=op,
        domain="aten",
        inputs=tuple(inputs),
        outputs=outputs,
        dtype=_dtype(value),
        group=int(told.get("groups", 1)),
        attributes=kernel,
        weight_bytes=sizes["weights"],
        bytes_in=sizes["inputs"],
        bytes_out=sum(size for _, size in _shapes(value)),
        macs=count_macs(op, inputs, weights, outputs),
        weights=tuple(weights),
    )


def _shapes(value: Any) -> list[tuple[Shape, int]]:
    """Returns shape and bytes of a tensor, or of each in a list."""
    if isinstance(value, list | tuple):
        return [pair for item in value for pair in _shapes(item)]
    if not hasattr(value, "element_size"):
        return []
    return [(tuple(int(side) for side in value.shape), value.numel() * value.element_size())]


def _dtype(value: Any) -> str:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return str(getattr(first, "dtype", "unknown")).removeprefix("torch.")


def first_line(error: Exception) -> str:
    """What torch says of an error, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
