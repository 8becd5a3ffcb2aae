"""Assembles the report: one HTML file that needs nothing but a browser."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..files import write_text
from ..run_data import RunData
from .agreement import Agreement
from .figures import CONFIG, PALETTES, agreement_figure, front_figure, progress_figure
from .info import Card, Cell, FailureRow, FrontRow, Headline, PageInfo, agreement_rows, page_info
from .markup import Markup, element, embed, join

__all__ = ["render", "write_report"]


def write_report(run: RunData, path: Path | str) -> Path:
    """Writes the page of a run, whole or not at all.

    Args:
        run: the run.
        path: the file to write, usually `report.html` in the run folder (links to model files are relative to it).

    Returns:
        The path written.

    Raises:
        DiskError: the file cannot be written.
    """
    path = Path(path)
    write_text(path, render(run))
    return path


def render(run: RunData) -> str:
    """Returns the page as text."""
    info = page_info(run)
    style = Markup(files(__package__).joinpath("page.css").read_text(encoding="utf-8"))
    scripts = [Markup(_plotly()), Markup(files(__package__).joinpath("page.js").read_text(encoding="utf-8"))]
    head = join(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", f"{info.name}: hwnas report"),
        element("link", rel="icon", href="data:,"),
        element("style", style),
    )
    data = element("script", embed(_drawings(info)), type="application/json", id="figures")
    body = join(_body(info), data, *(element("script", script) for script in scripts))
    return f"<!doctype html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # The browser hashes what its parser sees: line ends normalised.
    return str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n")


def _policy(scripts: list[Markup]) -> str:
    """Returns a policy under which only these scripts run and nothing is loaded or sent.

    Plotly sets style attributes, hence `unsafe-inline` for styles; its image download needs `data:` and `blob:`.
    """
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:;"
        " base-uri 'none'; form-action 'none'"
    )


def _drawings(info: PageInfo) -> dict[str, Any]:
    figures = {f"front-{index}": front_figure(view) for index, view in enumerate(info.views)}
    figures |= {f"agreement-{index}": agreement_figure(item) for index, item in enumerate(info.agreements)}
    if info.progress is not None:
        figures["progress"] = progress_figure(info.progress)
    # Plotly reads a little HTML in hover texts: escape twice, once for it and once for the script element.
    hovers = {key: "<br>".join(join(line) for line in lines) for key, lines in info.hovers.items()}
    return {"figures": figures, "hovers": hovers, "palettes": PALETTES, "config": CONFIG}


def _body(info: PageInfo) -> Markup:
    return join(
        element("header", _title(info), class_="top"),
        element(
            "main",
            _headline(info.headline),
            _front_section(info),
            _table_section(info),
            _refused_section(info),
            _progress_section(info),
            _agreement_section(info),
            _failure_section(info),
            _glossary_section(info),
            _reproduce_section(info),
        ),
        element("footer", "Made by hwnas. This page is one file: it loads nothing and sends nothing."),
    )


def _title(info: PageInfo) -> Markup:
    counts = join(
        *(element("li", element("b", f"{count.value:,}"), " ", count.name) for count in info.counts),
    )
    return join(
        element("p", "hwnas report", class_="kicker"),
        element("h1", info.name),
        element("ul", counts, class_="counts"),
    )


def _section(name: str, title: str, *content: str | None) -> Markup:
    return element("section", element("h2", title), *content, id=name)


def _headline(headline: Headline) -> Markup:
    return element(
        "section",
        element("h2", headline.answer, class_="answer"),
        element("p", headline.reason, class_="lead"),
        element("div", *(_card(card) for card in headline.cards), class_="cards") if headline.cards else None,
        _list("What would help:", headline.relaxations),
        *(element("p", f"Note: {note}.", class_="note") for note in headline.notes),
        id="answer",
        class_="headline" if headline.cards else "headline empty",
    )


def _list(title: str, lines: tuple[str, ...]) -> Markup | None:
    if not lines:
        return None
    return join(element("p", title), element("ul", *(element("li", line) for line in lines)))


def _card(card: Card) -> Markup:
    rows = (element("div", element("dt", name), element("dd", value)) for name, value in card.figures)
    link = element("a", "model.onnx", href=card.model) if card.model else None
    return element(
        "article",
        element("h3", ", ".join(card.roles)),
        element("p", element("code", card.arch_id), f" trial {card.number}", link and join(" · ", link), class_="id"),
        element("dl", *rows),
        *(element("p", reason) for reason in card.reasons),
        class_="card",
    )


def _front_section(info: PageInfo) -> Markup:
    first = info.views[0]
    options = (element("option", view.title, value=f"front-{index}") for index, view in enumerate(info.views))
    picker = element("label", "Show ", element("select", *options, id="view")) if len(info.views) > 1 else None
    zoom = element(
        "span",
        element("button", "All trials", type="button", data_zoom="all", aria_pressed="true"),
        element("button", "The front", type="button", data_zoom="front", aria_pressed="false"),
        class_="switch",
        id="zoom",
        hidden=None if first.zoom else "hidden",
    )
    front = "verified front" if info.trained else "front"
    drawn = f"members of the {front}" if info.verified else "the front so far, which is not verified"
    caption = (
        f"Large points: {drawn}, with the line they reach. Filled: measured. Hollow: ~predicted or"
        " ~estimated. Bars: 90 % intervals. Shaded: outside a limit. Point at a trial for its readings and decisions."
    )
    return _section(
        "front",
        "The front",
        element("div", picker, zoom, class_="controls"),
        _figure("front-0", first.title),
        element("p", caption, class_="caption"),
        *(_placement(info, index) for index in range(len(info.views))),
    )


def _placement(info: PageInfo, index: int) -> Markup:
    lines = (info.placements[index], *info.views[index].notes)
    texts = (element("p", line, class_="caption") for line in lines)
    return element("div", *texts, data_view=f"front-{index}", hidden="hidden" if index else None)


def _figure(name: str, title: str) -> Markup:
    return join(
        element("div", "", class_="figure", data_figure=name, role="img", aria_label=title),
        element("noscript", element("p", "The figures need JavaScript; the tables below hold the same numbers.")),
    )


def _table_section(info: PageInfo) -> Markup | None:
    front = "verified front" if info.trained else "front"
    title = f"Networks of the {front}" if info.verified else "Networks of the front so far, not verified"
    if not info.table:
        return _section("table", title, element("p", "There is none yet."))
    names = ["Network", *info.columns]
    heads = [element("th", element("button", name, type="button"), scope="col") for name in names]
    with_files = any(row.files for row in info.table)
    if with_files:
        heads.append(element("th", "Files", scope="col", class_="files"))
    table = element(
        "table",
        element("thead", element("tr", *heads)),
        element("tbody", *(_row(row, with_files) for row in info.table)),
        class_="sortable",
    )
    return _section("table", title, element("div", table, class_="scroll"))


def _row(row: FrontRow, with_files: bool) -> Markup:
    badges = (element("span", role, class_="badge") for role in row.roles)
    links = (element("a", name, href=path) for name, path in row.files)
    decisions = element("details", element("summary", f"trial {row.number}, decisions"), element("p", row.decisions))
    return element(
        "tr",
        element("th", element("code", row.arch_id), decisions, *badges, scope="row"),
        *(_number(cell) for cell in row.cells),
        element("td", *links, class_="files") if with_files else None,
    )


def _number(cell: Cell) -> Markup:
    order = None if cell.order is None else repr(cell.order)
    return element("td", cell.text, element("small", cell.interval) if cell.interval else None, data_value=order)


def _progress_section(info: PageInfo) -> Markup | None:
    if info.progress is None:
        return None
    caption = element("p", info.progress.text, class_="caption")
    return _section("progress", "Progress of the search", _figure("progress", "Progress of the search"), caption)


def _agreement_section(info: PageInfo) -> Markup | None:
    if not info.agreements and not info.screened:
        return None
    parts = [element("p", info.screened)] if info.screened else []
    for index, item in enumerate(info.agreements):
        by = f"Predicted by {' and '.join(item.models)}. " if item.models else ""
        caption = (
            f"{by}Each network was predicted before it was measured for the first time. Hollow points with bars: the"
            " prediction and its 90 % interval. Beside it, what a second measurement differs by: the finalists alone,"
            " measured in the search and again in the verification. Both have noise: a perfect model could be nearer."
        )
        parts += [element("h3", item.title), _figure(f"agreement-{index}", f"{item.title}: predicted over measured")]
        parts += [element("p", caption, class_="caption"), element("div", _agreement(item), class_="scroll")]
    return _section("agreement", "Predicted against measured", *parts)


def _agreement(item: Agreement) -> Markup:
    heads = (element("th", name, scope="col") for name in ("", "Predicted", "Measured again"))
    rows = (
        element("tr", element("th", name, scope="row", class_="text"), element("td", said), element("td", again))
        for name, said, again in agreement_rows(item)
    )
    return element("table", element("thead", element("tr", *heads)), element("tbody", *rows))


def _failure_section(info: PageInfo) -> Markup:
    title = "Trials without a result"
    if not info.failures:
        return _section("failures", title, element("p", "None: every finished trial was completed."))
    head = element(
        "tr",
        element("th", "Reason", scope="col"),
        element("th", "Trials", scope="col"),
        element("th", "For example", scope="col", class_="text"),
    )
    table = element("table", element("thead", head), element("tbody", *(_failure(row) for row in info.failures)))
    return _section("failures", title, element("div", table, class_="scroll"))


def _refused_section(info: PageInfo) -> Markup | None:
    if not info.refused:
        return None
    heads = (element("th", name, scope="col", class_="text") for name in ("Network", "Reason"))
    rows = (
        element(
            "tr",
            element("th", element("code", arch_id), element("small", f"trial {number}"), scope="row", class_="text"),
            element("td", f"refused: {reason}", class_="text"),
        )
        for arch_id, number, reason in info.refused
    )
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    return _section("refused", "Finalists that were refused", element("div", table, class_="scroll"))


def _failure(row: FailureRow) -> Markup:
    some = ", ".join(str(number) for number in row.numbers[:12]) + (", …" if len(row.numbers) > 12 else "")
    return element(
        "tr",
        element("th", row.reason, element("small", row.meaning) if row.meaning else None, scope="row", class_="text"),
        element("td", str(len(row.numbers))),
        element(
            "td",
            row.example,
            element("small", f"{'trial' if len(row.numbers) == 1 else 'trials'} {some}"),
            class_="text",
        ),
    )


def _glossary_section(info: PageInfo) -> Markup:
    rows = (element("div", element("dt", name), element("dd", text)) for name, text in info.glossary)
    return _section("glossary", "What each number means", element("dl", *rows, class_="facts"))


def _reproduce_section(info: PageInfo) -> Markup:
    facts = (element("div", element("dt", fact.name), element("dd", fact.value)) for fact in info.facts)
    return _section(
        "reproduce",
        "How to run it again",
        element("pre", "\n".join(info.commands)),
        element("p", "The same study, seed and versions give the same trials.", class_="caption"),
        element("details", element("summary", "Study file, every default written out"), element("pre", info.study)),
        element(
            "details", element("summary", "Versions, devices, data"), element("dl", *facts, class_="facts"), open=""
        )
        if info.facts
        else None,
    )
