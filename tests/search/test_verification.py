"""The end of a study, with fake children."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from hwnas.search.frames import Row
from hwnas.search.metrics import Metric, Reading
from hwnas.search.outcome import Outcome
from hwnas.search.report.info import page_info
from hwnas.search.run_data import RunData
from hwnas.search.study import Study
from hwnas.search.verification import Verified, finalists, mean_reading, verified_front
from hwnas.spaces.errors import CandidateError, InfeasibleError

StudyFile = Callable[..., Path]
OBJECTIVES = [Metric.parse("top1"), Metric.parse("macs")]


def verified(arch_id: str, top1: float, macs: float, *, feasible: bool = True) -> Verified:
    readings = {"top1": Reading(top1), "macs": Reading(macs, source="computed")}
    return Verified(arch_id, readings, feasible, "", {"1": top1}, 1.0, {"cpu": 1e-6})


def test_the_mean_over_seeds_has_students_interval() -> None:
    reading = mean_reading([0.90, 0.92, 0.94], 100)
    assert reading.value == pytest.approx(0.92)
    assert reading.high == pytest.approx(0.92 + 2.920 * 0.02 / 3**0.5)
    assert mean_reading([0.9], 100).low == pytest.approx(0.839, abs=2e-3)  # of the samples
    many = mean_reading([0.9, 0.91] * 10, 100)
    assert many.low is not None and many.high is not None and 0.9 < many.low < 0.905 < many.high < 0.91
    assert mean_reading([1.0, 1.0], 10).high == 1.0


def test_the_verified_front_is_feasible_and_not_dominated() -> None:
    found = [
        verified("a", 0.9, 5),
        verified("b", 0.8, 6),
        verified("c", 0.99, 9, feasible=False),
        verified("d", 0.7, 1),
    ]
    assert [member.arch_id for member in verified_front(found, OBJECTIVES)] == ["a", "d"]
    assert verified_front([], OBJECTIVES) == []


def test_a_verification_survives_json() -> None:
    told = verified("a", 0.9, 5)
    assert Verified.from_dict(json.loads(json.dumps(told.to_dict()))) == told


@pytest.mark.usefixtures("fake_machine")
def test_finalists_are_trained_over_seeds_that_are_not_the_search_own(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: dict[str, list[int]] = {"search": [], "final": []}
    sound = fake_machine.train

    def train(self: Any, request: Mapping[str, Any]) -> Any:
        seeds["final" if request.get("weights") else "search"].append(request["seed"])
        return sound(self, request)

    monkeypatch.setattr(fake_machine, "train", train)
    quality = {"rungs": [{"epochs": 1}], "seeds": 3}
    path = study_file(tmp_path, quality=quality, verify={"finalists": 1}, limits=["latency_ms@cpu <= 100"])
    Study.from_yaml(path, folder=tmp_path / "run").run()
    assert set(seeds["search"]) == {0} and seeds["final"] == [1, 2, 3]
    [member] = RunData.load(tmp_path / "run").verified
    folder = tmp_path / "run" / "artifacts" / member.arch_id
    assert not list(folder.glob("seed*")) and (folder / "weights.safetensors").is_file()
    assert set(json.loads((folder / "verified.json").read_text())["seeds"]) == {"1", "2", "3"}
    assert member.readings["latency_ms@cpu"].source == "measured"
    seeds["final"].clear()
    Study.from_yaml(path, folder=tmp_path / "run").run()
    assert seeds["final"] == [], "a finalist is verified once"


@pytest.mark.usefixtures("fake_machine")
def test_a_finalist_that_fails_is_replaced_by_the_next(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = fake_machine.export
    failed: list[str] = []

    def export(self: Any, request: Mapping[str, Any]) -> Any:
        if not failed:
            failed.append(request["arch"])
            raise CandidateError("export", "in a test")
        return sound(self, request)

    monkeypatch.setattr(fake_machine, "export", export)
    result = Study.from_yaml(study_file(tmp_path, verify={"finalists": 1}), folder=tmp_path / "run").run()
    assert (result.verified, result.refused, result.front) == (1, 1, 1)
    [member] = RunData.load(tmp_path / "run").verified
    assert json.dumps(dict(member.decisions)) not in failed[0]


@pytest.mark.usefixtures("fake_machine")
def test_when_no_finalist_can_be_verified_the_reason_is_said(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(self: Any, request: Mapping[str, Any]) -> Any:
        raise CandidateError("export", "in a test")

    monkeypatch.setattr(fake_machine, "export", export)
    with pytest.raises(InfeasibleError, match="export: in a test"):
        Study.from_yaml(study_file(tmp_path), folder=tmp_path / "run").run()
    assert RunData.load(tmp_path / "run").front is not None


@pytest.mark.usefixtures("fake_machine")
def test_a_measured_cost_over_its_limit_leaves_the_front(
    tmp_path: Path, study_file: StudyFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.search import latency

    def measure(
        self: Any, arch_id: str, model: Path, graph: object = None, stem: str = "", **more: Any
    ) -> dict[str, Reading]:
        return {self.metric: Reading(1.0, 0.9, 1.3 if stem == "verified" else 1.1)}

    monkeypatch.setattr(latency.Device, "measure", measure)
    path = study_file(tmp_path, limits=["latency_ms@cpu <= 1.2"])
    with pytest.raises(InfeasibleError):
        Study.from_yaml(path, folder=tmp_path / "run").run()
    kept = [json.loads(path.read_text()) for path in (tmp_path / "run").glob("artifacts/*/verified.json")]
    assert len(kept) == 6 and not any(item["feasible"] for item in kept)  # at most three times those wanted


@pytest.mark.usefixtures("fake_machine")
@pytest.mark.parametrize("again", [False, True])
def test_terminal_and_page_count_the_same_finalists(
    tmp_path: Path,
    study_file: StudyFile,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    again: bool,
) -> None:
    """Of the finalists some hold the limit and some do not: each line, the last lines, JSON and page say the same."""
    from hwnas.search import latency
    from hwnas.search.cli import main

    slow: list[str] = []

    def measure(
        self: Any, arch_id: str, model: Path, graph: object = None, stem: str = "", **more: Any
    ) -> dict[str, Reading]:
        if stem == "verified" and len(slow) < 2:
            slow.append(arch_id)
        high = 1.3 if stem == "verified" and arch_id in slow else 1.1
        return {self.metric: Reading(1.0, 0.9, high)}

    monkeypatch.setattr(latency.Device, "measure", measure)
    path = study_file(tmp_path, limits=["latency_ms@cpu <= 1.2"], search={"trials": 8}, verify={"finalists": 3})
    words = ["run", str(path), "--out", str(tmp_path / "run")]
    for _ in range(1 + again):
        capsys.readouterr()
        assert main(words) == 0
    told = capsys.readouterr()
    run = RunData.load(tmp_path / "run")
    reason = "latency_ms@cpu 1.00 ms (0.900 to 1.30), limit <= 1.2"
    assert [trial.arch_id for trial, _ in run.refused] == slow and {said for _, said in run.refused} == {reason}
    verified, members = 3, len(run.verified)
    assert run.beaten == verified - members

    live = [line for line in told.out.splitlines() if line.startswith("final ")]
    refused = [line for line in live if line.startswith("final - ")]
    assert all(line.endswith(f"refused: {reason}") for line in refused) and len(refused) == 2
    assert [line.split()[1] for line in live if line not in refused] == ["1/3", "2/3", "3/3"]
    assert all(line.endswith("  verified") for line in live if line not in refused)
    assert "refused: 2 finalists" in told.out and all(f"\n{arch_id}  {reason}" in told.out for arch_id in slow)
    on_front = f", {members} of them on the front" if members != verified else ""
    assert f"8 trials; 3 finalists verified{on_front}, 2 refused; " in told.err

    info = page_info(run)
    counts = {count.name: count.value for count in info.counts}
    assert counts["on the verified front"] == members and counts["refused"] == 2
    assert counts.get("verified, not on the front", 0) == run.beaten
    assert [arch_id for arch_id, _, _ in info.refused] == slow
    page = html.unescape((tmp_path / "run" / "report.html").read_text()).replace("\u00a0", " ")
    assert page.count(f"refused: {reason}") == 2
    assert main([*words, "--json"]) == 0
    told_json = json.loads(capsys.readouterr().out)
    assert told_json["verified"] == verified and len(told_json["front"]) == members
    assert told_json["refused"] == [{"arch_id": arch_id, "reason": reason} for arch_id in slow]


def test_finalists_are_the_front_and_far_neighbours() -> None:
    """Twenty cheap networks of equal worth hide a dear one that may be better; it is a finalist all the same."""

    def row(number: int, top1: float, latency: float) -> Row:
        readings = {"top1": Reading(top1, top1 - 0.02, top1 + 0.02), "latency_ms@cpu": Reading(latency)}
        outcome = Outcome("complete", readings).to_dict()
        attrs = {"arch_id": f"{number:016x}", "arch": "{}", "outcome": outcome}
        trial = create_trial(state=TrialState.COMPLETE, values=[top1, latency], user_attrs=attrs)
        trial.number = number
        return Row(trial, ())

    rows = [row(i, 0.97, 1.0 + i / 1000) for i in range(20)]
    rows += [row(20, 0.96, 9.0), row(21, 0.90, 12.0), row(22, 0.98, 1.1)]
    objectives = [Metric("top1"), Metric("latency_ms", "cpu")]
    order = [r.number for r in finalists(rows, objectives, 4)]
    assert sorted(order) == list(range(23))
    assert set(order[:2]) == {0, 22}  # the front
    assert order[2] == 20  # within the intervals of the front, and far from it
    assert 21 not in order[:-1] or order.index(21) > order.index(19)  # surely worse: after every neighbour
    assert finalists([], objectives, 4) == []
