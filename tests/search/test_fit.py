"""`hwnas fit`: on a device that is simulated inside the test, and once on onnxruntime."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from hwnas.cost_models import Fitted
from hwnas.profilers import Graph, Measurement, Node, Profiler
from hwnas.search import interrupts
from hwnas.search.cli import main
from hwnas.search.cli.fit import _print_report
from hwnas.search.fit_report import report_on
from hwnas.search.fitting import Task, default_path, fit_device
from hwnas.search.networks import Networks
from hwnas.search.space_files import SpaceFiles
from hwnas.spaces import Architecture, Mobile, Space, load_space
from hwnas.spaces.errors import CandidateError, DataError, DeviceError, StudyLockedError, UsageError


def space(input_shape: tuple[int, int, int] = (1, 8, 8)) -> Space:
    return load_space("mobile", input_shape=input_shape, num_classes=10, params={})


class OwnSpace(Mobile):
    """A space whose graphs nobody has written down."""


class Files:
    """Writes an architecture as text, in place of a model file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.space = folder, OwnSpace((1, 8, 8), 10)
        self.unbuildable: set[str] = set()

    def file(self, architecture: Architecture, runtime: str, precision: str) -> Path:
        if architecture.id in self.unbuildable:
            raise CandidateError("build", "it cannot be")
        path = self.folder / f"{architecture.id}.onnx"
        path.write_text(architecture.to_json())
        return path


class Simulated(Profiler):
    """A device whose latency is a sum of costs per kernel, times what one measurement differs by."""

    deadline_s = 1.0

    def __init__(self, name: str, noise: float = 0.01) -> None:
        self.name, self.noise = name, noise
        self.rng = random.Random(0)
        self.measured: list[str] = []
        self.broken: set[str] = set()
        self.disturbed_calls = 0
        self.stop_after = 10**9

    def graph(self, path: Path) -> Graph:
        rng = random.Random(path.read_text())
        channels = [rng.choice([8, 16, 24, 32, 48]) for _ in range(rng.randint(3, 9))]
        side = rng.choice([4, 8, 16])
        nodes = tuple(
            Node(
                f"conv{place}",
                "Conv",
                "",
                ((1, size, side, side),),
                ((1, size, side, side),),
                "float32",
                bytes_in=4 * size * side * side,
                bytes_out=4 * size * side * side,
                macs=size * size * side * side * 9,
            )
            for place, size in enumerate(channels)
        )
        return Graph(nodes, tuple((i, i + 1) for i in range(len(nodes) - 1)), "simulated 1")

    def true_ms(self, path: Path) -> float:
        graph = self.graph(path)
        return 0.02 + 0.01 * len(graph.nodes) + graph.macs * 2e-7

    def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
        if len(self.measured) >= self.stop_after:
            raise KeyboardInterrupt
        if path.stem in self.broken:
            raise CandidateError("crash:SIGSEGV", "it did")
        self.measured.append(path.stem)
        ms = self.true_ms(path) * (1 + self.noise * self.rng.choice([-1, 1]))
        conditions: dict[str, Any] = {}
        if self.disturbed_calls > 0:
            self.disturbed_calls -= 1
            ms, conditions = 3 * ms, {"others": 0.9}
        return Measurement(((ms,) * 20,) * 20, conditions=conditions)

    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        raise AssertionError("nothing here asks for outputs")

    def fingerprint(self) -> dict[str, Any]:
        return {"cpu": self.name, "precision": "fp32", "threads": 1}


def networks(tmp_path: Path, device: Simulated, **how: Any) -> Networks:
    files = Files(tmp_path)
    made = Networks(cast(SpaceFiles, files), device, "onnxruntime", "fp32", **how)
    made.files = files  # type: ignore[attr-defined]  # for the tests that break a network
    return made


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.search.networks.CALM_S", 0.0)


@pytest.fixture
def device(tmp_path: Path) -> Simulated:
    return Simulated(str(tmp_path))  # a name of its own: the store of measurements is shared by all tests


