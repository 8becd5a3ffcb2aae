"""Executed graphs: counting, depth, JSON."""

from __future__ import annotations

import json

import pytest

from hwnas.profilers import Graph, Node
from hwnas.profilers.graph import count_macs
from hwnas.spaces.errors import DataError


def node(name: str, op: str = "Relu", **more: object) -> Node:
    return Node(name, op, "", ((1, 8, 4, 4),), ((1, 8, 4, 4),), "float32", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "inputs", "weights", "outputs", "expected"),
    [
        ("Conv", [(1, 3, 8, 8)], [(16, 3, 3, 3), (16,)], [(1, 16, 8, 8)], 16 * 27 * 64),
        ("Conv", [(1, 16, 8, 8)], [(16, 1, 3, 3)], [(1, 16, 4, 4)], 16 * 9 * 16),
        ("Conv", [(1, 16, 8, 8), (1, 8, 8, 8)], [(8, 16, 1, 1)], [(1, 8, 8, 8)], 128 * 64),
        ("ConvTranspose", [(1, 4, 5, 5)], [(4, 2, 3, 3)], [(1, 2, 7, 7)], 25 * 4 * 18),
        ("Gemm", [(1, 32)], [(10, 32), (10,)], [(1, 10)], 320),
        ("MatMul", [(2, 6, 32)], [(32, 10)], [(2, 6, 10)], 2 * 6 * 32 * 10),
        ("Relu", [(1, 8)], [], [(1, 8)], 0),
        ("LSTM", [(1, 8)], [], [(1, 8)], 0),
    ],
)
def test_multiply_adds(
    op: str,
    inputs: list[tuple[int, ...]],
    weights: list[tuple[int, ...]],
    outputs: list[tuple[int, ...]],
    expected: int,
) -> None:
    assert count_macs(op, inputs, weights, outputs) == expected


def test_unknown_operators_are_named() -> None:
    made = Graph((node("a"), node("b", "LSTM"), node("c", "Conv", macs=5)), ())
    assert made.uncounted == ("LSTM",)
    assert made.macs == 5


def test_depth_is_the_longest_chain() -> None:
    nodes = tuple(node(str(place)) for place in range(5))
    assert Graph(nodes, ((0, 1), (1, 2), (0, 3), (3, 4), (2, 4))).depth == 4
    assert Graph((), ()).depth == 0


def test_parallel_width_is_the_fullest_level() -> None:
    nodes = tuple(node(str(place), "Relu") for place in range(5))
    assert Graph(nodes, ((0, 1), (0, 2), (0, 3), (3, 4), (2, 4))).parallel_width == 3
    assert Graph(nodes, ()).parallel_width == 5
    assert Graph(nodes, tuple((place, place + 1) for place in range(4))).parallel_width == 1
    assert Graph((), ()).parallel_width == 0


def test_depthwise() -> None:
    assert node("a", "Conv", group=8).depthwise
    assert not node("a", "Conv", group=2).depthwise
    assert not node("a", "Relu", group=8).depthwise


def test_json_round_trip() -> None:
    made = Graph((node("a", weights=((3, 4),), attributes={"kernel": [3, 3]}), node("b")), ((0, 1),), "x 1.0", 99)
    assert Graph.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize("data", [{}, {"nodes": [{}], "edges": []}, {"nodes": [], "edges": [[0, 1]]}, {"nodes": 1}])
def test_what_is_no_graph(data: dict[str, object]) -> None:
    with pytest.raises(DataError):
        Graph.from_json(data)
