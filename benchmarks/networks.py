"""Three plain networks of 3x96x96 that most runtimes are judged by; the weights are random, the statistics real."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["NETWORKS", "SIDE", "Basic", "make", "samples"]

SIDE = 96
CLASSES = 100


def _unit(read: int, made: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(read, made, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(made),
    ]
    return [*layers, nn.ReLU6()] if active else layers


class _Inverted(nn.Module):
    """Expand, depthwise, project (Sandler et al. 2018, MobileNetV2, table 1)."""

    def __init__(self, read: int, made: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = read * expand
        first = _unit(read, wide, 1) if expand > 1 else []
        self.layers = nn.Sequential(*first, *_unit(wide, wide, 3, stride, wide), *_unit(wide, made, 1, active=False))
        self.residual = stride == 1 and read == made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


def mobilenet() -> nn.Module:
    """The stages of MobileNetV2 (table 2 of its paper) at half width."""
    layers, read = _unit(3, 16, 3, 2), 16
    stages = [(1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1)]
    for expand, made, count, stride in stages:
        for place in range(count):
            layers.append(_Inverted(read, made, stride if place == 0 else 1, expand))
            read = made
    return nn.Sequential(*layers, *_unit(read, 640, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(640, CLASSES))


class Basic(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016, figure 2)."""

    def __init__(self, read: int, made: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(read, made, 3, stride, 1, bias=False),
            nn.BatchNorm2d(made),
            nn.ReLU(),
            nn.Conv2d(made, made, 3, 1, 1, bias=False),
            nn.BatchNorm2d(made),
        )
        same = stride == 1 and read == made
        self.shortcut = nn.Identity() if same else nn.Sequential(*_unit(read, made, 1, stride, active=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.relu(self.layers(x) + self.shortcut(x))
        return out


def resnet18() -> nn.Module:
    """ResNet-18 (table 1 of its paper)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    read = 64
    for made in (64, 128, 256, 512):
        layers += [Basic(read, made, 1 if made == read else 2), Basic(made, made, 1)]
        read = made
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(read, CLASSES))


class _Block(nn.Module):
    """Attention and a perceptron, each behind a normalisation (Dosovitskiy et al. 2021, figure 1)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        out: torch.Tensor = x + self.perceptron(self.second(x))
        return out


class _Transformer(nn.Module):
    def __init__(self, width: int = 96, heads: int = 3, blocks: int = 6, patch: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.places = nn.Parameter(torch.randn(1, (SIDE // patch) ** 2, width) * 0.02)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        out: torch.Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return out


NETWORKS = {"mobilenet": mobilenet, "resnet18": resnet18, "vit": _Transformer}
"""Name → builder."""


def samples(count: int, seed: int) -> torch.Tensor:
    """Smooth random pictures with some noise, (count, 3, SIDE, SIDE): of pure noise all look alike to a network."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    return smooth + 0.2 * torch.randn(count, 3, SIDE, SIDE, generator=generator)


def make(name: str, seed: int) -> nn.Module:
    """Builds a network and runs it on samples, so that its normalisation has statistics."""
    torch.manual_seed(seed)
    model: nn.Module = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all samples seen, not a mixture with the initial values
    with torch.no_grad():
        model(samples(16, seed))
    return model.eval()