def test_it_measures_fits_and_writes(tmp_path: Path, device: Simulated) -> None:
    path = tmp_path / "kept" / "cpu.json"
    fit = fit_device(networks(tmp_path, device), Task(space(), samples=10), path)
    fitted = Fitted.load(path, device.fingerprint())
    assert fitted.samples == fit.fitted.samples and len(fitted.samples) == fit.measured == 10
    assert [one.at_random for one in fitted.samples].count(True) == 4
    assert len(device.measured) == 13 and device.measured[3:6] == device.measured[:3], "the first three twice"
    assert not list(path.parent.glob("*.begun")) and not fit.failed and not fit.noisy and not fit.stopped
    assert fit.left_out_error is not None and fit.left_out_error < 0.1 and len(fit.left_out) == 10
    told = fitted.provenance
    assert 0 <= told.noise < 0.02 and (told.target, told.space, told.input_shape) == ("latency_ms", "mobile", (1, 8, 8))
    for sample in fitted.samples:
        said = fitted.model.predict(sample.graph)
        assert said.value == pytest.approx(sample.value, rel=0.2) and said.low < said.value < said.high


def test_more_samples_improve_the_same_model(tmp_path: Path, device: Simulated) -> None:
    path = tmp_path / "cpu.json"
    device.noise = 0.05
    first = fit_device(networks(tmp_path, device), Task(space(), samples=6), path)
    names = [one.name for one in first.fitted.samples]
    before = len(device.measured)
    more = fit_device(networks(tmp_path, device), Task(space(), samples=8), path)
    assert [one.name for one in more.fitted.samples][:6] == names and more.measured == 2
    assert more.fitted.samples[:6] == first.fitted.samples
    assert len(device.measured) == before + 2, "nothing is measured again, and the noise is known"
    assert more.fitted.provenance.noise == first.fitted.provenance.noise > 0
    assert sum(one.at_random for one in more.fitted.samples) == 3
    same = fit_device(networks(tmp_path, device), Task(space(), samples=8), path)
    assert same.measured == 0 and same.fitted.samples == more.fitted.samples
    anew = fit_device(networks(tmp_path, device), Task(space(), samples=6), path, fresh=True)
    assert anew.measured == 6 and [one.name for one in anew.fitted.samples] == names


def test_it_ends_early_when_noise_is_all_that_is_left(tmp_path: Path, device: Simulated) -> None:
    class Noisy(Simulated):
        def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
            again = path.stem in self.measured
            told = super().measure(path)
            return Measurement(tuple(tuple(ms * 1.5 for ms in block) for block in told.blocks)) if again else told

    device = Noisy(str(tmp_path), noise=0.001)
    fit = fit_device(networks(tmp_path, device), Task(space(), samples=40), tmp_path / "cpu.json")
    count = len(fit.fitted.samples)
    assert 9 <= count < 40 and fit.stopped.startswith(f"stopped at {count} of 40 networks: left-out ones")
    assert fit.fitted.provenance.noise == pytest.approx(0.425, rel=0.02), "ln 1.5 over .6745 and the root of 2"
    assert any(one.at_random for one in fit.fitted.samples)


def test_networks_that_fail_are_named_and_replaced(tmp_path: Path, device: Simulated) -> None:
    task, path = Task(space(), samples=6), tmp_path / "cpu.json"
    sound = fit_device(networks(tmp_path, device, fresh=True), task, path).fitted.samples
    device.broken = {sound[1].name}
    failing = networks(tmp_path, device, fresh=True)
    failing.files.unbuildable = {task.space.random("0/fit/0").id}  # type: ignore[attr-defined]
    fit = fit_device(failing, task, path, fresh=True)
    assert fit.failed == {
        sound[1].name: "crash:SIGSEGV: it did",
        task.space.random("0/fit/0").id: "build: it cannot be",
    }
    assert len(fit.fitted.samples) == 6 and not set(fit.failed) & {one.name for one in fit.fitted.samples}
    assert sum(one.at_random for one in fit.fitted.samples) == 2


def test_a_device_on_which_nothing_runs(tmp_path: Path, device: Simulated) -> None:
    device.broken = {space().random(f"0/fit/{draw}").id for draw in range(200)}
    with pytest.raises(DataError, match=r"10 networks of space 'mobile' failed: [0-9a-f]{16}: crash:SIGSEGV: it did"):
        fit_device(networks(tmp_path, device), Task(space()), tmp_path / "cpu.json")


