"""What an inference takes beyond idle power, on a clock of its own; and every way in which a meter fails."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.profilers import Availability, Energy, LocalProfiler, Measurement, Meter, get_runtime, open_meter
from hwnas.profilers.meters.counters import NvmlMeter, RaplMeter
from hwnas.profilers.meters.energy import LONGEST_S, MOST_S, STEPS, WINDOWS, estimated_energy, measure_energy
from hwnas.profilers.meters.meter_log import CsvMeter
from hwnas.spaces.errors import CandidateError, UsageError

DAY_S = 86_400.0


class World:
    """A machine on its own clock: an inference takes `each_s`, and `busy_w` where nothing takes `idle_w`."""

    def __init__(self, idle_w: float = 3.0, busy_w: float = 11.0, each_s: float = 0.01) -> None:
        self.idle_w, self.busy_w, self.each_s = idle_w, busy_w, each_s
        self.now = 1000.0
        self.joules = 500.0

    def infer(self) -> None:
        self.now += self.each_s
        self.joules += self.each_s * self.busy_w

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.joules += seconds * self.idle_w

    def clock(self) -> float:
        return self.now

    def measure(self, meter: Meter) -> Energy:
        return measure_energy(self.infer, meter, self.clock, self.sleep)


class WorldMeter(Meter):
    """Reads the world in steps."""

    name: ClassVar[str] = "world"
    covers = "the world"

    def __init__(self, world: World, step_mj: float = 0.0, interval_s: float = 0.001) -> None:
        self.world, self.resolution_mj, self.interval_s = world, step_mj, interval_s
        self.marks = 0

    @staticmethod
    def available() -> Availability:
        return Availability(True)

    def mark(self) -> float:
        self.marks += 1
        mj = 1e3 * self.world.joules
        return mj if self.resolution_mj == 0 else self.resolution_mj * math.floor(mj / self.resolution_mj)


def test_idle_power_is_taken_off_and_told() -> None:
    world = World(idle_w=3.0, busy_w=11.0, each_s=0.01)
    told = world.measure(WorldMeter(world))
    assert told.energy_mj == pytest.approx(80.0)  # 0.01 s x (11 - 3) W
    assert told.idle_w == pytest.approx(3.0) and told.busy_w == pytest.approx(11.0)
    assert (told.source, told.meter, told.covers, told.reason) == ("measured", "world", "the world", "")
    assert told.low_mj is not None and told.high_mj is not None and told.low_mj < 80 < told.high_mj
    assert len(told.windows_mj) == len(told.repetitions) == WINDOWS
    assert told.window_s == 0.2


@pytest.mark.parametrize("step_mj", [0.061, 1.0, 200.0])
def test_windows_are_long_against_the_steps_of_the_meter(step_mj: float) -> None:
    world = World(each_s=1e-4)
    told = world.measure(WorldMeter(world, step_mj))
    assert told.energy_mj is not None and abs(told.energy_mj - 0.8) < 0.1 * 0.8
    assert all(n * 1e-4 * 11.0 * 1e3 >= (STEPS - 1) * step_mj for n in told.repetitions)
    assert told.low_mj is not None and told.high_mj is not None and told.low_mj < 0.8 < told.high_mj


def test_windows_are_long_against_the_pace_of_the_meter() -> None:
    world = World()
    assert world.measure(WorldMeter(world, interval_s=0.1)).window_s == pytest.approx(2.0)
    assert world.measure(WorldMeter(world, interval_s=10.0)).window_s == MOST_S


def test_an_inference_that_outlasts_a_window_is_measured() -> None:
    world = World(each_s=1.5)
    told = world.measure(WorldMeter(world))
    assert told.energy_mj == pytest.approx(1.5 * 8.0 * 1e3) and set(told.repetitions) == {1}


@pytest.mark.parametrize(("each_s", "source"), [(0.001, "measured"), (3.7, "measured"), (7.0, "missing")])
def test_all_windows_together_end_in_time(each_s: float, source: str) -> None:
    world = World(each_s=each_s)
    begin = world.now
    told = world.measure(WorldMeter(world, 800.0, interval_s=0.1 if each_s > 1 else 0.001))
    assert world.now - begin < LONGEST_S
    assert told.source == source and (source == "measured" or "too slow" in told.reason)


def test_a_drift_of_idle_power_widens_the_interval() -> None:
    steady, drifting = World(), World()
    sleep = drifting.sleep

    def warming(seconds: float) -> None:
        drifting.idle_w += 0.5
        sleep(seconds)

    narrow = steady.measure(WorldMeter(steady))
    wide = measure_energy(drifting.infer, WorldMeter(drifting), drifting.clock, warming)
    assert wide.low_mj is not None and narrow.low_mj is not None and wide.low_mj < narrow.low_mj
    assert narrow.high_mj is not None and wide.high_mj is not None
    assert wide.high_mj - wide.low_mj > 4 * (narrow.high_mj - narrow.low_mj)


# --- a meter that returns nothing, zeros, or goes backwards


class Broken(WorldMeter):
    def __init__(self, world: World, answers: Callable[[float, int], Any]) -> None:
        super().__init__(world)
        self.answers = answers

    def mark(self) -> Any:
        return self.answers(super().mark(), self.marks)


def dying(mj: float, marks: int) -> float:
    if marks > 4:
        raise OSError("the wire came off")
    return mj


BROKEN: dict[str, tuple[Callable[[float, int], Any], str]] = {
    "nothing": (lambda mj, marks: None, "meter 'world' says nothing"),
    "NaN": (lambda mj, marks: math.nan, "meter 'world' says nan"),
    "infinity": (lambda mj, marks: math.inf, "meter 'world' says inf"),
    "a text": (lambda mj, marks: "12", "meter 'world' says '12'"),
    "true": (lambda mj, marks: True, "meter 'world' says True"),
    "zeros": (lambda mj, marks: 0.0, "stayed at the same value for 4 s"),
    "backwards": (lambda mj, marks: -mj, "went backwards, by"),
    "backwards at last": (lambda mj, marks: mj if marks < 14 else mj - 1e6, "went backwards, by"),
    "idle alone": (lambda mj, marks: 1.0 * marks, "sees no more power than at idle"),
    "dies": (dying, "OSError: the wire came off"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_meter_gives_a_missing_energy_with_its_reason(name: str) -> None:
    answers, says = BROKEN[name]
    world = World()
    told = world.measure(Broken(world, answers))
    assert (told.source, told.energy_mj, told.low_mj, told.high_mj) == ("missing", None, None, None)
    assert says in told.reason and "\n" not in told.reason
    assert Energy.from_json(json.loads(json.dumps(told.to_json()))) == told


def test_a_meter_that_is_too_coarse_is_told() -> None:
    world = World()
    assert "too coarse: 4.4e+04 mJ in 4 s, with steps of 2000 mJ" in world.measure(WorldMeter(world, 2000.0)).reason


def test_what_fails_in_the_model_is_the_models_fault() -> None:
    def crash() -> None:
        raise CandidateError("crash:runtime", "no")

    with pytest.raises(CandidateError, match="crash:runtime"):
        measure_energy(crash, WorldMeter(World()))


class ProcessorMeter(WorldMeter):
    """2 W always and 10 W for the processor time of this process, on this machine's clocks."""

    def mark(self) -> float:
        return 1e3 * (2.0 * time.monotonic() + 10.0 * time.process_time())


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_the_clock_of_the_day_may_jump_at_every_look(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    looks, true = itertools.count(), time.time
    monkeypatch.setattr(time, "time", lambda: true() + jump_s * (next(looks) % 2))

    def infer() -> None:
        end = time.process_time() + 0.005
        while time.process_time() < end:
            pass

    told = measure_energy(infer, ProcessorMeter(World()))
    assert told.energy_mj == pytest.approx(10.0 * 5.0, rel=0.2) and told.idle_w == pytest.approx(2.0, abs=0.5)


# --- recorded counters


def test_a_processor_whose_counter_starts_again(tmp_path: Path) -> None:
    """RAPL's counter steps by 61 uJ every millisecond, and starts again at its range in the midst of the windows."""
    world = World(idle_w=12.0, busy_w=38.0, each_s=0.0005)
    domain, size = tmp_path / "intel-rapl:0", 262_143_328_850
    domain.mkdir()
    (domain / "name").write_text("package-0\n")
    (domain / "max_energy_range_uj").write_text(f"{size}\n")

    class Recorded(RaplMeter):
        def _values(self) -> list[int]:
            joules = world.joules - (world.now % 0.001) * world.idle_w
            uj = int(joules * 1e6 / 61) * 61 + size - 520_000_000
            (domain / "energy_uj").write_text(f"{uj % size}\n")
            return super()._values()

    told = world.measure(Recorded(tmp_path))
    assert world.joules > 520.0  # it has started again
    assert told.energy_mj == pytest.approx(13.0, rel=0.02) and told.idle_w == pytest.approx(12.0, rel=0.02)
    assert told.low_mj is not None and told.high_mj is not None and told.low_mj < 13.0 < told.high_mj


def test_a_recorded_gpu() -> None:
    """NVML's counter steps by tens of joules every 100 ms: idle 72 W, busy 310 W."""
    world = World(idle_w=72.0, busy_w=310.0, each_s=0.005)

    class Library:
        def nvmlInit(self) -> None: ...

        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
            return index

        def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
            lag = 0.1 * ((world.now * 10) % 1)
            return int(1e3 * world.joules - 1e3 * lag * 72.0)

    class Recorded(NvmlMeter):
        @staticmethod
        def _library() -> Any:
            return Library()

    told = world.measure(Recorded())
    assert told.low_mj is not None and told.high_mj is not None and told.energy_mj is not None
    assert told.low_mj < 238.0 * 5 < told.high_mj and abs(told.energy_mj / (238.0 * 5) - 1) < 0.05
    assert told.idle_w == pytest.approx(72.0, rel=0.06)


class LoggedWorld(World):
    """A world whose power an external meter logs at its own pace, on the world's clock."""

    def __init__(self, log: Path, every_s: float, lines_before: int) -> None:
        super().__init__(idle_w=3.0, busy_w=11.0, each_s=0.01)
        self.log, self.every_s, self.logged = log, every_s, self.now
        log.write_text("time_s,power_w\n")
        for _ in range(lines_before):
            self.sleep(every_s)

    def infer(self) -> None:
        super().infer()
        self.write(self.busy_w)

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            super().sleep(min(self.every_s, end - self.now))
            self.write(self.idle_w)

    def write(self, watts: float) -> None:
        """Writes up to one line ahead of now: nothing is waited for on a clock that stands still."""
        with self.log.open("a") as file:
            while self.logged <= self.now:
                self.logged += self.every_s
                file.write(f"{self.logged:.6f},{watts}\n")


class WorldLog(CsvMeter):
    def __init__(self, world: LoggedWorld, interval_s: float = 0.01) -> None:
        self.world = world
        world.now = world.logged
        super().__init__(world.log, wait_s=0.1, interval_s=interval_s)

    def mark(self) -> float:
        return self.world.now


@pytest.mark.parametrize(("hertz", "window_s"), [(100, 0.2), (10, 2.0), (4, 4.0)])
def test_windows_are_long_against_the_pace_of_a_log(tmp_path: Path, hertz: int, window_s: float) -> None:
    world = LoggedWorld(tmp_path / "log.csv", 1 / hertz, lines_before=20)
    told = world.measure(WorldLog(world))
    assert told.reason == "" and told.window_s == pytest.approx(window_s, rel=0.01)
    assert told.energy_mj == pytest.approx(80.0, rel=0.1)  # less by the line of idle power at each begin
    assert told.low_mj is not None and told.high_mj is not None
    # one interval at busy power over the inferences of a window, at either end
    assert told.high_mj - told.low_mj >= 2 * 11e3 / hertz / max(told.repetitions)


def test_the_pace_of_an_empty_log_is_given_or_found(tmp_path: Path) -> None:
    world = LoggedWorld(tmp_path / "log.csv", 0.04, lines_before=0)
    world.write(3.0)
    told = world.measure(WorldLog(world))
    assert told.reason == "" and told.window_s == pytest.approx(0.8, rel=0.01)  # 0.2 s at first
    world = LoggedWorld(tmp_path / "log.csv", 0.1, lines_before=0)
    world.write(3.0)
    assert "silent" in world.measure(WorldLog(world)).reason
    world = LoggedWorld(tmp_path / "log.csv", 0.1, lines_before=0)
    world.write(3.0)
    assert world.measure(WorldLog(world, interval_s=0.1)).window_s == pytest.approx(2.0)


# --- answers of a runner


HOSTILE = [
    {},
    {"source": "measured", "meter": "x"},
    {"source": "measured", "meter": "x", "low_mj": 1.0, "energy_mj": 0.5, "high_mj": 2.0},
    {"source": "measured", "meter": "x", "low_mj": 0.0, "energy_mj": 0.0, "high_mj": 0.0},
    {"source": "measured", "meter": "x", "low_mj": -1.0, "energy_mj": 0.5, "high_mj": 2.0},
    {"source": "measured", "meter": "x", "low_mj": 0.1, "energy_mj": math.nan, "high_mj": 2.0},
    {"source": "measured", "meter": "x", "low_mj": 0.1, "energy_mj": "0.5", "high_mj": 2.0},
    {"source": "measured", "meter": "x", "low_mj": 0.1, "energy_mj": 0.5, "high_mj": math.inf},
    {"source": "measured", "meter": "x", "low_mj": 0.1, "energy_mj": 0.5, "high_mj": 1.0, "idle_w": math.nan},
    {"source": "missing", "meter": "x"},
    {"source": "missing", "meter": "x", "reason": "no", "energy_mj": 0.0},
    {"source": "guessed", "meter": "x", "low_mj": 0.1, "energy_mj": 0.5, "high_mj": 1.0},
    {"source": "missing", "meter": "x", "reason": 3},
    {"source": "missing", "meter": "x", "reason": "no", "surprise": 1},
    [],
    None,
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers(answer: Any) -> None:
    with pytest.raises(CandidateError) as raised:
        Measurement.from_json({"blocks": [[1.0]], "energy": answer})
    assert raised.value.code == "bad_result"


# --- through the measuring process


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)).eval()
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    get_runtime("onnxruntime").convert(net, torch.zeros(1, 3, 48, 48), path)
    return path


