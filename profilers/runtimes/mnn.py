"""MNN on the CPU: fp32 and int8, made by MNN's own converter and quantiser."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...spaces.errors import CandidateError
from ..graph import Graph, Shape
from .mnn_file import check_seal, read_operators, seal
from .mnn_graph import Launch, graph_of, operator_name
from .runtime import Artifact, Availability, Kernel, OnnxBased, Session

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["Mnn"]

_DEBUG, _RELEASE = 0, 1
"""Modes of an interpreter: with callbacks around each kernel, and without."""

_TOOL = "import sys, _tools; getattr(_tools, sys.argv[1])(['MNN', *sys.argv[2:]])"
"""Runs a tool of MNN's package.

Not through its scripts `mnnconvert` and `mnnquant`: the first tries to install a logger and to send what was converted
to a server, the second does not work (MNN 3.6.1).
"""


class Mnn(OnnxBased):
    """Batch 1, one float input.

    bf16 and fp16 are not offered: MNN takes `precision: low` on a processor without fp16 arithmetic, and computes in
    fp32. int8 is static: MNN's quantiser finds the ranges of the activations on the calibration samples, and one scale
    for each channel of the weights.
    """

    name: ClassVar[str] = "mnn"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    suffix: ClassVar[str] = ".mnn"
    converters: ClassVar[tuple[str, ...]] = ("MNN",)

    def start(self) -> None:
        import_module("MNN")

    @staticmethod
    def available() -> Availability:
        if util.find_spec("MNN") is None or util.find_spec("_tools") is None:
            return Availability(False, missing="MNN", install="pip install 'hwnas[mnn]'")
        return Availability(True, metadata.version("MNN"))

    def convert_file(self, source: Path, path: Path, precision: str, calibration: torch.Tensor) -> None:
        """Makes the file; the fp32 one is run once and compared with the ONNX file.

        Raises:
            CandidateError: `export`; also when MNN and onnxruntime disagree on the network.
            DeviceError, DiskError: as `convert`.
        """
        from .conversion import answer_of, check_agreement, convert_with
        from .onnx_file import replacing

        self.check_precision(precision)
        tool = [sys.executable, "-P", "-c", _TOOL]
        with tempfile.TemporaryDirectory(prefix="hwnas-mnn-") as name, replacing(path) as aside:
            folder = Path(name)
            made = folder / "model.mnn"
            files = ["--modelFile", str(source.resolve()), "--MNNModel", made.name]
            convert_with([*tool, "mnnconvert", "-f", "ONNX", *files, "--bizCode", "hwnas"], folder, made)
            check_agreement(self.name, made, *answer_of(source, calibration[:1].numpy()))
            if precision == "int8":
                made = _quantised(made, calibration, tool)
                check_agreement(self.name, made, *answer_of(source, calibration[:1].numpy()), precision)
            aside.write_bytes(seal(made.read_bytes()))

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> MnnSession:
        path, _ = self.opened(artifact, precision)
        return MnnSession(path, threads)

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        """The kernels of one run: MNN tells kinds and shapes, the file tells weights and which feeds which."""
        path, _ = self.opened(artifact, precision)
        launches = MnnSession(path, threads, _DEBUG).launches()
        return graph_of(launches, read_operators(path), f"mnn {metadata.version('MNN')}")

    def kernels(
        self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None, runs: int = 50
    ) -> tuple[Kernel, ...]:
        """Times between MNN's calls before and after each kernel; each call takes some microseconds itself.

        Raises:
            CandidateError, DataError, DeviceError: as `load`.
        """
        path, _ = self.opened(artifact, precision)
        session = MnnSession(path, threads, _DEBUG)
        taken = [session.launches() for _ in range(runs + 1)][1:]
        return tuple(
            Kernel(same[0].name, operator_name(same[0]), statistics.median(item.seconds for item in same) * 1e3)
            for same in zip(*taken, strict=True)
        )


class MnnSession(Session):
    """A model that MNN has loaded.

    Args:
        path: the file.
        threads: threads of one inference.
        mode: _RELEASE, or _DEBUG for `launches`.

    Raises:
        CandidateError: `export`, MNN cannot load it, or it has not exactly one input of type float.
    """

    def __init__(self, path: Path, threads: int, mode: int = _RELEASE) -> None:
        import MNN
        import numpy as np

        check_seal(path)
        try:
            self._interpreter = MNN.Interpreter(str(path))
            self._interpreter.setSessionMode(mode)
            self._session = self._interpreter.createSession({"backend": "CPU", "numThread": threads})
            inputs = self._interpreter.getSessionInputAll(self._session)
        except MemoryError:
            raise
        except Exception as error:  # MNN raises nothing more precise
            raise CandidateError("export", f"mnn cannot load the model: {error}"[:300]) from None
        if [entry.getDataType() for entry in inputs.values()] != [MNN.Halide_Type_Float]:
            raise CandidateError("export", f"a model must have one float input, found {', '.join(inputs) or 'none'}")
        (self._input,) = inputs.values()
        self.input_shape = tuple(self._input.getShape())
        if len(self.input_shape) != 4 or min(self.input_shape) < 1:
            raise CandidateError("export", f"a model must take (1, C, H, W), not {self.input_shape}")
        names = read_operators(path).outputs
        outputs = self._interpreter.getSessionOutputAll(self._session)
        found = next((outputs[name] for name in names if name in outputs), None)
        if found is None:
            raise CandidateError("export", "a model must have an output")
        self._output = found
        shape = tuple(found.getShape())
        self._answer = MNN.Tensor(
            shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe
        )

    def __call__(self, x: Array) -> Array:
        return self._run(self._host(x))

    def bind(self, x: Array) -> Callable[[], object]:
        """The input is copied for each run, as in MNN's own benchmark: MNN uses its memory for other tensors."""
        host, run = self._host(x), self._run
        return lambda: run(host)

    def launches(self) -> tuple[Launch, ...]:
        """Runs once on zeros and returns what was launched, in order; for a session in mode _DEBUG."""
        import numpy as np

        seen: list[tuple[str, str, float, tuple[Shape, ...]]] = []
        starts: list[float] = []
        found: list[Launch] = []
        clock = time.perf_counter

        def before(tensors: list[Any], about: Any) -> bool:
            seen.append((about.getName(), about.getType(), about.getFlops(), _shapes(tensors)))
            starts.append(clock())
            return True

        def after(tensors: list[Any], about: Any) -> bool:
            seconds = clock() - starts[-1]
            name, kind, work, inputs = seen[-1]
            found.append(Launch(name, kind, work, inputs, _shapes(tensors), seconds))
            return True

        self._input.copyFrom(self._host(np.zeros(self.input_shape, np.float32)))
        if self._interpreter.runSessionWithCallBackInfo(self._session, before, after) != 0:
            raise CandidateError("crash:mnn", "mnn cannot run the model")
        return tuple(found)

    def _run(self, host: Any) -> Array:
        self._input.copyFrom(host)
        if self._interpreter.runSession(self._session) != 0:
            raise CandidateError("crash:mnn", "mnn cannot run the model")
        self._output.copyToHostTensor(self._answer)  # from whatever layout and element type it has
        found: Array = self._answer.getNumpyData().copy()  # it is a view
        return found

    def _host(self, x: Array) -> Any:
        """Copies a sample (1, C, H, W) into a tensor of MNN's."""
        import MNN
        import numpy as np

        if x.shape != self.input_shape:
            raise CandidateError("crash:mnn", f"an input of shape {x.shape}, not {self.input_shape}")
        x = np.ascontiguousarray(x, np.float32)
        return MNN.Tensor(self.input_shape, MNN.Halide_Type_Float, x, MNN.Tensor_DimensionType_Caffe)


