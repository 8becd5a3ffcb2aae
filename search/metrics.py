"""Metrics, readings and limits: the words in which candidates are compared."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..spaces.errors import UsageError, did_you_mean

__all__ = ["METRICS", "Limit", "Metric", "MetricKind", "Reading", "Source"]

Source = Literal["measured", "predicted", "computed", "estimated", "missing"]
"""Where a value comes from; carried from the device to the page."""

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, slots=True)
class MetricKind:
    """What is known of a metric by its name alone.

    Attributes:
        name: the name without a device, e.g. `latency_ms`.
        direction: the better direction.
        on_device: True when the metric is only defined on a device (`latency_ms@cpu`).
        text: one line for the page and `--help`.
        lowest: the lowest value it can take.
        highest: the highest value it can take.
    """

    name: str
    direction: Direction
    on_device: bool
    text: str
    lowest: float = 0.0
    highest: float = math.inf


METRICS: dict[str, MetricKind] = {
    kind.name: kind
    for kind in (
        MetricKind(
            "top1",
            "maximize",
            False,
            "share of the validation samples classified correctly; of a table, in the table's own unit",
            0.0,
            100.0,
        ),
        MetricKind(
            "latency_ms",
            "minimize",
            True,
            "time of one inference, batch 1, on an undisturbed machine, in milliseconds",
        ),
        MetricKind("energy_mj", "minimize", True, "energy of one inference beyond idle power, in millijoules"),
        MetricKind("sram_mb", "minimize", True, "memory for activations, as estimated, in megabytes (10^6 bytes)"),
        MetricKind("flash_mb", "minimize", True, "memory for weights and commands, as estimated, in megabytes"),
        MetricKind("size_mb", "minimize", False, "size of the model file, in megabytes (10^6 bytes)"),
        MetricKind("peak_memory_mb", "minimize", False, "peak of live activations, batch 1, in megabytes (10^6 bytes)"),
        MetricKind("params", "minimize", False, "number of weights"),
        MetricKind("macs", "minimize", False, "multiply-adds of one inference"),
    )
}
"""Every metric of this version, by name."""

TEST = "top1_test"
"""`top1` on the test part: a reading of verified networks, and no metric of a study."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as a study names it: `top1` or `latency_ms@cpu`."""

    name: str
    device: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.device}" if self.device else self.name

    @property
    def kind(self) -> MetricKind:
        return METRICS[self.name]

    @classmethod
    def parse(cls, text: str, devices: Iterable[str] | None = None) -> Metric:
        """Reads `name` or `name@device`.

        Args:
            text: the metric.
            devices: names of the study's devices; None to accept any.

        Raises:
            UsageError: the name or the device is unknown, or a device is missing or out of place.
        """
        name, at, device = text.strip().partition("@")
        kind = METRICS.get(name)
        if name == TEST:
            raise UsageError(
                f"nothing is chosen by '{TEST}': it would no longer be the number to quote; write top1, which is of "
                "the validation part"
            )
        if kind is None:
            raise UsageError(f"unknown metric '{name}'{did_you_mean(name, METRICS)}")
        if kind.on_device and not device:
            example = next(iter(devices or ()), "cpu")
            raise UsageError(f"'{name}' needs a device, e.g. {name}@{example}")
        if at and not kind.on_device:
            raise UsageError(f"'{name}' is the same on every device: write it without '@{device}'")
        if device and devices is not None and device not in set(devices):
            raise UsageError(f"unknown device '{device}' in '{text.strip()}'{did_you_mean(device, devices)}")
        return cls(name, device or None)


