"""Each meter against a folder, a library, a program or a log in the form of a real one."""

from __future__ import annotations

import os
import pty
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hwnas.profilers import Availability, Meter, find_meter, meter_names, open_meter
from hwnas.profilers.meters.counters import NvmlMeter, RaplMeter
from hwnas.profilers.meters.energy import measured_energy
from hwnas.profilers.meters.meter import meter_help
from hwnas.profilers.meters.meter_log import CsvMeter
from hwnas.profilers.meters.power import InaMeter, integral_mj
from hwnas.spaces.errors import DeviceError, UsageError

Install = Callable[[str, str], None]
DAY_S = 86_400.0

# A laptop of one package and a server of two, as their /sys/class/powercap is laid out: name, energy_uj and
# max_energy_range_uj of each domain; the folders of cores and memory stand beside those of the packages.
LAPTOP = {
    "intel-rapl:0": ("package-0", 262_143_328_850),
    "intel-rapl:0:0": ("core", 262_143_328_850),
    "intel-rapl:0:1": ("uncore", 262_143_328_850),
    "intel-rapl:1": ("psys", 262_143_328_850),
    "intel-rapl-mmio:0": ("package-0", 262_143_328_850),
}
SERVER = {
    "intel-rapl:0": ("package-0", 262_143_328_850),
    "intel-rapl:0:0": ("dram", 65_712_999_613),
    "intel-rapl:1": ("package-1", 262_143_328_850),
    "intel-rapl:1:0": ("dram", 65_712_999_613),
}


def make_powercap(root: Path, domains: Mapping[str, tuple[str, int]] = LAPTOP, energy_uj: int = 52_649_883_221) -> Path:
    """Lays out a powercap folder."""
    (root / "intel-rapl").mkdir(parents=True)
    for name, (label, size) in domains.items():
        (root / name).mkdir()
        (root / name / "name").write_text(f"{label}\n")
        (root / name / "max_energy_range_uj").write_text(f"{size}\n")
        set_energy(root, name, energy_uj)
    return root


def set_energy(root: Path, domain: str, energy_uj: int) -> None:
    (root / domain / "energy_uj").write_text(f"{energy_uj}\n")


def make_ina(
    root: Path, labels: Sequence[str] = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), milliamperes: int = 400
) -> Path:
    """Lays out the hwmon folder of a Jetson Orin Nano: 5 V on each channel."""
    (root / "hwmon0").mkdir(parents=True)
    (root / "hwmon0" / "name").write_text("tmp451\n")
    folder = root / "hwmon1"
    folder.mkdir()
    (folder / "name").write_text("ina3221\n")
    for number, label in enumerate(labels, start=1):
        (folder / f"in{number}_label").write_text(f"{label}\n")
        (folder / f"in{number}_input").write_text("5000\n")
        (folder / f"curr{number}_input").write_text("400\n")
    return root


