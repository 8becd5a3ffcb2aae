"""Which operators a runtime fuses, inferred from times alone: for runtimes that tell nothing of what they execute.

A pair of operators, first and second, is fused when the second costs far less after the first than after a pooling
operator, which nothing is fused into. Each cost is the difference between two chains, with and without the second, so
long that a launch shows above the noise, on so few values that launching is most of what an operator costs. (nn-Meter,
Zhang et al., MobiSys 2021, compares a pair with its two operators alone; the sum of those counts entering the runtime
twice, and compilers merge equal operators in a row.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..spaces.errors import DataError
from .fusion import Rule, fold_normalisation, fuse_activations, fuse_sums, needed, once
from .model import finite

if TYPE_CHECKING:
    from torch import nn

__all__ = ["INPUT_SHAPE", "FusedPair", "FusionTable", "chain", "probe_fusion"]

INPUT_SHAPE = (1, 16, 8, 8)
"""Of what the chains take: 1,024 values."""

LENGTH = 24
"""Links of a chain."""

NO_IDEA = 1e6
"""Error of a share of nothing."""

SURE = 2.0
"""Standard errors that a share must be away from one half."""

Measured = tuple[float, float]
"""Latency and its standard error, in ms."""

_PAIRS: tuple[tuple[str, str, str, str], ...] = (
    ("Conv", "BatchNormalization", "conv", "bn"),
    ("Conv", "Relu", "conv", "relu"),
    ("Conv", "HardSwish", "conv", "hswish"),
    ("Conv", "Swish", "conv", "swish"),
    ("Conv", "Add", "conv", "add"),
    ("Conv+Add", "Relu", "conv add", "relu"),
    ("DepthwiseConv", "Relu", "dwconv", "relu"),
    ("DepthwiseConv", "Conv", "dwconv", "conv"),
)
"""First and second operator by ONNX's names, the links before and the link that is added."""

_UNFUSED = {"conv": "pool", "dwconv": "pool", "conv add": "pool add"}
"""What stands for the first operator where nothing can be fused."""

CHAINS: tuple[str, ...] = tuple(
    sorted({text for _, _, a, b in _PAIRS for first in (a, _UNFUSED[a]) for text in (first, f"{first} {b}")})
)
"""All that is measured, each as its links."""


@dataclass(frozen=True, slots=True)
class FusedPair:
    """What was found of a pair.

    Attributes:
        first: operator, e.g. `Conv` or `Conv+Add`.
        second: the operator right after it.
        fused: None: the noise leaves it open.
        share: cost of the second after the first, over its cost by itself: 0 when it is free, 1 when it is not fused.
        error: standard error of `share`, at most `NO_IDEA`.
    """

    first: str
    second: str
    fused: bool | None
    share: float
    error: float


@dataclass(frozen=True, slots=True)
class FusionTable:
    """The rules of a runtime, as far as times tell them.

    Attributes:
        pairs: one entry a pair.
    """

    pairs: tuple[FusedPair, ...]

    def fused(self, first: str, second: str) -> bool | None:
        """Whether a pair is fused; None where it is open or was not tried."""
        return next((pair.fused for pair in self.pairs if (pair.first, pair.second) == (first, second)), None)

    @property
    def undecided(self) -> tuple[str, ...]:
        """Pairs that the noise leaves open, e.g. `Conv Relu`; the rules take them for not fused."""
        return tuple(f"{pair.first} {pair.second}" for pair in self.pairs if pair.fused is None)

    def rules(self) -> tuple[Rule, ...]:
        """Returns rules for `fusion.applied`."""
        found: list[Rule] = [once, needed]
        if self.fused("Conv", "BatchNormalization"):
            found.append(fold_normalisation)
        activations = [name for name in ("Relu", "HardSwish") if self.fused("Conv", name)]
        if activations:
            found.append(partial(fuse_activations, activations=activations))
        if self.fused("Conv", "Add"):
            found.append(fuse_sums)
        if self.fused("Conv+Add", "Relu"):
            found.append(partial(fuse_activations, activations=["Relu"]))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """A JSON-plain dictionary; `from_json` reads it back."""
        return {"pairs": [asdict(pair) for pair in self.pairs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FusionTable:
        """Reads what `to_json` wrote.

        Raises:
            DataError: it is not of that form.
        """
        try:
            pairs = tuple(FusedPair(**pair) for pair in data["pairs"])
            for pair in pairs:
                if not (isinstance(pair.first, str) and isinstance(pair.second, str)):
                    raise TypeError("an operator's name is a text")
                if not (pair.fused is None or isinstance(pair.fused, bool)):
                    raise TypeError(f"fused is {pair.fused!r}, expected true, false or null")
                finite(pair.share), finite(pair.error)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a table of fusions: {error}") from None
        return cls(pairs)


def probe_fusion(measure: Callable[[nn.Module], Measured]) -> FusionTable:
    """Infers what a runtime fuses from 18 measurements.

    Args:
        measure: measures a module that takes `INPUT_SHAPE` on the runtime: latency and its standard error, in ms.

    Raises:
        ValueError: a latency or an error is not finite, or below 0.
    """
    times = {}
    for text in CHAINS:
        latency, error = measure(chain(text))
        if not (math.isfinite(latency) and math.isfinite(error) and latency > 0 and error >= 0):
            raise ValueError(f"the chain '{text}' took {latency!r} ms with an error of {error!r} ms")
        times[text] = (latency, error)
    return FusionTable(tuple(_found(times, *pair) for pair in _PAIRS))


def _found(times: Mapping[str, Measured], first: str, second: str, links: str, link: str) -> FusedPair:
    by_itself, error_of_that = _less(times[f"{_UNFUSED[links]} {link}"], times[_UNFUSED[links]])
    after, error = _less(times[f"{links} {link}"], times[links])
    if by_itself <= SURE * error_of_that:  # not even by itself does the second show
        return FusedPair(first, second, None, 0.0, min(error / by_itself, NO_IDEA) if by_itself > 0 else NO_IDEA)
    share = after / by_itself
    spread = math.hypot(error, share * error_of_that) / by_itself
    fused = None if abs(share - 0.5) <= SURE * spread else share < 0.5
    return FusedPair(first, second, fused, share, spread)


def _less(more: Measured, less: Measured) -> Measured:
    return more[0] - less[0], math.hypot(more[1], less[1])


def chain(text: str) -> nn.Module:
    """Returns a network of `LENGTH` equal links.

    Args:
        text: operators of a link: `add` adds the link's input.

    >>> chain("conv relu")(torch.zeros(INPUT_SHAPE)).shape == INPUT_SHAPE    # doctest: +SKIP
    True
    """
    from .probe_net import Chain

    return Chain(text.split(), INPUT_SHAPE[1], LENGTH)
