"""Figures of accuracy against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwnas.cost_models import Prediction
from hwnas.cost_models.accuracy import accuracy, interval_accuracy, paired_ceiling


def test_figures() -> None:
    found = accuracy([1.0, 2.1, 2.7, 4.8], [1.0, 2.0, 3.0, 4.0])
    assert found.spearman == pytest.approx(1) and found.kendall == pytest.approx(1)
    assert found.mape == pytest.approx((0 + 0.05 + 0.1 + 0.2) / 4)
    assert found.within_10 == 0.75
    assert found.to_json()["mape"] == found.mape
    swapped = accuracy([2, 1, 3], [1, 2, 3])
    assert swapped.spearman == pytest.approx(0.5) and swapped.kendall == pytest.approx(1 / 3)


def test_a_constant_has_no_ranks() -> None:
    found = accuracy([2.0, 2.0], [1.0, 2.0])
    assert math.isnan(found.spearman) and math.isnan(found.kendall) and found.within_5 == 0.5


@pytest.mark.parametrize(
    ("said", "true", "message"),
    [
        ([1.0], [1.0], "at least two"),
        ([1.0, 2.0], [1.0], "2 predictions but 1"),
        ([1.0, math.nan], [1.0, 2.0], "finite"),
        ([1.0, 2.0], [0.0, 2.0], "above 0"),
        ([1.0, 2.0], [math.inf, 2.0], "finite"),
    ],
)
def test_what_has_no_accuracy(said: list[float], true: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy(said, true)


def test_intervals() -> None:
    told = [Prediction(1, 0.9, 1.1), Prediction(2, 1.0, 3.0), Prediction(1, 0.8, 1.2)]
    share, width = interval_accuracy(told, [1.1, 3.1, 0.7])
    assert share == pytest.approx(1 / 3) and width == pytest.approx(0.2)
    for measured in ([], [1.0]):
        with pytest.raises(ValueError, match="intervals but"):
            interval_accuracy(told, measured)


def test_the_ceiling_is_what_the_truth_itself_reaches() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=4000)
    first, second = (truth + 0.5 * rng.normal(size=4000) for _ in range(2))
    assert paired_ceiling(first, second) == pytest.approx(accuracy(truth, np.exp(first)).spearman, abs=0.01)
    assert paired_ceiling(truth, truth) == pytest.approx(1)
    with pytest.raises(ValueError, match="three pairs"):
        paired_ceiling([1.0], [2.0])
