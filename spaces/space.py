"""Spaces: what can be built, and how."""

from __future__ import annotations

import copy
import functools
import math
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from .architecture import Architecture, Value
from .chooser import (
    Chooser,
    ExtremeChooser,
    RandomChooser,
    ReplayChooser,
    enumerate_architectures,
)
from .decision import Domain, Real, first, last
from .errors import HwnasError, SpaceError, did_you_mean, quoted
from .narrowing import NarrowedChooser, Params

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Shape", "Space"]

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Space(ABC):
    """A set of architectures, and how each is built.

    A subclass sets `name`, implements `_decide` (make decisions) and `build` (make the network); it may set
    `input_shape` and `num_classes` for when a study does not say. An error in either arrives as SpaceError.

    Args:
        input_shape: channels, height, width of one sample; None takes the class's own.
        num_classes: number of classes; None takes the class's own.
        params: narrows knobs, see `NarrowedChooser`.

    Raises:
        SpaceError: a shape or number is missing or not positive.
    """

    name: str
    """Name in study files; letters, digits, `.`, `_`, `-`."""
    input_shape: Shape
    """Channels, height, width of one sample, before any resolution knob."""
    num_classes: int
    params: Params
    count_cap: int = 200_000
    """Architectures that `size` counts one by one before it gives up, unless told otherwise."""
    has_twins: bool = False
    """True when different decisions may have one canonical form; set by a subclass that overrides `canonical`."""

    def __init__(
        self, input_shape: Shape | None = None, num_classes: int | None = None, params: Params | None = None
    ) -> None:
        if input_shape is not None:
            self.input_shape = input_shape
        if num_classes is not None:
            self.num_classes = num_classes
        self.params = dict(params or {})
        self._sizes: dict[int, tuple[int | None, str]] = {}
        self._knobs: dict[str, Domain] | None = None
        self._check_task()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in cls.__dict__:
            setattr(cls, "build", _guarded_build(cls.__dict__["build"]))  # noqa: B010  # mypy takes no new method

    @abstractmethod
    def _decide(self, choose: Chooser) -> object:
        """Makes every decision of one architecture through `choose`; what it returns is ignored."""

    @abstractmethod
    def build(self, architecture: Architecture) -> nn.Module:
        """Returns a network with fresh weights, drawn from torch's global generator.

        Raises:
            SpaceError: the architecture is not one of this space, or the space's own code failed.
        """

    def decide(self, choose: Chooser) -> Architecture:
        """Returns the architecture that a chooser picks, in canonical form.

        Raises:
            SpaceError: the chooser cannot answer, the params do not fit, or the space's own code failed.
        """
        choose.begin()
        with own_code(self.name, "deciding"):
            self._decide(NarrowedChooser(choose, self.params))
        choose.finish()
        made = Architecture(self.name, tuple((name, value) for name, (_, value) in choose.made.items()))
        return self.canonical(made)

    def canonical(self, architecture: Architecture) -> Architecture:
        """Returns the one architecture that stands for all that build the same network; override with `has_twins`."""
        return architecture

    def input_of(self, architecture: Architecture) -> Shape:
        """Returns channels, height, width of what the built network takes."""
        return self.input_shape

    def random(self, seed: int | str) -> Architecture:
        """Returns a random architecture; the same seed gives the same one."""
        return self.decide(RandomChooser(seed))

    def corners(self) -> tuple[Architecture, Architecture]:
        """Returns the smallest and the largest architecture: all first values, and all last."""
        return self.decide(ExtremeChooser("first")), self.decide(ExtremeChooser("last"))

    def middle(self) -> Architecture:
        """Returns an architecture of middling size: the middle of every domain."""
        return self.decide(ExtremeChooser("middle"))

    def contains(self, architecture: Architecture) -> bool:
        """Tells whether an architecture is one of this (narrowed) space, in canonical form."""
        try:
            return self.decide(ReplayChooser(architecture.as_dict())) == architecture
        except HwnasError:
            return False

    def string_of(self, architecture: Architecture) -> str:
        """Returns the canonical string: the one text for an architecture, as in the column `arch` of a table.

        Raises:
            SpaceError: the architecture is not one of this (narrowed) space.
        """
        if architecture.space != self.name:
            raise SpaceError(f"an architecture of space '{architecture.space}' has no string in space '{self.name}'")
        member = self.decide(ReplayChooser(architecture.as_dict()))
        with own_code(self.name, "writing a canonical string"):
            return self._write(member)

    def from_string(self, text: str) -> Architecture:
        """Returns the architecture that `string_of` wrote.

        Raises:
            SpaceError: the text is not the string of an architecture of this (narrowed) space.
        """
        try:
            with own_code(self.name, "reading a canonical string"):
                decisions = self._read(text)
            return self.decide(ReplayChooser(decisions))
        except HwnasError as error:
            raise SpaceError(f"space '{self.name}' has no architecture {quoted(text)}: {error}") from error

    def _write(self, architecture: Architecture) -> str:
        """Writes a member as text, each as another; override together with `_read` where tables have a form."""
        return architecture.to_json()

    def _read(self, text: str) -> Mapping[str, Value]:
        """Reads the decisions out of what `_write` wrote; whether they fit the space is checked after.

        Raises:
            HwnasError: the text has another form; the message says what is wrong with it.
        """
        architecture = Architecture.from_json(text)
        if architecture.space != self.name:
            raise SpaceError(f"it is of space {quoted(architecture.space)}")
        return architecture.as_dict()

    def narrow(self, params: Params) -> Space:
        """Returns the same space with other params."""
        other = copy.copy(self)
        other.params = dict(params)
        other._sizes, other._knobs = {}, None
        return other

    def knobs(self) -> dict[str, Domain]:
        """Returns every decision that was met and its (narrowed) domain, in order of first meeting.

        Found by walking the space: the ends, random walks, and walks with each option of each knob held fixed.
        """
        if self._knobs is None:
            self._knobs = self._explore(self.params)
        return dict(self._knobs)

    def size(self, cap: int | None = None) -> int | None:
        """Returns the exact number of architectures, or None when it is infinite or above `cap` (None: `count_cap`).

        A subclass that knows a closed form overrides this.
        """
        cap = self.count_cap if cap is None else cap
        known = self._sizes.get(cap)
        if known is None:
            known = self._sizes[cap] = self._count(cap)
        return known[0]

    def __len__(self) -> int:
        size = self.size()
        if size is None:
            _, reason = self._sizes.get(self.count_cap, (None, "it is not known"))
            raise SpaceError(f"space '{self.name}' has no exact size: {reason}")
        if size >= 2**63:
            raise SpaceError(f"space '{self.name}' has {size} architectures, too many for len(); use size()")
        return size

    def __bool__(self) -> bool:
        return True  # or `if space:` would count it

    def __repr__(self) -> str:
        channels, height, width = self.input_shape
        return f"<space '{self.name}' {channels}x{height}x{width}, {self.num_classes} classes>"

    def validate(self) -> None:
        """Checks what a study relies on.

        Raises:
            SpaceError: there is no choice in the space, its params match no knob or do not fit, or the same decisions
                do not lead to the same architecture.
        """
        everything = self._explore({})
        if all(domain.count == 1 for domain in everything.values()):
            raise SpaceError(f"space '{self.name}' has no choice; ask for at least one decision of two or more values")
        for pattern in self.params:
            names = [name for name in everything if name == pattern or fnmatchcase(name, pattern)]
            if not names:
                near = did_you_mean(pattern, everything)
                raise SpaceError(f"no knob matches '{pattern}'{near}", key=("params", pattern))
        self.knobs()
        for architecture in (*self.corners(), self.random(0)):
            if not self.contains(architecture):
                raise SpaceError(f"space '{self.name}' does not decide the same way twice: {architecture.to_json()}")

    def _check_task(self) -> None:
        shape = getattr(self, "input_shape", None)
        if shape is None:
            raise SpaceError(f"space '{self.name}' needs space.input: [channels, height, width]", key=("input",))
        if len(shape) != 3 or any(type(side) is not int or side < 1 for side in shape):
            raise SpaceError(
                f"space.input must be three positive whole numbers [C, H, W], not {shape!r}", key=("input",)
            )
        self.input_shape = (shape[0], shape[1], shape[2])
        classes = getattr(self, "num_classes", None)
        if classes is None:
            raise SpaceError(f"space '{self.name}' needs space.num_classes", key=("num_classes",))
        if type(classes) is not int or classes < 1:
            raise SpaceError(
                f"space.num_classes must be a positive whole number, not {classes!r}", key=("num_classes",)
            )

    def _explore(self, params: Params) -> dict[str, Domain]:
        """Returns the knobs met on a set of walks that is the same each time."""
        found: dict[str, Domain] = {}
        for choose in (ExtremeChooser("first"), ExtremeChooser("last"), *(RandomChooser(seed) for seed in range(8))):
            self._walk(choose, params, found)
        tried: set[str] = set()
        for _ in range(3):  # a knob that only a held value reveals may hide others in turn
            for name in [name for name in found if name not in tried]:
                tried.add(name)
                for value in _probes(found[name]):
                    self._walk(_HoldingChooser(name, value), params, found)
        return found

    def _walk(self, choose: Chooser, params: Params, found: dict[str, Domain]) -> None:
        choose.begin()
        with own_code(self.name, "deciding"):
            self._decide(NarrowedChooser(choose, params))
        for name, (domain, _) in choose.made.items():
            found.setdefault(name, domain)

    def _count(self, cap: int) -> tuple[int | None, str]:
        """Returns the number of architectures, or None and why."""
        if any(domain.count is None for domain in self.knobs().values()):
            return None, "it has a real-valued decision"
        too_many = f"it has more than {cap} architectures"
        if self._guess() > 20 * cap:
            return None, too_many
        count = 0
        for _ in enumerate_architectures(self):
            count += 1
            if count > cap:
                return None, too_many
        return count, ""

    def _guess(self, walks: int = 16) -> float:
        """Returns a rough number of architectures, so that a huge space is not counted in vain.

        The product of the domains met on a random walk is, on average, the number of leaves of the tree of decisions
        (Knuth, "Estimating the efficiency of backtrack programs", 1975).
        """
        total = 0.0
        for seed in range(walks):
            choose = RandomChooser(f"guess {seed}")
            self._walk(choose, self.params, {})
            total += math.prod(float(domain.count or 1) for domain, _ in choose.made.values())
        return total / walks


