"""What a device says: runtimes, measurements, and the graph that is really executed.

Importing this package imports neither torch nor a runtime.
"""

from __future__ import annotations

from .child import Child
from .computed import computed_metrics
from .estimate import Estimate
from .fingerprint import conditions, fingerprint
from .graph import Graph, Node
from .measurement import Measurement
from .profiler import LocalProfiler, Profiler, open_profiler
from .repeatability import Repeatability, measure_again
from .runtime import (
    Artifact,
    Availability,
    Kernel,
    OnnxBased,
    Runtime,
    Session,
    estimated_names,
    get_runtime,
    runtime_names,
    stored_as,
)
from .serve import serve

__all__ = [
    "Artifact",
    "Availability",
    "Child",
    "Estimate",
    "Graph",
    "Kernel",
    "LocalProfiler",
    "Measurement",
    "Node",
    "OnnxBased",
    "Profiler",
    "Repeatability",
    "Runtime",
    "Session",
    "computed_metrics",
    "conditions",
    "estimated_names",
    "fingerprint",
    "get_runtime",
    "measure_again",
    "open_profiler",
    "runtime_names",
    "serve",
    "stored_as",
]
