"""What a device would say: latencies predicted from the executed graph, with intervals.

Importing this package imports neither scipy nor a runtime.
"""

from __future__ import annotations

from .additive import AdditiveModel
from .features import FEATURES, totals
from .model import CostModel, Prediction

__all__ = ["FEATURES", "AdditiveModel", "CostModel", "Prediction", "totals"]
