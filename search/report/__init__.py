"""The report page: decide (`info`, `views`), then draw (`figures`), then assemble (`page`)."""

from __future__ import annotations

from .page import render, write_report

__all__ = ["render", "write_report"]
