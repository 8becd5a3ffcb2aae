"""The layers of `mobile`: plain convolutions, batch norms and activations, so that every runtime can take them.

Imported only when a network is built, like the other modules `*_net.py`: they alone import torch at their top.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from .mobile import Plan, Stage

__all__ = ["InvertedBottleneck", "MobileNet", "SqueezeExcite", "conv", "reset"]


def activation(name: str) -> nn.Module:
    """Returns a new activation layer: `relu` or `hswish`."""
    return nn.Hardswish() if name == "hswish" else nn.ReLU()


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Returns a convolution that keeps the side (or divides it by the stride, rounded up) and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


class SqueezeExcite(nn.Module):
    """Weighs the channels by what is seen over the whole image (Hu et al. 2018, arXiv:1709.01507).

    Args:
        channels: channels in and out.
        squeezed: channels in between.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, channels, h, w)` to the same shape."""
        return x * cast(torch.Tensor, self.gate(x))


class InvertedBottleneck(nn.Module):
    """Widens, filters each channel by itself, and narrows again; adds its input where the shapes agree.

    Args:
        inputs: channels in.
        stage: channels out, kernel, expansion, squeeze-excite.
        stride: of the depthwise convolution.
        act: name of the activation.
    """

    def __init__(self, inputs: int, stage: Stage, stride: int, act: str) -> None:
        super().__init__()
        hidden = inputs * stage.expand
        self.body = nn.Sequential(
            *conv(inputs, hidden, 1),
            activation(act),
            *conv(hidden, hidden, stage.kernel, stride, groups=hidden),
            activation(act),
            *([SqueezeExcite(hidden, max(8, hidden // 8))] if stage.se else []),
            *conv(hidden, stage.channels, 1),
        )
        self.residual = stride == 1 and inputs == stage.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `(n, inputs, h, w)` to `(n, channels, h / stride, w / stride)`, rounded up."""
        y = cast(torch.Tensor, self.body(x))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """One network of the space.

    Args:
        plan: what to build.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        layers = [*conv(plan.in_channels, plan.stem, 3, plan.stem_stride), activation(plan.activation)]
        channels = plan.stem
        for stage in plan.stages:
            for place in range(stage.depth):
                stride = stage.stride if place == 0 else 1
                layers.append(InvertedBottleneck(channels, stage, stride, plan.activation))
                channels = stage.channels
        if plan.head:
            layers += [*conv(channels, plan.head, 1), activation(plan.activation)]
            channels = plan.head
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, plan.num_classes)
        self.apply(reset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images `(n, c, h, w)` to scores `(n, classes)`."""
        features = self.pool(self.features(x)).flatten(1)
        return cast(torch.Tensor, self.classifier(features))


def reset(module: nn.Module) -> None:
    """Draws fresh convolution weights (He et al. 2015, arXiv:1502.01852, fan out).

    Unlike `kaiming_normal_`, the fan of a depthwise convolution counts one channel, so that signals keep their size
    through an untrained network too, and its measured latency knows no denormal numbers.
    """
    if isinstance(module, nn.Conv2d):
        fan = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, 0.0, (2.0 / fan) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
