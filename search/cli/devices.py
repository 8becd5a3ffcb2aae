"""`hwnas devices`"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...spaces.errors import CandidateError, DeviceError, HwnasError, UsageError, did_you_mean
from .common import as_json, next_command, print_json, print_table, say

if TYPE_CHECKING:
    from ...profilers import Profiler
    from ..known_devices import KnownDevice

threads_option = click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads of one inference."
)


@click.group("devices", invoke_without_command=True)
@click.option("--test", is_flag=True, help="Measure a small reference network on each runtime of this machine.")
@threads_option
@as_json
@click.pass_context
def command(context: click.Context, test: bool, threads: int, as_json: bool) -> None:
    """List the devices: the runtimes of this machine, and the boards and phones that were added.

    Without a further word: list. `add` takes a board or a phone in, `test` measures a golden network, `remove` forgets.
    """
    if context.invoked_subcommand is not None:
        return
    from ..known_devices import read_devices

    local = _local(threads, test)
    known = read_devices()
    if as_json:
        added = [{"name": name, **_told(device)} for name, device in known.items()]
        print_json({"devices": [*local, *added]})
        return
    headings = ["name", "host", "runtime", "version", "precisions", "cpu", *(["test"] if test else [])]
    rows = []
    for entry in local:
        state = entry["version"] or f"missing: {entry['install']}"
        row = ["", "local", str(entry["runtime"]), str(state), ", ".join(entry["precisions"]), str(entry["cpu"] or "")]
        rows.append([*row, *([str(entry.get("test", ""))] if test else [])])
    for name, device in known.items():
        found = device.fingerprint
        what = found.get("phone") or found.get("board") or found.get("cpu") or ""
        version = str(found.get(device.runtime, ""))
        rows.append([name, device.host, device.runtime, version, device.precision, str(what), *([""] if test else [])])
    print_table(headings, rows)
    next_command("hwnas", "profile", "model.onnx")


@command.command("add")
@click.argument("name")
@click.argument("host")
@click.option("--runtime", default="onnxruntime", show_default=True, help="What runs the models there.")
@click.option("--precision", default="fp32", show_default=True, help="Of the runtime.")
@threads_option
@click.option("--python", default="python3", show_default=True, help="The board's Python, which has the runtime.")
@click.option("--tool", default="", metavar="PATH", help="The benchmark program on a phone.")
@click.option("--allow-adb-tcp", is_flag=True, help="Accept a phone that adb reaches over the network.")
@click.option("--yes", is_flag=True, help="Send the runner without asking.")
@as_json
def add(
    name: str,
    host: str,
    runtime: str,
    precision: str,
    threads: int,
    python: str,
    tool: str,
    allow_adb_tcp: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Take in a board (HOST is ssh:[USER@]HOST[:PORT]) or a phone (adb:SERIAL), after it has run a golden network.

    Nothing is installed without asking. The one thing that is sent to a board is the runner, a Python file in
    ~/.cache/hwnas. A phone at another machine is adb:SERIAL@USER@HOST.
    """
    from ..known_devices import KnownDevice, devices_path, read_devices, write_devices

    _check_name(name)
    if not host.startswith(("ssh:", "adb:")):
        raise UsageError(f"'{host[:64]}' is not a host: ssh:[USER@]HOST[:PORT] or adb:SERIAL")
    known = read_devices()
    device = KnownDevice(host, runtime, threads, precision, python, tool, allow_adb_tcp)
    with device.open() as profiler:
        fingerprint = _reach(profiler, host, yes)
        golden_ms, verdict = _golden(profiler)
    device = device.found(golden_ms, fingerprint)
    write_devices({**known, name: device})
    if as_json:
        print_json({"name": name, **_told(device)})
    else:
        print_table([name, ""], [[key, str(value)] for key, value in fingerprint.items()])
        click.echo(f"golden network: {verdict}")
        click.echo(f"kept in {devices_path()}")
    next_command("hwnas", "profile", "model.onnx", "--device", name)


@command.command("test")
@click.argument("name", required=False)
@as_json
def test(name: str | None, as_json: bool) -> None:
    """Measure the golden network on NAME, or on every device that was added."""
    from ..known_devices import read_devices

    known = read_devices()
    if name is not None and name not in known:
        raise DeviceError(f"no device '{name}' was added{did_you_mean(name, known)}")
    rows: list[dict[str, Any]] = []
    for each, device in known.items():
        if name in (None, each):
            rows.append({"name": each, "host": device.host, **_test(device)})
    if as_json:
        print_json({"devices": rows})
    else:
        print_table(["name", "host", "test"], [[row["name"], row["host"], row["test"]] for row in rows])
    lost = [row for row in rows if not row["ok"]]
    if lost:
        raise DeviceError(f"{len(lost)} of {len(rows)} devices failed: {', '.join(row['name'] for row in lost)}")


