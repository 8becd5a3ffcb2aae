"""How good a fitted cost model is: predictions of networks that it has not seen, against what is measured of them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..spaces.errors import CandidateError, DataError, UsageError
from . import interrupts
from .fitting import MOST_FAILURES

if TYPE_CHECKING:
    from ..cost_models import Fitted, Prediction
    from ..cost_models.accuracy import Accuracy
    from ..spaces import Architecture
    from .fitting import Task
    from .networks import Networks, Taken

__all__ = ["Report", "report_on"]

FEWEST = 3
"""Fewest networks from which errors are told."""


@dataclass(frozen=True)
class Report:
    """Predictions against measurements of networks that the model has not seen.

    Attributes:
        names: of the networks.
        predictions: of the model, before anything was measured.
        measured: the first measurement of each.
        again: the second, in another process and another order.
        model: predictions against the first measurements.
        ceiling: the second measurements against the first: what a second measurement differs by. Both have the noise,
            about the root of 2 times that of one; a perfect model, which has none, could be nearer to the first.
        shift: median of prediction over first measurement, less 1: whether all are predicted too slow or too fast.
        ceiling_shift: the same of the second measurement.
        coverage: share of the first measurements inside the 90 % intervals.
        half_width: median half-width of the intervals, as a share of the value.
        failed: networks that could not be built or measured, and why.
        noisy: number of networks of which a measurement was disturbed to its end.
    """

    names: Sequence[str]
    predictions: Sequence[Prediction]
    measured: Sequence[float]
    again: Sequence[float]
    model: Accuracy
    ceiling: Accuracy
    shift: float
    ceiling_shift: float
    coverage: float
    half_width: float
    failed: Mapping[str, str]
    noisy: int

    def to_json(self) -> dict[str, Any]:
        """JSON-plain; a correlation that does not exist is null."""
        rows = zip(self.names, self.predictions, self.measured, self.again, strict=True)
        return {
            "model": _plain(self.model),
            "ceiling": _plain(self.ceiling),
            "shift": self.shift,
            "ceiling_shift": self.ceiling_shift,
            "coverage": self.coverage,
            "half_width": self.half_width,
            "noisy": self.noisy,
            "failed": [{"arch_id": name, "error": why} for name, why in self.failed.items()],
            "networks": [
                {"arch_id": name, "predicted": asdict(said), "measured": first, "again": second}
                for name, said, first, second in rows
            ],
        }


def report_on(
    fitted: Fitted,
    networks: Networks,
    task: Task,
    count: int,
    told: Callable[[str], None] = lambda text: None,
) -> Report:
    """Predicts networks that the model has not seen, then measures each of them twice.

    Args:
        fitted: the model.
        networks: of the space on the device.
        task: what was fitted.
        count: networks to look at.
        told: is called with what is under way.

    Raises:
        UsageError: the space has too few other networks.
        DataError: too many of them failed.
        DeviceError: the device is lost.
    """
    from ..cost_models.accuracy import accuracy, interval_accuracy

    failed: dict[str, str] = {}
    first: dict[str, Taken] = {}
    again: dict[str, Taken] = {}
    predictions: dict[str, Prediction] = {}
    drawn: dict[str, Architecture] = {}
    seen = {one.name for one in fitted.samples}
    for draw in range(20 * (count + len(seen))):
        if len(first) == count:
            break
        architecture = task.space.random(f"{task.seed}/report/{draw}")
        if architecture.id in seen:
            continue
        seen.add(architecture.id)
        interrupts.check()
        told(f"other network {len(first) + 1} of {count}")
        try:
            predictions[architecture.id] = fitted.model.predict(networks.graph(architecture))
            first[architecture.id] = networks.measure(architecture)
            drawn[architecture.id] = architecture
        except CandidateError as error:
            failed[architecture.id] = str(error)
            if len(failed) >= MOST_FAILURES:
                raise DataError(f"{len(failed)} networks of '{task.space.name}' failed: {error}") from error
    if len(first) < count:
        raise UsageError(
            f"space '{task.space.name}' has only {len(first)} other networks: --report {count} is too many"
        )
    first.update(networks.calmed([(drawn[name], taken) for name, taken in first.items()]))
    networks.restart()
    for place, name in enumerate(random.Random(task.seed).sample(list(drawn), count), 1):
        interrupts.check()
        told(f"other network {place} of {count}, once more")
        try:
            again[name] = networks.repeat(drawn[name])
        except CandidateError as error:
            failed[name] = str(error)
    again.update(networks.calmed([(drawn[name], taken) for name, taken in again.items()]))
    names = [name for name in drawn if name in again]
    if len(names) < FEWEST:
        raise DataError(f"only {len(names)} of {count} networks could be measured twice: {next(iter(failed.values()))}")
    true, second = ([taken[name].value for name in names] for taken in (first, again))
    said = [predictions[name] for name in names]
    coverage, half_width = interval_accuracy(said, true)
    return Report(
        names,
        said,
        true,
        second,
        accuracy([one.value for one in said], true),
        accuracy(second, true),
        statistics.median(one.value / value for one, value in zip(said, true, strict=True)) - 1,
        statistics.median(later / value for later, value in zip(second, true, strict=True)) - 1,
        coverage,
        half_width,
        failed,
        sum(first[name].noisy or again[name].noisy for name in names),
    )


def _plain(found: Accuracy) -> dict[str, float | None]:
    """JSON-plain: a correlation that does not exist is None."""
    return {name: value if math.isfinite(value) else None for name, value in found.to_json().items()}
