"""Which architecture to try next: any Optuna sampler, made repeatable and free of duplicates.

A proposal is a pure function of the trials so far, the seed and the trial's number. The sampler is built anew for each
one, from a seed made of (study seed, trial number), and looks at the history in memory; only the chosen trial is then
stored, as one record. So a study that was killed goes on with the same trials as one that was not.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..spaces import Architecture, Chooser, RandomChooser, ReplayChooser, Space, enumerate_architectures
from ..spaces.decision import Domain, Integer, OneOf, first
from ..spaces.errors import SpaceError

if TYPE_CHECKING:
    from ..spaces import Value

__all__ = ["SAMPLERS", "Proposal", "Proposer", "make_sampler"]

SAMPLERS = ("random", "tpe", "nsga2", "nsga3", "gp")
POPULATION = 20
"""Of the genetic samplers; Optuna's 50 would leave most edge studies in their first, random generation."""
ASKS = 24
"""How often a sampler is asked for an architecture that is new, before one is drawn at random."""
DRAWS = 512
"""How many random architectures are drawn in search of a new one, before a small space is enumerated."""


class SamplerChooser(Chooser):
    """Decides through an Optuna sampler, as `optuna.Trial` does, but stores nothing.

    Args:
        study: what the sampler looks at; its own sampler is asked.
        trial: a running trial of that study.
        known: the space's knobs; see `parameter_name`.
    """

    def __init__(self, study: optuna.Study, trial: FrozenTrial, known: Mapping[str, Domain]) -> None:
        super().__init__()
        self._study, self._trial, self._known = study, trial, known
        study.sampler.before_trial(study, trial)
        space = study.sampler.infer_relative_search_space(study, trial)
        self._together = study.sampler.sample_relative(study, trial, space)

    def _choose(self, name: str, domain: Domain) -> Value:
        name, options = parameter_name(name, domain, self._known), distribution(domain)
        if options.single():
            return first(domain)
        value = self._together.get(name)
        if name not in self._together or not options._contains(options.to_internal_repr(value)):
            value = self._study.sampler.sample_independent(self._study, self._trial, name, options)
        chosen: Value = options.to_external_repr(options.to_internal_repr(value))
        return chosen


@dataclass(frozen=True, slots=True)
class Proposal:
    """An architecture to try, and the trial to store for it.

    Attributes:
        architecture: not among those seen.
        template: a running trial with all its parameters, to be stored as one record.
        asks: how often the sampler was asked; more than one means that it proposed duplicates.
        drawn: True when the sampler had nothing new to say, and the architecture was drawn at random.
    """

    architecture: Architecture
    template: FrozenTrial
    asks: int
    drawn: bool


def make_sampler(name: str, seed: int, workers: int = 1) -> optuna.samplers.BaseSampler:
    """Returns an Optuna sampler by its name in the study file; `auto` is `tpe`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name in ("auto", "tpe"):
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=workers > 1)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if name == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
        if name == "nsga3":
            return optuna.samplers.NSGAIIISampler(seed=seed, population_size=POPULATION)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
    raise ValueError(f"unknown sampler {name!r}: use one of {SAMPLERS}")


class Proposer:
    """Proposes architectures of one space.

    Args:
        space: what can be built.
        directions: `minimize` or `maximize` for each objective.
        sampler: one of SAMPLERS, or `auto`.
        seed: the study's.
        workers: trials at the same time.
        only: the architectures that may be proposed, when these are not all of the space: of what a sampler asks for,
            the nearest of them is proposed.
    """

    def __init__(
        self,
        space: Space,
        *,
        directions: Sequence[str],
        sampler: str,
        seed: int,
        workers: int = 1,
        only: Sequence[Architecture] | None = None,
    ) -> None:
        self._only = None if only is None else _Few(only)
        self._space, self._sampler, self._seed, self._workers = space, sampler, seed, workers
        self._directions = [StudyDirection[direction.upper()] for direction in directions]
        self._known = _knobs(space)
        self._copies: list[tuple[FrozenTrial, FrozenTrial]] = []

    def propose(self, history: Sequence[FrozenTrial], seen: Collection[str]) -> Proposal | None:
        """Returns the next architecture that is not among those seen, or None when the space has no other.

        Args:
            history: all trials of the study, in order of their numbers, running ones included.
            seen: ids of the architectures that need no other trial.
        """
        number, trials = len(history), self._copied(history)
        for ask in range(ASKS):
            sampler = make_sampler(self._sampler, _seed(self._seed, number, ask), self._workers)
            mirror = _Mirror(trials, self._directions)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study = optuna.Study(mirror.name, mirror, sampler)
                running = mirror.create_new_trial(study._study_id)
                chooser = SamplerChooser(study, mirror.get_trial(running), self._known)
                architecture = _decided(self._space, chooser)
            attributes = mirror.get_trial(running).system_attrs
            if self._only is not None:
                asked = {name: value for name, (_, value) in chooser.made.items()}
                nearest = self._only.nearest(asked, seen, _seed(self._seed, number, ask))
                return None if nearest is None else self._replayed(nearest, attributes)
            if architecture is not None and architecture.id not in seen:
                return _proposal(architecture, chooser, self._known, attributes, ask + 1, drawn=False)
        drawn = _draw(self._space, seen, self._seed, number)
        return None if drawn is None else _proposal(*drawn, self._known, {}, ASKS, drawn=True)

    def _replayed(self, architecture: Architecture, attributes: dict[str, Any]) -> Proposal:
        chooser = ReplayChooser(architecture.as_dict())
        self._space.decide(chooser)
        return _proposal(architecture, chooser, self._known, attributes, 1, drawn=False)

    def _copied(self, history: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Returns the history as samplers read it; what has not changed since the last time is not copied again."""
        kept = self._copies
        self._copies = [
            kept[place] if place < len(kept) and kept[place][0] is trial else (trial, _without_legacy(trial, place))
            for place, trial in enumerate(history)
        ]
        return [copied for _, copied in self._copies]


