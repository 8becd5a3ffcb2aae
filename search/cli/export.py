"""`hwnas export`"""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from ...spaces.errors import DataError, UsageError, did_you_mean
from .common import as_json, next_command, print_json

FILES = ("model.onnx", "weights.safetensors", "arch.json", "verified.json", "card.md")
OTHERS = ("layers.parquet",)


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("network", metavar="ID")
@click.option("--format", "formats", default="onnx", show_default=True, help="Model file formats, joined by commas.")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Where to [./NAME-ID].")
@as_json
def command(run: Path, network: str, formats: str, to: Path | None, as_json: bool) -> None:
    """Copy the files of one network out of RUN: model, weights, architecture, model card.

    ID is the id of a network on the verified front, or the beginning of it.
    """
    from ...profilers import get_runtime
    from ..files import read_json, write_aside
    from ..run_data import RunData

    unknown = [name for name in formats.split(",") if name != "onnx"]
    if unknown:
        raise UsageError(f"format '{unknown[0]}' is not in this version (available: onnx)")
    data = RunData.load(run)
    if not data.trained:
        raise UsageError(f"{run} has no files to export: its study trained nothing, tables told the quality")
    verified = [trial.arch_id for trial in data.verified or ()]
    found = [arch_id for arch_id in verified if arch_id.startswith(network)]
    if len(found) != 1:
        hint = f": {len(found)} begin so" if found else did_you_mean(network, verified)
        raise UsageError(f"no network '{network}' on the verified front of {run}{hint}")
    source = run / "artifacts" / found[0]
    devices = [each for each in (data.study.get("devices") or {}).values() if each.get("runtime") != "replay"]
    runtimes = [(get_runtime(each.get("runtime", "onnxruntime")), each.get("precision", "fp32")) for each in devices]
    models = [runtime.file(Path(FILES[0]), precision).name for runtime, precision in runtimes]
    needed = tuple(dict.fromkeys([*FILES, *models]))
    missing = [name for name in needed if not (source / name).is_file()]
    if missing:
        raise DataError(f"{source / missing[0]} is missing")
    try:
        parity = {str(device): float(value) for device, value in read_json(source / "verified.json")["parity"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{source / 'verified.json'}: no parity of each device in it; run the study again") from error
    folder = to or Path(f"{data.name}-{found[0]}")
    paths = [folder / name for name in (*needed, *(name for name in OTHERS if (source / name).is_file()))]
    for path in paths:
        with write_aside(path) as copy, (source / path.name).open("rb") as original:
            shutil.copyfileobj(original, copy)
    if as_json:
        print_json({"arch_id": found[0], "parity": parity, "paths": [str(path) for path in paths]})
        return
    for path in paths:
        click.echo(path)
    for device, difference in parity.items():
        click.echo(f"parity: on {device}, torch and the file differ by at most {difference:.1e} of the largest output")
    next_command("hwnas", "profile", folder / "model.onnx")
