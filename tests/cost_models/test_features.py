"""Totals of a graph, and the intervals made of leave-one-out fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwnas.cost_models import FEATURES, AdditiveModel, totals
from hwnas.profilers import Graph, Node
from hwnas.spaces.errors import DataError

NCHWC = "com.microsoft.nchwc"
SHAPE = ((1, 8, 4, 4),)


def test_totals() -> None:
    nodes = (
        Node("r", "ReorderInput", NCHWC, SHAPE, SHAPE, "float32", bytes_in=512, bytes_out=512),
        Node("c", "Conv", NCHWC, SHAPE, SHAPE, "float32", 1, {"activation": "HardSwish"}, 288, 512, 512, 1024),
        Node("d", "Conv", NCHWC, SHAPE, SHAPE, "float32", 8, {"activation": "Relu"}, 288, 512, 512, 1152),
        Node("f", "FusedConv", "com.microsoft", SHAPE, SHAPE, "float32", 1, {}, 0, 512, 512, 10),
        Node(
            "p",
            "AveragePool",
            "",
            SHAPE,
            ((1, 8, 2, 2),),
            "float32",
            1,
            {"kernel": [3, 3]},
            bytes_in=512,
            bytes_out=128,
        ),
        Node("m", "Mul", "", SHAPE, SHAPE, "float32", bytes_in=1024, bytes_out=512),
    )
    found = dict(zip(FEATURES, totals(Graph(nodes, ((0, 1), (1, 2), (2, 5)))), strict=True))
    assert found == {
        "calls": 1,
        "depth": 4,
        "kernels": 5,
        "light_kernels": 1,
        "unblocked_convolutions": 1,
        "macs": 1034,
        "depthwise_macs": 1152,
        "bytes_moved": 4 * 1024 + 640 + 1536,
        "weight_bytes": 576,
        "costly_activations": 128,
        "window_values": 9 * 8 * 4,
    }


def test_an_empty_graph() -> None:
    assert totals(Graph((), ())).tolist() == [1.0] + [0.0] * (len(FEATURES) - 1)


@pytest.mark.parametrize("cost", [-1.0, "x", True, None])
def test_costs_of_a_file_are_checked(tmp_path: Path, cost: object) -> None:
    path = tmp_path / "model.json"
    bad = [cost] + [0.0] * (len(FEATURES) - 1)
    left = [{"costs": [0.0] * len(FEATURES), "residual": 0.1}] * 4
    data = {"schema_version": 1, "model": "additive", "features": list(FEATURES), "costs": bad, "left_out": left}
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"finite number|at least 0"):
        AdditiveModel.load(path)
