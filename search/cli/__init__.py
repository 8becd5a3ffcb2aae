"""The command line: `hwnas VERB`."""

from __future__ import annotations

from ..interrupts import listening

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Runs a command line.

    Args:
        arguments: without the program's name; those of the process when left out.

    Returns:
        The exit code.
    """
    import sys

    with listening():
        try:
            from .entry import run  # which takes a while: a signal may come

            return run(sys.argv[1:] if arguments is None else arguments)
        except KeyboardInterrupt:
            print("hwnas: interrupted", file=sys.stderr)
            return 130