@pytest.mark.parametrize("name", ["rapl", "ina", "nvml", "csv"])
def test_a_meter_is_here_or_says_what_helps(name: str) -> None:
    kind = find_meter(name)
    found = kind.available()
    assert kind.name == name and issubclass(kind, Meter)
    assert found.ok or (found.missing and found.install)
    assert name in meter_names() and f"{name}: " in meter_help()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"use": "rappl"}, "unknown meter 'rappl' (did you mean 'rapl'?)"),
        ({"use": "csv"}, "meter 'csv' needs path"),
        ({"use": "csv", "paht": "x"}, "no option 'paht' (did you mean 'path'?)"),
        ({"use": "auto", "path": "x"}, "'auto' has no options"),
    ],
)
def test_what_is_no_meter_is_bad_usage(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as raised:
        open_meter(options)
    assert says in str(raised.value)


def test_adb_is_withdrawn_and_says_why() -> None:
    assert "adb" not in meter_names() and "adb" not in meter_help()
    with pytest.raises(DeviceError, match=r"'adb' is withdrawn: .*needs the network") as raised:
        open_meter({"use": "adb", "serial": "R5CR30"})
    assert raised.value.exit_code == 4 and "\n" not in str(raised.value)


def test_auto_takes_no_meter_of_the_processor_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_powercap(tmp_path / "laptop")
    monkeypatch.setattr("hwnas.profilers.meters.counters.POWERCAP", root)
    monkeypatch.setattr(RaplMeter.__init__, "__defaults__", (root,))
    monkeypatch.setattr(NvmlMeter, "available", lambda: Availability(False, missing="no NVIDIA driver", install="one"))
    assert open_meter({"use": "auto"}, "torch").name == "rapl"
    with pytest.raises(DeviceError, match="no energy meter of torch-cuda's GPU: nvml: no NVIDIA driver"):
        open_meter({"use": "auto"}, "torch-cuda")
    told = measured_energy(lambda: None, {"use": "auto"}, "torch-cuda")
    assert told.source == "missing" and "torch-cuda's GPU" in told.reason
    monkeypatch.setattr(NvmlMeter, "available", lambda: Availability(True))
    monkeypatch.setattr(NvmlMeter, "_library", staticmethod(lambda: RecordedNvml([8_112_345_678])))
    assert open_meter({"use": "auto"}, "torch-cuda").name == "nvml"


# --- RAPL


def test_rapl_counts_the_packages_and_nothing_twice(tmp_path: Path) -> None:
    root = make_powercap(tmp_path / "laptop")
    meter = open_meter({"use": "rapl", "path": str(root)})
    begin = meter.mark()
    for domain in LAPTOP:
        set_energy(root, domain, 52_649_883_221 + 1_500_000)
    assert meter.between_mj(begin, meter.mark()) == pytest.approx(1500.0)
    server = make_powercap(tmp_path / "server", SERVER)
    meter = RaplMeter(server)
    begin = meter.mark()
    set_energy(server, "intel-rapl:0", 52_649_883_221 + 1_000_000)
    set_energy(server, "intel-rapl:1", 52_649_883_221 + 250_000)
    set_energy(server, "intel-rapl:1:0", 52_649_883_221 + 9_000_000)
    assert meter.between_mj(begin, meter.mark()) == pytest.approx(1250.0)
    assert "(2)" in meter.covers


def test_rapl_goes_on_after_its_range(tmp_path: Path) -> None:
    size = LAPTOP["intel-rapl:0"][1]
    meter = RaplMeter(make_powercap(tmp_path / "p", energy_uj=size - 400_000))
    begin = meter.mark()
    set_energy(tmp_path / "p", "intel-rapl:0", 600_000)
    assert meter.between_mj(begin, meter.mark()) == pytest.approx(1000.0)


def test_rapl_that_goes_backwards_is_refused(tmp_path: Path) -> None:
    meter = RaplMeter(make_powercap(tmp_path / "p"))
    set_energy(tmp_path / "p", "intel-rapl:0", 52_649_883_220)
    with pytest.raises(DeviceError, match="went backwards"):
        meter.mark()


def test_rapl_that_may_not_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_powercap(tmp_path / "p")
    sound = Path.read_text

    def refused(self: Path, *args: Any, **more: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return sound(self, *args, **more)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(DeviceError, match=r"chmod a\+r"):
        RaplMeter(root)


@pytest.mark.parametrize("text", ["", "abc\n", "1.5\n"])
def test_rapl_with_nonsense_is_refused(tmp_path: Path, text: str) -> None:
    root = make_powercap(tmp_path / "p")
    (root / "intel-rapl:0" / "energy_uj").write_text(text)
    with pytest.raises(DeviceError, match="does not hold a number"):
        RaplMeter(root)


def test_no_rapl(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no RAPL counter"):
        RaplMeter(tmp_path)


# --- NVML


class RecordedNvml:
    """A library that gives back a sequence of counter values, as NVML's own would."""

    def __init__(self, values_mj: list[Any]) -> None:
        self.values, self.open = iter(values_mj), False

    def nvmlInit(self) -> None:
        self.open = True

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index > 0:
            raise RuntimeError("Invalid Argument")
        return "gpu"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> Any:
        assert handle == "gpu" and self.open
        value = next(self.values)
        if isinstance(value, Exception):
            raise value
        return value

    def nvmlShutdown(self) -> None:
        self.open = False


class RecordedNvmlMeter(NvmlMeter):
    library: ClassVar[RecordedNvml]

    @staticmethod
    def _library() -> Any:
        return RecordedNvmlMeter.library


def nvml(*values_mj: Any, gpu: int = 0) -> NvmlMeter:
    RecordedNvmlMeter.library = RecordedNvml(list(values_mj))
    return RecordedNvmlMeter(gpu)


def test_nvml_counts_millijoules() -> None:
    meter = nvml(8_112_345_678, 8_112_345_690, 8_112_525_690)
    assert meter.between_mj(meter.mark(), meter.mark()) == 180_000.0
    meter.close()
    assert not RecordedNvmlMeter.library.open


def test_nvml_without_a_counter_or_gpu() -> None:
    with pytest.raises(DeviceError, match="Not Supported"):
        nvml(RuntimeError("Not Supported"))
    with pytest.raises(DeviceError, match="GPU 3: Invalid Argument"):
        nvml(1, gpu=3)


@pytest.mark.gpu
def test_nvml_live() -> None:
    if not NvmlMeter.available().ok:
        pytest.skip(NvmlMeter.available().missing)
    meter = NvmlMeter()
    begin = meter.mark()
    time.sleep(2.0)
    assert meter.between_mj(begin, meter.mark()) > 1000.0  # an idle GPU takes more than half a watt
    meter.close()


def test_rapl_live() -> None:
    if not RaplMeter.available().ok:
        pytest.skip(RaplMeter.available().missing)
    meter = RaplMeter()
    begin = meter.mark()
    time.sleep(0.5)
    assert meter.between_mj(begin, meter.mark()) > 0


# --- sampled power


def test_the_integral_of_power() -> None:
    times = [i / 100 for i in range(201)]
    assert integral_mj(times, [2.0] * 201, 0.505, 1.505) == pytest.approx(2000.0)
    assert integral_mj(times, list(times), 0.0, 2.0) == pytest.approx(2000.0)
    assert integral_mj(times, list(times), 0.333, 1.777) == pytest.approx((1.777**2 - 0.333**2) / 2 * 1e3)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ([], "no values"),
        ([0.0, 0.1, 0.2], "no values"),
        ([0.5, 1.0, 1.5, 2.0, 3.0], "no values"),
        ([0.0, 0.1, DAY_S], "silent for 8.64e"),
        ([0.0, 0.3, 1.2, 1.6, 2.0], "silent for 0.9 s in a window of 2 s"),
    ],
)
def test_a_gap_in_the_samples_is_told(times: list[float], says: str) -> None:
    with pytest.raises(DeviceError, match=says):
        integral_mj(times, [1.0] * len(times), 0.0, 2.0)


def test_the_board_of_a_jetson(tmp_path: Path) -> None:
    meter = open_meter({"use": "ina", "path": str(make_ina(tmp_path / "orin"))})
    begin = meter.mark()
    time.sleep(0.6)
    end = meter.mark()
    assert meter.between_mj(begin, end) == pytest.approx(2.0 * (end - begin) * 1e3)
    assert meter.covers == "the whole board"
    meter.close()
    rails = InaMeter(make_ina(tmp_path / "other", ("GPU", "CPU")))
    assert rails.watts() == pytest.approx(4.0) and rails.covers == "rails GPU, CPU"
    rails.close()
    with pytest.raises(DeviceError, match="no INA3221"):
        InaMeter(tmp_path)


def test_a_sensor_that_is_lost_is_told(tmp_path: Path) -> None:
    meter = InaMeter(make_ina(tmp_path / "orin"))
    begin = meter.mark()
    (tmp_path / "orin" / "hwmon1" / "curr1_input").unlink()
    time.sleep(0.1)
    with pytest.raises(DeviceError, match="curr1_input"):
        meter.between_mj(begin, meter.mark())
    meter.close()


# --- the log of an external meter


class Logger:
    """An external meter: writes 3 W, 2 ms apart, with a clock of its own and the level of a pin."""

    def __init__(self, folder: Path, header: str = "time_s,power_w,marker", ahead_s: float = 0.0) -> None:
        self.path, self.pin, self.ahead_s = folder / "log.csv", folder / "pin", ahead_s
        self.pin.write_text("0")
        self.path.write_text(f"{header}\n")
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.log)

    def log(self) -> None:
        began, wall = time.monotonic(), time.time()
        with self.path.open("a") as file:
            while not self.over.wait(0.002):
                level = self.pin.read_text() or "0"
                file.write(f"{wall + time.monotonic() - began + self.ahead_s:.6f},3.0,{level}\n")
                file.flush()

    def __enter__(self) -> Logger:
        self.thread.start()
        while not self.path.read_text().endswith("0\n"):
            time.sleep(0.001)
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()


