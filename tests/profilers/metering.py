"""Meters for tests: folders and programs in the form of real ones, and an installed plug-in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["install_fake_adb", "install_plugin", "make_ina", "make_powercap"]

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


def make_ina(root: Path, labels: Sequence[str] = ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), milliamperes: int = 400) -> Path:
    """Lays out the hwmon folder of a Jetson Orin Nano: 5 V on each channel."""
    (root / "hwmon0").mkdir(parents=True)
    (root / "hwmon0" / "name").write_text("tmp451\n")
    folder = root / "hwmon1"
    folder.mkdir()
    (folder / "name").write_text("ina3221\n")
    for number, label in enumerate(labels, start=1):
        (folder / f"in{number}_label").write_text(f"{label}\n")
        (folder / f"in{number}_input").write_text("5000\n")
        (folder / f"curr{number}_input").write_text(f"{milliamperes}\n")
    return root


def install_fake_adb(folder: Path, answer: str, code: int = 0) -> Path:
    """Writes a program `adb` that keeps its arguments and gives one answer; the folder goes on the path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answer").write_text(answer)
    program = folder / "adb"
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/asked\n'
        f"{'cat' if code == 0 else 'cat >&2'} < {folder}/answer\nexit {code}\n"
    )
    program.chmod(0o755)
    return folder


PLUGIN = '''
"""A meter for tests: 2 W always, and 10 W for each processor that this process keeps busy."""

import math
import time

from hwnas.profilers import Availability, Meter


class CpuWatts(Meter):
    name = "cpuwatts"
    covers = "this process"
    interval_s = 0.001

    def __init__(self, mode: str = "sound", busy_w: float = 10.0) -> None:
        self.mode, self.busy_w, self.asked = mode, busy_w, 0
        if mode == "broken":
            raise OSError("no such wire")

    @staticmethod
    def available() -> Availability:
        return Availability(True)

    def mark(self):
        self.asked += 1
        mj = 1e3 * (2.0 * time.monotonic() + self.busy_w * time.process_time())
        if self.mode == "dies" and self.asked > 6:
            raise OSError("the wire came off")
        return {"nothing": None, "nan": math.nan, "zero": 0.0, "backwards": -mj, "text": "12"}.get(self.mode, mj)
'''


def install_plugin(folder: Path, code: str = PLUGIN, entry: str = "cpuwatts = cpu_watts:CpuWatts") -> Path:
    """Lays out an installed package with a meter; the folder goes into PYTHONPATH."""
    name = entry.partition("= ")[2].partition(":")[0]
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hwnas.meters]\n{entry}\n")
    return folder
