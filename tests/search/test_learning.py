"""What a study learns of a device, what it begins with, and what its predictions may refuse."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwnas.cost_models import Fitted, Provenance, Sample
from hwnas.cost_models.fitted import device_of
from hwnas.profilers import Graph, Measurement, Node, Profiler
from hwnas.profilers.graph import count_macs
from hwnas.profilers.meters.energy import Energy
from hwnas.search.latency import Device, Quiet
from hwnas.search.learning import EVERY, Learner, WrongModelError, read_fitted, samples_fitted
from hwnas.search.metrics import Reading
from hwnas.search.run_data import RunData
from hwnas.search.study import Study
from hwnas.search.study_schema import CostModelSpec, DeviceSpec, RunSpec
from hwnas.spaces import load_space
from hwnas.spaces.errors import DataError, DeviceError, StudyFileError

StudyFile = Callable[..., Path]
HERE = {"cpu": "A", "governor": "performance", "onnxruntime": "1.30", "threads": 1, "meter": "none"}
OURS = Provenance(HERE, "latency_ms", "mobile", (1, 8, 8), 0)
LATENCY = "latency_ms@cpu"


def graph(seed: int, layers: int = 8) -> Graph:
    """A chain of convolutions of random widths."""
    rng = random.Random(seed)
    nodes, into = [], 8
    for place in range(rng.randint(1, layers)):
        out = rng.choice([8, 16, 24, 32])
        inputs, outputs, weights = ((1, into, 8, 8),), ((1, out, 8, 8),), ((out, into, 3, 3),)
        macs = count_macs("Conv", inputs, weights, outputs)
        sizes = 36 * into * out, 256 * into, 256 * out
        nodes.append(Node(f"{place}", "Conv", "", inputs, outputs, "float32", 1, {}, *sizes, macs, weights))
        into = out
    return Graph(tuple(nodes), tuple((i, i + 1) for i in range(len(nodes) - 1)), "onnxruntime 1.30", 8192)


def cost_ms(of: Graph) -> float:
    return 0.01 + 0.002 * len(of.nodes) + 4e-8 * of.macs


def reading(value: float, spread: float = 0.02) -> Reading:
    return Reading(value, value * (1 - spread), value * (1 + spread))


def taught(learner: Learner, count: int, first: int = 0) -> None:
    for seed in range(first, first + count):
        learner.learn(f"net {seed}", graph(seed), reading(cost_ms(graph(seed))))
        learner.fit()


def learner_of(folder: Path, begun: Fitted | None = None, **keys: Any) -> Learner:
    return Learner(CostModelSpec(**{"samples": 10, **keys}), folder / "cost_models" / "cpu.json", OURS, begun)


def fitted(path: Path, provenance: Provenance = OURS) -> Path:
    device = device_of(provenance.fingerprint)
    samples = [Sample(graph(seed), cost_ms(graph(seed)), f"before {seed}", device=device) for seed in range(100, 110)]
    Fitted.of("additive", samples, provenance).save(path)
    return path


def test_a_model_is_fitted_often_at_first_and_seldom_later() -> None:
    assert [samples_fitted(count, 10) for count in (0, 9, 10, 11, EVERY)] == [None, None, 10, 11, EVERY]
    assert samples_fitted(5000, 0) == 0
    fits = {samples_fitted(count, 6) for count in range(1000)}
    assert len(fits) < 130
    for count in range(10, 1000):
        used = samples_fitted(count, 10)
        assert used is not None and 0.94 * count <= used <= count


def test_it_predicts_from_the_wanted_number_of_samples_on(tmp_path: Path) -> None:
    learner = learner_of(tmp_path)
    taught(learner, 9)
    assert learner.predict(graph(50)) is None and not learner.ready
    taught(learner, 1, first=9)
    said = learner.predict(graph(50))
    assert said is not None and said.source == "predicted" and said.model == "additive" and said.decides
    assert said.value == pytest.approx(cost_ms(graph(50)), rel=0.2)
    assert learner.knows("net 3") and not learner.knows("net 50")


def test_what_it_learned_is_kept_with_its_samples_and_the_noise(tmp_path: Path) -> None:
    taught(learner_of(tmp_path), 12)
    kept = Fitted.load(tmp_path / "cost_models" / "cpu.json", HERE)
    assert [sample.name for sample in kept.samples] == [f"net {seed}" for seed in range(12)]
    assert (kept.provenance.space, kept.provenance.input_shape) == ("mobile", (1, 8, 8))
    assert kept.provenance.noise == pytest.approx(0.02 / 1.6449, rel=1e-3)


def test_nothing_is_learned_from_what_was_not_measured(tmp_path: Path) -> None:
    learner = learner_of(tmp_path)
    for seed in range(12):
        value = cost_ms(graph(seed))
        learner.learn(f"net {seed}", graph(seed), Reading(value, source="estimated") if seed % 2 else Reading.missing())
    learner.fit()
    assert not learner.ready and not (tmp_path / "cost_models").exists()


def test_equal_measurements_fit_no_model_and_end_nothing(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    path = tmp_path / "cost_models" / "cpu.json"
    learner = Learner(CostModelSpec(samples=10), path, OURS, log=log)
    for seed in range(12):
        learner.learn(f"net {seed}", graph(seed), reading(1.0))
        learner.fit()
    assert not learner.ready and not path.exists()
    (line,) = log.read_text().splitlines()
    assert "cost model cpu.json is not fitted yet: all 10 measured costs are 1" in line
    taught(learner, 1, first=12)
    assert learner.ready and len(Fitted.load(path).samples) == 13


def test_a_model_that_cannot_be_fitted_anew_is_kept(tmp_path: Path) -> None:
    learner = learner_of(tmp_path)
    taught(learner, 10)
    said = learner.predict(graph(50))
    for seed in range(11):  # measured again, by a clock that now stands still
        learner.learn(f"net {seed}", graph(seed), reading(1.0))
    learner.fit()
    assert said is not None and learner.predict(graph(50)) == said


def test_the_noise_is_of_the_samples_that_the_model_is_fitted_to(tmp_path: Path) -> None:
    """Beyond EVERY samples a model is of the first ones: a study that is taken up later has the same."""
    first, later = learner_of(tmp_path / "first"), learner_of(tmp_path / "later")
    count = next(
        count for count in range(41, 100) if samples_fitted(count + 1, 10) == samples_fitted(count, 10) == count
    )
    for seed in range(count + 1):
        value = cost_ms(graph(seed))
        told = reading(value, 0.01 + 0.002 * seed)
        first.learn(f"net {seed}", graph(seed), told)
        if seed >= count - 1:
            first.fit()
        later.learn(f"net {seed}", graph(seed), told)
    later.fit()
    ours, theirs = (
        Fitted.load(tmp_path / name / "cost_models" / "cpu.json").provenance.noise for name in ("first", "later")
    )
    assert ours == theirs == pytest.approx((0.01 + 0.002 * (count - 1) / 2) / 1.6449, rel=1e-3)
    assert first.predict(graph(500)) == later.predict(graph(500))


@pytest.mark.parametrize("at_random", [True, False])
def test_only_what_is_drawn_is_marked_at_random(tmp_path: Path, at_random: bool) -> None:
    path = tmp_path / "cost_models" / "cpu.json"
    taught(Learner(CostModelSpec(samples=10), path, OURS, at_random=at_random), 10)
    assert {sample.at_random for sample in Fitted.load(path).samples} == {at_random}


@pytest.mark.parametrize(("sampler", "drawn"), [("random", True), ("auto", False), ("nsga2", False)])
def test_a_study_says_whether_its_candidates_are_drawn(
    tmp_path: Path, study_file: StudyFile, fake_machine: Any, monkeypatch: pytest.MonkeyPatch, sampler: str, drawn: bool
) -> None:
    from tests.conftest import FakeDevice

    class Listening(FakeDevice):
        def __init__(self, *how: Any) -> None:
            super().__init__(*how)
            marked.append(how[6])

    marked: list[bool] = []
    monkeypatch.setattr("hwnas.search.latency.Device", Listening)
    file = study_file(tmp_path, search={"trials": 1, "seed": 0, "sampler": sampler})
    Study.from_yaml(file, folder=tmp_path / "run").run()
    assert set(marked) == {drawn}


def test_it_begins_with_a_file_and_goes_on_learning(tmp_path: Path) -> None:
    begun, digest = read_fitted(fitted(tmp_path / "cpu8.json"), OURS, ("cost_model", "from"))
    assert len(digest) == 64
    learner = learner_of(tmp_path, begun)
    learner.fit()
    assert learner.ready and learner.knows("before 100") and learner.predict(graph(50)) is not None
    taught(learner, 3)
    assert len(Fitted.load(tmp_path / "cost_models" / "cpu.json", HERE).samples) == 13
    learner.clear()
    learner.fit()
    assert not learner.knows("net 1") and learner.knows("before 100")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": {**HERE, "cpu": "B"}}, "another device: cpu 'B', here 'A'"),
        (
            {"fingerprint": {**HERE, "threads": 4, "governor": "powersave"}},
            "governor 'powersave', here 'performance' (and",
        ),
        ({"space": "nasbench201"}, "another space: nasbench201, here mobile"),
        ({"input_shape": (3, 32, 32)}, "another input: 3x32x32, here 1x8x8"),
        ({"target": "energy_mj"}, "another target: energy_mj, here latency_ms"),
        ({"fingerprint": {}}, "does not say of which device"),
    ],
)
def test_a_file_of_anything_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = fitted(tmp_path / "cpu.json", replace(OURS, **change))
    with pytest.raises(WrongModelError) as error:
        read_fitted(path, OURS, ("cost_model", "from"))
    assert message in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_file_that_is_broken_or_not_there_is_corrupt_data(tmp_path: Path) -> None:
    whole = fitted(tmp_path / "cpu.json").read_text()
    (tmp_path / "cut.json").write_text(whole[: len(whole) // 2])
    (tmp_path / "newer.json").write_text(json.dumps({**json.loads(whole), "schema_version": 99}))
    for name in ("cut", "newer", "none"):
        with pytest.raises(DataError, match=f"{name}.json"):
            read_fitted(tmp_path / f"{name}.json", OURS, ("cost_model", "from"))


def test_a_prediction_far_outside_decides_nothing(tmp_path: Path) -> None:
    learner = learner_of(tmp_path)
    taught(learner, 20)
    inside, large = learner.predict(graph(50)), learner.predict(graph(0, layers=400))
    assert inside is not None and inside.decides
    assert large is not None and not large.decides and "far outside" in large.reason
    assert Reading(1.0, source="computed").decides and not Reading(1.0, source="estimated", model="roofline").decides


def test_a_roofline_estimates_from_the_first_network_on_and_decides_nothing(tmp_path: Path) -> None:
    learner = learner_of(tmp_path, use="roofline")
    learner.fit()
    said = learner.predict(graph(50))
    assert learner.ready and said is not None and (said.source, said.model) == ("estimated", "roofline")
    assert not said.decides and said.value is not None and said.value > 0


def test_trees_wait_for_enough_samples_and_need_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.search.learning.installed", lambda: True)
    learner = learner_of(tmp_path, use="trees")
    taught(learner, 20)
    assert not learner.ready
    monkeypatch.setattr("hwnas.search.learning.installed", lambda: False)
    with pytest.raises(DeviceError, match="LightGBM"):
        learner_of(tmp_path, use="trees")


def test_a_file_without_times_of_kernels_is_none_for_lookup(tmp_path: Path) -> None:
    path = fitted(tmp_path / "cpu.json")
    with pytest.raises(WrongModelError, match="no times of kernels"):
        read_fitted(path, OURS, ("cost_model", "from"), "lookup")


@pytest.fixture
def guesses(fake_machine: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Has fake devices predict: `guess` is called with the network's true latency, and may return None."""
    from tests.conftest import FakeDevice, chance

    told: dict[str, Any] = {"guess": lambda true: None, "known": set()}

    def predict(self: Any, graph: Graph) -> dict[str, Reading]:
        arch_id = graph.nodes[0].name.removeprefix("of ")
        guess = told["guess"](1.0 + chance("latency", arch_id))
        return {} if guess is None else {self.metric: guess}

    monkeypatch.setattr(FakeDevice, "predict", predict)
    monkeypatch.setattr(FakeDevice, "knows", lambda self, arch_id: told["known"] == "all")
    return told


