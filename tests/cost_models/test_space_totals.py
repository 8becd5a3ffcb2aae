"""Totals by tables against those of written graphs."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.cost_models import AdditiveModel, totals
from hwnas.cost_models.fusion import channels_of_a_block
from hwnas.cost_models.space_graphs import written_graph
from hwnas.cost_models.space_totals import SpaceTotals, space_totals
from hwnas.profilers import Graph
from hwnas.spaces import Architecture, FBNet, Space, load_space

pytestmark = pytest.mark.skipif(channels_of_a_block() is None, reason="blocks of this processor are not known")

SPACES: dict[str, Space] = {
    "mobile 32": load_space(
        "mobile", input_shape=(3, 32, 32), num_classes=10, params={"width": [0.25, 0.75], "resolution": [16, 32]}
    ),
    "mobile 8": load_space("mobile", input_shape=(1, 8, 8), num_classes=10),
    "fbnet": load_space("fbnet"),
    "nasbench201": load_space(
        "nasbench201", params={"edge01": ["none", "nor_conv_1x1"], "edge02": "skip_connect", "edge23": "nor_conv_3x3"}
    ),
}
TABLES: dict[str, SpaceTotals] = {}


@pytest.fixture(params=SPACES)
def case(request: pytest.FixtureRequest) -> tuple[Space, SpaceTotals]:
    """A space and its tables, made once."""
    name = request.param
    if name not in TABLES:
        table = space_totals(SPACES[name])
        assert table is not None
        TABLES[name] = table
    return SPACES[name], TABLES[name]


def test_scores_are_those_of_written_graphs(case: tuple[Space, SpaceTotals]) -> None:
    space, table = case
    architectures = [space.random(f"scored {seed}") for seed in range(40)]
    written = [(one, graph) for one in architectures if (graph := written_graph(space, one)) is not None]
    assert len(written) > 20
    choices = table.indices([one for one, _ in written])
    x = np.array([totals(graph) for _, graph in written])
    assert table.totals(choices).tolist() == x.tolist()
    costs = np.random.default_rng(0).uniform(0.5, 1.5, x.shape[1]) / x.mean(axis=0).clip(1)
    model = AdditiveModel().fit_totals(x[:8], x[:8] @ costs)
    value, low, high, far = table.score(model, choices, rows=7)
    for place, (_, graph) in enumerate(written):
        said = model.predict(graph)
        assert (value[place], low[place], high[place]) == pytest.approx((said.value, said.low, said.high), rel=1e-9)
        assert far[place] == bool(said.outside)


def test_rows_and_architectures(case: tuple[Space, SpaceTotals]) -> None:
    space, table = case
    architectures = [space.random(seed) for seed in range(20)] + list(space.corners())
    assert [table.architecture(row) for row in table.indices(architectures)] == architectures
    rows = table.random(50, 0)
    assert rows.tolist() == table.random(50, 0).tolist() != table.random(50, 1).tolist()
    assert all(space.contains(table.architecture(row)) for row in rows)
    assert table.score(AdditiveModel().fit_totals(table.totals(rows), np.arange(1.0, 51.0)), rows[:0])[0].shape == (0,)


def test_an_option_that_is_none_of_the_space(case: tuple[Space, SpaceTotals]) -> None:
    space, table = case
    name, *_ = table.knobs
    made = space.random(0).as_dict() | {name: "something else"}
    with pytest.raises(KeyError):
        table.indices([Architecture(space.name, tuple(made.items()))])


def test_a_maximum_is_no_sum() -> None:
    def peak(graph: Graph) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([float(graph.peak_activation_bytes)])

    assert space_totals(SPACES["mobile 8"], totals_of=peak) is None


def test_no_fast_path() -> None:
    assert space_totals(SPACES["mobile 8"], "nothing") is None

    class Other(FBNet):
        pass

    assert space_totals(Other()) is None