def _shapes(tensors: list[Any]) -> tuple[Shape, ...]:
    return tuple(tuple(tensor.getShape()) for tensor in tensors)


def _quantised(fp32: Path, calibration: torch.Tensor, tool: list[str]) -> Path:
    """Makes an int8 file beside an fp32 one, with the ranges that lose the least information (KL).

    MNN's quantiser crashes at that on some networks; then the ranges are those with the least square error (ADMM).

    Raises:
        CandidateError: `export`, both fail.
    """
    from .conversion import convert_with

    made, folder = fp32.with_name("quantised.mnn"), fp32.parent
    command = [*tool, "mnnquant", fp32.name, made.name, "quantise.json"]
    _write_samples(folder, calibration)
    try:
        _write_settings(folder, calibration, "KL")
        convert_with(command, folder, made)
    except CandidateError:
        _write_settings(folder, calibration, "ADMM")
        convert_with(command, folder, made)
    return made


def _write_samples(folder: Path, calibration: torch.Tensor) -> None:
    """Writes the samples as MNN's quantiser reads them: a folder of text files for each."""
    import numpy as np

    for place, sample in enumerate(calibration):
        item = folder / "samples" / f"input_{place}"
        item.mkdir(parents=True)
        (item / "input.json").write_text(json.dumps({"inputs": [_described(calibration)]}), encoding="utf-8")
        np.savetxt(item / "input.txt", sample.numpy().ravel(), fmt="%.7g")


def _write_settings(folder: Path, calibration: torch.Tensor, method: str) -> None:
    """Writes `quantise.json` (MNN documentation, quantiser)."""
    height, width = calibration.shape[2:]
    settings = {
        "input_type": "sequence",
        "inputs": [_described(calibration)],
        "path": str(folder / "samples"),
        "used_sample_num": len(calibration),
        "width": width,
        "height": height,
        "feature_quantize_method": method,
        "weight_quantize_method": "MAX_ABS",
    }
    (folder / "quantise.json").write_text(json.dumps(settings), encoding="utf-8")


def _described(calibration: torch.Tensor) -> dict[str, Any]:
    return {"name": "input", "shape": [1, *calibration.shape[1:]]}