def window(meter: Meter, seconds: float = 0.6) -> tuple[float, float]:
    """Returns the energy of a window in mJ, and its length in s."""
    begin, start = meter.mark(), time.monotonic()
    time.sleep(seconds)
    end, stop = meter.mark(), time.monotonic()
    return meter.between_mj(begin, end), stop - start


@pytest.mark.parametrize("ahead_s", [0.0, DAY_S, -1.5])
def test_a_log_on_the_clock_of_the_day(tmp_path: Path, ahead_s: float) -> None:
    with Logger(tmp_path, ahead_s=ahead_s) as logger:
        meter = open_meter({"use": "csv", "path": str(logger.path), "offset_s": ahead_s})
        energy_mj, seconds = window(meter)
        assert energy_mj == pytest.approx(3e3 * seconds, rel=0.05)
        meter.close()


def test_a_log_aligned_by_markers_needs_no_clock(tmp_path: Path) -> None:
    with Logger(tmp_path, ahead_s=-1e9) as logger:
        meter = CsvMeter(logger.path, marker=logger.pin)
        for _ in range(3):
            energy_mj, seconds = window(meter)
            assert energy_mj == pytest.approx(3e3 * seconds, rel=0.1)
        meter.close()


def test_another_clock_is_told(tmp_path: Path) -> None:
    with Logger(tmp_path, ahead_s=-DAY_S) as logger:
        meter = CsvMeter(logger.path, wait_s=0.3)
        with pytest.raises(DeviceError, match="its clock is another: give offset_s, or use a marker"):
            window(meter)


