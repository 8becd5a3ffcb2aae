"""The layers of `fbnet`. Imported only when a network is built."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from .fbnet import STEM, Block, Plan
from .mobile_net import conv, reset

__all__ = ["Bottleneck", "FBNetNet", "Shuffle"]


class Shuffle(nn.Module):
    """Mixes the channels of two groups: those of one group and of the other in turn."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, channels, h, w)` to the same shape."""
        n, channels, h, w = x.shape
        pairs = x.reshape(n, 2, channels // 2, h, w).transpose(1, 2)
        return pairs.contiguous().view(n, channels, h, w)


class Bottleneck(nn.Module):
    """An inverted bottleneck; adds its input where the shapes agree.

    Args:
        inputs: channels in.
        block: kernel, expansion and groups.
        outputs: channels out.
        stride: of the depthwise convolution.
    """

    def __init__(self, inputs: int, block: Block, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * block.expand
        self.body = nn.Sequential(
            *conv(inputs, hidden, 1, groups=block.groups),
            nn.ReLU(),
            *([Shuffle()] if block.groups == 2 else []),
            *conv(hidden, hidden, block.kernel, stride, groups=hidden),
            nn.ReLU(),
            *conv(hidden, outputs, 1, groups=block.groups),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, inputs, h, w)` to `(n, outputs, h / stride, w / stride)`, rounded up."""
        y = cast(torch.Tensor, self.body(x))
        return x + y if self.residual else y


def layer(inputs: int, block: Block | None, outputs: int, stride: int) -> list[nn.Module]:
    """Returns the modules of one layer; of `skip` (None) there are none where the shape does not change."""
    if block is not None:
        return [Bottleneck(inputs, block, outputs, stride)]
    if stride == 1 and inputs == outputs:
        return []
    return [*conv(inputs, outputs, 1, stride), nn.ReLU()]


class FBNetNet(nn.Module):
    """One network of the space.

    Args:
        plan: what to build.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        layers, inputs = [*conv(plan.in_channels, STEM, 3, plan.stem_stride), nn.ReLU()], STEM
        for block, outputs, stride in plan.layers:
            layers += layer(inputs, block, outputs, stride)
            inputs = outputs
        self.features = nn.Sequential(*layers, *conv(inputs, plan.head, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(plan.head, plan.num_classes)
        self.apply(reset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images `(n, c, h, w)` to scores `(n, classes)`."""
        features = self.pool(self.features(x)).flatten(1)
        return cast(torch.Tensor, self.classifier(features))
