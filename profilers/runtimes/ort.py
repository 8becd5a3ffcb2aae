"""onnxruntime on the CPU: fp32 and int8 files, and the graph that it really executes."""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...spaces.errors import CandidateError
from ..graph import Graph, Node, Shape, count_macs, peak_bytes
from .runtime import Artifact, Availability, Kernel, OnnxBased, Session

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["OnnxRuntime"]

_FATAL_ONLY = 4
_LAUNCH = "_kernel_time"
"""End of the name of an event that is a kernel launch."""
_BYTES = {"float": 4, "double": 8, "float16": 2, "bfloat16": 2, "bool": 1, "string": 8} | {
    f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)
}
_NAMES = {"float": "float32", "double": "float64"}
_KEPT_ATTRIBUTES = {"kernel_shape": "kernel"} | {name: name for name in ("strides", "dilations", "activation")}


class OnnxRuntime(OnnxBased):
    """Batch 1, one float input, all optimisations, no spinning threads."""

    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")

    @staticmethod
    def available() -> Availability:
        missing = [name for name in ("onnxruntime", "onnx") if util.find_spec(name) is None]
        if missing:
            return Availability(False, missing=", ".join(missing), install=f"pip install {' '.join(missing)}")
        return Availability(True, metadata.version("onnxruntime"))

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> OrtSession:
        path, _ = self.opened(artifact, precision)
        return OrtSession(path, _options(threads))

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        """The optimised model tells operators, attributes and constants; the profile of one run tells shapes."""
        import onnx
        import onnxruntime as ort

        path, _ = self.opened(artifact, precision)
        with tempfile.TemporaryDirectory(prefix="hwnas-graph-") as folder:
            events = _profile_of_one_run(path, threads, Path(folder))
            graph = onnx.load(os.path.join(folder, "optimised.onnx")).graph
        return _assemble(graph, _launches(events), f"onnxruntime {ort.__version__}")

    def arena_bytes(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> int | None:
        """The profile of one run tells it, from onnxruntime 1.32 on."""
        path, _ = self.opened(artifact, precision)
        with tempfile.TemporaryDirectory(prefix="hwnas-arena-") as folder:
            events = _profile_of_one_run(path, threads, Path(folder))
        told = [event.get("args", {}).get("mem_in_use_peak") for event in events]
        return max((int(value) for value in told if value is not None), default=None)

    def kernels(
        self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None, runs: int = 50
    ) -> tuple[Kernel, ...]:
        """Times of onnxruntime's profile, in whole microseconds; the first of the runs is left out.

        Raises:
            CandidateError, DataError, DeviceError: as `load`.
        """
        import numpy as np

        path, _ = self.opened(artifact, precision)
        with tempfile.TemporaryDirectory(prefix="hwnas-kernels-") as folder:
            options = _options(threads)
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "profile")
            session = OrtSession(path, options)
            infer = session.bind(np.zeros(session.input_shape, np.float32))
            for _ in range(runs + 1):
                infer()
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _kernels(events, runs)


class OrtSession(Session):
    """A model that onnxruntime has loaded.

    Args:
        path: the file.
        options: of the session.

    Raises:
        CandidateError: `export`, onnxruntime cannot load it, or it has not exactly one input of type float.
    """

    def __init__(self, path: Path, options: ort.SessionOptions) -> None:
        import onnxruntime as ort

        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except MemoryError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise CandidateError("export", f"onnxruntime cannot load the model: {_first_line(error)}") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{item.name}: {item.type}" for item in inputs)
            found = found or "none: what it computes does not depend on its input"
            raise CandidateError("export", f"a model must have one float input, found {found}")
        self._input = inputs[0].name
        self.input_shape = tuple(side if isinstance(side, int) and side > 0 else 1 for side in inputs[0].shape)

    def __call__(self, x: Array) -> Array:
        import numpy as np

        try:
            return np.asarray(self._session.run(None, {self._input: x})[0])
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise CandidateError("crash:onnxruntime", _first_line(error)) from None

    def bind(self, x: Array) -> Callable[[], object]:
        session, feed = self._session, {self._input: x}
        return lambda: session.run(None, feed)

    def end_profiling(self) -> str:
        """Returns the path of the profile, in a session whose options asked for one."""
        return str(self._session.end_profiling())


def _profile_of_one_run(path: Path, threads: int, folder: Path) -> list[dict[str, Any]]:
    """Returns the events of a run; leaves the model that was really run as `optimised.onnx` in the folder."""
    import numpy as np

    options = _options(threads)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = OrtSession(path, options)
    session(np.zeros(session.input_shape, np.float32))
    events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return events


def _options(threads: int) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def _launches(events: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kernel launches of a profile, in order: node name and arguments."""
    return ((event["name"].removesuffix(_LAUNCH), event["args"]) for event in _timed(events))


def _timed(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events of a profile that are kernel launches; `ts` and `dur` are in microseconds."""
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_LAUNCH) and "output_type_shape" in event["args"]:
            yield event


