"""`fbnet`: the layer-wise space of FBNet.

Wu et al., "FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable Neural Architecture Search", CVPR 2019
(arXiv:1812.03443). The names of the blocks, the strides for small inputs and `skip` where the shape changes are those
of HW-NAS-Bench (Li et al., ICLR 2021, github.com/GATECH-EIC/HW-NAS-Bench). Deciding needs no torch; the layers are in
`fbnet_net.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .architecture import Architecture, Value
from .chooser import Chooser
from .decision import OneOf
from .errors import SpaceError, did_you_mean, quoted
from .mobile import LARGEST_SIDE, SMALLEST_SIDE
from .narrowing import Params, narrowed
from .space import Shape, Space

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Block", "FBNet"]


@dataclass(frozen=True, slots=True)
class Block:
    """What a layer can be, besides `skip`: an inverted bottleneck."""

    kernel: int
    expand: int
    """Channels inside per channel of the input."""
    groups: int = 1
    """Of the two 1x1 convolutions; with 2, the channels are shuffled after the first."""


BLOCKS = {
    "k3_e1_g2": Block(3, 1, 2),
    "k5_e1_g2": Block(5, 1, 2),
    "k3_e1": Block(3, 1),
    "k5_e1": Block(5, 1),
    "k3_e3": Block(3, 3),
    "k5_e3": Block(5, 3),
    "k3_e6": Block(3, 6),
    "k5_e6": Block(5, 6),
}
SKIP = "skip"

STEM = 16
DEPTHS = (1, 4, 4, 4, 4, 4, 1)
CHANNELS = (16, 24, 32, 64, 112, 184, 352)
LAYERS = sum(DEPTHS)


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What depends on the size of the input."""

    stem_stride: int
    strides: tuple[int, ...]
    """Stride of each stage's first layer."""
    head: int
    """Channels before the classifier."""


LARGE = Skeleton(2, (1, 2, 2, 2, 1, 2, 1), 1984)
"""For ImageNet, as in the paper and in HW-NAS-Bench."""
SMALL = Skeleton(1, (1, 1, 2, 2, 1, 2, 1), 1504)
"""For CIFAR, as in HW-NAS-Bench."""
LARGE_FROM = 96
"""Shorter side in pixels from which `LARGE` holds."""

_ALLOWED = OneOf((SKIP, *BLOCKS))
_NAMES = tuple(f"layer{place}" for place in range(1, LAYERS + 1))


@dataclass(frozen=True, slots=True)
class Plan:
    """One architecture, ready to build."""

    in_channels: int
    stem_stride: int
    layers: tuple[tuple[Block | None, int, int], ...]
    """Block (None: skip), channels out and stride of each layer."""
    head: int
    num_classes: int


class FBNet(Space):
    """22 layers, each one of eight inverted bottlenecks or `skip`.

    Knobs: `layer1` to `layer22`. `skip` passes its input on; where the stride or the channels change, it is a 1x1
    convolution. The canonical string is the names of the blocks joined by `-`, as in the tables.

    Args:
        input_shape: channels, height, width; 3 x 32 x 32 when left out. From 96 pixels on the strides are those for
            ImageNet, below it those for CIFAR.
        num_classes: number of classes; 100 when left out.
        params: narrows knobs.

    >>> FBNet(params={"layer*": "skip", "layer1": "k3_e1"}).random(0).as_dict()["layer1"]
    'k3_e1'
    """

    name = "fbnet"
    input_shape = (3, 32, 32)
    num_classes = 100

    def __init__(
        self, input_shape: Shape | None = None, num_classes: int | None = None, params: Params | None = None
    ) -> None:
        super().__init__(input_shape, num_classes, params)
        side = min(self.input_shape[1:])
        if side < SMALLEST_SIDE or max(self.input_shape[1:]) > LARGEST_SIDE:
            raise SpaceError(
                f"space 'fbnet' takes inputs of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels a side, "
                f"not {self.input_shape[1]}x{self.input_shape[2]}",
                key=("input",),
            )
        self._skeleton = LARGE if side >= LARGE_FROM else SMALL

    def _decide(self, choose: Chooser) -> None:
        for name in _NAMES:
            choose.ask(name, _ALLOWED)

    def build(self, architecture: Architecture) -> nn.Module:
        """Returns the network with fresh weights."""
        from .fbnet_net import FBNetNet

        return FBNetNet(self.plan(architecture))

    def size(self, cap: int | None = None) -> int:
        """Returns the exact number of architectures, however large."""
        return math.prod(narrowed(name, _ALLOWED, self.params).count or 1 for name in _NAMES)

    def plan(self, architecture: Architecture) -> Plan:
        """Returns blocks, channels and strides of an architecture.

        Raises:
            SpaceError: a decision is missing.
        """
        made, skeleton = architecture.as_dict(), self._skeleton
        shapes = [
            (channels, stride if place == 0 else 1)
            for channels, stride, depth in zip(CHANNELS, skeleton.strides, DEPTHS, strict=True)
            for place in range(depth)
        ]
        try:
            layers = tuple(
                (BLOCKS.get(str(made[name])), channels, stride)
                for name, (channels, stride) in zip(_NAMES, shapes, strict=True)
            )
        except KeyError as error:
            raise SpaceError(f"an architecture of space 'fbnet' lacks the decision {error}") from error
        return Plan(self.input_shape[0], skeleton.stem_stride, layers, skeleton.head, self.num_classes)

    def _write(self, architecture: Architecture) -> str:
        made = architecture.as_dict()
        return "-".join(str(made[name]) for name in _NAMES)

    def _read(self, text: str) -> Mapping[str, Value]:
        names = text.split("-")
        if len(names) != LAYERS:
            raise SpaceError(f"it has {len(names)} blocks joined by '-', expected {LAYERS}")
        for place, name in enumerate(names, start=1):
            if name not in _ALLOWED.options:
                raise SpaceError(f"block {place} is {quoted(name)}{did_you_mean(name, (SKIP, *BLOCKS))}")
        return dict(zip(_NAMES, names, strict=True))
