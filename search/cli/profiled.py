"""What `hwnas profile` shows: what each device said, as tables and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from .common import print_table, say

if TYPE_CHECKING:
    from ...profilers import Estimate, Graph, Kernel, Measurement, Memory, Node

__all__ = ["Estimated", "Profiled", "print_profiles"]

BAR = 24
"""Characters of the longest bar in the chart of kernel times."""


@dataclass(frozen=True)
class Profiled:
    """What one device said of the model."""

    device: str
    told: Measurement
    graph: Graph
    fingerprint: dict[str, Any]
    size_mb: float
    memory: Memory | None
    kernels: tuple[Kernel, ...] = ()
    own_graph: bool = True

    @property
    def times(self) -> dict[str, float]:
        told = self.told
        return {
            "latency": told.latency_ms,
            "low": told.low_ms,
            "high": told.high_ms,
            "median": told.median_ms,
            "p90": told.p90_ms,
            "p99": told.p99_ms,
            "min": told.min_ms,
        }

    @property
    def computed_mb(self) -> float:
        """Computed peak of the activations of the executed graph."""
        return self.graph.peak_activation_bytes / 1e6

    def to_json(self, *, layers: bool) -> dict[str, Any]:
        more = {"layers": self.graph.to_json(), "kernels": [asdict(kernel) for kernel in self.kernels]}
        return {
            "device": self.device,
            "latency_ms": self.times,
            "quality": self.told.quality,
            "disturbances": list(self.told.disturbances),
            "samples": self.told.samples,
            "size_mb": self.size_mb,
            "energy": self.told.energy.to_json() if self.told.energy else None,
            "memory": {**(self.memory.to_json() if self.memory else {}), "computed_peak_mb": self.computed_mb},
            "macs": self.graph.macs,
            "uncounted": list(self.graph.uncounted),
            "operators": len(self.graph.nodes),
            "depth": self.graph.depth,
            "operators_of": "the device" if self.own_graph else "this machine",
            "conditions": self.told.conditions,
            "fingerprint": self.fingerprint,
            **(more if layers else {}),
        }


@dataclass(frozen=True)
class Estimated:
    """What the vendor's tool estimates for a device that is not there."""

    device: str
    told: Estimate
    graph: Graph

    def to_json(self, *, layers: bool) -> dict[str, Any]:
        return {
            "device": self.device,
            "source": "estimated",
            **self.told.to_json(),
            "left": self.told.left,
            **({"layers": self.graph.to_json()} if layers else {}),
        }


def print_profiles(found: Sequence[Profiled | Estimated], *, layers: bool) -> None:
    """Prints tables of all devices, and with `layers` their operators and a chart of their kernels' times."""
    _print_estimates([profile for profile in found if isinstance(profile, Estimated)])
    profiles = [profile for profile in found if isinstance(profile, Profiled)]
    if profiles:
        _print_measured(profiles)
        click.echo("")
        _print_energy_and_memory(profiles)
    for profile in found if layers else []:
        click.echo("")
        print_table([profile.device, "operator", "type", "output", "MACs", "bytes out"], _rows(profile.graph.nodes))
        if isinstance(profile, Profiled):
            _print_kernels(profile)
    for profile in profiles:
        for reason in profile.told.disturbances:
            say(f"noisy on {profile.device}: {reason}")
    if any(profile.told.disturbances for profile in profiles):
        say("the machine was busy: measure again when it is idle; `hwnas doctor --noise` tells what it can resolve")


def _print_kernels(profile: Profiled) -> None:
    """Prints the times of kernels, with a bar for each."""
    click.echo("")
    if not profile.kernels:
        click.echo(f"{profile.device}: the runtime tells no times of kernels")
        return
    total, most = (f([kernel.ms for kernel in profile.kernels]) for f in (sum, max))
    rows = [
        [
            kernel.name[-40:],
            kernel.op,
            kernel.placement,
            f"{kernel.ms:.4f}",
            f"{kernel.ms / total:.1%}" if total else "",
            "#" * round(BAR * kernel.ms / most) if most else "",
        ]
        for kernel in profile.kernels
    ]
    print_table([profile.device, "operator", "on", "ms", "share", ""], rows)
    click.echo(
        f"kernels: {total:.4g} ms together, of {profile.told.latency_ms:.4g} ms; the profiler's clock is part of them"
    )


