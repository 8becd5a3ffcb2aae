"""What a proposal stores; what every sampler does is in tests/contracts/test_samplers.py."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hwnas.search.proposer import SAMPLERS, Proposer, distribution, make_sampler
from hwnas.search.study_schema import SearchSpec, choices
from hwnas.spaces import Architecture, Chooser, Space, load_space
from hwnas.spaces.decision import Integer, OneOf, Real
from hwnas.spaces.errors import SpaceError

DIRECTIONS = ("maximize", "minimize")


class Fragile(Space):
    """Cannot decide one in four of its architectures."""

    name = "fragile"
    input_shape = (1, 8, 8)
    num_classes = 10
    always = False

    def _decide(self, choose: Chooser) -> None:
        a, b = choose.integer("a", 1, 8), choose.integer("b", 1, 8)
        if self.always or (a > 4 and b > 4):
            raise ZeroDivisionError("in a test")

    def build(self, architecture: Architecture) -> object:  # type: ignore[override]  # never built here
        raise NotImplementedError


def test_the_study_file_knows_every_sampler() -> None:
    assert set(choices(SearchSpec, "sampler")) == {"auto", *SAMPLERS}
    assert type(make_sampler("auto", 0)) is type(make_sampler("tpe", 0))
    with pytest.raises(ValueError, match="unknown sampler 'bayes'"):
        make_sampler("bayes", 0)


def test_domains_become_distributions() -> None:
    assert distribution(OneOf(("a", 1, True))) == CategoricalDistribution(("a", 1, True))
    assert distribution(Integer(8, 64, 8, False)) == IntDistribution(8, 64, step=8)
    assert distribution(Integer(1, 64, 1, True)) == IntDistribution(1, 64, log=True)
    assert distribution(Real(0.5, 2.0, True)) == FloatDistribution(0.5, 2.0, log=True)


def test_a_template_is_the_architecture_and_can_be_stored() -> None:
    space = load_space("mobile", input_shape=(1, 8, 8), num_classes=10)
    proposal = Proposer(space, directions=DIRECTIONS, sampler="tpe", seed=7).propose([], set())
    assert proposal is not None and not proposal.drawn and proposal.asks == 1
    decisions = proposal.architecture.as_dict()
    assert proposal.template.params == {name: decisions[name] for name in proposal.template.params}
    assert Architecture.from_json(proposal.template.user_attrs["arch"]) == proposal.architecture
    study = optuna.create_study(directions=["maximize", "minimize"])
    study._storage.create_new_trial(study._study_id, proposal.template)
    assert study.trials[0].params == proposal.template.params


def test_what_the_space_cannot_decide_is_passed_over() -> None:
    for seed in range(20):
        proposal = Proposer(Fragile(), directions=DIRECTIONS, sampler="random", seed=seed).propose([], set())
        assert proposal is not None
        assert min(proposal.template.params.values()) <= 4


def test_a_space_that_can_decide_nothing_says_so() -> None:
    space = Fragile()
    space.always = True
    with pytest.raises(SpaceError, match="ZeroDivisionError"):
        Proposer(space, directions=DIRECTIONS, sampler="random", seed=0).propose([], set())


def test_a_proposal_is_the_same_in_another_process() -> None:
    code = (
        "from hwnas.spaces import load_space; from hwnas.search.proposer import Proposer;"
        "s = load_space('mobile', input_shape=(1, 8, 8), num_classes=10);"
        "print(Proposer(s, directions=['maximize'], sampler='tpe', seed=3).propose([], set()).architecture.id)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


class Dependent(Space):
    """Has options that depend on another decision."""

    name = "dependent"
    input_shape = (1, 8, 8)
    num_classes = 10

    def _decide(self, choose: Chooser) -> None:
        deep = choose.flag("deep")
        choose.one_of("width", [16, 32, 64] if deep else [8, 16])

    def build(self, architecture: Architecture) -> object:  # type: ignore[override]  # never built here
        raise NotImplementedError


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_options_may_depend_on_a_decision(sampler: str) -> None:
    space, study = Dependent(), optuna.create_study(directions=["minimize", "minimize"])
    found: dict[str, Architecture] = {}
    for _ in range(5):
        proposal = Proposer(space, directions=["minimize"] * 2, sampler=sampler, seed=0).propose(study.trials, found)
        assert proposal is not None
        found[proposal.architecture.id] = proposal.architecture
        study.add_trial(proposal.template)  # a storage refuses a name with other options
        study.tell(len(found) - 1, [float(len(found)), 1.0])
    assert len(found) == 5
    assert Proposer(space, directions=["minimize"] * 2, sampler=sampler, seed=0).propose(study.trials, found) is None


def test_of_few_architectures_the_nearest_that_is_new_is_proposed() -> None:
    space = load_space("mobile", input_shape=(1, 8, 8), num_classes=10)
    few = [space.random(f"few {number}") for number in range(30)]
    proposer = Proposer(space, directions=DIRECTIONS, sampler="random", seed=1, only=few)
    free = Proposer(space, directions=DIRECTIONS, sampler="random", seed=1).propose([], set())
    first = proposer.propose([], set())
    assert first is not None and free is not None
    asked = free.architecture.as_dict()

    def shared(other: Architecture) -> int:
        return sum(other.as_dict().get(name) == value for name, value in asked.items())

    assert first.architecture.id in {each.id for each in few}
    assert shared(first.architecture) >= sorted(shared(each) for each in few)[-3]
    seen: set[str] = set()
    while (proposal := proposer.propose([], seen)) is not None:
        assert proposal.architecture.id not in seen
        seen.add(proposal.architecture.id)
    assert seen == {each.id for each in few}
