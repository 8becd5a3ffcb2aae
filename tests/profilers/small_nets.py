"""Small networks for tests of profilers and cost models."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """Inverted bottleneck with a residual and, on demand, hard-swish and squeeze-excite."""

    def __init__(self, channels: int, kernel: int = 3, fancy: bool = False) -> None:
        super().__init__()
        wide = 3 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), _act(fancy))
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, kernel, padding=kernel // 2, groups=wide, bias=False), nn.BatchNorm2d(wide), _act(fancy)
        )
        self.gate = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, wide // 2, 1), nn.ReLU(), nn.Conv2d(wide // 2, wide, 1))
            if fancy
            else None
        )
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        if self.gate is not None:
            y = y * torch.nn.functional.hardsigmoid(self.gate(y))
        out: torch.Tensor = x + self.project(y)
        return out


def _act(fancy: bool) -> nn.Module:
    return nn.Hardswish() if fancy else nn.ReLU()


def small_net(channels: int = 8, blocks: int = 2, kernel: int = 3, fancy: bool = False, seed: int = 0) -> nn.Module:
    """A seeded classifier of 1 x 8 x 8 images into 10 classes, with batch statistics that are not trivial."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        *(Block(channels, kernel, fancy) for _ in range(blocks)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(16, 1, 8, 8) * 2 + 1)
    return model.eval()
