"""Networks of eleven families other than `mobile`, written from their papers and scaled to inputs of 32 to 96 pixels.

The full-size builders take the paper's sizes, so that parameters and multiply-adds can be held against published ones.
For small inputs the stem keeps the side where the paper's halves it twice, and the widths are divided; the building
blocks stay what they are. Papers: ResNet (He et al. 2016, arXiv:1512.03385), VGG (Simonyan and Zisserman 2015,
arXiv:1409.1556), DenseNet (Huang et al. 2017, arXiv:1608.06993), ShuffleNetV2 (Ma et al. 2018, arXiv:1807.11164),
MobileNetV1 (Howard et al. 2017, arXiv:1704.04861), SqueezeNet (Iandola et al. 2016, arXiv:1602.07360), vision
transformer (Dosovitskiy et al. 2021, arXiv:2010.11929; its small sizes are those of Touvron et al. 2021,
arXiv:2012.12877), ResNeXt (Xie et al. 2017, arXiv:1611.05431), MLP-Mixer (Tolstikhin et al. 2021, arXiv:2105.01601),
ConvNeXt (Liu et al. 2022, arXiv:2201.03545), and cells of NAS-Bench-201 (Dong and Yang 2020, arXiv:2001.00326), drawn
at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from measured import Network
from networks import Basic
from torch import nn

from hwnas.spaces import load_space

__all__ = ["FAMILIES", "families"]

CLASSES = 10


def unit(
    read: int, made: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True, pad: int | None = None
) -> list[nn.Module]:
    """A convolution, its batch norm and, if `active`, a ReLU."""
    pad = kernel // 2 if pad is None else pad
    layers: list[nn.Module] = [
        nn.Conv2d(read, made, kernel, stride, pad, groups=groups, bias=False),
        nn.BatchNorm2d(made),
    ]
    return [*layers, nn.ReLU()] if active else layers


def _classified(layers: Sequence[nn.Module], read: int, classes: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(read, classes))


class Bottleneck(nn.Module):
    """Narrow, filter, widen, and a shortcut (ResNet, figure 5 right; ResNeXt, figure 3c; the 3x3 takes the stride)."""

    def __init__(self, read: int, narrow: int, stride: int, groups: int = 1, widen: int = 4) -> None:
        super().__init__()
        made = widen * narrow
        self.layers = nn.Sequential(
            *unit(read, narrow, 1), *unit(narrow, narrow, 3, stride, groups), *unit(narrow, made, 1, active=False)
        )
        same = stride == 1 and read == made
        self.shortcut = nn.Identity() if same else nn.Sequential(*unit(read, made, 1, stride, active=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layers(x) + self.shortcut(x))


def resnet(
    depths: Sequence[int], width: int, classes: int = CLASSES, bottleneck: bool = False, large: bool = False
) -> nn.Module:
    """Stages of blocks, each twice as wide as the one before; projections where the shape changes.

    Args:
        depths: blocks per stage.
        width: channels of the first stage.
        classes: number of classes.
        bottleneck: blocks of three layers.
        large: the stem for 224 pixels (table 1), not that for 32 (section 4.2).
    """
    layers = [*unit(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)] if large else unit(3, width, 3)
    read = width
    for stage, depth in enumerate(depths):
        for place in range(depth):
            stride = 2 if stage and place == 0 else 1
            narrow = width << stage
            layers.append(Bottleneck(read, narrow, stride) if bottleneck else Basic(read, narrow, stride))
            read = 4 * narrow if bottleneck else narrow
    return _classified(layers, read, classes)


VGG = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
"""Layers → channels between two poolings (table 1, configurations A and D)."""


def vgg(layers: int, divisor: int, classes: int = CLASSES, hidden: int = 0, side: int = 1) -> nn.Module:
    """3x3 convolutions between poolings, and a perceptron.

    Args:
        layers: 11 or 16.
        divisor: of all channels.
        classes: number of classes.
        hidden: width of the two hidden layers, 4096 in the paper; 0 for none.
        side: of the last features.
    """
    made: list[nn.Module] = []
    read = 3
    for stage in VGG[layers]:
        for channels in stage:
            made += [nn.Conv2d(read, channels // divisor, 3, padding=1), nn.ReLU()]
            read = channels // divisor
        made.append(nn.MaxPool2d(2))
    made.append(nn.Flatten())
    read *= side * side
    for _ in range(2 if hidden else 0):
        made += [nn.Linear(read, hidden), nn.ReLU()]
        read = hidden
    return nn.Sequential(*made, nn.Linear(read, classes))


class Dense(nn.Module):
    """A layer whose output is put behind its input (DenseNet-B, section 3)."""

    def __init__(self, read: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(read),
            nn.ReLU(),
            *unit(read, 4 * growth, 1),
            nn.Conv2d(4 * growth, growth, 3, 1, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.layers(x)], 1)


def densenet(depths: Sequence[int], growth: int, classes: int = CLASSES, large: bool = False) -> nn.Module:
    """DenseNet-BC: dense blocks, between them a halving of channels and side.

    Args:
        depths: layers per dense block.
        growth: channels that each layer adds.
        classes: number of classes.
        large: the stem for 224 pixels (table 1).
    """
    read = 2 * growth
    layers: list[nn.Module] = [*unit(3, read, 7, 2), nn.MaxPool2d(3, 2, 1)] if large else [nn.Conv2d(3, read, 3, 1, 1)]
    for stage, depth in enumerate(depths):
        if stage:
            layers += [nn.BatchNorm2d(read), nn.ReLU(), nn.Conv2d(read, read // 2, 1, bias=False), nn.AvgPool2d(2)]
            read //= 2
        for _ in range(depth):
            layers.append(Dense(read, growth))
            read += growth
    return _classified([*layers, nn.BatchNorm2d(read), nn.ReLU()], read, classes)


class Shuffle(nn.Module):
    """Two halves of the channels, of which one is worked on, then mixed (ShuffleNetV2, figure 3 c and d)."""

    def __init__(self, read: int, made: int, stride: int) -> None:
        super().__init__()
        half = made // 2
        taken = read if stride > 1 else half
        self.halves = stride == 1
        self.first = (
            nn.Sequential()
            if self.halves
            else nn.Sequential(*unit(read, read, 3, stride, read, active=False), *unit(read, half, 1))
        )
        self.second = nn.Sequential(
            *unit(taken, half, 1), *unit(half, half, 3, stride, half, active=False), *unit(half, half, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, 1) if self.halves else (x, x)
        y = torch.cat([self.first(a), self.second(b)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet(
    channels: Sequence[int], classes: int = CLASSES, depths: Sequence[int] = (4, 8, 4), large: bool = False
) -> nn.Module:
    """Three stages (table 5).

    Args:
        channels: of the three stages and of the last convolution.
        classes: number of classes.
        depths: units per stage.
        large: the stem for 224 pixels.
    """
    layers, read = unit(3, 24, 3, 2 if large else 1), 24
    if large:
        layers.append(nn.MaxPool2d(3, 2, 1))
    for made, depth in zip(channels[:-1], depths, strict=True):
        for place in range(depth):
            layers.append(Shuffle(read, made, 2 if place == 0 else 1))
            read = made
    return _classified([*layers, *unit(read, channels[-1], 1)], channels[-1], classes)


MOBILENET = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels and stride of each separable convolution (MobileNetV1, table 1)."""


