"""Domains: the values that a decision may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from .architecture import Value, is_plain
from .errors import SpaceError

__all__ = ["Domain", "Integer", "OneOf", "Real"]


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few options. Options that are all numbers have neighbours; others have not.

    Raises:
        SpaceError: no options, an option twice, or an option that is not plain JSON.

    >>> OneOf((3, 5, 7)).mutate(3, Random(0))
    5
    """

    options: tuple[Value, ...]
    """The values, in the space's order: by habit from the cheapest to the dearest."""

    def __post_init__(self) -> None:
        if not self.options:
            raise SpaceError("no options; give at least one")
        for option in self.options:
            if not is_plain(option):
                raise SpaceError(f"option {option!r} is not a plain str, int, bool or finite float")
        if len({(type(option), option) for option in self.options}) != len(self.options):
            raise SpaceError(f"an option occurs twice in {list(self.options)}")

    def __str__(self) -> str:
        return f"one of {list(self.options)}"

    def __eq__(self, other: object) -> bool:
        # 1, 1.0 and True are equal in Python and different decisions.
        if not isinstance(other, OneOf):
            return NotImplemented
        return self.options == other.options and list(map(type, self.options)) == list(map(type, other.options))

    def __hash__(self) -> int:
        return hash(self.options)

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.options)

    def values(self) -> tuple[Value, ...]:
        """Returns all values, in order."""
        return self.options

    def at(self, index: int) -> Value:
        """Returns the value at a place in the order."""
        return self.options[index]

    def contains(self, value: object) -> bool:
        """Tells whether a value is one of the options, in type and value."""
        kind = type(value)
        for option in self.options:  # noqa: SIM110  # a generator takes twice the time, and tables ask this often
            if type(option) is kind and option == value:
                return True
        return False

    def match(self, value: object) -> Value | None:
        """Returns the option that was meant (`1` may mean `1.0`), or None."""
        if self.contains(value):
            return value  # type: ignore[return-value]  # contains() says it is a Value
        numbers = [option for option in self.options if _is_number(option) and _is_number(value)]
        return next((option for option in numbers if option == value), None)

    def sample(self, rng: Random) -> Value:
        """Draws a value, each with the same probability."""
        return self.options[rng.randrange(len(self.options))]

    def mutate(self, value: Value, rng: Random) -> Value:
        """Draws a different value: the next lower or higher for numbers, any other otherwise."""
        if len(self.options) == 1:
            return self.options[0]
        if not all(_is_number(option) for option in self.options):
            return rng.choice([option for option in self.options if not _same(option, value)])
        ordered: list[Value] = sorted(self.options)  # all are numbers
        place = next(i for i, option in enumerate(ordered) if _same(option, value))
        return rng.choice([ordered[i] for i in (place - 1, place + 1) if 0 <= i < len(ordered)])


