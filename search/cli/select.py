"""`hwnas select`"""

from __future__ import annotations

from pathlib import Path

import click

from ...spaces.errors import InfeasibleError
from .common import OUTDATED, as_json, next_command, print_json, say


@click.command("select")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("limits", nargs=-1, metavar='["METRIC <= NUMBER"]...')
@as_json
def command(run: Path, limits: tuple[str, ...], as_json: bool) -> int:
    """What to ship inside the limits, and why.

    LIMITs replace the study's own, e.g. "latency_ms@cpu <= 2". Exit code 3 when nothing fits.
    """
    from ..metrics import Limit
    from ..run_data import RunData
    from ..selection import choose

    data = RunData.load(run)
    devices = list(data.study.get("devices") or {})
    selection = choose(data, [Limit.parse(limit, devices) for limit in limits] or data.limits)
    if as_json:
        print_json(selection.to_dict())
    else:
        for line in selection.lines():
            click.echo(line)
    if data.outdated:
        say(OUTDATED)
    if selection.best is None:
        say("nothing fits the limits")
        return InfeasibleError.exit_code
    if data.front is None:
        next_command("hwnas", "run", run / "study.yaml")
    elif not data.trained:
        next_command("hwnas", "report", run)
    else:
        next_command("hwnas", "export", run, selection.best.trial.arch_id)
    return 0
