"""Replay devices and tables of quality: what a table tells is read whole, checked, and searched like anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.search import tables
from hwnas.search.feasibility import check_limits
from hwnas.search.metrics import Limit
from hwnas.search.pareto import nondominated
from hwnas.search.quantities import format_difference, format_reading
from hwnas.search.run_data import RunData
from hwnas.search.selection import choose
from hwnas.search.study import Study
from hwnas.search.study_file import dump_study, load_study_text
from hwnas.search.tables import Tables, read_tables
from hwnas.spaces import Architecture, Space, enumerate_architectures, load_space
from hwnas.spaces.errors import DataError, InfeasibleError, StudyFileError, UsageError

from ..conftest import Hwnas

StudyFile = Callable[..., Path]

FIXED = {"edge01": "nor_conv_3x3", "edge02": "skip_connect", "edge12": "none"}
LATENCY, ENERGY = "latency_ms@board", "energy_mj@board"
SECTIONS: dict[str, object] = {
    "data": None,
    "space": {"use": "nasbench201", "params": FIXED},
    "quality": {"use": "table", "path": "quality.parquet", "column": "c100_test", "metric": "top1"},
    "devices": {"board": {"runtime": "replay", "table": "board.parquet"}},
    "objectives": [{"metric": "top1"}, {"metric": LATENCY}],
    "verify": None,
}
TEXT = """
version: 1
name: t
space: {use: nasbench201}
quality: {use: table, path: q.parquet, column: c100_test, metric: top1}
devices: {board: {runtime: replay, table: b.parquet}}
objectives: [{metric: top1, direction: maximize}, {metric: latency_ms@board, direction: minimize}]
"""


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("nasbench201", params=FIXED)


@pytest.fixture(scope="module")
def readings(space: Space) -> pd.DataFrame:
    """A made table of all 125 cells, the better the slower but for chance."""
    texts = [space.string_of(architecture) for architecture in enumerate_architectures(space)]
    worth = np.array([text.count("conv_3x3") + 0.5 * text.count("conv_1x1") for text in texts])
    rng = np.random.default_rng(0)
    quality = np.maximum(50 + 5 * worth + rng.normal(0, 3, len(texts)), 1.0)
    latency = 2 + worth + rng.uniform(0, 1, len(texts))
    return pd.DataFrame({"arch": texts, "c100_test": quality, LATENCY: latency.astype("float32"), ENERGY: 3 * latency})


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, study_file: StudyFile, readings: pd.DataFrame) -> Write:
    """Writes both tables (one replaced by `board`) and a study of them; keyword arguments replace its sections."""

    def written(board: pd.DataFrame | None = None, **sections: object) -> Path:
        readings[["arch", "c100_test"]].to_parquet(tmp_path / "quality.parquet")
        (readings if board is None else board).to_parquet(tmp_path / "board.parquet")
        return study_file(tmp_path, **{**SECTIONS, **sections})

    return written


def run(path: Path, *overrides: str) -> RunData:
    folder = path.parent / "run"
    Study.from_yaml(path, overrides, folder=folder).run()
    return RunData.load(folder)


def test_a_table_is_a_study_like_any_other(
    write: Write, hwnas: Hwnas, readings: pd.DataFrame, space: Space, children_of: Callable[[Path], list[int]]
) -> None:
    path = write(search={"trials": 20, "seed": 3, "sampler": "random"})
    done = hwnas("run", path, "--json", cwd=path.parent)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["trials"], told["verified"]) == (20, 0)
    folder = path.parent / "runs" / "tiny"
    assert not children_of(folder) and not (folder / "run.log").exists(), "no worker was started"
    found = RunData.load(folder)
    rows = readings.set_index("arch")
    for trial, text in zip(found.rows, pd.read_parquet(folder / "trials.parquet")["arch"], strict=True):
        row = rows.loc[space.string_of(Architecture.from_json(text))]
        assert trial.state == "complete" and trial.reading("top1").source == "measured"
        assert trial.value("top1") == row["c100_test"] and trial.value(LATENCY) == row[LATENCY]
    costs = np.array([[-(t.value("top1") or 0.0), t.value(LATENCY)] for t in found.rows])
    expected = {trial.arch_id for trial, kept in zip(found.rows, nondominated(costs), strict=True) if kept}
    assert {trial.arch_id for trial in found.verified} == expected
    assert {p.name for p in (folder / "artifacts").rglob("*") if p.is_file()} == {"arch.json"}

    more = hwnas("run", path, "search.trials=30", cwd=path.parent)
    assert more.returncode == 0, more.stderr
    assert "#29 of 30" in more.stdout and "#19 of" not in more.stdout and "not trained" in more.stdout
    for words in (("report", folder), ("select", folder, "top1 >= 55", f"{LATENCY} <= 6")):
        shown = hwnas(*words, cwd=path.parent)
        assert shown.returncode == 0 and "Traceback" not in shown.stderr, shown.stderr
    page = (folder / "report.html").read_text()
    assert "Networks of the front" in page and "Test accuracy" not in page and "erified front" not in page
    refused = hwnas("export", folder, told["front"][0]["arch_id"], cwd=path.parent)
    assert refused.returncode == 2 and "trained nothing" in refused.stderr


def test_two_halves_are_the_whole(write: Write) -> None:
    path = write(search={"trials": 12, "seed": 1, "sampler": "nsga2"}, limits=["top1 >= 56"])
    whole = run(path).trials
    (path.parent / "run").rename(path.parent / "whole")
    for trials in (5, 6, 12):
        parts = run(path, f"search.trials={trials}").trials
    same = ["number", "arch_id", "state", "reason", "top1", LATENCY, "feasible", "on_front"]
    pd.testing.assert_frame_equal(whole[same], parts[same])
    assert set(whole["state"]) == {"complete", "pruned"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, f"data: {LATENCY} has no value in board.parquet"),
        (np.inf, f"data: {LATENCY} has no value in board.parquet"),
        (0.0, f"data: {LATENCY} is 0 in board.parquet"),
        (-1.5, f"data: {LATENCY} is -1.5 in board.parquet"),
        (None, "data: the architecture is not in board.parquet"),
    ],
)
def test_what_a_table_lacks_is_a_failed_trial(
    write: Write, readings: pd.DataFrame, value: float | None, reason: str
) -> None:
    board = readings.iloc[::2] if value is None else readings.copy()
    if value is not None:
        board.loc[board.index % 2 == 1, LATENCY] = value
    found = run(write(board, search={"trials": 12, "sampler": "random"}))
    assert {trial.reason for trial in found.rows if trial.state == "fail"} == {reason}
    assert any(trial.state == "complete" for trial in found.rows)
    assert all((trial.value(LATENCY) or 0) > 0 for trial in found.verified)


def test_a_study_whose_trials_all_fail_says_why(write: Write, readings: pd.DataFrame) -> None:
    with pytest.raises(InfeasibleError, match=r"no trial of 1 could be completed.*not in board"):
        run(write(readings.iloc[-1:], search={"trials": 1, "sampler": "random"}))


def test_an_energy_that_is_only_tracked_may_be_missing(write: Write, readings: pd.DataFrame) -> None:
    found = run(write(readings.assign(**{ENERGY: np.nan}), track=[ENERGY], search={"trials": 3}))
    assert all(trial.state == "complete" and trial.value(ENERGY) is None for trial in found.rows)


def _garbled(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[:4] + bytes(len(raw) // 2) + raw[4 + len(raw) // 2 :])


def _unknown(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(arch=[text.replace("nor_conv_1x1", "nor_conv_2x2") for text in frame["arch"]])


def _latin1(path: Path, frame: pd.DataFrame) -> None:
    texts = pa.array([text.encode().replace(b"skip", b"sk\xefp") for text in frame["arch"]], pa.binary())
    found = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(found.set_column(0, "arch", texts.view(pa.string())), path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path, frame: path.unlink(), "no such file"),
        (lambda path, frame: path.write_bytes(b""), "not a readable parquet file"),
        (lambda path, frame: path.write_text("arch,latency\n"), "not a readable parquet file"),
        (lambda path, frame: path.write_bytes(path.read_bytes()[:-40]), "not a readable parquet file"),
        (lambda path, frame: _garbled(path), "not a readable parquet file"),
        (lambda path, frame: frame.iloc[:0].to_parquet(path), "has no rows"),
        (lambda path, frame: frame.drop(columns="arch").to_parquet(path), "column 'arch' is missing"),
        (lambda path, frame: frame.assign(arch=1).to_parquet(path), "column 'arch' holds int64: expected texts"),
        (lambda path, frame: frame.assign(arch=[None, *frame["arch"][1:]]).to_parquet(path), "row 1 has no 'arch'"),
        (lambda path, frame: pd.concat([frame, frame[:1]]).to_parquet(path), "rows 1 and 126 have the same 'arch'"),
        (lambda path, frame: _unknown(frame).to_parquet(path), r"row \d+: space 'nasbench201' has no .*did you mean"),
        (lambda path, frame: frame.astype({LATENCY: str}).to_parquet(path), "holds .*string: expected numbers"),
        (lambda path, frame: frame.assign(**{LATENCY: True}).to_parquet(path), "holds bool: expected numbers"),
        (lambda path, frame: _latin1(path, frame), r"not a readable parquet file \(.*codec"),
        (lambda path, frame: frame.assign(**{f"{LATENCY}.source": "guessed"}).to_parquet(path), "'guessed', no source"),
        (
            lambda path, frame: frame.assign(**{f"{LATENCY}.noisy": "False"}).to_parquet(path),
            "more than true and false",
        ),
        (lambda path, frame: frame.assign(**{LATENCY: np.nan}).to_parquet(path), "no architecture of the space has"),
    ],
)
def test_a_spoiled_table_is_corrupt_data(
    write: Write, readings: pd.DataFrame, spoil: Callable[[Path, pd.DataFrame], Any], says: str
) -> None:
    path = write()
    spoil(path.parent / "board.parquet", readings)
    with pytest.raises(DataError, match=f"board.parquet.*{says}|{says}.*board.parquet") as caught:
        run(path)
    assert "\n" not in str(caught.value) and not (path.parent / "run" / "trials.parquet").exists()


def test_a_column_that_is_not_there_is_told_where_it_is_named(write: Write, readings: pd.DataFrame) -> None:
    path = write(readings.rename(columns={LATENCY: "latency_ms@bord"}))
    with pytest.raises(StudyFileError, match=r"devices\.board\.table: .*did you mean 'latency_ms@bord'") as caught:
        run(path)
    assert caught.value.line == [line.split(":")[0] for line in path.read_text().splitlines()].index("devices") + 1
    with pytest.raises(StudyFileError, match=r"quality\.column: .*no column 'c10'"):
        run(write(), "quality.column=c10")


def test_another_table_ends_a_study_that_was_begun(write: Write, readings: pd.DataFrame) -> None:
    run(write(search={"trials": 2}))
    path = write(readings.assign(**{LATENCY: 1.0}), search={"trials": 2})
    with pytest.raises(DataError, match=r"board\.parquet .*\(devices\.board\) has changed since it began"):
        run(path, "search.trials=4")
    assert len(run(write(search={"trials": 2}), "search.trials=4").rows) == 4


def test_a_table_is_read_once(write: Write, monkeypatch: pytest.MonkeyPatch, readings: pd.DataFrame) -> None:
    asked: list[str] = []
    read = tables._read

    def noted(path: Path) -> bytes:
        asked.append(path.name)
        return read(path)

    monkeypatch.setattr(tables, "_read", noted)
    devices = {name: {"runtime": "replay", "table": "board.parquet"} for name in ("board", "two")}
    objectives = [{"metric": "top1"}, {"metric": LATENCY}, {"metric": "latency_ms@two"}]
    found = run(
        write(readings.assign(**{"latency_ms@two": 7.0}), devices=devices, objectives=objectives, search={"trials": 3})
    )
    assert sorted(asked) == ["board.parquet", "quality.parquet"]
    assert all(trial.value("latency_ms@two") == 7.0 for trial in found.rows)


def test_a_limit_is_held_against_the_whole_table(write: Write, readings: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match=r"top1 >= 99.*best of 125 architectures in .*quality\.parquet"):
        run(write(limits=["top1 >= 99"]))
    checked = Study.from_yaml(write(limits=[f"{LATENCY} <= 4", "top1 >= 55"]), folder=tmp_path / "check").check()
    held = [(readings[LATENCY] <= 4).sum(), (readings["c100_test"] >= 55).sum()]
    assert [limit.inside for limit in checked.limits] == held
    assert [probe.role for probe in checked.probes] == ["smallest", "middle", "largest"]
    assert [probe.readings[LATENCY].value for probe in checked.probes][::2] == [
        readings[LATENCY].min(),
        readings[LATENCY].max(),
    ]
    assert "125 architectures are in board.parquet and quality.parquet, 8 of 8 random ones" in checked.data


def test_params_narrow_what_a_table_has(write: Write, readings: pd.DataFrame) -> None:
    path = write(space={"use": "nasbench201", "params": {**FIXED, "edge03": "none"}}, search={"trials": 99})
    assert len(run(path).rows) == 25, "the space has no more"
    spec = Study.from_yaml(path).spec
    told = read_tables(spec, load_space("nasbench201", params=spec.space.params))
    [found] = check_limits([], [Limit.parse("top1 >= 55")], told)
    some = readings[[text.split("+")[2].startswith("|none~0") for text in readings["arch"]]]
    assert (found.inside, found.sampled) == ((some["c100_test"] >= 55).sum(), 25)


def test_a_study_of_two_devices_needs_neither_quality_nor_data(write: Write, readings: pd.DataFrame) -> None:
    sections = {"quality": None, "objectives": [{"metric": ENERGY}, {"metric": LATENCY}]}
    found = run(write(**sections, search={"trials": 4}))
    assert found.verified and all(trial.value(ENERGY) for trial in found.rows) and not found.trained


def test_percent_stays_percent(write: Write, readings: pd.DataFrame, tmp_path: Path) -> None:
    readings = readings.assign(c100_test=[1.0] * 124 + [70.0])
    worst = run(write(readings, search={"trials": 3}, quality=quality("board.parquet"))).rows[0].reading("top1")
    assert worst.own_unit and format_reading("top1", worst) == "1.00"
    (tmp_path / "run").rename(tmp_path / "percent")
    readings["c100_test"] /= 100
    share = run(write(readings, search={"trials": 3}, quality=quality("board.parquet"))).rows[0].reading("top1")
    assert not share.own_unit and format_reading("top1", share) == "1.0 %"
    assert format_difference("top1", 0.5, True) == "0.50" and format_difference("top1", 0.5) == "50.0 points"


def quality(path: str, column: str = "c100_test") -> dict[str, str]:
    return {"use": "table", "path": path, "column": column}


@pytest.mark.usefixtures("fake_machine")
def test_a_run_is_a_table(tmp_path: Path, study_file: StudyFile) -> None:
    objectives = [{"metric": "top1"}, {"metric": "latency_ms@cpu"}]
    path = study_file(tmp_path, objectives=objectives, search={"trials": 8, "sampler": "random"})
    first = run(path)
    (tmp_path / "run").rename(tmp_path / "first")
    devices = {"cpu": {"runtime": "replay", "table": "first/trials.parquet"}}

    trained = run(
        study_file(tmp_path, objectives=objectives, devices=devices, search={"trials": 8, "sampler": "random"})
    )
    assert trained.trained and trained.verified
    for before, now in zip(first.rows, trained.rows, strict=True):
        assert before.arch_id == now.arch_id and before.readings == now.readings
    member = trained.verified[0]
    assert member.reading("latency_ms@cpu") == first.rows[member.number].reading("latency_ms@cpu")
    assert {"model.onnx", "card.md"} <= {p.name for p in (tmp_path / "run" / "artifacts" / member.arch_id).iterdir()}

    (tmp_path / "run").rename(tmp_path / "second")
    told = study_file(
        tmp_path,
        data=None,
        space={**json.loads(json.dumps(first.study["space"])), "input": [1, 8, 8], "num_classes": 10},
        quality=quality("first/trials.parquet", "top1"),
        objectives=objectives,
        devices=devices,
        search={"trials": 8, "sampler": "random"},
    )
    replayed = run(told)
    assert [trial.readings["top1"] for trial in replayed.rows] == [trial.readings["top1"] for trial in first.rows]


@pytest.mark.usefixtures("fake_machine")
def test_what_was_predicted_or_stopped_early_is_not_taken_for_more(tmp_path: Path, study_file: StudyFile) -> None:
    objectives = [{"metric": "top1"}, {"metric": "latency_ms@cpu"}]
    run(study_file(tmp_path, objectives=objectives, search={"trials": 6, "sampler": "random"}))
    frame = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    frame.loc[0, "latency_ms@cpu.source"], frame.loc[1, "state"] = "predicted", "pruned"
    frame.loc[2, "latency_ms@cpu.source"] = "estimated"
    frame.to_parquet(tmp_path / "first.parquet")
    spec = load_study_text(
        TEXT.replace("q.parquet, column: c100_test", f"'{tmp_path}/first.parquet', column: top1")
        .replace("b.parquet", f"'{tmp_path}/first.parquet'")
        .replace("board", "cpu")
    )
    told = read_tables(spec, load_space("mobile", input_shape=(1, 8, 8), num_classes=10))
    reasons = {number: _reason(told, str(arch_id)) for number, arch_id in frame["arch_id"].items()}
    assert reasons[0] == "data: latency_ms@cpu was predicted, not measured in first.parquet"
    assert reasons[1] == "data: top1 has no value in first.parquet"
    assert [reasons[number] for number in (2, 3, 4, 5)] == [""] * 4
    assert told.readings(str(frame["arch_id"][2]))["latency_ms@cpu"].source == "estimated"


def _reason(told: Tables, arch_id: str) -> str:
    try:
        told.readings(arch_id)
    except RuntimeError as error:
        return str(error)
    return ""


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_table_tells_what_was_written(space: Space, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    numbers = st.floats(min_value=1e-6, max_value=1e6, allow_nan=False) | st.just(float("nan"))
    picked = data.draw(st.sets(st.integers(0, 40), min_size=1, max_size=8))
    drawn = {space.random(number): data.draw(numbers) for number in picked}
    as_json = data.draw(st.booleans())
    texts = [each.to_json() if as_json else space.string_of(each) for each in drawn]
    path = tmp_path_factory.mktemp("told") / "b.parquet"
    pd.DataFrame({"arch": texts, LATENCY: list(drawn.values()), "c100_test": 1.0}).to_parquet(path)
    spec = load_study_text(TEXT.replace("b.parquet", f"'{path}'").replace("q.parquet", f"'{path}'"))
    told = read_tables(spec, space)
    assert [_reason(told, each.id) == "" for each in drawn] == [value == value for value in drawn.values()]
    for each, value in drawn.items():
        if value == value:
            assert told.readings(each.id)[LATENCY].value == value
    assert set(told.common()) == {each.id for each, value in drawn.items() if value == value}


def test_a_study_of_tables_is_read_and_written() -> None:
    spec = load_study_text(TEXT + "limits: [top1 >= 70, latency_ms@board <= 2]\ntrack: [sram_mb@board]\n")
    assert not spec.trains and not spec.builds and spec.data is None
    written = dump_study(spec)
    assert load_study_text(written) == spec and "epochs" not in written and "threads: 1\n  storage" in written
    assert load_study_text(TEXT + "track: [params]\n").builds


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (", table: b.parquet", "", "devices.board.table: missing: the parquet file"),
        ("runtime: replay", "runtime: onnxruntime", "devices.board.table: 'table' is for `runtime: replay`"),
        ("table: b.parquet", "table: b.parquet, threads: 2", "devices.board.threads: 'threads' is for a device that"),
        ("table: b.parquet", "table: b.parquet, host: 'ssh:pi'", "devices.board.host: 'host' is for a device that"),
        ("path: q.parquet, ", "", "quality.path: missing: the table"),
        ("column: c100_test, ", "", "quality.column: missing: the table's column"),
        ("use: table, ", "", "quality.path: 'path' is for `use: table`"),
        ("metric: top1}\n", "metric: top1, seeds: 2}\n", "quality.seeds: 'seeds' is for `use: train`"),
        ("{use: table, path: q.parquet, column: c100_test, metric: top1}", "{use: train}", "data: missing"),
        ("{runtime: replay, table: b.parquet}", "{}", ""),
        ("objectives", "track: [size_mb]\nobjectives", "track[0]: 'size_mb' is that of a file"),
        ("objectives", "cost_model: {stand_in: true}\nobjectives", "cost_model.stand_in: there is nothing to predict"),
        ("objectives", "limits: [top1 >= 101]\nobjectives", "can never hold: top1 lies between 0 and 100"),
    ],
)
def test_what_does_not_go_with_tables(old: str, new: str, says: str) -> None:
    text = TEXT.replace(old, new)
    assert text != TEXT
    if not says:
        assert load_study_text(text).builds, "quality of a table beside a device that runs"
        return
    with pytest.raises(StudyFileError, match=r"^study\.yaml:") as caught:
        load_study_text(text)
    assert says in str(caught.value)


def test_a_trained_network_has_no_more_than_all_right(make_run: Callable[..., RunData]) -> None:
    with pytest.raises(UsageError, match="can never hold: top1 lies between 0 and 1"):
        choose(make_run(), [Limit.parse("top1 >= 70")])
    with pytest.raises(StudyFileError, match="can never hold: top1 lies between 0 and 1"):
        load_study_text(
            "version: 1\nname: t\nspace: {use: mobile}\ndata: {use: digits}\ndevices: {cpu: {}}\n"
            "objectives: [{metric: top1}]\nlimits: [top1 >= 70]\n"
        )


def test_a_table_with_few_of_the_space_is_searched_in_its_own_rows(
    tmp_path: Path, study_file: StudyFile, capsys: pytest.CaptureFixture[str]
) -> None:
    fbnet = load_space("fbnet")
    known = [fbnet.random(f"row {number}") for number in range(60)]
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"arch": [fbnet.string_of(each) for each in known]})
    frame = frame.assign(c100_test=rng.uniform(50, 70, len(known)), **{LATENCY: rng.uniform(1, 5, len(known))})
    frame.to_parquet(tmp_path / "quality.parquet")
    frame.to_parquet(tmp_path / "board.parquet")
    for sampler in ("tpe", "nsga2"):
        search = {"trials": 80, "seed": 0, "sampler": sampler}
        path = study_file(tmp_path / sampler, **{**SECTIONS, "space": {"use": "fbnet"}, "search": search})
        for table in ("quality", "board"):
            (tmp_path / sampler / f"{table}.parquet").symlink_to(tmp_path / f"{table}.parquet")
        found = run(path)
        assert {trial.arch_id for trial in found.rows} == {each.id for each in known}
        assert len(found.rows) == 60 and {trial.state for trial in found.rows} == {"complete"}
        again = tmp_path / "again" / sampler
        Study.from_yaml(path, ["search.trials=12"], folder=again).run()
        Study.from_yaml(path, ["search.trials=25"], folder=again).run()
        assert [t.arch_id for t in RunData.load(again).rows] == [t.arch_id for t in found.rows[:25]]
