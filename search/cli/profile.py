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
    from ...profilers import Estimate, Graph, Measurement, Node


@dataclass(frozen=True)
class _Profile:
    """What one device said of the model."""

    device: str
    told: Measurement
    graph: Graph
    fingerprint: dict[str, Any]
    size_mb: float

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
            "conditions": self.told.conditions,
            "fingerprint": self.fingerprint,
            **({"layers": self.graph.to_json()} if layers else {}),
        }


@dataclass(frozen=True)
class _Estimated:
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


@click.command("profile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    metavar="RUNTIME[:PRECISION]",
    help="Of this machine, e.g. openvino or onnxruntime:int8; may be given several times.",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads of one inference.")
@click.option("--layers", is_flag=True, help="List the operators that are really executed.")
@as_json
def command(model: Path, devices: tuple[str, ...], threads: int, layers: bool, as_json: bool) -> None:
    """Latency, size and operators of an ONNX or TFLite file, on one or several devices of this machine.

    An fp32 ONNX file on an int8 device is quantised first, with random samples: its latency counts, its outputs do not.
    Of an int8 TFLite file, devices such as ethos-u55-128 are estimated by their vendor's tool, not measured.
    """
    named = [_named(device) for device in devices]
    if not model.is_file():
        raise UsageError(f"no file '{model}': give an ONNX or TFLite file, e.g. runs/NAME/artifacts/ID/model.onnx")
    with tempfile.TemporaryDirectory(prefix="hwnas-profile-") as folder:
        found = [_profile(model, runtime, precision, threads, Path(folder)) for runtime, precision in named]
    if as_json:
        print_json({"model": str(model), "profiles": [profile.to_json(layers=layers) for profile in found]})
        return
    _print_estimates([profile for profile in found if isinstance(profile, _Estimated)])
    profiles = [profile for profile in found if isinstance(profile, _Profile)]
    if profiles:
        _print_profiles(profiles)
    for profile in found if layers else []:
        click.echo("")
        print_table([profile.device, "operator", "type", "output", "MACs", "bytes out"], _rows(profile.graph.nodes))
    if any(profile.told.quality == "noisy" for profile in profiles):
        say("the machine was busy: measure again when it is idle; `hwnas doctor --noise` tells what it can resolve")
    next_command("hwnas", "doctor", "--noise")


def _print_estimates(found: list[_Estimated]) -> None:
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


def _print_profiles(profiles: list[_Profile]) -> None:
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
        if profile.graph.uncounted:
            click.echo(f"not counted on {profile.device}: {', '.join(profile.graph.uncounted)}")


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


def _named(device: str) -> tuple[str, str]:
    """Reads RUNTIME[:PRECISION]."""
    from ...profilers import estimated_names, get_runtime, runtime_names

    runtime, _, precision = device.partition(":")
    known = (*runtime_names(), *estimated_names())
    if runtime not in known:
        raise DeviceError(f"no device '{runtime}'{did_you_mean(runtime, known)}")
    precision = precision or get_runtime(runtime).precisions[0]
    get_runtime(runtime).check_precision(precision)
    return runtime, precision


def _estimate(model: Path, runtime: str) -> _Estimated:
    from ...profilers.ethos_u import EthosUProfiler

    try:
        with EthosUProfiler(runtime) as profiler:
            return _Estimated(runtime, profiler.estimate(model), profiler.graph(model))
    except CandidateError as error:
        raise DataError(f"{model}: {error}") from error


def _profile(model: Path, runtime: str, precision: str, threads: int, folder: Path) -> _Profile | _Estimated:
    from ...profilers import LocalProfiler, OnnxBased, estimated_names, get_runtime
    from ...profilers.onnx_file import input_shape, is_quantised

    found = get_runtime(runtime)
    own = found.suffix == model.suffix and not isinstance(found, OnnxBased)  # the file itself says what it computes in
    if runtime in estimated_names() and own:
        return _estimate(model, runtime)
    if model.suffix == ".tflite" and not own:
        raise UsageError(f"{runtime} does not run TFLite files such as '{model}'; litert does")
    file = found.file(folder / model.name, precision)
    try:
        if not own and is_quantised(model):
            precision = "int8"
        if own or (file.suffix == model.suffix and (precision != "int8" or is_quantised(model))):
            file = model
        elif not isinstance(found, OnnxBased):
            raise DeviceError(f"{runtime} makes its files from torch modules, not from '{model}'")
        elif not file.is_file():
            import torch

            torch.manual_seed(0)
            found.convert_file(model, file, precision, torch.randn(8, *input_shape(model)[1:]))
        with LocalProfiler(runtime, threads, precision) as profiler:
            told, graph = profiler.measure(file), profiler.graph(file)
            if own:
                precision = "int8" if any(node.dtype == "int8" for node in graph.nodes) else "fp32"
            name, size_mb = f"{runtime}:{precision}", file.stat().st_size / 1e6
            return _Profile(name, told, graph, profiler.fingerprint(), size_mb)
    except CandidateError as error:
        raise DataError(f"{model}: {error}") from error
