"""Who is at fault when the measuring process dies, and what is asked again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.profilers import LocalProfiler, get_runtime, runtime_names
from hwnas.profilers.golden import SHAPE, golden_file, golden_model
from hwnas.profilers.runtimes.runtime import OnnxBased
from hwnas.spaces.errors import CandidateError, DeviceError


class ScriptedChild:
    """Answers as it is told, file by file."""

    pid = None

    def __init__(self, answer: Callable[[str], dict[str, Any]]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def call(self, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        self.asked.append(Path(request["path"]).name)
        return self.answer(self.asked[-1])

    def close(self) -> None: ...


def sound(**conditions: object) -> dict[str, Any]:
    return {"blocks": [[1.0]] * 20, "conditions": {"reference_s": 1e-4, "usual_s": 1e-4, **conditions}}


def scripted(tmp_path: Path, answer: Callable[[str], dict[str, Any]]) -> tuple[LocalProfiler, ScriptedChild]:
    profiler, child = LocalProfiler(reference=tmp_path / "reference.json"), ScriptedChild(answer)
    profiler.child = child  # type: ignore[assignment]  # it has what is used of one
    for name in ("bad", "good", "model"):
        (tmp_path / f"{name}.onnx").write_bytes(golden_model())
    return profiler, child


@pytest.mark.parametrize("code", ["crash:SIGSEGV", "timeout", "oom", "bad_result"])
def test_a_candidate_is_at_fault_while_the_golden_network_runs(tmp_path: Path, code: str) -> None:
    def answer(name: str) -> dict[str, Any]:
        if name == "bad.onnx":
            raise CandidateError(code, "dead")
        return sound()

    profiler, child = scripted(tmp_path, answer)
    with pytest.raises(CandidateError) as raised:
        profiler.measure(tmp_path / "bad.onnx")
    assert raised.value.code == code and child.asked == ["bad.onnx", "golden.onnx"]
    assert not profiler.quarantined and profiler.measure(tmp_path / "good.onnx").latency_ms == 1.0


def test_a_device_that_fails_the_golden_network_is_quarantined(tmp_path: Path) -> None:
    def answer(name: str) -> dict[str, Any]:
        raise CandidateError("crash:SIGILL", name)

    profiler, child = scripted(tmp_path, answer)
    with pytest.raises(DeviceError, match=r"quarantined: after 'crash:SIGILL.*golden network failed too"):
        profiler.measure(tmp_path / "good.onnx")
    asked = len(child.asked)
    with pytest.raises(DeviceError, match="quarantined"):
        profiler.graph(tmp_path / "good.onnx")
    assert len(child.asked) == asked, "it is not asked again"


@pytest.mark.parametrize("code", ["export", "non_finite"])
def test_a_file_that_does_not_load_says_nothing_about_the_device(tmp_path: Path, code: str) -> None:
    def answer(name: str) -> dict[str, Any]:
        raise CandidateError(code, name)

    profiler, child = scripted(tmp_path, answer)
    with pytest.raises(CandidateError):
        profiler.measure(tmp_path / "bad.onnx")
    assert child.asked == ["bad.onnx"]


@pytest.mark.parametrize("name", runtime_names())
def test_the_golden_network_runs_on_every_runtime_that_reads_onnx(name: str, tmp_path: Path) -> None:
    runtime = get_runtime(name)
    if not runtime.available().ok:
        pytest.skip(f"{name} is not installed")
    for precision in runtime.precisions:
        golden = golden_file(runtime, precision, tmp_path)
        assert (golden is None) == (not isinstance(runtime, OnnxBased))
        if golden is not None:
            try:
                session = runtime.load(golden, 1, precision)
            except DeviceError:
                continue  # a precision that this processor lacks
            assert np.isfinite(session(np.ones(SHAPE, np.float32))).all()


def test_a_noisy_attempt_is_repeated_and_a_calm_one_ends_it(tmp_path: Path) -> None:
    told = iter([sound(others=1.0), sound(others=0.0), sound()])
    profiler, child = scripted(tmp_path, lambda name: next(told))
    measurement = profiler.measure(tmp_path / "model.onnx")
    assert measurement.quality == "ok" and len(child.asked) == 2 and measurement.samples == 40


def test_three_noisy_attempts_are_kept_and_marked(tmp_path: Path) -> None:
    profiler, child = scripted(tmp_path, lambda name: sound(slowdown=1.2))
    measurement = profiler.measure(tmp_path / "model.onnx")
    assert measurement.quality == "noisy" and len(child.asked) == 3 and measurement.samples == 60


def test_a_faster_reference_makes_an_old_measurement_outdated(tmp_path: Path) -> None:
    times = iter([1e-4, 0.9e-4])

    def answer(name: str) -> dict[str, Any]:
        now = next(times)
        return sound(reference_s=now, usual_s=now)

    profiler, _ = scripted(tmp_path, answer)
    first = profiler.measure(tmp_path / "model.onnx")
    assert not profiler.outdated(first)
    profiler.measure(tmp_path / "model.onnx")
    assert profiler.outdated(first)
