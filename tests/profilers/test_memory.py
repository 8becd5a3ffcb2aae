"""Memory measured, told by the runtime, and computed, for networks of which it is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hwnas.profilers import LocalProfiler, Memory, get_runtime
from hwnas.profilers import memory as module
from hwnas.profilers.memory import measure_memory
from hwnas.spaces.errors import CandidateError

ACTIVATION_MB = 32 * 256 * 256 * 4 / 1e6
"""One activation of `large`; two are alive at once."""
MOST = 3.0
"""Resident memory of `large` over its two activations: 1.5 with OpenVINO, 2.0 with onnxruntime, and room for others."""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions on 256 x 256: 16.8 MB of activations at once, 42 kB of weights."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)).eval()
    path = tmp_path_factory.mktemp("model") / "large.onnx"
    get_runtime("onnxruntime").convert(net, torch.zeros(1, 3, 256, 256), path)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_measured_holds_the_arena_holds_the_computed(large: Path, runtime: str) -> None:
    if not get_runtime(runtime).available().ok:
        pytest.skip(f"{runtime} is not installed")
    with LocalProfiler(runtime) as profiler:
        told, graph = profiler.memory(large), profiler.graph(large)
    computed_mb = graph.peak_activation_bytes / 1e6
    assert computed_mb == pytest.approx(2 * ACTIVATION_MB, rel=0.1)
    assert computed_mb <= told.peak_mb <= MOST * computed_mb
    assert told.peak_mb <= told.first_mb and told.method == "VmHWM"
    if told.arena_mb is not None:
        assert computed_mb <= told.arena_mb * 1.001 and told.arena_mb <= told.peak_mb
    assert (told.arena_mb is None) == (runtime != "onnxruntime")
    assert Memory.from_json(json.loads(json.dumps(told.to_json()))) == told


def test_a_small_network_takes_little(tmp_path: Path, large: Path) -> None:
    path = tmp_path / "small.onnx"
    get_runtime("onnxruntime").convert(nn.Conv2d(3, 4, 3).eval(), torch.zeros(1, 3, 8, 8), path)
    with LocalProfiler() as profiler:
        before, small, after = profiler.memory(large), profiler.memory(path), profiler.memory(large)
    assert small.peak_mb < 2.0
    assert after.peak_mb == pytest.approx(before.peak_mb, rel=0.1)  # whatever was measured before


def test_weights_count(tmp_path: Path) -> None:
    path = tmp_path / "wide.onnx"
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8192, bias=False)).eval()  # 25 MB of weights
    get_runtime("onnxruntime").convert(net, torch.zeros(1, 3, 16, 16), path)
    with LocalProfiler() as profiler:
        assert profiler.memory(path).peak_mb > 25.0


def held(megabytes: int) -> None:
    bytearray(b"x" * (megabytes << 20))


def test_where_the_peak_cannot_be_set_back_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_CLEAR", tmp_path / "no" / "clear_refs")
    told = measure_memory(lambda: held(64), lambda: 5_000_000)
    assert told.method == "ru_maxrss" and told.arena_mb == 5.0
    assert told.peak_mb <= told.first_mb  # a second peak of the same height is not seen


def test_memory_is_seen_again_and_again() -> None:
    told = measure_memory(lambda: held(64))
    assert told.method == "VmHWM" and told.peak_mb == pytest.approx(2 * 67.1, rel=0.1)


HOSTILE: list[Any] = [
    {},
    {"peak_mb": 1.0, "first_mb": 1.0, "method": "guess"},
    {"peak_mb": -1.0, "first_mb": 1.0, "method": "VmHWM"},
    {"peak_mb": math.nan, "first_mb": 1.0, "method": "VmHWM"},
    {"peak_mb": "1", "first_mb": 1.0, "method": "VmHWM"},
    {"peak_mb": 1.0, "first_mb": 1.0, "method": "VmHWM", "arena_mb": -3},
    {"peak_mb": 1.0, "first_mb": 1.0, "method": "VmHWM", "more": 1},
    None,
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_answers(answer: Any) -> None:
    with pytest.raises(CandidateError) as raised:
        Memory.from_json(answer)
    assert raised.value.code == "bad_result"
