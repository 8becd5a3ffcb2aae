"""Numbers as people read them: labels, units, `97.2 %`, `~1.42 ms`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .metrics import Reading

__all__ = [
    "axis_title",
    "counted",
    "format_difference",
    "format_interval",
    "format_reading",
    "format_tests",
    "format_value",
    "is_guess",
    "label",
    "unit",
]

_LABELS = {
    "top1": "top1",
    "top1_test": "top1 on test",
    "latency_ms": "Latency",
    "energy_mj": "Energy",
    "size_mb": "File size",
    "sram_mb": "SRAM",
    "flash_mb": "Flash",
    "peak_memory_mb": "Peak memory",
    "params": "Weights",
    "macs": "Multiply-adds",
}
_UNITS = {"latency_ms": "ms", "energy_mj": "mJ"} | {
    name: "MB" for name in ("size_mb", "peak_memory_mb", "sram_mb", "flash_mb")
}
_COUNTS = frozenset({"params", "macs"})
_SHARES = frozenset({"top1", "top1_test"})


def _split(metric: str) -> tuple[str, str]:
    name, _, device = metric.partition("@")
    return name, device


def label(metric: str) -> str:
    """Names a metric in words.

    >>> label("latency_ms@cpu")
    'Latency on cpu'
    """
    name, device = _split(metric)
    words = _LABELS.get(name, name)
    return f"{words} on {device}" if device else words


def unit(metric: str) -> str:
    """Returns the unit of a metric, empty for shares and counts."""
    return _UNITS.get(_split(metric)[0], "")


def axis_title(metric: str) -> str:
    """Names a metric with its unit.

    >>> axis_title("latency_ms@cpu")
    'Latency on cpu (ms)'
    """
    return f"{label(metric)} ({unit(metric)})" if unit(metric) else label(metric)


def counted(count: int, noun: str) -> str:
    """Writes a number of things.

    >>> counted(1, "network"), counted(1200, "network")
    ('1 network', '1,200 networks')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _significant(value: float) -> str:
    """Writes about three significant digits, without an exponent where a person would not use one."""
    size = abs(value)
    if size >= 100 or value == 0:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    if size >= 1e-4:
        return f"{value:.{2 - math.floor(math.log10(size))}f}"
    return f"{value:.2e}"


def _count(value: float) -> str:
    for factor, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return _significant(value / factor) + suffix
    return f"{value:,.0f}"


def _bare(metric: str, value: float, own_unit: bool = False) -> tuple[str, str]:
    """Splits a value into its number and its unit."""
    name = _split(metric)[0]
    if name in _SHARES:
        return (f"{value:.2f}", "") if own_unit or abs(value) > 1 else (f"{100 * value:.1f}", " %")
    if name in _COUNTS:
        return _count(value), ""
    return _significant(value), f" {unit(metric)}" if unit(metric) else ""


def format_value(metric: str, value: float, own_unit: bool = False) -> str:
    """Writes a value with its unit; `own_unit` as in Reading.

    >>> format_value("top1", 0.9722), format_value("latency_ms@cpu", 1.4159), format_value("macs", 1.25e6)
    ('97.2 %', '1.42 ms', '1.25 M')
    """
    return "".join(_bare(metric, value, own_unit))


def format_difference(metric: str, value: float, own_unit: bool = False) -> str:
    """Writes a difference of two values; differences of shares are in points.

    >>> format_difference("top1", 0.004)
    '0.4 points'
    """
    if _split(metric)[0] in _SHARES and abs(value) <= 1 and not own_unit:
        return f"{100 * value:.1f} points"
    return format_value(metric, value, own_unit)


def is_guess(reading: Reading) -> bool:
    """True when the value was neither measured nor computed."""
    return reading.source in ("predicted", "estimated")


def format_interval(metric: str, reading: Reading) -> str:
    """Writes the interval of a reading, e.g. `1.38 to 1.47`; empty where there is none."""
    if reading.value is None or reading.low is None or reading.high is None or reading.low == reading.high:
        return ""
    low, high = (_bare(metric, end, reading.own_unit)[0] for end in (reading.low, reading.high))
    return f"{low} to {high}"


def format_tests(test: Reading, tests: Mapping[str, Reading]) -> str:
    """Writes `top1` on the test part: of the first device, and of those with another precision.

    >>> format_tests(Reading(0.98), {"cpu8": Reading(0.97)})
    '98.0 % (cpu8: 97.0 %)'
    """
    others = ", ".join(f"{name}: {format_reading('top1_test', reading)}" for name, reading in tests.items())
    return format_reading("top1_test", test) + (f" ({others})" if others else "")


def format_reading(metric: str, reading: Reading, *, interval: bool = False) -> str:
    """Writes a reading: a prediction or estimate with `~`, a noisy measurement with `!`, a missing one as `none`.

    >>> format_reading("latency_ms@cpu", Reading(1.4159, 1.3, 1.5, "predicted"), interval=True)
    '~1.42 ms (1.30 to 1.50)'
    """
    if reading.value is None:
        return "none"
    value = format_value(metric, reading.value, reading.own_unit)
    text = ("~" if is_guess(reading) else "") + value + ("!" if reading.noisy else "")
    between = format_interval(metric, reading) if interval else ""
    return f"{text} ({between})" if between else text