def test_a_marker_that_is_not_wired_is_told(tmp_path: Path) -> None:
    with Logger(tmp_path) as logger:
        meter = CsvMeter(logger.path, marker=tmp_path / "other pin", wait_s=0.3)
        with pytest.raises(DeviceError, match="its marker did not follow"):
            window(meter)


def test_a_log_that_has_stopped_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("time_s,power_w\n1.0,3.0\n")
    meter = CsvMeter(tmp_path / "log.csv", wait_s=0.2)
    with pytest.raises(DeviceError, match="no new lines"):
        window(meter, 0.01)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("2.0,3.0\n1.0,3.0\n", "its time goes backwards, from 2 to 1 s"),
        ("2.0\n", "without the numbers"),
        ("2.0,x\n", "without the numbers"),
        ("2.0,nan\n", "a line with nan W"),
    ],
)
def test_bad_lines_of_a_log_are_told(tmp_path: Path, lines: str, says: str) -> None:
    (tmp_path / "log.csv").write_text("time_s,power_w\n")
    meter = CsvMeter(tmp_path / "log.csv", wait_s=0.2)
    with (tmp_path / "log.csv").open("a") as file:
        file.write(lines)
    with pytest.raises(DeviceError, match=says):
        window(meter, 0.01)


@pytest.mark.parametrize("header", ["", "a,b", "time_s,watts", "time_s,current_a", "time_s,power_w"])
def test_columns_are_named(tmp_path: Path, header: str) -> None:
    (tmp_path / "log.csv").write_text(f"{header}\n")
    with pytest.raises(DeviceError, match="no column"):
        CsvMeter(tmp_path / "log.csv", marker=tmp_path / "pin")