@command.command("remove")
@click.argument("name")
def remove(name: str) -> None:
    """Forget a device; nothing changes on the device itself."""
    from ..known_devices import read_devices, write_devices

    known = read_devices()
    if name not in known:
        raise DeviceError(f"no device '{name}' was added{did_you_mean(name, known)}")
    write_devices({each: device for each, device in known.items() if each != name})
    say(f"{name} is forgotten")


def _check_name(name: str) -> None:
    from ...profilers import estimated_names, runtime_names
    from ..study_fields import NAME

    if not NAME.fullmatch(name):
        raise UsageError("NAME: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit")
    if name in ("local", *runtime_names(), *estimated_names()):
        raise UsageError(f"NAME: '{name}' means a runtime of this machine: choose another")


def _reach(profiler: Profiler, host: str, yes: bool) -> dict[str, Any]:
    """Returns what the device says of itself, having sent the runner if that is agreed to."""
    from ...profilers.hosts.bundle import bundle
    from ...profilers.hosts.ssh import SshProfiler

    try:
        return profiler.fingerprint()
    except DeviceError:
        if not isinstance(profiler, SshProfiler) or not profiler.lacks_runner:
            raise
    size = f"{len(bundle()) / 1e3:.0f} kB"
    if not yes:
        if not sys.stdin.isatty():
            raise DeviceError(f"{host} needs the runner (one file, {size}, in ~/.cache/hwnas): --yes sends it")
        click.confirm(f"Send the runner to {host} (one file, {size}, in ~/.cache/hwnas)?", abort=True, err=True)
    profiler.send_runner()
    return profiler.fingerprint()


def _golden(profiler: Profiler) -> tuple[float | None, str]:
    """Measures the golden network; returns its latency in ms, and a line about it."""
    from ...profilers.hosts.remote import RemoteProfiler

    assert isinstance(profiler, RemoteProfiler), "boards and phones only"
    if not profiler.has_golden:
        return None, "none for this runtime; the device answers"
    try:
        told = profiler.golden()
    except CandidateError as error:
        raise DeviceError(f"{profiler.host}: the golden network does not run: {error}") from error
    return told.latency_ms, f"{told.latency_ms:.4f} ms ({told.quality})"


def _test(device: KnownDevice) -> dict[str, Any]:
    try:
        with device.open() as profiler:
            profiler.fingerprint()
            golden_ms, verdict = _golden(profiler)
    except HwnasError as error:
        return {"ok": False, "golden_ms": None, "test": str(error)}
    if golden_ms and device.golden_ms:
        verdict += f", {golden_ms / device.golden_ms:.2f} times that of the day it was added"
    return {"ok": True, "golden_ms": golden_ms, "test": verdict}


def _told(device: KnownDevice) -> dict[str, Any]:
    return {
        "host": device.host,
        "runtime": device.runtime,
        "precision": device.precision,
        "threads": device.threads,
        "python": device.python,
        "tool": device.tool,
        "golden_ms": device.golden_ms,
        "fingerprint": dict(device.fingerprint),
    }


def _local(threads: int, test: bool) -> list[dict[str, Any]]:
    """Returns the runtimes of this machine, measured if asked to."""
    from ...profilers import fingerprint, get_runtime, runtime_names

    found = []
    for name in runtime_names():
        runtime = get_runtime(name)
        available = runtime.available()
        entry: dict[str, Any] = {
            "host": "local",
            "runtime": name,
            "precisions": list(runtime.precisions),
            "threads": threads,
            "ok": available.ok,
            "version": available.version if available.ok else None,
            "install": None if available.ok else available.install,
            "cpu": fingerprint(name).get("cpu") if available.ok else None,
        }
        if test and available.ok:
            entry["test"] = _tested(name, threads)
        found.append(entry)
    return found


def _tested(runtime: str, threads: int) -> str:
    """Measures a small network and returns one line about it."""
    import tempfile

    import torch
    from torch import nn

    from ...profilers import LocalProfiler, get_runtime

    with tempfile.TemporaryDirectory(prefix="hwnas-test-") as folder, LocalProfiler(runtime, threads) as profiler:
        model = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 16 * 16, 10)).eval()
        found = get_runtime(runtime)
        path = found.file(Path(folder) / "test.onnx", "fp32")
        found.convert(model, torch.zeros(1, 3, 32, 32), path)
        told = profiler.measure(path)
    return f"{told.latency_ms:.4f} ms ({told.quality})"