@dataclass(frozen=True, slots=True)
class Integer:
    """Whole numbers from `low` to `high`, both included; `high` is lowered to the last step inside.

    Raises:
        SpaceError: the bounds are not whole numbers or cross, or `log` is used with a step or below 1.

    >>> Integer(8, 31, step=8).values()
    (8, 16, 24)
    """

    low: int
    high: int
    step: int = 1
    log: bool = False
    """Sample evenly in the logarithm."""

    def __post_init__(self) -> None:
        if any(type(number) is not int for number in (self.low, self.high, self.step)):
            raise SpaceError(f"bounds and step must be whole numbers, not {self.low!r}, {self.high!r}, {self.step!r}")
        if self.low > self.high:
            raise SpaceError(f"no options: low {self.low} is above high {self.high}")
        if self.step < 1:
            raise SpaceError(f"step must be at least 1, not {self.step}")
        if self.log and (self.step != 1 or self.low < 1):
            raise SpaceError("log needs low >= 1 and step 1")
        object.__setattr__(self, "high", self.low + (self.high - self.low) // self.step * self.step)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")

    @property
    def count(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def values(self) -> tuple[Value, ...]:
        """Returns all values, in order."""
        return tuple(range(self.low, self.high + 1, self.step))

    def at(self, index: int) -> Value:
        """Returns the value at a place in the order."""
        return range(self.low, self.high + 1, self.step)[index]

    def contains(self, value: object) -> bool:
        """Tells whether a value is a whole number inside, on a step."""
        return type(value) is int and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def match(self, value: object) -> Value | None:
        """Returns the number that was meant (`2.0` may mean `2`), or None."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return value if self.contains(value) else None  # type: ignore[return-value]  # contains() says it is an int

    def sample(self, rng: Random) -> Value:
        """Draws a value, evenly or evenly in the logarithm."""
        if not self.log:
            return self.low + self.step * rng.randrange(self.count)
        drawn = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        return min(max(round(drawn), self.low), self.high)

    def mutate(self, value: Value, rng: Random) -> Value:
        """Draws a different value nearby: at most a tenth of the range away, at least one step."""
        if self.count == 1:
            return self.low
        place = (int(value) - self.low) // self.step
        reach = max(1, self.count // 10)
        low, high = max(0, place - reach), min(self.count - 1, place + reach)
        drawn = rng.randrange(low, high)
        return self.low + self.step * (drawn + (drawn >= place))


@dataclass(frozen=True, slots=True)
class Real:
    """Numbers from `low` to `high`, both included.

    Raises:
        SpaceError: the bounds are not finite or cross, or `log` is used at or below 0.

    >>> Real(0.1, 0.5).contains(0.3)
    True
    """

    low: float
    high: float
    log: bool = False
    """Sample evenly in the logarithm."""

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            number = getattr(self, name)
            if not _is_number(number) or not math.isfinite(number):
                raise SpaceError(f"bounds must be finite numbers, not {number!r}")
            object.__setattr__(self, name, float(number))
        if self.low > self.high:
            raise SpaceError(f"no options: low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise SpaceError("log needs low > 0")

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"

    @property
    def count(self) -> int | None:
        """1 when both bounds are the same, None otherwise."""
        return 1 if self.low == self.high else None

    def values(self) -> tuple[Value, ...] | None:
        """Returns the value when there is only one, None otherwise."""
        return (self.low,) if self.low == self.high else None

    def contains(self, value: object) -> bool:
        """Tells whether a value is a float inside."""
        return type(value) is float and self.low <= value <= self.high

    def match(self, value: object) -> Value | None:
        """Returns the number as a float when it lies inside, None otherwise."""
        if isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high:
            return float(value)
        return None

    def sample(self, rng: Random) -> Value:
        """Draws a value, evenly or evenly in the logarithm."""
        return self._at(rng.random())

    def mutate(self, value: Value, rng: Random) -> Value:
        """Draws a different value nearby: a normal step of a tenth of the range, inside the bounds."""
        if self.low == self.high:
            return self.low
        place = self._place(float(value))
        for _ in range(64):
            drawn = self._at(min(max(rng.gauss(place, 0.1), 0.0), 1.0))
            if drawn != value:
                return drawn
        return self.high if value == self.low else self.low  # bounds a few float steps apart

    def _at(self, share: float) -> float:
        if self.log:
            low, high = math.log(self.low), math.log(self.high)
            number = math.exp(low + share * (high - low))
        else:
            # Written so that bounds as far apart as floats go do not overflow.
            number = self.low * (1.0 - share) + self.high * share
        return min(max(number, self.low), self.high)

    def _place(self, value: float) -> float:
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)


Domain = OneOf | Integer | Real
"""What a chooser is asked to choose from."""


def first(domain: Domain) -> Value:
    """Returns the first option, or the low bound."""
    return domain.options[0] if isinstance(domain, OneOf) else domain.low


def last(domain: Domain) -> Value:
    """Returns the last option, or the high bound."""
    return domain.options[-1] if isinstance(domain, OneOf) else domain.high


def middle(domain: Domain) -> Value:
    """Returns the option in the middle of the order, or the middle of the range."""
    if isinstance(domain, Real):
        return domain._at(0.5)
    return domain.at(domain.count // 2)


def narrow(name: str, domain: Domain, wish: Value | Sequence[Value]) -> Domain:
    """Returns the part of a domain that a study asks for.

    Args:
        name: the knob, for messages.
        domain: what the space allows.
        wish: one value; for options a list of them; for a range `[low, high]`.

    Raises:
        SpaceError: the wish is empty or reaches outside the domain.

    >>> narrow("kernel", OneOf((3, 5, 7)), [5, 3])
    OneOf(options=(3, 5))
    """
    wishes = [wish] if isinstance(wish, (str, int, float)) else list(wish)
    if not wishes:
        raise SpaceError(f"knob '{name}' is left with no option; allowed: {domain}")
    matched = [domain.match(value) for value in wishes]
    for value, found in zip(wishes, matched, strict=True):
        if found is None:
            raise SpaceError(f"knob '{name}' cannot be {value!r}; allowed: {domain}")
    if isinstance(domain, OneOf):
        return OneOf(tuple(option for option in domain.options if any(_same(option, value) for value in matched)))
    if len(matched) > 2:
        raise SpaceError(f"knob '{name}' takes one number or [low, high]; allowed: {domain}")
    low, high = matched[0], matched[-1]
    try:
        if isinstance(domain, Integer):
            return Integer(int(low or 0), int(high or 0), domain.step, domain.log)
        return Real(float(low or 0), float(high or 0), domain.log)
    except SpaceError as error:
        raise SpaceError(f"knob '{name}': {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other
