"""`hwnas doctor`"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import as_json, next_command, print_json, print_table

if TYPE_CHECKING:
    from ...profilers import Repeatability

CORE = ("torch", "onnx", "onnxruntime", "optuna", "fvcore", "numpy", "pandas", "plotly", "optuna-dashboard")


NETWORKS, PASSES = 8, 3
"""Of the check of noise: some 20 seconds on a quiet machine."""


@click.command("doctor")
@click.option("--noise", is_flag=True, help="Measure the same networks again and again: what differences are real?")
@as_json
def command(noise: bool, as_json: bool) -> None:
    """Versions, this machine, runtimes and energy meters present or how to get them, and what disturbs measurements."""
    from ...profilers import conditions, fingerprint, get_runtime, runtime_names

    machine, meters = fingerprint(), _meters()
    runtimes = {name: get_runtime(name).available() for name in runtime_names()}
    now = conditions()
    warnings = _warnings(machine, now)
    again = _noise() if noise else None
    if as_json:
        print_json(
            {
                "versions": _versions(),
                "machine": machine,
                "runtimes": {name: dataclasses.asdict(found) for name, found in runtimes.items()},
                "meters": meters,
                "conditions": now,
                "warnings": warnings,
                **({} if again is None else {"noise": again.to_json()}),
            }
        )
        return
    print_table(["package", "version"], [[name, version or "missing"] for name, version in _versions().items()])
    click.echo("")
    print_table(["machine", ""], [[name, str(value)] for name, value in machine.items()])
    click.echo("")
    print_table(
        ["runtime", "state"],
        [[name, found.version if found.ok else f"missing: {found.install}"] for name, found in runtimes.items()],
    )
    click.echo("")
    print_table(["meter", "state"], [[name, _state(found)] for name, found in meters.items()])
    click.echo("")
    for warning in warnings or ["nothing that disturbs measurements was found"]:
        click.echo(f"- {warning}")
    if again is not None:
        click.echo("")
        click.echo(
            f"{NETWORKS} networks measured {PASSES} times: the same one differs by {again.median:.1%} (median) and "
            f"{again.worst:.1%} (worst); {again.noisy} of {NETWORKS * PASSES} measurements noisy"
        )
        click.echo(f"take differences of less than {again.resolvable:.1%} for noise on this machine, as it is now")
    next_command("hwnas", "init", "my-study")


def _meters() -> dict[str, dict[str, Any]]:
    """Returns what is known of each meter of energy; a plug-in may fail in any way."""
    from ...profilers import find_meter, meter_names

    found: dict[str, dict[str, Any]] = {}
    for name in meter_names():
        try:
            found[name] = dataclasses.asdict(find_meter(name).available())
        except Exception as error:
            found[name] = {"ok": False, "missing": str(error), "install": ""}
    return found


def _state(found: dict[str, Any]) -> str:
    if found["ok"]:
        return "here"
    return f"missing: {found['missing']}" + (f" ({found['install']})" if found["install"] else "")


def _noise() -> Repeatability:
    """Measures networks of the built-in space of 3 x 32 x 32 inputs."""
    import torch

    from ...profilers import LocalProfiler, get_runtime, measure_again
    from ...spaces import load_space

    space = load_space("mobile", input_shape=(3, 32, 32), num_classes=10)
    with tempfile.TemporaryDirectory(prefix="hwnas-noise-") as folder, LocalProfiler() as profiler:
        models = []
        for seed in range(NETWORKS):
            torch.manual_seed(seed)
            architecture = space.random(seed)
            models.append(Path(folder, f"{seed}.onnx"))
            example = torch.zeros(1, *space.input_of(architecture))
            get_runtime("onnxruntime").convert(space.build(architecture), example, models[-1])
        return measure_again(profiler, models, PASSES)


def _versions() -> dict[str, str | None]:
    from importlib import metadata

    found: dict[str, str | None] = {}
    for name in ("hwnas", *CORE):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _warnings(machine: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Says what makes measurements on this machine less sure."""
    warnings = []
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > 0.5 * cores:
        warnings.append(f"load {load:.1f} on {cores} cores: measure on an idle machine")
    governor = str(machine.get("governor") or "")
    if not governor or governor == "unknown":
        warnings.append("the CPU frequency governor cannot be read (a virtual machine?): neighbours may change speeds")
    elif governor != "performance":
        warnings.append(f"the CPU governor is '{governor}': set 'performance' for steady clocks")
    if _virtual():
        warnings.append("this is a virtual machine: other guests may disturb measurements")
    return warnings


def _virtual() -> bool:
    """True on a virtual machine, where it says so (Linux on x86)."""
    try:
        return " hypervisor " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
