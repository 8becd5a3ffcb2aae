"""What every cost model does. No device is needed: graphs are synthetic, costs are additive but for noise."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.cost_models import AdditiveModel, CostModel, Prediction, Sample, TotalsModel, fit_model
from hwnas.cost_models.additive_gp import AdditiveGpModel
from hwnas.cost_models.auto import AutoModel
from hwnas.cost_models.bank import BankEntry, bank_of
from hwnas.cost_models.fitted import USES
from hwnas.cost_models.lookup import LookupModel, TableRow, table_of
from hwnas.cost_models.memory import MemoryModel
from hwnas.cost_models.model import model_class, model_names
from hwnas.cost_models.roofline import Peaks, RooflineModel
from hwnas.cost_models.transfer import TransferModel
from hwnas.cost_models.trees import TreesModel
from hwnas.profilers import Graph, Node
from hwnas.profilers.graph import count_macs
from hwnas.spaces.errors import DataError, DiskError, UsageError

ON_TOTALS: list[type[TotalsModel]] = [AdditiveModel, AdditiveGpModel, TransferModel, AutoModel, TreesModel]
LEARNERS: list[type[CostModel]] = [*ON_TOTALS, LookupModel]
MODELS: list[type[CostModel]] = [*LEARNERS, MemoryModel, RooflineModel]
NCHWC = "com.microsoft.nchwc"


@pytest.fixture(params=MODELS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[CostModel]:
    found: type[CostModel] = request.param
    return found


@pytest.fixture(params=LEARNERS, ids=lambda kind: kind.name)
def learner(request: pytest.FixtureRequest) -> type[CostModel]:
    """Learns latencies from measured networks."""
    found: type[CostModel] = request.param
    return found


@pytest.fixture(params=ON_TOTALS, ids=lambda kind: kind.name)
def on_totals(request: pytest.FixtureRequest) -> type[TotalsModel]:
    found: type[TotalsModel] = request.param
    return found


def new(kind: type[CostModel]) -> CostModel:
    """An unfitted model, with what it needs beside the samples."""
    if kind is LookupModel:
        return LookupModel(kernel_table())
    if kind is RooflineModel:
        return RooflineModel(Peaks(30.0, 10.0, 0.5))
    if kind in (TransferModel, AutoModel):
        return kind(bank())
    return kind()


def enough(kind: type[CostModel], count: int) -> int:
    return max(count, kind.min_samples)


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


def node_ms(node: Node) -> float:
    """The part of `cost_ms` that is one kernel's."""
    return 8e-4 + (8e-8 if node.depthwise else 3e-8) * node.macs + 2e-8 * (node.bytes_in + node.bytes_out)


@cache
def kernel_table() -> dict[str, TableRow]:
    """What a profiler told of the kernels of 60 networks, with a clock that adds a third."""
    graphs = samples(60, seed=77)[0]
    return table_of((graph, [1.33 * node_ms(node) for node in graph.nodes]) for graph in graphs)


@cache
def bank() -> tuple[BankEntry, ...]:
    """Two devices: one like the synthetic one, ten times as slow, and one that is all launches."""
    graphs, values = samples(40, seed=78)
    like = AdditiveModel().fit(graphs, [10 * value for value in values])
    launches = AdditiveModel().fit(graphs, [0.01 + 1e-3 * len(graph.nodes) for graph in graphs])
    return bank_of({"like": like, "launches": launches})


def samples(count: int, seed: int = 0, noise: float = 0.02) -> tuple[list[Graph], list[float]]:
    rng = random.Random(seed)
    graphs = [random_graph(rng) for _ in range(count)]
    return graphs, [cost_ms(graph) * math.exp(rng.gauss(0, noise)) for graph in graphs]


def test_every_model_is_in_the_suite() -> None:
    assert {kind.name for kind in MODELS} == set(model_names())
    assert all(model_class(kind.name) is kind for kind in MODELS)
    assert set(USES) == set(model_names()) - {"memory"}


def test_it_learns_an_additive_device_from_ten_samples(learner: type[CostModel]) -> None:
    count = enough(learner, 10)
    graphs, values = samples(count + 50)
    model = new(learner).fit(graphs[:count], values[:count])
    said = model.predict_many(graphs[count:])
    errors = [abs(one.value / value - 1) for one, value in zip(said, values[count:], strict=True)]
    assert sum(error <= 0.1 for error in errors) >= 0.8 * len(errors)
    for graph, one in zip(graphs[count:], said, strict=True):
        alone = model.predict(graph)
        assert (alone.value, alone.low, alone.high) == pytest.approx((one.value, one.low, one.high), rel=1e-9)


@pytest.mark.parametrize("kind", [AdditiveModel, AdditiveGpModel, TransferModel, AutoModel], ids=lambda kind: kind.name)
def test_more_samples_help(kind: type[TotalsModel]) -> None:
    few, many = 6, 24  # trees start where an additive device is known as well as its noise allows

    def error(count: int) -> float:
        total = 0.0
        for seed in range(4):
            graphs, values = samples(count + 40, seed)
            model = new(kind).fit(graphs[:count], values[:count])
            rest = zip(model.predict_many(graphs[-40:]), values[-40:], strict=True)
            total += sum(abs(math.log(said.value / value)) for said, value in rest)
        return total

    assert error(many) < error(few)


