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
from .memory import Memory
from .meters.energy import Energy
from .meters.meter import Meter, find_meter, meter_names, open_meter
from .profiler import LocalProfiler, Profiler, open_profiler
from .repeatability import Repeatability, measure_again
from .runtimes.conversion_cache import ConversionCache
from .runtimes.runtime import (
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
from .store import MeasurementStore, Replay, Stored, digest_of

__all__ = [
    "Artifact",
    "Availability",
    "Child",
    "ConversionCache",
    "Energy",
    "Estimate",
    "Graph",
    "Kernel",
    "LocalProfiler",
    "Measurement",
    "MeasurementStore",
    "Memory",
    "Meter",
    "Node",
    "OnnxBased",
    "Profiler",
    "Repeatability",
    "Replay",
    "Runtime",
    "Session",
    "Stored",
    "computed_metrics",
    "conditions",
    "digest_of",
    "estimated_names",
    "find_meter",
    "fingerprint",
    "get_runtime",
    "measure_again",
    "meter_names",
    "open_meter",
    "open_profiler",
    "runtime_names",
    "serve",
    "stored_as",
]