@pytest.mark.usefixtures("cpu_watts")
def test_energy_comes_from_the_process_that_gives_the_latency(model: Path) -> None:
    with LocalProfiler(meter={"use": "cpuwatts", "busy_w": 10.0}, attempts=1) as profiler:
        told = profiler.measure(model)
    assert told.energy is not None and told.energy.energy_mj is not None
    assert told.energy.energy_mj == pytest.approx(10.0 * told.median_ms, rel=0.5)  # the meter counts 10 W of processor
    assert told.energy.idle_w == pytest.approx(2.0, abs=0.5)
    assert Measurement.from_json(json.loads(json.dumps(told.to_json()))).energy == told.energy


@pytest.mark.usefixtures("cpu_watts")
@pytest.mark.parametrize("mode", ["nothing", "nan", "backwards", "text", "dies", "broken"])
def test_a_meter_that_fails_costs_nothing_but_the_energy(model: Path, mode: str) -> None:
    with LocalProfiler(meter={"use": "cpuwatts", "mode": mode}, attempts=1, budget_s=0.1) as profiler:
        told = profiler.measure(model)
    assert told.median_ms > 0 and told.energy is not None
    assert told.energy.source == "missing" and "cpuwatts" in told.energy.reason


def test_without_a_meter_energy_is_missing_and_says_what_helps(model: Path) -> None:
    with LocalProfiler(meter={"use": "rapl", "path": "/nowhere"}, attempts=1, budget_s=0.1) as profiler:
        told = profiler.measure(model).energy
    assert told is not None and told.source == "missing" and "no RAPL counter in /nowhere" in told.reason
    with LocalProfiler(attempts=1, budget_s=0.1) as profiler:
        assert profiler.measure(model).energy is None


