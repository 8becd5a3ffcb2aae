"""Arm Ethos-U NPUs: estimates by Arm's compiler Vela, for hardware that is not there.

Vela prints with its numbers that they are internal estimates of the compiler, and that a compiled network should be run
on a model of the chip or an FPGA for its performance. They rank networks; they are no measurement.
"""

from __future__ import annotations

from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar, Literal

from ...spaces.errors import CandidateError, DeviceError
from ..child import Child
from ..estimate import Estimate
from ..graph import Graph
from ..profiler import LocalProfiler, Profiler
from .litert import LiteRt
from .runtime import Availability

__all__ = ["EthosU", "EthosUProfiler"]

SYSTEMS = {
    "ethos-u55": ("Ethos_U55_High_End_Embedded", "Shared_Sram"),
    "ethos-u65": ("Ethos_U65_Embedded", "Shared_Sram"),
    "ethos-u85": ("Ethos_U85_SYS_Flash_High", "Shared_Sram"),
}
"""Family → system and memory mode of Vela's own `Arm/vela.ini`: at 500 MHz, activations in SRAM, weights in flash."""


class EthosU(LiteRt):
    """The files of an Ethos-U: int8, made by LiteRT's converter. On this machine LiteRT runs them."""

    name: ClassVar[str] = "ethos-u"
    precisions: ClassVar[tuple[str, ...]] = ("int8",)

    @staticmethod
    def available() -> Availability:
        found = LiteRt.available()
        if not found.ok:
            return found
        if util.find_spec("ethosu") is None:
            return Availability(False, missing="ethos-u-vela", install="pip install 'hwnas[ethos-u]'")
        return Availability(True, metadata.version("ethos-u-vela"))


class EthosUProfiler(Profiler):
    """Estimates what a network costs on an Ethos-U.

    Args:
        accelerator: in Vela's words, e.g. `ethos-u55-128` (with 128 multiply-adds a cycle).
        deadline_s: longest time of one request; what takes longer fails with `timeout`.
        log: file for what the child prints.

    Raises:
        DeviceError: Vela or LiteRT is missing.
    """

    provenance: ClassVar[Literal["measured", "estimated"]] = "estimated"
    here = False

    def __init__(self, accelerator: str, deadline_s: float = 60.0, *, log: Path | None = None) -> None:
        available = EthosU.available()
        if not available.ok:
            raise DeviceError(f"{accelerator} is missing ({available.missing}): {available.install}")
        self.accelerator, self.deadline_s = accelerator, deadline_s
        self.system, self.memory = SYSTEMS[accelerator.rpartition("-")[0]]
        self._vela = Child("hwnas.profilers.runtimes.vela", name=accelerator, log=log)
        self._host = LocalProfiler("litert", 1, "int8", deadline_s, log=log)

    def estimate(self, path: Path) -> Estimate:
        """Asks Vela about an int8 TFLite file, whatever share of it the CPU has to run.

        Raises:
            CandidateError: as `Profiler.measure`.
        """
        what = {"accelerator": self.accelerator, "system_config": self.system, "memory_mode": self.memory}
        answer = self._vela.call({"do": "estimate", "path": str(path.resolve()), **what}, self.deadline_s)
        return Estimate.from_json({**answer, "fingerprint": self.fingerprint()})

    def measure(self, path: Path, inputs: Path | None = None) -> Estimate:
        """As `estimate`, of a file that runs on the accelerator as a whole.

        Raises:
            CandidateError: `unsupported_op`, operators are left to the CPU: nobody knows their time, and without it the
                network would look faster than it is. Else as `Profiler.measure`.
        """
        told = self.estimate(path)
        if told.on_cpu:
            raise CandidateError("unsupported_op", f"on {self.accelerator} {told.left}")
        return told

    def graph(self, path: Path) -> Graph:
        """The operators of the file, before Vela fuses them."""
        return self._host.graph(path)

    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        """Runs the model on this machine by LiteRT: what it computes can be checked, its time cannot."""
        return self._host.run(path, x, out, deadline_s)

    def fingerprint(self) -> dict[str, Any]:
        """Of Vela and the system that it is told of."""
        return {
            "vela": metadata.version("ethos-u-vela"),
            "accelerator": self.accelerator,
            "system_config": self.system,
            "memory_mode": self.memory,
            "precision": "int8",
        }

    def close(self) -> None:
        self._vela.close()
        self._host.close()
