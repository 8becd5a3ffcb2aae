"""Totals of the executed graph that a kernel's time is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..profilers.graph import Graph, Node

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FEATURES", "totals"]
E=0
