"""Architectures: one point of a space, as plain data."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, NoReturn

from .errors import DataError, SpaceError

__all__ = ["Architecture", "Value"]

Value = str | int | float | bool
"""What a decision can be: plain JSON, so that it travels as text and means the same everywhere."""

_PLAIN = (str, int, float, bool)


def is_plain(value: object) -> bool:
    """Tells whether a value may be a decision: exactly a str, int, bool or finite float."""
    return type(value) in _PLAIN and not (isinstance(value, float) and not math.isfinite(value))


@dataclass(frozen=True, slots=True, eq=False)
class Architecture:
    """One point of a space: the decisions that were made, in the order they were made.

    Two architectures are equal when their space and their decisions agree, whatever the order. `1`, `1.0` and `True`
    are different values.

    Args:
        space: the name of the space.
        decisions: pairs of name and value.

    Raises:
        SpaceError: a name occurs twice, or a value is not plain JSON.

    >>> a = Architecture("tiny", (("width", 8), ("deep", True)))
    >>> a.id
    '411806637a96dd05'
    >>> a == Architecture.from_json(a.to_json())
    True
    """

    space: str
    """Name of the space it belongs to."""
    decisions: tuple[tuple[str, Value], ...]
    """Names and values, in the order they were decided."""
    _key: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        plain = dict(self.decisions)
        if len(plain) != len(self.decisions):
            raise SpaceError(f"architecture of space '{self.space}' decides a name twice: {self.decisions}")
        for name, value in plain.items():
            if type(name) is not str or not is_plain(value):
                raise SpaceError(
                    f"decision {name!r} of space '{self.space}' is {value!r} ({type(value).__name__}); "
                    "expected a plain str, int, bool or finite float"
                )
        key = _dump({"decisions": dict(sorted(plain.items())), "space": self.space})
        object.__setattr__(self, "_key", key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Architecture):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same in every process and on every machine."""
        return hashlib.sha256(self._key.encode("ascii")).hexdigest()[:16]

    def as_dict(self) -> dict[str, Value]:
        """Returns the decisions as a new dict, in the order they were made."""
        return dict(self.decisions)

    def to_json(self) -> str:
        """Returns one line of ASCII JSON, `{"space":...,"decisions":{...}}`, with the decisions in their order."""
        return _dump({"space": self.space, "decisions": dict(self.decisions)})

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Reads what `to_json` wrote.

        Raises:
            DataError: the text is not an architecture.
        """
        try:
            data = json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise DataError(f"not an architecture: {error}") from error
        if not isinstance(data, dict) or set(data) != {"space", "decisions"}:
            raise DataError("not an architecture: expected an object with the keys 'space' and 'decisions'")
        space, decisions = data["space"], data["decisions"]
        if not isinstance(space, str) or not isinstance(decisions, dict):
            raise DataError("not an architecture: 'space' must be a string and 'decisions' an object")
        try:
            return cls(space, tuple(decisions.items()))
        except SpaceError as error:
            raise DataError(f"not an architecture: {error}") from error


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a legal value")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a key occurs twice")
    return plain
