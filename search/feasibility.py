"""What a space costs before anything is trained: which limits can be met, and how long a study takes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..spaces.errors import CandidateError, InfeasibleError
from . import interrupts
from .metrics import Limit, Reading
from .quantities import counted

if TYPE_CHECKING:
    from ..spaces import Architecture, Space
    from .evaluation import Evaluator
    from .study_schema import StudySpec
    from .tables import Tables

__all__ = [
    "DeviceTime",
    "LimitCheck",
    "Probe",
    "TimePlan",
    "check_limits",
    "preflight",
    "probe_space",
    "table_probes",
    "time_plan",
]

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
        seconds: part → seconds, as `Evaluator.costs_of` tells them.
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


def probe_space(
    evaluator: Evaluator,
    space: Space,
    seed: int,
    count: int,
    limits: Iterable[Limit],
    told: Callable[[str], None] = lambda text: None,
) -> list[Probe]:
    """Measures the smallest, the middle, the largest and `count` random architectures.

    Those that cannot be built, exported or run are left out. The random ones are there for the limits, and are measured
    on the devices that these name.

    Args:
        evaluator: builds and measures them.
        space: whose they are.
        seed: of the random ones.
        count: of the random ones.
        limits: of the study.
        told: is called with what is under way.

    Raises:
        InfeasibleError: none of them can.
    """
    smallest, largest = space.corners()
    corners = [("smallest", smallest), ("middle", space.middle()), ("largest", largest)]
    random = [("random", space.random(f"{seed}/check/{i}")) for i in range(count)]
    probes = _sound_probes(evaluator, corners, None, told) + _sound_probes(evaluator, random, _devices_of(limits), told)
    if not probes:
        tried = counted(len(corners) + len(random), "architecture")
        raise InfeasibleError(f"none of {tried} of '{space.name}' can be built, exported and run")
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
    readings = (readings[str(limit.metric)].value for readings in tables.common().values())
    values = sorted(value for value in readings if value is not None)  # at least one: a limit's metric is needed
    inside = sum(limit.violation(value) <= 0 for value in values)
    own_unit = limit.metric.name == "top1" and tables.own_unit
    return LimitCheck(limit, values[0], values[len(values) // 2], values[-1], inside, len(values), inside > 0, own_unit)


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
        if tables and str(limit.metric) in told and not (found := _check_in_tables(limit, tables)).inside:
            raise InfeasibleError(
                f"limit '{limit}' is out of reach: the best of {found.sampled} architectures in "
                f"{' and '.join(tables.names)} has {found.least if limit.sign == '<=' else found.most:.4g}; relax it"
            )
    limits = [limit for limit in limits if str(limit.metric) not in told and limit.metric.name != "top1"]
    for corner, sign in zip(space.corners(), ("<=", ">="), strict=True):
        concerned = [limit for limit in limits if limit.sign == sign]
        if not concerned:
            continue
        devices = _devices_of(concerned)
        probes = _sound_probes(evaluator, [("corner", corner)], devices)
        if not probes or any(_surely_broken(limit, probes) for limit in concerned):
            more = [("random", space.random(f"{seed}/preflight/{i}")) for i in range(MORE)]
            probes += _sound_probes(evaluator, more, devices)
        for limit in concerned:
            if _surely_broken(limit, probes):
                values = [value for probe in probes if (value := _value(probe, str(limit.metric))) is not None]
                best = min(values) if sign == "<=" else max(values)
                most, of = "smallest" if sign == "<=" else "largest", counted(len(values), "architecture")
                raise InfeasibleError(
                    f"limit '{limit}' is out of reach: the {most} of {of} has {limit.metric} {best:.4g}; relax it, or "
                    "change the space"
                )


@dataclass(frozen=True)
class DeviceTime:
    """What a network costs on a device, in seconds.

    Attributes:
        conversion_s: to make its file; 0 where the ONNX file, or that of another device, is taken.
        measurement_s: to compare its outputs with torch's and to measure it.
        start_s: to start the process that measures.
        noisy: the machine was too busy for sure measurements, so finalists are measured again.
    """

    conversion_s: float
    measurement_s: float
    start_s: float
    noisy: bool


@dataclass(frozen=True)
class TimePlan:
    """How long a study will take, in seconds.

    Attributes:
        start_s: until the first trial.
        search_s: all trials.
        verify_s: all finalists.
        trial_s: one trial, measured on every device and trained as long as the average one.
        devices: by name, those that the study measures or converts for.
    """

    start_s: float
    search_s: float
    verify_s: float
    trial_s: float
    devices: Mapping[str, DeviceTime]

    @property
    def total_s(self) -> float:
        return self.start_s + self.search_s + self.verify_s

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "total_s": self.total_s, "devices": {n: vars(d) for n, d in self.devices.items()}}


def time_plan(
    spec: StudySpec, probes: Sequence[Probe], epoch_seconds: float, start_seconds: float = 0.0, validation: int = 0
) -> TimePlan:
    """Estimates the seconds of a study from what its corners took.

    Workers share what is not measured; measurements are made one at a time, while the workers stand still.

    Args:
        spec: the study.
        probes: of its space; the corners, which were new to stores and caches, tell the time.
        epoch_seconds: one epoch of training of the middle architecture.
        start_seconds: until data, space and devices are ready.
        validation: number of validation samples.
    """
    corners = [probe for probe in probes if probe.role != "random"] or list(probes)
    parts = {part: _usual(corners, part) for part in dict.fromkeys(part for probe in corners for part in probe.seconds)}
    devices = {name: _device_time(name, corners, parts) for name, each in spec.devices.items() if not each.is_replay}
    measuring = sum(spent for part, spent in parts.items() if part.startswith("measure"))
    making = sum(spent for part, spent in parts.items() if part.startswith(("build", "export", "convert")))
    other = sum(parts.values()) - measuring
    start = start_seconds + sum(device.start_s for device in devices.values())
    trials, workers = spec.search.trials, spec.run.workers
    if not spec.trains:
        search = trials * (other / workers + measuring + ASK_S)
        return TimePlan(start, search, 0.0, other + measuring + ASK_S, devices)
    share, epochs = 1.0, 0.0
    for rung in spec.quality.rungs:
        epochs += share * (rung.epochs or 0)
        share *= rung.keep or 1.0
    training = epochs * epoch_seconds if any(metric.name == "top1" for metric in spec.metrics) else 0.0
    stands_in = spec.cost_model.stand_in and not any(metric.name == "energy_mj" for metric in spec.metrics)
    unknown = spec.cost_model.samples if spec.cost_model.from_ is None else 0
    measured = min(trials, unknown) if stands_in else trials
    search = trials * (other + training) / workers + measured * measuring

    finalists, seeds = min(spec.verify.finalists, trials), spec.quality.seeds
    finishing = seeds * (spec.quality.rungs[-1].epochs or 0) * epoch_seconds + other
    first_name, first = next(((n, each) for n, each in spec.devices.items() if not each.is_replay), ("", None))
    if first is not None and first.precision != "fp32":  # each seed's file is scored in that precision
        finishing += seeds * (making + validation * _usual_ms(corners, first_name) / 1e3)
    again = sum(_finalist_s(device) for device in devices.values() if device.measurement_s)
    verify = finalists * (finishing / workers + again)
    return TimePlan(start, search, verify, other + training + measuring, devices)


def _usual(probes: Sequence[Probe], part: str) -> float:
    """Returns the median of a part's seconds: the first time has things to load."""
    return statistics.median(probe.seconds.get(part, 0.0) for probe in probes)


