"""An estimate from the peak rates of a device alone: nothing is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from ..profilers.fingerprint import cpu_flags
from ..profilers.graph import Graph, Node
from ..spaces.errors import DataError
from .model import CostModel, Prediction, check_samples, finite, stretched

__all__ = ["Peaks", "RooflineModel", "machine_peaks"]

FACTOR = 4.0
"""The interval is from a fourth to four times the estimate. It is no quantile of any device's errors: kernels reach
from a few percent of the peaks to nearly all, and what fits into a cache moves faster than memory (docs/cost_models.md
says what was found)."""

GB_S = 10.0
"""Bandwidth that is assumed where none is stated: half of one channel of DDR4-2400 (19.2 GB/s by its standard)."""

LAUNCH_US = 0.5
"""Time to start a kernel that is assumed where none is stated."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """What a device can do at most.

    Attributes:
        gmacs: 10^9 multiply-adds per second, in the precision that the networks run in.
        gb_s: 10^9 bytes per second between its memory and its arithmetic.
        launch_us: time to start one kernel, in microseconds.
        origin: where the figures are from, in a few words.
    """

    gmacs: float
    gb_s: float = GB_S
    launch_us: float = LAUNCH_US
    origin: str = "stated"

    def __post_init__(self) -> None:
        good = all(math.isfinite(rate) and rate > 0 for rate in (self.gmacs, self.gb_s))
        if not good or not math.isfinite(self.launch_us) or self.launch_us < 0:
            raise ValueError(f"peak rates must be finite and above 0: {self}")


class RooflineModel(CostModel):
    """Latency in ms: the sum over kernels of max(compute, memory), and their launches.

    For each kernel the bound of Williams et al., Roofline, Communications of the ACM 52 (4), 2009. Its readings are
    `estimated`, and the interval is wide: a factor of four either way.

    Args:
        peaks: of the device; those of this machine's processor when left out, see `machine_peaks`.
    """

    name: ClassVar[str] = "roofline"
    min_samples: ClassVar[int] = 0
    source: ClassVar[Literal["predicted", "estimated"]] = "estimated"

    def __init__(self, peaks: Peaks | None = None) -> None:
        self.peaks = peaks

    def fit(
        self,
        graphs: Sequence[Graph] = (),
        values: Sequence[float] = (),
        noise: float = 0.0,
        at_random: Sequence[bool] = (),
    ) -> Self:
        """Checks the samples and does not learn from them: that is what the other models are for."""
        check_samples(len(graphs), values, 0, noise)
        self.peaks = self.peaks or machine_peaks()
        return self

    def predict(self, graph: Graph) -> Prediction:
        if self.peaks is None:
            raise ValueError("the cost model is not fitted")
        bound = max(sum(self._ms(node) for node in graph.nodes), 1e-9)
        unknown = tuple(f"operator {op}" for op in graph.uncounted)
        ends = bound, bound / FACTOR, bound * FACTOR
        return Prediction(*(stretched(*ends, 2.0) if unknown else ends), unknown)

    def _ms(self, node: Node) -> float:
        assert self.peaks is not None
        size = node.bytes_in + node.bytes_out + node.weight_bytes
        work_ms = max(node.macs / self.peaks.gmacs, size / self.peaks.gb_s) / 1e6
        return work_ms + self.peaks.launch_us / 1e3

    def to_json(self) -> dict[str, Any]:
        if self.peaks is None:
            raise ValueError("the cost model is not fitted")
        return {"peaks": asdict(self.peaks)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        told = data["peaks"]
        numbers = {name: finite(told[name]) for name in ("gmacs", "gb_s", "launch_us")}
        return cls(Peaks(**numbers, origin=str(told["origin"])))


def machine_peaks(threads: int = 1, cpuinfo: Path = Path("/proc/cpuinfo")) -> Peaks:
    """Peaks of this machine's processor in fp32, from its vector flags and its clock now; the bandwidth is assumed.

    Two fused multiply-add units of the widest vectors are assumed (one for AVX-512, which many processors split):
    16 multiply-adds a cycle with AVX-512 or AVX2 and FMA, 8 with Arm's NEON, 4 without any of them.

    Args:
        threads: of one inference.
        cpuinfo: the kernel's description of the processors.

    Raises:
        DataError: it does not tell the clock; state the peaks then.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    clocks = [float(line.partition(":")[2]) for line in lines if line.lower().startswith("cpu mhz")]
    if not clocks or max(clocks) <= 0:
        raise DataError(f"{cpuinfo} does not tell the processor's clock: state the peak rates of the device")
    flags = cpu_flags()
    wide = {"avx512f"} <= flags or {"avx2", "fma"} <= flags
    per_cycle = 16 if wide else 8 if "asimd" in flags else 4
    gmacs = threads * per_cycle * max(clocks) / 1e3
    return Peaks(gmacs, origin=f"{per_cycle} multiply-adds a cycle at {max(clocks):.0f} MHz, {GB_S:g} GB/s assumed")