def run(tmp_path: Path, study_file: StudyFile, **sections: Any) -> RunData:
    objectives = [{"metric": "top1"}, {"metric": LATENCY}]
    keys = {"objectives": objectives, "limits": [f"{LATENCY} <= 1.6"], "search": {"trials": 12, "seed": 0}, **sections}
    Study.from_yaml(study_file(tmp_path, **keys), folder=tmp_path / "run").run()
    return RunData.load(tmp_path / "run")


def predicted(true: float, **more: Any) -> Reading:
    return Reading(true, 0.95 * true, 1.05 * true, "predicted", model="additive", **more)


def test_a_sure_prediction_refuses_before_measuring_and_training(
    tmp_path: Path, study_file: StudyFile, guesses: dict[str, Any]
) -> None:
    guesses["guess"] = predicted
    data = run(tmp_path, study_file)
    assert data.screened
    for trial in data.screened:
        reading = trial.reading(LATENCY)
        assert reading.source == "predicted" and trial.value("top1") is None and 0.95 * (reading.value or 0) > 1.6
        ends = f"~{reading.value:.4g} ({reading.low:.4g} to {reading.high:.4g} by additive), limit <= 1.6"
        assert trial.reason == f"infeasible: {LATENCY} {ends}"
    others = [trial for trial in data.rows if trial not in data.screened]
    assert others and all(trial.reading(LATENCY).source == "measured" for trial in others)
    assert all(trial.foretold[LATENCY].model == "additive" for trial in others)
    frame = pd.read_parquet(tmp_path / "run" / "trials.parquet")
    assert set(frame[f"{LATENCY}.predicted.by"].dropna()) == {"additive"}
    assert (frame.loc[[t.number for t in data.screened], f"{LATENCY}.source"] == "predicted").all()


