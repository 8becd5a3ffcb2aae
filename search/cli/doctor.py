"""`hwnas doctor`"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import click

from .common import as_json, next_command, print_json, print_table

CORE = ("torch", "onnx", "onnxruntime", "optuna", "fvcore", "numpy", "pandas", "plotly", "optuna-dashboard")


@click.command("doctor")
@as_json
def command(as_json: bool) -> None:
    """Versions, this machine, runtimes present or how to install them, and what disturbs measurements here."""
    from ...profilers import conditions, fingerprint, get_runtime, runtime_names

    machine = fingerprint()
    runtimes = {name: get_runtime(name).available() for name in runtime_names()}
    now = conditions()
    warnings = _warnings(machine, now)
    if as_json:
        print_json(
            {
                "versions": _versions(),
                "machine": machine,
                "runtimes": {name: dataclasses.asdict(found) for name, found in runtimes.items()},
                "conditions": now,
                "warnings": warnings,
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
    for warning in warnings or ["nothing that disturbs measurements was found"]:
        click.echo(f"- {warning}")
    next_command("hwnas", "init", "my-study")


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
