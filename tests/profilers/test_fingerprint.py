"""What is read of the machine around a measurement, from folders laid out as Linux does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwnas.profilers.fingerprint import conditions, used_shares


def lay_out(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return f"{root}/"


BOARD = {
    "proc/stat": "cpu  100 0 20 800 5 0 3 40 0 0\ncpu0 1 2 3\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/class/thermal/thermal_zone0/temp": "61000\n",
    "sys/class/thermal/thermal_zone1/temp": "72500\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
}


def test_a_hot_board(tmp_path: Path) -> None:
    told = conditions(lay_out(tmp_path, BOARD))
    assert told["cpu_mhz"] == 1500 and told["celsius"] == 72.5 and told["throttled_now"] is True
    assert told["jiffies"] == {"total": 968, "busy": 123, "steal": 40}
    assert used_shares(told, told)["throttled"] is True


@pytest.mark.parametrize(("said", "now"), [("50000", False), ("0", False), ("4", True)])
def test_throttling_since_boot_is_not_throttling_now(tmp_path: Path, said: str, now: bool) -> None:
    throttled = {"sys/devices/platform/soc/soc:firmware/get_throttled": said}
    assert conditions(lay_out(tmp_path, throttled))["throttled_now"] is now


@pytest.mark.parametrize(("said", "now"), [("throttled=0x50005", True), ("throttled=0x50000", False), ("error", None)])
def test_a_pi_whose_kernel_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, now: bool | None
) -> None:
    tool = tmp_path / "bin" / "vcgencmd"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n[ $1 = get_throttled ] && echo {said}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    assert conditions(f"{tmp_path}/").get("throttled_now") == now


def test_throttling_between_two_looks(tmp_path: Path) -> None:
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    before = conditions(lay_out(tmp_path, {count: "7"}))
    assert not used_shares(before, conditions(f"{tmp_path}/"))["throttled"]
    assert used_shares(before, conditions(lay_out(tmp_path, {count: "8"})))["throttled"]


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    told = conditions(f"{tmp_path}/")
    assert told["jiffies"] == {} and "celsius" not in told and "cpu_mhz" not in told
    assert used_shares(told, told) == {"throttled": False}


@pytest.mark.parametrize(("threads", "cores", "others"), [(1, 2, 0.8), (1, 5, 0.2), (2, 2, 0.4)])
def test_the_share_of_others(monkeypatch: pytest.MonkeyPatch, threads: int, cores: int, others: float) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    before = {"jiffies": {"total": 0, "busy": 0, "steal": 0}, "own_s": 0.0, "clock_s": 0.0}
    busy = round((threads + 0.8) / cores * 1000)
    after = {"jiffies": {"total": 1000, "busy": busy, "steal": 20}, "own_s": float(threads), "clock_s": 1.0}
    told = used_shares(before, after, threads)
    assert told["others"] == pytest.approx(others, abs=0.002) and told["steal"] == 0.02
