"""Pareto code against its definitions, optuna and moocore."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import moocore
import numpy as np
import numpy.typing as npt
import optuna
import pytest
from hypothesis import given, settings

from hwnas.search.pareto import crowding, hypervolume, knee, nondominated, ranks

Floats = npt.NDArray[np.float64]
quick = settings(max_examples=80, deadline=None)


@st.composite
def tables(draw: st.DrawFn, objectives: tuple[int, int] = (1, 4), rows: tuple[int, int] = (1, 14)) -> Floats:
    """Small tables of few values, so that ties and duplicates are common."""
    m = draw(st.integers(*objectives))
    n = draw(st.integers(*rows))
    cells = draw(st.lists(st.integers(0, 6), min_size=n * m, max_size=n * m))
    return np.array(cells, dtype=float).reshape(n, m)


def dominates(a: Floats, b: Floats) -> bool:
    return bool((a <= b).all() and (a < b).any())


@quick
@given(tables())
def test_nondominated_is_its_definition(values: Floats) -> None:
    expected = [not any(dominates(b, a) for b in values) for a in values]
    assert nondominated(values).tolist() == expected
    assert nondominated(values).tolist() == moocore.is_nondominated(values, keep_weakly=True).tolist()


@quick
@given(tables(objectives=(2, 4)))
def test_nondominated_agrees_with_optuna(values: Floats) -> None:
    study = optuna.create_study(directions=["minimize"] * values.shape[1])
    study.add_trials([optuna.trial.create_trial(values=list(row)) for row in values])
    best = {trial.number for trial in study.best_trials}
    assert set(np.flatnonzero(nondominated(values)).tolist()) == best


@quick
@given(tables())
def test_ranks_peel_fronts(values: Floats) -> None:
    rank = ranks(values)
    assert (rank == 0).tolist() == nondominated(values).tolist()
    for i, a in enumerate(values):
        above = [rank[j] for j, b in enumerate(values) if dominates(b, a)]
        assert rank[i] == (max(above) + 1 if above else 0)


@quick
@given(tables(), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(values: Floats, rng: Any) -> None:
    order = list(range(len(values)))
    rng.shuffle(order)
    shuffled = values[order]
    assert nondominated(shuffled).tolist() == nondominated(values)[order].tolist()
    assert ranks(shuffled).tolist() == ranks(values)[order].tolist()
    assert crowding(shuffled).tolist() == crowding(values)[order].tolist()
    first, second = knee(values), knee(shuffled)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert values[first].tolist() == shuffled[second].tolist()


@quick
@given(tables())
def test_monotone_scaling_keeps_dominance(values: Floats) -> None:
    assert nondominated(np.exp(values) * 3 - 7).tolist() == nondominated(values).tolist()
    assert ranks(values**3 + values).tolist() == ranks(values).tolist()


@quick
@given(tables(), st.lists(st.floats(0.01, 100), min_size=4, max_size=4))
def test_a_change_of_unit_keeps_the_knee(values: Floats, factors: list[float]) -> None:
    assert knee(values * np.array(factors[: values.shape[1]])) == knee(values)


@quick
@given(tables(), st.integers(1, 7))
def test_hypervolume_agrees_with_moocore_and_optuna(values: Floats, corner: int) -> None:
    from optuna._hypervolume import compute_hypervolume

    reference = np.full(values.shape[1], float(corner))
    ours = hypervolume(values, reference)
    assert ours == pytest.approx(moocore.hypervolume(values, ref=reference))
    inside = values[(values <= reference).all(axis=1)]
    theirs = compute_hypervolume(inside, reference) if len(inside) else 0.0
    assert ours == pytest.approx(theirs)


@quick
@given(tables())
def test_hypervolume_ignores_duplicates_and_dominated_points(values: Floats) -> None:
    reference = np.full(values.shape[1], 7.0)
    full = hypervolume(values, reference)
    assert hypervolume(np.vstack([values, values]), reference) == pytest.approx(full)
    assert hypervolume(values[nondominated(values)], reference) == pytest.approx(full)
    assert hypervolume(values[:-1], reference) <= full + 1e-9 if len(values) > 1 else True


@quick
@given(tables(objectives=(2, 4)))
def test_knee_lies_on_the_front(values: Floats) -> None:
    index = knee(values)
    assert index is None or nondominated(values)[index]


def test_knee_of_a_plain_front() -> None:
    assert knee([[0, 10], [1, 4], [2, 3], [10, 0]]) == 1
    assert knee([[0, 10], [1, 4], [2, 3], [10, 0], [5, 20]]) == 1


@pytest.mark.parametrize(
    "values",
    [np.empty((0, 2)), [[1, 2]], [[1, 2], [2, 1]], [[0, 2], [1, 1], [2, 0]], [[0, 4], [3, 3], [4, 0]], [[1], [2], [3]]],
    ids=["none", "one", "two", "straight", "bulging away", "one objective"],
)
def test_no_knee(values: npt.ArrayLike) -> None:
    assert knee(values) is None


def test_crowding_of_a_plain_front() -> None:
    assert crowding([[0, 4], [1, 2], [4, 0]]).tolist() == [np.inf, 2.0, np.inf]
    assert crowding([[1, 1], [1, 1]]).tolist() == [0, 0]


def test_hypervolume_by_hand() -> None:
    assert hypervolume([[1, 3], [2, 2], [3, 1]], [4, 4]) == 6
    assert hypervolume([[5, 5]], [4, 4]) == 0
    assert hypervolume(np.empty((0, 2)), [4, 4]) == 0
    assert hypervolume([[2], [3]], [4]) == 2


@pytest.mark.parametrize("values", [[1.0, 2.0], [[np.nan, 1.0]], [[np.inf, 1.0]], np.empty((3, 0))])
def test_values_that_are_no_table_are_refused(values: npt.ArrayLike) -> None:
    for function in (nondominated, ranks, crowding, knee):
        with pytest.raises(ValueError, match=r"finite|expected an \(n, m\) array"):
            function(values)


def test_a_reference_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="3 values for 2 objectives"):
        hypervolume([[1, 2]], [1, 2, 3])
