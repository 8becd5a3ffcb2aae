"""What was predicted against what was measured, and against how well measurements agree with each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..metrics import Reading
from ..quantities import label
from ..run_data import RunData

__all__ = ["Agreement", "Closeness", "Pair", "agreements", "ends_of"]

Range = tuple[float, float]

FEWEST_RANKED = 3
"""Networks from which on a rank correlation is told."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What was predicted for a network, and what was measured."""

    key: str
    predicted: float
    predicted_ends: Range
    measured: float
    measured_ends: Range

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True, slots=True)
class Closeness:
    """How close values of some networks are to other values of them.

    Attributes:
        count: how many networks.
        spearman: rank correlation; None for fewer than three networks, or when one side is constant.
        mape: mean absolute error, as a share.
        within_five: share of networks at most 5 % off.
        within_ten: share at most 10 % off.
        half_width: median half-width of the 90 % intervals of the first values, as a share of the value.
    """

    count: int
    spearman: float | None
    mape: float
    within_five: float
    within_ten: float
    half_width: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """Predictions of a metric against measurements of the same networks that came later.

    Attributes:
        metric: of a device.
        title: its name in words.
        models: the cost models that made them, as far as it is known.
        pairs: one per network.
        predicted: how close predictions are to measurements.
        covered: share of measurements inside the predicted interval.
        again: how close measurements of the search are to those of the verification; None where there are none.
    """

    metric: str
    title: str
    models: tuple[str, ...]
    pairs: tuple[Pair, ...]
    predicted: Closeness
    covered: float
    again: Closeness | None


def agreements(run: RunData) -> tuple[Agreement, ...]:
    """Pairs predictions of device metrics with measurements of the same networks."""
    found = []
    for metric in run.metrics:
        pairs = tuple(_pairs(run, metric)) if "@" in metric else ()
        if not pairs:
            continue
        guesses = _predicted(run, metric)
        again = list(_twice(run, metric))
        found.append(
            Agreement(
                metric=metric,
                title=label(metric),
                models=tuple(sorted({guess.model for guess in guesses.values() if guess.model})),
                pairs=pairs,
                predicted=_closeness(pairs),
                covered=float(np.mean([p.predicted_ends[0] <= p.measured <= p.predicted_ends[1] for p in pairs])),
                again=_closeness(again) if again else None,
            )
        )
    return tuple(found)


def ends_of(reading: Reading) -> Range:
    """Returns the ends of a reading's interval; the value itself where there is none."""
    value = reading.value or 0.0
    return (value if reading.low is None else reading.low, value if reading.high is None else reading.high)


def _closeness(pairs: Sequence[Pair]) -> Closeness:
    from ...cost_models.accuracy import accuracy

    said, true = [pair.predicted for pair in pairs], [pair.measured for pair in pairs]
    twice = accuracy(said * 2, true * 2)  # two at least are wanted; to have each twice changes no figure
    ranked = len(pairs) >= FEWEST_RANKED and math.isfinite(twice.spearman)
    widths = [(pair.predicted_ends[1] - pair.predicted_ends[0]) / 2 / pair.predicted for pair in pairs]
    return Closeness(
        len(pairs),
        twice.spearman if ranked else None,
        twice.mape,
        twice.within_5,
        twice.within_10,
        float(np.median(widths)),
    )


def _pairs(run: RunData, metric: str) -> Iterable[Pair]:
    """Yields a pair for each architecture whose metric was both predicted and measured."""
    predicted = _predicted(run, metric)
    measured = _measured(run, metric, "t") | _measured(run, metric, "v")  # more runs stand behind the verified reading
    for arch_id, (key, reading) in measured.items():
        guess = predicted.get(arch_id)
        if guess is not None and guess.value is not None and reading.value is not None:
            yield Pair(key, guess.value, ends_of(guess), reading.value, ends_of(reading))


def _twice(run: RunData, metric: str) -> Iterable[Pair]:
    """Yields a pair for each architecture that was measured in the search, and again in the verification."""
    first = _measured(run, metric, "t")
    for arch_id, (key, reading) in _measured(run, metric, "v").items():
        before = first[arch_id][1] if arch_id in first else None
        if before is not None and before.value is not None and reading.value is not None:
            yield Pair(key, before.value, ends_of(before), reading.value, ends_of(reading))


def _measured(run: RunData, metric: str, prefix: str) -> dict[str, tuple[str, Reading]]:
    """Returns point and reading by architecture: of trials (`t`), or of verified networks (`v`)."""
    found = {}
    for trial in run.rows if prefix == "t" else run.verified:
        reading = trial.reading(metric)
        if reading.source == "measured" and (reading.value or 0.0) > 0:
            found[trial.arch_id] = (f"{prefix}{trial.number}", reading)
    return found


def _predicted(run: RunData, metric: str) -> dict[str, Reading]:
    """Returns the predictions by architecture, also those kept beside a measurement as `METRIC.predicted`."""
    found = {trial.arch_id: trial.reading(metric) for trial in run.rows if trial.reading(metric).source == "predicted"}
    return found | {trial.arch_id: trial.foretold[metric] for trial in run.rows if metric in trial.foretold}
