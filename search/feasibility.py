"""What a space costs before anything is trained: which limits can be met, and how long a study takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..spaces.errors import CandidateError, InfeasibleError
from .metrics import Limit, Reading

if TYPE_CHECKING:
    from ..spaces import Architecture, Space
    from .evaluation import Evaluator
    from .study_schema import StudySpec
    from .tables import Tables

__all__ = ["LimitCheck", "Probe", "check_limits", "preflight", "probe_space", "table_probes", "time_plan"]

MORE = 12
"""Random architectures that are looked at before a limit is called out of reach."""
ASK_S = 0.02
"""Seconds of a trial in which nothing is built: its proposal, and its two records."""


@dataclass(frozen=True)
class Probe:
    """The costs of one untrained architecture.

    Attributes:
        role: smallest, middle, largest or random.
        architecture: which.
        readings: metric → reading.
        seconds: stage → seconds.
    """

    role: str
    architecture: Architecture
    readings: Mapping[str, Reading]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "arch_id": self.architecture.id,
            "readings": {name: reading.to_dict() for name, reading in self.readings.items()},
            "seconds": dict(self.seconds),
        }


@dataclass(frozen=True)
class LimitCheck:
    """How a limit fares among the probes.

    Attributes:
        limit: the limit.
        least: lowest value seen, None for a metric that only training can tell.
        middle: value of the middle architecture.
        most: highest value seen.
        inside: how many of the randomly sampled architectures hold it.
        sampled: how many were sampled.
        reachable: True when an architecture was seen that holds it; None when only training can tell.
        own_unit: as in Reading.
    """

    limit: Limit
    least: float | None
    middle: float | None
    most: float | None
    inside: int
    sampled: int
    reachable: bool | None
    own_unit: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "limit": str(self.limit)}


def probe_space(evaluator: Evaluator, space: Space, seed: int, count: int) -> list[Probe]:
    """Measures the smallest, the middle, the largest and `count` random architectures.

    Those that cannot be built, exported or run are left out.

    Raises:
        InfeasibleError: none of them can.
    """
    smallest, largest = space.corners()
    chosen = [("smallest", smallest), ("middle", space.middle()), ("largest", largest)]
    chosen += [("random", space.random(f"{seed}/check/{i}")) for i in range(count)]
    probes = _sound_probes(evaluator, chosen)
    if not probes:
        raise InfeasibleError(f"none of {len(chosen)} architectures of '{space.name}' can be built, exported and run")
    return probes


def table_probes(tables: Tables, metric: str) -> list[Probe]:
    """Returns what tables say of the smallest, the middle and the largest architecture, by one of their metrics."""
    common = tables.common()
    ordered = sorted(common, key=lambda arch_id: common[arch_id][metric].value or 0.0)
    chosen = {"smallest": ordered[0], "middle": ordered[len(ordered) // 2], "largest": ordered[-1]}
    return [Probe(role, tables.architecture(arch_id), common[arch_id], {}) for role, arch_id in chosen.items()]


def check_limits(probes: Sequence[Probe], limits: Iterable[Limit], tables: Tables | None = None) -> list[LimitCheck]:
    """Says for each limit how the probes fare; of what tables tell, how all of their architectures fare."""
    checks = []
    for limit in limits:
        metric = str(limit.metric)
        if tables and metric in tables.metrics:
            checks.append(_check_in_tables(limit, tables))
            continue
        found = [(probe.role, value) for probe in probes if (value := _value(probe, metric)) is not None]
        values = [value for _, value in found]
        random = [value for role, value in found if role == "random"]
        middle = next((value for role, value in found if role == "middle"), None)
        held = any(limit.violation(value) <= 0 for value in values)
        checks.append(
            LimitCheck(
                limit,
                min(values, default=None),
                middle,
                max(values, default=None),
                sum(limit.violation(value) <= 0 for value in random),
                len(random),
                held if values else None,
            )
        )
    return checks


def _check_in_tables(limit: Limit, tables: Tables) -> LimitCheck:
    values = _in_tables(limit, tables)
    inside = sum(limit.violation(value) <= 0 for value in values)
    least, middle, most = (values[0], values[len(values) // 2], values[-1]) if values else (None, None, None)
    own_unit = limit.metric.name == "top1" and tables.own_unit
    return LimitCheck(limit, least, middle, most, inside, len(values), inside > 0, own_unit)


def _in_tables(limit: Limit, tables: Tables) -> list[float]:
    """Returns the values of a limit's metric, of every architecture that all tables have, in order."""
    readings = (readings[str(limit.metric)].value for readings in tables.common().values())
    return sorted(value for value in readings if value is not None)


