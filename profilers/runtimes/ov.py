"""OpenVINO on the CPU: fp32, bf16 where the processor has it, int8 files, and the graph that it really executes."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...spaces.errors import CandidateError, DeviceError
from ..graph import Graph, Node, Shape, count_macs, peak_activations
from .runtime import Artifact, Availability, Kernel, OnnxBased, Session

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["OpenVino"]

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""Precision → what layers without int8 weights compute in; OpenVINO's own default is bf16 where there is one."""

_OPERATORS = {
    "Convolution": "Conv",
    "Deconvolution": "ConvTranspose",
    "FullyConnected": "Gemm",
    "MatMul": "MatMul",
    "Reduce": "ReduceMean",
    "Pooling": "AveragePool",
    "Reorder": "ReorderInput",
    "Eltwise": "Add",
    "Interpolate": "Resize",
    "Concatenation": "Concat",
    "SoftMax": "Softmax",
    "MVN": "BatchNormalization",
}
"""OpenVINO's kinds of layers → the names of ONNX, by which operators are counted; others keep their own."""

_PRODUCTS = frozenset({"MatMul", "Convolution", "GroupConvolution", "ScaledDotProductAttention"})
"""OpenVINO's operators that multiply and add."""

_BYTES = {"f64": 8, "i64": 8, "u64": 8, "f32": 4, "i32": 4, "u32": 4, "f16": 2, "bf16": 2, "i16": 2, "u16": 2}


class OpenVino(OnnxBased):
    """Batch 1, one float input, one stream, no pinning."""

    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16", "int8")

    @staticmethod
    def available() -> Availability:
        if util.find_spec("openvino") is None:
            return Availability(False, missing="openvino", install="pip install 'hwnas[openvino]'")
        return Availability(True, metadata.version("openvino"))

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> OvSession:
        path, precision = self.opened(artifact, precision)
        return OvSession(path, threads, precision)

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        return self.load(artifact, threads, precision).graph()

    def kernels(
        self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None, runs: int = 50
    ) -> tuple[Kernel, ...]:
        """Times of OpenVINO's own counters (PERF_COUNT): means, not medians, cut to whole microseconds.

        Raises:
            CandidateError, DataError, DeviceError: as `load`.
        """
        path, precision = self.opened(artifact, precision)
        return OvSession(path, threads, precision, counting=True).kernels(runs)


