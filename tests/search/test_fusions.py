"""`hwnas fit --probe-fusion`: the chains are written, measured in turns, and summed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from hwnas.cost_models.probe_fusion import CHAINS
from hwnas.profilers import Estimate, Measurement, Profiler
from hwnas.search.fusions import TURNS, chain_files, chain_times, infer
from hwnas.spaces.errors import DeviceError


class Recorded:
    """Gives what was recorded of a file, one reading after the other."""

    def __init__(self, readings: dict[Path, list[Any]]) -> None:
        self.readings = readings

    def measure(self, path: Path) -> Any:
        return self.readings[path].pop(0)


def reading(ms: float) -> Measurement:
    return Measurement(blocks=((ms, ms + 0.5, ms + 1.0),))


def device(readings: dict[Path, list[Any]]) -> Profiler:
    return cast(Profiler, Recorded(readings))


def test_the_shortest_of_all_turns_counts() -> None:
    files = {text: Path(f"{number}.onnx") for number, text in enumerate(CHAINS)}
    cost = {"conv": 5.0, "dwconv": 4.0, "pool": 3.0, "add": 1.0, "bn": 2.0, "relu": 1.0, "hswish": 1.5, "swish": 2.0}
    free = {"conv relu", "conv add relu", "conv bn"}

    def ms(text: str) -> float:
        whole = sum(cost[name] for name in text.split())
        return 1.0 + whole - (cost[text.split()[-1]] if text in free else 0.0)

    readings = {files[text]: [reading(ms(text) * factor) for factor in (1.004, 1.0, 1.3)] for text in CHAINS}
    table = infer(chain_times(device(readings), files, TURNS))
    assert table.fused("Conv", "Relu") is True and table.fused("Conv+Add", "Relu") is True
    assert table.fused("Conv", "BatchNormalization") is True
    assert table.fused("Conv", "HardSwish") is False and table.fused("DepthwiseConv", "Conv") is False


def test_an_estimated_device_is_refused() -> None:
    estimate = Estimate(latency_ms=1.0, cycles=1, sram_bytes=1, flash_bytes=1, operators=1)
    with pytest.raises(DeviceError, match="only estimated"):
        chain_times(device({Path("a"): [estimate]}), {"conv": Path("a")}, 1)


def test_each_chain_has_a_file(tmp_path: Path) -> None:
    files = chain_files("onnxruntime", "fp32", tmp_path)
    assert set(files) == set(CHAINS) and all(path.stat().st_size > 0 for path in files.values())
