"""torch.compile and AOTInductor on the CPU: networks that torch compiles for this machine.

Both take the file of the `torch` runtime, which holds operators and weights and no code, and compile it when it is
opened. A shared library is only ever loaded from the cache that this machine has filled itself: see `cache_folder`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sysconfig
from abc import abstractmethod
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...spaces.errors import CandidateError, DataError
from ..fingerprint import compiler
from ..graph import Graph
from .eager import TorchEager, TorchSession, first_line
from .inductor import Recorder, cache_folder, compiling, own_cache
from .runtime import Artifact, Availability, Kernel

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["AotInductor", "TorchCompile"]

FORMAT = 1
"""Goes up when hwnas comes to compile in another way."""


class TorchCompile(TorchEager):
    """As `torch`, compiled by torch.compile: one graph, fixed shapes, weights as constants.

    Its times of single kernels would be those of torch's profiler, which sees what calls them; there are none here.
    """

    name: ClassVar[str] = "torch-compile"
    deadline_s: ClassVar[float] = 300.0
    tells_resident: ClassVar[bool] = False

    @staticmethod
    def available() -> Availability:
        found = TorchEager.available()
        if not found.ok:
            return found
        if not compiler():
            return Availability(False, missing="a C++ compiler (g++, or what CXX names)", install="apt install g++")
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            return Availability(False, missing="Python's headers (Python.h)", install="apt install python3-dev")
        return found

    def start(self) -> None:
        import torch._inductor.codecache  # noqa: F401

    def load(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> CompiledSession:
        path, precision = self.opened(artifact, precision)
        self.check_processor(precision)
        return self.compiled(path, threads, precision)

    def compiled(self, path: Path, threads: int, precision: str) -> CompiledSession:
        """Opens a file."""
        return _Compile(path, threads, precision)

    def executed_graph(self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None) -> Graph:
        """What Inductor launches after it has fused: operators of oneDNN and ATen, and loops that it wrote itself."""
        return self.load(artifact, threads, precision).executed

    def kernels(
        self, artifact: Artifact | Path, threads: int = 1, precision: str | None = None, runs: int = 50
    ) -> tuple[Kernel, ...]:
        return ()


class AotInductor(TorchCompile):
    """As `torch`, compiled by AOTInductor: a shared library of its own, called without Python in between."""

    name: ClassVar[str] = "torch-aoti"

    def compiled(self, path: Path, threads: int, precision: str) -> CompiledSession:
        return _Ahead(path, threads, precision)


class CompiledSession(TorchSession):
    """A network that torch has compiled.

    Args:
        path: the file.
        threads: threads of one inference, and of all others in this process.
        precision: fp32 or bf16.

    Raises:
        CandidateError: `export`, it is not such a file, or cannot be compiled.
    """

    executed: Graph
    """The kernels of one inference."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        import torch

        super().__init__(path, threads, precision)
        self._path, self._key = path, f"{threads} {precision}"
        macs = self.graph("").macs
        _take(self._module, self._type)
        example = torch.zeros(self.input_shape)  # made as inputs are, or torch would compile again for them
        try:
            with torch.inference_mode():
                self._infer, self.executed = self._compiled(example, macs)
        except (MemoryError, CandidateError):
            raise
        except Exception as error:  # of many kinds
            raise CandidateError("export", f"torch cannot compile the model: {first_line(error)}") from None

    @abstractmethod
    def _compiled(self, example: torch.Tensor, macs: int) -> tuple[Callable[[torch.Tensor], Any], Graph]:
        """Returns what runs the network on an input like `example`, and its graph."""

    def __call__(self, x: Array) -> Array:
        import torch

        sample = torch.from_numpy(x)
        try:
            with torch.inference_mode():
                found: Array = self._infer(sample)[0].float().numpy()
        except MemoryError:
            raise
        except Exception as error:  # torch raises RuntimeError and many more
            raise CandidateError("crash:torch", first_line(error)) from None
        return found

    def bind(self, x: Array) -> Callable[[], object]:
        """To set the channels last is part of the compiled network."""
        import torch

        infer, sample = self._infer, torch.from_numpy(x)

        def bound() -> object:
            with torch.inference_mode():
                return infer(sample)

        return bound


class _Compile(CompiledSession):
    """By torch.compile, with the checks of its own that each call makes."""

    def _compiled(self, example: torch.Tensor, macs: int) -> tuple[Callable[[torch.Tensor], Any], Graph]:
        import torch

        recorder = Recorder()
        infer: Callable[[torch.Tensor], Any] = torch.compile(self._module, fullgraph=True, dynamic=False)
        with compiling(recorder):
            infer(example)
        with torch._dynamo.config.patch(error_on_recompile=True):
            infer(example)
        return infer, recorder.graph(f"torch-compile {metadata.version('torch')}", macs)


class _Ahead(CompiledSession):
    """By AOTInductor; the shared library and the graph are kept by the content of the file."""

    def _compiled(self, example: torch.Tensor, macs: int) -> tuple[Callable[[torch.Tensor], Any], Graph]:
        import torch

        content = hashlib.sha256(self._path.read_bytes()).hexdigest()
        name = hashlib.sha256(f"{FORMAT} {content} {self._key}".encode()).hexdigest()
        package = cache_folder() / f"{name}.pt2"
        graph = _kept_graph(package)
        if graph is None:
            graph = self._make(package, example, macs)
        with own_cache():
            loader = torch._inductor.aoti_load_package(str(package), run_single_threaded=True).loader
        return lambda x: loader.run([x]), graph

    def _make(self, package: Path, example: torch.Tensor, macs: int) -> Graph:
        """Compiles; the graph is written last, so that what was interrupted is made again."""
        import torch

        recorder, aside = Recorder(), package.with_name(f"{package.stem}.{os.getpid()}.pt2")
        try:
            with torch.inference_mode(False), torch.no_grad(), compiling(recorder):
                program = torch.export.export(self._module, (example.clone(),))
                torch._inductor.aoti_compile_and_package(program, package_path=str(aside))
            graph = recorder.graph(f"torch-aoti {metadata.version('torch')}", macs)
            aside.replace(package)
            told = aside.with_suffix(".json")
            told.write_text(json.dumps(graph.to_json()), encoding="utf-8")
            told.replace(package.with_suffix(".json"))
        finally:
            aside.unlink(missing_ok=True)
        return graph


def _kept_graph(package: Path) -> Graph | None:
    """The graph of a package that was made before; None where there is none."""
    with contextlib.suppress(OSError, ValueError, DataError):
        if package.is_file():
            told = package.with_suffix(".json")
            graph = Graph.from_json(json.loads(told.read_text(encoding="utf-8")))
            os.utime(package)
            os.utime(told)
            return graph
    return None


def _take(module: torch.fx.GraphModule, kind: torch.dtype) -> None:
    """Has a network take its input as it comes: to change its type and order is then compiled, too."""
    import torch

    (x,) = (node for node in module.graph.nodes if node.op == "placeholder")
    with module.graph.inserting_after(x):
        taken = module.graph.call_method("to", (x, kind), {"memory_format": torch.channels_last})
    x.replace_all_uses_with(taken, delete_user_cb=lambda user: user is not taken)
    module.recompile()
