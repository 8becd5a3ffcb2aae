"""Statistics of blocks, and what a runner may not answer."""

from __future__ import annotations

import json
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.profilers import Measurement
from hwnas.profilers.measurement import ENOUGH_QUIET, _interval
from hwnas.spaces.errors import CandidateError

TIMES = st.floats(1e-3, 1e3)
BLOCKS = st.lists(st.lists(TIMES, min_size=1, max_size=5).map(tuple), min_size=1, max_size=30).map(tuple)


@settings(deadline=None, max_examples=50)
@given(blocks=BLOCKS)
def test_the_statistics_are_in_order(blocks: tuple[tuple[float, ...], ...]) -> None:
    made = Measurement(blocks)
    assert made.min_ms <= made.low_ms <= made.median_ms <= made.high_ms
    assert made.min_ms <= made.p90_ms <= made.p99_ms <= max(max(block) for block in blocks)
    assert Measurement.from_json(json.loads(json.dumps(made.to_json()))) == Measurement(
        blocks, conditions={}, fingerprint={}
    )


def test_disturbed_blocks_are_kept_but_not_used() -> None:
    blocks = tuple((1.0, 1.0) if place % 2 else (2.0, 2.0) for place in range(40))
    made = Measurement(blocks, disturbance=tuple(1.0 if place % 2 else 1.4 for place in range(40)))
    assert made.median_ms == made.low_ms == made.high_ms == 1.0
    assert (made.quality, made.quiet_blocks, len(made.blocks)) == ("ok", 20, 40)


def test_without_quiet_blocks_the_fastest_samples_count() -> None:
    blocks = tuple((2.0,) * 9 + (1.0,) for _ in range(20))
    made = Measurement(blocks, disturbance=(1.4,) * 20)
    assert (made.low_ms, made.median_ms, made.high_ms) == (1.0, 1.0, 2.0)
    assert (made.quality, made.quiet_blocks) == ("noisy", 0)


def test_few_quiet_blocks_are_used_and_flagged() -> None:
    ratios = (1.0,) * (ENOUGH_QUIET - 1) + (1.5,) * 20
    made = Measurement(tuple((ratio,) for ratio in ratios), disturbance=ratios)
    assert (made.median_ms, made.quality) == (1.0, "noisy")


def test_a_wide_interval_is_noisy() -> None:
    assert Measurement(((1.0,), (2.0,), (1.0,), (2.0,), (3.0,))).quality == "noisy"
    assert Measurement(((1.0,),) * 20).quality == "ok"


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9, 10, 50, 200, 201, 1000])
def test_the_interval_is_inside_and_symmetric(count: int) -> None:
    low, high = _interval(count)
    assert 0 <= low <= (count - 1) / 2 <= high < count
    assert abs(low + high - (count - 1)) <= 1


def test_the_interval_covers_the_median() -> None:
    import random

    rng = random.Random(0)
    hits = 0
    for _ in range(400):
        drawn = tuple((rng.lognormvariate(0, 0.3),) for _ in range(31))
        made = Measurement(drawn)
        hits += made.low_ms <= 1.0 <= made.high_ms
    assert hits >= 0.87 * 400


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
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers(answer: dict[str, object]) -> None:
    with pytest.raises(CandidateError) as raised:
        Measurement.from_json(answer)
    assert raised.value.code == "bad_result"


def test_the_median_is_that_of_block_medians() -> None:
    blocks = ((1.0, 9.0, 1.0), (2.0, 2.0, 2.0), (3.0, 3.0, 0.5))
    assert Measurement(blocks).median_ms == statistics.median([1.0, 2.0, 3.0])
