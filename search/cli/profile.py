"""`hwnas profile`"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...spaces.errors import CandidateError, DataError, DeviceError, UsageError, did_you_mean
from .common import as_json, next_command, print_json, print_table, say

if TYPE_CHECKING:
    from ...profilers import Graph, Measurement, Memory, Node, Profiler
    from ..known_devices import KnownDevice


PROCESSES = 2
"""Fresh processes that measure each device."""


@dataclass(frozen=True)
class _Profile:
    """What one device said of the model."""

    device: str
    told: Measurement
    graph: Graph
    fingerprint: dict[str, Any]
    size_mb: float
    memory: Memory | None
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
            **({"layers": self.graph.to_json()} if layers else {}),
        }


@click.command("profile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    metavar="RUNTIME[:PRECISION]|NAME",
    help="Of this machine, e.g. openvino or onnxruntime:int8, or a device added by `hwnas devices add`; may be given "
    "several times.",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads of one inference.")
@click.option(
    "--meter",
    default="auto",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="What tells the energy: auto, none, rapl, csv:path=log.csv, model:watts=5, ...; see docs/energy.md.",
)
@click.option("--layers", is_flag=True, help="List the operators that are really executed.")
@as_json
def command(model: Path, devices: tuple[str, ...], threads: int, meter: str, layers: bool, as_json: bool) -> int:
    """Latency, energy, memory, size and operators of an ONNX file, on one or several devices.

    An fp32 file on an int8 device is quantised first, with random samples: its latency counts, its outputs do not.
    Exit code 4 when a meter that was named tells nothing.
    """
    named, options = [_named(device) for device in devices], _meter(meter)
    if not model.is_file():
        raise UsageError(f"no file '{model}': give an ONNX file, e.g. runs/NAME/artifacts/ID/model.onnx")
    with tempfile.TemporaryDirectory(prefix="hwnas-profile-") as folder:
        profiles = [_profile(model, device, threads, options, Path(folder)) for device in named]
    lost = [p.told.energy.reason for p in profiles if p.told.energy and p.told.energy.source == "missing"]
    code = DeviceError.exit_code if lost and options["use"] != "auto" else 0
    if as_json:
        print_json({"model": str(model), "profiles": [profile.to_json(layers=layers) for profile in profiles]})
        if code:
            say(f"energy is missing: {lost[0]}")
        return code
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
    click.echo("")
    _print_energy_and_memory(profiles)
    for profile in profiles if layers else []:
        click.echo("")
        print_table([profile.device, "operator", "type", "output", "MACs", "bytes out"], _rows(profile.graph.nodes))
    for profile in profiles:
        for reason in profile.told.disturbances:
            say(f"noisy on {profile.device}: {reason}")
    if any(profile.told.disturbances for profile in profiles):
        say("the machine was busy: measure again when it is idle; `hwnas doctor --noise` tells what it can resolve")
    for reason in dict.fromkeys(lost):
        say(f"energy is missing: {reason}")
    next_command("hwnas", "doctor", "--noise")
    return code


def _print_energy_and_memory(profiles: list[_Profile]) -> None:
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


def _meter(text: str) -> dict[str, Any]:
    """Reads NAME[:OPTION=VALUE,...], and opens a meter that was named: one that is not there is told at once."""
    from ...profilers import open_meter
    from ...profilers.meter import AUTO, NONE, stated_watts

    name, _, rest = text.partition(":")
    options: dict[str, Any] = {"use": name}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key == "use":
            raise UsageError(f"--meter: '{part}' is not OPTION=VALUE, e.g. csv:path=log.csv")
        options[key] = _plain(value)
    if name not in (AUTO, NONE) and stated_watts(options) is None:
        open_meter(options).close()
    return options


def _plain(value: str) -> str | int | float:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


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


@dataclass(frozen=True)
class _Device:
    """A runtime of this machine, or a device that the user added."""

    runtime: str
    precision: str
    name: str = ""
    known: KnownDevice | None = None

    def open(self, threads: int, precision: str, meter: dict[str, Any]) -> Profiler:
        from ...profilers import LocalProfiler

        if self.known is not None:
            return self.known.open(precision, None if meter["use"] == "auto" else meter)
        return LocalProfiler(self.runtime, threads, precision, meter=meter)


def _named(device: str) -> _Device:
    """Reads RUNTIME[:PRECISION], or the name of a device that the user added."""
    from ...profilers import get_runtime, runtime_names
    from ..known_devices import read_devices

    runtime, _, precision = device.partition(":")
    if runtime not in runtime_names():
        known = read_devices()
        if device not in known:
            raise DeviceError(f"no device '{device}'{did_you_mean(device, (*runtime_names(), *known))}")
        return _Device(known[device].runtime, known[device].precision, device, known[device])
    get_runtime(runtime).check_precision(precision or "fp32")
    return _Device(runtime, precision or "fp32")


def _profile(model: Path, device: _Device, threads: int, meter: dict[str, Any], folder: Path) -> _Profile:
    from ...profilers import LocalProfiler, MeasurementStore, OnnxBased, Stored, get_runtime
    from ...profilers.model_gate import check_model
    from ...profilers.onnx_file import input_shape, is_quantised
    from ...profilers.profiler import measured

    runtime, precision = device.runtime, device.precision
    found = get_runtime(runtime)
    file = found.file(folder / model.name, precision)
    try:
        check_model(model)
        if model.suffix == ".onnx" and is_quantised(model):
            precision = "int8"
        if file.suffix == model.suffix and (precision != "int8" or is_quantised(model)):
            file = model
        elif not isinstance(found, OnnxBased):
            raise DeviceError(f"{runtime} makes its files from torch modules, not from '{model}'")
        elif not file.is_file():
            import torch

            torch.manual_seed(0)
            found.convert_file(model, file, precision, torch.randn(8, *input_shape(model)[1:]))
        with device.open(threads, precision, meter) as profiler:
            told = measured(Stored(profiler, MeasurementStore(), ask=False), file, processes=PROCESSES)
            graph = profiler.graph(file)
            memory = profiler.memory(file) if isinstance(profiler, LocalProfiler) else None
            name, size_mb = device.name or f"{runtime}:{precision}", file.stat().st_size / 1e6
            return _Profile(name, told, graph, profiler.fingerprint(), size_mb, memory, profiler.gives_outputs)
    except CandidateError as error:
        raise DataError(f"{model}: {error}") from error
