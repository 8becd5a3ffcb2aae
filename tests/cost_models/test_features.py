"""Totals of a graph, and the intervals made of leave-one-out fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.cost_models import FEATURES, AdditiveModel, totals
from hwnas.cost_models.features import FEATURE_SETS
from hwnas.cost_models.kernel_work import depthwise_steps, padded_macs, vector_steps
from hwnas.profilers import Graph, Node
from hwnas.spaces.errors import DataError

NCHWC = "com.microsoft.nchwc"
SHAPE = ((1, 8, 4, 4),)
OF = {"padded_macs": padded_macs, "depthwise_steps": depthwise_steps, "vector_steps": vector_steps}


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
    own = ("padded_macs", "depthwise_steps", "vector_steps")
    assert {name: found[name] for name in own} == {name: sum(OF[name](node) for node in nodes) for name in own}
    assert {name: value for name, value in found.items() if name not in own} == {
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


def test_sets_of_features() -> None:
    used = {name for one in FEATURE_SETS.values() for name in one.features}
    assert used == set(FEATURES), "no total is taken for nothing"
    for one in FEATURE_SETS.values():
        assert [FEATURES[column] for column in one.columns] == list(one.features)
        assert set(one.usual) in (set(), set(one.features)) and all(cost > 0 for cost in one.usual.values())


def _samples(costs: dict[str, float], count: int = 20) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Totals of networks of a usual kind, without any weights, and what they cost."""
    usual = FEATURE_SETS["executed"].usual
    x = np.random.default_rng(0).uniform(1, 10, (count, len(FEATURES)))
    x *= np.array([1e4 / usual.get(name, 1.0) for name in FEATURES])
    x[:, FEATURES.index("weight_bytes")] = 0.0
    return x, x @ np.array([costs.get(name, 0.0) for name in FEATURES])


@pytest.mark.parametrize("name", ["padded_macs", "window_values"])
def test_the_set_that_explains_the_samples_is_taken(name: str) -> None:
    cost = FEATURE_SETS["executed"].usual.get(name, 1.0)
    x, y = _samples({name: cost, "kernels": 1e3})
    model = AdditiveModel().fit_totals(x, y)
    assert np.abs(model.predict_totals(x)[0] / y - 1).mean() < 0.03
    taken = next(one for one in FEATURE_SETS.values() if name in one.features)
    assert all(cost == 0 for cost, other in zip(model.costs, FEATURES, strict=True) if other not in taken.features)


def test_work_that_no_sample_had_is_not_free() -> None:
    costs = dict(FEATURE_SETS["executed"].usual)
    model = AdditiveModel().fit_totals(*_samples({name: 3e-6 * cost for name, cost in costs.items()}))
    found = model.costs[FEATURES.index("weight_bytes")]
    assert found == pytest.approx(3e-6 * costs["weight_bytes"], rel=0.02), "the ratio that is usual"


@pytest.mark.parametrize("cost", [-1.0, "x", True, None])
def test_costs_of_a_file_are_checked(tmp_path: Path, cost: object) -> None:
    path = tmp_path / "model.json"
    bad = [cost] + [0.0] * (len(FEATURES) - 1)
    left = [{"costs": [0.0] * len(FEATURES), "residual": 0.1}] * 4
    data = {"schema_version": 1, "model": "additive", "features": list(FEATURES), "costs": bad, "left_out": left}
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"finite number|at least 0"):
        AdditiveModel.load(path)