def mobilenet_v1(width: float, classes: int = CLASSES, large: bool = False) -> nn.Module:
    """Depthwise and pointwise convolutions in turn.

    Args:
        width: multiplies all channels.
        classes: number of classes.
        large: the stem of the paper, which halves the side.
    """
    read = int(32 * width)
    layers = unit(3, read, 3, 2 if large else 1)
    for channels, stride in MOBILENET:
        made = int(channels * width)
        layers += [*unit(read, read, 3, stride, read), *unit(read, made, 1)]
        read = made
    return _classified(layers, read, classes)


class Fire(nn.Module):
    """Squeeze to few channels, then expand by 1x1 and 3x3 side by side (SqueezeNet, figure 1)."""

    def __init__(self, read: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(read, squeezed, 1), nn.ReLU())
        self.one = nn.Sequential(nn.Conv2d(squeezed, expanded, 1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(squeezed, expanded, 3, padding=1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.squeeze(x)
        return torch.cat([self.one(y), self.three(y)], 1)


FIRES = ((16, 64), (16, 64), (32, 128), (0, 0), (32, 128), (48, 192), (48, 192), (64, 256), (0, 0), (64, 256))
"""Squeezed and expanded channels; (0, 0) is a pooling (SqueezeNet, table 1)."""


def squeezenet(divisor: int, classes: int = CLASSES, large: bool = False) -> nn.Module:
    """Fire modules, and a convolution to the classes.

    Args:
        divisor: of all channels.
        classes: number of classes.
        large: the stem for 224 pixels.
    """
    read = 96 // divisor
    stem: list[nn.Module] = [nn.Conv2d(3, read, 7, 2)] if large else [nn.Conv2d(3, read, 3, padding=1)]
    layers = [*stem, nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    for squeezed, expanded in FIRES:
        if not squeezed:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            continue
        layers.append(Fire(read, squeezed // divisor, expanded // divisor))
        read = 2 * (expanded // divisor)
    return nn.Sequential(*layers, nn.Conv2d(read, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Attention(nn.Module):
    """Attention of several heads (appendix A of the vision transformer's paper)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        q, k, v = self.read(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)
        out: torch.Tensor = self.write((weights @ v).transpose(1, 2).reshape(n, tokens, width))
        return out


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalisation (figure 1 of that paper)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.first(x))
        out: torch.Tensor = x + self.perceptron(self.second(x))
        return out


class Transformer(nn.Module):
    """Patches, a class token, learned places, blocks, and a head that reads the class token (figure 1).

    Args:
        side: of the input.
        patch: side of a patch.
        width: values per token.
        heads: of the attention.
        depth: number of blocks.
        classes: number of classes.
    """

    def __init__(self, side: int, patch: int, width: int, heads: int, depth: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, (side // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.places
        out: torch.Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return out


def resnext(depths: Sequence[int], width: int, groups: int, classes: int = CLASSES, large: bool = False) -> nn.Module:
    """Stages of bottlenecks with grouped convolutions, twice as wide as they are narrow (ResNeXt, table 1).

    Args:
        depths: blocks per stage.
        width: channels of the grouped convolutions in the first stage.
        groups: of these, in every stage.
        classes: number of classes.
        large: the stem for 224 pixels.
    """
    read = 64 if large else width
    layers = [*unit(3, read, 7, 2), nn.MaxPool2d(3, 2, 1)] if large else unit(3, read, 3)
    for stage, depth in enumerate(depths):
        for place in range(depth):
            stride = 2 if stage and place == 0 else 1
            layers.append(Bottleneck(read, width << stage, stride, groups, widen=2))
            read = 2 * width << stage
    return _classified(layers, read, classes)


def _perceptron(read: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(read, hidden), nn.GELU(), nn.Linear(hidden, read))


class Mix(nn.Module):
    """A perceptron over the patches, then one over the channels (MLP-Mixer, figure 1)."""

    def __init__(self, width: int, patches: int, over_patches: int, over_channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.patches, self.channels = _perceptron(patches, over_patches), _perceptron(width, over_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.patches(self.first(x).transpose(1, 2)).transpose(1, 2)
        out: torch.Tensor = x + self.channels(self.second(x))
        return out


class Mixer(nn.Module):
    """Patches, blocks, and a head on their mean.

    Args:
        side: of the input.
        patch: side of a patch.
        width: values per patch; perceptrons are half of it and four times as wide.
        depth: number of blocks.
        classes: number of classes.
    """

    def __init__(self, side: int, patch: int, width: int, depth: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        count = (side // patch) ** 2
        self.blocks = nn.Sequential(*(Mix(width, count, width // 2, 4 * width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.blocks(self.patches(x).flatten(2).transpose(1, 2))).mean(1))
        return out


class ChannelNorm(nn.LayerNorm):
    """Normalises the channels of each place of (n, c, h, w)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Next(nn.Module):
    """A depthwise 7x7, and a perceptron at each place (ConvNeXt, figure 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.filter, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.perceptron, self.scale = _perceptron(width, 4 * width), nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.perceptron(self.norm(self.filter(x).permute(0, 2, 3, 1)))
        out: torch.Tensor = x + (self.scale * y).permute(0, 3, 1, 2)
        return out


def convnext(depths: Sequence[int], width: int, classes: int = CLASSES, patch: int = 4) -> nn.Module:
    """Stages of blocks, each twice as wide as the one before.

    Args:
        depths: blocks per stage.
        width: channels of the first stage.
        classes: number of classes.
        patch: side of the stem's patches, 4 in the paper.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, width, patch, patch), ChannelNorm(width, eps=1e-6)]
    for stage, depth in enumerate(depths):
        if stage:
            layers += [ChannelNorm(width << stage - 1, eps=1e-6), nn.Conv2d(width << stage - 1, width << stage, 2, 2)]
        layers += [Next(width << stage) for _ in range(depth)]
    read = width << len(depths) - 1
    tail = [nn.AdaptiveAvgPool2d(1), ChannelNorm(read, eps=1e-6), nn.Flatten(), nn.Linear(read, classes)]
    return nn.Sequential(*layers, *tail)


def _nasbench201(seed: int, side: int) -> nn.Module:
    space = load_space("nasbench201", input_shape=(3, side, side), num_classes=CLASSES, params={}, allow_code=None)
    return space.build(space.random(seed))


FAMILIES: dict[str, dict[tuple[str, int], Callable[[], nn.Module]]] = {
    "resnet": {
        ("8-w16", 32): lambda: resnet((1, 1, 1), 16),
        ("20-w16", 32): lambda: resnet((3, 3, 3), 16),
        ("14-w32", 32): lambda: resnet((2, 2, 2), 32),
        ("29-w8-bottleneck", 32): lambda: resnet((3, 3, 3), 8, bottleneck=True),
        ("10-w12", 64): lambda: resnet((1, 1, 1, 1), 12),
        ("18-w16-large", 96): lambda: resnet((2, 2, 2, 2), 16, large=True),
    },
    "vgg": {
        ("11-d8", 32): lambda: vgg(11, 8),
        ("11-d4", 32): lambda: vgg(11, 4),
        ("11-d4-hidden", 32): lambda: vgg(11, 4, hidden=256),
        ("16-d8", 32): lambda: vgg(16, 8),
        ("16-d4", 32): lambda: vgg(16, 4),
        ("11-d8", 64): lambda: vgg(11, 8, side=2),
    },
    "densenet": {
        ("22-k12", 32): lambda: densenet((3, 3, 3), 12),
        ("40-k12", 32): lambda: densenet((6, 6, 6), 12),
        ("40-k8", 32): lambda: densenet((6, 6, 6), 8),
        ("28-k16", 32): lambda: densenet((4, 4, 4), 16),
        ("34-k12-large", 64): lambda: densenet((3, 4, 4, 4), 12, large=True),
        ("42-k16-large", 96): lambda: densenet((3, 5, 6, 5), 16, large=True),
    },
    "shufflenet": {
        ("x0.25", 32): lambda: shufflenet((24, 48, 96, 256)),
        ("x0.5", 32): lambda: shufflenet((48, 96, 192, 512)),
        ("x1", 32): lambda: shufflenet((116, 232, 464, 1024)),
        ("x0.5-short", 32): lambda: shufflenet((48, 96, 192, 256), depths=(2, 4, 2)),
        ("x0.5-large", 64): lambda: shufflenet((48, 96, 192, 1024), large=True),
        ("x0.5-large", 96): lambda: shufflenet((48, 96, 192, 1024), large=True),
    },
    "mobilenet_v1": {
        ("x0.25", 32): lambda: mobilenet_v1(0.25),
        ("x0.5", 32): lambda: mobilenet_v1(0.5),
        ("x0.75", 32): lambda: mobilenet_v1(0.75),
        ("x0.25-large", 64): lambda: mobilenet_v1(0.25, large=True),
        ("x0.5-large", 96): lambda: mobilenet_v1(0.5, large=True),
    },
    "squeezenet": {
        ("d8", 32): lambda: squeezenet(8),
        ("d4", 32): lambda: squeezenet(4),
        ("d2", 32): lambda: squeezenet(2),
        ("d4", 64): lambda: squeezenet(4),
        ("d2-large", 96): lambda: squeezenet(2, large=True),
    },
    "vit": {
        ("p4-w64", 32): lambda: Transformer(32, 4, 64, 2, 4),
        ("p4-w96", 32): lambda: Transformer(32, 4, 96, 3, 6),
        ("p8-w128", 32): lambda: Transformer(32, 8, 128, 4, 6),
        ("p4-w192", 32): lambda: Transformer(32, 4, 192, 3, 3),
        ("p8-w96", 64): lambda: Transformer(64, 8, 96, 3, 4),
        ("p16-w192", 96): lambda: Transformer(96, 16, 192, 3, 6),
    },
    "nasbench201": {(f"cell{seed}", 32): partial(_nasbench201, seed, 32) for seed in range(6)},
    "resnext": {
        ("29-w16-g4", 32): lambda: resnext((3, 3, 3), 16, 4),
        ("11-w32-g8", 32): lambda: resnext((1, 1, 1), 32, 8),
        ("20-w24-g2", 32): lambda: resnext((2, 2, 2), 24, 2),
        ("14-w32-g4-large", 96): lambda: resnext((1, 1, 1, 1), 32, 4, large=True),
    },
    "mixer": {
        ("p4-w64", 32): lambda: Mixer(32, 4, 64, 4),
        ("p4-w128", 32): lambda: Mixer(32, 4, 128, 4),
        ("p8-w128", 64): lambda: Mixer(64, 8, 128, 3),
        ("p16-w192", 96): lambda: Mixer(96, 16, 192, 4),
    },
    "convnext": {
        ("w16", 32): lambda: convnext((1, 1, 3, 1), 16, patch=2),
        ("w24", 32): lambda: convnext((2, 2, 2), 24, patch=2),
        ("w24", 64): lambda: convnext((1, 1, 3, 1), 24),
        ("w32", 96): lambda: convnext((1, 1, 3, 1), 32),
    },
}
"""Family → (name, side of the input) → builder."""


def families() -> Iterator[Network]:
    """All networks, family by family."""
    for family, sizes in FAMILIES.items():
        for (name, side), build in sizes.items():
            yield Network(family, f"{family}-{name}-{side}", (3, side, side), build)