def test_an_interrupted_fit_goes_on(tmp_path: Path, device: Simulated) -> None:
    path, task = tmp_path / "cpu.json", Task(space(), samples=8)
    device.noise = 0.05
    device.stop_after = 8  # three, their repeats, two more
    with pytest.raises(KeyboardInterrupt):
        fit_device(networks(tmp_path, device), task, path)
    assert not path.exists() and (tmp_path / "cpu.json.begun").is_file()
    device.stop_after, done = 10**9, list(dict.fromkeys(device.measured))
    fit = fit_device(networks(tmp_path, device), task, path)
    assert [one.name for one in fit.fitted.samples][:5] == done and fit.measured == 3
    assert len(device.measured) == 11 and fit.fitted.provenance.noise > 0
    assert not (tmp_path / "cpu.json.begun").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 9, "of": {}}'])
def test_a_damaged_file_of_an_interrupted_fit_costs_only_time(tmp_path: Path, device: Simulated, text: str) -> None:
    (tmp_path / "cpu.json.begun").write_text(text)
    assert fit_device(networks(tmp_path, device), Task(space(), samples=4), tmp_path / "cpu.json").measured == 4


def test_what_was_begun_for_another_seed_is_not_gone_on_from(tmp_path: Path, device: Simulated) -> None:
    device.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        fit_device(networks(tmp_path, device), Task(space(), samples=4), tmp_path / "cpu.json")
    device.stop_after = 10**9
    fit = fit_device(networks(tmp_path, device), Task(space(), samples=4, seed=1), tmp_path / "cpu.json")
    assert fit.measured == 4


@pytest.mark.parametrize("stop_after", [4, 5, 6])
def test_repeats_for_the_noise_are_made_up_for(tmp_path: Path, device: Simulated, stop_after: int) -> None:
    """All networks are there, and some of the three repeats are not."""
    path, task = tmp_path / "cpu.json", Task(space(), samples=4)
    fit_device(networks(tmp_path, device), task, path)
    whole = Fitted.load(path)
    path.unlink()
    again = Simulated(device.name)
    again.stop_after = stop_after - 1
    with pytest.raises(KeyboardInterrupt):
        fit_device(networks(tmp_path, again, fresh=True), task, path)
    begun = path.with_name("cpu.json.begun")
    kept = json.loads(begun.read_text())
    assert len(kept["samples"]) == 3 and len(kept["pairs"]) == max(stop_after - 4, 0)
    fourth = whole.samples[3]
    told = {key: getattr(fourth, key) for key in ("value", "name", "at_random", "device", "kernels_ms")}
    kept["samples"].append({**told, "graph": fourth.graph.to_json()})
    begun.write_text(json.dumps(kept))
    again.stop_after, before = 10**9, len(again.measured)
    fit = fit_device(networks(tmp_path, again), task, path)
    assert fit.measured == 0 and fit.fitted.provenance.noise > 0
    assert again.measured[before:] == [one.name for one in whole.samples[len(kept["pairs"]) : 3]]


def test_two_fits_of_one_file(tmp_path: Path, device: Simulated) -> None:
    path = tmp_path / "cpu.json"
    task = Task(space(), samples=4)

    class Second(Simulated):
        def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
            if not self.measured:
                with pytest.raises(StudyLockedError, match=r"cpu\.json is in use by process \d+ on ") as caught:
                    fit_device(networks(tmp_path, device), task, tmp_path / "cpu.json")
                assert caught.value.exit_code == 75 and "\n" not in str(caught.value)
            return super().measure(path)

    assert fit_device(networks(tmp_path, Second("second")), task, path).measured == 4
    assert not device.measured
    fit_device(networks(tmp_path, device), task, path, fresh=True)


def test_a_file_of_other_classes_is_refused(tmp_path: Path, device: Simulated) -> None:
    path = tmp_path / "cpu.json"
    fit_device(networks(tmp_path, device), Task(space(), samples=4), path)
    assert Fitted.load(path).provenance.num_classes == 10
    other = Task(load_space("mobile", input_shape=(1, 8, 8), num_classes=7, params={}), samples=6)
    with pytest.raises(
        UsageError, match=r"cpu\.json was fitted with 10 classes, not 7: give another --out, or --fresh"
    ):
        fit_device(networks(tmp_path, device), other, path)
    data = json.loads(path.read_text())
    del data["provenance"]["num_classes"]  # as older files are
    path.write_text(json.dumps(data))
    assert fit_device(networks(tmp_path, device), Task(space(), samples=4), path).measured == 0


