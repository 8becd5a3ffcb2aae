"""TorchInductor, the compiler behind torch.compile and AOTInductor: its settings, its cache, and its kernels."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import platform
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..fingerprint import compiler, fingerprint
from ..graph import Graph, Node, Shape, count_macs, peak_bytes
from .aten import onnx_name

__all__ = ["Recorder", "cache_folder", "compiling", "own_cache"]

MOST_BYTES = 1 << 30
"""Of the compiled kernels of one machine together; those that were made first go first."""

_EXTERNAL = {
    "mkldnn::_convolution_pointwise": "Conv",
    "mkldnn::_convolution_transpose_pointwise": "ConvTranspose",
    "mkldnn::_linear_pointwise": "Gemm",
    "mkl::_mkl_linear": "Gemm",
}
"""Operators that Inductor calls for products → the names of ONNX, by which they are counted."""

_LOOPS, _UNCOUNTED = "Subgraph", "Subgraph with products"
"""Loops that Inductor has made itself; the second name is not counted, and said so."""


@contextlib.contextmanager
def compiling(recorder: Recorder) -> Iterator[None]:
    """The settings for a network that is to be run only: weights are constants, which Inductor packs (freezing).

    Nothing is read from or written to torch's own cache of whole networks, which is pickled. Only kernels are kept, as
    shared libraries in `cache_folder`, by the text that they were compiled from.
    """
    import torch._functorch.config as functorch_config
    import torch._inductor.config as config

    _trim(_home())
    headers = shutil.which("openssl") is not None  # which torch 2.13 calls for it
    settings = {
        "freezing": True,
        "fx_graph_cache": False,
        "compile_threads": 1,  # processes of its own would live on beside the measurement
        "cpp_cache_precompile_headers": headers,
        "aot_inductor.precompile_headers": headers,
        "_post_fusion_custom_pass": recorder,
    }
    with own_cache(), config.patch(settings), functorch_config.patch(enable_autograd_cache=False):
        yield


@contextlib.contextmanager
def own_cache() -> Iterator[None]:
    """Has Inductor keep its files in `cache_folder`, not in a folder of /tmp whose name anybody knows."""
    from torch._inductor import codecache

    folder = cache_folder()
    codecache._HEADER_DIR = str(folder / "headers")
    codecache._HEADER_LOCK_DIR = str(folder / "headers" / "locks")
    kept = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own modules, about one another
            yield
    finally:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        if kept is not None:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = kept


def cache_folder() -> Path:
    """A folder for machine code that was made here: of this user alone, and for this processor, torch and compiler.

    Where the user's cache folder cannot be written, or others can write to it, it is a temporary one of this process.
    """
    here = fingerprint("torch")
    what = [platform.machine(), here["cpu"], here["cpu_flags"], here["python"], metadata.version("torch"), compiler()]
    name = hashlib.sha256("\n".join(map(str, what)).encode()).hexdigest()[:16]
    folder = _home() / name
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if all(_is_own(item) for item in (folder, folder.parent)) and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(_temporary().name)


def _home() -> Path:
    """Where the folders of all processors, versions of torch and compilers are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "hwnas" / "compiled"


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="hwnas-compiled-")


def _is_own(folder: Path) -> bool:
    """True for a folder of this user's that nobody else can write to, and that is no link."""
    told = folder.lstat()
    return stat.S_ISDIR(told.st_mode) and told.st_uid == os.getuid() and not told.st_mode & 0o022


def _trim(folder: Path) -> None:
    """Removes the oldest files while all are too large together; whoever has one loaded keeps it."""
    with contextlib.suppress(OSError):
        files = sorted(
            (item.stat().st_mtime, item.stat().st_size, item) for item in folder.rglob("*") if item.is_file()
        )
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= MOST_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= size


@dataclass
class _Kernel:
    """A launch: which buffers it reads and makes, and what becomes a `Node`."""

    node: Node
    reads: list[str]
    makes: list[str]
    products: int = 0
    """Multiply-adds of the sums of products in a loop of Inductor's own."""


