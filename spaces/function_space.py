"""Spaces written as one plain function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .architecture import Architecture
from .chooser import Chooser, ReplayChooser
from .errors import SpaceError
from .space import Shape, Space

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FunctionSpace", "space"]


class FunctionSpace(Space):
    """A space whose decisions are made while the network is built.

    To decide, the function runs under `torch.device("meta")`: every layer is made, no weight is allocated. A function
    that cannot run so (it reads a tensor's values) is run for real instead, with torch's generator put back afterwards.

    Args:
        function: takes a chooser, returns the network.
        input_shape: channels, height, width of one sample.
        num_classes: number of classes.
        name: name of the space; None takes the function's.
    """

    count_cap = 5_000  # each is decided by making its layers, some milliseconds

    def __init__(
        self,
        function: Callable[[Chooser], nn.Module],
        input_shape: Shape,
        num_classes: int = 10,
        name: str | None = None,
    ) -> None:
        self.name = name or str(getattr(function, "__name__", "space"))
        self.function = function
        self.__doc__ = function.__doc__
        self._on_meta = True
        super().__init__(input_shape, num_classes)

    def __call__(self, choose: Chooser) -> nn.Module:
        """Returns the network, like the function itself."""
        return self.function(choose)

    def build(self, architecture: Architecture) -> nn.Module:
        """Returns a network with fresh weights, drawn from torch's global generator."""
        choose = ReplayChooser(architecture.as_dict())
        model = self.function(choose)
        choose.finish()
        return model

    def _decide(self, choose: Chooser) -> None:
        import torch

        if self._on_meta:
            try:
                with torch.device("meta"):
                    return self._check(self.function(choose))
            except SpaceError:
                raise
            except Exception:
                # Either the function is at fault, and fails again below, or it needs real tensors. What it has
                # decided so far stands: a name asked again gives the same answer.
                pass
        with torch.random.fork_rng(devices=[]):
            self._check(self.function(choose))
        self._on_meta = False

    def _check(self, model: object) -> None:
        from torch import nn

        if not isinstance(model, nn.Module):
            raise SpaceError(f"space '{self.name}' returns a {type(model).__name__}, expected a torch.nn.Module")


def space(
    *, input_shape: Shape, num_classes: int = 10, name: str | None = None
) -> Callable[[Callable[[Chooser], nn.Module]], FunctionSpace]:
    """Makes a space of a function that takes a chooser and returns a network.

    Args:
        input_shape: channels, height, width of one sample.
        num_classes: number of classes.
        name: name of the space; None takes the function's.

    >>> from torch import nn
    >>> @space(input_shape=(1, 8, 8))
    ... def linear(choose: Chooser) -> nn.Module:
    ...     width = choose.one_of("width", [16, 32])
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    >>> len(linear)
    2
    """

    def make(function: Callable[[Chooser], nn.Module]) -> FunctionSpace:
        return FunctionSpace(function, input_shape, num_classes, name)

    return make
