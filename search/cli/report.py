"""`hwnas report`"""

from __future__ import annotations

from pathlib import Path

import click

from .common import OUTDATED, as_json, next_command, print_json, say


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--open", "show", is_flag=True, help="Open the page in a browser.")
@as_json
def command(run: Path, show: bool, as_json: bool) -> None:
    """Write the page of a run, RUN/report.html: one file that needs nothing but a browser."""
    from ..report import write_report
    from ..run_data import RunData

    data = RunData.load(run)
    path = write_report(data, run / "report.html")
    if data.outdated:
        say(OUTDATED)
    if as_json:
        print_json({"path": str(path)})
    else:
        click.echo(path)
    if show:
        click.launch(str(path))
    next_command("hwnas", "select", run)
