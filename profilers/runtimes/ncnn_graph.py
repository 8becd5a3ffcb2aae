"""Layers of ncnn as nodes of a graph: names, weights and multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..graph import Graph, Node, Shape, count_macs, peak_activations
from .ncnn_file import Layer

__all__ = ["SILENT", "graph_of", "ncnn_node"]

SILENT = frozenset({"Input", "Split", "Noop", "MemoryData"})
"""Layers that compute nothing: they hand on what they get, or are constants."""

_OPERATORS = {
    "BinaryOp": "Add",
    "Convolution": "Conv",
    "ConvolutionDepthWise": "Conv",
    "Deconvolution": "ConvTranspose",
    "DeconvolutionDepthWise": "ConvTranspose",
    "Eltwise": "Add",
    "ExpandDims": "Unsqueeze",
    "GELU": "Gelu",
    "InnerProduct": "Gemm",
    "InstanceNorm": "InstanceNormalization",
    "Interp": "Resize",
    "LayerNorm": "LayerNormalization",
    "PReLU": "PRelu",
    "Padding": "Pad",
    "Permute": "Transpose",
    "Pooling": "AveragePool",
    "ReLU": "Relu",
    "Reduction": "ReduceMean",
    "Swish": "QuickGelu",
    "TanH": "Tanh",
    "UnaryOp": "Math",
}
"""ncnn's layers → the names of ONNX, by which operators are counted; others keep their own."""

_NAMES = {4: "float32", 2: "bfloat16", 1: "int8"}


def ncnn_node(layer: Layer, bottoms: Sequence[tuple[Shape, int]], tops: Sequence[tuple[Shape, int]]) -> Node:
    """Describes a layer.

    Args:
        layer: of the file; the meaning of its parameters is that of ncnn's wiki, operators.
        bottoms: shape and bytes per element of each blob read.
        tops: the same of each blob written.
    """
    op = _OPERATORS.get(layer.kind, layer.kind)
    inputs, outputs = tuple(shape for shape, _ in bottoms), tuple(shape for shape, _ in tops)
    group = layer.integer(7, 1) if layer.kind.endswith("DepthWise") else 1
    weights = _weights(layer, group)
    return Node(
        name=layer.name,
        op=op,
        domain="ncnn",
        inputs=inputs,
        outputs=outputs,
        dtype=_NAMES.get(tops[0][1], "float32") if tops else "float32",
        group=group,
        attributes={"layer": layer.kind, **({"kernel": list(weights[0][2:])} if op == "Conv" and weights else {})},
        weight_bytes=4 * sum(math.prod(shape) for shape in weights),
        bytes_in=sum(math.prod(shape) * size for shape, size in bottoms),
        bytes_out=sum(math.prod(shape) * size for shape, size in tops),
        macs=count_macs(op, _operands(layer, inputs), weights, outputs),
        weights=weights,
    )


def graph_of(layers: Sequence[Layer], nodes: Mapping[str, Node], runtime: str) -> Graph:
    """Joins the nodes of the layers that compute; what a silent layer hands on comes from whoever made it.

    Args:
        layers: in the order executed.
        nodes: of every layer, by its name.
        runtime: name and version.
    """
    kept: list[Node] = []
    edges: set[tuple[int, int]] = set()
    makers: dict[str, int] = {}
    for layer in layers:
        sources = [makers[name] for name in layer.bottoms if name in makers]
        if layer.kind in SILENT:
            makers.update({top: source for source in sources for top in layer.tops})
        else:
            edges.update((source, len(kept)) for source in sources)
            makers.update(dict.fromkeys(layer.tops, len(kept)))
            kept.append(nodes[layer.name])
    return Graph(tuple(kept), tuple(sorted(edges)), runtime, peak_activations(kept, edges))


def _weights(layer: Layer, group: int) -> tuple[Shape, ...]:
    """Shapes of a layer's weights, in the form of ONNX: (out, in / group, height, width), or (in, out) of a product."""
    if layer.kind in ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise"):
        made, width = layer.integer(0), layer.integer(1)
        kernel = layer.integer(11, width), width
        each = layer.integer(6) // max(made * math.prod(kernel), 1)
        if layer.kind.startswith("Deconvolution"):
            return ((each * group, made // max(group, 1), *kernel),)
        return ((made, each, *kernel),)
    if layer.kind == "InnerProduct":
        return ((layer.integer(2) // max(layer.integer(0), 1), layer.integer(0)),)
    if layer.kind == "Gemm" and layer.integer(5):
        return ((layer.integer(9), layer.integer(8)),)
    return ()


def _operands(layer: Layer, inputs: Sequence[Shape]) -> tuple[Shape, ...]:
    """Shapes whose first one ends in the length of the sums, where that is not so from the start."""
    if layer.kind == "InnerProduct":  # it reads a whole sample as one row, if need be
        return ((1, layer.integer(2) // max(layer.integer(0), 1)),)
    if layer.kind == "Gemm" and layer.integer(9):
        return ((1, layer.integer(9)),)
    if layer.kind == "Gemm" and layer.integer(2) and inputs and len(inputs[0]) > 1:
        return ((inputs[0][-1], inputs[0][-2]),)
    return tuple(inputs)
