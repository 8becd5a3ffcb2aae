"""The networks of other families are those of their papers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hwnas.profilers.computed import computed_metrics


@pytest.fixture(scope="module")
def families() -> Any:
    """The module of benchmarks/, which is no package."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("families")
    finally:
        sys.path.remove(folder)


def _full_size(families: Any, name: str) -> torch.nn.Module:
    made: dict[str, Any] = {
        "resnet18": lambda: families.resnet((2, 2, 2, 2), 64, 1000, large=True),
        "resnet50": lambda: families.resnet((3, 4, 6, 3), 64, 1000, bottleneck=True, large=True),
        "vgg11": lambda: families.vgg(11, 1, 1000, 4096, 7),
        "vgg16": lambda: families.vgg(16, 1, 1000, 4096, 7),
        "densenet121": lambda: families.densenet((6, 12, 24, 16), 32, 1000, large=True),
        "shufflenet x0.5": lambda: families.shufflenet((48, 96, 192, 1024), 1000, large=True),
        "shufflenet x1": lambda: families.shufflenet((116, 232, 464, 1024), 1000, large=True),
        "mobilenet_v1": lambda: families.mobilenet_v1(1, 1000, large=True),
        "squeezenet": lambda: families.squeezenet(1, 1000, large=True),
        "resnext50": lambda: families.resnext((3, 4, 6, 3), 128, 32, 1000, large=True),
        "mixer small": lambda: families.Mixer(224, 16, 512, 8, 1000),
        "convnext tiny": lambda: families.convnext((3, 3, 9, 3), 96, 1000),
        "vit tiny": lambda: families.Transformer(224, 16, 192, 3, 12, 1000),
    }
    with torch.device("meta"):
        network: torch.nn.Module = made[name]()
    return network


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("vgg11", 132_863_336),
        ("vgg16", 138_357_544),
        ("densenet121", 7_978_856),
        ("shufflenet x0.5", 1_366_792),
        ("shufflenet x1", 2_278_604),
        ("mobilenet_v1", 4_231_976),
        ("squeezenet", 1_248_424),
        ("vit tiny", 5_717_416),
        ("resnext50", 25_028_904),
        ("mixer small", 18_528_264),
        ("convnext tiny", 28_589_128),
    ],
)
def test_parameters_of_the_published_size(families: Any, name: str, parameters: int) -> None:
    assert sum(one.numel() for one in _full_size(families, name).parameters()) == parameters


@pytest.mark.parametrize(("name", "millions"), [("shufflenet x0.5", 41), ("mobilenet_v1", 569)])
def test_multiply_adds_of_the_published_size(families: Any, name: str, millions: float) -> None:
    network = _full_size(families, name).to_empty(device="cpu").eval()
    with torch.no_grad():
        for one in (*network.parameters(), *network.buffers()):
            one.fill_(0.01)
    assert computed_metrics(network, (3, 224, 224))["macs"] / 1e6 == pytest.approx(millions, rel=0.02)


def test_small_networks(families: Any) -> None:
    networks = list(families.families())
    assert len({network.name for network in networks}) == len(networks)
    counts = {family: len(sizes) for family, sizes in families.FAMILIES.items()}
    assert len(counts) == 11 and min(counts.values()) >= 4
    for network in networks:
        if network.input_shape[1] == 32:
            model = network.build().eval()
            with torch.no_grad():
                assert model(torch.zeros(1, *network.input_shape)).shape == (1, families.CLASSES), network.name
