"""`hwnas run`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...spaces.errors import InfeasibleError
from .common import allow_code, as_json, next_command, out_of, print_json, print_table, say

if TYPE_CHECKING:
    from ..outcome import Outcome
    from ..run_data import RunData
    from ..study import Result
    from ..study_schema import StudySpec
    from ..verification import Verified


@click.command("run")
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@out_of
@allow_code
@as_json
def command(study: Path, overrides: tuple[str, ...], out: Path | None, allow_code: Path | None, as_json: bool) -> None:
    """Start a study, or go on with it where it was stopped.

    STUDY is a study file; KEY=VALUE overrides one of its keys, e.g. search.trials=100. `search.trials` is the total
    over all resumes. The run folder gets the trials, the verified front, the files to ship and the page.
    """
    from ..files import bugs_logged
    from ..report import write_report
    from ..report.info import screened_text
    from ..run_data import RunData
    from ..selection import choose
    from ..study import LOG, Study

    work = Study.from_yaml(study, overrides, folder=out, allow_code=allow_code)
    start = time.monotonic()
    printer = _Printer(work.spec, quiet=as_json)
    page = work.folder / "report.html"
    try:
        result = work.run(printer)
    except InfeasibleError:
        if (work.folder / "front.parquet").is_file():
            with bugs_logged(work.folder / LOG):
                write_report(RunData.load(work.folder), page)
            say(f"page: {page}")
        raise
    with bugs_logged(work.folder / LOG):
        run = RunData.load(work.folder)
        write_report(run, page)
        selection = choose(run, run.limits)
    if as_json:
        print_json(
            {
                "run": str(work.folder),
                "trials": result.trials,
                "verified": result.verified,
                "screened": len(run.screened),
                "refused": [{"arch_id": trial.arch_id, "reason": reason} for trial, reason in run.refused],
                "front": [_front_row(run, index) for index in range(len(run.verified or ()))],
                "selection": selection.to_dict(),
                "report": str(page),
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        return
    _print_front(run)
    click.echo("")
    for line in selection.lines():
        click.echo(line)
    say(_counts(result, run.trained, time.monotonic() - start))
    if told := screened_text(run):
        say(told)
    say(f"page: {page}")
    if not run.trained:
        next_command("hwnas", "select", work.folder)
        return
    best = selection.picks[0].trial.arch_id if selection.picks else "ARCH_ID"
    next_command("hwnas", "export", work.folder, best)


def _counts(result: Result, trained: bool, seconds: float) -> str:
    from ..quantities import counted

    if not trained:
        return f"{counted(result.trials, 'trial')}; {seconds:.0f} s"
    said = f"{counted(result.trials, 'trial')}; {counted(result.verified, 'finalist')} verified"
    said += f", {result.front} of them on the front" if result.front != result.verified else ""
    return f"{said}, {result.refused} refused; {seconds:.0f} s" if result.refused else f"{said}; {seconds:.0f} s"


class _Printer:
    """Prints a line for every trial and finalist."""

    def __init__(self, spec: StudySpec, *, quiet: bool) -> None:
        self._metrics = [str(metric) for metric in spec.metrics]
        self._quiet = quiet
        self._headed = False

    def note(self, text: str) -> None:
        say(text)

    def _print(self, line: str) -> None:
        """Prints, unless nobody reads any more: the study goes on."""
        if not self._quiet:
            try:
                click.echo(line)
            except BrokenPipeError:
                self._quiet = True

    def trial(self, number: int, total: int, arch_id: str, outcome: Outcome) -> None:
        from ..quantities import format_reading

        if not self._headed:
            self._headed = True
            self._print(self._columns("trial", "network", [*self._metrics], "seconds", ""))
        cells = [
            format_reading(metric, outcome.readings[metric]) if metric in outcome.readings else "-"
            for metric in self._metrics
        ]
        note = "" if outcome.state == "complete" else f"{outcome.state}: {outcome.reason}"
        if click.get_current_context().obj["verbose"]:
            note += " (" + ", ".join(f"{stage} {spent:.2f} s" for stage, spent in outcome.seconds.items()) + ")"
        seconds = f"{sum(outcome.seconds.values()):.1f}"
        self._print(self._columns(f"#{number} of {total}", arch_id, cells, seconds, note))

    def _columns(self, first: str, network: str, cells: list[str], seconds: str, note: str) -> str:
        widths = [max(11, len(metric)) for metric in self._metrics]
        shown = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"{first.ljust(12)}  {network.ljust(16)}  {shown}  {seconds.rjust(7)}  {note}".rstrip()

    def finalist(self, number: int, total: int, verified: Verified) -> None:
        from ..quantities import format_reading

        cells = [
            format_reading(metric, verified.readings[metric]) if metric in verified.readings else "-"
            for metric in self._metrics
        ]
        first = f"final {number}/{total}" if verified.feasible else "final -"
        note = "verified" if verified.feasible else f"refused: {verified.reason}"
        self._print(self._columns(first, verified.arch_id, cells, f"{verified.seconds:.1f}", note))


def _print_front(run: RunData) -> None:
    """Prints the front, best first."""
    from ..quantities import counted, format_reading, format_tests, label

    members = run.verified or ()
    metrics = [metric for metric in run.metrics if any(m.value(metric) is not None for m in members)]
    click.echo("")
    guessed = [name for name in metrics if any(m.reading(name).source == "estimated" for m in members)]
    size = counted(len(members), "network")
    told = f"; estimated, not measured: {', '.join(guessed)}" if guessed else ""
    if run.trained:
        click.echo(f"verified front: {size}, trained over seeds, exported{told or ', measured'}")
    else:
        click.echo(f"front: {size}, not trained{told}")
    main = run.objectives[0][0]
    ordered = sorted(members, key=lambda member: -(member.value(main) or 0.0))
    rows = [
        [
            member.arch_id,
            *(format_reading(metric, member.reading(metric), interval=True) for metric in metrics),
            *([format_tests(member.test, member.tests)] if run.trained else []),
        ]
        for member in ordered
    ]
    print_table(["network", *metrics, *([label("top1_test")] if run.trained else [])], rows)
    if run.refused:
        click.echo("")
        click.echo(f"refused: {counted(len(run.refused), 'finalist')}")
        print_table(["network", "reason"], [[trial.arch_id, reason] for trial, reason in run.refused])


def _front_row(run: RunData, index: int) -> dict[str, object]:
    member = (run.verified or ())[index]
    return {
        "arch_id": member.arch_id,
        "readings": {metric: member.reading(metric).to_dict() for metric in run.metrics},
        "top1_test": member.test.to_dict(),
        **{f"top1_test@{name}": reading.to_dict() for name, reading in member.tests.items()},
        "artifacts": str(run.folder / "artifacts" / member.arch_id),
    }
