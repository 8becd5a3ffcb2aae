"""`hwnas report`"""

from __future__ import annotations

from pathlib import Path

import click

from .common import as_json, next_command, print_json


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@as_json
def command(run: Path, show: bool, as_json: bool) -> None:
    """Write the page of a run, RUN/report.html: one file that needs nothing but a browser."""
    from ..report import write_report
    from ..run_data import RunData

    path = write_report(RunData.load(run), run / "report.html")
    if as_json:
        print_json({"path": str(path)})
    else:
        click.echo(path)
    if show:
        click.launch(str(path))
    next_command("hwnas", "select", run)