def test_a_log_of_current_and_voltage(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("Time_ms,Current_mA,Voltage_V,note\n")
    meter = CsvMeter(log)
    now = time.time()
    with log.open("a") as file:
        file.writelines(f"{(now + i / 100 - 1) * 1e3:.3f},500,4.0,\n" for i in range(300))
    begin = time.monotonic()
    assert meter.between_mj(*(at + time.time() - time.monotonic() for at in (begin, begin + 1.0))) == pytest.approx(
        2e3, rel=1e-3
    )
    meter.close()


# --- clocks


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_the_clock_of_the_day_may_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    with Logger(tmp_path) as logger:
        meter = CsvMeter(logger.path)
        ina = InaMeter(make_ina(tmp_path / "orin"))
        true = time.time
        monkeypatch.setattr(time, "time", lambda: true() + jump_s)
        energy_mj, seconds = window(meter)
        assert energy_mj == pytest.approx(3e3 * seconds, rel=0.05)
        energy_mj, seconds = window(ina)
        assert energy_mj == pytest.approx(2e3 * seconds, rel=0.05)
        ina.close()


@pytest.mark.parametrize(("jump_s", "says"), [(DAY_S, "silent for"), (-DAY_S, "goes backwards")])
def test_a_log_whose_own_clock_jumps_is_told(tmp_path: Path, jump_s: float, says: str) -> None:
    with Logger(tmp_path) as logger:
        meter = CsvMeter(logger.path)
        begin = meter.mark()
        time.sleep(0.05)
        logger.over.set()
        logger.thread.join()
        with logger.path.open("a") as file:
            file.writelines(f"{time.time() + jump_s + i / 500:.6f},3.0,0\n" for i in range(100))
        time.sleep(0.1)
        with pytest.raises(DeviceError, match=says):
            meter.between_mj(begin, meter.mark())


# --- plug-ins

SERIAL = '''
"""A meter behind a serial line that writes a line of volts and amperes for each sample, as many bench meters do."""

import os

from hwnas.profilers import Availability
from hwnas.profilers.meters.power import SampledMeter


class SerialMeter(SampledMeter):
    name = "bench"
    covers = "the bench supply"
    interval_s = 0.001

    def __init__(self, port: str) -> None:
        self.line, self.rest = os.open(port, os.O_RDONLY | os.O_NOCTTY), b""
        super().__init__()

    def close(self) -> None:
        super().close()
        os.close(self.line)

    @staticmethod
    def available() -> Availability:
        return Availability(False, missing="no port named", install="{use: bench, port: /dev/ttyUSB0}")

    def watts(self) -> float:
        while b"\\n" not in self.rest:
            self.rest += os.read(self.line, 64)
        sample, _, self.rest = self.rest.partition(b"\\n")
        volts, amperes = sample.split()
        return float(volts) * float(amperes)
'''


@pytest.fixture
def serial_line() -> Iterator[str]:
    """A pseudo terminal on which 12 V and 0.5 A come 200 times a second."""
    ours, theirs = pty.openpty()
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.005):
            os.write(ours, b"12.0 0.5\n")

    thread = threading.Thread(target=write)
    thread.start()
    yield os.ttyname(theirs)
    over.set()
    thread.join()
    os.close(ours)
    os.close(theirs)


def test_a_serial_meter_is_a_plugin(tmp_path: Path, install_meter: Install, serial_line: str) -> None:
    install_meter(SERIAL, "bench = bench_meter:SerialMeter")
    assert "bench" in meter_names()
    meter = open_meter({"use": "bench", "port": serial_line})
    energy_mj, seconds = window(meter)
    assert energy_mj == pytest.approx(6e3 * seconds, rel=0.1)
    meter.close()
    with pytest.raises(DeviceError, match="meter 'bench' cannot be opened: FileNotFoundError"):
        open_meter({"use": "bench", "port": str(tmp_path / "none")})


def test_a_silent_line_is_told(install_meter: Install) -> None:
    install_meter(SERIAL, "bench = silent_meter:SerialMeter")
    ours, theirs = pty.openpty()
    with pytest.raises(DeviceError, match="meter 'bench' says nothing"):
        open_meter({"use": "bench", "port": os.ttyname(theirs)})
    os.write(ours, b"12.0 0.5\n")  # so that its thread ends
    time.sleep(0.1)
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("code", "says"), [("import nothing_of_that_name", "cannot be loaded: ModuleNotFoundError"), ("No = 3", "is a int")]
)
def test_a_broken_plugin_is_told(install_meter: Install, code: str, says: str) -> None:
    entry = f"broken = broken_meter_{len(code)}:No"
    install_meter(code, entry)
    with pytest.raises(DeviceError, match=says):
        find_meter("broken")
