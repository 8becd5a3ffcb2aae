"""Fusions inferred from made-up latencies, and from real ones."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hwnas.cost_models.fusion import applied
from hwnas.cost_models.probe_fusion import CHAINS, INPUT_SHAPE, LENGTH, FusedPair, FusionTable, chain, probe_fusion
from hwnas.cost_models.space_graphs import plain_network
from hwnas.spaces import load_space
from hwnas.spaces.errors import DataError

COST_US = {"conv": 3.0, "dwconv": 2.5, "pool": 2.0, "bn": 1.5, "relu": 1.0, "hswish": 1.4, "swish": 1.8, "add": 1.2}
NAMES = {
    nn.BatchNorm2d: "bn",
    nn.Hardswish: "hswish",
    nn.Identity: "add",
    nn.MaxPool2d: "pool",
    nn.ReLU: "relu",
    nn.SiLU: "swish",
}

Device = Callable[[nn.Module], tuple[float, float]]


def names(model: Any) -> list[str]:
    """Operators of a link, read off the module."""

    def name(layer: nn.Module) -> str:
        if isinstance(layer, nn.Conv2d):
            return "dwconv" if layer.groups > 1 else "conv"
        return NAMES[type(layer)]

    return [name(layer) for layer in model.links[1].steps]


def device(fused: set[tuple[str, str]], noise_us: float = 0.0, left: float = 0.0) -> Device:
    """A runtime that fuses pairs of neighbours, of which a share of the second's cost is left."""
    chance = random.Random(0)

    def measure(model: nn.Module) -> tuple[float, float]:
        link = names(model)
        costs = [
            COST_US[name] * (left if (before, name) in fused else 1.0)
            for before, name in zip([link[-1], *link], link, strict=False)
        ]
        us = 20 + LENGTH * sum(costs) + chance.gauss(0, noise_us)
        return us / 1e3, noise_us / 1e3

    return measure


ALL = {("conv", "bn"), ("conv", "relu"), ("conv", "hswish"), ("conv", "swish"), ("conv", "add"), ("add", "relu")}


def found(table: FusionTable) -> dict[str, bool | None]:
    return {f"{pair.first} {pair.second}": pair.fused for pair in table.pairs}


def test_what_is_fused_is_found() -> None:
    assert len(CHAINS) < 30
    nothing = found(probe_fusion(device(set(), 0.5)))
    assert set(nothing.values()) == {False}
    some = found(probe_fusion(device({("conv", "relu"), ("dwconv", "relu"), ("conv", "bn")}, 0.5)))
    assert {name for name, is_fused in some.items() if is_fused} == {
        "Conv Relu",
        "DepthwiseConv Relu",
        "Conv BatchNormalization",
    }
    assert False in some.values() and None not in some.values()


def test_a_fused_operator_may_cost_a_little() -> None:
    assert found(probe_fusion(device({("conv", "hswish")}, 0.2, left=0.25)))["Conv HardSwish"] is True


def test_noise_leaves_it_open() -> None:
    table = probe_fusion(device(ALL, 20.0))
    assert len(table.undecided) >= 6
    half = probe_fusion(device({("conv", "relu")}, 1.0, left=0.5))
    assert half.fused("Conv", "Relu") is None and "Conv Relu" in half.undecided
    assert half.fused("Conv", "Softmax") is None


@pytest.mark.parametrize("bad", [(float("nan"), 0.1), (1.0, float("inf")), (0.0, 0.1), (-1.0, 0.1), (1.0, -0.1)])
def test_latencies_that_are_none(bad: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="took"):
        probe_fusion(lambda _: bad)


def test_a_table_becomes_rules() -> None:
    space = load_space("fbnet")
    network = plain_network(space, space.corners()[1])
    assert network is not None

    def kinds(fused: set[tuple[str, str]]) -> Counter[str]:
        graph = applied(network, probe_fusion(device(fused)).rules()).graph("")
        return Counter(node.op for node in graph.nodes)

    plain, folded, everything = kinds(set()), kinds({("conv", "bn")}), kinds(ALL)
    assert plain["BatchNormalization"] == plain["Conv"] == folded["Conv"] == everything["Conv"]
    assert plain["Relu"] > 40 and plain["Add"] > 10
    assert folded["BatchNormalization"] == 0 and folded["Relu"] == plain["Relu"]
    assert not {"BatchNormalization", "Relu", "Add"} & set(everything)


def test_a_table_is_json() -> None:
    table = probe_fusion(device(ALL, 0.5))
    assert FusionTable.from_json(json.loads(json.dumps(table.to_json()))) == table


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"pairs": 3},
        {"pairs": [{"first": "Conv"}]},
        {"pairs": [{"first": 1, "second": "Relu", "fused": True, "share": 0.0, "error": 0.0}]},
        {"pairs": [{"first": "Conv", "second": "Relu", "fused": "yes", "share": 0.0, "error": 0.0}]},
        {"pairs": [{"first": "Conv", "second": "Relu", "fused": None, "share": "0", "error": 0.0}]},
    ],
)
def test_what_is_no_table(data: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="not a table of fusions"):
        FusionTable.from_json(data)


@pytest.mark.parametrize("text", CHAINS)
def test_a_chain_keeps_its_values_in_bounds(text: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        y = chain(text).eval()(torch.randn(INPUT_SHAPE))
    assert y.shape == INPUT_SHAPE and 1e-12 < y.abs().max() < 1e12


def test_nothing_shows_by_itself() -> None:
    table = probe_fusion(lambda _: (1.0, 0.01))
    assert all(pair.fused is None for pair in table.pairs) and isinstance(table.pairs[0], FusedPair)
