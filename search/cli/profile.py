"""`hwnas profile`"""

from __future__ import annotations

from pathlib import Path

import click

from ...spaces.errors import DeviceError, UsageError
from .common import as_json, next_command, print_json, print_table, say


@click.command("profile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--device", "runtime", default="onnxruntime", show_default=True, help="Runtime on this machine.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads of one inference.")
@click.option("--layers", is_flag=True, help="List the operators that are really executed.")
@as_json
def command(model: Path, runtime: str, threads: int, layers: bool, as_json: bool) -> None:
    """Latency, size and operators of an ONNX file on this machine."""
    from ...profilers import LocalProfiler, runtime_names
    from ...spaces.errors import CandidateError, DataError, did_you_mean

    if runtime not in runtime_names():
        raise DeviceError(f"no device '{runtime}'{did_you_mean(runtime, runtime_names())}")
    if not model.is_file():
        raise UsageError(f"no file '{model}': give an ONNX file, e.g. runs/NAME/artifacts/ID/model.onnx")
    with LocalProfiler(runtime, threads) as profiler:
        try:
            told = profiler.measure(model)
            graph = profiler.graph(model)
        except CandidateError as error:
            raise DataError(f"{model}: {error}") from error
        device = profiler.fingerprint()
    size_mb = model.stat().st_size / 1e6
    times = {
        "median": told.median_ms,
        "low": told.low_ms,
        "high": told.high_ms,
        "p90": told.p90_ms,
        "p99": told.p99_ms,
        "min": told.min_ms,
    }
    if as_json:
        print_json(
            {
                "model": str(model),
                "latency_ms": times,
                "quality": told.quality,
                "samples": sum(map(len, told.blocks)),
                "size_mb": size_mb,
                "macs": graph.macs,
                "operators": len(graph.nodes),
                "depth": graph.depth,
                "conditions": told.conditions,
                "device": device,
                **({"layers": graph.to_json()} if layers else {}),
            }
        )
        return
    print_table(["latency", "ms"], [[name, f"{value:.4g}"] for name, value in times.items()])
    click.echo(f"{told.quality}; {sum(map(len, told.blocks))} samples; 90 % interval of the median from low to high")
    click.echo(
        f"file {size_mb:.3f} MB; {len(graph.nodes)} operators executed, depth {graph.depth}, {graph.macs:,} MACs"
    )
    if layers:
        rows = [
            [
                n.name[:40],
                n.op,
                "x".join(map(str, n.outputs[0])) if n.outputs else "",
                f"{n.macs:,}",
                f"{n.bytes_out:,}",
            ]
            for n in graph.nodes
        ]
        print_table(["node", "operator", "output", "MACs", "bytes out"], rows)
    if told.quality == "noisy":
        say("the machine was busy: measure again when it is idle")
    next_command("hwnas", "doctor")
