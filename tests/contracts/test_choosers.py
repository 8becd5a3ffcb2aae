"""What every chooser keeps to, run over every chooser."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hwnas.spaces import (
    Chooser,
    CrossoverChooser,
    Domain,
    EnumeratingChooser,
    ExtremeChooser,
    MutatingChooser,
    NarrowedChooser,
    RandomChooser,
    ReplayChooser,
    Value,
)
from hwnas.spaces.errors import SpaceError

PARENT: dict[str, Value] = {"kernel": 5, "depth": 2, "rate": 0.25, "se": True}

MAKERS: dict[str, Callable[[], Chooser]] = {
    "random": lambda: RandomChooser(0),
    "replay": lambda: ReplayChooser(PARENT),
    "loose replay": lambda: ReplayChooser({}, strict=False),
    "mutating": lambda: MutatingChooser(PARENT, 0, 0.5),
    "crossover": lambda: CrossoverChooser(PARENT, {"kernel": 3}, 0),
    "first": lambda: ExtremeChooser("first"),
    "middle": lambda: ExtremeChooser("middle"),
    "last": lambda: ExtremeChooser("last"),
    "enumerating": EnumeratingChooser,
    "narrowed": lambda: NarrowedChooser(RandomChooser(0), {"kernel": [3, 5]}),
}


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> Callable[[], Chooser]:
    return MAKERS[str(request.param)]


def walk(choose: Chooser) -> tuple[Value, ...]:
    return choose.one_of("kernel", [3, 5, 7]), choose.integer("depth", 1, 3), choose.flag("se")


def test_answers_lie_in_the_domain(make: Callable[[], Chooser]) -> None:
    kernel, depth, se = walk(make())
    assert kernel in (3, 5, 7) and depth in (1, 2, 3) and type(depth) is int and type(se) is bool


def test_real_answers_are_floats_inside(make: Callable[[], Chooser]) -> None:
    choose = make()
    if isinstance(choose, EnumeratingChooser):
        with pytest.raises(SpaceError, match="not finite"):
            choose.real("rate", 0.0, 0.5)
    else:
        rate = choose.real("rate", 0, 0.5)
        assert type(rate) is float and 0.0 <= rate <= 0.5


def test_decisions_are_recorded_in_order(make: Callable[[], Chooser]) -> None:
    choose = make()
    answers = walk(choose)
    assert list(choose.made) == ["kernel", "depth", "se"]
    assert tuple(value for _, value in choose.made.values()) == answers
    assert all(domain.contains(value) for domain, value in choose.made.values())


def test_the_same_question_has_one_answer(make: Callable[[], Chooser]) -> None:
    choose = make()
    assert len({choose.one_of("kernel", [3, 5, 7]) for _ in range(20)}) == 1
    with pytest.raises(SpaceError, match="asked twice"):
        choose.one_of("kernel", [3, 5, 9] if "kernel" not in choose.made else [5, 3])


def test_two_choosers_alike_answer_alike(make: Callable[[], Chooser]) -> None:
    assert walk(make()) == walk(make())


def test_begin_forgets(make: Callable[[], Chooser]) -> None:
    choose = make()
    walk(choose)
    choose.begin()
    assert choose.made == {}


def test_one_value_is_not_asked_for(make: Callable[[], Chooser]) -> None:
    assert make().one_of("only", ["it"]) == "it"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.one_of("a", []), "'a': no options"),
        (lambda c: c.one_of("a", [1, 1]), "'a': an option occurs twice"),
        (lambda c: c.one_of("a", [float("nan")]), "'a': option nan"),
        (lambda c: c.one_of("a", [(1, 2)]), "'a': option"),
        (lambda c: c.integer("a", 3, 1), "'a': no options: low 3 is above high 1"),
        (lambda c: c.integer("a", 1.5, 3), "'a': bounds and step must be whole"),
        (lambda c: c.integer("a", 0, 3, log=True), "'a': log needs"),
        (lambda c: c.integer("a", 1, 3, step=0), "'a': step"),
        (lambda c: c.real("a", 1.0, 0.0), "'a': no options"),
        (lambda c: c.real("a", 0.0, 1.0, log=True), "'a': log needs"),
        (lambda c: c.real("a", 0.0, float("inf")), "'a': bounds must be finite"),
        (lambda c: c.flag("a b"), "not legal"),
        (lambda c: c.flag("stage*"), "not legal"),
        (lambda c: c.flag(""), "not legal"),
    ],
)
def test_ill_formed_questions_are_refused(
    make: Callable[[], Chooser], ask: Callable[[Chooser], object], message: str
) -> None:
    with pytest.raises(SpaceError, match=message.replace("*", r"\*")):
        ask(make())


def test_an_answer_outside_is_refused() -> None:
    class Wrong(Chooser):
        def _choose(self, name: str, domain: Domain) -> Value:
            return 4

    with pytest.raises(SpaceError, match=r"'kernel' cannot be 4; allowed: one of \[3, 5\]"):
        Wrong().one_of("kernel", [3, 5])
