"""ncnn on the CPU: fp32, and bf16 storage; files made by pnnx from the ONNX file."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...spaces.errors import CandidateError
from ..graph import Graph, Node, Shape
from .ncnn_file import NcnnModel, read_layers, read_model, write_model
from .ncnn_graph import SILENT, graph_of, ncnn_node
from .runtime import Artifact, Availability, Kernel, OnnxBased, Session

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["Ncnn"]

_INPUT, _OUTPUT = "in0", "out0"
"""The names that pnnx gives to a model's input and output."""

_REDUCED = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage", "int8_inference")
"""ncnn's own ways to compute less exactly; all are off but the one asked for."""


class Ncnn(OnnxBased):
    """Batch 1, one float input.

    bf16 is what ncnn calls bf16 storage: activations and weights are kept in 16 bits where a layer can, the arithmetic
    is fp32 on processors without bf16. fp16 is not offered: on x86 only the weights of fully connected layers are kept
    in it and all else silently computes in fp32. int8 is not: ncnn's Python package has no tool to calibrate.
    """

    name: ClassVar[str] = "ncnn"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "bf16")
    suffix: ClassVar[str] = ".ncnn"
    converters: ClassVar[tuple[str, ...]] = ("pnnx",)

    @staticmethod
    def available() -> Availability:
        missing = [name for name in ("ncnn", "pnnx") if util.find_spec(name) is None]
        if missing:
            return Availability(False, missing=", ".join(missing), install="pip install 'hwnas[ncnn]'")
        return Availability(True, metadata.version("ncnn"))

    def convert_file(self, source: Path, path: Path, precision: str, calibration: torch.Tensor) -> None:
        """Makes the file and runs it once: pnnx can be wrong without saying so.

        Raises:
            CandidateError: `export`; also when ncnn and onnxruntime disagree on the network.
            DeviceError, DiskError: as `convert`.
        """
        from .conversion import answer_of, check_agreement, convert_with
        from .onnx_file import replacing

        self.check_precision(precision)
        x, expected = answer_of(source, calibration[:1].numpy())
        with tempfile.TemporaryDirectory(prefix="hwnas-ncnn-") as name, replacing(path) as aside:
            folder = Path(name)
            _write_older(source, folder / "model.onnx")
            shape = ",".join(str(side) for side in x.shape)
            made = folder / "model.ncnn.param"
            convert_with([_pnnx(), "model.onnx", f"inputshape=[{shape}]", "fp16=0"], folder, made)
            text, weights = made.read_text(encoding="utf-8"), (folder / "model.ncnn.bin").read_bytes()
            read_layers(text)
            packed = folder / "packed.ncnn"
            write_model(packed, text, weights, x.shape, expected.shape)
            check_agreement(self.name, packed, x, expected)
            aside.write_bytes(packed.read_bytes())

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> NcnnSession:
        path, precision = self.opened(artifact, precision)
        return NcnnSession(read_model(path), threads, precision)

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        """The layers of the file with the shapes and element types of one run.

        ncnn's own changes between layouts with 4, 8 or 16 channels side by side happen inside the layers.
        """
        return self.load(artifact, threads, precision).graph()

    def kernels(
        self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None, runs: int = 50
    ) -> tuple[Kernel, ...]:
        """Times the layers one after the other: ncnn computes only what the blob that is asked for still needs.

        All blobs are kept meanwhile, so that layers that work in place have to copy their input, and that memory is
        not used again.

        Raises:
            CandidateError, DataError, DeviceError: as `load`.
        """
        session = self.load(artifact, threads, precision)
        nodes = session.graph().nodes
        times: dict[str, list[float]] = {node.name: [] for node in nodes}
        for _ in range(runs):
            for name, seconds in session.layer_times():
                times[name].append(seconds)
        return tuple(Kernel(node.name, node.op, statistics.median(times[node.name]) * 1e3) for node in nodes)


