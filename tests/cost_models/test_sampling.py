"""The choice of samples: reproducible, better than chance, and honest about what it cannot do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.cost_models.sampling import d_optimal, designed

RNG = np.random.default_rng(0)
FEATURES = np.column_stack([np.ones(300), RNG.integers(0, 6, (300, 3)) * [1, 1e6, 1e-3]])


def logdet(rows: list[int]) -> float:
    x = FEATURES[rows] / np.sqrt((FEATURES**2).mean(axis=0))
    return float(np.linalg.slogdet(x.T @ x)[1])


def test_it_tells_more_than_any_of_many_random_choices() -> None:
    chosen = logdet(d_optimal(FEATURES, 8))
    rng = np.random.default_rng(1)
    assert all(chosen > logdet(rng.choice(300, 8, replace=False).tolist()) for _ in range(200))


def test_on_a_line_it_takes_the_ends() -> None:
    line = np.column_stack([np.ones(11), np.arange(11.0)])
    assert d_optimal(line, 2) == [0, 10]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5), st.floats(0, 1))
def test_rows_differ_and_are_reproducible(count: int, seed: int, at_random: float) -> None:
    rows = designed(FEATURES, count, seed, at_random)
    assert len(set(rows)) == len(rows) == count and all(0 <= row < 300 for row in rows)
    assert rows == designed(FEATURES, count, seed, at_random)


def test_units_do_not_matter() -> None:
    assert d_optimal(FEATURES, 6) == d_optimal(FEATURES * [1e3, 1e-3, 10, 1e5], 6)


def test_a_part_is_at_random() -> None:
    first, second = designed(FEATURES, 10, 0, 0.4), designed(FEATURES, 10, 0, 0.0)
    assert first[:6] == d_optimal(FEATURES, 6, 0, first[6:]) and second == d_optimal(FEATURES, 10, 0)
    assert designed(FEATURES, 20, 0, 0.4)[12:] != first[6:] and not set(first[:6]) & set(first[6:])


def test_the_design_adds_to_what_is_measured_anyway() -> None:
    line = np.column_stack([np.ones(11), np.arange(11.0)])
    assert d_optimal(line, 1, kept=[0]) == [10]
    known = np.random.default_rng(2).choice(300, 4, replace=False).tolist()
    together = logdet(known + d_optimal(FEATURES, 6, kept=known))
    assert together > logdet(known + d_optimal(FEATURES, 6))
    with pytest.raises(ValueError, match="cannot choose 8 of 7"):
        d_optimal(line, 8, kept=[0, 1, 2, 3])


def test_all_and_more_samples_than_features_and_equal_rows() -> None:
    assert d_optimal(FEATURES[:5], 5) == [0, 1, 2, 3, 4]
    assert len(d_optimal(np.ones((9, 4)), 7)) == 7
    assert len(d_optimal(np.zeros((9, 4)), 3)) == 3


@pytest.mark.parametrize("count", [0, -1, 301])
def test_counts_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match="cannot choose"):
        d_optimal(FEATURES, count)
    with pytest.raises(ValueError, match="cannot choose"):
        designed(FEATURES, count)


def test_features_that_are_none() -> None:
    with pytest.raises(ValueError, match="finite"):
        d_optimal(np.array([[1.0, np.nan]]), 1)
    with pytest.raises(ValueError, match="finite"):
        d_optimal(np.ones(3), 1)
    with pytest.raises(ValueError, match="share at random"):
        designed(FEATURES, 3, 0, 1.5)


def test_more_rows_are_chosen_for_what_those_kept_do_not_tell() -> None:
    first = designed(FEATURES, 6, 3)
    more = designed(FEATURES, 6, 3, at_random=0.0, kept=first)
    assert len(set(more)) == 6 and not set(more) & set(first)
    alone = designed(FEATURES, 6, 4, at_random=0.0)
    assert logdet(first + more) >= logdet(first + alone) - 1e-9
    line = np.column_stack([np.ones(11), np.arange(11.0)])
    assert d_optimal(line, 1, kept=[0]) == [10]
    with pytest.raises(ValueError, match="cannot choose 10 of 9"):
        d_optimal(line, 10, kept=[0, 10])
    assert not set(designed(FEATURES, 6, 3, kept=first)) & set(first)