class _Few:
    """Architectures of a space of which far more cannot be told anything.

    Args:
        architectures: in any order, at least one.
    """

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        self._all = sorted(architectures, key=lambda each: each.id)
        self._names = sorted({name for each in self._all for name in each.as_dict()})
        self._codes: dict[tuple[str, object], int] = {}
        self._rows = np.array([self._coded(each.as_dict()) for each in self._all])

    def nearest(self, decisions: Mapping[str, object], seen: Collection[str], seed: int) -> Architecture | None:
        """Returns the unseen one that differs in the fewest decisions, of equals any; None when all were seen."""
        distances = (self._rows != np.array(self._coded(decisions))).sum(axis=1).astype(float)
        distances += 0.5 * np.random.default_rng(seed).random(len(distances))
        distances[[each.id in seen for each in self._all]] = np.inf
        place = int(distances.argmin())
        return self._all[place] if np.isfinite(distances[place]) else None

    def _coded(self, decisions: Mapping[str, object]) -> list[int]:
        """Returns a number for each decision's value; -1 for one that is not taken."""
        return [
            self._codes.setdefault((name, decisions[name]), len(self._codes)) if name in decisions else -1
            for name in self._names
        ]


class _Mirror(optuna.storages.InMemoryStorage):
    """A storage in memory of one study, with trials that are taken over as they are: it would copy each for each ask.

    Args:
        trials: each with its place as number and id; they are not changed.
        directions: of the objectives.
    """

    name = "mirror"

    def __init__(self, trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> None:
        super().__init__()
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # or it tells of every new study
        try:
            key = self.create_new_study(directions, self.name)
        finally:
            optuna.logging.set_verbosity(level)
        self._studies[key].trials = list(trials)
        self._trial_id_to_study_id_and_number = {number: (key, number) for number in range(len(trials))}
        self._max_trial_id = len(trials) - 1
        for number in range(len(trials)):
            self._update_cache(number, key)


def _without_legacy(trial: FrozenTrial, number: int) -> FrozenTrial:
    """Leaves out the list of constraints that is stored for optuna-dashboard: each would count twice."""
    copied = optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        system_attrs={key: value for key, value in trial.system_attrs.items() if key != "constraints"},
    )
    copied.number = copied._trial_id = number
    return copied


def _knobs(space: Space) -> Mapping[str, Domain]:
    """Returns the space's knobs, or none where its own code fails on a combination: names then stay as they are."""
    try:
        return space.knobs()
    except SpaceError as error:
        if error.__cause__ is None:
            raise
        return {}


def _decided(space: Space, chooser: Chooser) -> Architecture | None:
    """Returns what the chooser picks, or None where the space's own code fails on it: the others may be sound."""
    try:
        return space.decide(chooser)
    except SpaceError as error:
        if error.__cause__ is None:
            raise
        return None


def _draw(space: Space, seen: Collection[str], seed: int, number: int) -> tuple[Architecture, Chooser] | None:
    """Returns a random unseen architecture; a small space is looked through before it is called exhausted."""
    sound = False
    for draw in range(DRAWS):
        chooser: Chooser = RandomChooser(f"{seed}/{number}/{draw}")
        architecture = _decided(space, chooser)
        if architecture is not None and architecture.id not in seen:
            return architecture, chooser
        sound = sound or architecture is not None
    try:
        if space.size() is None:
            return None
        for architecture in enumerate_architectures(space):
            if architecture.id not in seen:
                chooser = ReplayChooser(architecture.as_dict())
                space.decide(chooser)
                return architecture, chooser
    except SpaceError as error:
        if error.__cause__ is None or not sound:
            raise  # else the space's own code fails on some combination, so that it cannot be looked through
    return None


def _proposal(
    architecture: Architecture,
    chooser: Chooser,
    known: Mapping[str, Domain],
    system_attrs: dict[str, Any],
    asks: int,
    *,
    drawn: bool,
) -> Proposal:
    open_choices = {
        parameter_name(name, made[0], known): made for name, made in chooser.made.items() if made[0].count != 1
    }
    template = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params={name: value for name, (_, value) in open_choices.items()},
        distributions={name: distribution(domain) for name, (domain, _) in open_choices.items()},
        user_attrs={"arch_id": architecture.id, "arch": architecture.to_json()},
        system_attrs=system_attrs,
    )
    return Proposal(architecture, template, asks, drawn)


def parameter_name(name: str, domain: Domain, known: Mapping[str, Domain]) -> str:
    """Returns what a decision is called to Optuna, which wants the same options wherever it meets a name.

    A decision whose options depend on an earlier one is a parameter of its own for each set of options.
    """
    return name if name not in known or known[name] == domain else f"{name} ({domain})"


def distribution(domain: Domain) -> BaseDistribution:
    """Returns Optuna's name for a domain."""
    if isinstance(domain, OneOf):
        return CategoricalDistribution(domain.options)
    if isinstance(domain, Integer):
        return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.log)


def _seed(seed: int, number: int, ask: int) -> int:
    """Returns 32 bits that depend on all three alike on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{ask}".encode()).digest()[:4], "big")
