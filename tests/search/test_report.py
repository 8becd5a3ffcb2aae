"""What the page decides and says; how it looks is tested in a browser."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwnas.search.report import render, write_report
from hwnas.search.report.agreement import agreements
from hwnas.search.report.figures import PALETTES, agreement_figure, front_figure, progress_figure
from hwnas.search.report.info import Count, agreement_rows, page_info
from hwnas.search.report.markup import Markup, element, embed
from hwnas.search.report.views import front_view, front_views, progress
from hwnas.search.run_data import RunData
from hwnas.spaces.errors import DiskError

RunMaker = Callable[..., RunData]
LATENCY = "latency_ms@cpu"
THREE = (("top1", "maximize"), (LATENCY, "minimize"), ("size_mb", "minimize"))
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no limits": {"limits": ()},
    "nothing feasible": {"limits": ("latency_ms@cpu <= 0.01",)},
    "nothing feasible, unverified": {"limits": ("latency_ms@cpu <= 0.01",), "verified": False},
    "one objective": {"objectives": (("top1", "maximize"),), "limits": ()},
    "three objectives": {"objectives": THREE, "limits": ("latency_ms@cpu <= 0.8", "size_mb <= 0.2")},
    "front not verified": {"verified": False},
    "no trial": {"trials": 0, "verified": False},
    "one trial": {"trials": 1, "verified": False},
}


@pytest.fixture(params=list(SHAPES))
def run(request: pytest.FixtureRequest, make_run: RunMaker) -> RunData:
    return make_run(**SHAPES[request.param])


def drawn(figure: dict[str, Any]) -> list[str]:
    """Keys of the trials that a figure draws."""
    return [key for trace in figure["data"] if trace.get("meta") == "trial" for key in trace["customdata"]]


def coloured(node: Any) -> Any:
    if isinstance(node, str):
        return PALETTES["light"].get(node, node)
    if isinstance(node, list):
        return [coloured(item) for item in node]
    return {key: coloured(value) for key, value in node.items()} if isinstance(node, dict) else node


def test_every_view_draws_every_trial_once(run: RunData) -> None:
    for view in front_views(run):
        assert view.trial_count == len(run.rows)
        assert sorted(drawn(front_figure(view))) == sorted(f"t{trial.number}" for trial in run.rows)


def test_plotly_knows_every_attribute_that_is_drawn(run: RunData) -> None:
    import plotly.graph_objects as go

    info = page_info(run)
    figures = [front_figure(view) for view in info.views] + [agreement_figure(item) for item in info.agreements]
    if info.progress is not None:
        figures.append(progress_figure(info.progress))
    for figure in figures:
        drawing = go.Figure(coloured({"data": figure["data"], "layout": figure["layout"]}))
        assert {trace.type for trace in drawing.data} <= {"scatter"}


def test_palettes_name_the_same_colours(run: RunData) -> None:
    assert PALETTES["light"].keys() == PALETTES["dark"].keys()
    text = json.dumps([front_figure(view) for view in front_views(run)])
    assert set(re.findall(r'"(@\w+)"', text)) <= PALETTES["light"].keys()


def test_page_is_one_quiet_file(run: RunData, tmp_path: Path) -> None:
    path = write_report(run, tmp_path / "report.html")
    text = html.unescape(path.read_text(encoding="utf-8"))
    assert text.count("plotly.js v") == 1
    assert "default-src 'none'" in text and "script-src 'sha256-" in text
    page = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"https?://|src=|@import|url\(", page)
    assert "parcoords" not in page and "scattergl" not in page
    assert list(tmp_path.iterdir()) == [path]


def test_placement_counts_every_trial(make_run: RunMaker) -> None:
    info = page_info(make_run())
    numbers = [int(number) for number in re.findall(r"(\d+) (?:of|rejected|failed|without)", info.placements[0])]
    assert sum(numbers) == 60 == info.counts[0].value
    assert sum(count.value for count in info.counts[1:] if "verified" not in count.name) == 60


def test_hollow_points_are_those_with_a_guess(make_run: RunMaker) -> None:
    run = make_run()
    view = front_view(run, LATENCY, "top1")
    trials = {f"t{trial.number}": trial for trial in run.rows}
    points = [point for _, points in view.groups for point in points]
    assert any(point.measured for point in points) and not all(point.measured for point in points)
    for point in points:
        assert point.measured == (trials[point.key].reading(LATENCY).source == "measured")
    symbols = [
        (key, symbol)
        for trace in front_figure(view)["data"]
        if trace.get("meta") == "trial" and "error_x" in trace
        for key, symbol in zip(trace["customdata"], trace["marker"]["symbol"], strict=True)
    ]
    measured = {point.key: point.measured for point in points}
    assert all(symbol.endswith("-open") != measured[key] for key, symbol in symbols)


def test_verified_points_have_bars_on_both_axes(make_run: RunMaker) -> None:
    view = front_view(make_run(), LATENCY, "top1")
    assert view.verified and all(point.measured for point in view.verified)
    for point in view.verified:
        assert point.x_ends[0] < point.x < point.x_ends[1] and point.y_ends[0] < point.y < point.y_ends[1]
    assert list(view.stairs) == sorted(view.stairs)
    assert [y for _, y in view.stairs] == sorted(y for _, y in view.stairs)


def test_limits_are_lines_where_they_can_be_and_notes_elsewhere(make_run: RunMaker) -> None:
    run = make_run(limits=("latency_ms@cpu <= 0.8", "size_mb <= 1", "top1 >= 0.9"))
    view = front_view(run, LATENCY, "top1")
    assert [(line.axis, line.above, line.text) for line in view.limits] == [
        ("x", True, "≤ 0.8 ms"),
        ("y", False, "≥ 90 %"),
    ]
    assert view.notes == ("size_mb <= 1 also holds, on neither of these axes.",)
    far = front_view(make_run(limits=("latency_ms@cpu <= 500",)), LATENCY, "top1")
    assert far.limits == () and "outside the figure" in far.notes[0]


def test_three_objectives_can_be_picked(make_run: RunMaker) -> None:
    views = front_views(make_run(objectives=THREE))
    assert [(view.x, view.y) for view in views][:2] == [(LATENCY, "top1"), ("size_mb", "top1")]
    assert (LATENCY, "size_mb") in [(view.x, view.y) for view in views]


def test_progress_grows(make_run: RunMaker) -> None:
    for options in ({}, {"objectives": THREE}, {"objectives": (("top1", "maximize"),)}):
        info = progress(make_run(**options))
        assert info is not None and list(info.values) == sorted(info.values)
        assert info.values[-1] > info.values[0] and list(info.numbers) == sorted(info.numbers)
    assert progress(make_run(trials=0, verified=False)) is None


def test_agreement_pairs_a_prediction_with_a_measurement(make_run: RunMaker) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["state"] == "complete":
                row |= {f"{LATENCY}.source": "predicted"}

    run = make_run(edit=edit)
    (found,) = agreements(run)
    assert len(found.pairs) == len(run.verified) and found.metric == LATENCY
    assert 0 < found.predicted.within_ten <= 1 and found.predicted.mape < 0.2 and found.again is None
    kept = run.trials.copy()
    kept[f"{LATENCY}.source"] = "measured"
    kept[f"{LATENCY}.predicted"] = kept[LATENCY] * 1.5
    (late,) = agreements(RunData(run.folder, run.study, run.environment, kept))
    assert late.predicted.mape == pytest.approx(0.5) and late.predicted.within_ten == 0
    assert agreements(make_run(trials=0, verified=False)) == ()


def test_agreement_stands_beside_the_noise(make_run: RunMaker) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["state"] == "complete":
                row |= {f"{LATENCY}.source": "measured"}

    run = make_run(edit=edit)
    kept = run.trials.copy()
    measured = kept[LATENCY].where(kept["state"] == "complete")
    kept[f"{LATENCY}.predicted"] = measured * 1.07
    kept[f"{LATENCY}.predicted.low"], kept[f"{LATENCY}.predicted.high"] = measured * 0.9, measured * 1.2
    kept[f"{LATENCY}.predicted.by"] = "additive"
    foretold = RunData(run.folder, run.study, run.environment, kept, run.front)
    (found,) = agreements(foretold)
    members = {trial.arch_id for trial in run.verified}
    assert found.models == ("additive",) and found.predicted.count == int((kept["state"] == "complete").sum())
    assert found.predicted.spearman is not None and found.predicted.spearman > 0.99
    assert found.again is not None and found.again.count == len(members)
    search = {trial.arch_id: trial.value(LATENCY) or 0.0 for trial in run.rows}
    errors = [abs(search[trial.arch_id] / (trial.value(LATENCY) or 0.0) - 1) for trial in run.verified]
    assert found.again.mape == pytest.approx(sum(errors) / len(errors))
    rows = {name: (said, again) for name, said, again in agreement_rows(found)}
    assert rows["Networks"] == (str(found.predicted.count), str(len(members)))
    assert rows["Within 10 %"][0] == f"{100 * found.predicted.within_ten:.0f} %"
    page = render(foretold)
    assert "Predicted by additive." in page and f"{100 * found.again.mape:.1f}" in page
    assert "the finalists alone, measured in" in page and "a perfect model could be nearer" in page
    assert agreement_figure(found)["data"][-1]["type"] == "scatter"


def test_the_page_says_what_the_cost_model_refused(make_run: RunMaker) -> None:
    run = make_run()
    refused = [row for row in run.rows if row.reason.startswith("infeasible")]
    assert refused and list(run.screened) == refused
    assert f"Refused by the cost model: {len(refused)} networks; they were neither measured nor trained." in render(run)
    kept = run.trials.assign(**{f"{LATENCY}.source": "measured"})
    measured = RunData(run.folder, run.study, run.environment, kept, run.front)
    assert measured.screened == () and "Refused by the cost model" not in render(measured)
    assert 'id="agreement"' not in render(measured)


def test_a_limit_is_written_in_the_unit_of_its_table(make_run: RunMaker) -> None:
    run = make_run(limits=("top1 >= 0.9",))
    told = {"tables": {"quality": {"own_unit": True}}}
    percent = RunData(run.folder, run.study, run.environment | told, run.trials, run.front)
    lines = [[line.text for line in front_view(each, LATENCY, "top1").limits] for each in (run, percent)]
    assert lines == [["≥ 90 %"], ["≥ 0.9"]]


def test_headline_says_what_to_ship(make_run: RunMaker) -> None:
    head = page_info(make_run()).headline
    assert re.match(r"Ship [0-9a-f]{16}: \d\d\.\d % on the test part and [\d.]+ ms on cpu", head.answer)
    assert {role for card in head.cards for role in card.roles} == {
        "Best inside the limits",
        "Knee of the front",
        "Smallest near the best",
    }
    early = page_info(make_run(verified=False)).headline
    assert early.answer.startswith("So far the best") and "not verified" in early.notes[0]
    none = page_info(make_run(limits=("latency_ms@cpu <= 0.01",))).headline
    assert none.answer == "Nothing fits the limits" and "relax it to" in none.relaxations[0]
    assert page_info(make_run(trials=0, verified=False)).headline.answer == "Nothing to ship yet"


def test_one_of_a_kind_is_not_several(make_run: RunMaker) -> None:
    run = make_run(trials=1, verified=False)
    info = page_info(run)
    assert info.counts[0] == Count("trial", 1)
    assert info.placements[0].startswith("1 of 1 trial has a point")
    assert info.headline.reason.startswith(("The one network", "No trial"))
    assert page_info(make_run(trials=2, verified=False)).counts[0] == Count("trials", 2)


def test_failures_are_grouped_by_reason(make_run: RunMaker) -> None:
    rows = page_info(make_run()).failures
    assert {row.reason for row in rows} >= {"infeasible: latency_ms@cpu", "rung 1"}
    assert all(row.meaning and row.numbers for row in rows)
    assert sum(len(row.numbers) for row in rows) == 60 - 44


def test_table_has_the_test_accuracy_and_the_files(make_run: RunMaker) -> None:
    run = make_run()
    folder = run.folder / "artifacts" / run.verified[0].arch_id
    folder.mkdir(parents=True)
    (folder / "model.onnx").touch()
    info = page_info(run)
    assert info.columns[:3] == ("top1 on test", "top1", "Latency on cpu (ms)")
    assert len(info.table) == len(run.verified)
    values = [row.cells[1].order or 0.0 for row in info.table]
    assert values == sorted(values, reverse=True)
    (row,) = [row for row in info.table if row.files]
    assert row.files == (("model.onnx", f"artifacts/{row.arch_id}/model.onnx"),)


def test_how_to_run_it_again(make_run: RunMaker) -> None:
    info = page_info(make_run())
    facts = {fact.name: fact.value for fact in info.facts}
    assert facts["versions.torch"] == "2.13.0" and facts["data.digest"] == "sha256:7d1c0c7f" and facts["seed"] == "0"
    assert info.commands[0].startswith("hwnas run ") and "objectives:" in info.study


def test_strings_cannot_become_markup(make_run: RunMaker) -> None:
    evil = "<script>alert(1)</script>"

    def edit(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row |= {"arch_id": evil, "arch": json.dumps({"decisions": {evil: evil}}), "reason": evil}

    run = make_run(edit=edit)
    hostile = RunData(run.folder, {**run.study, "name": evil}, {evil: evil}, run.trials, run.front)
    assert "<script>alert" not in render(hostile)
    text = embed({"a": "</script><!--"})
    assert "<" not in text and json.loads(text) == {"a": "</script><!--"}
    assert (
        element("a", evil, Markup("<b>"), href='"x') == '<a href="&quot;x">&lt;script&gt;alert(1)&lt;/script&gt;<b></a>'
    )


def test_a_folder_that_cannot_be_written_is_a_disk_error(make_run: RunMaker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match="cannot write"):
        write_report(make_run(trials=1, verified=False), tmp_path / "file" / "sub" / "report.html")


def test_trials_without_readings_are_drawn_too(make_run: RunMaker) -> None:
    run = make_run(verified=False)
    blank = run.trials.copy()
    for column in [str(name) for name in blank.columns]:
        if column.endswith(".source"):
            blank[column] = "missing"
            blank[column.removesuffix(".source")] = None
    states = pd.Series(["running", "fail", "complete", "pruned"] * 15)
    empty = RunData(run.folder, run.study, run.environment, blank.assign(state=states))
    (view, *_) = front_views(empty)
    assert view.trial_count == 60 and [strip.name for strip in view.strips] == ["no_x", "failed"]
    assert render(empty)
