"""Graphs written down against those of the module: what onnxruntime makes of its file, what torch dispatches."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hwnas.cost_models.fbnet_graph import fbnet_graph
from hwnas.cost_models.graph_builder import GraphBuilder
from hwnas.cost_models.nasbench201_graph import executed, nasbench201_graph
from hwnas.profilers import Graph, Node, get_runtime
from hwnas.spaces import Architecture, FBNet, NasBench201, Space
from hwnas.spaces.nasbench201 import EDGES, Cell

CELLS = [
    "|avg_pool_3x3~0|+|skip_connect~0|avg_pool_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|avg_pool_3x3~2|",
    "|nor_conv_1x1~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|nor_conv_1x1~0|none~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|avg_pool_3x3~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|nor_conv_3x3~1|nor_conv_1x1~2|",
]


def exported(space: Space, architecture: Architecture, folder: Path) -> Graph:
    """What onnxruntime executes of a built architecture."""
    runtime, path = get_runtime("onnxruntime"), folder / "net.onnx"
    example = torch.zeros(1, *space.input_of(architecture))
    runtime.convert(space.build(architecture), example, path)
    return runtime.executed_graph(path)


def no_layout(graph: Graph) -> list[Node]:
    """Without onnxruntime's changes of layout, which depend on the processor."""
    return [node for node in graph.nodes if not node.op.startswith("Reorder")]


@pytest.mark.parametrize("text", CELLS)
def test_a_cell_is_what_onnxruntime_executes(text: str, tmp_path: Path) -> None:
    space = NasBench201()
    theirs = exported(space, space.from_string(text), tmp_path)
    ours = nasbench201_graph(Cell.parse(text))
    assert ours.macs == theirs.macs and ours.depth > 0

    def kinds(graph: Graph) -> Counter[tuple[str, str, int]]:
        return Counter(
            (node.op, node.attributes.get("activation") or "", len(node.inputs)) for node in no_layout(graph)
        )

    assert kinds(ours) == kinds(theirs)
    for name in ("bytes_in", "bytes_out", "weight_bytes"):
        assert sum(getattr(node, name) for node in ours.nodes) == sum(getattr(node, name) for node in no_layout(theirs))


@pytest.mark.parametrize("seed", [0, 1])
def test_fbnet_is_what_onnxruntime_executes(seed: int, tmp_path: Path) -> None:
    """But for sums, which it fuses into some convolutions and not into others, and constants that tell a shape."""
    space = FBNet()
    architecture = space.random(str(seed))
    theirs, ours = exported(space, architecture, tmp_path), fbnet_graph(space.plan(architecture))

    def told(graph: Graph) -> tuple[Any, ...]:
        nodes = [node for node in no_layout(graph) if node.op != "Add"]
        kinds = Counter(node.op.replace("FusedConv", "Conv") for node in nodes)
        sums = sum(node.op == "Add" or len(node.inputs) == 2 for node in graph.nodes)
        first = sum(4 * math.prod(node.inputs[0]) for node in nodes)
        weights = sum(node.weight_bytes for node in nodes if node.op != "Reshape")
        return graph.macs, kinds, sums, first, sum(node.bytes_out for node in nodes), weights

    assert told(ours) == told(theirs)


class Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotation here
    """Counts the operators that torch runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor here
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func.overloadpacket).removeprefix("aten.")] += 1
        return func(*args, **(kwargs or {}))


NAMES = {
    "Conv": "convolution",
    "BatchNormalization": "native_batch_norm",
    "Relu": "relu",
    "AveragePool": "avg_pool2d",
    "Mul": "mul",
    "Gemm": "addmm",
}


@pytest.mark.parametrize("text", CELLS)
def test_an_eager_cell_is_what_torch_dispatches(text: str) -> None:
    """But for sums: the space's module adds live edges alone, the benchmark's code all of them."""
    space = NasBench201()
    with torch.no_grad(), Dispatched() as seen:
        space.build(space.from_string(text)).eval()(torch.zeros(1, 3, 32, 32))
    ours = nasbench201_graph(Cell.parse(text), "eager")
    counts = Counter(node.op for node in ours.nodes)
    assert {name: counts[op] for op, name in NAMES.items()} == {
        name: seen.counts[name] + seen.counts["cudnn_batch_norm"] * (op == "BatchNormalization")
        for op, name in NAMES.items()
    }
    assert counts["Add"] == 2 + 15 * 3


def test_an_eager_fbnet_is_what_torch_dispatches() -> None:
    space = FBNet()
    architecture = space.random("0")
    with torch.no_grad(), Dispatched() as seen:
        space.build(architecture).eval()(torch.zeros(1, 3, 32, 32))
    counts = Counter(node.op for node in fbnet_graph(space.plan(architecture), converted=False).nodes)
    for op in ("Conv", "BatchNormalization", "Relu", "Gemm"):
        assert counts[op] == seen.counts[NAMES[op]]
    assert counts["Add"] == seen.counts["add"] and counts["Transpose"] == seen.counts["transpose"]


def edges(*operations: str) -> set[str]:
    names = {"-": "none", "s": "skip_connect", "p": "avg_pool_3x3", "1": "nor_conv_1x1", "3": "nor_conv_3x3"}
    cell = Cell(tuple(names[letter] for letter in operations))
    return {f"{source}{target}" for source, target in executed(cell, "multiplied")}


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ("3--3--", {"01", "03"}),  # a convolution before `none` takes the zero into its weights
        ("p--3--", {"03"}),  # a pool before `none` is a constant zero
        ("--331-", {"12", "03", "13"}),  # on zeros a convolution gives its bias
        ("333333", {"01", "02", "12", "03", "13", "23"}),
        ("33333-", {"01", "03", "13"}),  # a sum before `none` is a constant zero
        ("3-s3--", {"01", "12", "03"}),
        ("3-p3--", {"03"}),
        ("-3s3--", {"02", "03"}),  # what is added to it is zero
        ("-313--", {"03"}),
        ("p3-3--", {"02", "03"}),
        ("33-3--", {"03"}),
        ("3-----", {"01"}),
    ],
)
def test_convolutions_that_end_in_none(operations: str, expected: set[str]) -> None:
    assert edges(*operations) == expected


def test_ways_to_execute_differ_only_with_none() -> None:
    cell = Cell(("nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "skip_connect", "nor_conv_3x3"))
    assert executed(cell, "eager") == executed(cell, "converted") == executed(cell, "multiplied") == frozenset(EDGES)
    dead = Cell(("nor_conv_3x3", "none", "none", "none", "none", "none"))
    assert not nasbench201_graph(dead).nodes and not nasbench201_graph(dead, "multiplied").nodes
    assert len(nasbench201_graph(dead, "eager").nodes) > 100


def test_a_graph_starts_with_its_input_and_keeps_its_order() -> None:
    builder = GraphBuilder((3, 8, 8), converted=True)
    x = builder.convolution(-1, 8, 3)
    y = builder.total([x, builder.relu(x)])
    graph = builder.graph(builder.classifier(y, 10))
    assert [node.op for node in graph.nodes] == ["Conv", "Relu", "Add", "GlobalAveragePool", "Flatten", "Gemm"]
    assert graph.nodes[0].inputs == ((1, 3, 8, 8),) and graph.depth == 6 and graph.peak_activation_bytes > 0
    with pytest.raises(ValueError, match="needs a term"):
        builder.total([])
