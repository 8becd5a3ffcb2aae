"""What the page says, decided before anything is drawn."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metrics import Reading
from ..quantities import axis_title, counted, format_interval, format_reading, format_tests, label
from ..run_data import RunData, Trial
from ..selection import ROLE_TITLES, Pick, Selection, best_metric, choose
from .agreement import Agreement, Closeness, agreements
from .glossary import glossary, meaning_of
from .views import FrontView, Progress, front_views, progress

__all__ = [
    "Card",
    "Cell",
    "Count",
    "Fact",
    "FailureRow",
    "FrontRow",
    "Headline",
    "PageInfo",
    "agreement_rows",
    "page_info",
    "screened_text",
]


@dataclass(frozen=True, slots=True)
class Card:
    """One pick of the selection, ready to be shown.

    Attributes:
        roles: what it was picked as; one network may be picked twice.
        figures: (name, value) pairs, the most important first.
        reasons: one per role.
        model: path of the model file relative to the page, empty where there is none.
    """

    roles: tuple[str, ...]
    arch_id: str
    number: int
    figures: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    model: str


@dataclass(frozen=True, slots=True)
class Headline:
    """The answer at the top of the page."""

    answer: str
    reason: str
    cards: tuple[Card, ...]
    relaxations: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """How many trials ended in one way."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the table: what is read, its interval, and what it is sorted by."""

    text: str
    interval: str
    order: float | None


@dataclass(frozen=True, slots=True)
class FrontRow:
    """A network of the front."""

    arch_id: str
    number: int
    roles: tuple[str, ...]
    cells: tuple[Cell, ...]
    decisions: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class FailureRow:
    """Trials that ended without a result for one reason."""

    reason: str
    meaning: str
    numbers: tuple[int, ...]
    example: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing to know to run it again."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class PageInfo:
    """Everything on the page.

    Attributes:
        name: the study's name.
        verified: whether the front is final.
        trained: whether its networks were trained and verified; else tables told their quality.
        headline: what to ship.
        counts: trials by how they ended; the first is their total.
        views: the pairs of metrics to look at, the main one first.
        placements: per view, where its trials are drawn.
        progress: None with fewer than two results.
        agreements: predictions against measurements, per metric.
        screened: what the cost model refused, in a sentence; empty where that is nothing.
        columns: titles of the table's columns of metrics.
        table: rows of the front.
        failures: by reason, most frequent first.
        refused: finalists that were refused: (id, number of the trial, reason).
        commands: how to run it again.
        facts: versions, devices, seeds, digests.
        study: the resolved study file.
        glossary: (name, meaning) of each number on the page.
        hovers: lines of text per point, by the point's key.
    """

    name: str
    verified: bool
    trained: bool
    headline: Headline
    counts: tuple[Count, ...]
    views: tuple[FrontView, ...]
    placements: tuple[str, ...]
    progress: Progress | None
    agreements: tuple[Agreement, ...]
    screened: str
    columns: tuple[str, ...]
    table: tuple[FrontRow, ...]
    failures: tuple[FailureRow, ...]
    refused: tuple[tuple[str, int, str], ...]
    commands: tuple[str, ...]
    facts: tuple[Fact, ...]
    study: str
    glossary: tuple[tuple[str, str], ...]
    hovers: Mapping[str, tuple[str, ...]]


def page_info(run: RunData) -> PageInfo:
    """Decides everything that the page shows of a run."""
    selection = choose(run, run.limits)
    views = front_views(run)
    metrics = _shown(run)
    members = _members(run)
    found = agreements(run)
    return PageInfo(
        name=run.name,
        verified=bool(run.verified),
        trained=run.trained,
        headline=_headline(run, selection),
        counts=_counts(run),
        views=views,
        placements=tuple(_placement(view) for view in views),
        progress=progress(run),
        agreements=found,
        screened=screened_text(run),
        columns=(*((axis_title("top1_test"),) if _tested(run) else ()), *map(axis_title, metrics)),
        table=tuple(_front_row(run, trial, metrics, selection) for trial in members),
        failures=_failures(run),
        refused=tuple((trial.arch_id, trial.number, reason) for trial, reason in run.refused),
        commands=_commands(run, selection),
        facts=tuple(Fact(name, value) for name, value in _flat(run.environment)),
        study=_yaml(run.study),
        glossary=glossary(metrics, verified=_tested(run), predicted=bool(found), trained=run.trained),
        hovers=_hovers(run),
    )


def _tested(run: RunData) -> bool:
    """True when the networks of the front were run on the test part."""
    return bool(run.verified) and run.trained


def _members(run: RunData) -> list[Trial]:
    """Returns the front, best first."""
    main, direction = best_metric(run.objectives)
    front = run.verified or tuple(trial for trial in run.rows if trial.on_front)
    return sorted(front, key=lambda trial: trial.value(main) or 0.0, reverse=direction == "maximize")


def _shown(run: RunData) -> tuple[str, ...]:
    """Returns the metrics that have a value anywhere."""
    rows = (*run.rows, *run.verified)
    return tuple(metric for metric in run.metrics if any(trial.value(metric) is not None for trial in rows))