def _kernels(events: list[dict[str, Any]], runs: int) -> tuple[Kernel, ...]:
    """Medians over all runs of a profile but the first; each run launches the same kernels in the same order.

    Raises:
        CandidateError: `crash:onnxruntime`, the profile was cut off (onnxruntime keeps a million events).
    """
    launches = sorted(_timed(events), key=lambda event: event["ts"])
    each = len(launches) // (runs + 1)
    if each * (runs + 1) != len(launches):
        raise CandidateError("crash:onnxruntime", "the profile is not complete: ask for fewer runs")
    return tuple(
        Kernel(
            name=launches[place]["name"].removesuffix(_LAUNCH),
            op=launches[place]["args"]["op_name"],
            ms=statistics.median(event["dur"] for event in launches[each + place :: each]) / 1e3,
            placement=launches[place]["args"]["provider"].removesuffix("ExecutionProvider"),
        )
        for place in range(each)
    )


def _assemble(graph: Any, launches: Iterator[tuple[str, dict[str, Any]]], runtime: str) -> Graph:
    """Joins the optimised model with the launches.

    Args:
        graph: `onnx.GraphProto` of the optimised model.
        launches: node name and profile arguments, in the order executed.
        runtime: name and version.
    """
    constants = {item.name: (tuple(item.dims), _type_name(item.data_type)) for item in graph.initializer}
    described: dict[str, list[Any]] = {}
    for proto in graph.node:
        described.setdefault(proto.name or proto.op_type, []).append(proto)
    tensors: dict[str, tuple[Shape, str]] = {
        item.name: (
            tuple(max(dim.dim_value, 1) for dim in item.type.tensor_type.shape.dim),
            _type_name(item.type.tensor_type.elem_type),
        )
        for item in graph.input
        if item.name not in constants
    }
    nodes: list[Node] = []
    reads: list[list[str]] = []
    makers: dict[str, int] = {}
    for name, args in launches:
        waiting = described.get(name) or described.get(args["op_name"]) or []
        if not waiting:
            raise CandidateError("export", f"onnxruntime ran '{name}', which is not in its optimised model")
        proto = waiting.pop(0)
        for output, (kind, shape) in zip(filter(None, proto.output), _typed(args["output_type_shape"]), strict=False):
            tensors[output] = (shape, kind)
            makers[output] = len(nodes)
        nodes.append(_node(proto, name, constants, tensors))
        reads.append([item for item in proto.input if item in tensors])
    edges = sorted({(makers[item], place) for place, items in enumerate(reads) for item in items if item in makers})
    kept = {item.name for item in graph.output}
    return Graph(tuple(nodes), tuple(edges), runtime, _peak_bytes(reads, makers, tensors, kept))


def _node(
    proto: Any, name: str, constants: Mapping[str, tuple[Shape, str]], tensors: Mapping[str, tuple[Shape, str]]
) -> Node:
    import onnx

    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in proto.attribute}
    inputs = [tensors[item] for item in proto.input if item in tensors]
    weights = [constants[item] for item in proto.input if item in constants]
    outputs = [tensors[item] for item in proto.output if item in tensors]
    shapes = {"inputs": tuple(s for s, _ in inputs), "outputs": tuple(s for s, _ in outputs)}
    weight_shapes = tuple(shape for shape, _ in weights)
    kind = outputs[0][1] if outputs else "float"
    return Node(
        name=name,
        op=proto.op_type,
        domain=proto.domain,
        **shapes,
        dtype=_NAMES.get(kind, kind),
        group=int(attributes.get("group", 1)),
        attributes={
            short: value.decode() if isinstance(value, bytes) else list(value)
            for long, short in _KEPT_ATTRIBUTES.items()
            if (value := attributes.get(long)) is not None
        },
        weight_bytes=sum(_size(shape, kind) for shape, kind in weights),
        bytes_in=sum(_size(shape, kind) for shape, kind in inputs),
        bytes_out=sum(_size(shape, kind) for shape, kind in outputs),
        macs=count_macs(proto.op_type, shapes["inputs"], weight_shapes, shapes["outputs"]),
        weights=weight_shapes,
    )


def _peak_bytes(
    reads: list[list[str]], makers: Mapping[str, int], tensors: Mapping[str, tuple[Shape, str]], kept: set[str]
) -> int:
    """Largest sum of live activations: a tensor lives from the kernel that makes it to the last that reads it."""
    last = {item: place for place, items in enumerate(reads) for item in items}
    end = len(reads) - 1
    spans = [
        (makers.get(item, 0), end if item in kept else last.get(item, makers.get(item, 0)), _size(*tensors[item]))
        for item in tensors
    ]
    return peak_bytes(spans, len(reads))


def _typed(lists: list[dict[str, list[int]]]) -> list[tuple[str, Shape]]:
    return [(kind, tuple(shape)) for item in lists for kind, shape in item.items()]


def _size(shape: Shape, kind: str) -> int:
    return math.prod(shape) * _BYTES.get(kind, 4)


def _type_name(number: int) -> str:
    """The name that profiles use for a tensor type of ONNX."""
    import onnx

    return str(onnx.TensorProto.DataType.Name(number)).lower()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
