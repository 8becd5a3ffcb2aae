"""`hwnas init`"""

from __future__ import annotations

from pathlib import Path

import click

from ...spaces.errors import UsageError
from .common import as_json, next_command, print_json


@click.command("init")
@click.argument("name")
@click.option("--space", default="mobile", show_default=True, help="mobile, nasbench201, fbnet, or a plug-in.")
@click.option("--data", default="digits", show_default=True, help="digits, or the path of an .npz file.")
@click.option("--device", default="cpu", show_default=True, help="The device's name in the study.")
@click.option("--force", is_flag=True, help="Write over an existing file.")
@as_json
def command(name: str, space: str, data: str, device: str, force: bool, as_json: bool) -> None:
    """Write a commented study file, NAME.yaml, in the current folder."""
    from ..files import write_text
    from ..study_text import init_text

    path = Path(f"{name}.yaml")
    text = init_text(name, space, data, device)
    if path.exists() and not force:
        raise UsageError(f"{path} exists: choose another name, or write over it with --force")
    write_text(path, text)
    if as_json:
        print_json({"path": str(path)})
    else:
        click.echo(path)
    next_command("hwnas", "check", path)
