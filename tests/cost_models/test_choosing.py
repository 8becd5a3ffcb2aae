"""Which way of executing a synthetic device takes: known costs and noise, no data of others."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.cost_models import AdditiveModel, totals
from hwnas.cost_models.choosing import choose
from hwnas.cost_models.nasbench201_graph import How, nasbench201_graph
from hwnas.cost_models.sampling import designed
from hwnas.spaces import NasBench201

WAYS: dict[str, How] = {"eager": "eager", "converted": "multiplied"}


@pytest.fixture(scope="module")
def tables() -> dict[str, np.ndarray]:
    space = NasBench201()
    cells = [cell for cell in (space.cell_of(space.random(str(seed))) for seed in range(170)) if cell.live][:150]
    return {
        way: np.array([totals(nasbench201_graph(cell, how, (3, 16, 16))) for cell in cells])
        for way, how in WAYS.items()
    }


def measured(x: np.ndarray, noise: float, seed: int) -> np.ndarray:
    """A device with costs of its own per unit, drawn with the seed."""
    rng = np.random.default_rng(seed)
    shares = rng.uniform(0.5, 1.5, x.shape[1])
    usual = x.mean(axis=0)
    return np.asarray((x * (shares / np.where(usual > 0, usual, 1))).sum(axis=1) * np.exp(rng.normal(0, noise, len(x))))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_ten_designed_samples_tell_the_way_and_the_costs(tables: dict[str, np.ndarray], way: str, seed: int) -> None:
    ms = measured(tables[way], 0.02, seed)
    rows = designed(np.hstack(list(tables.values())), 10, seed, 0.0)
    chosen = choose({key: x[rows] for key, x in tables.items()}, ms[rows])
    assert chosen.way == way
    said, low, high = chosen.model.predict_totals(tables[way])
    assert np.mean(np.abs(said / ms - 1) <= 0.1) >= 0.9
    assert np.mean((low <= ms) & (ms <= high)) >= 0.8


def test_of_equals_the_first_is_taken(tables: dict[str, np.ndarray]) -> None:
    x = tables["eager"]
    ms = measured(x, 0.02, 0)
    assert choose({"a": x[:10], "b": x[:10]}, ms[:10], [1e-3]).way == "a"
    with pytest.raises(ValueError, match="at least one way"):
        choose({}, ms[:10])
    with pytest.raises(ValueError, match="at least"):
        choose({"a": x[:3]}, ms[:3])


def test_many_samples_are_left_out_in_folds(tables: dict[str, np.ndarray]) -> None:
    x = tables["eager"]
    ms = measured(x, 0.05, 1)
    model = AdditiveModel().fit_totals(x[:100], ms[:100])
    assert len(model.left_out) == 100 and len({tuple(costs) for costs, _ in model.left_out}) <= 40
    said, low, high = model.predict_totals(x[100:])
    assert 0.8 <= np.mean((low <= ms[100:]) & (ms[100:] <= high)) <= 1
    assert 0.02 < model.left_out_error < 0.1
    one = AdditiveModel.from_json(model.to_json()).predict_totals(x[100:101])
    assert one[0][0] == pytest.approx(said[0])
    with pytest.raises(ValueError, match="not fitted"):
        _ = AdditiveModel().left_out_error
