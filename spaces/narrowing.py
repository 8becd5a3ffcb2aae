"""Narrowing: a study takes part of a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from .architecture import Value
from .chooser import Chooser
from .decision import Domain, narrow
from .errors import SpaceError

__all__ = ["NarrowedChooser", "Params", "narrowed"]

Params = Mapping[str, Value | Sequence[Value]]
"""Knob or pattern (`stage*.kernel`) to one value, a list of options, or `[low, high]`."""


def narrowed(name: str, domain: Domain, params: Params) -> Domain:
    """Returns what is left of a knob's domain under a study's params.

    An entry with the knob's own name wins; otherwise the last pattern that matches.

    Raises:
        SpaceError: the params ask for a value that the space does not allow.

    >>> from .decision import OneOf
    >>> narrowed("stage1.kernel", OneOf((3, 5, 7)), {"stage*.kernel": [3, 5]})
    OneOf(options=(3, 5))
    """
    patterns = [name] if name in params else [pattern for pattern in params if fnmatchcase(name, pattern)]
    if not patterns:
        return domain
    wish, key = params[patterns[-1]], ("params", patterns[-1])
    if not isinstance(wish, (str, int, float, Sequence)):
        raise SpaceError(f"knob '{name}' takes a value or a list of values, not {wish!r}", key=key)
    try:
        return narrow(name, domain, wish)
    except SpaceError as error:
        raise SpaceError(str(error), key=key) from error


class NarrowedChooser(Chooser):
    """Asks another chooser, offering only the values that the study's params leave.

    Args:
        inner: who answers; it records the narrowed domains.
        params: knob or pattern to what is left.

    >>> from .chooser import ExtremeChooser
    >>> NarrowedChooser(ExtremeChooser("last"), {"kernel": [3, 5]}).one_of("kernel", [3, 5, 7])
    5
    """

    def __init__(self, inner: Chooser, params: Params) -> None:
        super().__init__()
        self._inner = inner
        self._params = params

    def ask(self, name: str, domain: Domain) -> Value:
        """Makes one decision within what is left of its domain."""
        value = self._inner.ask(name, narrowed(name, domain, self._params))
        self.made[name] = self._inner.made[name]
        return value

    def _choose(self, name: str, domain: Domain) -> Value:
        return self._inner.ask(name, domain)