def _usual_ms(probes: Sequence[Probe], device: str) -> float:
    return statistics.median([_value(probe, f"latency_ms@{device}") or 0.0 for probe in probes])


def _device_time(name: str, corners: Sequence[Probe], parts: Mapping[str, float]) -> DeviceTime:
    first = corners[0].seconds.get(f"predict@{name}", 0.0)  # it starts the process
    readings = [probe.readings.get(f"latency_ms@{name}") for probe in corners]
    return DeviceTime(
        parts.get(f"convert@{name}", 0.0),
        parts.get(f"measure@{name}", 0.0),
        max(0.0, first - parts.get(f"predict@{name}", 0.0)),
        2 * sum(bool(reading and reading.noisy) for reading in readings) > len(readings),
    )


def _finalist_s(device: DeviceTime) -> float:
    """Returns the seconds of a finalist's measurement: in fresh processes, more of them on a busy machine."""
    from .latency import ATTEMPTS, CALM_S
    from .verification import PROCESSES

    each = device.start_s + device.measurement_s
    return ATTEMPTS * (each + CALM_S) if device.noisy else PROCESSES * each


def _probe(evaluator: Evaluator, role: str, architecture: Architecture, devices: Collection[str] | None) -> Probe:
    """Costs an architecture on some devices, or, on all, anew."""
    readings, seconds = evaluator.costs_of(architecture, devices, fresh=devices is None)
    return Probe(role, architecture, readings, seconds)


def _sound_probes(
    evaluator: Evaluator,
    chosen: Sequence[tuple[str, Architecture]],
    devices: Collection[str] | None,
    told: Callable[[str], None] = lambda text: None,
) -> list[Probe]:
    """Returns the costs of those that can be built, exported and run."""
    probes = []
    for place, (role, architecture) in enumerate(chosen, 1):
        interrupts.check()
        told(f"{role} architecture ({place} of {len(chosen)})")
        with suppress(CandidateError):
            probes.append(_probe(evaluator, role, architecture, devices))
    return probes


def _devices_of(limits: Iterable[Limit]) -> set[str]:
    """Returns the devices that limits name."""
    return {limit.metric.device for limit in limits if limit.metric.device is not None}


def _value(probe: Probe, metric: str) -> float | None:
    reading = probe.readings.get(metric)
    return None if reading is None else reading.value


def _surely_broken(limit: Limit, probes: Iterable[Probe]) -> bool:
    readings = [probe.readings[name] for probe in probes if (name := str(limit.metric)) in probe.readings]
    return bool(readings) and all(limit.surely_broken_by(reading) for reading in readings)