def test_a_file_of_something_else_is_refused(tmp_path: Path, device: Simulated) -> None:
    path = tmp_path / "cpu.json"
    fit_device(networks(tmp_path, device), Task(space(), samples=4), path)
    kept = path.read_bytes()
    others: list[tuple[Task, Simulated, str]] = [
        (Task(space(), samples=6, seed=7), device, "with seed 0, not 7"),
        (Task(space((1, 16, 16)), samples=6), device, "with input 1,8,8, not 1,16,16"),
        (Task(load_space("nasbench201"), samples=6), device, "with space mobile, not nasbench201"),
        (Task(space(), "energy_mj", 6), device, "with target latency_ms, not energy_mj"),
        (Task(space(), samples=6), Simulated("another CPU"), "of another device .cpu .*, here another CPU."),
    ]
    for task, at, message in others:
        with pytest.raises(UsageError, match=message) as caught:
            fit_device(networks(tmp_path, at), task, path)
        assert "--out, or --fresh" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == kept
    for text in (kept[:200].decode(), "", "{}", kept.decode().replace('"schema_version": 2', '"schema_version": 99')):
        path.write_text(text)
        with pytest.raises(DataError, match=r"cpu\.json: not a cost model"):
            fit_device(networks(tmp_path, device), Task(space(), samples=6), path)


def test_what_was_disturbed_is_measured_again(tmp_path: Path, device: Simulated) -> None:
    device.disturbed_calls = 2
    fit = fit_device(networks(tmp_path, device), Task(space(), samples=4), tmp_path / "cpu.json")
    assert len(device.measured) == 4 + 3 + 2 and fit.noisy == 0
    for sample in fit.fitted.samples:
        assert sample.value == pytest.approx(device.true_ms(tmp_path / f"{sample.name}.onnx"), rel=0.03)


def test_one_disturbed_repeat_is_not_the_noise(tmp_path: Path, device: Simulated) -> None:
    class Once(Simulated):
        def measure(self, path: Path, inputs: Path | None = None) -> Measurement:
            self.disturbed_calls = int(len(self.measured) == 4)  # the second of the three repeats: three times as slow
            return super().measure(path)

    device = Once(str(tmp_path), noise=0.01)
    fit = fit_device(networks(tmp_path, device), Task(space(), samples=4), tmp_path / "cpu.json")
    assert fit.fitted.provenance.noise < 0.03


def test_a_device_that_stays_busy_is_told(tmp_path: Path, device: Simulated) -> None:
    device.disturbed_calls = 10**9
    fit = fit_device(networks(tmp_path, device), Task(space(), samples=4), tmp_path / "cpu.json")
    assert fit.noisy == 4 and len(device.measured) == 4 + 3 + 4


def test_a_model_of_kernels_needs_their_times(tmp_path: Path, device: Simulated) -> None:
    path = tmp_path / "cpu.json"
    with pytest.raises(DeviceError, match="onnxruntime tells no times of kernels"):
        fit_device(networks(tmp_path, device), Task(space(), samples=4, use="lookup"), path)
    fit_device(networks(tmp_path, device), Task(space(), samples=4), path)
    with pytest.raises(UsageError, match=r"cpu\.json: 'lookup' cannot be fitted: .*; --fresh begins anew"):
        fit_device(networks(tmp_path, device), Task(space(), samples=4, use="lookup"), path)


@pytest.mark.parametrize("samples", [0, 3])
def test_too_few_samples(samples: int) -> None:
    with pytest.raises(UsageError, match="needs at least 4 networks"):
        Task(space(), samples=samples).check()


def test_a_space_that_is_too_small(tmp_path: Path, device: Simulated) -> None:
    smallest = space().corners()[0].as_dict()
    few = space().narrow({name: value for name, value in smallest.items() if name != "width"})
    with pytest.raises(UsageError, match=r"space 'mobile' has only \d+ different networks .* --samples 50 is too many"):
        fit_device(networks(tmp_path, device), Task(few, samples=50), tmp_path / "cpu.json")


def test_what_cannot_be_measured_is_said_at_once(tmp_path: Path, device: Simulated) -> None:
    with pytest.raises(DeviceError, match="peak_memory_mb cannot be measured with onnxruntime"):
        networks(tmp_path, device, target="peak_memory_mb")
    with pytest.raises(DeviceError, match="ethos-u55-128 is estimated"):
        Networks(cast(SpaceFiles, Files(tmp_path)), device, "ethos-u55-128", "int8")
    with pytest.raises(DeviceError, match="energy_mj cannot be measured: no meter"):
        fit_device(networks(tmp_path, device, target="energy_mj"), Task(space(), "energy_mj"), tmp_path / "cpu.json")