class _HoldingChooser(RandomChooser):
    """Holds one decision, draws the others."""

    def __init__(self, name: str, value: Value) -> None:
        super().__init__(f"{name}={value!r}")
        self._held = (name, value)

    def _choose(self, name: str, domain: Domain) -> Value:
        if name == self._held[0] and domain.contains(self._held[1]):
            return self._held[1]
        return super()._choose(name, domain)


@contextmanager
def own_code(name: str, doing: str) -> Iterator[None]:
    """Turns any error of a space's own code into a SpaceError of one line that says where it arose."""
    try:
        yield
    except HwnasError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)[1:]
        own = [
            frame for frame in frames if "site-packages" not in frame.filename and not frame.filename.startswith("<")
        ]
        place = f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
        text = " ".join(str(error).split())
        raise SpaceError(f"space '{name}': {type(error).__name__} while {doing}{place}: {text}") from error


Build = Callable[[Any, Architecture], "nn.Module"]


def _guarded_build(build: Build) -> Build:
    """Returns a `build` that refuses foreign architectures, wraps errors and checks what comes back."""

    @functools.wraps(build)
    def guarded(self: Space, architecture: Architecture) -> nn.Module:
        from torch import nn

        if architecture.space != self.name:
            raise SpaceError(f"an architecture of space '{architecture.space}' cannot be built by space '{self.name}'")
        with own_code(self.name, "building"):
            model = build(self, architecture)
        if not isinstance(model, nn.Module):
            raise SpaceError(f"space '{self.name}' builds a {type(model).__name__}, expected a torch.nn.Module")
        return model

    return guarded


def _probes(domain: Domain) -> list[Value]:
    """Returns values worth holding while looking for knobs: all of a few, or the ends."""
    if not isinstance(domain, Real) and domain.count <= 16:
        return list(domain.values())
    return [first(domain), last(domain)]