class OvSession(Session):
    """A model that OpenVINO has compiled.

    Args:
        path: the file.
        threads: threads of one inference.
        precision: fp32, bf16 or int8.
        counting: whether kernels are timed.

    Raises:
        CandidateError: `export`, OpenVINO cannot load it, or it has not exactly one input of type float.
        DeviceError: the processor has no bf16.
    """

    def __init__(self, path: Path, threads: int, precision: str, counting: bool = False) -> None:
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise DeviceError("openvino: this processor has no bf16; ask for fp32")
        try:
            model = core.read_model(str(path))
            self._kinds = {op.get_friendly_name(): op.get_type_name() for op in model.get_ops()}
            self._compiled = core.compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _HINTS[precision],
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "ENABLE_CPU_PINNING": False,
                    "PERF_COUNT": counting,
                },
            )
        except MemoryError:
            raise
        except Exception as error:  # openvino raises RuntimeError and its own kinds
            raise CandidateError("export", f"openvino cannot load the model: {_last_line(error)}") from None
        inputs = self._compiled.inputs
        if len(inputs) != 1 or inputs[0].get_element_type() != openvino.Type.f32:
            found = ", ".join(str(item) for item in inputs)
            raise CandidateError("export", f"a model must have one float input, found {found or 'none'}"[:300])
        sides = inputs[0].get_partial_shape()
        self.input_shape = tuple(int(side.get_length()) if side.is_static else 1 for side in sides)
        self._request = self._compiled.create_infer_request()

    def __call__(self, x: Array) -> Array:
        try:
            result: Array = self._request.infer({0: x})[0].copy()
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise CandidateError("crash:openvino", _last_line(error)) from None
        return result

    def bind(self, x: Array) -> Callable[[], object]:
        import openvino

        request = self._request
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        # Python's wrapper takes a quarter of the time of a very small network: call what it wraps
        infer = super(type(request), request).infer  # type: ignore[misc]  # openvino has no annotations

        def bound() -> object:
            return infer({}, True, False), x  # openvino does not keep the samples alive

        return bound

    def kernels(self, runs: int) -> tuple[Kernel, ...]:
        """What OpenVINO's counters say, for a session that counts; in the order of the graph, with its names.

        The counters are means over all runs so far, so the first run, which prepares kernels, is taken off.
        """
        import numpy as np

        nodes = {node.name: node for node in self.graph().nodes}
        infer = self.bind(np.zeros(self.input_shape, np.float32))
        infer()
        first = self._counters()
        for _ in range(runs):
            infer()
        means = self._counters()
        return tuple(
            Kernel(name, node.op, max((runs + 1) * means[name] - first.get(name, 0.0), 0.0) / runs)
            for name, node in nodes.items()
            if name in means
        )

    def _counters(self) -> dict[str, float]:
        """Mean time in ms of each kernel; 0 below a microsecond."""
        told = self._request.get_profiling_info()
        return {item.node_name: item.real_time / timedelta(milliseconds=1) for item in told}

    def graph(self) -> Graph:
        """The kernels that OpenVINO launches, as its compiled model describes them."""
        nodes: list[Node] = []
        edges: set[tuple[int, int]] = set()
        makers: dict[str, int] = {}
        constants: set[str] = set()
        for layer in self._compiled.get_runtime_model().get_ordered_ops():
            kind = _told(layer, "layerType")
            sources = [item.get_source_output().get_node() for item in layer.inputs()]
            names = [source.get_friendly_name() for source in sources]
            if kind == "Const" or (names and constants.issuperset(names)):  # also what is computed when it is compiled
                constants.add(layer.get_friendly_name())
            elif kind not in ("Input", "Output"):
                edges |= {(makers[name], len(nodes)) for name in names if name in makers}
                makers[layer.get_friendly_name()] = len(nodes)
                fused = {self._kinds.get(name, "") for name in _told(layer, "originalLayersNames").split(",")}
                if kind == "Subgraph" and fused & _PRODUCTS:
                    kind = "Subgraph with products"  # such as fused attention: not counted, and said so
                nodes.append(_node(layer, kind, sources, [name in constants for name in names]))
        return Graph(
            tuple(nodes),
            tuple(sorted(edges)),
            f"openvino {metadata.version('openvino')}",
            peak_activations(nodes, edges),
        )


def _node(layer: Any, kind: str, sources: list[Any], constant: list[bool]) -> Node:
    op = _OPERATORS.get(kind, kind)
    shapes = [_shape(item) for item in layer.inputs()]
    sizes = [_size(shape, _told(source, "runtimePrecision")) for shape, source in zip(shapes, sources, strict=True)]
    weights = tuple(shape for shape, is_constant in zip(shapes, constant, strict=True) if is_constant)
    inputs = tuple(shape for shape, is_constant in zip(shapes, constant, strict=True) if not is_constant)
    outputs = tuple(_shape(item) for item in layer.outputs())
    group = 1
    if op == "Conv" and weights and len(weights[0]) == len(outputs[0]) + 1:
        group = weights[0][0]  # of (groups, out / group, in / group, *kernel)
        weights = ((weights[0][0] * weights[0][1], *weights[0][2:]), *weights[1:])
    kernel = {"kernel": list(weights[0][2:])} if op == "Conv" and weights else {}
    return Node(
        name=layer.get_friendly_name(),
        op=op,
        domain="openvino",
        inputs=inputs,
        outputs=outputs,
        dtype=_told(layer, "runtimePrecision"),
        group=group,
        attributes={"primitive": _told(layer, "primitiveType"), **kernel},
        weight_bytes=sum(size for size, is_constant in zip(sizes, constant, strict=True) if is_constant),
        bytes_in=sum(size for size, is_constant in zip(sizes, constant, strict=True) if not is_constant),
        bytes_out=sum(_size(shape, _told(layer, "outputPrecisions").split(",")[0]) for shape in outputs),
        macs=count_macs(op, inputs, weights, outputs),
        weights=weights,
    )


def _told(layer: Any, name: str) -> str:
    """Returns what the compiled model tells of a layer."""
    told = layer.get_rt_info()
    return str(told[name].astype(str)) if name in told else ""


def _shape(port: Any) -> Shape:
    return tuple(int(side) for side in port.get_shape())


def _size(shape: Shape, precision: str) -> int:
    return math.prod(shape) * _BYTES.get(precision, 1)


def _last_line(error: Exception) -> str:
    """Returns the line that says what is wrong; the first ones say where in OpenVINO's own code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
