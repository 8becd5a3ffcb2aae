"""Statistics of blocks, and what a runner may not answer."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.profilers import Energy, Measurement
from hwnas.profilers.measurement import pool
from hwnas.profilers.protocol import MARGIN, MOST_CORRECTED, floor_ms, interval_ms, settled
from hwnas.spaces.errors import CandidateError

TIMES = st.floats(1e-3, 1e3)
BLOCKS = st.lists(st.lists(TIMES, min_size=1, max_size=5).map(tuple), min_size=1, max_size=30).map(tuple)


CALM = {"slowdown": 1.0, "others": 0.0, "steal": 0.0, "throttled": False}


@settings(deadline=None, max_examples=50)
@given(blocks=BLOCKS)
def test_the_statistics_are_in_order(blocks: tuple[tuple[float, ...], ...]) -> None:
    made = Measurement(blocks)
    most = max(max(block) for block in blocks)
    assert made.min_ms * (1 - MARGIN) <= made.low_ms < made.latency_ms < made.high_ms <= most * (1 + MARGIN)
    assert made.min_ms <= made.median_ms <= made.p90_ms <= made.p99_ms <= max(max(block) for block in blocks)
    assert Measurement.from_json(json.loads(json.dumps(made.to_json()))) == Measurement(
        blocks, conditions={}, fingerprint={}
    )


def test_a_disturbance_that_comes_and_goes_does_not_move_the_latency() -> None:
    rng = random.Random(0)
    plain = [tuple(1 + 0.01 * rng.random() for _ in range(3)) for _ in range(100)]
    slowed = [tuple(v * (1.4 if place % 10 else 1.0) for v in block) for place, block in enumerate(plain)]
    one, other = Measurement(tuple(plain)), Measurement(tuple(slowed))
    assert other.latency_ms == pytest.approx(one.latency_ms, rel=0.005)
    assert other.median_ms > 1.3 * one.median_ms


def test_what_slows_everything_is_divided_out_and_widens_the_interval() -> None:
    blocks = ((1.0, 1.0, 1.0),) * 30
    made = Measurement(tuple(tuple(1.02 * v for v in block) for block in blocks), conditions={**CALM, "slowdown": 1.02})
    assert made.latency_ms == pytest.approx(1.0)
    assert made.low_ms == pytest.approx((1 - MARGIN) * 1.02 / 1.02**1.5)
    assert made.high_ms == pytest.approx((1 + MARGIN) * 1.02)
    assert made.quality == "ok"


def test_a_latency_stays_near_times_that_were_seen() -> None:
    made = Measurement(((1.0,) * 3,) * 30, conditions={**CALM, "slowdown": 1.4})
    assert made.latency_ms == pytest.approx(1 / MOST_CORRECTED) and made.quality == "noisy"
    assert made.low_ms < 1 / 1.4 and made.high_ms > 1.0


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ({"slowdown": 1.1}, "10% slower than usual"),
        ({"others": 0.9}, "90% of the other cores"),
        ({"steal": 0.2}, "the host took 20%"),
        ({"throttled": True}, "throttled"),
    ],
)
def test_what_disturbs_is_said(condition: dict[str, object], reason: str) -> None:
    made = Measurement(((1.0,),) * 20, conditions={**CALM, **condition})
    assert made.quality == "noisy" and any(reason in said for said in made.disturbances)
    assert Measurement(((1.0,),) * 20, conditions=CALM).quality == "ok"


def test_a_wide_interval_is_noisy() -> None:
    wide = Measurement(((1.0,), (2.0,), (1.5,), (2.0,), (3.0,)))
    assert wide.quality == "noisy" and "wide" in wide.disturbances[0]


def test_disturbed_blocks_do_not_count_for_the_median() -> None:
    blocks = tuple((1.0, 1.0) if place % 2 else (2.0, 2.0) for place in range(40))
    made = Measurement(blocks, disturbance=tuple(1.0 if place % 2 else 1.4 for place in range(40)))
    assert made.median_ms == made.p99_ms == 1.0
    assert made.samples == 80, "all are kept"


def attempt(value: float, slowdown: float = 1.0, usual_s: float = 1e-4, **conditions: object) -> Measurement:
    told = {**CALM, "slowdown": slowdown, "usual_s": usual_s, "reference_s": usual_s * slowdown, **conditions}
    return Measurement(((value,) * 3,) * 20, conditions=told, disturbance=(slowdown,) * 20)


def test_a_calm_attempt_stands_for_all() -> None:
    pooled = pool([attempt(1.5, others=1.0), attempt(1.0), attempt(1.4, others=1.0)])
    assert (pooled.latency_ms, pooled.quality, pooled.samples) == (1.0, "ok", 180)
    assert pooled.conditions and len(pooled.conditions["parts"]) == 3


def test_disturbed_attempts_are_pooled_and_their_difference_is_the_interval() -> None:
    pooled = pool([attempt(1.5, others=1.0), attempt(1.2, others=1.0)])
    assert pooled.latency_ms == 1.2
    assert (pooled.low_ms, pooled.high_ms) == pytest.approx((1.2 * (1 - MARGIN), 1.5 * (1 + MARGIN)))
    assert pooled.quality == "noisy" and len(pooled.disturbances) == 2


def test_a_faster_reference_found_later_counts_for_all_attempts() -> None:
    pooled = pool([attempt(1.1, usual_s=1.1e-4), attempt(1.0, usual_s=1e-4)])
    assert pooled.conditions and pooled.conditions["parts"][0]["slowdown"] == pytest.approx(1.1)
    assert pooled.latency_ms == 1.0, "the first was taken on a slow machine after all"
    again = pool([pooled, attempt(1.0)])
    assert again.conditions and len(again.conditions["parts"]) == 3
    assert Measurement.from_json(json.loads(json.dumps(again.to_json()))).latency_ms == 1.0


def test_the_interval_covers_the_floor() -> None:
    rng = random.Random(0)
    drawn = [[1 + rng.lognormvariate(-4, 1) for _ in range(3)] for _ in range(20_000)]
    floor = floor_ms([value for block in drawn for value in block])
    hits = sum(low <= floor <= high for low, high in (interval_ms(rng.sample(drawn, 150)) for _ in range(200)))
    assert hits >= 0.8 * 200


def test_settled_means_a_narrow_interval_beside_a_quiet_reference() -> None:
    rng = random.Random(0)
    narrow = [[1 + 0.001 * rng.random()] * 3 for _ in range(30)]
    quiet = [1e-4] * 31
    assert settled(narrow, quiet, None) and settled(narrow, quiet, 1e-4)
    assert not settled([[1 + rng.random()] * 3 for _ in range(30)], quiet, None)
    assert not settled(narrow, quiet, 0.9e-4), "all of it was slow"
    assert not settled(narrow, [1e-4, *[1.4e-4] * 30], None), "too few blocks were quiet"


def test_many_attempts_may_have_many_samples() -> None:
    one = Measurement(((1.0,) * 90_000,), conditions=CALM)
    pooled = pool([one, one, one])
    assert Measurement.from_json(json.loads(json.dumps(pooled.to_json()))).samples == 270_000


def test_each_block_knows_its_process() -> None:
    pooled = pool([attempt(1.0, process=7), attempt(1.1, process=8)])
    assert pooled.processes == (7,) * 20 + (8,) * 20


def energy(value: float | None) -> Energy:
    if value is None:
        return Energy("missing", "rapl", reason="silent")
    return Energy("measured", "rapl", energy_mj=value, low_mj=0.9 * value, high_mj=1.1 * value)


@pytest.mark.parametrize(
    ("told", "value", "ends"),
    [([None, 2.0], 2.0, (1.8, 2.2)), ([3.0, 1.0, 2.0], 2.0, (0.9, 3.3)), ([None, None], None, (None, None))],
)
def test_energy_that_was_measured_counts(
    told: list[float | None], value: float | None, ends: tuple[float | None, float | None]
) -> None:
    pooled = pool([replace(attempt(1.0), energy=energy(one)) for one in told]).energy
    assert pooled is not None and pooled.energy_mj == value
    assert (pooled.low_mj, pooled.high_mj) == (pytest.approx(ends) if value else ends)


def test_an_estimate_is_of_the_pooled_latency() -> None:
    def estimated(value: float) -> Measurement:
        told = Energy("estimated", "model", energy_mj=5 * value, low_mj=4.9 * value, high_mj=5.1 * value, reason="5 W")
        return replace(attempt(value), energy=told)

    pooled = pool([estimated(1.2), estimated(1.0)])
    assert pooled.energy is not None and pooled.energy.energy_mj == pytest.approx(5 * pooled.latency_ms)


HOSTILE = [
    {},
    {"blocks": []},
    {"blocks": [[]]},
    {"blocks": [[1.0], []]},
    {"blocks": [[0.0]]},
    {"blocks": [[-1.0]]},
    {"blocks": [[float("nan")]]},
    {"blocks": [[float("inf")]]},
    {"blocks": [["1.0"]]},
    {"blocks": [[True]]},
    {"blocks": [[None]]},
    {"blocks": 3},
    {"blocks": [3]},
    {"blocks": [[1.0]], "disturbance": [1.0, 1.0]},
    {"blocks": [[1.0]], "disturbance": [0.0]},
    {"blocks": [[1.0]], "surprise": 1},
    {"blocks": [[1.0]], "conditions": 7},
    {"blocks": [[1.0] * 100_001]},
    {"blocks": [[1.0]], "conditions": {"parts": [{"blocks": 2}]}},
    {"blocks": [[1.0]], "conditions": {"parts": [{"blocks": 1}, {"blocks": 0}]}},
    {"blocks": [[1.0]], "conditions": {"parts": [{}]}},
    {"blocks": [[1.0]], "conditions": {"parts": 3}},
    {"blocks": [[1.0]], "conditions": {"slowdown": "slow"}},
    {"blocks": [[1.0]], "conditions": {"slowdown": -1.0}},
    {"blocks": [[1.0]], "conditions": {"others": []}},
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers(answer: dict[str, object]) -> None:
    with pytest.raises(CandidateError) as raised:
        Measurement.from_json(answer)
    assert raised.value.code == "bad_result"