def _headline(run: RunData, selection: Selection) -> Headline:
    if selection.best is not None:
        picked = selection.best.trial
        values = [_with_device(metric, picked) for metric, _ in run.objectives]
        if picked.test.value is not None:
            values = [f"{format_reading('top1', picked.test)} on the test part", *values[1:]]
        verb = ("Ship" if run.trained else "The best:") if run.verified else "So far the best:"
        answer = f"{verb} {picked.arch_id}: {_listed(values)}"
        return Headline(answer, _basis(selection), _cards(run, selection), (), selection.notes)
    if not selection.candidates:
        return Headline("Nothing to ship yet", "No trial has been completed.", (), (), selection.notes)
    whom = _crowd(selection).capitalize() if selection.candidates == 1 else f"None of {_crowd(selection)}"
    holds = "does not hold" if selection.candidates == 1 else "holds"
    reason = f"{whom} {holds} {_listed([str(limit) for limit in selection.limits])}."
    relaxations = tuple(relaxation.text for relaxation in selection.relaxations)
    return Headline("Nothing fits the limits", reason, (), relaxations, selection.notes)


def _with_device(metric: str, trial: Trial) -> str:
    device = metric.partition("@")[2]
    return format_reading(metric, trial.reading(metric)) + (f" on {device}" if device else "")


def _crowd(selection: Selection) -> str:
    where = "that were completed" if selection.among == "completed trials" else f"of the {selection.among}"
    count = selection.candidates
    return f"the {count} networks {where}" if count > 1 else f"the one network {where}"


def _listed(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"


def _basis(selection: Selection) -> str:
    if not selection.limits:
        return f"The study has no limits; chosen among {_crowd(selection)}."
    held = selection.certain or selection.middle
    how = "even at the worse end of every interval" if selection.certain else "but by their middle values only"
    share = "All" if held == selection.candidates else str(held)
    who = _crowd(selection).capitalize() if selection.candidates == 1 else f"{share} of {_crowd(selection)}"
    limits = _listed([str(limit) for limit in selection.limits])
    return f"{who} {'holds' if held == 1 else 'hold'} {limits}, {how}."


def _cards(run: RunData, selection: Selection) -> tuple[Card, ...]:
    by_network: dict[int, list[Pick]] = {}
    for pick in selection.picks:
        by_network.setdefault(pick.trial.number, []).append(pick)
    return tuple(_card(picks, selection) for picks in by_network.values())


def _card(picks: Sequence[Pick], selection: Selection) -> Card:
    trial = picks[0].trial
    figures = [
        (label(metric), format_reading(metric, trial.reading(metric)))
        for metric in selection.metrics
        if trial.value(metric) is not None
    ]
    if trial.test.value is not None:
        figures.insert(0, (label("top1_test"), format_tests(trial.test, trial.tests)))
    return Card(
        roles=tuple(ROLE_TITLES[pick.role] for pick in picks),
        arch_id=trial.arch_id,
        number=trial.number,
        figures=tuple(figures),
        reasons=tuple(pick.reason for pick in picks),
        model=picks[0].model,
    )


def _counts(run: RunData) -> tuple[Count, ...]:
    states = [trial.state for trial in run.rows]
    rows = [
        Count("trial" if len(states) == 1 else "trials", len(states)),
        Count("completed", states.count("complete")),
        Count("rejected or stopped early", states.count("pruned")),
        Count("failed", states.count("fail")),
        Count("running", states.count("running")),
    ]
    rows += [
        Count("on the verified front" if run.trained else "on the front", len(run.verified)),
        Count("verified, not on the front", run.beaten),
        Count("refused", len(run.refused)),
    ]
    return (rows[0], *(row for row in rows[1:] if row.value))


def _placement(view: FrontView) -> str:
    """Says where each trial is drawn in a view, so that the points can be counted."""
    plotted = sum(len(points) for _, points in view.groups)
    some = "has" if plotted == 1 else "have"
    text = f"{plotted} of {counted(view.trial_count, 'trial')} {some} a point in the plot."
    if view.strips:
        strips = "; ".join(f"{strip.title} ({strip.where})" for strip in view.strips)
        text += f" The others lie in strips beneath it: {strips}."
    return text


def _front_row(run: RunData, trial: Trial, metrics: Sequence[str], selection: Selection) -> FrontRow:
    cells = [_cell("top1", trial.test)] if _tested(run) else []
    cells += [_cell(metric, trial.reading(metric)) for metric in metrics]
    folder = run.folder / "artifacts" / trial.arch_id
    models = sorted(path.name for path in folder.glob("model*.onnx"))
    names = (*models, "weights.safetensors", "arch.json", "card.md")
    files = tuple((name, f"artifacts/{trial.arch_id}/{name}") for name in names if (folder / name).is_file())
    roles = tuple(ROLE_TITLES[pick.role] for pick in selection.picks if pick.trial.number == trial.number)
    return FrontRow(trial.arch_id, trial.number, roles, tuple(cells), _decided(trial.decisions), files)


def _cell(metric: str, reading: Reading) -> Cell:
    return Cell(format_reading(metric, reading), format_interval(metric, reading), reading.value)


def _decided(decisions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in decisions.items())


def _failures(run: RunData) -> tuple[FailureRow, ...]:
    groups: dict[str, list[Trial]] = {}
    for trial in run.rows:
        if trial.state in ("pruned", "fail"):
            groups.setdefault(_reason_group(trial.reason), []).append(trial)
    rows = [
        FailureRow(reason, meaning_of(reason), tuple(trial.number for trial in trials), trials[0].reason)
        for reason, trials in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-len(row.numbers), row.reason)))