def test_an_estimate_is_of_the_latency() -> None:
    told = estimated_energy(5.0, low_ms=1.0, latency_ms=2.0, high_ms=4.0)
    assert (told.low_mj, told.energy_mj, told.high_mj) == (5.0, 10.0, 20.0)


def test_an_estimate_is_asked_for_and_never_measured(model: Path) -> None:
    with LocalProfiler(meter={"use": "model", "watts": 5}, attempts=1, budget_s=0.1) as profiler:
        told = profiler.measure(model)
    assert told.energy is not None and told.energy.source == "estimated"
    assert told.energy.energy_mj == pytest.approx(5 * told.latency_ms)
    assert told.energy.reason == "a stated power of 5 W x latency"


@pytest.mark.parametrize("options", [{}, {"watts": 0}, {"watts": "5"}, {"watts": math.nan}, {"watts": 5, "more": 1}])
def test_an_estimate_needs_its_power(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="the energy model"):
        LocalProfiler(meter={"use": "model", **options})


def test_meters_live(model: Path) -> None:
    """Where the machine has a counter of its processor, a busy processor takes more than an idle one."""
    if not get_meter_available():
        pytest.skip("no meter of the processor here")
    with LocalProfiler(meter={"use": "auto"}) as profiler:
        told = profiler.measure(model).energy
    assert told is not None and told.energy_mj is not None and np.isfinite(told.energy_mj)


def get_meter_available() -> bool:
    from hwnas.spaces.errors import DeviceError

    try:
        open_meter({"use": "auto"}).close()
    except DeviceError:
        return False
    return True