@pytest.mark.parametrize(
    "guess",
    [
        lambda true: predicted(9.0, reason="far outside the measured networks: macs"),
        lambda true: Reading(9.0, 8.0, 10.0, "estimated", model="roofline"),
        lambda true: Reading(2.0, 1.1, 3.0, "predicted", model="additive"),
    ],
    ids=["far outside", "roofline", "wide"],
)
def test_what_is_not_sure_is_measured(
    tmp_path: Path, study_file: StudyFile, guesses: dict[str, Any], guess: Callable[[float], Reading]
) -> None:
    guesses["guess"] = guess
    data = run(tmp_path, study_file)
    assert not data.screened and all(trial.reading(LATENCY).source == "measured" for trial in data.rows)
    (one, *_) = [trial.foretold[LATENCY] for trial in data.rows]
    assert (one.model, one.source) == (guess(1.0).model, guess(1.0).source)


def test_a_network_that_the_model_knows_is_not_foretold(
    tmp_path: Path, study_file: StudyFile, guesses: dict[str, Any]
) -> None:
    guesses |= {"guess": lambda true: Reading(true, 0.5, 3.0, "predicted", model="additive"), "known": "all"}
    assert not any(trial.foretold for trial in run(tmp_path, study_file).rows)


def test_a_model_of_another_device_is_refused_at_its_place(
    tmp_path: Path, study_file: StudyFile, monkeypatch: pytest.MonkeyPatch, fake_machine: Any
) -> None:
    """The real device's own check, at the place of the key; what the device runs is not asked for."""
    from tests.conftest import FakeDevice

    path = fitted(tmp_path / "other.json", replace(OURS, fingerprint={"cpu": "B"}))

    def begin(self: Any, space: Any, seed: int, path: Path | None, key: tuple[str, ...]) -> None:
        if path is not None:
            read_fitted(path, Provenance(self.fingerprint(), "latency_ms", space.name, tuple(space.input_shape)), key)

    monkeypatch.setattr(FakeDevice, "begin", begin)
    file = study_file(tmp_path, cost_model={"from": path.name})
    with pytest.raises(StudyFileError, match=r"cost_model\.from: .*another device: cpu 'B', here 'fake'") as error:
        Study.from_yaml(file, folder=tmp_path / "run").run()
    assert error.value.exit_code == 2
    assert file.read_text().splitlines()[(error.value.line or 0) - 1].startswith("cost_model:")


