from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from hwnas.spaces import Architecture, Mobile, Params, enumerate_architectures

SIDES = (8, 9, 15, 16, 28, 32, 47, 48, 64, 95, 96, 224)


def count_params(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Counts multiply-adds of convolutions and linear layers, on the meta device."""
    total = 0

    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        total += weight.numel() * math.prod(output.shape[2:])

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(hook)
    with torch.no_grad():
        model.eval().to("meta")(torch.empty(1, *shape, device="meta"))
    return total


@pytest.mark.parametrize(
    "params",
    [
        {"stage[12].*": 2, "stage1.kernel": 3, "stage2.kernel": 3, "stage1.se": False, "stage2.se": True, "width": 1.0},
        {"*.kernel": 3, "*.expand": [2, 6], "*.se": True, "stage1.depth": 1},
        {"*.kernel": 5, "*.expand": 4, "*.se": False},
        {"stage3.depth": 0, "stage2.*": 3, "stage2.se": True, "width": [0.25, 1]},
    ],
)
def test_size_is_the_number_of_architectures(params: Params) -> None:
    mobile = Mobile((1, 8, 8), 10, params)
    mobile.validate()
    architectures = list(enumerate_architectures(mobile))
    assert len(architectures) == len(set(architectures)) == mobile.size() == len(mobile)


def test_size_of_a_space_with_resolutions() -> None:
    params: Params = {"*.kernel": 3, "*.expand": 2, "*.se": False, "width": [0.25, 0.5], "activation": "relu"}
    mobile = Mobile((3, 32, 32), 10, params)
    assert mobile.size() == len(set(enumerate_architectures(mobile))) == 3 * 2 * 2 * 3 * 3 * 4


@pytest.mark.parametrize("side", [8, 32, 64])
def test_corners_are_the_smallest_and_the_largest(side: int) -> None:
    mobile = Mobile((3, side, side), 10)

    def cost(architecture: Architecture) -> tuple[int, int]:
        with torch.device("meta"):
            model = mobile.build(architecture)
        return count_params(model), count_macs(model, mobile.input_of(architecture))

    low, high = (cost(corner) for corner in mobile.corners())
    for seed in range(12):
        params, macs = cost(mobile.random(seed))
        assert low[0] <= params <= high[0] and low[1] <= macs <= high[1]


def test_sizes_on_digits() -> None:
    mobile = Mobile((1, 8, 8), 10)
    smallest, largest = (count_params(mobile.build(corner)) for corner in mobile.corners())
    assert 1_000 <= smallest <= 3_000 and 100_000 <= largest <= 400_000


@pytest.mark.parametrize("side", SIDES)
def test_no_two_architectures_build_the_same(side: int) -> None:
    mobile = Mobile((1, side, side), 10)
    seen: dict[object, object] = {}
    architectures = [mobile.random(seed) for seed in range(300)]
    # Neighbours that differ in the width alone are where rounding could make twins.
    for architecture in architectures[:20]:
        for width in (0.25, 0.5, 0.75, 1.0, 1.5):
            changed = mobile.narrow({**architecture.as_dict(), "width": width}).random(0)
            architectures.append(changed)
    for architecture in architectures:
        network = (mobile.plan(architecture), mobile.input_of(architecture))
        assert seen.setdefault(network, architecture) == architecture


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1)])
def test_every_size_builds(side: int, shape: tuple[int, int]) -> None:
    mobile = Mobile((2, side * shape[0], side * shape[1]), 3)
    for architecture in mobile.corners():
        with torch.device("meta"):
            model = mobile.build(architecture)
            scores = model(torch.empty(2, *mobile.input_of(architecture)))
        assert scores.shape == (2, 3)


def test_resolution() -> None:
    assert Mobile((1, 28, 28), 10).knobs()["resolution"].values() == (28,)
    mobile = Mobile((3, 60, 90), 10)
    assert mobile.knobs()["resolution"].values() == (32, 48, 60)  # 45 is nearer to 48 than to 40
    shapes = [mobile.input_of(mobile.narrow({"resolution": side}).random(0)) for side in (32, 48, 60)]
    assert shapes == [(3, 32, 48), (3, 48, 72), (3, 60, 90)]
    tall = Mobile((3, 90, 60), 10)
    assert tall.input_of(tall.corners()[0]) == (3, 48, 32)


def test_a_stage_left_out_decides_nothing() -> None:
    mobile = Mobile((1, 8, 8), 10)
    for seed in range(50):
        made = mobile.random(seed).as_dict()
        assert (
            ("stage3.kernel" in made)
            == ("stage3.expand" in made)
            == ("stage3.se" in made)
            == (made["stage3.depth"] != 0)
        )


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # inside torch's exporter
@pytest.mark.parametrize("corner", [0, 1])
def test_export_is_clean(tmp_path: Path, corner: int) -> None:
    onnx = pytest.importorskip("onnx")
    mobile = Mobile((1, 8, 8), 10)
    model = mobile.build(mobile.corners()[corner]).eval()
    program = torch.onnx.export(model, (torch.randn(1, 1, 8, 8),), dynamo=True, external_data=False, verbose=False)
    assert program is not None
    program.save(tmp_path / "model.onnx")
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
    assert ops["Conv"] == convolutions and ops["Gemm"] == 1
    allowed = {"Conv", "Gemm", "Relu", "HardSwish", "HardSigmoid", "Mul", "Add", "ReduceMean", "GlobalAveragePool"}
    assert set(ops) <= allowed | {"Reshape", "Flatten"}


def test_signals_keep_their_size_through_fresh_networks() -> None:
    for side, which in itertools.product((8, 28), (0, 1)):
        torch.manual_seed(0)
        mobile = Mobile((1, side, side), 10)
        corner = mobile.corners()[which]
        with torch.no_grad():
            scores = mobile.build(corner).eval()(torch.randn(4, *mobile.input_of(corner)))
        assert 1e-4 < scores.std().item() < 1e4
