"""The answer: which network to ship, and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from hwnas.search.metrics import Limit, Reading
from hwnas.search.quantities import format_reading, format_value
from hwnas.search.run_data import RunData
from hwnas.search.selection import choose
from hwnas.spaces.errors import DataError, UsageError

RunMaker = Callable[..., RunData]
LATENCY = "latency_ms@cpu"


def limits(*texts: str) -> tuple[Limit, ...]:
    return tuple(Limit.parse(text) for text in texts)


def tiny(
    make_run: RunMaker, *rows: tuple[float, float, float, float], source: str = "measured", **options: Any
) -> RunData:
    """A run whose completed trials have (top1, latency, latency's upper end, size)."""

    def edit(all_rows: list[dict[str, Any]]) -> None:
        for row, (top1, latency, high, size) in zip(all_rows, rows, strict=True):
            row |= {"state": "complete", "reason": None, "feasible": True}
            row |= {"top1": top1, "top1.low": top1, "top1.high": top1, "top1.source": "measured"}
            row |= {LATENCY: latency, f"{LATENCY}.low": latency, f"{LATENCY}.high": high, f"{LATENCY}.source": source}
            row |= {"size_mb": size, "size_mb.low": size, "size_mb.high": size, "size_mb.source": "computed"}

    return make_run(trials=len(rows), verified=False, edit=edit, **options)


FOUR = ((0.90, 1.0, 1.1, 0.10), (0.955, 1.2, 1.3, 0.20), (0.970, 2.0, 2.1, 0.30), (0.975, 4.0, 4.2, 0.60))


def test_best_inside_the_limits(make_run: RunMaker) -> None:
    run = tiny(make_run, *FOUR)
    selection = choose(run, limits("latency_ms@cpu <= 2.5"))
    assert selection.best is not None and selection.best.trial.number == 2 and selection.best.certain
    assert (selection.candidates, selection.certain, selection.middle) == (4, 3, 3)
    assert "highest top1 of the 3 networks" in selection.best.reason
    assert selection.among == "completed trials" and "not verified" in selection.notes[0]


def test_no_limits_takes_the_best_of_all(make_run: RunMaker) -> None:
    selection = choose(tiny(make_run, *FOUR), ())
    assert selection.best is not None and selection.best.trial.number == 3
    assert selection.knee is not None and selection.knee.trial.number == 1
    assert selection.smallest is not None and selection.smallest.trial.number == 2
    assert "1 %" in selection.smallest.reason and "file size 50 % lower" in selection.smallest.reason


@pytest.mark.parametrize(
    ("rows", "bounds", "says"),
    [
        (FOUR[:1], (), "Chosen among 1 network (completed trials)."),
        (FOUR[:1], ("size_mb <= 1",), "1 of 1 network fits (completed trials)."),
        (FOUR, ("size_mb <= 0.1",), "1 of 4 networks fits (completed trials)."),
        (FOUR, ("size_mb <= 0.2",), "2 of 4 networks fit (completed trials)."),
    ],
)
def test_one_network_is_not_several(
    make_run: RunMaker, rows: tuple[tuple[float, float, float, float], ...], bounds: tuple[str, ...], says: str
) -> None:
    assert says in choose(tiny(make_run, *rows), limits(*bounds)).lines()


def test_nothing_is_chosen_by_the_test_part() -> None:
    with pytest.raises(UsageError, match=r"nothing is chosen by 'top1_test'.*write top1"):
        Limit.parse("top1_test >= 0.9")


def test_limits_are_judged_by_the_worse_end(make_run: RunMaker) -> None:
    selection = choose(tiny(make_run, *FOUR), limits("latency_ms@cpu <= 2.05"))
    assert selection.best is not None and selection.best.trial.number == 1
    assert "is better by 1.5 points, but is not surely inside: Latency on cpu may be 2.10 ms" in selection.best.reason


def test_only_the_middle_value_holds(make_run: RunMaker) -> None:
    selection = choose(tiny(make_run, *FOUR), limits("latency_ms@cpu <= 1.05"))
    assert selection.best is not None and not selection.best.certain and selection.best.trial.number == 0
    assert "Only the middle value holds: Latency on cpu may be 1.10 ms, the limit is 1.05 ms" in selection.best.reason
    assert (selection.certain, selection.middle) == (0, 1)


def test_nothing_fits_names_the_smallest_relaxations(make_run: RunMaker) -> None:
    selection = choose(tiny(make_run, *FOUR), limits("latency_ms@cpu <= 0.5", "size_mb <= 0.25"))
    assert selection.best is None and selection.picks == ()
    first, second = selection.relaxations
    assert str(first.relaxed) == "latency_ms@cpu <= 1.1" and first.trial is not None and first.trial.number == 0
    assert first.by == pytest.approx(0.6) and "relax it to 1.1 (by 0.600 ms, 120 % more room)" in first.text
    assert second.relaxed is None and "lets nothing in" in second.text
    assert any(line.startswith("Nothing fits") for line in selection.lines())


def test_a_limit_from_below_is_relaxed_downwards(make_run: RunMaker) -> None:
    selection = choose(tiny(make_run, *FOUR), limits("top1 >= 0.99"))
    assert str(selection.relaxations[0].relaxed) == "top1 >= 0.975"
    assert "by 1.5 points" in selection.relaxations[0].text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bound=st.floats(0.01, 5), size=st.floats(0.001, 0.7))
