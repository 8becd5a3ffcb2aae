"""Written graphs against those that runtimes tell of the exported file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from hwnas.cost_models import totals
from hwnas.cost_models.fusion import channels_of_a_block
from hwnas.cost_models.space_graphs import written_graph
from hwnas.profilers import Graph, Node, get_runtime
from hwnas.spaces import Architecture, NasBench201, Space, load_space

pytestmark = pytest.mark.skipif(channels_of_a_block() is None, reason="blocks of this processor are not known")

SPACES = {
    "mobile 32": load_space("mobile", input_shape=(3, 32, 32), num_classes=10),
    "mobile 8": load_space("mobile", input_shape=(1, 8, 8), num_classes=10),
    "fbnet": load_space("fbnet"),
    "nasbench201": load_space("nasbench201"),
}


def told(space: Space, architecture: Architecture, name: str, precision: str, folder: Path) -> Graph:
    """What a runtime tells of a built architecture."""
    runtime = get_runtime(name)
    path = folder / f"net{runtime.suffix}"
    model = as_trained(space.build(architecture))
    shape = (1, *space.input_of(architecture))
    samples = None if precision == "fp32" else torch.rand(4, *shape[1:])
    runtime.convert(model, torch.zeros(shape), path, precision, samples)
    return runtime.executed_graph(path)


def as_trained(model: torch.nn.Module) -> torch.nn.Module:
    """With statistics that differ: equal constants would become one in the file."""
    torch.manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_()
            layer.running_mean.normal_()  # type: ignore[union-attr]  # there are statistics
            layer.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]  # as above
    return model


def kernels(graph: Graph) -> Counter[tuple[Any, ...]]:
    """All that is told of kernels, but for their names and their order."""

    def key(node: Node) -> tuple[Any, ...]:
        numbers = (node.bytes_in, node.bytes_out, node.weight_bytes, node.macs, node.group)
        shapes = (node.inputs, node.outputs, node.weights)
        return node.domain, node.op, node.dtype, *numbers, *shapes, str(sorted(node.attributes.items()))

    return Counter(map(key, graph.nodes))


def check(name: str, seed: int, runtime: str, precision: str, folder: Path, *, in_order: bool = True) -> None:
    space = SPACES[name]
    architecture = space.random(f"{name} {seed}")
    ours = written_graph(space, architecture, runtime, precision)
    assert ours is not None
    theirs = told(space, architecture, runtime, precision, folder)
    assert kernels(ours) == kernels(theirs)
    assert totals(ours).tolist() == totals(theirs).tolist()
    assert ours.peak_activation_bytes == theirs.peak_activation_bytes or not in_order


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SPACES)
def test_onnxruntime_fp32(name: str, seed: int, tmp_path: Path) -> None:
    check(name, seed, "onnxruntime", "fp32", tmp_path)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["mobile 8", "mobile 32", "fbnet"])
def test_onnxruntime_int8(name: str, seed: int, tmp_path: Path) -> None:
    check(name, seed, "onnxruntime", "int8", tmp_path)


@pytest.mark.skipif(not get_runtime("ncnn").available().ok, reason="ncnn is not installed")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SPACES)
def test_ncnn(name: str, seed: int, tmp_path: Path) -> None:
    check(name, seed, "ncnn", "fp32", tmp_path, in_order=name != "nasbench201")


def test_no_fast_path() -> None:
    space = SPACES["nasbench201"]
    dead = space.from_string("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    assert written_graph(space, dead) is None

    class Other(NasBench201):
        pass

    other = Other()
    architecture = other.corners()[1]
    assert written_graph(other, architecture) is None and written_graph(space, architecture) is not None
    assert written_graph(space, architecture, "onnxruntime", "fp64") is None
    assert written_graph(space, architecture, "onnxruntime", "int8") is None, "batch normalisation is left over"
    assert written_graph(space, architecture, "nothing") is None


def test_wider_blocks_pad_more() -> None:
    space = SPACES["mobile 8"]
    narrow, wide = (written_graph(space, space.corners()[1], block=block) for block in (8, 16))
    assert narrow is not None and wide is not None
    assert sum(node.bytes_out for node in wide.nodes) > sum(node.bytes_out for node in narrow.nodes)
    plain = written_graph(space, space.corners()[1], block=1)
    assert plain is not None and not any("nchwc" in node.domain for node in plain.nodes)