def _reason_group(reason: str) -> str:
    """Cuts what differs from trial to trial off a reason.

    >>> _reason_group("infeasible: latency_ms@cpu 3.1 > 2"), _reason_group("crash:SIGSEGV: in conv")
    ('infeasible: latency_ms@cpu', 'crash:SIGSEGV')
    """
    head, _, rest = reason.partition(": ")
    if head == "infeasible" and rest:
        return f"{head}: {rest.split()[0]}"
    return head.strip() or "no reason given"


def _commands(run: RunData, selection: Selection) -> tuple[str, ...]:
    code = run.environment.get("allow_code")
    again = ["hwnas", "run", str(run.folder / "study.yaml"), "--out", str(run.folder)]
    commands = [[*again, *(["--allow-code", str(code)] if code else [])], ["hwnas", "select", str(run.folder)]]
    if _tested(run) and selection.best is not None:
        commands.append(["hwnas", "export", str(run.folder), selection.best.trial.arch_id])
    return tuple(shlex.join(words) for words in commands)


def _flat(data: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Flattens nested plain data to dotted names; long values are cut."""
    if isinstance(data, Mapping) and data:
        return [pair for key, value in data.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(data, list | tuple):
        text = ", ".join(str(item) for item in data)
    else:
        text = "" if data is None else str(data)
    return [(prefix, text if len(text) <= 300 else text[:299] + "…")] if prefix and text and text != "{}" else []


def _yaml(data: Mapping[str, Any]) -> str:
    import io

    from ruamel.yaml import YAML

    writer = YAML()
    writer.width = 120
    stream = io.StringIO()
    writer.dump(dict(data), stream)
    return stream.getvalue()


def _hovers(run: RunData) -> dict[str, tuple[str, ...]]:
    texts = {f"t{trial.number}": _hover(run, trial, f"Trial {trial.number}") for trial in run.rows}
    title = "Verified" if run.trained else "On the front"
    return texts | {f"v{trial.number}": _hover(run, trial, title) for trial in run.verified}


def _hover(run: RunData, trial: Trial, title: str) -> tuple[str, ...]:
    lines = [f"{title} · {trial.arch_id}" if trial.arch_id else title]
    if trial.test.value is not None:
        lines.append(f"{label('top1_test')} {format_tests(trial.test, trial.tests)}")
    for metric in run.metrics:
        reading = trial.reading(metric)
        if reading.value is not None:
            source = "" if reading.source == "measured" else f", {reading.source}"
            lines.append(f"{label(metric)} {format_reading(metric, reading, interval=True)}{source}")
    if trial.reason:
        lines.append(trial.reason)
    return (*lines, *_wrapped(_decided(trial.decisions)))


def _wrapped(text: str, width: int = 64, most: int = 9) -> list[str]:
    import textwrap

    lines = textwrap.wrap(text, width)
    return lines if len(lines) <= most else [*lines[:most], "…"]


def agreement_rows(agreement: Agreement) -> tuple[tuple[str, str, str], ...]:
    """Returns the figures of a comparison: (name, of the predictions, of measurements taken twice)."""
    again = agreement.again
    figures: tuple[tuple[str, Callable[[Closeness], str]], ...] = (
        ("Networks", lambda close: str(close.count)),
        ("Rank correlation (Spearman)", lambda close: "-" if close.spearman is None else f"{close.spearman:.3f}"),
        ("Mean error", lambda close: f"{100 * close.mape:.1f} %"),
        ("Within 5 %", lambda close: f"{100 * close.within_five:.0f} %"),
        ("Within 10 %", lambda close: f"{100 * close.within_ten:.0f} %"),
        ("Half-width of the 90 % interval", lambda close: f"{100 * close.half_width:.1f} %"),
    )
    rows = [(name, said(agreement.predicted), "-" if again is None else said(again)) for name, said in figures]
    return (*rows, ("Measured inside that interval", f"{100 * agreement.covered:.0f} %", "-"))


def screened_text(run: RunData) -> str:
    """Says what the cost model refused; empty where that is nothing."""
    count = len(run.screened)
    if not count:
        return ""
    them = "it was neither measured nor trained" if count == 1 else "they were neither measured nor trained"
    return f"Refused by the cost model: {counted(count, 'network')}; {them}."
