"""Computed metrics against torch's own counter, known sizes and what onnxruntime really allocates for."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hwnas.profilers import computed_metrics, get_runtime


def block(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    wide = 3 * channels
    return nn.Sequential(
        nn.Conv2d(channels, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.Hardswish(),
        nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        nn.Conv2d(wide, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def network(channels: int = 8, kernel: int = 3, blocks: int = 2) -> nn.Sequential:
    body = [block(channels, kernel, 2 if place else 1) for place in range(blocks)]
    stem = nn.Conv2d(3, channels, 3, padding=1)
    return nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


@pytest.mark.parametrize(("channels", "kernel", "blocks"), [(8, 3, 1), (12, 5, 2), (16, 7, 3)])
def test_macs_agree_with_torchs_counter(channels: int, kernel: int, blocks: int) -> None:
    model = network(channels, kernel, blocks).eval()
    found = computed_metrics(model, (3, 16, 16))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 16, 16))
    assert 2 * found["macs"] == counter.get_total_flops(), "torch counts a multiply-add as two"
    assert found["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["uncounted"] == []


class Attention(nn.Module):
    """Patches, attention, an upscaling convolution and a normalisation of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.attention = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.norm = nn.GroupNorm(4, 32)
        self.upscale = nn.ConvTranspose2d(32, 8, 2, 2)
        self.scores = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.patches(x))
        y = self.attention(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
        y = self.upscale(nn.functional.interpolate(y, scale_factor=2, mode="bilinear"))
        scores: torch.Tensor = self.scores(nn.functional.max_pool2d(y, 2).mean((2, 3)))
        return scores


def test_attention_is_counted() -> None:
    found = computed_metrics(Attention(), (3, 16, 16))
    tokens, wide = 16, 32
    products = 4 * tokens * wide * wide + 2 * tokens * tokens * wide + 2 * tokens * wide * 64
    convolutions = tokens * wide * 3 * 16 + 64 * wide * 8 * 4
    assert found["macs"] == products + convolutions + 8 * 5
    assert found["uncounted"] == []


def test_a_copy_takes_memory() -> None:
    class Copies(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 1, 3, 2).contiguous()

    found = computed_metrics(Copies(), (2, 8, 16))
    assert found["peak_memory_mb"] == pytest.approx(2 * 4 * 256 / 1e6) and found["uncounted"] == []


def test_peak_memory_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten())
    assert computed_metrics(model, (1, 8, 8))["peak_memory_mb"] == pytest.approx(4 * 64 * (4 + 2) / 1e6)


def test_peak_memory_agrees_with_the_executed_graph(tmp_path: Path) -> None:
    model = network(8, 3, 2)
    runtime = get_runtime("onnxruntime")
    graph = runtime.executed_graph(runtime.convert(model, torch.zeros(1, 3, 16, 16), tmp_path / "model.onnx"))
    found = computed_metrics(model, (3, 16, 16))["peak_memory_mb"]
    assert graph.peak_activation_bytes / 1e6 == pytest.approx(found, rel=0.15)


def test_unknown_operators_are_named_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cumsum(x, 1)

    with caplog.at_level(logging.DEBUG, logger="fvcore"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert computed_metrics(Odd(), (3, 8, 8))["uncounted"] == ["cumsum"]
    assert not [record for record in caplog.records if record.name.startswith("fvcore")]


def test_the_model_is_left_as_it_was() -> None:
    model = network()
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    computed_metrics(model, (3, 16, 16))
    assert [module.training for module in (model, model[0], model[1])] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
