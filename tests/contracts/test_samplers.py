"""What every sampler does, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from hwnas.search.proposer import SAMPLERS, Proposal, Proposer
from hwnas.spaces import Architecture, Chooser, Space, load_space

STATES = (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.COMPLETE)


class Branches(Space):
    """Decides without torch; half of its decisions are met on one branch only."""

    name = "branches"
    input_shape = (1, 8, 8)
    num_classes = 10

    def _decide(self, choose: Chooser) -> None:
        depth = choose.integer("depth", 1, 3)
        for i in range(depth):
            if choose.one_of(f"kind{i}", ["conv", "pool"]) == "conv":
                choose.one_of(f"kernel{i}", [3, 5, 7])
        if choose.flag("wide"):
            choose.integer("width", 8, 64, step=8)

    def build(self, architecture: Architecture) -> object:  # type: ignore[override]  # never built here
        raise NotImplementedError


class Reals(Branches):
    """Has a decision that is not finite."""

    name = "reals"

    def _decide(self, choose: Chooser) -> None:
        choose.real("scale", 0.5, 2.0, log=True)
        choose.one_of("kernel", [3, 5, 7])


class Few(Branches):
    """Has 2 + 3 architectures."""

    name = "few"

    def _decide(self, choose: Chooser) -> None:
        if choose.flag("deep"):
            choose.integer("depth", 1, 3)
        else:
            choose.one_of("kind", ["a", "b"])


def told(proposal: Proposal, number: int, directions: Sequence[str], state: TrialState) -> FrozenTrial:
    """Ends a proposed trial, with values and constraints made of its architecture's id."""
    size = int(proposal.architecture.id[:6], 16) / 2**24
    attrs = dict(proposal.template.system_attrs)
    if state != TrialState.FAIL:
        attrs |= {"constraints:macs <= 1": size - 0.7, "constraints": [size - 0.7]}
    values = [abs(size - 0.1 * i) for i in range(len(directions))] if state == TrialState.COMPLETE else None
    trial = optuna.trial.create_trial(
        state=state,
        values=values,
        params=proposal.template.params,
        distributions=proposal.template.distributions,
        user_attrs=proposal.template.user_attrs,
        system_attrs=attrs,
    )
    trial.number = number
    return trial


def walk(
    sampler: str,
    space: Space,
    trials: int,
    *,
    seed: int = 0,
    directions: Sequence[str] = ("maximize", "minimize"),
    states: Sequence[TrialState] = STATES,
    workers: int = 1,
    fresh: bool = False,
) -> list[FrozenTrial]:
    """Proposes and tells, with one proposer for all or a `fresh` one each time.

    With several workers the last trials are running while the next is proposed.
    """
    history: list[FrozenTrial] = []
    pending: list[Proposal] = []
    proposer = Proposer(space, directions=directions, sampler=sampler, seed=seed, workers=workers)
    for number in range(trials):
        seen = {trial.user_attrs["arch_id"] for trial in history}
        if fresh:
            proposer = Proposer(space, directions=directions, sampler=sampler, seed=seed, workers=workers)
        proposal = proposer.propose(history, seen)
        if proposal is None:
            break
        assert proposal.architecture.id not in seen
        assert space.contains(proposal.architecture)
        assert proposal.template.state == TrialState.RUNNING
        assert set(proposal.template.params) <= set(proposal.architecture.as_dict())
        running = replace_number(proposal.template, number)
        history.append(running)
        pending.append(proposal)
        while len(pending) >= workers:
            ended = number - len(pending) + 1
            history[ended] = told(pending.pop(0), ended, directions, states[ended % len(states)])
    return history


def replace_number(trial: FrozenTrial, number: int) -> FrozenTrial:
    trial.number = number
    return trial


def ids(history: Sequence[FrozenTrial]) -> list[str]:
    return [trial.user_attrs["arch_id"] for trial in history]


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def length(sampler: str) -> int:
    return {"gp": 13, "tpe": 15}.get(sampler, 26)  # past the random start of each: 10 trials, or a population of 20


@pytest.mark.parametrize("directions", [("minimize",), ("maximize", "minimize"), ("maximize", "minimize", "minimize")])
def test_the_same_seed_and_history_give_the_same_proposal(sampler: str, directions: tuple[str, ...]) -> None:
    first = walk(sampler, Branches(), length(sampler), directions=directions)
    again = walk(sampler, Branches(), length(sampler), directions=directions, fresh=True)
    assert ids(first) == ids(again)
    assert [trial.params for trial in first] == [trial.params for trial in again]
    assert ids(walk(sampler, Branches(), 5, seed=1, directions=directions)) != ids(first)[:5]
    assert len(set(ids(first))) == len(first) == length(sampler)


def test_a_proposal_leaves_the_history_alone(sampler: str) -> None:
    history = walk(sampler, Branches(), 12)
    before = [(trial.number, trial.params, trial.values, dict(trial.system_attrs)) for trial in history]
    proposer = Proposer(Branches(), directions=["maximize", "minimize"], sampler=sampler, seed=0)
    proposals = [proposer.propose(history, set(ids(history))) for _ in range(2)]
    assert proposals[0] is not None and proposals[1] is not None
    assert proposals[0].architecture == proposals[1].architecture
    assert [(trial.number, trial.params, trial.values, dict(trial.system_attrs)) for trial in history] == before


def test_a_small_space_is_exhausted_exactly(sampler: str) -> None:
    assert len(Few()) == 5
    history = walk(sampler, Few(), 50)
    assert len(set(ids(history))) == len(history) == 5


def test_narrowed_params_are_obeyed(sampler: str) -> None:
    space = load_space(
        "mobile",
        input_shape=(1, 8, 8),
        num_classes=10,
        params={"width": [0.25, 0.5], "stage*.kernel": 3, "stage1.depth": [1, 2], "activation": "relu"},
    )
    for trial in walk(sampler, space, length(sampler)):
        decisions = Architecture.from_json(trial.user_attrs["arch"]).as_dict()
        assert decisions["width"] in (0.25, 0.5) and decisions["activation"] == "relu"
        assert all(value == 3 for name, value in decisions.items() if name.endswith(".kernel"))
        assert decisions["stage1.depth"] in (1, 2)
        assert "activation" not in trial.params, "a decision without a choice is no parameter"


@pytest.mark.parametrize("workers", [2, 4])
def test_running_trials_are_not_proposed_again(sampler: str, workers: int) -> None:
    history = walk(sampler, Branches(), length(sampler), workers=workers)
    assert len(set(ids(history))) == len(history) == length(sampler)


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED])
def test_a_history_without_a_value_is_no_obstacle(sampler: str, state: TrialState) -> None:
    assert len(walk(sampler, Branches(), 14, states=[state])) == 14


def test_a_real_valued_decision(sampler: str) -> None:
    history = walk(sampler, Reals(), 14)
    assert len({trial.params["scale"] for trial in history}) == 14
    assert all(0.5 <= trial.params["scale"] <= 2.0 for trial in history)
