"""The command line: `hwnas VERB`."""

from __future__ import annotations

from .entry import main

__all__ = ["main"]