def test_an_offered_relaxation_does_what_it_says(make_run: RunMaker, bound: float, size: float) -> None:
    run = make_run()
    asked = limits(f"latency_ms@cpu <= {bound}", f"size_mb <= {size}")
    selection = choose(run, asked)
    assert (selection.best is None) == bool(selection.relaxations)
    for relaxation in selection.relaxations:
        if relaxation.relaxed is not None:
            others = tuple(limit for limit in asked if limit != relaxation.limit)
            eased = choose(run, (*others, relaxation.relaxed))
            assert eased.best is not None and eased.best.certain
    for pick in selection.picks:
        assert all(limit.violation(pick.trial.value(str(limit.metric)) or 0.0) <= 0 for limit in asked)


def test_the_verified_front_is_preferred(make_run: RunMaker) -> None:
    run = make_run()
    selection = choose(run, run.limits)
    assert selection.among == "verified front" and selection.candidates == len(run.verified)
    assert selection.best is not None and selection.best.trial.test.value is not None
    assert selection.notes == ()


def test_unverified_trials_that_would_fit_are_named(make_run: RunMaker) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        small = next(row for row in rows if row["state"] == "complete")
        small |= {"size_mb": 0.0001, "size_mb.low": 0.0001, "size_mb.high": 0.0001, "feasible": False}

    selection = choose(make_run(edit=edit), limits("size_mb <= 0.0002"))
    assert selection.best is None and "1 trial of the search holds these limits" in selection.notes[0]


def test_predictions_carry_a_tilde(make_run: RunMaker) -> None:
    text = "\n".join(choose(tiny(make_run, *FOUR, source="predicted"), ()).lines())
    assert "Latency on cpu ~4.00 ms" in text and "top1 97.5 %" in text


def test_one_objective(make_run: RunMaker) -> None:
    run = tiny(make_run, *FOUR, objectives=((LATENCY, "minimize"),))
    selection = choose(run, ())
    assert selection.best is not None and selection.best.trial.number == 0 and selection.knee is None


def test_nothing_completed(make_run: RunMaker) -> None:
    selection = choose(make_run(trials=0, verified=False), limits("size_mb <= 1"))
    assert selection.best is None and selection.relaxations == ()
    assert any("no trial has been completed" in note for note in selection.notes)


def test_unknown_metric_in_a_limit_is_refused(make_run: RunMaker) -> None:
    with pytest.raises(UsageError, match=r"no 'latency_ms@cpx' \(did you mean 'latency_ms@cpu'"):
        choose(make_run(), limits("latency_ms@cpx <= 1"))


def test_json_form(make_run: RunMaker) -> None:
    run = make_run()
    data = json.loads(json.dumps(choose(run, run.limits).to_dict(), allow_nan=False))
    assert data["schema_version"] == 1
    assert set(data["best"]["metrics"]) == set(run.metrics)
    assert data["best"]["metrics"][LATENCY]["source"] == "measured"


