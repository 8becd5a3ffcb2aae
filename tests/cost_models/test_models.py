"""What each cost model does that the others do not."""

from __future__ import annotations

import importlib.util
import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.cost_models import AdditiveModel, Fitted, Provenance, Sample, fit_model
from hwnas.cost_models.additive_gp import AdditiveGpModel
from hwnas.cost_models.auto import AutoModel
from hwnas.cost_models.bank import BankEntry, add_to_bank, bank_of, entry_of, read_bank
from hwnas.cost_models.features import FEATURE_SETS, FEATURES
from hwnas.cost_models.lookup import LookupModel, kernel_times, table_of
from hwnas.cost_models.memory import MemoryModel
from hwnas.cost_models.roofline import Peaks, RooflineModel, machine_peaks
from hwnas.cost_models.transfer import TransferModel
from hwnas.cost_models.trees import TreesModel
from hwnas.profilers import Graph, Node
from hwnas.profilers.runtimes.runtime import Kernel
from hwnas.spaces.errors import DataError, DeviceError, UsageError

Array = np.ndarray[Any, np.dtype[np.float64]]
WIDTH = len(AdditiveModel.features)
COSTS = np.array([0.5, 0.0, 0.2, 0.1, 0.0, 3.0, 1.0, 2.0, 0.3, *[0.0] * (WIDTH - 9)])


def totals_of(count: int, seed: int = 0) -> Array:
    """Networks of every size between 1 and 10, each feature with a life of its own."""
    rng = np.random.default_rng(seed)
    x = np.exp(rng.uniform(0, math.log(10), (count, 1)) + rng.normal(0, 0.4, (count, WIDTH)))
    x[:, 0] = 1.0
    return np.asarray(x)


def additive(x: Array, seed: int = 0, noise: float = 0.01) -> Array:
    return np.asarray(x @ COSTS * np.exp(np.random.default_rng(seed + 1).normal(0, noise, len(x))))


def curved(x: Array) -> Array:
    """Kernels that are better used the more work there is: no sum of non-negative costs."""
    return np.asarray(additive(x) * (1 + 0.5 * np.tanh(2 * np.log(x[:, 5] / 3))))


