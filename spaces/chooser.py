"""Choosers: the one protocol through which a space makes its decisions.

A space is written once, against `Chooser`; who answers is another matter: chance, an optimiser, a stored architecture,
a mutated one, two parents, or each answer in turn.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from .architecture import Value
from .decision import Domain, Integer, OneOf, Real, first, last, middle
from .errors import SpaceError

if TYPE_CHECKING:
    from .architecture import Architecture
    from .space import Space

__all__ = [
    "Chooser",
    "CrossoverChooser",
    "EnumeratingChooser",
    "ExtremeChooser",
    "MutatingChooser",
    "RandomChooser",
    "ReplayChooser",
    "enumerate_architectures",
]

V = TypeVar("V", bound=Value)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}")


class Chooser(ABC):
    """Answers the questions of a space. A new chooser implements `_choose` and nothing else.

    Asking a name again gives the same answer, and a domain of one value is answered without asking `_choose`.

    >>> choose = RandomChooser(0)
    >>> choose.one_of("kernel", [3, 5, 7]) in (3, 5, 7)
    True
    """

    made: dict[str, tuple[Domain, Value]]
    """Every decision so far: name to domain and value, in the order they were made."""

    def __init__(self) -> None:
        self.made = {}

    @abstractmethod
    def _choose(self, name: str, domain: Domain) -> Value:
        """Returns a value of the domain."""

    def one_of(self, name: str, options: Sequence[V]) -> V:
        """Chooses one of a few options, listed by habit from the cheapest to the dearest."""
        return cast(V, self.ask(name, _domain(name, lambda: OneOf(tuple(options)))))

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        """Chooses a whole number from `low` to `high`, both included."""
        return cast(int, self.ask(name, _domain(name, lambda: Integer(low, high, step, log))))

    def real(self, name: str, low: float, high: float, log: bool = False) -> float:
        """Chooses a number from `low` to `high`, both included."""
        return cast(float, self.ask(name, _domain(name, lambda: Real(low, high, log))))

    def flag(self, name: str) -> bool:
        """Chooses yes or no."""
        return cast(bool, self.ask(name, OneOf((False, True))))

    def ask(self, name: str, domain: Domain) -> Value:
        """Makes one decision and records it in `made`.

        Raises:
            SpaceError: the name is not a legal one, was asked with another domain before, or the answer lies outside
                the domain.
        """
        known = self.made.get(name)
        if known is not None:
            if known[0] != domain:
                raise SpaceError(f"decision '{name}' is asked twice with different values: {known[0]}, then {domain}")
            return known[1]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SpaceError(f"decision name {name!r} is not legal; use letters, digits and _ . : / -, at most 128")
        value = first(domain) if domain.count == 1 else self._choose(name, domain)
        if not domain.contains(value):
            raise SpaceError(f"decision '{name}' cannot be {value!r}; allowed: {domain}")
        self.made[name] = (domain, value)
        return value

    def begin(self) -> None:
        """Starts a new walk: forgets the decisions of the one before. `Space.decide` calls it."""
        self.made = {}

    def finish(self) -> None:  # noqa: B027  # most choosers have nothing to check
        """Ends a walk; a chooser that expected other questions says so by SpaceError. `Space.decide` calls it."""


class RandomChooser(Chooser):
    """Draws each decision independently.

    Args:
        seed: the same seed gives the same draws in every process.

    >>> RandomChooser(1).flag("deep") == RandomChooser(1).flag("deep")
    True
    """

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        self._rng = _rng("random", seed)

    def _choose(self, name: str, domain: Domain) -> Value:
        return domain.sample(self._rng)


class ReplayChooser(Chooser):
    """Answers from stored decisions, such as those of an architecture.

    Args:
        decisions: name to value.
        strict: raise SpaceError for a question with no stored or legal answer, and for an answer nobody asked for;
            otherwise take the first value of the domain instead, and ignore what is left over.

    >>> ReplayChooser({"kernel": 5}).one_of("kernel", [3, 5, 7])
    5
    """

    def __init__(self, decisions: Mapping[str, Value], strict: bool = True) -> None:
        super().__init__()
        self._decisions = dict(decisions)
        self._strict = strict

    def _choose(self, name: str, domain: Domain) -> Value:
        value = self._decisions.get(name)
        if value is not None and domain.contains(value):
            return value
        if not self._strict:
            return first(domain)
        if value is None:
            raise SpaceError(f"the architecture does not decide '{name}'; allowed: {domain}")
        raise SpaceError(f"decision '{name}' cannot be {value!r}; allowed: {domain}")

    def finish(self) -> None:
        """Checks that every stored decision was asked for and taken.

        Raises:
            SpaceError: one was not, and the chooser is strict.
        """
        if not self._strict:
            return
        for name, value in self._decisions.items():
            if name not in self.made:
                raise SpaceError(f"the architecture decides '{name}', which the space does not ask for here")
            domain = self.made[name][0]
            if not domain.contains(value):
                raise SpaceError(f"decision '{name}' cannot be {value!r}; allowed: {domain}")


class MutatingChooser(Chooser):
    """Keeps most of a parent's decisions and changes some to a neighbouring value.

    Decisions that the parent lacks, or that are not legal any more, are drawn anew.

    Args:
        parent: the parent's decisions, name to value.
        seed: the same seed gives the same child.
        rate: probability that a decision changes, 0 to 1.

    Raises:
        SpaceError: the rate is not a probability.

    >>> MutatingChooser({"kernel": 3}, seed=0, rate=1.0).one_of("kernel", [3, 5, 7])
    5
    """

    def __init__(self, parent: Mapping[str, Value], seed: int | str, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate <= 1.0:
            raise SpaceError(f"mutation rate must lie between 0 and 1, not {rate!r}")
        self._parent = dict(parent)
        self._rate = rate
        self._rng = _rng("mutate", seed)

    def _choose(self, name: str, domain: Domain) -> Value:
        value = self._parent.get(name)
        if value is None or not domain.contains(value):
            return domain.sample(self._rng)
        return domain.mutate(value, self._rng) if self._rng.random() < self._rate else value


class CrossoverChooser(Chooser):
    """Replays two parents at once: each decision comes from either, or from chance where neither has a legal one.

    Args:
        a: decisions of one parent, name to value.
        b: decisions of the other.
        seed: the same seed gives the same child.

    >>> CrossoverChooser({"kernel": 3}, {"kernel": 7}, seed=0).one_of("kernel", [3, 5, 7]) in (3, 7)
    True
    """

    def __init__(self, a: Mapping[str, Value], b: Mapping[str, Value], seed: int | str) -> None:
        super().__init__()
        self._parents = (dict(a), dict(b))
        self._rng = _rng("crossover", seed)

    def _choose(self, name: str, domain: Domain) -> Value:
        values = [parent[name] for parent in self._parents if name in parent and domain.contains(parent[name])]
        if not values:
            return domain.sample(self._rng)
        return values[self._rng.randrange(len(values))]


class ExtremeChooser(Chooser):
    """Takes the first, the middle or the last value of every domain.

    >>> ExtremeChooser("last").integer("depth", 1, 4)
    4
    """

    def __init__(self, which: Literal["first", "middle", "last"]) -> None:
        super().__init__()
        ends = {"first": first, "middle": middle, "last": last}
        if which not in ends:
            raise SpaceError(f"expected 'first', 'middle' or 'last', not {which!r}")
        self._pick = ends[which]

    def _choose(self, name: str, domain: Domain) -> Value:
        return self._pick(domain)


class EnumeratingChooser(Chooser):
    """Gives every combination of answers once, depth first: one walk, then `advance`, and so on.

    Decisions that are asked for only after certain others are followed as they come.

    >>> choose, seen = EnumeratingChooser(), []
    >>> while True:
    ...     choose.begin()
    ...     seen.append((choose.flag("a"), choose.one_of("b", "xy")))
    ...     if not choose.advance():
    ...         break
    >>> seen
    [(False, 'x'), (False, 'y'), (True, 'x'), (True, 'y')]
    """

    def __init__(self) -> None:
        super().__init__()
        self._path: list[tuple[str, OneOf | Integer, int]] = []
        self._place = 0

    def begin(self) -> None:
        """Starts the next walk along the present path."""
        super().begin()
        self._place = 0

    def advance(self) -> bool:
        """Moves to the next combination; False when there is none."""
        del self._path[self._place :]
        while self._path:
            name, domain, index = self._path.pop()
            if index + 1 < domain.count:
                self._path.append((name, domain, index + 1))
                return True
        return False

    def _choose(self, name: str, domain: Domain) -> Value:
        if isinstance(domain, Real):
            raise SpaceError(f"the space is not finite: decision '{name}' is a real number from {domain}")
        if self._place == len(self._path):
            self._path.append((name, domain, 0))
        known, allowed, index = self._path[self._place]
        if (known, allowed) != (name, domain):
            raise SpaceError(f"the space asks '{name}' where it asked '{known}' after the same decisions before")
        self._place += 1
        return domain.at(index)


def enumerate_architectures(space: Space) -> Iterator[Architecture]:
    """Yields every architecture of a finite space once, lazily.

    Raises:
        SpaceError: a decision is a real number, so that there is no end.
    """
    choose = EnumeratingChooser()
    seen: set[str] = set()
    while True:
        architecture = space.decide(choose)
        if not space.has_twins:
            yield architecture
        elif architecture.id not in seen:
            seen.add(architecture.id)
            yield architecture
        if not choose.advance():
            return


def _rng(kind: str, seed: int | str) -> Random:
    # A text seed is hashed whole, so that -1 and 1, or the same seed in two choosers, give unrelated draws.
    return Random(f"{kind}:{seed!r}")


def _domain(name: str, make: Callable[[], Domain]) -> Domain:
    try:
        return make()
    except SpaceError as error:
        raise SpaceError(f"decision '{name}': {error}") from error
