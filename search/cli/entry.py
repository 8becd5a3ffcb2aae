"""Entry point, global options, exit codes; a verb's own module is imported when the verb is called."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from ...spaces.errors import DiskError, HwnasError, UsageError
from .. import interrupts

__all__ = ["run"]

VERBS = {
    "doctor": "Versions, devices, runtimes, and what disturbs measurements here.",
    "init": "Write a commented study file.",
    "check": "Validate a study; can its limits be met, and how long will it take?",
    "run": "Start a study, or go on with it.",
    "report": "Write the page of a run: one offline HTML file.",
    "select": "What to ship inside the limits, and why.",
    "export": "Copy the files of one network out of a run.",
    "profile": "Latency, size and operators of a model on a device.",
    "fit": "Fit a device's cost model to a few measured networks.",
    "devices": "List and test devices.",
    "dashboard": "Open optuna-dashboard on a run.",
}
"""Every verb and what it does, in the order of `--help`; `hwnas.search.cli.<verb>` has the command."""


class _Verbs(click.Group):
    """Lists verbs without importing them, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = import_module(f"{__package__}.{name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from ...spaces.errors import did_you_mean

        if args and args[0] not in VERBS and not args[0].startswith("-"):
            ctx.fail(f"no verb '{args[0]}'{did_you_mean(args[0], VERBS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `hwnas init my-study`. Exit codes: 0 done, 2 bad usage, 3 nothing feasible, 4 device missing, "
    "65 corrupt data, 74 disk, 75 locked, 130 interrupted (the same command goes on).",
)
@click.option("-v", "--verbose", count=True, help="Say more: the seconds of each stage of a trial.")
@click.option("-q", "--quiet", is_flag=True, help="Say less.")
@click.option("--no-color", is_flag=True, help="Plain text (also NO_COLOR and CI in the environment).")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="hwnas", message="hwnas %(version)s")
@click.pass_context
def cli(ctx: click.Context, verbose: int, quiet: bool, no_color: bool, debug: bool) -> None:
    """Which network should we ship on this chip?

    hwnas searches a space of networks, trains the candidates, measures them on the device, and gives the front of
    accuracy against latency, memory and size whose members were found inside your budget.
    """
    plain = no_color or bool(os.environ.get("NO_COLOR")) or bool(os.environ.get("CI"))
    ctx.obj = {"verbose": verbose, "quiet": quiet, "color": not plain and sys.stdout.isatty(), "debug": debug}


def run(arguments: list[str]) -> int:
    """Runs a command line; returns its exit code."""
    debug = "--debug" in arguments
    try:
        result: Any = cli.main(args=arguments, prog_name="hwnas", standalone_mode=False)
        interrupts.check()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return _said("interrupted", 130)
    except click.ClickException as error:
        hint = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "hwnas"
        return _said(f"{error.format_message()} (see `{hint} --help`)", UsageError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:  # after the verb
        return _said("interrupted", 130)
    except HwnasError as error:
        if debug:
            raise
        if interrupts.asked() and error.exit_code != 130:  # what a signal in an import or a call can turn into
            return _said(f"interrupted ({error})", 130)
        return _said(str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        if interrupts.asked():
            return _said("interrupted", 130)
        if isinstance(error, OSError) and error.errno in _DISK:
            return _said(f"{error.filename or 'disk'}: {(error.strerror or '').lower()}", DiskError.exit_code)
        text = " ".join(str(error).split())[:300]
        from ..files import LOGGED

        notes = getattr(error, "__notes__", ())
        where = next((note for note in notes if note.startswith(LOGGED)), "--debug shows where")
        return _said(f"a bug in hwnas: {type(error).__name__}: {text} ({where})", 1)
    return result if isinstance(result, int) else 0


_DISK = {5, 13, 27, 28, 30, 122}
"""EIO, EACCES, EFBIG, ENOSPC, EROFS, EDQUOT."""


def _said(text: str, code: int) -> int:
    click.echo(f"hwnas: {text}" if code != UsageError.exit_code else text, err=True)
    return code