class Recorder:
    """Sees what Inductor is about to generate code for, after it has fused what it can, and changes nothing."""

    def __init__(self) -> None:
        self._kernels: list[_Kernel] = []
        self._input: tuple[str, int] = ("", 0)

    def __call__(self, nodes: list[Any]) -> list[Any]:
        from torch._inductor.virtualized import V

        reader = _Reader(V.graph)
        self._kernels = [kernel for node in nodes for kernel in reader.read(node)]
        self._input = reader.input
        return nodes

    def graph(self, runtime: str, macs: int) -> Graph:
        """Returns the kernels of the network that was compiled last.

        Inductor turns small products into loops of its own. Sums of products in loops are counted when they are just
        what is missing; else these loops are named as uncounted.

        Args:
            runtime: name and version.
            macs: of the network's operators before they were compiled.
        """
        missing = macs - sum(kernel.node.macs for kernel in self._kernels)
        loops = [kernel for kernel in self._kernels if kernel.node.op == _LOOPS]
        products = [kernel for kernel in loops if kernel.products]
        nodes = {id(kernel): kernel.node for kernel in self._kernels}
        if missing > 0 and sum(kernel.products for kernel in products) == missing:
            nodes |= {id(item): replace(item.node, op="FusedGemm", macs=item.products) for item in products}
        elif missing > 0:
            nodes |= {id(item): replace(item.node, op=_UNCOUNTED) for item in products or loops}
        makers = {name: place for place, kernel in enumerate(self._kernels) for name in kernel.makes}
        edges = {
            (makers[name], place)
            for place, kernel in enumerate(self._kernels)
            for name in kernel.reads
            if makers.get(name, place) < place
        }
        return Graph(tuple(nodes.values()), tuple(sorted(edges)), runtime, self._peak(edges))

    def _peak(self, edges: set[tuple[int, int]]) -> int:
        """Largest sum of live activations: an output lives from its kernel to the last that reads it."""
        last: dict[int, int] = {}
        for start, end in edges:
            last[start] = max(end, last.get(start, end))
        steps = len(self._kernels)
        spans = [(place, last.get(place, steps), item.node.bytes_out) for place, item in enumerate(self._kernels)]
        name, size = self._input
        reading = [place for place, kernel in enumerate(self._kernels) if name in kernel.reads]
        return peak_bytes([*spans, (0, max(reading, default=0), size)], steps)


