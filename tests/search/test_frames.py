"""The tables of a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pyarrow.parquet as pq
import pytest
from optuna.trial import FrozenTrial, TrialState

from hwnas.profilers import Measurement
from hwnas.search.files import write_json
from hwnas.search.frames import Row, front_of, rows_of, samples_of, table_of, write_parquet
from hwnas.search.metrics import Limit, Metric, Reading
from hwnas.search.outcome import Outcome, share_reading, violations
from hwnas.search.storage import OUTCOME
from hwnas.search.study_schema import StudySpec
from hwnas.spaces.errors import DataError, DiskError

LIMITS = [Limit.parse("latency_ms@cpu <= 2")]
OBJECTIVES = [Metric.parse("top1"), Metric.parse("latency_ms@cpu")]


def trial(
    number: int,
    top1: float | None,
    latency: float | None,
    state: TrialState = TrialState.COMPLETE,
    reason: str = "",
    source: Any = "measured",
) -> FrozenTrial:
    readings = {}
    if top1 is not None:
        readings["top1"] = Reading(top1)
    if latency is not None:
        readings["latency_ms@cpu"] = Reading(latency, 0.9 * latency, 1.1 * latency, source)
    told = Outcome(state.name.lower(), readings, reason, {"train": 1.0, "measure": 0.5})  # type: ignore[arg-type]
    attrs: dict[str, Any] = {"arch_id": f"{number:016x}", "arch": json.dumps({"space": "s", "decisions": {}})}
    if state != TrialState.RUNNING:
        attrs[OUTCOME] = told.to_dict()
    values = [top1, latency] if state == TrialState.COMPLETE else None
    found = optuna.trial.create_trial(state=state, values=values, user_attrs=attrs)  # type: ignore[arg-type]
    found.number = number
    return found


def spec() -> StudySpec:
    return StudySpec.model_validate(
        {
            "version": 1,
            "name": "frames",
            "space": {"use": "mobile"},
            "data": {"use": "digits"},
            "devices": {"cpu": {}},
            "objectives": ({"metric": "top1"}, {"metric": "latency_ms@cpu"}),
            "limits": ("latency_ms@cpu <= 2",),
        }
    )


TRIALS = [
    trial(0, 0.9, 1.0),
    trial(1, 0.8, 1.5),  # dominated by 0
    trial(2, 0.99, 3.0),  # breaks the limit
    trial(3, 0.95, 1.9),
    trial(4, None, 5.0, TrialState.PRUNED, "infeasible: latency_ms@cpu ~5, limit <= 2", "predicted"),
    trial(5, None, None, TrialState.FAIL, "timeout"),
    trial(6, None, None, TrialState.RUNNING),
    trial(7, 0.5, 0.5, TrialState.PRUNED, "rung 1 of 2: not among the best 50%"),
]


def test_the_front_is_complete_feasible_and_not_dominated() -> None:
    assert front_of(rows_of(TRIALS, LIMITS), OBJECTIVES) == {0, 3}
    assert front_of(rows_of(TRIALS, []), OBJECTIVES) == {0, 2, 3}
    assert front_of([], OBJECTIVES) == set()


def test_a_trial_that_was_cut_off_while_it_was_told_is_running() -> None:
    cut = trial(0, 0.9, 1.0)
    cut.state = TrialState.RUNNING
    row = Row(cut, LIMITS)
    assert row.outcome.state == "running" and not row.counts and not row.feasible


def test_the_table_of_trials() -> None:
    table = table_of(rows_of(TRIALS, LIMITS), spec()).set_index("number")
    assert list(table["state"]) == ["complete"] * 4 + ["pruned", "fail", "running", "pruned"]
    assert list(table["feasible"]) == [True, True, False, True, False, False, False, True]
    assert list(table.index[table["on_front"]]) == [0, 3]
    assert table.loc[4, "latency_ms@cpu.source"] == "predicted"
    missing = table.isna()
    assert table.loc[5, "latency_ms@cpu.source"] == "missing" and missing.loc[5, "latency_ms@cpu"]
    assert table.loc[5, "reason"] == "timeout" and missing.loc[0, "reason"]
    assert table.loc[0, "seconds"] == 1.5 and missing.loc[6, "seconds"]
    assert {"params", "macs", "size_mb", "peak_memory_mb"} <= set(table.columns)


def test_an_empty_table_has_the_same_types(tmp_path: Path) -> None:
    empty, full = table_of([], spec()), table_of(rows_of(TRIALS, LIMITS), spec())
    assert list(empty.dtypes) == list(full.dtypes) and list(empty.columns) == list(full.columns)
    write_parquet(full, tmp_path / "trials.parquet", schema_version=1)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "trials.parquet"), full)
    assert json.loads(pq.read_schema(tmp_path / "trials.parquet").metadata[b"hwnas"]) == {"schema_version": 1}


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(pd.DataFrame({"a": [1]}), path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hwnas.search.files.os.fsync", full)
    with pytest.raises(DiskError, match=r"t\.parquet: no space left"):
        write_parquet(pd.DataFrame({"a": [2]}), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_every_raw_sample_is_kept(tmp_path: Path) -> None:
    assert samples_of(tmp_path).empty
    kept = Measurement(((1.0, 1.1), (1.2, 1.3, 1.4)), process=7)
    for arch_id, stem in (("a" * 16, "measurement"), ("a" * 16, "verified"), ("b" * 16, "measurement")):
        write_json(tmp_path / "artifacts" / arch_id / f"{stem}-cpu.json", kept.to_json())
    samples = samples_of(tmp_path)
    assert len(samples) == 15 and set(samples["phase"]) == {"search", "verify"}
    first = samples[(samples["arch_id"] == "a" * 16) & (samples["phase"] == "search")]
    assert list(first["ms"]) == [1.0, 1.1, 1.2, 1.3, 1.4]
    assert list(first["block"]) == [0, 0, 1, 1, 1] and list(first["iteration"]) == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"blocks": [[1.0, -1.0]]}', '{"blocks": [[NaN]]}'])
def test_a_corrupt_measurement_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "artifacts" / ("a" * 16) / "measurement-cpu.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(DataError, match=r"measurement-cpu\.json"):
        samples_of(tmp_path)


def test_an_outcome_survives_json() -> None:
    told = Outcome(
        "pruned", {"macs": Reading(5.0, source="computed")}, "why", {"train": 0.5}, (0.1,), ("aten::x",), {"epochs": 1}
    )
    again = Outcome.from_dict(json.loads(json.dumps(told.to_dict())))
    assert again.to_dict() == told.to_dict() and again.values(OBJECTIVES) is None


def test_a_complete_trial_has_all_its_objectives() -> None:
    with pytest.raises(ValueError, match="all its objectives"):
        Outcome("complete", {"top1": Reading(0.5), "latency_ms@cpu": Reading.missing()}).values(OBJECTIVES)


def test_a_share_has_an_interval_about_it_inside_0_and_1() -> None:
    for correct, total in ((0, 10), (10, 10), (5, 10), (359, 360)):
        reading = share_reading(correct, total)
        assert reading.value is not None and reading.low is not None and reading.high is not None
        assert 0 <= reading.low <= reading.value <= reading.high <= 1
    assert share_reading(50, 100).low == pytest.approx(0.4190, abs=5e-4)  # Wilson, 90 %: 0.5 -+ 0.0810


def test_violations_are_of_what_is_known() -> None:
    limits = [*LIMITS, Limit.parse("top1 >= 0.9"), Limit.parse("size_mb <= 1")]
    found = violations(limits, {"latency_ms@cpu": Reading(2.5), "top1": Reading(0.95), "size_mb": Reading.missing()})
    assert found == {"latency_ms@cpu <= 2": 0.5, "top1 >= 0.9": pytest.approx(-0.05)}
