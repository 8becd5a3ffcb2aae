"""What the numbers and the reasons on the page mean, in plain English."""

from __future__ import annotations

from collections.abc import Sequence

from ..metrics import METRICS
from ..quantities import axis_title

__all__ = ["glossary", "meaning_of"]

_REASONS = {
    "infeasible": "a limit was surely broken, so nothing was trained",
    "rung": "stopped after a cheap rung: others promised more",
    "timeout": "took longer than its deadline and was killed",
    "oom": "needed more memory than there was",
    "crash": "its process died, or its code raised an error",
    "non_finite": "training or the device gave a value that is not a number",
    "bad_result": "the device's answer made no sense",
    "build": "the space could not build it",
    "export": "it could not be exported",
    "data": "a table has no reading of it that the study needs",
    "parity": "the exported file does not compute what the network computes",
}

_TEST = (
    "share of the test part that the shipped file itself classifies correctly. The search never reads this part; it is"
    " scored once, at the end, so it is the number to quote."
)
_TERMS = (
    (
        "~ and hollow points",
        "a prediction or an estimate, not a measurement. Filled points are measured or computed on both axes.",
    ),
    (
        "!",
        "a measurement while the machine was too busy; the interval is wide, and the true value may lie outside it.",
    ),
    (
        "Intervals and bars",
        "the range in which the value lies in nine cases out of ten: spread over seeds for top1, over repeated"
        " measurements for latency, the model's own uncertainty for predictions.",
    ),
    (
        "none",
        "a value that nothing could tell, such as an energy without a meter; it is never taken for zero.",
    ),
    ("Limits", "a network holds a limit when even the worse end of its interval does."),
    (
        "Verified front",
        "networks trained over several seeds, exported, and measured again on the device, or estimated where the device"
        " is not there; none of them is beaten in every objective by another one.",
    ),
    (
        "Refused",
        "a finalist that does not surely hold a limit once it is trained over seeds and measured again, or that fails.",
    ),
    ("Knee", "the member of the front beyond which each gain costs more than it did before."),
    ("Hypervolume", "how much of the objective space the networks found so far dominate; larger is better."),
)


_FRONT = (
    "Front",
    "networks that no other one beats in every objective. Nothing was trained: their readings are those of tables and"
    " of the search, and there are no files to ship.",
)


def meaning_of(reason: str) -> str:
    """Explains a reason by its code, empty for an unknown one.

    >>> meaning_of("crash:SIGSEGV")
    'its process died'
    """
    words = reason.partition(":")[0].split()
    return _REASONS.get(words[0], "") if words else ""


def glossary(
    metrics: Sequence[str], *, verified: bool, predicted: bool, trained: bool = True
) -> tuple[tuple[str, str], ...]:
    """Returns (name, meaning) of everything that a page with these metrics shows.

    Args:
        metrics: the metrics on the page.
        verified: whether it has a verified front.
        predicted: whether it compares predictions with measurements.
        trained: whether the study trains networks; else tables tell their quality.
    """
    rows = [(axis_title("top1_test"), _TEST)] if verified else []
    rows += [(axis_title(metric), _metric(metric)) for metric in metrics]
    rows += [(_FRONT if name == "Verified front" and not trained else (name, text)) for name, text in _TERMS]
    if predicted:
        rows.append(("Within 10 %", "share of predictions that differ from the measurement by at most a tenth."))
    return tuple(rows)


def _metric(metric: str) -> str:
    kind = METRICS.get(metric.partition("@")[0])
    return f"{kind.text}." if kind else "a metric of this study."
