"""What a device would say: latencies predicted from the executed graph, with intervals.

Importing this package imports neither scipy nor a runtime.
"""

from __future__ import annotations

from .additive import AdditiveModel
from .features import FEATURES, totals
from .fitted import Fitted, Provenance, Sample, fit_model
from .model import CostModel, Prediction, TotalsModel

__all__ = [
    "FEATURES",
    "AdditiveModel",
    "CostModel",
    "Fitted",
    "Prediction",
    "Provenance",
    "Sample",
    "TotalsModel",
    "fit_model",
    "totals",
]
