"""What a device says: runtimes, measurements, and the graph that is really executed.

Importing this package imports neither torch nor a runtime.
"""

from __future__ import annotations

from .child import Child
from .computed import computed_metrics
from .fingerprint import conditions, fingerprint
from .graph import Graph, Node
from .measurement import Measurement
from .profiler import LocalProfiler, Profiler
from .repeatability import Repeatability, measure_again
from .runtime import Artifact, Availability, Runtime, Session, file_beside, get_runtime, runtime_names, stored_as
from .serve import serve

__all__ = [
    "Artifact",
    "Availability",
    "Child",
    "Graph",
    "LocalProfiler",
    "Measurement",
    "Node",
    "Profiler",
    "Repeatability",
    "Runtime",
    "Session",
    "computed_metrics",
    "conditions",
    "file_beside",
    "fingerprint",
    "get_runtime",
    "measure_again",
    "runtime_names",
    "serve",
    "stored_as",
]