class _Reader:
    """Reads the scheduler's nodes of one graph of Inductor's (torch._inductor.scheduler, torch 2.13)."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._constants = set(graph.constants)
        self._made: dict[str, _Kernel] = {}
        name, box = next(iter(graph.graph_inputs.items()), ("", None))
        self.input = (name, _size(_shape(box.get_size()), box.get_dtype()) if box is not None else 0)

    def read(self, node: Any) -> list[_Kernel]:
        """Returns the kernel of a node; none for what launches nothing."""
        from torch._inductor import ir
        from torch._inductor.scheduler import NopKernelSchedulerNode

        if isinstance(node.node, ir.MultiOutput) or isinstance(node, NopKernelSchedulerNode):
            self._alias(node)
            return []
        external = isinstance(node.node, ir.ExternKernel)
        reads = [item.name for item in node.read_writes.reads if not getattr(item, "is_fake", False)]
        kernel = _Kernel(Node(node.get_name(), "", "inductor", (), (), ""), reads, [])
        operands = self._operands(node.node) if external else dict.fromkeys(sorted(reads))
        layouts = {name: layout for name in operands if (layout := self._layout(name, operands[name])) is not None}
        self._describe(kernel, node, layouts, external)
        for buffer in node.get_outputs():
            self._add(kernel, str(buffer.get_name()), written=isinstance(buffer.node, ir.MutationOutput))
        if external and not kernel.node.outputs and layouts and _writes(node.node):
            self._add(kernel, list(layouts)[-1])
        if not external and self._constants.issuperset(reads):
            self._constants.update(kernel.makes)  # a bias in a place of its own
        return [kernel]

    def _operands(self, node: Any) -> dict[str, Shape | None]:
        """What an operator reads, in the order of its arguments, and as what shape; what it writes over comes last."""
        flat = [item for entry in node.inputs for item in (entry if isinstance(entry, list | tuple) else [entry])]
        if str(node.op_overload or "").startswith("mkl."):  # packed weights, which follow as they were
            del flat[1]
        if _writes(node):
            flat = [*flat[1:], flat[0]]
        found: dict[str, Shape | None] = {}
        for item in flat:
            name = str(item.get_name())
            found.setdefault(name, None if name in self._constants else _shape(item.get_size()))
        return found

    def _layout(self, name: str, shape: Shape | None = None) -> tuple[Shape, Any] | None:
        """Shape and type of a buffer, an input or a constant; it may be read as of another shape."""
        name = self._graph.scheduler.mutation_real_name.get(name, name)
        if name in self._graph.constants:
            constant = self._graph.constants[name]
            return _shape(constant.shape), constant.dtype
        buffer: Any = self._graph.graph_inputs.get(name) or self._graph.try_get_buffer(name)
        spec: Any = None if buffer is None else buffer.maybe_get_output_spec()
        return (shape or _shape(spec.size), spec.dtype) if hasattr(spec, "size") and hasattr(spec, "dtype") else None

    def _add(self, kernel: _Kernel, name: str, *, written: bool = False) -> None:
        """Takes a buffer as one that a kernel makes, or as the new name of one that it has written to."""
        if name not in self._made:
            self._made[name] = kernel
            kernel.makes.append(name)
        layout = None if written else self._layout(name)
        if layout is not None:
            kernel.node = replace(
                kernel.node,
                outputs=(*kernel.node.outputs, layout[0]),
                dtype=kernel.node.dtype or str(layout[1]).removeprefix("torch."),
                bytes_out=kernel.node.bytes_out + _size(*layout),
            )
            self._count(kernel)

    def _alias(self, node: Any) -> None:
        """A part of what a kernel has made is that kernel's; so is what several have written side by side."""
        sources = [self._made[item.name] for item in node.read_writes.reads if item.name in self._made]
        for buffer in node.get_outputs():
            if sources:
                self._add(sources[-1], str(buffer.get_name()))

    def _describe(self, kernel: _Kernel, node: Any, shapes: dict[str, tuple[Shape, Any]], external: bool) -> None:
        """Says what a kernel is and what it reads."""
        weights = [name for name in shapes if name in self._constants]
        inputs = [name for name in shapes if name not in self._constants]
        read: dict[str, Any] = {
            "inputs": tuple(shapes[name][0] for name in inputs),
            "weights": tuple(shapes[name][0] for name in weights),
            "bytes_in": sum(_size(*shapes[name]) for name in inputs),
            "weight_bytes": sum(_size(*shapes[name]) for name in weights),
        }
        if external:
            op = _operator(node.node)
            fused = [
                str(item) for item in node.node.constant_args if isinstance(item, str) and item not in ("", "none")
            ]
            more: dict[str, Any] = {"fused": fused} if fused else {}
        else:
            op, origins = (_LOOPS if inputs else "Constant"), _origins(node)
            more = {"fused": sorted(origins)} if origins else {}
            kernel.products = sum(_products(item) for item in node.get_nodes())
        kernel.node = replace(kernel.node, op=op, attributes=more, **read)

    def _count(self, kernel: _Kernel) -> None:
        """Counts the work of a kernel whose outputs are known."""
        node = kernel.node
        macs = count_macs(node.op, node.inputs, node.weights, node.outputs)
        attributes = dict(node.attributes)
        group = 1
        if node.op in ("Conv", "ConvTranspose") and node.weights:
            attributes["kernel"] = list(node.weights[0][2:])
        if node.op == "Conv" and node.weights and node.inputs and len(node.weights[0]) > 1:
            group = max(node.inputs[0][1] // max(node.weights[0][1], 1), 1)
        kernel.node = replace(node, macs=macs, attributes=attributes, group=group)


def _operator(node: Any) -> str:
    """Name of an operator that Inductor calls, in ONNX's words where it has one there."""
    overload: Any = getattr(node, "op_overload", None)
    name = str(overload._schema.name) if hasattr(overload, "_schema") else ""
    told = str(getattr(node, "python_kernel_name", None) or "")
    name = (name or f"aten::{told.rpartition('.')[2]}").removesuffix("_")
    return _EXTERNAL.get(name) or onnx_name(name)


def _writes(node: Any) -> bool:
    """True for an operator that writes over its first argument."""
    schema = getattr(getattr(node, "op_overload", None), "_schema", None)
    return schema is not None and schema.name.endswith("_")


def _origins(node: Any) -> set[str]:
    """Operators that a loop was made of."""
    found = {str(origin.target) for item in node.get_nodes() if item.node is not None for origin in item.node.origins}
    return {name for name in found if name.startswith("aten.")}


def _products(node: Any) -> int:
    """Multiply-adds of a sum of products; 0 for another loop."""
    from torch._inductor import ir

    data = getattr(node.node, "data", None)
    names = {str(origin.target).split(".")[1] for origin in node.node.origins if "aten." in str(origin.target)}
    if not isinstance(data, ir.Reduction) or data.reduction_type != "sum" or not names >= {"mul", "sum"}:
        return 0
    return math.prod(_shape(data.ranges)) * math.prod(_shape(data.reduction_ranges))


def _shape(sides: Sequence[Any]) -> Shape:
    return tuple(int(side) for side in sides)


def _size(shape: Shape, kind: Any) -> int:
    return math.prod(shape) * int(kind.itemsize)