def test_intervals_cover(learner: type[CostModel]) -> None:
    hits = total = 0
    count = enough(learner, 12)
    for seed in range(10):
        graphs, values = samples(count + 38, seed, noise=0.05)
        model = new(learner).fit(graphs[:count], values[:count])
        for said, value in zip(model.predict_many(graphs[count:]), values[count:], strict=True):
            hits += said.low <= value <= said.high
            total += 1
    assert 0.8 <= hits / total <= 1.0


@pytest.mark.parametrize("seed", range(5))
def test_predictions_are_positive_and_ordered(kind: type[CostModel], seed: int) -> None:
    graphs, values = samples(enough(kind, 3), seed, noise=1.0)
    model = new(kind).fit(graphs, values)
    for graph in [*graphs, *samples(20, seed + 100)[0], Graph((), ())]:
        said = model.predict(graph)
        assert 0 < said.low <= said.value <= said.high < math.inf


TOTAL = st.sampled_from([0.0, 1.0, 3.0, 1e3, 1e7, 1e12])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_totals_give_a_prediction(data: st.DataObject) -> None:
    kinds: list[type[TotalsModel]] = [AdditiveModel, AdditiveGpModel, TransferModel, AutoModel]
    kind = data.draw(st.sampled_from(kinds))
    width, count = len(kind.features), data.draw(st.integers(kind.min_samples, 24))
    rows = st.lists(TOTAL, min_size=width, max_size=width)
    x = np.array(data.draw(st.lists(rows, min_size=count, max_size=count)))
    x[:, 0] = 1.0  # calls
    values = data.draw(st.lists(st.floats(1e-6, 1e6), min_size=count, max_size=count))
    model = new(kind)
    assert isinstance(model, TotalsModel)
    model.fit_totals(x, values, data.draw(st.sampled_from([0.0, 0.05])))
    for value, low, high in zip(*model.predict_totals(np.vstack([x, 0 * x[:1], 7 * x[:1]])), strict=True):
        assert 0 < low <= value <= high < math.inf
    assert len(model.left_out_errors) == count


def test_fitting_again_starts_afresh_and_is_repeatable(kind: type[CostModel]) -> None:
    count = enough(kind, 10)
    graphs, values = samples(2 * count)
    once = new(kind).fit(graphs[:count], values[:count])
    twice = new(kind).fit(graphs[count:], values[count:]).fit(graphs[:count], values[:count])
    assert once.predict_many(graphs) == twice.predict_many(graphs)
    assert once.to_json() == twice.to_json()


def test_scale_does_not_matter(learner: type[CostModel]) -> None:
    graphs, values = samples(enough(learner, 24))
    small, large = new(learner).fit(graphs, values), new(learner).fit(graphs, [1024 * value for value in values])
    for graph in graphs:
        assert large.predict(graph).value == pytest.approx(1024 * small.predict(graph).value, rel=1e-6)


def test_noise_widens_intervals(learner: type[CostModel]) -> None:
    count = enough(learner, 12)
    graphs, values = samples(count, noise=0.0)
    model = new(learner).fit(graphs, values, noise=0.3)
    for said in model.predict_many(graphs):
        assert said.high / said.value > 1.4 and said.value / said.low > 1.4


def test_save_and_load(kind: type[CostModel], tmp_path: Path) -> None:
    graphs, values = samples(enough(kind, 30))
    model = new(kind).fit(graphs, values, noise=0.02)
    path = tmp_path / "deep" / "model.json"
    model.save(path)
    assert json.loads(path.read_text())["schema_version"] == 2
    assert [p.name for p in path.parent.iterdir()] == ["model.json"], "nothing left aside"
    loaded = kind.load(path)
    asked = [*graphs, Graph((), ()), strange(graphs[0])]
    assert loaded.predict_many(asked) == model.predict_many(asked)
    assert loaded.to_json() == model.to_json()


