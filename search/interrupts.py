"""Ctrl-C and SIGTERM, which must not be lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a `__del__` or in a callback of a weak
reference, of which imports are full, the interpreter prints it and goes on; in an import a package may turn it into
another error. So the request is remembered, and whoever works for long asks `check` between its steps.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Interrupt", "asked", "check", "listening"]

_requests = 0
"""Signals that came since `listening` began."""


class Interrupt(KeyboardInterrupt):
    """The user has asked to stop.

    A class of its own, because CPython takes a plain KeyboardInterrupt that leaves an `exec`, such as those of
    dataclasses, for one that nobody handles, and then ends by SIGINT, whatever exit code was given
    (`run_eval_code_obj` in Python/pythonrun.c).
    """


def asked() -> bool:
    """True when the user has asked to stop."""
    return _requests > 0


def check() -> None:
    """Raises again what may have been swallowed.

    Raises:
        Interrupt: the user has asked to stop.
    """
    if asked():
        raise Interrupt


@contextmanager
def listening() -> Iterator[None]:
    """Remembers SIGINT and SIGTERM inside, and raises Interrupt for each; for the main thread only.

    A SIGINT that is ignored, as that of a shell's background job is, stays ignored. What Python would print of a
    KeyboardInterrupt that it swallows is left out.
    """
    global _requests
    _requests = 0
    numbers = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) != signal.SIG_IGN else [])]
    before = {number: signal.signal(number, _remember) for number in numbers}
    print_unraisable = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            print_unraisable(unraisable)

    sys.unraisablehook = quiet
    try:
        yield
    finally:
        sys.unraisablehook = print_unraisable
        for number, handler in before.items():
            signal.signal(number, handler)


def _remember(number: int, frame: FrameType | None) -> None:
    global _requests
    _requests += 1
    raise Interrupt