def test_the_report_is_of_networks_that_were_not_seen(
    tmp_path: Path, device: Simulated, capsys: pytest.CaptureFixture[str]
) -> None:
    task, at = Task(space(), samples=10), networks(tmp_path, device)
    fit = fit_device(at, task, tmp_path / "cpu.json")
    device.broken = {task.space.random("0/report/1").id}
    report = report_on(fit.fitted, at, task, 12)
    assert len(set(report.names)) == 12 and not set(report.names) & {one.name for one in fit.fitted.samples}
    assert report.failed == {next(iter(device.broken)): "crash:SIGSEGV: it did"}
    assert report.model.spearman > 0.9 and report.model.mape < 0.15
    assert report.ceiling.spearman > 0.95 and report.ceiling.mape < 0.03 and report.coverage > 0.7
    assert abs(report.shift) < 0.1 and abs(report.ceiling_shift) < 0.03
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    _print_report(report, "latency_ms")
    assert "is what a second one differs by" in capsys.readouterr().out
    row = told["networks"][0]
    assert row["measured"] == report.measured[0] and row["again"] == report.again[0]
    assert row["predicted"]["low"] < row["predicted"]["value"] < row["predicted"]["high"]


def test_where_the_file_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "hwnas" / "cost_models"
    assert default_path("", "openvino", "fp32", 2, Task(space())) == folder / "here-openvino-fp32-2t-mobile-1x8x8.json"
    told = default_path("pi5", "onnxruntime", "int8", 1, Task(space(), "energy_mj"))
    assert told.name == "pi5-onnxruntime-int8-1t-mobile-1x8x8-energy_mj.json"


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Runs the command line; returns its exit code and what it said on standard error."""
    code = main(["fit", *words])
    out, err = capsys.readouterr()
    assert not out and "Traceback" not in err
    return code, err.strip()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nosuch", "--space", "mobile"), 4, "no device 'nosuch'"),
        (("onnxruntime:int4", "--space", "mobile"), 4, "int4"),
        (("cpu", "--space", "mobil"), 2, "did you mean 'mobile'?"),
        (("cpu", "--space", "mobile", "--samples", "3"), 2, "needs at least 4 networks"),
        (("cpu", "--space", "mobile", "--use", "aditive"), 2, "did you mean 'additive'?"),
        (("cpu", "--space", "mobile", "--use", "trees"), 2, "'trees' needs at least 50 networks"),
        (("cpu", "--space", "mobile", "--use", "roofline"), 2, "cost_model.use=roofline"),
        (
            ("cpu", "--space", "mobile", "--use", "lookup", "--target", "peak_memory_mb"),
            2,
            "cannot learn peak_memory_mb",
        ),
        (("cpu", "--space", "mobile", "--input", "3,x,8"), 2, "--input must be three whole numbers"),
        (("cpu", "--space", "mobile", "--input", "3,4,4"), 2, "takes inputs of 8 to 512 pixels"),
        (("cpu", "--space", "mobile", "--target", "joule"), 2, "latency_ms"),
        (("cpu", "--space", "mobile", "--report", "1"), 2, "--report"),
        (("cpu", "--space", "mobile", "--target", "energy_mj", "--meter", "none"), 4, "energy_mj needs a meter"),
        (
            ("cpu", "--space", "mobile", "--target", "energy_mj", "--meter", "model:watts=5"),
            4,
            "energy_mj needs a meter",
        ),
        (("ethos-u55-128", "--space", "mobile"), 4, "estimated"),
        (("cpu",), 2, "--space"),
        ((), 2, "DEVICE"),
    ],
)
def test_bad_usage(
    words: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found, err = said(capsys, *words)
    assert found == code and message in err and len(err.splitlines()) == 1


def test_trees_without_their_package(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hwnas.search.fitting.installed", lambda: False)
    code, err = said(capsys, "cpu", "--space", "mobile", "--use", "trees", "--samples", "50")
    assert code == 4 and err == "hwnas: cost model 'trees' needs LightGBM: pip install 'hwnas[trees]'"


@pytest.mark.parametrize("as_json", [True, False])
def test_a_fit_is_told_when_its_report_fails(
    tmp_path: Path,
    device: Simulated,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,
) -> None:
    def lost(*what: Any) -> None:
        raise DeviceError("the device is lost")

    monkeypatch.setattr("hwnas.search.cli.named_device.NamedDevice.open", lambda *what: device)
    monkeypatch.setattr("hwnas.search.networks.Networks", lambda *what, **how: networks(tmp_path, device))
    monkeypatch.setattr("hwnas.search.fit_report.report_on", lost)
    path = tmp_path / "cpu.json"
    words = ["fit", "cpu", "--space", "mobile", "--input", "1,8,8", "--num-classes", "10", "--samples", "4", "--report"]
    code = main([*words, "--out", str(path), *(["--json"] if as_json else [])])
    out, err = capsys.readouterr()
    assert code == 4 and err.strip().splitlines()[-1] == "hwnas: the device is lost" and path.exists()
    if as_json:
        told = json.loads(out)
        assert told["report"] is None and told["error"] == "the device is lost" and len(told["samples"]) == 4
    else:
        assert "4 measured" in out


def test_no_meter(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(options: Mapping[str, Any], runtime: str = "") -> None:
        raise DeviceError("no energy meter: none is here")

    monkeypatch.setattr("hwnas.profilers.open_meter", none)
    code, err = said(capsys, "cpu", "--space", "mobile", "--target", "energy_mj")
    assert code == 4 and err == "hwnas: energy_mj cannot be measured: no energy meter: none is here"


def test_an_added_device_comes_before_cpu_and_keeps_its_threads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from hwnas.search.cli.named_device import named_device
    from hwnas.search.known_devices import KnownDevice, write_devices

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert named_device("cpu").title == "onnxruntime:fp32"
    write_devices({"cpu": KnownDevice("ssh:me@board", "onnxruntime", 4, "int8")})
    assert named_device("cpu").title == "cpu" and named_device("cpu").precision == "int8"
    code, err = said(capsys, "cpu", "--space", "mobile", "--threads", "2")
    assert code == 2 and "was added with 4" in err
    code, err = said(capsys, "cpu", "--space", "mobile", "--target", "energy_mj")
    assert code == 4 and "meters are read on this machine only" in err


ENV = ("XDG_DATA_HOME", "XDG_CACHE_HOME")


@pytest.mark.slow
def test_a_real_runtime(hwnas: Any, tmp_path: Path) -> None:
    env = {name: str(tmp_path / name) for name in ENV}
    words = ("fit", "cpu", "--space", "mobile", "--input", "1,8,8", "--json")
    done = hwnas(*words, "--samples", "6", "--report", "4", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["schema_version"] == 1 and told["device"] == "onnxruntime:fp32" and told["target"] == "latency_ms"
    assert len(told["samples"]) == told["measured_now"] == 6 and len(told["report"]["networks"]) == 4
    assert 0 < told["left_out_error"] < 1 and 0 <= told["noise"] < 1 and told["seconds"] > 0
    assert all(0 < one["measured"] < 100 for one in told["samples"])
    assert "next: hwnas" in done.stderr and "Traceback" not in done.stderr
    kept = Fitted.load(Path(told["file"]))
    assert kept.provenance.fingerprint["precision"] == "fp32" and kept.samples[0].graph.macs > 0
    more = hwnas(*words[:-1], "--samples", "7", cwd=tmp_path, env=env)
    assert more.returncode == 0, more.stderr
    assert "7 measured, 3 of them at random, 1 now" in more.stdout and str(told["file"]) in more.stdout


@pytest.mark.slow
def test_ctrl_c(tmp_path: Path) -> None:
    env = {**os.environ, **{name: str(tmp_path / name) for name in ENV}}
    path = tmp_path / "cpu.json"
    command = [sys.executable, "-m", "hwnas", "fit", "cpu", "--space", "mobile", "--input", "1,8,8", "--out", str(path)]
    process = subprocess.Popen([*command, "--samples", "40"], env=env, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not path.with_name("cpu.json.begun").exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip().splitlines()[-1].endswith("the same command goes on")
    assert "Traceback" not in err and not path.exists()
    kept = json.loads(path.with_name("cpu.json.begun").read_text())
    assert kept["samples"] and kept["of"]["space"] == "mobile"


def test_an_interrupt_that_was_swallowed_ends_it(
    tmp_path: Path, device: Simulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_requests", 1)
    with pytest.raises(interrupts.Interrupt):
        fit_device(networks(tmp_path, device), Task(space()), tmp_path / "cpu.json")
    assert not device.measured