def preflight(
    evaluator: Evaluator, space: Space, limits: Sequence[Limit], seed: int, tables: Tables | None = None
) -> None:
    """Ends a study before it begins when a limit is out of reach.

    The smallest architecture (the largest, for a limit from below) is costed; where it breaks a limit, random ones too.
    Of a metric that tables tell, all of their architectures are seen.

    Raises:
        InfeasibleError: no architecture seen meets a limit; it names the limit and the best value seen.
    """
    told = tables.metrics if tables else set()
    for limit in limits:
        if tables and str(limit.metric) in told and not _check_in_tables(limit, tables).inside:
            values = _in_tables(limit, tables)
            nearest = f"{values[0] if limit.sign == '<=' else values[-1]:.4g}" if values else "no value"
            raise InfeasibleError(
                f"limit '{limit}' is out of reach: the best of {len(values)} architectures in "
                f"{' and '.join(tables.names)} has {nearest}; relax it"
            )
    limits = [limit for limit in limits if str(limit.metric) not in told and limit.metric.name != "top1"]
    for corner, sign in zip(space.corners(), ("<=", ">="), strict=True):
        concerned = [limit for limit in limits if limit.sign == sign]
        if not concerned:
            continue
        probes = _sound_probes(evaluator, [("corner", corner)])
        if not probes or any(_surely_broken(limit, probes) for limit in concerned):
            more = [("random", space.random(f"{seed}/preflight/{i}")) for i in range(MORE)]
            probes += _sound_probes(evaluator, more)
        for limit in concerned:
            if _surely_broken(limit, probes):
                values = [value for probe in probes if (value := _value(probe, str(limit.metric))) is not None]
                best = min(values) if sign == "<=" else max(values)
                raise InfeasibleError(
                    f"limit '{limit}' is out of reach: the {'smallest' if sign == '<=' else 'largest'} of "
                    f"{len(values)} architectures has {limit.metric} {best:.4g}; relax it, or change the space"
                )


def time_plan(spec: StudySpec, probes: Sequence[Probe], epoch_seconds: float) -> dict[str, float]:
    """Estimates the seconds of a study.

    Args:
        spec: the study.
        probes: of its space.
        epoch_seconds: one epoch of training of the middle architecture.
    """
    cost = sum(sum(probe.seconds.values()) for probe in probes) / len(probes)
    if not spec.trains:
        search = spec.search.trials * (cost / spec.run.workers + ASK_S)
        return {"search_s": search, "verify_s": 0.0, "total_s": search}
    share, epochs = 1.0, 0.0
    for rung in spec.quality.rungs:
        epochs += share * (rung.epochs or 0)
        share *= rung.keep or 1.0
    trains = any(metric.name == "top1" for metric in spec.metrics)
    search = spec.search.trials * (cost + (epochs * epoch_seconds if trains else 0.0))
    runs = spec.verify.finalists * spec.quality.seeds
    verify = runs * (spec.quality.rungs[-1].epochs or 0) * epoch_seconds + spec.verify.finalists * cost
    workers = spec.run.workers
    return {"search_s": search / workers, "verify_s": verify / workers, "total_s": (search + verify) / workers}


def _probe(evaluator: Evaluator, role: str, architecture: Architecture) -> Probe:
    readings, seconds = evaluator.costs_of(architecture)
    return Probe(role, architecture, readings, seconds)


def _sound_probes(evaluator: Evaluator, chosen: Iterable[tuple[str, Architecture]]) -> list[Probe]:
    """Returns the costs of those that can be built, exported and run."""
    probes = []
    for role, architecture in chosen:
        with suppress(CandidateError):
            probes.append(_probe(evaluator, role, architecture))
    return probes


def _value(probe: Probe, metric: str) -> float | None:
    reading = probe.readings.get(metric)
    return None if reading is None else reading.value


def _surely_broken(limit: Limit, probes: Iterable[Probe]) -> bool:
    readings = [probe.readings[name] for probe in probes if (name := str(limit.metric)) in probe.readings]
    return bool(readings) and all(limit.surely_broken_by(reading) for reading in readings)