def test_a_model_file_is_named_where_there_is_one(make_run: RunMaker) -> None:
    run = make_run()
    best = choose(run, ()).best
    assert best is not None and best.model == ""
    file = run.folder / "artifacts" / best.trial.arch_id / "model.onnx"
    file.parent.mkdir(parents=True)
    file.touch()
    again = choose(run, ()).best
    assert again is not None and run.folder / again.model == file


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("top1", 0.9722, "97.2 %"),
        ("top1", 73.512, "73.51"),
        ("latency_ms@pi5", 0.04159, "0.0416 ms"),
        ("latency_ms@pi5", 1234.5, "1,234 ms"),
        ("size_mb", 0.0, "0 MB"),
        ("params", 999, "999"),
        ("params", 40_400, "40.4 k"),
        ("macs", 2.5e9, "2.50 G"),
        ("energy_mj@pi5", 0.00001, "1.00e-05 mJ"),
    ],
)
def test_values_are_written_for_people(metric: str, value: float, text: str) -> None:
    assert format_value(metric, value) == text


def test_a_missing_reading_is_none_and_no_zero() -> None:
    assert format_reading("latency_ms@cpu", Reading.missing()) == "none"


def save(run: RunData, folder: Path) -> Path:
    from ruamel.yaml import YAML

    folder.mkdir(exist_ok=True)
    with (folder / "study.yaml").open("w") as stream:
        YAML().dump(run.study, stream)
    (folder / "environment.json").write_text(json.dumps(run.environment))
    texts = [name for name in run.trials.columns if run.trials[name].dtype in ("object", "str")]
    run.trials.astype(dict.fromkeys(texts, "string")).to_parquet(folder / "trials.parquet")  # nulls become pandas.NA
    if run.front is not None:
        run.front.to_parquet(folder / "front.parquet")
    (folder / "events.jsonl").write_text('{"event": "ask", "number": 0}\n{"event": "te')
    return folder


def test_a_run_folder_is_read_back(make_run: RunMaker, tmp_path: Path) -> None:
    run = make_run()
    again = RunData.load(save(run, tmp_path / "run"))
    assert again.rows == run.rows and again.verified == run.verified
    assert again.study == run.study and again.environment == run.environment
    assert again.events == ({"event": "ask", "number": 0},)
    assert again.objectives == (("top1", "maximize"), (LATENCY, "minimize"))
    assert again.metrics[:4] == ("top1", LATENCY, "macs", "params")


@pytest.mark.parametrize("missing", [None, "study.yaml", "trials.parquet"])
def test_a_folder_that_is_no_run_is_bad_usage(make_run: RunMaker, tmp_path: Path, missing: str | None) -> None:
    folder = tmp_path / "absent"
    if missing:
        (save(make_run(), folder) / missing).unlink()
    with pytest.raises(UsageError) as caught:
        RunData.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("trials.parquet", b"PAR1 not really"),
        ("trials.parquet", b""),
        ("front.parquet", b"\0" * 100),
        ("environment.json", b"{"),
        ("environment.json", b"[1]"),
        ("study.yaml", b"- a list"),
        ("study.yaml", b"a: [1"),
        ("study.yaml", b"name: x\nobjectives: 3\n"),
        ("study.yaml", b"objectives: [{metric: top1, direction: up}]\n"),
        ("study.yaml", b"objectives: [{metric: top1, direction: maximize}]\nlimits: [nonsense]\n"),
    ],
)
def test_a_spoiled_file_is_named(make_run: RunMaker, tmp_path: Path, file: str, content: bytes) -> None:
    folder = save(make_run(), tmp_path / "run")
    (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=str(folder / file)) as caught:
        RunData.load(folder)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 65


def test_a_parquet_that_is_no_table_of_trials_is_named(make_run: RunMaker, tmp_path: Path) -> None:
    folder = save(make_run(), tmp_path / "run")
    pd.DataFrame({"number": [1]}).to_parquet(folder / "trials.parquet")
    with pytest.raises(DataError, match=r"trials\.parquet: columns arch_id, .* missing"):
        RunData.load(folder)
    run = make_run()
    run.trials.assign(state="sleeping").to_parquet(folder / "trials.parquet")
    with pytest.raises(DataError, match=r"trials\.parquet: row 0 is not a trial: unknown state 'sleeping'"):
        RunData.load(folder)