def _print_estimates(found: list[Estimated]) -> None:
    """Prints what was estimated, and what the estimates leave out."""
    if not found:
        return
    rows = [
        [
            estimated.device,
            f"~{estimated.told.latency_ms:.4g}",
            f"~{estimated.told.cycles:,}",
            f"~{estimated.told.sram_bytes / 1e6:.3g}",
            f"~{estimated.told.flash_bytes / 1e6:.3g}",
            str(estimated.told.operators),
        ]
        for estimated in found
    ]
    print_table(["device", "ms", "cycles", "SRAM MB", "flash MB", "operators"], rows)
    click.echo("estimated by the vendor's tool, not measured: good for ranking networks")
    for estimated in found:
        if estimated.told.left:
            click.echo(f"{estimated.device}: {estimated.told.left}; the estimate leaves their time out")


def _print_measured(profiles: list[Profiled]) -> None:
    """Prints what was measured."""
    headings = [
        "device",
        *(f"{name} ms" for name in profiles[0].times),
        "samples",
        "quality",
        "operators",
        "MACs",
        "MB",
    ]
    rows = [
        [
            profile.device,
            *(f"{value:.4g}" for value in profile.times.values()),
            str(profile.told.samples),
            profile.told.quality,
            str(len(profile.graph.nodes)),
            f"{profile.graph.macs:,}{' or more' if profile.graph.uncounted else ''}",
            f"{profile.size_mb:.3g}",
        ]
        for profile in profiles
    ]
    print_table(headings, rows)
    click.echo("latency is the floor, as on an undisturbed machine, low to high its 90 % interval; the rest is as seen")
    click.echo("MACs are of the executed operators, with what the runtime pads to")
    for profile in profiles:
        if not profile.own_graph:
            click.echo(f"operators and MACs of {profile.device} are those of the same file and runtime on this machine")
        if profile.graph.uncounted:
            click.echo(f"not counted on {profile.device}: {', '.join(profile.graph.uncounted)}")


def _print_energy_and_memory(profiles: list[Profiled]) -> None:
    """Prints what an inference takes beside time."""
    headings = ["device", "energy mJ", "low", "high", "idle W", "busy W", "meter", "resident MB", "arena MB", "peak MB"]
    rows = []
    for profile in profiles:
        energy, memory = profile.told.energy, profile.memory
        cells: list[float | None] = [None] * 5
        if energy and energy.energy_mj is not None:
            cells = [energy.energy_mj, energy.low_mj, energy.high_mj, energy.idle_w, energy.busy_w]
        shown = ["none" if cell is None else f"{cell:.4g}" for cell in cells]
        if energy and energy.source == "estimated":
            shown[:3] = [f"~{cell}" for cell in shown[:3]]
        meter = "none" if energy is None or energy.source == "missing" else energy.meter
        arena = "none" if memory is None or memory.arena_mb is None else f"{memory.arena_mb:.3g}"
        resident = "none" if memory is None else f"{memory.peak_mb:.3g}"
        rows.append([profile.device, *shown, meter, resident, arena, f"{profile.computed_mb:.3g}"])
    print_table(headings, rows)
    told = [p.told.energy for p in profiles if p.told.energy and p.told.energy.source == "measured"]
    if told:
        click.echo(f"energy is beyond idle power, of {told[0].covers}, in {len(told[0].windows_mj)} windows")
    for reason in {p.told.energy.reason for p in profiles if p.told.energy and p.told.energy.source == "estimated"}:
        click.echo(f"energy is an estimate: {reason}")
    click.echo(
        "resident: above the runtime alone, measured; arena: the runtime's own count; peak: computed activations"
    )


def _rows(nodes: tuple[Node, ...]) -> list[list[str]]:
    """Returns a row of the table of operators for each."""
    return [
        [
            node.name[-40:],
            node.op,
            node.dtype,
            "x".join(map(str, node.outputs[0])) if node.outputs else "",
            f"{node.macs:,}" if node.counted else "unknown",
            f"{node.bytes_out:,}",
        ]
        for node in nodes
    ]
