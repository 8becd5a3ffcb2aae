"""What every space keeps to, run over the built-in spaces and both kinds of a user's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.spaces import (
    Architecture,
    CrossoverChooser,
    MutatingChooser,
    RandomChooser,
    ReplayChooser,
    Space,
    enumerate_architectures,
    load_space,
)
from hwnas.spaces.errors import SpaceError

ROOT = Path(__file__).parents[2]


def spaces() -> Iterator[tuple[str, Space]]:
    for side in (8, 16, 32, 64):
        yield f"mobile{side}", load_space("mobile", input_shape=(1, side, side), num_classes=10)
    yield "mobile kws", load_space("mobile", input_shape=(1, 49, 10), num_classes=12)
    yield "nasbench201", load_space("nasbench201")
    yield (
        "nasbench201 kept",
        load_space("nasbench201", input_shape=(1, 8, 12), params={"edge*3": ["none", "nor_conv_1x1"]}),
    )
    yield "fbnet", load_space("fbnet")
    yield "fbnet96", load_space("fbnet", input_shape=(1, 96, 100), num_classes=10)
    yield "narrowed", load_space("mobile", input_shape=(3, 8, 8), num_classes=10, params={"stage*.kernel": [3, 5]})
    yield "function", load_space("tiny_cnn", allow_code=ROOT / "studies" / "my_space.py")


SPACES = dict(spaces())


@pytest.fixture(params=sorted(SPACES))
def space(request: pytest.FixtureRequest) -> Space:
    return SPACES[str(request.param)]


@given(seed=st.integers())
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", sorted(SPACES))
def test_random_architectures_are_members_and_survive_json(name: str, seed: int) -> None:
    space = SPACES[name]
    architecture = space.random(seed)
    assert architecture == space.random(seed)
    assert space.contains(architecture)
    assert space.canonical(architecture) == architecture
    again = Architecture.from_json(architecture.to_json())
    assert again == architecture and again.id == architecture.id and again.to_json() == architecture.to_json()
    assert space.decide(ReplayChooser(architecture.as_dict())) == architecture


@given(seed=st.integers())
@settings(max_examples=15, deadline=None)
@pytest.mark.parametrize("name", sorted(SPACES))
def test_canonical_strings_go_both_ways(name: str, seed: int) -> None:
    space = SPACES[name]
    architecture, other = space.random(seed), space.random(f"{seed} other")
    text = space.string_of(architecture)
    assert text.isprintable() and space.from_string(text) == architecture
    assert (space.string_of(other) == text) == (other == architecture)
    shuffled = Architecture(space.name, tuple(sorted(architecture.decisions)))
    assert space.string_of(shuffled) == text


@given(text=st.text(max_size=200))
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("name", sorted(SPACES))
def test_other_texts_are_refused_on_one_line(name: str, text: str) -> None:
    space = SPACES[name]
    whole = space.string_of(space.middle())
    for wrong in (text, whole[: len(text) % len(whole)], whole + whole, f"{whole}x{text}"):
        with pytest.raises(SpaceError, match=f"space '{re.escape(space.name)}' has no architecture ") as caught:
            space.from_string(wrong)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 600


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("name", sorted(SPACES))
def test_children_of_members_are_members(name: str, seed: int) -> None:
    space = SPACES[name]
    a, b = space.random(seed).as_dict(), space.random(seed + 1).as_dict()
    for choose in (MutatingChooser(a, seed, 0.3), CrossoverChooser(a, b, seed)):
        assert space.contains(space.decide(choose))


def test_builds_what_it_says(space: Space) -> None:
    for architecture in (*space.corners(), space.middle(), space.random(1), space.random(2)):
        model = space.build(architecture).eval()
        shape = space.input_of(architecture)
        assert shape[0] == space.input_shape[0]
        with torch.no_grad():
            scores = model(torch.randn(2, *shape))
        assert scores.shape == (2, space.num_classes)
        assert scores.isfinite().all()


def test_weights_follow_the_callers_seed(space: Space) -> None:
    architecture = space.middle()

    def weights(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [weight.detach() for weight in space.build(architecture).parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(3), weights(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights(3), weights(4), strict=True))


def test_deciding_leaves_torchs_generator_alone(space: Space) -> None:
    before = torch.get_rng_state()
    space.random(0)
    assert torch.equal(before, torch.get_rng_state())


def test_knobs_cover_random_architectures(space: Space) -> None:
    knobs = space.knobs()
    for seed in range(50):
        for name, value in space.random(seed).decisions:
            assert knobs[name].contains(value)


def test_enumeration_gives_members_once(space: Space) -> None:
    some = list(islice(enumerate_architectures(space), 60))
    assert len(set(some)) == 60
    assert all(space.contains(architecture) for architecture in some)


def test_one_chooser_serves_many_decisions(space: Space) -> None:
    choose = RandomChooser(0)
    assert len({space.decide(choose) for _ in range(10)}) > 1


def test_a_foreign_architecture_is_refused(space: Space) -> None:
    foreign = Architecture("other", space.middle().decisions)
    with pytest.raises(SpaceError, match="of space 'other' cannot be built"):
        space.build(foreign)
    with pytest.raises(SpaceError, match="of space 'other' has no string"):
        space.string_of(foreign)
    assert not space.contains(foreign)
    assert not space.contains(Architecture(space.name, ()))
    with pytest.raises(SpaceError):
        space.build(Architecture(space.name, ()))


def test_narrowing_everything_leaves_one(space: Space) -> None:
    architecture = space.random(0)
    one = space.narrow(architecture.as_dict())
    one.validate()
    assert list(enumerate_architectures(one)) == [architecture]
    assert len(one) == one.size() == 1
    assert one.contains(architecture) and not one.contains(space.random(1))
    assert one.from_string(space.string_of(architecture)) == architecture
    with pytest.raises(SpaceError, match="has no architecture"):
        one.from_string(space.string_of(space.random(1)))
    with pytest.raises(SpaceError, match="cannot be"):
        one.string_of(space.random(1))


def test_a_space_is_true(space: Space) -> None:
    assert space
