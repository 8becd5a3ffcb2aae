from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hwnas.profilers import computed_metrics, get_runtime
from hwnas.spaces import Cell, NasBench201
from hwnas.spaces.errors import CandidateError, SpaceError
from hwnas.spaces.nasbench201 import EDGES, OPERATIONS

CELLS = [Cell(operations) for operations in itertools.product(OPERATIONS, repeat=6)]
PATHS = (((0, 3),), ((0, 1), (1, 3)), ((0, 2), (2, 3)), ((0, 1), (1, 2), (2, 3)))
NO_PATH = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
SMALL = NasBench201((1, 8, 8), 4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two processes of tests with two threads each on two cores would wait for each other at every layer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(text: str, space: NasBench201 = SMALL) -> nn.Module:
    torch.manual_seed(0)
    return space.build(space.from_string(text))


def trained(text: str, steps: int = 12) -> tuple[nn.Module, list[float]]:
    """Returns a network after a few steps on a task of four bright quarters, and its losses."""
    model = built(text).train()
    labels = torch.arange(32) % 4
    x = torch.randn(32, 1, 8, 8)
    for image, label in zip(x, labels, strict=True):
        image[0, 4 * (int(label) // 2) :, 4 * (int(label) % 2) :][:4, :4] += 2.0
    optimiser, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        optimiser.step()
        losses.append(loss.item())
    return model.eval(), losses


# Published: github.com/D-X-Y/NATS-Bench, issue 24 (CIFAR-10, CIFAR-100, ImageNet-16-120) and issue 36 (CIFAR-10).
ISSUE_24 = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
ISSUE_36 = "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"


@pytest.mark.parametrize(
    ("text", "side", "classes", "mflops", "mparams"),
    [
        (ISSUE_24, 32, 10, 15.64737, None),
        (ISSUE_24, 32, 100, 15.65322, None),
        (ISSUE_24, 16, 120, 3.91948, None),
        (ISSUE_36, 32, 10, 113.95137, 0.802426),
    ],
)
def test_the_published_counts(text: str, side: int, classes: int, mflops: float, mparams: float | None) -> None:
    counted = computed_metrics(built(text, NasBench201((3, side, side), classes)), (3, side, side))
    assert counted["macs"] + classes == round(mflops * 1e6)  # published: each bias of the classifier is one
    assert mparams is None or counted["params"] == round(mparams * 1e6)


def test_live_edges_are_those_of_whole_paths() -> None:
    for cell in CELLS:
        present = {edge for edge, operation in zip(EDGES, cell.operations, strict=True) if operation != "none"}
        assert cell.live == {edge for path in PATHS if present.issuperset(path) for edge in path}
        assert cell.simplified().simplified() == cell.simplified() and cell.simplified().live == cell.live
    assert sum(not cell.live for cell in CELLS) == 341  # 2.2 %


def published_key(cell: Cell) -> str:
    """The rule by which the benchmark counts (`to_unique_str` of its code): nodes spelled out as texts."""
    nodes = {0: "0"}
    for target in (1, 2, 3):
        terms = []
        for (source, end), operation in zip(EDGES, cell.operations, strict=True):
            if end == target:
                zero = operation == "none" or nodes[source] == "#"
                plain = nodes[source] if operation == "skip_connect" else f"({nodes[source]})@{operation}"
                terms.append("#" if zero else plain)
        nodes[target] = "+".join(sorted(terms))
    return nodes[3]


def test_equal_cells() -> None:
    classes = defaultdict(list)
    for cell in CELLS:
        classes[cell.key()].append(cell)
        assert cell.simplified().key() == cell.key()
    assert len(classes) == 5425
    assert len({published_key(cell) for cell in CELLS}) == 6466  # as in the paper: the strings mean the same cells
    for cells in classes.values():
        work = [Counter(op for op in cell.simplified().operations if op[:3] in ("nor", "avg")) for cell in cells]
        assert all(one == work[0] for one in work)


def test_swapped_nodes_are_the_same_network() -> None:
    """Without the edge from node 1 to node 2 the two can change places."""
    for cell in CELLS:
        if cell.operations[2] == "none":
            a, b, none, c, d, e = cell.operations
            assert Cell((b, a, none, c, e, d)).key() == cell.key()


def test_cells_of_one_key_compute_the_same() -> None:
    a = built("|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|").eval()
    b = built("|avg_pool_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|").eval()
    swap = {"edges.0": "edges.1", "edges.1": "edges.0", "edges.4": "edges.5", "edges.5": "edges.4"}
    weights = a.state_dict()
    for name in list(weights):
        old = next((part for part in swap if f".{part}." in name), None)
        if old:
            weights[name.replace(old, swap[old])] = a.state_dict()[name]
    b.load_state_dict({name: weights[name] for name in b.state_dict()})
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(a(x), b(x))


def test_a_shared_convolution_is_not_two() -> None:
    shared = Cell.parse("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|")
    once = Cell.parse("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|none~0|skip_connect~1|skip_connect~2|")
    twice = Cell.parse("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|nor_conv_3x3~0|none~1|skip_connect~2|")
    assert len({cell.key() for cell in (shared, once, twice)}) == 3
    padded = [published_key(cell).replace("#+", "") for cell in (once, twice)]
    assert padded[0] == padded[1]  # spelled out, the two look alike


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|", 0),
        ("|none~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|none~2|", 3),
        ("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|", 2),
        ("|none~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|", 2),
    ],
)
def test_eager_torch_executes_dead_edges_and_a_converted_graph_has_none(tmp_path: Path, text: str, dead: int) -> None:
    cell, (model, _) = Cell.parse(text), trained(text, 4)
    runs: list[nn.Module] = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda layer, inputs, output: runs.append(layer))
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        scores = model(x)
    convolutions = sum(operation.startswith("nor_conv") for operation in cell.operations)
    live = Counter(cell.simplified().operations)
    assert convolutions - live["nor_conv_1x1"] - live["nor_conv_3x3"] == dead
    assert len(runs) == 1 + 2 * 3 + 15 * convolutions  # the stem, and three in each of two reductions
    runtime = get_runtime("onnxruntime")
    artifact = runtime.convert(model, x, tmp_path / "model.onnx")
    nodes = Counter(node.op for node in runtime.executed_graph(artifact).nodes)
    # onnxruntime runs the batch norm behind the last cell, which follows no convolution, as one more.
    assert nodes["Conv"] == 1 + 2 * 3 + 1 + 15 * (convolutions - dead)
    assert nodes["AveragePool"] == 2 + 15 * live["avg_pool_3x3"]
    assert not nodes["BatchNormalization"] and not nodes["Mul"]
    torch.testing.assert_close(torch.from_numpy(runtime.load(artifact)(x.numpy())), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_cells_learn(seed: int) -> None:
    text = SMALL.string_of(SMALL.narrow({"edge03": ["skip_connect", "nor_conv_3x3"]}).random(seed))
    _, losses = trained(text)
    assert losses[-1] < 0.6 * losses[0]


def test_a_cell_without_a_path_trains_but_cannot_be_exported(tmp_path: Path) -> None:
    model, losses = trained(NO_PATH, 3)
    assert all(loss > 1.0 for loss in losses)
    with torch.no_grad():
        assert torch.equal(model(torch.randn(1, 1, 8, 8)), model(torch.randn(1, 1, 8, 8)))
    runtime = get_runtime("onnxruntime")
    artifact = runtime.convert(model, torch.randn(1, 1, 8, 8), tmp_path / "model.onnx")
    with pytest.raises(CandidateError, match="does not depend on its input"):
        runtime.load(artifact)


@given(st.sampled_from(CELLS))
def test_strings_go_both_ways(cell: Cell) -> None:
    assert Cell.parse(str(cell)) == cell
    assert SMALL.cell_of(SMALL.from_string(str(cell))) == cell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a cell is 3 nodes joined by '\+', not 1"),
        (NO_PATH + "+|none~0|", "not 4"),
        (NO_PATH[:-1], r"node 3 is '\|none~0\|none~1\|none~2', expected \|op~0\|op~1\|op~2\|"),
        (NO_PATH.replace("+|none~0|none~1|+", "+|none~0|+"), r"node 2 is '\|none~0\|', expected \|op~0\|op~1\|"),
        (NO_PATH.replace("none~2", "none~1"), "node 3 has an edge 'none~1', expected op~2"),
        (NO_PATH.replace("none~2", "nor_conv3x3~2"), r"'nor_conv3x3' \(did you mean 'nor_conv_3x3'\?\)"),
        (NO_PATH.replace("none~2", "none"), "node 3 has an edge 'none', expected op~2"),
    ],
)
def test_other_strings_are_refused(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=f"space 'nasbench201' has no architecture .*{message}"):
        SMALL.from_string(text)


def test_size_and_inputs() -> None:
    assert len(NasBench201()) == 15625 and NasBench201().input_shape == (3, 32, 32)
    assert NasBench201(params={"edge*3": "skip_connect", "edge01": ["none", "nor_conv_1x1"]}).size() == 2 * 5 * 5
    for shape in ((3, 30, 32), (3, 32, 1028)):
        with pytest.raises(SpaceError, match="multiples of 4, at most 512, not"):
            NasBench201(shape)
    smallest = NasBench201().corners()[0]
    assert NasBench201().cell_of(smallest).live  # `check` measures a network that sees its input