def test_files_that_are_no_cost_model(kind: type[CostModel], tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    with pytest.raises(DataError, match=r"model\.json"):
        kind.load(path)
    new(kind).fit(*samples(enough(kind, 30))).save(path)
    text = path.read_text()
    data = json.loads(text)
    parts = data["parameters"]
    spoiled = [
        "", "[]", "{}", "[" * 5000, text[: len(text) // 2], text.replace('"schema_version": 2', '"schema_version": 99'),
        json.dumps({**data, "model": "another"}), json.dumps({**data, "parameters": []}),
        *(json.dumps({key: value for key, value in data.items() if key != lost}) for lost in data),
        *(json.dumps({**data, "parameters": {k: v for k, v in parts.items() if k != lost}}) for lost in needed(parts)),
    ]  # fmt: skip
    for content in spoiled:
        path.write_text(content)
        with pytest.raises(DataError, match=r"model\.json") as raised:
            kind.load(path)
        assert "\n" not in str(raised.value)


def needed(parameters: Mapping[str, object]) -> list[str]:
    """The keys that a file must have: all but those that schema 1 had not yet."""
    newer = ("noise", "range", "at_random", "spread", "used") if "left_out" in parameters else ()
    return [key for key in parameters if key not in newer]


def test_a_place_that_cannot_be_written(kind: type[CostModel], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        new(kind).fit(*samples(enough(kind, 12))).save(tmp_path / "file" / "model.json")


def test_too_little_or_bad_data(kind: type[CostModel]) -> None:
    count = enough(kind, 12)
    graphs, values = samples(count)
    if kind.min_samples:
        with pytest.raises(ValueError, match="at least"):
            new(kind).fit(graphs[: kind.min_samples - 1], values[: kind.min_samples - 1])
    with pytest.raises(ValueError, match=f"{count - 1} values"):
        new(kind).fit(graphs, values[:-1])
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            new(kind).fit(graphs, [*values[:-1], bad])
    for noise in (-0.1, math.nan):
        with pytest.raises(ValueError, match="noise"):
            new(kind).fit(graphs, values, noise)
    with pytest.raises(ValueError, match="not fitted"):
        kind().predict(graphs[0])
    with pytest.raises(ValueError, match="not fitted"):
        kind().to_json()


def test_a_clock_that_stands_still(learner: type[CostModel]) -> None:
    graphs, _ = samples(enough(learner, 12))
    with pytest.raises(ValueError, match="too coarse"):
        new(learner).fit(graphs, [2.0] * len(graphs))


def test_one_network_many_times_tells_of_that_network_alone(learner: type[CostModel]) -> None:
    count = enough(learner, 12)
    (small, *_), (large, *_) = (sorted(samples(30)[0], key=lambda g: sign * g.macs) for sign in (1, -1))
    model = new(learner).fit([small] * count, [2.0] * count)
    same, other = model.predict(small), model.predict(large)
    assert same.value == pytest.approx(2.0, rel=0.05) and same.outside == ()
    assert other.outside and other.high / other.low > same.high / same.low


def strange(graph: Graph) -> Graph:
    """The graph, and at its end an operator that nobody knows."""
    last = graph.nodes[-1]
    odd = replace(last, name="odd", op="FourierMixer", domain="lab", macs=0, weights=(), weight_bytes=0)
    return replace(graph, nodes=(*graph.nodes, odd), edges=(*graph.edges, (len(graph.nodes) - 1, len(graph.nodes))))


def test_an_unknown_operator_is_named_and_costs_something(kind: type[CostModel]) -> None:
    graphs, values = samples(enough(kind, 12))
    model = new(kind).fit(graphs, values)
    plain, odd = model.predict(graphs[0]), model.predict(strange(graphs[0]))
    assert "operator FourierMixer" in odd.outside and "operator FourierMixer" not in plain.outside
    assert odd.high / odd.low > plain.high / plain.low
    if kind is not MemoryModel:
        assert odd.value > plain.value


def test_far_outside_is_wider_and_says_so(on_totals: type[TotalsModel]) -> None:
    graphs, values = samples(enough(on_totals, 12))
    model = new(on_totals).fit(graphs, values)
    most = max(graphs, key=lambda graph: graph.macs)
    huge = Graph(tuple(replace(node, macs=30 * node.macs) for node in most.nodes), most.edges)
    near, far = model.predict(most), model.predict(huge)
    assert near.outside == ()
    assert "macs" in far.outside
    assert math.log(far.high / far.low) > 1.9 * math.log(near.high / near.low)


def test_a_feature_that_no_sample_had_is_named(on_totals: type[TotalsModel]) -> None:
    graphs, values = samples(enough(on_totals, 12))
    model = new(on_totals).fit(graphs, values)
    shape = ((1, 8, 8, 8),)
    pool = Node(
        "p", "MaxPool", "", shape, shape, "float32", attributes={"kernel": [3, 3]}, bytes_in=2048, bytes_out=2048
    )
    pooled = replace(graphs[0], nodes=(*graphs[0].nodes, pool))
    assert "window_values" in model.predict(pooled).outside


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("target", ["latency_ms", "energy_mj"])
def test_fit_model_by_name(use: str, target: str) -> None:
    graphs, values = samples(60)
    times = [tuple(node_ms(node) for node in graph.nodes) for graph in graphs]
    given = [Sample(graph, value, kernels_ms=ms) for graph, value, ms in zip(graphs, values, times, strict=True)]

    def fitted() -> CostModel:
        return fit_model(use, given, 0.02, target, bank(), Peaks(30.0))

    if target == "energy_mj" and use in ("lookup", "roofline"):
        with pytest.raises(UsageError, match="cannot learn energy_mj"):
            fitted()
        return
    model = fitted()
    assert model.name == use
    assert model.source == ("estimated" if use == "roofline" else "predicted")


@pytest.mark.parametrize(("value", "low", "high"), [(1, 0, 2), (1, 1.5, 2), (1, 0.5, 0.9), (1, 0.5, math.inf)])
def test_a_prediction_is_consistent(value: float, low: float, high: float) -> None:
    with pytest.raises(ValueError, match="low <= value"):
        Prediction(value, low, high)