def executed(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Networks and what they cost on a device whose time is what vectors execute, not what formulas count."""
    usual = FEATURE_SETS["executed"].usual
    x = totals_of(count, seed) * np.array([1e3 / usual.get(name, 1.0) for name in FEATURES])
    costs = np.array([usual.get(name, 0.0) * (3.0 if name == "padded_macs" else 1.0) for name in FEATURES])
    return x, np.asarray(x @ costs * np.exp(np.random.default_rng(seed + 1).normal(0, 0.01, count)))


def test_all_models_take_the_features_that_explain_the_device() -> None:
    (x, y), (rest, true) = executed(60), executed(200, 5)
    plain = AdditiveModel().fit_totals(x, y)
    assert "padded_macs" in plain.judged and error_of(plain, rest, true) < 0.03
    transfer = TransferModel(bank_of({"counted": AdditiveModel().fit_totals(x, additive(x))})).fit_totals(x, y)
    assert transfer.weight == 0 and transfer.left_out_error == plain.left_out_error
    assert "no device of latency_ms with these features" in transfer.why
    assert AdditiveModel().choose(x, y).solve(x, y) == pytest.approx(plain.costs)
    with pytest.raises(ValueError, match="no set of features"):
        AdditiveModel().solve(x, y)
    pytest.importorskip("lightgbm")
    assert error_of(TreesModel().fit_totals(x, y), rest, true) < 1.5 * error_of(plain, rest, true)


def test_a_feature_that_is_newer_than_the_file_is_far_outside() -> None:
    x = totals_of(20)
    told = AdditiveModel().fit_totals(x, additive(x)).to_json()
    old = FEATURES[:-1]
    told |= {"features": list(old), "used": [name for name in told["used"] if name in old], "costs": told["costs"][:-1]}
    told["left_out"] = [{**item, "costs": item["costs"][:-1]} for item in told["left_out"]]
    told["range"] |= {end: told["range"][end][:-1] for end in ("least", "most")}
    far = AdditiveModel.from_json(told).predict_widened(x)[3]
    assert far[:, -1].all() and not far[:, :-1].any()


def error_of(model: Any, x: Array, y: Array) -> float:
    return float(np.mean(np.abs(np.log(model.predict_totals(x)[0] / y))))


def test_a_process_is_on_where_it_pays_and_off_where_it_does_not() -> None:
    x, rest = totals_of(80), totals_of(200, 5)
    rough = additive(x, noise=0.1)
    straight = AdditiveGpModel().fit_totals(x, rough)
    assert not straight.on and straight.why.startswith("off: squared error")
    plain = AdditiveModel().fit_totals(x, rough)
    assert all((a == b).all() for a, b in zip(straight.predict_totals(rest), plain.predict_totals(rest), strict=True))
    bent = AdditiveGpModel().fit_totals(x, curved(x))
    assert bent.on and bent.why.startswith("on: ")
    assert error_of(bent, rest, curved(rest)) < 0.7 * error_of(
        AdditiveModel().fit_totals(x, curved(x)), rest, curved(rest)
    )
    _, low, high = bent.predict_totals(rest)
    assert 0.82 <= float(np.mean((low <= curved(rest)) & (curved(rest) <= high))) <= 0.99
    few = AdditiveGpModel().fit_totals(x[:10], curved(x[:10]))
    assert few.why == "off: tried from 20 samples on"


def test_left_out_errors_of_a_process_are_those_of_new_networks() -> None:
    x, rest = totals_of(60), totals_of(300, 9)
    model = AdditiveGpModel().fit_totals(x, curved(x))
    new = math.sqrt(float(np.mean(np.log(model.predict_totals(rest)[0] / curved(rest)) ** 2)))
    assert 0.6 * new < model.left_out_error < 1.7 * new


def bank_like(costs: Array, **more: Array) -> tuple[BankEntry, ...]:
    told = {"like": costs, **more}
    names = AdditiveModel.features
    return tuple(BankEntry(name, dict(zip(names, map(float, row), strict=True))) for name, row in told.items())


def test_costs_of_like_devices_help_and_others_get_no_weight() -> None:
    x, rest = totals_of(7), totals_of(200, 5)
    noisy = additive(x, noise=0.1)
    like = TransferModel(bank_like(20 * COSTS)).fit_totals(x, noisy)
    alone = AdditiveModel().fit_totals(x, noisy)
    assert like.weight > 0 and like.mixture == {"like": pytest.approx(1 / 20, rel=0.15)}
    assert error_of(like, rest, additive(rest)) < error_of(alone, rest, additive(rest))
    odd = np.zeros(WIDTH)
    odd[3] = 1.0
    other = TransferModel(bank_like(odd)).fit_totals(x, additive(x))
    assert other.weight == 0 and other.why.startswith("weight 0;") and other.mixture == {}
    empty = TransferModel(()).fit_totals(x, noisy)
    assert empty.why == "weight 0: the bank has no device of latency_ms with these features"
    assert error_of(empty, rest, additive(rest)) == error_of(alone, rest, additive(rest))


def test_a_device_whose_costs_lack_a_feature_takes_no_part() -> None:
    x = totals_of(12)
    (entry,) = bank_like(COSTS)
    lacking = replace(entry, costs={name: cost for name, cost in entry.costs.items() if name != "macs"})
    assert TransferModel([lacking]).fit_totals(x, additive(x)).weight == 0


def test_a_bank_on_disk(tmp_path: Path) -> None:
    x = totals_of(30)
    (entry,) = bank_of({"a device": AdditiveModel().fit_totals(x, additive(x), 0.01)})
    assert entry.samples == 30 and entry.noise == 0.01
    path = add_to_bank(entry, tmp_path)
    assert path.name == "a-device-latency_ms.json"
    assert read_bank(tmp_path) == (entry,)
    add_to_bank(replace(entry, samples=31), tmp_path)
    assert [one.samples for one in read_bank(tmp_path)] == [31], "an entry takes the place of the older one"
    for text in ("", "{}", '{"schema_version": 2, "name": "a", "costs": {"macs": -1}}'):
        path.write_text(text)
        with pytest.raises(DataError, match=path.name):
            read_bank(tmp_path)


def test_the_bank_that_comes_with_it_is_whole() -> None:
    for entry in read_bank():
        assert entry.samples >= 10 and entry.fingerprint and entry.target == "latency_ms"
        assert set(entry.costs) in [set(one.features) for one in FEATURE_SETS.values()]


def test_an_entry_needs_samples() -> None:
    with pytest.raises(DataError, match="0 samples"):
        entry_of(Fitted(AdditiveModel()), "old")


def test_trees_learn_what_is_no_sum() -> None:
    x, rest = totals_of(300), totals_of(200, 5)
    model = TreesModel().fit_totals(x, curved(x))
    assert error_of(model, rest, curved(rest)) < 0.8 * error_of(
        AdditiveModel().fit_totals(x, curved(x)), rest, curved(rest)
    )


def test_trees_without_lightgbm_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x = totals_of(60)
    kept = json.loads(json.dumps(TreesModel().fit_totals(x, additive(x)).to_json()))
    found = importlib.util.find_spec
    missing = lambda name, *more: None if name == "lightgbm" else found(name, *more)  # noqa: E731
    monkeypatch.setattr("hwnas.cost_models.trees.find_spec", missing)
    with pytest.raises(DeviceError, match=r"lightgbm\): pip install 'hwnas\[trees\]'"):
        TreesModel().fit_totals(x, additive(x))
    assert TreesModel.from_json(kept).predict_totals(x)[0].shape == (60,), "a file is read without it"
    auto = AutoModel(()).fit_totals(totals_of(110), additive(totals_of(110)))
    assert auto.candidates["trees"] == "lightgbm is not installed"


@pytest.mark.parametrize(
    ("key", "value"), [("children", [[0, 0]]), ("features", [999]), ("roots", [10**6]), ("limits", ["x"])]
)
def test_trees_that_lead_nowhere_are_refused(key: str, value: list[Any]) -> None:
    x = totals_of(60)
    data = json.loads(json.dumps(TreesModel().fit_totals(x, curved(x)).to_json()))
    whole = data["all"][key]
    assert whole, "there are trees"
    data["all"][key] = value + whole[1:]
    with pytest.raises((ValueError, TypeError)):
        TreesModel.from_json(data)


def test_auto_takes_the_simplest_that_is_as_good() -> None:
    x, rest = totals_of(60), totals_of(200, 5)
    plain = AutoModel(()).fit_totals(x, additive(x))
    assert plain.chosen is not None and plain.chosen.name == "additive"
    assert plain.why.startswith("additive: ") and plain.candidates["trees"] == "tried from 100 samples on"
    bent = AutoModel(()).fit_totals(x, curved(x))
    assert bent.chosen is not None and bent.chosen.name == "additive+gp"
    assert float(bent.candidates["additive+gp"]) < float(bent.candidates["additive"])
    noisy = additive(x[:6], seed=3, noise=0.1)
    helped = AutoModel(bank_like(20 * COSTS)).fit_totals(x[:6], noisy)
    assert helped.chosen is not None
    assert error_of(helped, rest, additive(rest)) <= error_of(
        AdditiveModel().fit_totals(x[:6], noisy), rest, additive(rest)
    )
    again = AutoModel.from_json(json.loads(json.dumps(bent.to_json())))
    assert (again.why, again.candidates) == (bent.why, bent.candidates)


def node(name: str, width: int, op: str = "Conv") -> Node:
    shape, macs = ((1, width, 8, 8),), 64 * 9 * width * width if op == "Conv" else 0
    weights = ((width, width, 3, 3),) if macs else ()
    size = 256 * width
    return Node(
        name, op, "", shape, shape, "float32", 1, {}, 36 * width * width if macs else 0, size, size, macs, weights
    )


def chain(*nodes: Node) -> Graph:
    return Graph(nodes, tuple((place, place + 1) for place in range(len(nodes) - 1)))


def times(graph: Graph) -> list[float]:
    return [1e-8 * one.macs + 0.002 for one in graph.nodes]


def networks(count: int, seed: int = 0) -> list[Graph]:
    rng = random.Random(seed)
    layers = [[node(f"{n}", rng.choice([8, 16, 24, 32])) for n in range(rng.randint(1, 6))] for _ in range(count)]
    return [chain(*each, node("r", 16, "Relu")) for each in layers]


def test_a_table_adds_up_and_two_measured_numbers_scale_it() -> None:
    graphs = networks(30)
    model = LookupModel(table_of((graph, times(graph)) for graph in graphs[:20]))
    model.fit(graphs[:5], [0.7 * sum(times(graph)) + 0.05 for graph in graphs[:5]])
    assert model.scale == pytest.approx(0.7, rel=1e-3) and model.constant == pytest.approx(0.05, rel=1e-2)
    for graph in graphs[20:]:
        assert model.predict(graph).value == pytest.approx(0.7 * sum(times(graph)) + 0.05, rel=1e-3)


def test_kernels_that_are_not_in_the_table() -> None:
    graphs = networks(8)
    model = LookupModel(table_of((graph, times(graph)) for graph in graphs))
    model.fit(graphs, [sum(times(graph)) for graph in graphs])
    known, near = model.predict(chain(node("a", 32))), model.predict(chain(node("a", 28)))
    assert near.value < known.value and near.outside == ("kernels not in the table",)
    assert near.high / near.low > known.high / known.low
    assert near.value == pytest.approx(sum(times(chain(node("a", 28)))), rel=0.3)
    odd = model.predict(chain(node("a", 32), node("b", 32, "Softmax")))
    assert odd.value > known.value and "operator Softmax" in odd.outside


def test_times_of_kernels_belong_to_nodes_by_name() -> None:
    graph = chain(node("a", 8), node("b", 8), node("c", 8))
    assert kernel_times(graph, [Kernel("b", "Conv", 0.2), Kernel("a", "Conv", 0.1)]) == (0.1, 0.2, 0.0)
    with pytest.raises(DataError, match="none of 1 timed kernels"):
        kernel_times(graph, [Kernel("x", "Conv", 0.2)])
    for bad in ([0.1], [0.1, math.nan, 0.1], [-1.0, 0.1, 0.1]):
        with pytest.raises(ValueError):
            table_of([(graph, bad)])


def test_a_lookup_without_times_says_so() -> None:
    graphs = networks(5)
    with pytest.raises(ValueError, match="needs the times of kernels"):
        fit_model("lookup", [Sample(graph, 1.0 + place) for place, graph in enumerate(graphs)])


def test_times_of_kernels_are_kept(tmp_path: Path) -> None:
    samples = [Sample(graph, sum(times(graph)), kernels_ms=tuple(times(graph))) for graph in networks(6)]
    fitted = Fitted.of("lookup", samples, Provenance({"cpu": "A"}))
    fitted.save(tmp_path / "cpu.json")
    again = Fitted.load(tmp_path / "cpu.json")
    assert again.samples == tuple(samples)
    assert again.model.predict(samples[0].graph) == fitted.model.predict(samples[0].graph)


def test_a_roofline_is_the_larger_of_work_and_traffic() -> None:
    model = RooflineModel(Peaks(gmacs=1.0, gb_s=1.0, launch_us=10.0)).fit()
    busy, idle = node("a", 32), node("r", 1000, "Relu")
    assert model.predict(chain(busy)).value == pytest.approx(busy.macs / 1e6 + 0.01)
    assert model.predict(chain(idle)).value == pytest.approx(512_000 / 1e6 + 0.01)
    said = model.predict(chain(busy, idle))
    assert said.high / said.value == said.value / said.low == pytest.approx(4.0)
    with pytest.raises(ValueError, match="above 0"):
        Peaks(0.0)


def test_peaks_of_a_processor_say_where_they_are_from(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\ncpu MHz : 2000.0\n\nprocessor : 1\ncpu MHz : 2500.0\n")
    one, two = machine_peaks(1, info), machine_peaks(2, info)
    assert two.gmacs == 2 * one.gmacs and one.gmacs / 2.5 in (4, 8, 16)
    assert "2500 MHz" in one.origin and "assumed" in one.origin
    info.write_text("processor : 0\n")
    with pytest.raises(DataError, match="state the peak rates"):
        machine_peaks(1, info)


def test_peak_memory_is_not_a_sum_over_kernels() -> None:
    graphs = [replace(graph, peak_activation_bytes=2048 * (3 + place % 5)) for place, graph in enumerate(networks(30))]

    def megabytes(graph: Graph) -> float:
        return 12 + 2.1e-6 * sum(one.weight_bytes for one in graph.nodes) + 1.5e-6 * graph.peak_activation_bytes

    samples = [Sample(graph, megabytes(graph)) for graph in graphs[:10]]
    model = fit_model("auto", samples, target="peak_memory_mb")
    assert isinstance(model, MemoryModel)
    for graph in graphs[10:]:
        assert model.predict(graph).value == pytest.approx(megabytes(graph), rel=0.01)
    with pytest.raises(UsageError, match="cannot learn peak_memory_mb"):
        fit_model("trees", samples, target="peak_memory_mb")
