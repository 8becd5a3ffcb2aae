"""What a run says while it goes on; the command line prints it, a script may ignore it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .outcome import Outcome
    from .verification import Verified

__all__ = ["Reporter", "Silent"]


class Reporter(Protocol):
    """Called by the driver, always from its own thread."""

    def note(self, text: str) -> None:
        """Something the user should know, in one line."""

    def trial(self, number: int, total: int, arch_id: str, outcome: Outcome) -> None:
        """A trial has ended."""

    def finalist(self, number: int, total: int, verified: Verified) -> None:
        """A finalist has been verified or refused.

        Args:
            number: how many have been verified so far, the refused not counted.
            total: how many are wanted, or fewer where there are no more.
            verified: what was found.
        """


class Silent:
    """Says nothing."""

    def note(self, text: str) -> None: ...

    def trial(self, number: int, total: int, arch_id: str, outcome: Outcome) -> None: ...

    def finalist(self, number: int, total: int, verified: Verified) -> None: ...
