"""Kernels of MNN as nodes of a graph: names, weights, multiply-adds, edges."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..graph import Graph, Node, Shape, count_macs, peak_activations
from .mnn_file import MnnModel, MnnOperator

__all__ = ["Launch", "graph_of", "operator_name"]

_OPERATORS = {
    "BinaryOp": "Add",
    "Convolution": "Conv",
    "ConvolutionDepthwise": "Conv",
    "Deconvolution": "ConvTranspose",
    "DeconvolutionDepthwise": "ConvTranspose",
    "Eltwise": "Add",
    "FloatToInt8": "QuantizeLinear",
    "Int8ToFloat": "DequantizeLinear",
    "Interp": "Resize",
    "LayerNorm": "LayerNormalization",
    "PReLU": "PRelu",
    "Padding": "Pad",
    "Pooling": "AveragePool",
    "Raster": "Reshape",
    "ReLU": "Relu",
    "ReLU6": "Clip",
    "Reduction": "ReduceMean",
    "Scale": "Mul",
    "TanH": "Tanh",
    "UnaryOp": "Math",
}
"""MNN's kinds of kernels → the names of ONNX, by which operators are counted; others keep their own."""

_INT8 = " [ DT_INT8 ]"
_PART = re.compile(r"_raster_\d+$")
_MEGA = 1 << 20
"""Multiply-adds in MNN's unit of work, for products of matrices."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What MNN tells of one kernel.

    Attributes:
        name: of the operator, or of a part of it, e.g. `output_raster_0`.
        kind: e.g. `Convolution [ DT_INT8 ]`.
        work: in millions of multiply-adds, for products in 2^20; other kernels count elements.
        inputs: shapes read.
        outputs: shapes written.
        seconds: how long it took.
    """

    name: str
    kind: str
    work: float
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    seconds: float

    @property
    def plain_kind(self) -> str:
        """The kind without its element type."""
        return self.kind.strip().removesuffix(_INT8.strip()).strip()


def operator_name(launch: Launch) -> str:
    """Returns the name of ONNX, or MNN's own.

    A product of two activations is a loop (`While`) whose body is not told. Its work tells whether it is a plain one.
    """
    kind = launch.plain_kind
    if kind == "While" and _product(launch) > 0:
        return "MatMul"
    return _OPERATORS.get(kind, kind)


def graph_of(launches: tuple[Launch, ...], model: MnnModel, runtime: str) -> Graph:
    """Joins the kernels that were launched with the operators of the file.

    Args:
        launches: in order.
        model: the file.
        runtime: name and version.
    """
    operators = model.by_name
    owners = [operators.get(launch.name) or operators.get(_PART.sub("", launch.name)) for launch in launches]
    nodes = [_node(launch, owner, model) for launch, owner in zip(launches, owners, strict=True)]
    edges = _edges(launches, owners, model)
    return Graph(tuple(nodes), tuple(sorted(edges)), runtime, peak_activations(nodes, edges))


def _node(launch: Launch, owner: MnnOperator | None, model: MnnModel) -> Node:
    op = operator_name(launch)
    constant = _constants(launch, owner, model)
    inputs = tuple(shape for shape, is_constant in zip(launch.inputs, constant, strict=True) if not is_constant)
    weights = tuple(shape for shape, is_constant in zip(launch.inputs, constant, strict=True) if is_constant)
    convolution = owner if owner is not None and owner.kernel and op in ("Conv", "ConvTranspose") else None
    if convolution is not None:
        inputs, weights = launch.inputs[:1], (convolution.weights(op == "ConvTranspose", launch.inputs),)
    size = 1 if _INT8.strip() in launch.kind else 4
    return Node(
        name=launch.name,
        op=op,
        domain="mnn",
        inputs=inputs,
        outputs=launch.outputs,
        dtype="int8" if size == 1 else "float32",
        group=convolution.group if convolution is not None else 1,
        attributes={"kind": launch.plain_kind, **({"kernel": list(convolution.kernel)} if convolution else {})},
        weight_bytes=size * sum(math.prod(shape) for shape in weights),
        bytes_in=size * sum(math.prod(shape) for shape in inputs),
        bytes_out=size * sum(math.prod(shape) for shape in launch.outputs),
        macs=_product(launch) if op == "MatMul" else count_macs(op, inputs, weights, launch.outputs),
        weights=weights,
    )


def _product(launch: Launch) -> int:
    """Multiply-adds of a product of two activations; 0 when MNN's own count says that it is something else.

    Either operand may be turned round, so the length of the sums is the side that both have and that fits.
    """
    if len(launch.inputs) < 2 or len(launch.outputs) != 1 or min(len(shape) for shape in launch.inputs[:2]) < 2:
        return 0
    told = round(launch.work * _MEGA)
    for inner in launch.inputs[0][-2:]:
        counted = count_macs("MatMul", [(1, inner)], [], launch.outputs)
        if inner in launch.inputs[1][-2:] and counted == told:
            return counted
    return 0


def _constants(launch: Launch, owner: MnnOperator | None, model: MnnModel) -> list[bool]:
    """Which of a kernel's inputs the file holds; known where the kernel is the operator itself."""
    if owner is None or owner.name != launch.name or len(owner.inputs) != len(launch.inputs):
        return [False] * len(launch.inputs)
    held = {number for operator in model.operators if operator.constant for number in operator.outputs}
    return [number in held for number in owner.inputs]


def _edges(launches: tuple[Launch, ...], owners: list[MnnOperator | None], model: MnnModel) -> set[tuple[int, int]]:
    """Kernels of one operator follow each other; the first reads what the last of the operators before wrote.

    Operators without a kernel (constants, shapes, layouts) hand on what they read.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    edges: set[tuple[int, int]] = set()
    for place, (launch, owner) in enumerate(zip(launches, owners, strict=True)):
        name = owner.name if owner is not None else launch.name
        if name in last:
            edges.add((last[name], place))
        first.setdefault(name, place)
        last[name] = place
    makers: dict[int, set[int]] = {}
    for operator in model.operators:
        sources = {place for number in operator.inputs for place in makers.get(number, ())}
        own = operator.name in last
        if own:
            edges |= {(source, first[operator.name]) for source in sources if source < first[operator.name]}
        makers.update({number: {last[operator.name]} if own else sources for number in operator.outputs})
    return edges