class NcnnSession(Session):
    """A model that ncnn has loaded.

    Args:
        model: what the file holds.
        threads: threads of one inference.
        precision: fp32 or bf16.

    Raises:
        CandidateError: `export`, ncnn cannot load it.
    """

    def __init__(self, model: NcnnModel, threads: int, precision: str) -> None:
        import ncnn

        unknown = sorted({layer.kind for layer in model.layers if ncnn.layer_to_index(layer.kind) < 0})
        if unknown:
            raise CandidateError("export", f"ncnn has no layer {', '.join(unknown)}"[:300])
        ends = (
            [layer.kind for layer in model.layers if layer.kind == "Input"],
            [top for layer in model.layers for top in layer.tops if top.startswith("out")],
        )
        if len(ends[0]) != 1 or _OUTPUT not in ends[1]:
            raise CandidateError("export", "a model must have one input, in0, and an output out0")
        self.input_shape, self._output_shape = model.input_shape, model.output_shape
        self._layers, self._precision = model.layers, precision
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads, options.use_vulkan_compute = threads, False
        for way in _REDUCED:
            setattr(options, f"use_{way}", precision == "bf16" and way == "bf16_storage")
        if self._net.load_param_mem(model.text) != 0:
            raise CandidateError("export", "ncnn cannot load the layers")
        with tempfile.TemporaryDirectory(prefix="hwnas-ncnn-") as folder:
            weights = Path(folder) / "model.bin"
            weights.write_bytes(model.weights)  # not from memory: ncnn would then use it where it lies, not aligned
            if self._net.load_model(str(weights)) != 0:
                raise CandidateError("export", "ncnn cannot load the weights")

    def __call__(self, x: Array) -> Array:
        return self._run(self._mat(x))

    def bind(self, x: Array) -> Callable[[], object]:
        mat, run = self._mat(x), self._run
        return lambda: run(mat)

    def layer_times(self) -> Iterator[tuple[str, float]]:
        """Yields the name of each layer that computes, and its time in seconds, of one run on zeros."""
        with self._all_blobs() as extractor:
            for layer in self._layers:
                start = time.perf_counter()
                self._extract(extractor, layer.tops[0], raw=True)
                seconds = time.perf_counter() - start
                if layer.kind not in SILENT:
                    yield layer.name, seconds

    def graph(self) -> Graph:
        """The layers, with the shapes and element types of one run."""
        with self._all_blobs() as extractor:
            blobs = {top: self._described(extractor, top) for layer in self._layers for top in layer.tops}
        nodes: dict[str, Node] = {
            layer.name: ncnn_node(layer, [blobs[name] for name in layer.bottoms], [blobs[name] for name in layer.tops])
            for layer in self._layers
        }
        return graph_of(self._layers, nodes, f"ncnn {metadata.version('ncnn')}")

    def _run(self, mat: Any) -> Array:
        import numpy as np

        extractor = self._net.create_extractor()
        try:
            if extractor.input(_INPUT, mat) != 0:
                raise CandidateError("crash:ncnn", "ncnn refuses the input")
            found = np.array(self._extract(extractor, _OUTPUT))
        finally:
            extractor.clear()  # a blob that outlives its net ends the process
        if found.size != math.prod(self._output_shape):
            raise CandidateError("crash:ncnn", f"an output of shape {found.shape}, not {self._output_shape[1:]}")
        return found.reshape(self._output_shape)

    def _extract(self, extractor: Any, name: str, raw: bool = False) -> Any:
        """Returns a blob; raw as the layer left it, in 16 bits or with channels side by side."""
        status, mat = extractor.extract(name, int(raw))
        if status != 0:
            raise CandidateError("crash:ncnn", f"ncnn cannot compute '{name}' (status {status})")
        return mat

    def _described(self, extractor: Any, name: str) -> tuple[Shape, int]:
        """Shape of a blob with its batch axis, (1, C, H, W), (1, H, W) or (1, W), and bytes per element."""
        mat = self._extract(extractor, name, raw=True)
        sides = {
            1: (mat.w,),
            2: (mat.h, mat.w),
            3: (mat.c, mat.h, mat.w),
            4: (mat.c, mat.d, mat.h, mat.w),
        }[mat.dims]
        return (1, sides[0] * mat.elempack, *sides[1:]), mat.elemsize // mat.elempack  # the outermost axis is packed

    @contextlib.contextmanager
    def _all_blobs(self) -> Iterator[Any]:
        """An extractor on zeros that keeps every blob."""
        import numpy as np

        extractor = self._net.create_extractor()
        try:
            extractor.set_light_mode(False)
            extractor.input(_INPUT, self._mat(np.zeros(self.input_shape, np.float32)))
            yield extractor
        finally:
            extractor.clear()

    def _mat(self, x: Array) -> Any:
        """Copies a sample (1, C, H, W) into ncnn's own layout, whose channels begin at multiples of 16 bytes."""
        import ncnn
        import numpy as np

        if x.shape != self.input_shape:
            raise CandidateError("crash:ncnn", f"an input of shape {x.shape}, not {self.input_shape}")
        return ncnn.Mat(np.ascontiguousarray(x[0])).clone()


def _pnnx() -> str:
    """Path of the converter; importing its package would import torch."""
    found = util.find_spec("pnnx")
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    return os.path.join(folders[0], "pnnx") if folders else "pnnx"


def _write_older(source: Path, path: Path) -> None:
    """Copies an ONNX file with the axes of its reductions as attributes.

    pnnx overlooks axes that are inputs, as they are from opset 18 on (ONNX operators, ReduceMean-18), and then reduces
    nothing, without a word. ReduceSum is left: its axes are inputs from opset 13 on.
    """
    import onnx

    model = onnx.load(str(source))
    constants = {item.name: item for item in model.graph.initializer} | {
        node.output[0]: item.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    }
    for node in model.graph.node:
        if node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.input) == 2:
            axes = constants.get(node.input[1])
            if axes is not None:
                del node.input[1]
                node.attribute.append(onnx.helper.make_attribute("axes", onnx.numpy_helper.to_array(axes).tolist()))
                for entry in model.opset_import:
                    entry.version = 17 if not entry.domain else entry.version
    onnx.save(model, str(path))