@dataclass(frozen=True, slots=True)
class Reading:
    """A value with its provenance.

    Attributes:
        value: in the metric's own unit; None when missing.
        low: lower end of the 90 % interval, None where there is none.
        high: upper end of the 90 % interval, None where there is none.
        source: measured, predicted, computed, estimated or missing.
        noisy: True when the machine was too busy for a sure measurement; the interval is wide then.
        reason: why it is missing, where that is known; what an estimate assumes; or why a prediction decides nothing.
        own_unit: True for a quality that a table has in a unit of its own, such as percent, and not as a share.
        model: the cost model that a prediction or estimate comes from; empty for other readings.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    source: Source = "measured"
    noisy: bool = False
    reason: str = ""
    own_unit: bool = False
    model: str = ""

    def __post_init__(self) -> None:
        if self.source not in get_args(Source):
            raise ValueError(f"source must be one of {get_args(Source)}, not {self.source!r}")
        if (self.value is None) != (self.source == "missing"):
            raise ValueError("a reading has no value exactly when it is missing")
        if any(v is not None and not math.isfinite(v) for v in (self.value, self.low, self.high)):
            raise ValueError(f"a reading is finite: {self}")

    @classmethod
    def missing(cls, reason: str = "") -> Reading:
        """The reading of a metric that nothing could tell."""
        return cls(None, source="missing", reason=reason)

    @property
    def decides(self) -> bool:
        """False for a prediction far outside what its cost model has learned from, and for an estimate of one."""
        return not self.model or (self.source == "predicted" and not self.reason)

    def to_dict(self) -> dict[str, Any]:
        told = {"value": self.value, "low": self.low, "high": self.high, "source": self.source}
        further = {"noisy": self.noisy, "reason": self.reason, "own_unit": self.own_unit, "model": self.model}
        return {**told, **{name: value for name, value in further.items() if value}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Reading:
        ends = data.get("low"), data.get("high")
        further = data.get("noisy", False), data.get("reason", ""), data.get("own_unit", False), data.get("model", "")
        return cls(data["value"], *ends, data["source"], *further)


_LIMIT = re.compile(r"^\s*(?P<metric>[A-Za-z_0-9]+(?:@[A-Za-z0-9._-]+)?)\s*(?P<sign><=|>=)\s*(?P<bound>\S+)\s*$")


@dataclass(frozen=True, slots=True)
class Limit:
    """`METRIC <= NUMBER` or `METRIC >= NUMBER`.

    >>> limit = Limit.parse("latency_ms@cpu <= 2")
    >>> limit.violation(2.5)
    0.5
    """

    metric: Metric
    sign: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        short = f"{self.bound:g}"
        return f"{self.metric} {self.sign} {short if float(short) == self.bound else repr(self.bound)}"

    @classmethod
    def parse(cls, text: str, devices: Iterable[str] | None = None) -> Limit:
        """Reads a limit.

        Raises:
            UsageError: it is not of that form, names an unknown metric or device, or no value can meet it.
        """
        match = _LIMIT.match(text)
        if match is None:
            raise UsageError(f"'{text}' is not a limit: write METRIC <= NUMBER or METRIC >= NUMBER")
        metric = Metric.parse(match["metric"], devices)
        try:
            bound = float(match["bound"])
        except ValueError:
            raise UsageError(f"'{match['bound']}' in '{text}' is not a number") from None
        if not math.isfinite(bound):
            raise UsageError(f"the bound of '{text}' must be finite")
        limit = cls(metric, "<=" if match["sign"] == "<=" else ">=", bound)
        kind = metric.kind
        best = kind.lowest if limit.sign == "<=" else kind.highest
        if limit.violation(best) > 0:
            raise UsageError(
                f"'{text}' can never hold: {metric.name} lies between {kind.lowest:g} and {kind.highest:g}"
            )
        return limit

    @property
    def beyond_shares(self) -> bool:
        """True when only the quality of a table in percent can meet it: trained networks have shares of 1."""
        return self.metric.name == "top1" and self.sign == ">=" and self.bound > 1

    def violation(self, value: float) -> float:
        """By how much `value` breaks the limit, in the metric's unit; <= 0 when it holds."""
        return value - self.bound if self.sign == "<=" else self.bound - value

    def broken_by(self, reading: Reading) -> bool:
        """True when the reading's value breaks the limit; False when it holds or the value is missing."""
        return reading.value is not None and self.violation(reading.value) > 0

    def surely_broken_by(self, reading: Reading) -> bool:
        """True when even the better end of the reading's interval breaks the limit."""
        better = reading.low if self.sign == "<=" else reading.high
        better = reading.value if better is None else better
        return better is not None and self.violation(better) > 0

    def surely_met_by(self, reading: Reading) -> bool:
        """True when even the worse end of the reading's interval holds the limit."""
        worse = reading.high if self.sign == "<=" else reading.low
        worse = reading.value if worse is None else worse
        return worse is not None and self.violation(worse) <= 0
