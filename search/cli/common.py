"""What verbs share: options, JSON, tables, the next command."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from ...spaces.errors import UsageError, did_you_mean

__all__ = ["OUTDATED", "allow_code", "as_json", "next_command", "out_of", "print_json", "print_table", "say", "status"]

F = TypeVar("F", bound=Callable[..., Any])
SCHEMA_VERSION = 1
OUTDATED = "trials have come since this front was verified: `hwnas run` verifies it again"


def as_json(function: F) -> F:
    """Adds `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


def allow_code(function: F) -> F:
    """Adds `--allow-code`."""
    return click.option(
        "--allow-code",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=_python_file,
        help="A Python file of your own; it is executed.",
    )(function)


def _python_file(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Says what is wrong with the file's name before anything is looked for in it."""
    if path is not None and not path.exists():
        folder = path.parent
        beside = [file.name for file in folder.glob("*.py")] if folder.is_dir() else []
        near = did_you_mean(path.name, beside)
        raise UsageError(f"--allow-code: no file '{path}'{near if near.startswith(' (did') else ''}")
    if path is not None and (path.suffix != ".py" or not path.is_file()):
        what = "a folder" if path.is_dir() else "not Python"
        raise UsageError(f"--allow-code: '{path}' is {what}: give a file whose name ends in .py")
    return path


def out_of(function: F) -> F:
    """Adds `--out`."""
    return click.option(
        "--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER", help="Run folder [runs/NAME]."
    )(function)


def print_json(value: Mapping[str, Any]) -> None:
    """Prints one object with its schema's version."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **value}, indent=1, allow_nan=False, default=str))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Prints a table in columns; a cell that begins with a digit, a sign or `~` is set to the right."""
    cells = [list(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    right = [
        all(not row[i] or row[i][0].isdigit() or row[i][0] in "+-~." for row in cells) and bool(cells)
        for i in range(len(headings))
    ]
    for row in (headings, *cells):
        parts = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        click.echo((indent + "  ".join(parts)).rstrip())


def say(text: str) -> None:
    """Talks to the user, on standard error."""
    context = click.get_current_context(silent=True)
    if context is None or not (context.obj or {}).get("quiet"):
        click.echo(text, err=True)


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Gives a function that shows what is under way, in one line on standard error that is gone in the end.

    It shows nothing where nobody looks: no terminal, or `--quiet`.
    """
    context = click.get_current_context(silent=True)
    quiet = context is not None and bool((context.obj or {}).get("quiet"))
    shows = sys.stderr.isatty() and not quiet and os.environ.get("TERM") != "dumb"

    def show(text: str) -> None:
        if shows:
            width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be cleared
            print(f"\r\x1b[K{text[:width]}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        show("")


def next_command(*words: object) -> None:
    """Ends a command by naming the likely next one."""
    say("next: " + shlex.join(map(str, words)))