class Recorded(Profiler):
    """Says of `net N.onnx` what was recorded of the network N."""

    deadline_s = 10.0
    tells_energy = True

    def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
        ms = cost_ms(self.graph(path))
        energy = Energy("measured", "rapl", energy_mj=5 * ms, low_mj=4.9 * ms, high_mj=5.1 * ms)
        return Measurement(((ms,) * 5,) * 8, energy=energy, fingerprint=HERE)

    def graph(self, path: Path) -> Graph:
        return graph(int(path.stem.removeprefix("net ")))

    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        return dict(HERE)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Device]:
    """Makes devices of a run folder, with recorded measurements."""
    monkeypatch.setattr("hwnas.search.latency.open_profiler", lambda *what, **how: Recorded())
    space = load_space("mobile", input_shape=(1, 8, 8), num_classes=10)

    def make(path: Path | None = None, meter: str = "rapl", **keys: Any) -> Device:
        spec = DeviceSpec(meter={"use": meter})
        made = Device("cpu", spec, CostModelSpec(**keys), tmp_path / "run", Quiet(), RunSpec(reuse=False))
        made.begin(space, 0, path, ("cost_model", "from"))
        return made

    return make


def measured(device: Device, tmp_path: Path, numbers: range) -> None:
    for number in numbers:
        path = tmp_path / f"net {number}.onnx"
        path.write_bytes(str(number).encode())
        device.measure(path.stem, path, graph(number))


