from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.spaces import Domain, Integer, OneOf, Real, Value
from hwnas.spaces.decision import first, last, middle, narrow
from hwnas.spaces.errors import SpaceError

FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def domains(draw: st.DrawFn) -> Domain:
    kind = draw(st.sampled_from(["one_of", "integer", "log integer", "real", "log real"]))
    if kind == "one_of":
        options = draw(st.lists(st.one_of(st.text(), st.integers(), st.booleans(), FINITE), min_size=1, max_size=6))
        return OneOf(tuple({(type(option), option): option for option in options}.values()))
    if kind == "integer":
        low = draw(st.integers(-1000, 1000))
        return Integer(low, low + draw(st.integers(0, 500)), draw(st.integers(1, 7)))
    if kind == "log integer":
        low = draw(st.integers(1, 1000))
        return Integer(low, low + draw(st.integers(0, 100_000)), log=True)
    bounds = sorted([draw(FINITE), draw(FINITE)])
    if kind == "log real":
        bounds = [max(abs(bound), 1e-300) for bound in bounds]
        return Real(min(bounds), max(bounds), log=True)
    return Real(bounds[0], bounds[1])


@given(domain=domains(), seed=st.integers())
@settings(deadline=None, max_examples=300)
def test_samples_and_mutants_lie_inside(domain: Domain, seed: int) -> None:
    rng = Random(seed)
    value = domain.sample(rng)
    assert domain.contains(value)
    mutant = domain.mutate(value, rng)
    assert domain.contains(mutant)
    same = type(mutant) is type(value) and mutant == value
    assert same == (domain.count == 1)
    for pick in (first, middle, last):
        assert domain.contains(pick(domain))


@given(domain=domains())
@settings(deadline=None)
def test_values_are_what_is_contained(domain: Domain) -> None:
    values = domain.values()
    assert (values is None) == (domain.count is None)
    if values is not None and not isinstance(domain, Real):
        assert len(values) == domain.count
        assert all(domain.contains(value) and domain.match(value) is not None for value in values)
        assert [domain.at(i) for i in range(min(5, len(values)))] == list(values[:5])


@given(domain=domains(), seed=st.integers())
@settings(deadline=None)
def test_narrowing_to_a_value_leaves_it(domain: Domain, seed: int) -> None:
    value = domain.sample(Random(seed))
    left = narrow("knob", domain, value)
    assert left.count == 1 and left.contains(value)


def test_neighbours() -> None:
    rng = Random(0)
    assert {OneOf((7, 3, 5)).mutate(3, rng) for _ in range(20)} == {5}
    assert {OneOf((3, 5, 7)).mutate(5, rng) for _ in range(50)} == {3, 7}
    assert {OneOf(("a", "b", "c")).mutate("a", rng) for _ in range(50)} == {"b", "c"}
    assert {Integer(1, 5).mutate(3, rng) for _ in range(50)} == {2, 4}
    assert {Integer(0, 100, step=50).mutate(0, rng) for _ in range(50)} == {50}


def test_kinds_of_value_are_distinct() -> None:
    assert not OneOf((1, 2)).contains(True) and not OneOf((1, 2)).contains(1.0)
    assert OneOf((1, 2)) != OneOf((1.0, 2.0)) and OneOf((1, 2)) == OneOf((1, 2))
    assert not Integer(0, 3).contains(True) and not Real(0, 3).contains(1)
    assert {OneOf((1, True)).mutate(1, Random(0))} == {True}


@pytest.mark.parametrize(
    ("domain", "wish", "left"),
    [
        (OneOf((0.5, 1.0, 1.5)), [1, 0.5], OneOf((0.5, 1.0))),
        (OneOf((3, 5, 7)), 5, OneOf((5,))),
        (OneOf((3, 5, 7)), [5.0], OneOf((5,))),
        (OneOf((False, True)), True, OneOf((True,))),
        (OneOf(("relu", "hswish")), "relu", OneOf(("relu",))),
        (Integer(1, 4), [2, 3], Integer(2, 3)),
        (Integer(1, 4), 2, Integer(2, 2)),
        (Integer(8, 64, step=8), [16, 32], Integer(16, 32, step=8)),
        (Real(0.0, 1.0), [0, 0.5], Real(0.0, 0.5)),
        (Real(1e-4, 1.0, log=True), [1e-3, 1e-2], Real(1e-3, 1e-2, log=True)),
    ],
)
def test_narrowing(domain: Domain, wish: Value | list[Value], left: Domain) -> None:
    assert narrow("knob", domain, wish) == left


@pytest.mark.parametrize(
    ("domain", "wish", "message"),
    [
        (OneOf((3, 5, 7)), [3, 9], r"knob 'knob' cannot be 9; allowed: one of \[3, 5, 7\]"),
        (OneOf((3, 5, 7)), [], "no option"),
        (OneOf((3, 5, 7)), "3", "cannot be '3'"),
        (OneOf((0, 1)), True, "cannot be True"),
        (Integer(1, 4), [0, 2], "cannot be 0; allowed: 1 to 4"),
        (Integer(1, 4), [3, 2], "low 3 is above high 2"),
        (Integer(1, 4), [1, 2, 3], r"takes one number or \[low, high\]"),
        (Integer(8, 64, step=8), 12, "allowed: 8 to 64 in steps of 8"),
        (Real(0.0, 1.0), [0.5, 2], "cannot be 2; allowed: 0.0 to 1.0"),
        (Real(0.0, 1.0), 10**400, "cannot be 1000"),
        (Real(0.0, 1.0), "x", "cannot be 'x'"),
    ],
)
def test_narrowing_outside_is_refused(domain: Domain, wish: Value | list[Value], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        narrow("knob", domain, wish)


def test_logarithmic_draws_are_even_in_the_logarithm() -> None:
    rng = Random(0)
    draws = [Integer(1, 1000, log=True).sample(rng) for _ in range(3000)]
    assert 0.25 < sum(draw <= 10 for draw in draws if isinstance(draw, int)) / 3000 < 0.5
    reals = [Real(1e-4, 1.0, log=True).sample(rng) for _ in range(3000)]
    assert 0.45 < sum(draw <= 1e-2 for draw in reals if isinstance(draw, float)) / 3000 < 0.55
