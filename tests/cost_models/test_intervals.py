"""Intervals hold what they promise on synthetic errors; what is told by random samples is told by them alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t

from hwnas.cost_models import AdditiveModel
from hwnas.cost_models.intervals import half_width, ordinary

RNG = np.random.default_rng(0)
X = np.column_stack([np.ones((200, 1)), RNG.integers(1, 9, (200, 10)) * np.logspace(0, 6, 10)])
COSTS = 1 / X.mean(axis=0)


def measured(noise: float, seed: int = 0) -> np.ndarray:
    return np.asarray((X @ COSTS) * np.exp(np.random.default_rng(seed).normal(0, noise, len(X))))


def test_from_nine_errors_on_it_is_the_conformal_quantile() -> None:
    errors = [0.01 * place for place in range(1, 20)]
    assert half_width(errors) == pytest.approx(0.18), "rank 18 of 19"
    assert half_width([-error for error in errors]) == half_width(errors)
    assert half_width(errors[:9]) == pytest.approx(0.09), "the largest of nine"
    assert half_width(errors[:10]) == pytest.approx(0.099), "between the ranks 9 and 10"


def test_fewer_errors_have_students_t() -> None:
    assert half_width([0.1, -0.1, 0.1, 0.1]) == pytest.approx(0.1 * t.ppf(0.95, 4))
    assert half_width([0.0, 0.0, 0.0]) == 0.0


@pytest.mark.parametrize("count", [4, 8, 9, 13, 20])
@pytest.mark.parametrize("heavy", [False, True])
def test_nine_in_ten_are_inside(count: int, heavy: bool) -> None:
    rng = np.random.default_rng(count)
    draw = rng.standard_t(4, (4000, count + 1)) if heavy else rng.normal(size=(4000, count + 1))
    inside = [abs(row[-1]) <= half_width(row[:-1]) for row in draw]
    assert 0.88 <= np.mean(inside) <= 0.93


def test_never_narrower_than_the_noise() -> None:
    assert half_width([0.001] * 10, noise=0.02) == pytest.approx(0.0329)


def test_random_samples_tell_alone_where_there_are_three() -> None:
    errors = [0.5, 0.5, 0.1, 0.2, 0.3]
    assert ordinary(errors, [False, False, True, True, True]).tolist() == [0.1, 0.2, 0.3]
    assert ordinary(errors, [False, False, False, True, True]).tolist() == errors
    assert ordinary(errors).tolist() == errors
    with pytest.raises(ValueError, match="5 errors but 2 marks"):
        ordinary(errors, [True, False])
    with pytest.raises(ValueError, match="12 errors but 2 marks"):
        AdditiveModel().fit_totals(X[:12], measured(0.01)[:12], at_random=[True, False])


def test_an_exact_sum_has_narrow_intervals() -> None:
    model = AdditiveModel(1e-9).fit_totals(X[:40], measured(0)[:40])
    value, low, high = model.predict_totals(X[40:])
    assert (high / low < 1.01).all() and (low < value).all() and (value < high).all()
    model = AdditiveModel(1e-9).fit_totals(X[:40], measured(0)[:40], noise=0.03)
    value, low, high = model.predict_totals(X[40:])
    assert high / value == pytest.approx(np.exp(1.645 * 0.03), rel=1e-3)


def test_designed_samples_do_not_widen_them() -> None:
    y = measured(0.02)
    y[:4] *= [1.5, 0.6, 1.4, 0.7]  # where the model does not hold
    marks = [place >= 4 for place in range(40)]
    of_all, of_random = (AdditiveModel().fit_totals(X[:40], y[:40], at_random=at) for at in ([], marks))
    width_all, width_random = ((m.predict_totals(X[40:])[2] / m.predict_totals(X[40:])[0]) for m in (of_all, of_random))
    assert np.median(width_random) < np.median(width_all)
    loaded = AdditiveModel.from_json(of_random.to_json())
    assert (loaded.predict_totals(X[40:])[2] == of_random.predict_totals(X[40:])[2]).all()


def test_networks_unlike_the_samples_have_wider_intervals() -> None:
    model = AdditiveModel().fit_totals(X[:20], measured(0.05)[:20])
    odd = np.zeros((1, X.shape[1]))
    odd[0, 3] = 100 * X[:, 3].max()
    usual, far = (float(np.median(np.divide(*model.predict_totals(x)[2::-2]))) for x in (X[20:], odd))
    assert far > 1.2 * usual


def test_one_spoiled_measurement_does_not_decide() -> None:
    y = measured(0.02)
    spoiled = y.copy()
    spoiled[3] *= 3
    said = AdditiveModel().fit_totals(X[:20], spoiled[:20]).predict_totals(X[20:])[0]
    assert np.mean(np.abs(said / y[20:] - 1) <= 0.1) >= 0.8
