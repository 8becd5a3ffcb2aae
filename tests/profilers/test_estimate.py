"""What an estimate says, refuses and keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hwnas.profilers import Estimate, LocalProfiler, estimated_names, get_runtime, open_profiler, runtime_names
from hwnas.profilers.runtimes.ethos_u import SYSTEMS, EthosUProfiler
from hwnas.spaces.errors import CandidateError, DeviceError

TOLD: dict[str, Any] = {"latency_ms": 1.5, "cycles": 750, "sram_bytes": 64, "flash_bytes": 32, "operators": 3}


def test_what_is_left_to_the_cpu_is_named_with_its_share() -> None:
    assert Estimate(**TOLD).left == ""
    told = Estimate(**TOLD, on_cpu=("Exp", "Cumsum"))
    assert told.left == "2 of 3 operators (67 %) are left to the CPU: Cumsum, Exp"


def test_an_estimate_is_kept_as_json() -> None:
    told = Estimate(**TOLD, on_cpu=("Exp",), fingerprint={"vela": "5.2.0"})
    assert Estimate.from_json(json.loads(json.dumps(told.to_json()))) == told


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_ms": float("nan")},
        {"latency_ms": -1.0},
        {"cycles": "many"},
        {"sram_bytes": True},
        {"operators": 0, "on_cpu": ["Exp"]},
        {"surprise": 1},
        {"on_cpu": 3},
    ],
)
def test_what_is_no_estimate(wrong: dict[str, Any]) -> None:
    with pytest.raises(CandidateError) as raised:
        Estimate.from_json({**TOLD, **wrong})
    assert raised.value.code == "bad_result"


def test_estimated_devices_are_no_runtimes() -> None:
    assert not set(estimated_names()) & set(runtime_names())
    assert {name.rpartition("-")[0] for name in estimated_names()} == set(SYSTEMS)
    for name in estimated_names():
        assert get_runtime(name).precisions == ("int8",) and get_runtime(name).suffix == ".tflite"
    with pytest.raises(DeviceError, match="did you mean 'ethos-u55-128'"):
        get_runtime("ethos-u55-12")
    assert EthosUProfiler.provenance == "estimated" and LocalProfiler.provenance == "measured"


def test_an_npu_computes_in_int8_only() -> None:
    with pytest.raises(DeviceError, match="no precision 'fp32'"):
        open_profiler("ethos-u55-128", precision="fp32")
