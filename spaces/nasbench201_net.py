"""The layers of `nasbench201`. Imported only when a network is built.

Initial weights are torch's own, as in the benchmark's code.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from .mobile_net import conv
from .nasbench201 import EDGES, OUTPUT, Cell

__all__ = ["CellLayer", "NasBench201Net", "Reduction"]

CHANNELS = (16, 32, 64)
CELLS_PER_STAGE = 5


class Zero(nn.Module):
    """The operation `none`, as an operator: what eager torch executes for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, channels, h, w)` to zeros of that shape."""
        return x * 0.0


def operation(name: str, channels: int) -> nn.Module:
    """Returns a new layer for an edge."""
    if name == "none":
        return Zero()
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    kernel = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}[name]
    return nn.Sequential(nn.ReLU(), *conv(channels, channels, kernel))


class CellLayer(nn.Module):
    """One cell. Every edge is executed, dead or live; only live edges count.

    So an operation on a node that no path reaches is zero, as in the benchmark's own count of different cells. In the
    benchmark's code it leaves the shift of its batch norm, one learned number per channel, in the sum.

    Args:
        cell: the operations.
        channels: in and out.
    """

    def __init__(self, cell: Cell, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(operation(name, channels) for name in cell.operations)
        self.live = cell.live

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, channels, h, w)` to the same shape."""
        nodes = {0: x}
        for layer, (source, target) in zip(self.edges, EDGES, strict=True):
            y = layer(nodes[source] if source in nodes else torch.zeros_like(x))
            if (source, target) in self.live:
                nodes[target] = nodes[target] + y if target in nodes else y
        return nodes[OUTPUT] if OUTPUT in nodes else torch.zeros_like(x)


class Reduction(nn.Module):
    """A residual block that halves the sides and changes the channels.

    Args:
        inputs: channels in.
        outputs: channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(), *conv(inputs, outputs, 3, 2), nn.ReLU(), *conv(outputs, outputs, 3))
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, inputs, h, w)` to `(n, outputs, h / 2, w / 2)`."""
        return cast(torch.Tensor, self.shortcut(x) + self.body(x))


class NasBench201Net(nn.Module):
    """One network of the space.

    Args:
        cell: the cell, repeated.
        in_channels: channels of the input.
        num_classes: number of classes.
    """

    def __init__(self, cell: Cell, in_channels: int, num_classes: int) -> None:
        super().__init__()
        layers, inputs = conv(in_channels, CHANNELS[0], 3), CHANNELS[0]
        for channels in CHANNELS:
            if channels != inputs:
                layers.append(Reduction(inputs, channels))
            layers += [CellLayer(cell, channels) for _ in range(CELLS_PER_STAGE)]
            inputs = channels
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images `(n, c, h, w)` to scores `(n, classes)`."""
        features = self.pool(self.features(x)).flatten(1)
        return cast(torch.Tensor, self.classifier(features))
