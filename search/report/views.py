"""What the figures show, decided before anything is drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..metrics import Direction, Reading
from ..pareto import hypervolume, nondominated
from ..quantities import axis_title, is_guess, label, unit
from ..run_data import RunData, Trial
from ..selection import best_metric
from .agreement import ends_of

__all__ = [
    "FrontView",
    "LimitLine",
    "Point",
    "Progress",
    "Strip",
    "front_view",
    "front_views",
    "progress",
]

NUMBER = "number"
"""Stands for the trial's number where a view has no second metric."""

Group = Literal["verified", "front", "inside", "outside", "stopped", "running"]
StripName = Literal["no_y", "no_x", "failed"]
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate at its place in a view; the interval ends equal the value where there is no interval.

    Attributes:
        key: `t12` for trial 12, `v12` for its verified self.
        measured: False when a coordinate was predicted or estimated: drawn hollow.
    """

    key: str
    x: float
    y: float
    x_ends: Range
    y_ends: Range
    measured: bool


@dataclass(frozen=True, slots=True)
class Strip:
    """Trials that have no place in the plot, in a row of their own beneath it.

    Attributes:
        name: `no_y` (drawn at their x), `no_x` and `failed` (drawn in the order of their numbers).
        title: what they are, with their number.
        where: where in the strip they are drawn.
        keys: one per trial.
        places: x values for `no_y`, places between 0 and 1 for the others.
    """

    name: StripName
    title: str
    where: str
    keys: tuple[str, ...]
    places: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class LimitLine:
    """A limit on one of the two axes; the side that breaks it is shaded."""

    axis: Literal["x", "y"]
    bound: float
    above: bool
    text: str


@dataclass(frozen=True, slots=True)
class FrontView:
    """One objective against another.

    Attributes:
        x: metric of the x axis, or `number`.
        y: metric of the y axis.
        groups: trials with a place in the plot, by group; together with the strips every trial occurs once.
        verified: members of the verified front, with measured readings.
        stairs: corners of the line along the verified front (else the front so far), best x first.
        strips: the other trials.
        limits: limits on these axes.
        limited: whether the study has any limit.
        log_x: True when x is drawn on a logarithmic scale.
        x_range: ends of the x axis, in the metric's unit.
        y_range: ends of the y axis.
        zoom: ends of both axes around the front, None where that would change little.
        notes: what a reader has to know about this view.
        trained: False when tables told the quality, so that nothing was verified.
    """

    x: str
    y: str
    title: str
    x_title: str
    y_title: str
    groups: tuple[tuple[Group, tuple[Point, ...]], ...]
    verified: tuple[Point, ...]
    stairs: tuple[tuple[float, float], ...]
    strips: tuple[Strip, ...]
    limits: tuple[LimitLine, ...]
    limited: bool
    log_x: bool
    x_range: Range
    y_range: Range
    zoom: tuple[Range, Range] | None
    notes: tuple[str, ...]
    trained: bool = True

    @property
    def trial_count(self) -> int:
        """How many trials are drawn, the verified front not counted."""
        return sum(len(points) for _, points in self.groups) + sum(len(strip.keys) for strip in self.strips)


@dataclass(frozen=True, slots=True)
class Progress:
    """How the search went: one value per finished trial."""

    numbers: tuple[int, ...]
    values: tuple[float, ...]
    y_title: str
    text: str


def front_views(run: RunData) -> tuple[FrontView, ...]:
    """Returns the views to pick from: accuracy against each cost first, then the other pairs of objectives."""
    main, _ = best_metric(run.objectives)
    others = [metric for metric, _ in run.objectives if metric != main]
    pairs = [(x, main) for x in others]
    pairs += [(metric, main) for metric in run.metrics if metric != main and metric not in others]
    pairs += list(itertools.combinations(others, 2))
    rows = (*run.rows, *run.verified)
    known = [(x, y) for x, y in pairs if x in others or any(trial.value(x) is not None for trial in rows)]
    return tuple(front_view(run, x, y) for x, y in (known or [(NUMBER, main)]))


def front_view(run: RunData, x: str, y: str) -> FrontView:
    """Decides what a view shows.

    Args:
        run: the run.
        x: metric of the x axis, or `number`.
        y: metric of the y axis.
    """
    groups: dict[Group, list[Point]] = {}
    strips: dict[StripName, list[Trial]] = {}
    for trial in run.rows:
        point = _point(trial, x, y, "t")
        if trial.state == "fail":
            strips.setdefault("failed", []).append(trial)
        elif point is not None:
            groups.setdefault(_group(trial, run), []).append(point)
        else:
            strips.setdefault("no_x" if _value(trial, x) is None else "no_y", []).append(trial)
    verified = tuple(point for trial in run.verified if (point := _point(trial, x, y, "v")))
    drawn = [point for points in groups.values() for point in points]
    line = verified or tuple(groups.get("front", ()))
    beneath = [value for trial in strips.get("no_y", ()) if (value := _value(trial, x)) is not None]
    xs = [*(p.x for p in drawn), *(end for p in verified for end in p.x_ends), *beneath]
    ys = [*(p.y for p in drawn), *(end for p in verified for end in p.y_ends)]
    log_x = bool(xs) and x != NUMBER and min(xs) > 0 and max(xs) / min(xs) > 10
    limits, far = _limit_lines(run, x, y, xs, ys)
    xs += [line.bound for line in limits if line.axis == "x" and (line.bound > 0 or not log_x)]
    ys += [line.bound for line in limits if line.axis == "y"]
    x_range, y_range = _range(xs, log_x), _capped(_range(ys, False), y)
    return FrontView(
        x=x,
        y=y,
        title=f"{label(y)} against {'trial' if x == NUMBER else label(x).lower()}",
        x_title="Trial" if x == NUMBER else axis_title(x),
        y_title=axis_title(y),
        groups=tuple((name, tuple(groups[name])) for name in _ORDER if name in groups),
        verified=verified,
        stairs=_stairs(line, _minimised(run, x), _minimised(run, y)) if x != NUMBER else (),
        strips=tuple(_strip(name, strips[name], x, y, run) for name in _STRIPS if name in strips),
        limits=limits,
        limited=bool(run.limits),
        log_x=log_x,
        x_range=x_range,
        y_range=y_range,
        zoom=_zoom(line, log_x, x_range, y_range, y),
        notes=far,
        trained=run.trained,
    )


_ORDER: tuple[Group, ...] = ("outside", "stopped", "running", "inside", "front")
_STRIPS: tuple[StripName, ...] = ("no_y", "no_x", "failed")


def _group(trial: Trial, run: RunData) -> Group:
    if trial.state == "running":
        return "running"
    if trial.state == "pruned":
        return "stopped"
    if trial.on_front and not run.verified:
        return "front"
    return "inside" if trial.feasible else "outside"


def _value(trial: Trial, metric: str) -> float | None:
    return float(trial.number) if metric == NUMBER else trial.value(metric)


def _point(trial: Trial, x: str, y: str, prefix: str) -> Point | None:
    at = Reading(float(trial.number), source="computed") if x == NUMBER else trial.reading(x)
    height = trial.reading(y)
    if at.value is None or height.value is None:
        return None
    measured = not is_guess(at) and not is_guess(height)
    return Point(f"{prefix}{trial.number}", at.value, height.value, ends_of(at), ends_of(height), measured)


def _strip(name: StripName, trials: Sequence[Trial], x: str, y: str, run: RunData) -> Strip:
    keys = tuple(f"t{trial.number}" for trial in trials)
    count = len(trials)
    if name == "no_y":
        places = tuple(value for trial in trials if (value := _value(trial, x)) is not None)
        early = all(trial.state == "pruned" for trial in trials) and y == best_metric(run.objectives)[0]
        what = "rejected before training" if early else f"without {label(y).lower()}"
        where = f"at their {'number' if x == NUMBER else label(x).lower()}"
    else:
        places = tuple((index + 0.5) / count for index in range(count))
        what = "failed" if name == "failed" else f"without {label(x).lower()}"
        where = "in order of trial"
    return Strip(name, f"{count} {what}", where, keys, places)


def _limit_lines(
    run: RunData, x: str, y: str, xs: Sequence[float], ys: Sequence[float]
) -> tuple[tuple[LimitLine, ...], tuple[str, ...]]:
    """Returns the limits on these axes that lie near the data, and a note for each other one."""
    lines: list[LimitLine] = []
    notes: list[str] = []
    for limit in run.limits:
        metric = str(limit.metric)
        if metric not in (x, y):
            notes.append(f"{limit} also holds, on neither of these axes.")
            continue
        axis: Literal["x", "y"] = "x" if metric == x else "y"
        values = xs if axis == "x" else ys
        if values and not _near(limit.bound, values):
            notes.append(f"{limit} lies outside the figure.")
            continue
        share = metric == "top1" and not run.own_unit
        bound = f"{100 * limit.bound:g} %" if share else f"{limit.bound:g} {unit(metric)}".strip()
        text = f"{'≤' if limit.sign == '<=' else '≥'} {bound}"
        lines.append(LimitLine(axis, limit.bound, limit.sign == "<=", text))
    return tuple(lines), tuple(notes)


def _near(bound: float, values: Sequence[float]) -> bool:
    low, high = min(values), max(values)
    span = (high - low) or abs(high) or 1.0
    return low - span <= bound <= high + span


def _range(values: Sequence[float], log: bool, share: float = 0.06) -> Range:
    """Returns the ends of an axis with some air around the values."""
    if not values:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        ratio = max(high / low, 1.1) ** share
        return low / ratio, high * ratio
    air = (high - low) * share or abs(high) * 0.1 or 0.5
    return low - air, high + air


def _capped(ends: Range, metric: str) -> Range:
    """Keeps an axis of shares from running far beyond 100 %."""
    return (max(ends[0], -0.02), min(ends[1], 1.015)) if metric == "top1" and ends[1] < 1.2 else ends


def _zoom(line: Sequence[Point], log_x: bool, x_range: Range, y_range: Range, y: str) -> tuple[Range, Range] | None:
    if len(line) < 2:
        return None
    xs = _range([end for point in line for end in point.x_ends], log_x, 0.12)
    ys = _capped(_range([end for point in line for end in point.y_ends], False, 0.25), y)
    scale: Callable[[float], float] = math.log if log_x else float
    part_x = (scale(xs[1]) - scale(xs[0])) / (scale(x_range[1]) - scale(x_range[0]))
    part_y = (ys[1] - ys[0]) / (y_range[1] - y_range[0])
    return (xs, ys) if part_x * part_y < 0.6 else None


def _minimised(run: RunData, metric: str) -> bool:
    from ..metrics import METRICS

    direction: Direction | None = dict(run.objectives).get(metric)
    kind = METRICS.get(metric.partition("@")[0])
    return (direction or (kind.direction if kind else "minimize")) == "minimize"


def _stairs(points: Sequence[Point], min_x: bool, min_y: bool) -> tuple[tuple[float, float], ...]:
    """Returns the corners of the attained region: those points that no other one dominates on these two axes."""
    if not points:
        return ()
    signs = np.array([1.0 if min_x else -1.0, 1.0 if min_y else -1.0])
    table = np.array([[point.x, point.y] for point in points])
    front = np.unique(table[nondominated(table * signs)] * signs, axis=0) * signs
    return tuple((float(x), float(y)) for x, y in front)


def progress(run: RunData) -> Progress | None:
    """Decides the curve of progress: hypervolume over trials, or the best value so far with one objective."""
    names = [metric for metric, _ in run.objectives]
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for _, direction in run.objectives])
    done = [trial for trial in run.rows if trial.state != "running"]
    counted = {
        trial.number: np.array([trial.value(name) for name in names], dtype=float) * signs
        for trial in done
        if trial.state == "complete" and trial.feasible and all(trial.value(name) is not None for name in names)
    }
    if len(counted) < 2:
        return None
    numbers = tuple(trial.number for trial in done)
    if len(names) == 1:
        best = np.minimum.accumulate([counted[n][0] if n in counted else np.inf for n in numbers]) * signs[0]
        kept = [(n, float(value)) for n, value in zip(numbers, best, strict=True) if math.isfinite(value)]
        text = f"Best {label(names[0]).lower()} of a trial inside the limits, up to each trial."
        return Progress(tuple(n for n, _ in kept), tuple(v for _, v in kept), axis_title(names[0]), text)
    table = np.array(list(counted.values()))
    low, span = table.min(axis=0), np.ptp(table, axis=0)
    span[span == 0] = 1.0
    corner = np.full(len(names), 1.1)
    values: list[float] = []
    front = np.empty((0, len(names)))
    for number in numbers:
        if number in counted:
            point = (counted[number] - low) / span
            if not (front <= point).all(axis=1).any():
                front = np.vstack([front[~(point <= front).all(axis=1)], point])
        values.append(hypervolume(front, corner) / 1.1 ** len(names) if len(front) else 0.0)
    text = (
        "Share of the objective space that the trials inside the limits dominate, between the best value of each"
        " objective and a point 10 % beyond the worst. It grows only when a trial improves the front; flat means that"
        " the search found nothing better."
    )
    return Progress(numbers, tuple(values), "Hypervolume (share)", text)
