"""Who goes on to the next rung."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.search.rungs import RungBoard

SCORES = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=40)


def test_the_first_goes_on_and_nothing_comes_after_the_last_rung() -> None:
    board = RungBoard([0.1])
    assert board.goes_on(0, 0.0, [1.0])
    assert board.goes_on(1, 0.0, [9.0]) and board.goes_on(7, 0.0, [9.0])


def test_with_one_objective_the_best_share_goes_on() -> None:
    board = RungBoard([0.5])
    for score in range(10):
        assert board.goes_on(0, score, []), "each is the best so far"
    assert not board.goes_on(0, 0.5, [])
    assert board.goes_on(0, 8.5, [])


def test_a_small_network_competes_with_small_ones() -> None:
    board = RungBoard([0.3])
    for i in range(10):
        board.note(0, 0.9 + 0.001 * i, [10.0 - 0.001 * i])
    assert board.goes_on(0, 0.5, [1.0]), "bad, but by far the cheapest"
    assert not board.goes_on(0, 0.4, [11.0]), "bad and dear"


def test_keeping_all_keeps_all() -> None:
    board, rng = RungBoard([1.0]), random.Random(0)
    assert all(board.goes_on(0, rng.random(), [rng.random()]) for _ in range(50))


@settings(deadline=None, max_examples=40)
@given(SCORES, st.sampled_from([0.2, 0.5, 0.8]))
def test_what_was_noted_decides_as_what_was_decided(scores: list[tuple[int, int]], keep: float) -> None:
    """A driver that was killed and notes what it finds in the database decides like one that was not."""
    board = RungBoard([keep])
    decided = [board.goes_on(0, score, [float(cost)]) for score, cost in scores]
    for cut in range(len(scores)):
        resumed = RungBoard([keep])
        for score, cost in scores[:cut]:
            resumed.note(0, score, [float(cost)])
        assert resumed.goes_on(0, scores[cut][0], [float(scores[cut][1])]) == decided[cut]


@settings(deadline=None, max_examples=40)
@given(SCORES)
def test_one_that_nothing_dominates_goes_on_while_the_front_is_small(scores: list[tuple[int, int]]) -> None:
    board = RungBoard([0.5])
    for score, cost in scores:
        board.note(0, score, [float(cost)])
    assert board.goes_on(0, 21, [-1.0]), "it dominates all others"
