"""Which limits can be met, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hwnas.search.feasibility import Probe, check_limits, preflight, probe_space, time_plan
from hwnas.search.metrics import Limit, Reading
from hwnas.search.study_schema import StudySpec
from hwnas.spaces import Architecture, Space, load_space
from hwnas.spaces.errors import CandidateError, InfeasibleError


class Costs:
    """Costs that grow with the number of decisions that are not at their first value; some cannot be had."""

    def __init__(self, fails: frozenset[str] = frozenset(), spread: float = 0.0) -> None:
        self.fails, self.spread, self.asked = fails, spread, 0

    def costs_of(self, architecture: Architecture) -> tuple[Mapping[str, Reading], Mapping[str, float]]:
        self.asked += 1
        if architecture.id in self.fails:
            raise CandidateError("crash:SIGSEGV")
        size = 10.0 + sum(float(value) for _, value in architecture.decisions if not isinstance(value, str))
        latency = Reading(size / 10, size / 10 - self.spread, size / 10 + self.spread)
        return {"macs": Reading(size, source="computed"), "latency_ms@cpu": latency}, {"export": 0.5, "measure": 1.5}


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
    preflight(Costs(spread=0.2), space, [Limit.parse(f"latency_ms@cpu <= {low / 10 - 0.1}")], 0)  # type: ignore[arg-type]


def test_a_corner_that_fails_is_passed_over(space: Space) -> None:
    costs = Costs(frozenset({space.corners()[0].id}))
    preflight(costs, space, [Limit.parse("macs <= 1000")], 0)  # type: ignore[arg-type]
    assert costs.asked == 13
    with pytest.raises(InfeasibleError, match="of 12 architectures"):
        preflight(costs, space, [Limit.parse("macs <= 5")], 0)  # type: ignore[arg-type]


def test_limits_are_checked_among_probes(space: Space) -> None:
    probes = probe_space(Costs(), space, 0, 6)  # type: ignore[arg-type]
    assert [probe.role for probe in probes] == ["smallest", "middle", "largest"] + ["random"] * 6
    low, high = ends(space)
    limits = [Limit.parse(text) for text in (f"macs <= {low}", "macs <= 5", f"macs <= {high}", "top1 >= 0.9")]
    first, second, third, fourth = check_limits(probes, limits)
    assert (first.least, first.most, first.reachable) == (low, high, True) and first.middle is not None
    assert second.reachable is False and second.inside == 0 and second.sampled == 6
    assert third.inside == 6
    assert fourth.reachable is None and fourth.least is None
    assert first.to_dict()["limit"] == f"macs <= {low:g}"


def test_the_plan_counts_rungs_seeds_and_workers(space: Space) -> None:
    probes = [Probe("middle", space.middle(), {}, {"export": 0.5, "measure": 1.5})]
    study = {
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
    plan = time_plan(StudySpec.model_validate(study), probes, 0.1)
    assert plan["search_s"] == pytest.approx(10 * (2.0 + 0.7) / 2)  # 2 epochs, and half of them 10 more
    assert plan["verify_s"] == pytest.approx((4 * 3 * 1.0 + 4 * 2.0) / 2)
    assert plan["total_s"] == pytest.approx(plan["search_s"] + plan["verify_s"])
