"""`mobile`: inverted-bottleneck networks for inputs from 8x8 to 224x224.

The blocks are those of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) with the squeeze-excite and hard-swish of
MobileNetV3 (Howard et al. 2019, arXiv:1905.02244). Deciding needs no torch; the layers are in `mobile_net.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .architecture import Architecture, Value
from .chooser import Chooser
from .decision import Domain, Integer, OneOf
from .errors import SpaceError
from .narrowing import Params, narrowed
from .space import Shape, Space

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Mobile", "Stage"]

WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.5)
ACTIVATIONS = ("relu", "hswish")
KERNELS = (3, 5, 7)
EXPANSIONS = (2, 3, 4, 6)
SMALLEST_SIDE, LARGEST_SIDE = 8, 512


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What does not vary within one input size."""

    stem: int
    """Channels after the stem at width 1."""
    stem_stride: int
    strides: tuple[int, ...]
    """Stride of each stage's first block."""
    channels: tuple[int, ...]
    """Channels of each stage at width 1."""
    depths: tuple[tuple[int, int], ...]
    """Fewest and most blocks of each stage."""
    head: int
    """Channels of the 1x1 convolution before the classifier at width 1; 0 for none."""
    divisor: int
    """Channels are rounded to multiples of it."""


SKELETONS: tuple[tuple[int, Skeleton], ...] = (
    (96, Skeleton(16, 2, (1, 2, 2, 2, 1, 2), (16, 24, 40, 80, 112, 160), ((1, 2), *[(1, 4)] * 4, (0, 3)), 640, 8)),
    (48, Skeleton(16, 2, (1, 2, 2, 1, 2), (16, 24, 40, 64, 96), ((1, 2), (1, 3), (1, 3), (1, 3), (0, 3)), 256, 8)),
    (16, Skeleton(16, 1, (1, 2, 2, 2), (16, 24, 40, 64), ((1, 2), (1, 3), (1, 3), (0, 3)), 0, 8)),
    (8, Skeleton(8, 1, (2, 2, 1), (16, 24, 32), ((1, 2), (1, 3), (0, 2)), 0, 4)),
)
"""Shortest side in pixels from which a skeleton holds, largest first."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of one architecture, ready to build."""

    channels: int
    stride: int
    depth: int
    kernel: int
    expand: int
    se: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One architecture, ready to build."""

    in_channels: int
    stem: int
    stem_stride: int
    stages: tuple[Stage, ...]
    head: int
    activation: str
    num_classes: int


class Mobile(Space):
    """Inverted-bottleneck networks with a choice of size everywhere.

    Knobs: `resolution` (shorter side in pixels; a choice from 32 pixels on), `width` (multiplies all channels),
    `activation`, and per stage i `stage{i}.depth`, then, unless the stage is left out, `stage{i}.kernel`,
    `stage{i}.expand` and `stage{i}.se`.

    Args:
        input_shape: channels, height, width; the shorter side at least 8, the longer at most 512.
        num_classes: number of classes.
        params: narrows knobs.

    >>> Mobile((1, 8, 8), 10, {"width": 0.5, "stage*.kernel": [3, 5]}).random(0).as_dict()["width"]
    0.5
    """

    name = "mobile"

    def __init__(
        self, input_shape: Shape | None = None, num_classes: int | None = None, params: Params | None = None
    ) -> None:
        super().__init__(input_shape, num_classes, params)
        self._side = min(self.input_shape[1:])
        if self._side < SMALLEST_SIDE or max(self.input_shape[1:]) > LARGEST_SIDE:
            raise SpaceError(
                f"space 'mobile' takes inputs of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels a side, "
                f"not {self.input_shape[1]}x{self.input_shape[2]}"
            )
        self._skeleton = next(skeleton for side, skeleton in SKELETONS if self._side >= side)

    def _decide(self, choose: Chooser) -> None:
        for name, domain in self._top().items():
            choose.ask(name, domain)
        for index in range(1, len(self._skeleton.strides) + 1):
            if choose.ask(f"stage{index}.depth", self._depth(index)):
                for name, domain in _block(index).items():
                    choose.ask(name, domain)

    def build(self, architecture: Architecture) -> nn.Module:
        """Returns the network with fresh weights."""
        from .mobile_net import MobileNet

        return MobileNet(self.plan(architecture))

    def input_of(self, architecture: Architecture) -> Shape:
        """Returns channels, height, width at the architecture's resolution."""
        channels, height, width = self.input_shape
        side = int(architecture.as_dict()["resolution"])
        if side == self._side:
            return self.input_shape
        longer = max(side, _round(max(height, width) * side / self._side, 8))
        return (channels, side, longer) if height <= width else (channels, longer, side)

    def size(self, cap: int | None = None) -> int:
        """Returns the exact number of architectures, in closed form, however large."""
        total = math.prod(self._count_of(name, domain) for name, domain in self._top().items())
        for index in range(1, len(self._skeleton.strides) + 1):
            name = f"stage{index}.depth"
            depths = narrowed(name, self._depth(index), self.params).values() or ()
            blocks = math.prod(self._count_of(name, domain) for name, domain in _block(index).items())
            total *= sum(blocks if depth else 1 for depth in depths)
        return total

    def plan(self, architecture: Architecture) -> Plan:
        """Returns channels, strides and kernels of an architecture.

        Raises:
            SpaceError: a decision is missing.
        """
        made, skeleton = architecture.as_dict(), self._skeleton
        try:
            width = float(made["width"])
            stages = tuple(
                _stage(made, index, _round(channels * width, skeleton.divisor), stride)
                for index, (channels, stride) in enumerate(
                    zip(skeleton.channels, skeleton.strides, strict=True), start=1
                )
                if made[f"stage{index}.depth"]
            )
            activation = str(made["activation"])
        except KeyError as error:
            raise SpaceError(f"an architecture of space 'mobile' lacks the decision {error}") from error
        return Plan(
            in_channels=self.input_shape[0],
            stem=_round(skeleton.stem * width, skeleton.divisor),
            stem_stride=skeleton.stem_stride,
            stages=stages,
            head=_round(skeleton.head * width, skeleton.divisor) if skeleton.head else 0,
            activation=activation,
            num_classes=self.num_classes,
        )

    def _top(self) -> dict[str, Domain]:
        """Returns the knobs of the network as a whole."""
        sides: tuple[int, ...] = (self._side,)
        if self._side >= 32:
            sides = (_round(0.5 * self._side, 8), _round(0.75 * self._side, 8), self._side)
        return {"resolution": OneOf(sides), "width": OneOf(WIDTHS), "activation": OneOf(ACTIVATIONS)}

    def _depth(self, index: int) -> Integer:
        return Integer(*self._skeleton.depths[index - 1])

    def _count_of(self, name: str, domain: Domain) -> int:
        return narrowed(name, domain, self.params).count or 1


def _block(index: int) -> dict[str, Domain]:
    """Returns the knobs of a stage that is not left out."""
    return {
        f"stage{index}.kernel": OneOf(KERNELS),
        f"stage{index}.expand": OneOf(EXPANSIONS),
        f"stage{index}.se": OneOf((False, True)),
    }


def _stage(made: dict[str, Value], index: int, channels: int, stride: int) -> Stage:
    return Stage(
        channels=channels,
        stride=stride,
        depth=int(made[f"stage{index}.depth"]),
        kernel=int(made[f"stage{index}.kernel"]),
        expand=int(made[f"stage{index}.expand"]),
        se=bool(made[f"stage{index}.se"]),
    )


def _round(number: float, divisor: int) -> int:
    """Returns the nearest multiple of `divisor`, at least 8, and never more than a tenth below `number`.

    As in MobileNetV2's reference code (`_make_divisible`), so that widths fall on what kernels like.
    """
    rounded = max(8, int(number + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * number else rounded
