"""The chains of `probe_fusion`. Imported only when one is built."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["Chain"]


class Link(nn.Module):
    """Operators one after the other; `add` adds the link's input.

    Args:
        names: of the operators.
        channels: in and out.
    """

    def __init__(self, names: Sequence[str], channels: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(_layer(name, channels) for name in names)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, c, h, w)` to the same shape."""
        y = x
        for step in self.steps:
            y = y + x if isinstance(step, nn.Identity) else step(y)
        return y


class Chain(nn.Module):
    """Equal links, after a convolution that gives the values their layout.

    Args:
        names: operators of a link.
        channels: in and out.
        length: number of links.
    """

    def __init__(self, names: Sequence[str], channels: int, length: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.links = nn.Sequential(_layer("conv", channels), *(Link(names, channels) for _ in range(length)))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # so that values stay of one size, far from denormal numbers
                nn.init.normal_(layer.weight, 0.0, layer.weight[0].numel() ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, c, h, w)` to the same shape."""
        y: torch.Tensor = self.links(x)
        return y


def _layer(name: str, channels: int) -> nn.Module:
    if name == "conv":
        return nn.Conv2d(channels, channels, 1)
    if name == "dwconv":
        return nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    if name == "pool":
        return nn.MaxPool2d(3, stride=1, padding=1)
    if name == "bn":
        return _normalisation(channels)
    kinds: dict[str, type[nn.Module]] = {
        "add": nn.Identity,
        "hswish": nn.Hardswish,
        "relu": nn.ReLU,
        "swish": nn.SiLU,
    }
    return kinds[name]()


def _normalisation(channels: int) -> nn.Module:
    """Batch normalisation whose numbers are no ones and zeros, which a converter may drop."""
    layer = nn.BatchNorm2d(channels)
    nn.init.uniform_(layer.weight, 0.9, 1.1)
    nn.init.uniform_(layer.bias, -0.1, 0.1)
    return layer.eval()
