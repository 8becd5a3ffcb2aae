"""`hwnas profile`"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...spaces.errors import CandidateError, DataError, DeviceError, UsageError, did_you_mean
from .common import as_json, next_command, print_json, print_table, say

if TYPE_CHECKING:
    from ...profilers import Graph, Measurement, Node, Profiler
    from ..known_devices import KnownDevice


@dataclass(frozen=True)
class _Profile:
    """What one device said of the model."""

    device: str
    told: Measurement
    graph: Graph
    fingerprint: dict[str, Any]
    size_mb: float
    own_graph: bool = True

    @property
    def times(self) -> dict[str, float]:
        told = self.told
        return {
            "median": told.median_ms,
            "low": told.low_ms,
            "high": told.high_ms,
            "p90": told.p90_ms,
            "p99": told.p99_ms,
            "min": told.min_ms,
        }

    @property
    def samples(self) -> int:
        return sum(map(len, self.told.blocks))

    def to_json(self, *, layers: bool) -> dict[str, Any]:
        return {
            "device": self.device,
            "latency_ms": self.times,
            "quality": self.told.quality,
            "samples": self.samples,
            "size_mb": self.size_mb,
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
@click.option("--layers", is_flag=True, help="List the operators that are really executed.")
@as_json
def command(model: Path, devices: tuple[str, ...], threads: int, layers: bool, as_json: bool) -> None:
    """Latency, size and operators of an ONNX file, on one or several devices.

    An fp32 file on an int8 device is quantised first, with random samples: its latency counts, its outputs do not.
    """
    named = [_named(device) for device in devices]
    if not model.is_file():
        raise UsageError(f"no file '{model}': give an ONNX file, e.g. runs/NAME/artifacts/ID/model.onnx")
    with tempfile.TemporaryDirectory(prefix="hwnas-profile-") as folder:
        profiles = [_profile(model, device, threads, Path(folder)) for device in named]
    if as_json:
        print_json({"model": str(model), "profiles": [profile.to_json(layers=layers) for profile in profiles]})
        return
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
            str(profile.samples),
            profile.told.quality,
            str(len(profile.graph.nodes)),
            f"{profile.graph.macs:,}{' or more' if profile.graph.uncounted else ''}",
            f"{profile.size_mb:.3g}",
        ]
        for profile in profiles
    ]
    print_table(headings, rows)
    click.echo("low to high is the 90 % interval of the median; p90, p99 and min are of single inferences")
    click.echo("MACs are of the executed operators, with what the runtime pads to")
    for profile in profiles:
        if not profile.own_graph:
            click.echo(f"operators and MACs of {profile.device} are those of the same file and runtime on this machine")
        if profile.graph.uncounted:
            click.echo(f"not counted on {profile.device}: {', '.join(profile.graph.uncounted)}")
    for profile in profiles if layers else []:
        click.echo("")
        print_table([profile.device, "operator", "type", "output", "MACs", "bytes out"], _rows(profile.graph.nodes))
    if any(profile.told.quality == "noisy" for profile in profiles):
        say("the machine was busy: measure again when it is idle; `hwnas doctor --noise` tells what it can resolve")
    next_command("hwnas", "doctor", "--noise")


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

    def open(self, threads: int, precision: str) -> Profiler:
        from ...profilers import LocalProfiler

        if self.known is not None:
            return self.known.open(precision)
        return LocalProfiler(self.runtime, threads, precision)


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


def _profile(model: Path, device: _Device, threads: int, folder: Path) -> _Profile:
    from ...profilers import OnnxBased, get_runtime
    from ...profilers.model_gate import check_model
    from ...profilers.onnx_file import input_shape, is_quantised

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
        with device.open(threads, precision) as profiler:
            told, graph = profiler.measure(file), profiler.graph(file)
            name, size_mb = device.name or f"{runtime}:{precision}", file.stat().st_size / 1e6
            return _Profile(name, told, graph, profiler.fingerprint(), size_mb, profiler.gives_outputs)
    except CandidateError as error:
        raise DataError(f"{model}: {error}") from error
