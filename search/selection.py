"""Which network to ship: the answer of `hwnas select`, with its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..spaces.errors import UsageError, did_you_mean
from .metrics import Direction, Limit
from .pareto import knee as knee_of
from .quantities import counted, format_difference, format_reading, format_tests, format_value, label
from .run_data import RunData, Trial

__all__ = ["SCHEMA_VERSION", "Pick", "Relaxation", "Selection", "best_metric", "choose"]

SCHEMA_VERSION = 1
Role = Literal["best", "knee", "smallest"]
ROLE_TITLES: dict[Role, str] = {
    "best": "Best inside the limits",
    "knee": "Knee of the front",
    "smallest": "Smallest near the best",
}
_NEAR = 0.01
"""Share of the best value that still counts as near it where no spread over seeds is known."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One network with the reason for it.

    Attributes:
        role: best, knee or smallest.
        trial: the network with its readings.
        certain: True when every limit holds at the worse end of its interval, False when only the middle value holds.
        reason: one or two sentences of plain English.
        model: path of the model file inside the run folder; empty where there is none yet.
    """

    role: Role
    trial: Trial
    certain: bool
    reason: str
    model: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the pick as plain JSON data."""
        return {
            "role": self.role,
            "arch_id": self.trial.arch_id,
            "number": self.trial.number,
            "certain": self.certain,
            "reason": self.reason,
            "model": self.model,
            "metrics": {metric: reading.to_dict() for metric, reading in self.trial.readings.items()},
            "top1_test": self.trial.test.to_dict(),
            **{f"top1_test@{name}": reading.to_dict() for name, reading in self.trial.tests.items()},
            "decisions": dict(self.trial.decisions),
        }


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The smallest change of one limit, the others kept, that lets a network in.

    Attributes:
        limit: the limit as it stands.
        relaxed: the limit that would do, rounded outwards; None when relaxing this one alone cannot help.
        by: the change of the bound, in the metric's unit.
        trial: the network that it lets in.
    """

    limit: Limit
    relaxed: Limit | None = None
    by: float = 0.0
    trial: Trial | None = None

    @property
    def text(self) -> str:
        """One line of plain English."""
        if self.relaxed is None or self.trial is None:
            return f"{self.limit}: relaxing this one alone lets nothing in"
        metric = str(self.limit.metric)
        share = f", {100 * self.by / abs(self.limit.bound):.0f} % more room" if self.limit.bound else ""
        own_unit = self.trial.reading(metric).own_unit
        change = f"by {format_difference(metric, self.by, own_unit)}{share}"
        return f"{self.limit}: relax it to {self.relaxed.bound:g} ({change}) and {self.trial.arch_id} fits"

    def to_dict(self) -> dict[str, Any]:
        """Returns the relaxation as plain JSON data."""
        return {
            "limit": str(self.limit),
            "relaxed": None if self.relaxed is None else str(self.relaxed),
            "by": self.by if self.relaxed else None,
            "arch_id": self.trial.arch_id if self.trial else None,
            "text": self.text,
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """The answer to "which one do we ship?".

    Attributes:
        run: name of the study.
        limits: the limits asked for.
        among: what was chosen from, `verified front` or `completed trials`.
        candidates: how many networks there were.
        certain: how many hold every limit at the worse end of their intervals.
        middle: how many hold every limit by their middle values.
        best, knee, smallest: the picks; all None when nothing fits.
        relaxations: per limit the smallest change that would help; empty when something fits.
        notes: what else a person should know, one sentence each.
        metrics: the metrics worth showing with a pick, objectives first.
    """

    run: str
    limits: tuple[Limit, ...]
    among: str
    candidates: int
    certain: int
    middle: int
    best: Pick | None = None
    knee: Pick | None = None
    smallest: Pick | None = None
    relaxations: tuple[Relaxation, ...] = ()
    notes: tuple[str, ...] = ()
    metrics: tuple[str, ...] = field(default=())

    @property
    def picks(self) -> tuple[Pick, ...]:
        """The picks that exist: best, knee, smallest."""
        return tuple(pick for pick in (self.best, self.knee, self.smallest) if pick is not None)

    def to_dict(self) -> dict[str, Any]:
        """Returns the answer as plain JSON data, the form of `hwnas select --json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "run": self.run,
            "limits": [str(limit) for limit in self.limits],
            "among": self.among,
            "candidates": self.candidates,
            "inside": {"certain": self.certain, "middle": self.middle},
            **{role: pick.to_dict() if pick else None for role, pick in zip(ROLE_TITLES, self._slots, strict=True)},
            "relaxations": [relaxation.to_dict() for relaxation in self.relaxations],
            "notes": list(self.notes),
        }

    @property
    def _slots(self) -> tuple[Pick | None, Pick | None, Pick | None]:
        return self.best, self.knee, self.smallest

    def lines(self) -> list[str]:
        """Returns the answer for the terminal; predictions carry `~`."""
        asked = ", ".join(str(limit) for limit in self.limits) or "none"
        lines = [f"Limits: {asked}", f"{_counted(self)}"]
        for pick in self.picks:
            lines += ["", f"{ROLE_TITLES[pick.role]}: {pick.trial.arch_id}", f"  {describe(pick.trial, self.metrics)}"]
            lines += [f"  {pick.reason}"]
        if self.relaxations:
            lines += ["", "Nothing fits. What would help:"]
            lines += [f"  {relaxation.text}" for relaxation in self.relaxations]
        return lines + ([""] if self.notes else []) + [f"Note: {note}" for note in self.notes]


def _counted(selection: Selection) -> str:
    held = selection.certain or selection.middle
    how = "" if selection.certain or not selection.middle else ", by their middle values only"
    if not selection.limits:
        return f"Chosen among {counted(selection.candidates, 'network')} ({selection.among})."
    fit = "fits" if held == 1 else "fit"
    return f"{held} of {counted(selection.candidates, 'network')} {fit} ({selection.among}{how})."


def describe(trial: Trial, metrics: Sequence[str]) -> str:
    """Writes the readings of a network in one line, predictions with `~`."""
    parts = [
        f"{label(m)} {format_reading(m, trial.reading(m), interval=True)}"
        for m in metrics
        if trial.reading(m).value is not None
    ]
    if trial.test.value is not None:
        parts.insert(1, f"{label('top1_test')} {format_tests(trial.test, trial.tests)}")
    return " · ".join(parts)


def best_metric(objectives: Sequence[tuple[str, Direction]]) -> tuple[str, Direction]:
    """Returns the objective that "best" is about: the first to be maximised, else the first."""
    return next((pair for pair in objectives if pair[1] == "maximize"), objectives[0])


def choose(run: RunData, limits: Sequence[Limit]) -> Selection:
    """Chooses what to ship.

    Limits are judged by the worse end of each reading's interval; when nothing holds them so, by the middle value, and
    the answer says that. Only `limits` count: the study's own are `run.limits`.

    Args:
        run: the run.
        limits: what must hold; may be empty.

    Raises:
        UsageError: a limit is on a metric that the run does not have.
    """
    for limit in limits:
        if str(limit.metric) not in run.metrics:
            raise UsageError(f"this run has no '{limit.metric}'{did_you_mean(str(limit.metric), run.metrics)}")
        if limit.beyond_shares and run.trained:
            raise UsageError(f"'{limit}' can never hold: {limit.metric} lies between 0 and 1")
    limits = tuple(dict.fromkeys(limits))
    main = best_metric(run.objectives)
    pool = _candidates(run)
    among = "completed trials" if run.front is None else "verified front" if run.trained else "front"
    certain = [
        trial for trial in pool if all(limit.surely_met_by(trial.reading(str(limit.metric))) for limit in limits)
    ]
    middle = [trial for trial in pool if _holds(trial, limits)]
    fitting = certain or middle
    shown = [metric for metric, _ in run.objectives] + [str(limit.metric) for limit in limits] + ["size_mb", "params"]
    notes: tuple[str, ...] = ()
    if run.front is None:
        unverified = "the front is not verified yet: these are readings of the search, not of a shipped file"
        notes = (unverified if run.trained else "the study has not ended: this is its front so far",)
    notes += _not_measured(pool, shown)
    found: dict[str, Any] = {}
    if fitting:
        best = min(fitting, key=lambda trial: _order(trial, main, run.objectives))
        found = {
            "best": _best_pick(run, best, fitting, middle, limits, bool(certain)),
            "knee": _knee_pick(run, best, fitting, limits, bool(certain)),
            "smallest": _smallest_pick(run, best, fitting, limits, bool(certain)),
        }
    else:
        notes += _why_nothing(run, pool, limits)
        found = {"relaxations": tuple(_relaxation(limit, limits, pool, main) for limit in limits) if pool else ()}
    known = tuple(metric for metric in dict.fromkeys(shown) if metric in run.metrics)
    return Selection(run.name, limits, among, len(pool), len(certain), len(middle), notes=notes, metrics=known, **found)


def _candidates(run: RunData) -> list[Trial]:
    """Returns what can be chosen: whatever has a value for every objective."""
    rows = tuple(trial for trial in run.rows if trial.state == "complete") if run.front is None else run.verified
    return [trial for trial in rows if all(trial.value(metric) is not None for metric, _ in run.objectives)]


def _not_measured(pool: Sequence[Trial], metrics: Iterable[str]) -> tuple[str, ...]:
    """Says which metrics are estimates of a device that is not there."""
    named = [m for m in dict.fromkeys(metrics) if any(trial.reading(m).source == "estimated" for trial in pool)]
    return (f"estimated by the vendor's tool, not measured on a device: {', '.join(named)}",) if named else ()


def _holds(trial: Trial, limits: Sequence[Limit]) -> bool:
    values = [(limit, trial.value(str(limit.metric))) for limit in limits]
    return all(value is not None and limit.violation(value) <= 0 for limit, value in values)


def _cost(value: float | None, direction: Direction) -> float:
    """Turns a value into one to be minimised; a missing one is the worst."""
    if value is None:
        return math.inf
    return -value if direction == "maximize" else value


def _order(trial: Trial, main: tuple[str, Direction], objectives: Sequence[tuple[str, Direction]]) -> tuple[float, ...]:
    """Sorts by the main objective, then by the others in their order, then by number."""
    pairs = [main, *(pair for pair in objectives if pair != main)]
    return (*(_cost(trial.value(metric), direction) for metric, direction in pairs), float(trial.number))


def _pick(run: RunData, role: Role, trial: Trial, limits: Sequence[Limit], certain: bool, reason: str) -> Pick:
    if not certain:
        loose = [limit for limit in limits if not limit.surely_met_by(trial.reading(str(limit.metric)))]
        reason += " Only the middle value holds: " + "; ".join(_overshoot(trial, limit) for limit in loose) + "."
    file = f"artifacts/{trial.arch_id}/model.onnx"
    return Pick(role, trial, certain, reason, file if (run.folder / file).is_file() else "")


def _overshoot(trial: Trial, limit: Limit) -> str:
    metric = str(limit.metric)
    reading = trial.reading(metric)
    end = reading.high if limit.sign == "<=" else reading.low
    text = format_value(metric, end, reading.own_unit) if end is not None else "unknown"
    return f"{label(metric)} may be {text}, the limit is {format_value(metric, limit.bound, reading.own_unit)}"


def _better(metric: str, direction: Direction) -> str:
    return f"{'highest' if direction == 'maximize' else 'lowest'} {label(metric).lower()}"


def _best_pick(
    run: RunData, best: Trial, fitting: Sequence[Trial], middle: Sequence[Trial], limits: Sequence[Limit], certain: bool
) -> Pick:
    metric, direction = main = best_metric(run.objectives)
    where = "that hold every limit" if limits else "there are"
    reason = f"It has the {_better(metric, direction)} of the {len(fitting)} networks {where}."
    if len(fitting) == 1:
        reason = "It is the only network that holds every limit." if limits else "It is the only network there is."
    rival = min(middle, key=lambda trial: _order(trial, main, run.objectives))
    if certain and _cost(rival.value(metric), direction) < _cost(best.value(metric), direction):
        gain = abs((rival.value(metric) or 0.0) - (best.value(metric) or 0.0))
        loose = next(limit for limit in limits if not limit.surely_met_by(rival.reading(str(limit.metric))))
        reason += (
            f" {rival.arch_id} is better by {format_difference(metric, gain, rival.reading(metric).own_unit)},"
            f" but is not surely inside: {_overshoot(rival, loose)}."
        )
    return _pick(run, "best", best, limits, certain, reason)


def _knee_pick(
    run: RunData, best: Trial, fitting: Sequence[Trial], limits: Sequence[Limit], certain: bool
) -> Pick | None:
    table = [[_cost(trial.value(metric), direction) for metric, direction in run.objectives] for trial in fitting]
    index = knee_of(table)
    if index is None:
        return None
    trial = fitting[index]
    if trial is best:
        return _pick(
            run,
            "knee",
            trial,
            limits,
            certain,
            "The best is also the knee: going on from it costs much and brings little.",
        )
    parts = [_trade(trial, best, metric, direction) for metric, direction in run.objectives]
    reason = f"Beyond it each gain costs more. Against the best: {', '.join(part for part in parts if part)}."
    return _pick(run, "knee", trial, limits, certain, reason)


def _trade(trial: Trial, best: Trial, metric: str, direction: Direction) -> str:
    """Says how a network differs from the best in one metric, e.g. `latency on cpu 42 % lower`."""
    mine, theirs = trial.value(metric), best.value(metric)
    if mine is None or theirs is None or mine == theirs:
        return ""
    way = "higher" if mine > theirs else "lower"
    points = format_difference(metric, abs(mine - theirs), best.reading(metric).own_unit)
    if not points.endswith("points") and theirs:
        points = f"{100 * abs(mine - theirs) / abs(theirs):.0f} %"
    return f"{label(metric).lower()} {points} {way}"


def _smallest_pick(
    run: RunData, best: Trial, fitting: Sequence[Trial], limits: Sequence[Limit], certain: bool
) -> Pick | None:
    metric, direction = best_metric(run.objectives)
    size = _size_metric(run, fitting)
    if size is None:
        return None
    room, why = _tolerance(best, metric, direction)
    edge = _cost(best.value(metric), direction) + room
    near = [trial for trial in fitting if _cost(trial.value(metric), direction) <= edge]
    small = min(near, key=lambda t: (_cost(t.value(size), "minimize"), *_order(t, (metric, direction), run.objectives)))
    if small is best:
        reason = f"The best is also the smallest network within {why} of its {label(metric).lower()}."
    else:
        gap = _trade(small, best, metric, direction) or f"the same {label(metric).lower()}"
        saved = _trade(small, best, size, "minimize") or f"the same {label(size).lower()}"
        reason = f"The lowest {label(size).lower()} within {why} of the best: {gap}, {saved}."
    return _pick(run, "smallest", small, limits, certain, reason)


def _size_metric(run: RunData, fitting: Sequence[Trial]) -> str | None:
    """Returns what "small" means here: the file, else the weights, else the first objective to be minimised."""
    names = ["size_mb", "params", *(metric for metric, direction in run.objectives if direction == "minimize")]
    return next((name for name in names if any(trial.value(name) is not None for trial in fitting)), None)


def _tolerance(best: Trial, metric: str, direction: Direction) -> tuple[float, str]:
    """Returns how far from the best still counts as near it, and the words for that."""
    reading = best.reading(metric)
    worse = reading.low if direction == "maximize" else reading.high
    if reading.value is None:
        return 0.0, "0"
    spread = 0.0 if worse is None else abs(reading.value - worse)
    if spread > 0:
        return spread, f"one spread ({format_difference(metric, spread, reading.own_unit)})"
    return _NEAR * abs(reading.value), "1 %"


def _relaxation(
    limit: Limit, limits: Sequence[Limit], pool: Sequence[Trial], main: tuple[str, Direction]
) -> Relaxation:
    """Finds the smallest change of one limit that lets in a network which surely holds all others."""
    others = [other for other in limits if other != limit]
    options = []
    for trial in pool:
        if not all(other.surely_met_by(trial.reading(str(other.metric))) for other in others):
            continue
        reading = trial.reading(str(limit.metric))
        worse = reading.high if limit.sign == "<=" else reading.low
        worse = reading.value if worse is None else worse
        if worse is not None:
            options.append((limit.violation(worse), _cost(trial.value(main[0]), main[1]), trial.number, worse, trial))
    if not options:
        return Relaxation(limit)
    _, _, _, worse, trial = min(options, key=lambda option: option[:3])
    relaxed = Limit(limit.metric, limit.sign, _outwards(worse, limit.sign))
    return Relaxation(limit, relaxed, abs(relaxed.bound - limit.bound), trial)


def _outwards(value: float, sign: str) -> float:
    """Rounds a bound to three significant digits so that `value` still holds it."""
    if value == 0:
        return 0.0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    rounded = float(f"{(math.ceil if sign == '<=' else math.floor)(value / step) * step:.6g}")
    holds = rounded >= value if sign == "<=" else rounded <= value
    return rounded if holds else value


def _why_nothing(run: RunData, pool: Sequence[Trial], limits: Sequence[Limit]) -> tuple[str, ...]:
    if not pool and run.front is None:
        return ("no trial has been completed yet, so there is nothing to choose from",)
    spare = []
    if run.verified and run.trained:
        spare = [trial for trial in run.rows if trial.state == "complete" and _holds(trial, limits)]
    if not spare:
        return ()
    best = min(spare, key=lambda trial: _order(trial, best_metric(run.objectives), run.objectives))
    return (
        f"{counted(len(spare), 'trial')} of the search {'holds' if len(spare) == 1 else 'hold'} these limits, first of"
        f" them {best.arch_id}, but none on the verified front:"
        " to verify them, run a study of another name with these limits",
    )