def test_a_device_learns_latency_and_energy_and_is_taken_up_from_its_artefacts(
    tmp_path: Path, device: Callable[..., Device]
) -> None:
    first = device()
    measured(first, tmp_path, range(12))
    said = first.predict(graph(50))
    assert set(said) == {LATENCY, "energy_mj@cpu"}
    assert said["energy_mj@cpu"].value == pytest.approx(5 * (said[LATENCY].value or 0.0), rel=0.05)
    kept = {path.name for path in (tmp_path / "run" / "cost_models").iterdir()}
    assert kept == {"cpu.json", "cpu.energy_mj.json"}
    energy = Fitted.load(tmp_path / "run" / "cost_models" / "cpu.energy_mj.json", HERE)
    assert energy.provenance.target == "energy_mj"
    again = device()
    assert again.predict(graph(50)) == {}
    again.load(f"net {number}" for number in range(12))
    assert again.predict(graph(50)) == said and again.knows("net 11")
    again.load(f"net {number}" for number in range(9))
    assert again.predict(graph(50)) == {} and not again.knows("net 11")


def test_a_device_without_a_meter_learns_latency_alone(tmp_path: Path, device: Callable[..., Device]) -> None:
    plain = device(meter="none", stand_in=True)
    measured(plain, tmp_path, range(9))
    assert not plain.predicts_only
    measured(plain, tmp_path, range(9, 10))
    assert plain.predicts_only and set(plain.predict(graph(50))) == {LATENCY}
    assert not device(meter="none", use="none").predicts_only


def test_the_models_of_a_run_begin_another(tmp_path: Path, device: Callable[..., Device]) -> None:
    first = device()
    measured(first, tmp_path, range(12))
    said = first.predict(graph(50))[LATENCY]
    path = (tmp_path / "run" / "cost_models" / "cpu.json").rename(tmp_path / "begun.json")
    second = device(path)
    assert second.begun_with is not None and second.begun_with["file"] == "begun.json"
    assert second.predict(graph(50)) == {}, "before the study takes up its trials"
    second.load([])
    assert second.predict(graph(50))[LATENCY] == said and second.knows("net 3")
    with pytest.raises(WrongModelError, match="another target: energy_mj"):
        device(tmp_path / "run" / "cost_models" / "cpu.energy_mj.json")
