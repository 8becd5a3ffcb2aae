"""What every cost model does. No device is needed: graphs are synthetic, costs are additive but for noise."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from hwnas.cost_models import AdditiveModel, CostModel, Prediction
from hwnas.profilers import Graph, Node
from hwnas.profilers.graph import count_macs
from hwnas.spaces.errors import DataError, DiskError

MODELS: list[type[CostModel]] = [AdditiveModel]
NCHWC = "com.microsoft.nchwc"


@pytest.fixture(params=MODELS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[CostModel]:
    found: type[CostModel] = request.param
    return found


def convolution(name: str, out: int, into: int, side: int, kernel: int, group: int, activation: str) -> Node:
    weights = ((out, into // group, kernel, kernel),)
    inputs, outputs = ((1, into, side, side),), ((1, out, side, side),)
    return Node(
        name, "Conv", NCHWC, inputs, outputs, "float32", group, {"activation": activation},
        4 * math.prod(weights[0]), 4 * into * side * side, 4 * out * side * side,
        count_macs("Conv", inputs, weights, outputs), weights,
    )  # fmt: skip


def random_graph(rng: random.Random) -> Graph:
    """Inverted bottlenecks of random width, expansion, kernel and depth."""
    width, side = rng.choice([8, 16, 24, 32]), rng.choice([4, 8, 16])
    activation = rng.choice(["Relu", "HardSwish"])
    nodes = [convolution("stem", width, 8, side, 3, 1, activation)]
    for block in range(rng.randint(1, 8)):
        wide = width * rng.choice([2, 3, 6])
        nodes.append(convolution(f"{block}a", wide, width, side, 1, 1, activation))
        nodes.append(convolution(f"{block}b", wide, wide, side, rng.choice([3, 5, 7]), wide, activation))
        if rng.random() < 0.5:
            shape = ((1, wide, side, side),)
            size = 4 * wide * side * side
            nodes.append(Node(f"{block}m", "Mul", "", shape, shape, "float32", bytes_in=size, bytes_out=size))
        nodes.append(convolution(f"{block}c", width, wide, side, 1, 1, ""))
    return Graph(tuple(nodes), tuple((place, place + 1) for place in range(len(nodes) - 1)))


def cost_ms(graph: Graph) -> float:
    """A device whose time is additive: launches, dense and depthwise MACs, traffic."""
    depthwise = sum(node.macs for node in graph.nodes if node.depthwise)
    traffic = sum(node.bytes_in + node.bytes_out for node in graph.nodes)
    return 0.005 + 8e-4 * len(graph.nodes) + 3e-8 * (graph.macs - depthwise) + 8e-8 * depthwise + 2e-8 * traffic


def samples(count: int, seed: int = 0, noise: float = 0.02) -> tuple[list[Graph], list[float]]:
    rng = random.Random(seed)
    graphs = [random_graph(rng) for _ in range(count)]
    return graphs, [cost_ms(graph) * math.exp(rng.gauss(0, noise)) for graph in graphs]


def test_it_learns_an_additive_device_from_ten_samples(kind: type[CostModel]) -> None:
    graphs, values = samples(60)
    model = kind().fit(graphs[:10], values[:10])
    errors = [abs(model.predict(g).value / v - 1) for g, v in zip(graphs[10:], values[10:], strict=True)]
    assert sum(error <= 0.1 for error in errors) >= 0.8 * len(errors)


def test_more_samples_help(kind: type[CostModel]) -> None:
    def error(count: int) -> float:
        total = 0.0
        for seed in range(5):
            graphs, values = samples(count + 40, seed)
            model = kind().fit(graphs[:count], values[:count])
            rest = zip(graphs[-40:], values[-40:], strict=True)
            total += sum(abs(math.log(model.predict(graph).value / value)) for graph, value in rest)
        return total

    assert error(40) < error(6)


def test_intervals_cover(kind: type[CostModel]) -> None:
    hits = total = 0
    for seed in range(10):
        graphs, values = samples(50, seed, noise=0.05)
        model = kind().fit(graphs[:12], values[:12])
        for graph, value in zip(graphs[12:], values[12:], strict=True):
            said = model.predict(graph)
            hits += said.low <= value <= said.high
            total += 1
    assert 0.8 <= hits / total <= 1.0


@pytest.mark.parametrize("seed", range(5))
def test_predictions_are_positive_and_ordered(kind: type[CostModel], seed: int) -> None:
    graphs, values = samples(kind.min_samples, seed, noise=1.0)
    model = kind().fit(graphs, values)
    for graph in [*graphs, *samples(20, seed + 100)[0], Graph((), ())]:
        said = model.predict(graph)
        assert 0 < said.low <= said.value <= said.high < math.inf


def test_fitting_again_starts_afresh_and_is_repeatable(kind: type[CostModel]) -> None:
    graphs, values = samples(20)
    once = kind().fit(graphs[:10], values[:10])
    twice = kind().fit(graphs[10:], values[10:]).fit(graphs[:10], values[:10])
    assert [once.predict(graph) for graph in graphs] == [twice.predict(graph) for graph in graphs]


def test_scale_does_not_matter(kind: type[CostModel]) -> None:
    graphs, values = samples(12)
    small, large = kind().fit(graphs, values), kind().fit(graphs, [1e6 * value for value in values])
    for graph in graphs:
        assert large.predict(graph).value == pytest.approx(1e6 * small.predict(graph).value, rel=1e-6)


def test_save_and_load(kind: type[CostModel], tmp_path: Path) -> None:
    graphs, values = samples(12)
    model = kind().fit(graphs, values)
    path = tmp_path / "deep" / "model.json"
    model.save(path)
    assert json.loads(path.read_text())["schema_version"] == 2
    assert [p.name for p in path.parent.iterdir()] == ["model.json"], "nothing left aside"
    loaded = kind.load(path)
    assert [loaded.predict(graph) for graph in graphs] == [model.predict(graph) for graph in graphs]


def test_files_that_are_no_cost_model(kind: type[CostModel], tmp_path: Path) -> None:
    graphs, values = samples(12)
    path = tmp_path / "model.json"
    with pytest.raises(DataError, match=r"model\.json"):
        kind.load(path)
    kind().fit(graphs, values).save(path)
    text = path.read_text()
    data = json.loads(text)
    spoiled = [
        "", "[]", "{}", "[" * 5000, text[: len(text) // 2], text.replace('"schema_version": 2', '"schema_version": 99'),
        json.dumps({**data, "model": "another"}),
        *(json.dumps({key: value for key, value in data.items() if key != lost}) for lost in data),
    ]  # fmt: skip
    for content in spoiled:
        path.write_text(content)
        with pytest.raises(DataError, match=r"model\.json"):
            kind.load(path)


def test_a_place_that_cannot_be_written(kind: type[CostModel], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        kind().fit(*samples(12)).save(tmp_path / "file" / "model.json")


def test_too_little_or_bad_data(kind: type[CostModel]) -> None:
    graphs, values = samples(12)
    with pytest.raises(ValueError, match="at least"):
        kind().fit(graphs[: kind.min_samples - 1], values[: kind.min_samples - 1])
    with pytest.raises(ValueError, match="11 values"):
        kind().fit(graphs, values[:-1])
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            kind().fit(graphs, [*values[:-1], bad])
    with pytest.raises(ValueError, match="not fitted"):
        kind().predict(graphs[0])


@pytest.mark.parametrize(("value", "low", "high"), [(1, 0, 2), (1, 1.5, 2), (1, 0.5, 0.9), (1, 0.5, math.inf)])
def test_a_prediction_is_consistent(value: float, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="low <= value"):
        Prediction(value, low, high)
