"""Meters that count energy by themselves: processors (RAPL) and NVIDIA GPUs (NVML)."""

from __future__ import annotations

import re
from importlib import import_module, util
from pathlib import Path
from typing import Any, ClassVar

from ...spaces.errors import DeviceError
from ..runtimes.runtime import Availability
from .meter import Meter

__all__ = ["NvmlMeter", "RaplMeter"]

POWERCAP = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"intel-rapl:\d+")
_UNREADABLE = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"


class RaplMeter(Meter):
    """The energy counters of the processor packages, Intel and AMD, as Linux shows them (powercap).

    They see everything that runs on the packages, and neither memory nor disk. The counters are renewed about every
    millisecond in steps of 61 uJ on most processors (Intel SDM vol. 3B, 15.10).

    Args:
        path: folder with the `intel-rapl:N` folders.

    Raises:
        DeviceError: there is no counter, or it may not be read.
    """

    name: ClassVar[str] = "rapl"
    automatic: ClassVar[bool] = True
    resolution_mj = 0.061
    interval_s = 0.001

    def __init__(self, path: Path | str = POWERCAP) -> None:
        self._domains = _packages(Path(path))
        if not self._domains:
            raise DeviceError(f"no RAPL counter in {path}: it needs a processor and kernel with powercap (no guest)")
        self._ranges_uj = [_number(domain / "max_energy_range_uj") for domain in self._domains]
        self._last_uj = self._values()
        self._total_uj = 0
        self.covers = f"processor packages ({len(self._domains)})"

    @staticmethod
    def available() -> Availability:
        domains = _packages(POWERCAP)
        if not domains:
            return Availability(False, missing="no /sys/class/powercap/intel-rapl:0", install="not in virtual machines")
        try:
            _number(domains[0] / "energy_uj")
        except DeviceError:
            return Availability(False, missing="its counter may not be read", install=_UNREADABLE)
        return Availability(True)

    def mark(self) -> float:
        """Returns the millijoules since the meter was opened."""
        values = self._values()
        for now, before, size in zip(values, self._last_uj, self._ranges_uj, strict=True):
            step = now - before
            if step < 0:
                step += size  # the counter starts again at its range
                if not 0 <= step < size / 2:
                    raise DeviceError(f"the RAPL counter went backwards, from {before} to {now} uJ")
            self._total_uj += step
        self._last_uj = values
        return self._total_uj / 1e3

    def _values(self) -> list[int]:
        return [_number(domain / "energy_uj") for domain in self._domains]


def _packages(root: Path) -> list[Path]:
    """Returns the folders of the packages; those of cores and memory are parts of them, `psys` holds them."""
    found = []
    for domain in sorted(root.glob("intel-rapl:*")):
        try:
            label = (domain / "name").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if _PACKAGE.fullmatch(domain.name) and label.startswith("package"):
            found.append(domain)
    return found


def _number(path: Path) -> int:
    """Reads a whole number of sysfs.

    Raises:
        DeviceError: it cannot be read, or is none.
    """
    try:
        return int(path.read_text(encoding="utf-8", errors="replace"))
    except PermissionError:
        raise DeviceError(f"{path} may not be read: {_UNREADABLE}") from None
    except OSError as error:
        raise DeviceError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise DeviceError(f"{path} does not hold a number") from None


class NvmlMeter(Meter):
    """The energy counter of one NVIDIA GPU (Volta or newer), whole board.

    It counts whatever runs on that GPU and nothing of the processor, so `auto` takes it for runtimes on a GPU alone. It
    is renewed every 20 to 100 ms (Yang et al., "Part-time Power Measurements", 2023).

    Args:
        gpu: its number.

    Raises:
        DeviceError: no driver, no such GPU, or one without a counter.
    """

    name: ClassVar[str] = "nvml"
    resolution_mj = 1.0
    interval_s = 0.1

    def __init__(self, gpu: int = 0) -> None:
        self._nvml = self._library()
        self._ask("nvmlInit", lambda: self._nvml.nvmlInit())
        self._gpu = self._ask(f"GPU {gpu}", lambda: self._nvml.nvmlDeviceGetHandleByIndex(gpu))
        self.covers = f"GPU {gpu}"
        self.mark()

    @staticmethod
    def available() -> Availability:
        if util.find_spec("pynvml") is None:
            return Availability(False, missing="no package nvidia-ml-py", install="pip install nvidia-ml-py")
        if not Path("/dev/nvidiactl").exists():
            return Availability(False, missing="no NVIDIA driver", install="needs an NVIDIA GPU and its driver")
        return Availability(True)

    def mark(self) -> float:
        """Returns the millijoules since the driver was loaded."""
        return float(self._ask("energy", lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)))

    def close(self) -> None:
        self._ask("nvmlShutdown", lambda: self._nvml.nvmlShutdown())

    @staticmethod
    def _library() -> Any:
        if util.find_spec("pynvml") is None:
            raise DeviceError("meter 'nvml' needs a package: pip install nvidia-ml-py")
        return import_module("pynvml")

    def _ask(self, what: str, call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # NVMLError, of a package that may be missing
            raise DeviceError(f"NVML, {what}: {error}"[:200]) from None
