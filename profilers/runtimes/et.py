"""ExecuTorch on the CPU, with the XNNPACK delegate: fp32 and int8 files, their operators and the times of these."""

from __future__ import annotations

import gc
import statistics
import struct
import tempfile
import weakref
from collections.abc import Callable, Iterator
from importlib import import_module, metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...spaces.errors import CandidateError, DeviceError
from ..graph import Graph
from .flatbuffer import FlatbufferError, root
from .folding import fold
from .module_conversion import converting
from .pte_file import read_graph
from .runtime import Artifact, Availability, Kernel, Runtime, Session

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["ExecuTorch"]

_FLOAT = 6
"""float32 among ExecuTorch's scalar types."""
_NOT_A_KERNEL = ("OPERATOR_CALL", "DELEGATE_CALL")
"""Events that only surround others, as all with `::` in their names do."""


class ExecuTorch(Runtime):
    """Batch 1, one float input; what XNNPACK can do is delegated to it, the rest runs on portable kernels.

    The first conversion of a process takes some seconds more: importing executorch does.
    """

    name: ClassVar[str] = "executorch"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "int8")
    suffix: ClassVar[str] = ".pte"
    converters: ClassVar[tuple[str, ...]] = ("executorch", "torchao")

    @staticmethod
    def available() -> Availability:
        missing = [name for name in ("executorch", "torchao") if util.find_spec(name) is None]
        if missing:
            return Availability(False, missing=", ".join(missing), install="pip install 'hwnas[executorch]'")
        return Availability(True, metadata.version("executorch"))

    def start(self) -> None:
        _bindings()

    def _write(
        self, model: torch.nn.Module, example: torch.Tensor, path: Path, precision: str, samples: torch.Tensor
    ) -> None:
        with converting(model, path) as aside:
            import torch

            program = torch.export.export(fold(model, example), (example,))
            if precision == "int8":
                program = _quantised(program, example, samples)
            aside.write_bytes(_lowered(program))

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> EtSession:
        path, _ = self.opened(artifact, precision)
        return EtSession(path, threads)

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        """The operators that the file holds; see `read_graph` for what it does not tell."""
        path, _ = self.opened(artifact, precision)
        try:
            return read_graph(path.read_bytes(), f"executorch {metadata.version('executorch')}")
        except (FlatbufferError, struct.error, IndexError, KeyError) as error:
            raise CandidateError("export", f"not an ExecuTorch file: {error}") from None

    def kernels(
        self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None, runs: int = 50
    ) -> tuple[Kernel, ...]:
        """Times of single kernels by ExecuTorch's event tracer; XNNPACK's clock ticks in whole microseconds."""
        import numpy as np

        path, _ = self.opened(artifact, precision)
        session = EtSession(path, threads, trace=True)
        x = np.zeros(session.input_shape, np.float32)
        for _ in range(runs):
            session(x)
        found = [list(run) for run in _traced(session.trace())]
        alike = [run for run in found if [event[:2] for event in run] == [event[:2] for event in found[-1]]]
        return tuple(
            Kernel(name, name.partition(" (")[0], statistics.median(event[2] for event in events), placement)
            for events in zip(*alike, strict=True)
            for name, placement, _ in events[:1]
        )


