"""Estimates by Vela: what they say, what they refuse, and that nothing ends the profiler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwnas.profilers import Child, get_runtime, open_profiler
from hwnas.profilers.runtimes.ethos_u import EthosUProfiler
from hwnas.spaces.errors import CandidateError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not get_runtime("ethos-u55-128").available().ok, reason="Vela or LiteRT is missing"),
]


def narrow(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    )


class Left(nn.Module):
    """A network that an Ethos-U cannot run as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.cumsum(self.first(x), 1).mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, x, maker = tmp_path_factory.mktemp("ethos"), torch.randn(16, 3, 16, 16), get_runtime("ethos-u55-128")
    models = {"small": narrow(8), "large": narrow(64), "left": Left()}
    models["small"](x), models["large"](x)
    made = {name: folder / f"{name}, or so.tflite" for name in models}  # a comma, which is a column in vela's tables
    for name, model in models.items():
        maker.convert(model, x[:1], made[name], "int8", x)
    made["float"] = folder / "float.tflite"
    get_runtime("litert").convert(models["small"], x[:1], made["float"])
    return made


def test_more_work_takes_longer_and_more_accelerator_less(files: dict[str, Path]) -> None:
    told = {}
    for accelerator in ("ethos-u55-32", "ethos-u55-256", "ethos-u65-512", "ethos-u85-2048"):
        with open_profiler(accelerator, precision="int8") as profiler:
            assert isinstance(profiler, EthosUProfiler) and profiler.provenance == "estimated"
            for name in ("small", "large"):
                told[accelerator, name] = profiler.measure(files[name])
    for (accelerator, name), estimate in told.items():
        assert estimate.latency_ms == pytest.approx(estimate.cycles / 500e6 * 1e3), "at 500 MHz"
        assert estimate.fingerprint["accelerator"] == accelerator and estimate.fingerprint["vela"]
        assert estimate.left == "" and estimate.operators >= 3
        if name == "large":
            small = told[accelerator, "small"]
            assert estimate.latency_ms > small.latency_ms
            assert estimate.sram_bytes > small.sram_bytes and estimate.flash_bytes > small.flash_bytes
    assert told["ethos-u55-32", "large"].cycles > told["ethos-u55-256", "large"].cycles


def test_what_the_cpu_has_to_run_is_named_and_never_free(files: dict[str, Path]) -> None:
    with EthosUProfiler("ethos-u55-128") as profiler:
        told = profiler.estimate(files["left"])
        assert "Cumsum" in told.on_cpu and "Conv2D" not in told.on_cpu
        assert told.left.startswith(f"{len(told.on_cpu)} of {told.operators} operators")
        with pytest.raises(CandidateError, match=r"ethos-u55-128 .*Cumsum") as raised:
            profiler.measure(files["left"])
        assert raised.value.code == "unsupported_op"


def test_bad_files_end_no_profiler(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"\x08garbage" * 99)
    data = files["small"].read_bytes()
    (tmp_path / "cut.tflite").write_bytes(data[: len(data) // 2])
    with EthosUProfiler("ethos-u55-128") as profiler:
        for path in (tmp_path / "bad.tflite", tmp_path / "cut.tflite", files["float"]):
            with pytest.raises(CandidateError) as raised:
                profiler.measure(path)
            assert raised.value.code == "export"
        rng = np.random.default_rng(0)
        for _ in range(10):
            spoiled = bytearray(data)
            spoiled[rng.integers(8, len(data))] ^= 255
            (tmp_path / "bad.tflite").write_bytes(spoiled)
            try:
                assert profiler.measure(tmp_path / "bad.tflite").latency_ms >= 0
            except CandidateError as error:
                assert error.code in ("export", "unsupported_op") or error.code.startswith("crash:")
        assert profiler.measure(files["small"]).latency_ms > 0


def test_an_estimate_that_takes_too_long_is_killed(files: dict[str, Path]) -> None:
    with EthosUProfiler("ethos-u55-128") as profiler:
        profiler.deadline_s = 0.0
        with pytest.raises(CandidateError) as raised:
            profiler.measure(files["small"])
        assert raised.value.code == "timeout"
        profiler.deadline_s = 60.0
        assert profiler.measure(files["small"]).latency_ms > 0


def test_the_file_runs_here_for_its_outputs(files: dict[str, Path], tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with EthosUProfiler("ethos-u55-128") as profiler:
        outputs = profiler.run(files["small"], tmp_path / "x.npy")
        graph = profiler.graph(files["small"])
    session = get_runtime("litert").load(files["small"])
    np.testing.assert_array_equal(outputs, np.concatenate([session(x[place : place + 1]) for place in range(3)]))
    assert graph.macs == 8 * 27 * 64 + 8 * 72 * 36 + 8 * 36 * 10


def test_the_child_of_vela_answers_what_it_is_asked(files: dict[str, Path]) -> None:
    what = {"accelerator": "ethos-u55-128", "system_config": "No_Such_System", "memory_mode": "Shared_Sram"}
    with (
        Child("hwnas.profilers.runtimes.vela", name="vela") as child,
        pytest.raises(CandidateError, match="vela cannot") as raised,
    ):
        child.call({"do": "estimate", "path": str(files["small"]), **what}, deadline_s=60)
    assert raised.value.code == "export"
