"""`hwnas check`"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...spaces.errors import InfeasibleError
from .common import allow_code, as_json, next_command, print_json, print_table, say, status

if TYPE_CHECKING:
    from ..feasibility import LimitCheck
    from ..study import Check


@click.command("check")
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--show-resolved", is_flag=True, help="Print the study with every default, and stop.")
@click.option("--samples", default=8, show_default=True, type=click.IntRange(0, 1000), help="Random architectures.")
@allow_code
@as_json
def command(
    study: Path, overrides: tuple[str, ...], show_resolved: bool, samples: int, allow_code: Path | None, as_json: bool
) -> int:
    """Validate a study; build, export and measure the smallest, a middle and the largest architecture.

    Says for every limit whether it can be met and by which share of random architectures, and how long the study will
    take. Nothing is kept. Exit code 3 when a limit is out of reach.
    """
    from ..study import Study
    from ..study_file import dump_study

    with tempfile.TemporaryDirectory(prefix="hwnas-check-") as folder:
        work = Study.from_yaml(study, overrides, folder=Path(folder) / "run", allow_code=allow_code)
        if show_resolved:
            text = dump_study(work.spec)
            if as_json:
                print_json({"study": work.spec.model_dump(mode="json")})
            else:
                click.echo(text, nl=False)
            return 0
        with status() as told:
            found = work.check(samples, told)
    if as_json:
        print_json(found.to_dict())
    else:
        _print(found)
    broken = [check for check in found.limits if check.reachable is False]
    if broken:
        check = broken[0]
        best = check.least if check.limit.sign == "<=" else check.most
        seen = max(check.sampled, len(found.probes))
        say(f"limit '{check.limit}' is out of reach: the best of {seen} architectures has {best:.4g}")
        return InfeasibleError.exit_code
    next_command("hwnas", "run", study, *overrides, *(("--allow-code", allow_code) if allow_code else ()))
    return 0


def _print(found: Check) -> None:
    from ..quantities import format_reading

    size = "infinitely many or too many to count" if found.size is None else f"{found.size:,}"
    click.echo(f"space {found.space}: {size} architectures; data {found.data}")
    corners = [probe for probe in found.probes if probe.role != "random"]
    metrics = list(corners[0].readings)
    print_table(
        ["architecture", *metrics],
        [[probe.role, *(format_reading(name, probe.readings[name]) for name in metrics)] for probe in corners],
    )
    if found.limits:
        click.echo("")
        print_table(["limit", "min", "middle", "max", "inside", "verdict"], [_limit_row(c) for c in found.limits])
    click.echo("")
    plan = found.plan
    if plan.devices:
        print_table(
            ["device", "conversion", "measurement"],
            [
                [name, f"{each.conversion_s:.1f} s", f"{each.measurement_s:.1f} s"]
                for name, each in plan.devices.items()
            ],
        )
    click.echo(
        f"time: about {plan.total_s / 60:.1f} min (search {plan.search_s / 60:.1f}, verification "
        f"{plan.verify_s / 60:.1f}); a trial takes {plan.trial_s:.1f} s"
    )
    if noisy := [name for name, each in plan.devices.items() if each.noisy]:
        say(f"this machine is busy: measurements on {', '.join(noisy)} are noisy, and take longer than when it is idle")


def _limit_row(check: LimitCheck) -> list[str]:
    from ..quantities import format_value

    metric = str(check.limit.metric)
    if check.reachable is None:
        return [str(check.limit), "", "", "", "", "known after training"]
    found = (check.least, check.middle, check.most)
    values = ["" if value is None else format_value(metric, value, check.own_unit) for value in found]
    inside = f"{check.inside} of {check.sampled}"
    return [str(check.limit), *values, inside, "reachable" if check.reachable else "OUT OF REACH"]
