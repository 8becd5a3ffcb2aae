"""What a model of a device says about a network, where the device itself is not there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..spaces.errors import CandidateError

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """Costs of one inference by the vendor's own model of a device; no hardware was near.

    Attributes:
        latency_ms: of the operators that run on the accelerator, and of nothing else.
        cycles: of the accelerator's clock.
        sram_bytes: peak of the memory for activations.
        flash_bytes: of weights and commands.
        operators: how many run after the vendor's compiler.
        on_cpu: the operators that the accelerator cannot run, one name for each; no time is counted for them.
        fingerprint: of the compiler and what it was told of the system.
    """

    latency_ms: float
    cycles: int
    sram_bytes: int
    flash_bytes: int
    operators: int
    on_cpu: tuple[str, ...] = ()
    fingerprint: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("latency_ms", "cycles", "sram_bytes", "flash_bytes", "operators"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise CandidateError("bad_result", f"{name} must be a finite number from 0 on, not {value!r}"[:200])
        if len(self.on_cpu) > self.operators:
            raise CandidateError("bad_result", f"{len(self.on_cpu)} of {self.operators} operators on the CPU")

    @property
    def left(self) -> str:
        """Which operators are left to the CPU and what share of all they are; empty when none is.

        >>> Estimate(1.0, 500, 64, 64, 4, ("Exp", "Cumsum", "Exp")).left
        '3 of 4 operators (75 %) are left to the CPU: Cumsum, Exp'
        """
        if not self.on_cpu:
            return ""
        count, share = len(self.on_cpu), 100 * len(self.on_cpu) / self.operators
        names = ", ".join(sorted(set(self.on_cpu)))
        return f"{count} of {self.operators} operators ({share:.0f} %) are left to the CPU: {names}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-plain dictionary; `from_json` reads it back."""
        return {**asdict(self), "on_cpu": list(self.on_cpu), "fingerprint": dict(self.fingerprint)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        """Reads what `to_json` wrote.

        Raises:
            CandidateError: `bad_result`, it is not of that form.
        """
        try:
            kept = {**data, "on_cpu": tuple(str(name) for name in data.get("on_cpu", ()))}
            return cls(**{**kept, "fingerprint": dict(data.get("fingerprint", {}))})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CandidateError("bad_result", f"not an estimate: {error}"[:300]) from None
