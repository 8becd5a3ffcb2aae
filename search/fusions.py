"""What a device's runtime fuses, inferred from the times of short chains of operators: `hwnas fit --probe-fusion`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..cost_models.probe_fusion import CHAINS, INPUT_SHAPE, FusionTable, chain, probe_fusion
from ..profilers import Measurement, Profiler, get_runtime
from ..spaces.errors import DeviceError
from . import interrupts

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TURNS", "chain_files", "chain_times", "fusions", "infer"]

TURNS = 3
"""Measurements of each chain, in turns."""

LEAST_ERROR, ERROR_ALONE = 0.005, 0.02
"""Smallest error of a latency as a share of it, and that of a latency without another to compare."""


def fusions(
    profiler: Profiler, runtime: str, precision: str, folder: Path, told: Callable[[str], None] = lambda text: None
) -> FusionTable:
    """Measures the chains on a device and says which pairs of operators it fuses.

    Args:
        profiler: of the device.
        runtime: of the device.
        precision: of the device.
        folder: for the files.
        told: is told what is being done.

    Raises:
        CandidateError, DeviceError: a chain cannot be converted or measured.
        KeyboardInterrupt: it was asked to stop.
    """
    files = chain_files(runtime, precision, folder)
    return infer(chain_times(profiler, files, TURNS, told))


def chain_files(runtime: str, precision: str, folder: Path) -> dict[str, Path]:
    """Writes the file of each chain; chain → file."""
    import torch

    found = get_runtime(runtime)
    files = {}
    for number, text in enumerate(CHAINS):
        plain = folder / f"chain{number}.onnx"
        path = found.file(plain, precision)
        found.convert(chain(text).eval(), torch.zeros(INPUT_SHAPE), path, precision)
        files[text] = path
    return files


def chain_times(
    profiler: Profiler, files: dict[str, Path], turns: int, told: Callable[[str], None] = lambda text: None
) -> dict[str, list[float]]:
    """Chain → its shortest inference of each turn, in ms.

    Raises:
        DeviceError: the device is only estimated.
    """
    times: dict[str, list[float]] = {text: [] for text in files}
    for turn in range(1, turns + 1):
        for number, (text, path) in enumerate(files.items(), 1):
            interrupts.check()
            told(f"chain {number} of {len(files)}, turn {turn} of {turns}: {text}")
            taken = profiler.measure(path)
            if not isinstance(taken, Measurement):
                raise DeviceError("fusions of a device that is only estimated cannot be measured")
            times[text].append(taken.min_ms)
    return times


def infer(times: dict[str, list[float]]) -> FusionTable:
    """Says which pairs are fused, from chain → its shortest inferences."""
    by_model = {str(chain(text)): _summed_up(taken) for text, taken in times.items()}

    def measured(model: nn.Module) -> tuple[float, float]:
        return by_model[str(model)]

    return probe_fusion(measured)


def _summed_up(times: list[float]) -> tuple[float, float]:
    """The least, as others' work only adds, and how far the next is from it."""
    least, *others = sorted(times)
    return least, max(others[0] - least if others else ERROR_ALONE * least, LEAST_ERROR * least)
