"""Which limits can be met, before anything is trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest

from hwnas.search.feasibility import DeviceTime, Probe, TimePlan, check_limits, preflight, probe_space, time_plan
from hwnas.search.metrics import Limit, Reading
from hwnas.search.study import Study
from hwnas.search.study_schema import StudySpec
from hwnas.spaces import Architecture, Space, load_space
from hwnas.spaces.errors import CandidateError, InfeasibleError


class Costs:
    """Costs that grow with the number of decisions that are not at their first value; some cannot be had."""

    def __init__(self, fails: frozenset[str] = frozenset(), spread: float = 0.0) -> None:
        self.fails, self.spread, self.asked = fails, spread, 0
        self.how: list[tuple[Collection[str] | None, bool]] = []

    def costs_of(
        self, architecture: Architecture, devices: Collection[str] | None = None, *, fresh: bool = False
    ) -> tuple[Mapping[str, Reading], Mapping[str, float]]:
        self.asked += 1
        self.how.append((devices, fresh))
        if architecture.id in self.fails:
            raise CandidateError("crash:SIGSEGV")
        size = 10.0 + sum(float(value) for _, value in architecture.decisions if not isinstance(value, str))
        latency = Reading(size / 10, size / 10 - self.spread, size / 10 + self.spread)
        return {"macs": Reading(size, source="computed"), "latency_ms@cpu": latency}, {"export": 0.5}


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("mobile", input_shape=(1, 8, 8), num_classes=10)


def ends(space: Space) -> tuple[float, float]:
    low, high = (Costs().costs_of(corner)[0]["macs"].value for corner in space.corners())
    assert low is not None and high is not None
    return low, high


def test_a_limit_that_the_corner_holds_costs_one_probe(space: Space) -> None:
    low, high = ends(space)
    for limit in (f"macs <= {low}", f"macs >= {high}", f"latency_ms@cpu <= {low / 10}"):
        costs = Costs()
        preflight(costs, space, [Limit.parse(limit)], 0)  # type: ignore[arg-type]
        assert costs.asked == 1
    costs = Costs()
    preflight(costs, space, [], 0)  # type: ignore[arg-type]
    preflight(costs, space, [Limit.parse("top1 >= 0.9")], 0)  # type: ignore[arg-type]
    assert costs.asked == 0, "nothing to find out without a training"


def test_a_limit_out_of_reach_names_the_best_seen(space: Space) -> None:
    low, high = ends(space)
    with pytest.raises(InfeasibleError, match=rf"'macs <= 5' .* smallest of 13 architectures has macs {low:.4g};"):
        preflight(Costs(), space, [Limit.parse("macs <= 5")], 0)  # type: ignore[arg-type]
    with pytest.raises(InfeasibleError, match=rf"'macs >= 5000' .* largest of 13 architectures has macs {high:.4g};"):
        preflight(Costs(), space, [Limit.parse("macs >= 5000")], 0)  # type: ignore[arg-type]


def test_an_uncertain_cost_is_not_out_of_reach(space: Space) -> None:
    low, _ = ends(space)
    costs = Costs(spread=0.2)
    preflight(costs, space, [Limit.parse(f"latency_ms@cpu <= {low / 10 - 0.1}")], 0)  # type: ignore[arg-type]
    assert costs.asked == 1, "the smallest may hold it, so no other is asked"


def test_a_corner_that_fails_is_passed_over(space: Space) -> None:
    costs = Costs(frozenset({space.corners()[0].id}))
    preflight(costs, space, [Limit.parse("macs <= 1000")], 0)  # type: ignore[arg-type]
    assert costs.asked == 13
    with pytest.raises(InfeasibleError, match="of 12 architectures"):
        preflight(costs, space, [Limit.parse("macs <= 5")], 0)  # type: ignore[arg-type]


def test_limits_are_checked_among_probes(space: Space) -> None:
    probes = probe_space(Costs(), space, 0, 6, [])  # type: ignore[arg-type]
    assert [probe.role for probe in probes] == ["smallest", "middle", "largest"] + ["random"] * 6
    low, high = ends(space)
    limits = [Limit.parse(text) for text in (f"macs <= {low}", "macs <= 5", f"macs <= {high}", "top1 >= 0.9")]
    first, second, third, fourth = check_limits(probes, limits)
    assert (first.least, first.most, first.reachable) == (low, high, True) and first.middle is not None
    assert second.reachable is False and second.inside == 0 and second.sampled == 6
    assert third.inside == 6
    assert fourth.reachable is None and fourth.least is None
    assert first.to_dict()["limit"] == f"macs <= {low:g}"


def test_only_corners_are_measured_on_devices_that_no_limit_names(space: Space) -> None:
    costs, told = Costs(), list[str]()
    limits = [Limit.parse("latency_ms@cpu <= 2"), Limit.parse("macs <= 900")]
    probe_space(costs, space, 0, 2, limits, told.append)  # type: ignore[arg-type]
    assert costs.how == [(None, True)] * 3 + [({"cpu"}, False)] * 2, "corners anew and everywhere"
    assert told[0] == "smallest architecture (1 of 3)" and told[-1] == "random architecture (2 of 2)"
    costs = Costs()
    preflight(costs, space, limits[1:], 0)  # type: ignore[arg-type]
    assert costs.how == [(set(), False)], "nothing is measured for what is computed"


STUDY: dict[str, Any] = {
    "version": 1,
    "name": "plan",
    "space": {"use": "mobile"},
    "data": {"use": "digits"},
    "devices": {"cpu": {}},
    "quality": {"rungs": ({"epochs": 2, "keep": 0.5}, {"epochs": 10}), "seeds": 3},
    "objectives": ({"metric": "top1"}, {"metric": "macs"}),
    "search": {"trials": 10},
    "verify": {"finalists": 4},
    "run": {"workers": 2},
}


def planned(space: Space, seconds: Mapping[str, float], noisy: bool = False, **more: Any) -> TimePlan:
    """The plan of a study whose corners took these seconds; the first one 2 s more on its device, to start it."""
    reading = Reading(10.0, 9.0, 11.0, noisy=noisy)
    first = {part: spent + 2.0 * part.startswith("predict") for part, spent in seconds.items()}
    readings = {f"latency_ms@{name}": reading for name in ("cpu", "cpu8")}
    probes = [Probe("smallest", space.middle(), readings, first)]
    probes += [Probe(role, space.middle(), readings, seconds) for role in ("middle", "largest")]
    probes += [Probe("random", space.middle(), {}, {"export": 1e6})]
    return time_plan(StudySpec.model_validate({**STUDY, **more}), probes, 0.1, 7.0, 100)


ONE = {"build": 0.1, "export": 0.4, "predict@cpu": 0.2, "measure@cpu": 1.5}


def test_the_plan_counts_rungs_seeds_and_workers(space: Space) -> None:
    plan = planned(space, ONE)
    # 2 epochs, and half of them 10 more; measurements are one at a time, whatever the number of workers
    assert plan.search_s == pytest.approx(10 * (0.7 + 0.7) / 2 + 10 * 1.5)
    # 3 seeds of 10 epochs and an export; two fresh processes measure, which take 2 s each to start
    assert plan.verify_s == pytest.approx(4 * ((3 * 1.0 + 0.7) / 2 + 2 * (2.0 + 1.5)))
    assert plan.start_s == pytest.approx(7.0 + 2.0)
    assert plan.total_s == pytest.approx(plan.start_s + plan.search_s + plan.verify_s)
    assert plan.devices == {"cpu": DeviceTime(0.0, 1.5, 2.0, False)}
    assert plan.to_dict()["devices"]["cpu"]["measurement_s"] == 1.5 and plan.to_dict()["total_s"] == plan.total_s


def test_the_plan_counts_every_device(space: Space) -> None:
    two = {**ONE, "convert@cpu8": 3.0, "predict@cpu8": 0.2, "measure@cpu8": 2.5}
    alone, both = planned(space, ONE), planned(space, two, devices={"cpu": {}, "cpu8": {"precision": "int8"}})
    assert both.search_s - alone.search_s == pytest.approx(10 * (3.2 / 2 + 2.5))
    assert both.verify_s - alone.verify_s == pytest.approx(4 * (3.2 / 2 + 2 * (2.0 + 2.5)))
    assert both.devices["cpu8"] == DeviceTime(3.0, 2.5, 2.0, False)
    # what is shipped is int8: each seed's file is made and scored, 100 samples of 10 ms
    first = planned(space, two, devices={"cpu8": {"precision": "int8"}, "cpu": {}})
    assert first.verify_s - both.verify_s == pytest.approx(4 * 3 * (0.1 + 0.4 + 3.0 + 100 * 0.010) / 2)


def test_the_plan_of_a_busy_machine_and_of_a_model_that_stands_in(space: Space) -> None:
    assert planned(space, ONE, noisy=True).verify_s > planned(space, ONE).verify_s + 4 * (2.0 + 1.5)
    stands = planned(space, ONE, cost_model={"stand_in": True, "samples": 6})
    assert planned(space, ONE).search_s - stands.search_s == pytest.approx(4 * 1.5)


def test_a_check_takes_corners_from_no_store_and_random_ones_from_all(
    tmp_path: Path, study_file: Any, fake_machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwnas.search import latency

    asked, measured = list[tuple[bool, int]](), list[tuple[str, bool]]()
    prepare, measure = fake_machine.prepare, latency.Device.measure

    def recording(self: Any, request: Mapping[str, Any]) -> Any:
        asked.append((request["fresh"], len(request["runtimes"])))
        return {**prepare(self, request), "seconds": {"export": 1.0}, "conversions": [["onnxruntime", "fp32", 0.25]]}

    def measuring(self: Any, *arguments: Any, **how: Any) -> Any:
        measured.append((self.name, how["fresh"]))
        return measure(self, *arguments, **how)

    monkeypatch.setattr(fake_machine, "prepare", recording)
    monkeypatch.setattr(latency.Device, "measure", measuring)
    devices: dict[str, Any] = {"a": {}, "b": {}, "c": {}}
    objectives = [{"metric": "top1"}, {"metric": "latency_ms@a"}]
    more = {"limits": ["latency_ms@b <= 9"], "track": ["latency_ms@c"]}
    path = study_file(tmp_path, devices=devices, objectives=objectives, **more)
    found = Study.from_yaml(path, folder=tmp_path / "run").check(samples=2)
    assert asked == [(True, 3)] * 3 + [(False, 2)] * 2
    assert measured == [("a", True), ("b", True), ("c", True)] * 3 + [("b", False)] * 2
    assert found.plan.devices["a"].conversion_s == 0.25, "of the first that has this runtime and precision"
    assert found.probes[0].seconds["export"] == 0.75
    assert {"measure@a", "measure@b", "measure@c"} <= set(found.probes[0].seconds)
