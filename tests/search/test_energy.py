"""Energy in a study: measured, estimated or missing from the meter to the page, and exit code 4 where it is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwnas.search.begun import _alike
from hwnas.search.energy import meters_of
from hwnas.search.metrics import Reading
from hwnas.search.run_data import RunData
from hwnas.search.study import Study
from hwnas.search.study_file import dump_study, load_study_file, load_study_text
from hwnas.spaces.errors import DeviceError, StudyFileError

StudyFile = Callable[..., Path]

LEAST = """\
version: 1
name: small
space: {use: mobile}
data: {use: digits}
devices: {cpu: {}}
objectives: [{metric: top1}, {metric: latency_ms@cpu}]
"""
NO_METER = {"runtime": "onnxruntime", "meter": {"use": "rapl", "path": "/nowhere"}}
ENERGY = [{"metric": "top1"}, {"metric": "energy_mj@cpu"}]


@pytest.mark.parametrize(
    ("meter", "use"),
    [
        ("rapl", "rapl"),
        ("none", "none"),
        ("{use: csv, path: a.csv, offset_s: 1.5}", "csv"),
        ("{use: my-own}", "my-own"),
    ],
)
def test_a_meter_is_a_name_or_a_mapping(meter: str, use: str) -> None:
    spec = load_study_text(LEAST.replace("{cpu: {}}", f"{{cpu: {{meter: {meter}}}}}"))
    assert spec.devices["cpu"].meter["use"] == use
    assert load_study_text(dump_study(spec)) == spec
    assert load_study_text(LEAST).devices["cpu"].meter == {"use": "auto"}
    changed = load_study_text(LEAST, [f"devices.cpu.meter={meter}"])
    assert changed.devices["cpu"].meter == spec.devices["cpu"].meter


@pytest.mark.parametrize(
    ("meter", "says"),
    [
        ("3", "expected a meter such as auto"),
        ("[rapl]", "expected a meter such as auto"),
        ("{path: a.csv}", "missing: the name of the meter"),
        ("{use: csv, path: [a]}", "meter.path: expected a text or a number"),
        ('{use: csv, path: "a\\u0007"}', "control characters"),
    ],
)
def test_what_is_no_meter_is_one_line(meter: str, says: str) -> None:
    with pytest.raises(StudyFileError) as raised:
        load_study_text(LEAST.replace("{cpu: {}}", f"{{cpu: {{meter: {meter}}}}}"))
    assert str(raised.value).startswith("study.yaml:5:") and says in str(raised.value)


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize("section", ["objectives", "limits"])
def test_energy_that_is_needed_and_has_no_meter_ends_at_once(
    tmp_path: Path, hwnas: Any, study_file: StudyFile, verb: str, section: str
) -> None:
    more: dict[str, Any] = {"objectives": ENERGY} if section == "objectives" else {"limits": ["energy_mj@cpu <= 1"]}
    path = study_file(tmp_path, devices={"cpu": NO_METER}, **more)
    done = hwnas(verb, path, cwd=tmp_path)
    assert done.returncode == 4
    [line] = done.stderr.strip().splitlines()
    assert "'energy_mj@cpu' cannot be measured: no RAPL counter in /nowhere" in line
    assert not (tmp_path / "runs").exists()


def test_without_any_meter_it_says_what_would_help(tmp_path: Path, hwnas: Any, study_file: StudyFile) -> None:
    path = study_file(tmp_path, objectives=ENERGY, devices={"cpu": {"runtime": "onnxruntime", "meter": "none"}})
    done = hwnas("run", path, cwd=tmp_path)
    [line] = done.stderr.strip().splitlines()
    assert done.returncode == 4
    for word in ("rapl: ", "ina: ", "nvml: ", "csv: ", "hwnas.meters", "{use: model, watts: …}"):
        assert word in line


@pytest.mark.parametrize(
    ("meter", "says"),
    [
        ("rappl", "unknown meter 'rappl' (did you mean 'rapl'?)"),
        ({"use": "csv", "paht": "x"}, "meter 'csv' has no option 'paht' (did you mean 'path'?)"),
        ({"use": "model"}, "the energy model needs the power it assumes"),
    ],
)
def test_an_unknown_meter_or_option_is_bad_usage(
    tmp_path: Path, hwnas: Any, study_file: StudyFile, meter: object, says: str
) -> None:
    path = study_file(tmp_path, objectives=ENERGY, devices={"cpu": {"meter": meter}})
    done = hwnas("run", path, cwd=tmp_path)
    assert done.returncode == 2
    [line] = done.stderr.strip().splitlines()
    assert line.startswith(f"{path}:6:") and says in line


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize(
    ("device", "says"),
    [
        ({"meter": {"use": "rapll"}}, "unknown meter 'rapll' (did you mean 'rapl'?)"),
        ({"meter": {"use": "csv", "paht": "x"}}, "meter 'csv' has no option 'paht'"),
        ({"meter": {"use": "model"}}, "the energy model needs the power it assumes"),
        ({"meter": "rapll", "host": "ssh:board"}, "unknown meter 'rapll'"),
    ],
)
def test_a_typo_in_a_meter_is_told_where_nobody_asks_for_energy(
    tmp_path: Path, hwnas: Any, study_file: StudyFile, verb: str, device: dict[str, Any], says: str
) -> None:
    path = study_file(tmp_path, devices={"cpu": device})
    done = hwnas(verb, path, cwd=tmp_path)
    [line] = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert re.match(rf"{re.escape(str(path))}:6:\d+: devices\.cpu\.meter: ", line) and says in line


def test_a_meter_that_is_not_here_is_legal_where_nobody_asks_for_energy(study_file: StudyFile, tmp_path: Path) -> None:
    spec = load_study_file(study_file(tmp_path, devices={"cpu": NO_METER}))
    assert meters_of(spec) == {"cpu": {"use": "none"}}


# --- with fake children and devices


def with_energy(monkeypatch: pytest.MonkeyPatch, reading: Callable[[int], Reading]) -> None:
    """Has the fake device tell energy too; `reading` gets the number of the measurement."""
    from hwnas.search import latency

    sound, count = latency.Device.measure, iter(range(1000))

    def measure(self: Any, *args: Any, **more: Any) -> Mapping[str, Reading]:
        return {**sound(self, *args, **more), f"energy_mj@{self.name}": reading(next(count))}

    monkeypatch.setattr(latency.Device, "measure", measure)


@pytest.mark.usefixtures("fake_machine")
def test_a_tracked_energy_without_a_meter_is_missing_and_told(
    tmp_path: Path, study_file: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_energy(monkeypatch, lambda count: Reading.missing("the wire came off"))
    notes: list[str] = []

    class Reporter:
        def note(self, text: str) -> None:
            notes.append(text)

        def trial(self, *args: object) -> None: ...

        def finalist(self, *args: object) -> None: ...

    path = study_file(tmp_path, devices={"cpu": NO_METER}, track=["energy_mj@cpu", "latency_ms@cpu"])
    Study.from_yaml(path, folder=tmp_path / "run").run(Reporter())
    trials = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert set(trials["energy_mj@cpu.source"]) == {"missing"} and trials["energy_mj@cpu"].isna().all()
    assert set(trials["latency_ms@cpu.source"]) == {"measured"}
    assert notes.count("energy_mj@cpu is missing: the wire came off") == 1
    events = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    told = [json.loads(line)["outcome"] for line in events if '"told"' in line]
    assert all(outcome["readings"]["energy_mj@cpu"]["reason"] == "the wire came off" for outcome in told)


@pytest.mark.usefixtures("fake_machine", "cpu_watts")
def test_a_meter_that_is_lost_stops_the_study_and_loses_nothing(
    tmp_path: Path, study_file: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study_file(tmp_path, objectives=ENERGY, devices={"cpu": {"meter": "cpuwatts"}})
    value = Reading(3.0, 2.9, 3.1)
    with monkeypatch.context() as patch:
        with_energy(patch, lambda count: value if count < 3 else Reading.missing("the wire came off"))
        with pytest.raises(DeviceError, match="'energy_mj@cpu' cannot be measured: the wire came off"):
            Study.from_yaml(path, folder=tmp_path / "run").run()
    states = [trial.state for trial in RunData.load(tmp_path / "run").rows]
    assert states == ["complete", "complete", "complete", "running"]
    with_energy(monkeypatch, lambda count: value)
    result = Study.from_yaml(path, folder=tmp_path / "run").run()
    rows = RunData.load(tmp_path / "run").rows
    assert result.trials == 6 and [row.number for row in rows] == list(range(6))
    assert all(row.reading("energy_mj@cpu") == value for row in rows)


@pytest.mark.parametrize(
    ("before", "now", "alike"),
    [
        ("rapl", "rapl", True),
        ("rapl", "ina", False),
        ("auto", "rapl", True),
        (None, "none", True),
        (None, "rapl", False),
    ],
)
def test_energies_of_two_meters_do_not_compare(before: str | None, now: str, alike: bool) -> None:
    """`auto` stands for none found: there is nothing to compare yet."""
    first = {"cpu": "x"} if before is None else {"cpu": "x", "meter": before}
    assert _alike(first, {"cpu": "x", "meter": now}) == alike


# --- all of it


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_watts")
def test_energy_from_the_meter_to_the_page(tmp_path: Path, hwnas: Any, study_file: StudyFile) -> None:
    path = study_file(
        tmp_path,
        devices={
            "cpu": {"meter": {"use": "cpuwatts", "busy_w": 10.0}},
            "model": {"meter": {"use": "model", "watts": 5}},
            "bare": {"meter": {"use": "rapl", "path": "none"}},
        },
        objectives=ENERGY,
        limits=["energy_mj@cpu <= 1000"],
        track=["latency_ms@cpu", "energy_mj@model", "latency_ms@model", "energy_mj@bare"],
        search={"trials": 3, "seed": 0, "sampler": "random"},
        verify={"finalists": 1},
    )
    done = hwnas("run", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "energy_mj@bare is missing: no RAPL counter in" in done.stderr
    for name in ("trials", "front"):
        rows = pd.read_parquet(tmp_path / "runs" / "tiny" / f"{name}.parquet")
        assert set(rows["energy_mj@cpu.source"]) == {"measured"} and (rows["energy_mj@cpu"] > 0).all()
        assert (rows["energy_mj@cpu.low"] <= rows["energy_mj@cpu"]).all()
        ratio = rows["energy_mj@cpu"] / rows["latency_ms@cpu"]
        assert ((ratio > 5) & (ratio < 60)).all()  # the meter counts 10 W of processor, and neighbours slow it down
        assert set(rows["energy_mj@model.source"]) == {"estimated"}
        assert rows["energy_mj@model"].tolist() == pytest.approx((5 * rows["latency_ms@model"]).tolist())
        assert set(rows["energy_mj@bare.source"]) == {"missing"} and rows["energy_mj@bare"].isna().all()
    page = (tmp_path / "runs" / "tiny" / "report.html").read_text()
    assert "Energy on cpu" in page and "~" in page
    [card] = (tmp_path / "runs" / "tiny" / "artifacts").glob("*/card.md")
    assert "| energy_mj@model | ~" in card.read_text() and "| energy_mj@bare | none | missing |" in card.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("cpu_watts")
def test_profile_tells_energy_and_memory(tmp_path: Path, hwnas: Any) -> None:
    import torch
    from torch import nn

    from hwnas.profilers import get_runtime

    model = tmp_path / "model.onnx"
    get_runtime("onnxruntime").convert(nn.Conv2d(3, 16, 3).eval(), torch.zeros(1, 3, 32, 32), model)
    told = json.loads(hwnas("profile", model, "--meter", "cpuwatts", "--json", cwd=tmp_path).stdout)["profiles"][0]
    assert told["energy"]["source"] == "measured" and told["energy"]["energy_mj"] > 0
    assert len(told["energy"]["windows_mj"]) == 5 and told["energy"]["idle_w"] > 0
    assert told["memory"]["peak_mb"] >= told["memory"]["computed_peak_mb"] > 0
    lost = hwnas("profile", model, "--meter", "cpuwatts:mode=nothing", cwd=tmp_path)
    assert lost.returncode == 4 and "median ms" in lost.stdout and "resident MB" in lost.stdout
    assert "energy is missing: meter 'cpuwatts' says nothing" in lost.stderr
    auto = hwnas("profile", model, "--meter", "model:watts=5", cwd=tmp_path)
    assert auto.returncode == 0 and "energy is an estimate: a stated power of 5 W x latency" in auto.stdout


def test_profile_without_the_named_meter_ends_at_once(tmp_path: Path, hwnas: Any) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    absent = hwnas("profile", "model.onnx", "--meter", "rapl:path=/nowhere", cwd=tmp_path)
    assert absent.returncode == 4 and absent.stdout == "" and len(absent.stderr.strip().splitlines()) == 1
    withdrawn = hwnas("profile", "model.onnx", "--meter", "adb", cwd=tmp_path)
    assert withdrawn.returncode == 4 and "'adb' is withdrawn" in withdrawn.stderr


def test_doctor_lists_the_meters(tmp_path: Path, hwnas: Any, install_meter: Callable[[str, str], None]) -> None:
    install_meter("import nothing_of_that_name", "broken = broken_meter:No")
    told = json.loads(hwnas("doctor", "--json", cwd=tmp_path).stdout)["meters"]
    assert list(told)[:4] == ["rapl", "ina", "nvml", "csv"]
    assert "cannot be loaded" in told.pop("broken")["missing"]
    assert all(found["ok"] or (found["missing"] and found["install"]) for found in told.values())
    assert "rapl" in hwnas("doctor", cwd=tmp_path).stdout