class EtSession(Session):
    """A program that ExecuTorch has loaded.

    The number of threads is the process's: the pool that ExecuTorch shares among all sessions is replaced when it has
    another size, which no session that was opened before survives.

    Args:
        path: the file.
        threads: threads of one inference.
        trace: record the time of every kernel.

    Raises:
        CandidateError: `export`, ExecuTorch cannot load it, or it has not exactly one input of type float.
        DeviceError: a session with another number of threads is in use.
    """

    def __init__(self, path: Path, threads: int, *, trace: bool = False) -> None:
        bindings = _bindings()
        _take_threads(bindings, threads)
        try:
            checked = bindings.Verification.InternalConsistency
            self._program = bindings._load_program(str(path), enable_etdump=trace, program_verification=checked)
            self._method = self._program.load_method("forward")
            told = self._method.method_meta()
            inputs = [told.input_tensor_meta(place) for place in range(told.num_inputs())]
        except MemoryError:
            raise
        except Exception as error:  # RuntimeError, and what a file without tensors gives
            raise CandidateError("export", f"executorch cannot load the model: {_first_line(error)}") from None
        if len(inputs) != 1 or inputs[0].dtype() != _FLOAT:
            raise CandidateError("export", f"a model must have one float input, found {inputs or 'none'}"[:300])
        self.input_shape = tuple(inputs[0].sizes())
        _open_sessions.add(self)

    def __call__(self, x: Array) -> Array:
        import numpy as np
        import torch

        try:
            found = self._method.call([torch.from_numpy(x)])
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise CandidateError("crash:executorch", _first_line(error)) from None
        return np.asarray(found[0].numpy())

    def bind(self, x: Array) -> Callable[[], object]:
        """The input is copied each time, as in use: its place in the program's memory is used again later on."""
        import torch

        method, inputs = self._method, [torch.from_numpy(x)]
        method.set_inputs(inputs)
        method.execute()
        outputs = [output.numpy() for output in method.get_outputs(clone_outputs=False)]  # their place is fixed

        def bound() -> object:
            method.set_inputs(inputs)
            method.execute()
            return outputs

        return bound

    def trace(self) -> bytes:
        """Returns the events of all inferences so far, in a session that records them."""
        with tempfile.TemporaryDirectory(prefix="hwnas-trace-") as folder:
            path = Path(folder, "events.etdp")
            self._program.write_etdump_result_to_file(str(path))
            return path.read_bytes()


_open_sessions: weakref.WeakSet[EtSession] = weakref.WeakSet()


def _bindings() -> Any:
    """Returns the bindings of ExecuTorch's runtime, without the converter, whose import takes seconds."""
    import torch  # noqa: F401  # the bindings are linked with it

    return import_module("executorch.extension.pybindings._C")


def _take_threads(bindings: Any, threads: int) -> None:
    if bindings._threadpool_get_thread_count() == threads:
        return
    gc.collect()
    if len(_open_sessions):
        raise DeviceError("executorch: a session with another number of threads is in use in this process")
    bindings._unsafe_reset_threadpool(threads)


def _lowered(program: Any) -> bytes:
    """Returns the file's bytes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    return bytes(to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch().buffer)


def _quantised(program: Any, example: torch.Tensor, calibration: torch.Tensor) -> Any:
    """Returns the program with activations int8 and weights int8, these with one scale a channel.

    The quantiser's patterns with batch normalisation are left out, which are for training: here it is folded already,
    and to trace them would take 2 seconds each time.
    """
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantiser = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    quantiser.SUPPORTED_PATTERNS = [item for item in quantiser.SUPPORTED_PATTERNS if "_bn" not in item.name]
    prepared = prepare_pt2e(program.module(), quantiser)
    for place in range(len(calibration)):
        prepared(calibration[place : place + 1])
    return torch.export.export(convert_pt2e(prepared), (example,))


def _traced(data: bytes) -> Iterator[Iterator[tuple[str, str, float]]]:
    """Yields the kernels of each inference: name, placement and milliseconds.

    The format is that of `etdump_schema_flatcc.fbs` (devtools/etdump/), with its length in front.
    """
    for run in root(data, b"ED00", start=4).tables(1):
        if run.text(0) == "Execute":
            yield _events(run.tables(3))


def _events(events: tuple[Any, ...]) -> Iterator[tuple[str, str, float]]:
    for event in events:
        told = event.table(0)
        if told is None:
            continue
        inside, name = told.text(4), told.text(0)
        ms = (told.whole(7, "Q") - told.whole(6, "Q")) / 1e6
        if inside:
            yield inside, "XNNPACK", ms
        elif name not in _NOT_A_KERNEL and "::" not in name:
            yield name.removeprefix("native_call_"), "CPU", ms


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
