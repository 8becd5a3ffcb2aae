"""hwnas: hardware-aware neural architecture search. Which network should we ship on this chip?

>>> from hwnas import Study
>>> study = Study.from_yaml("studies/digits.yaml")       # doctest: +SKIP
>>> study.run()                                          # doctest: +SKIP
>>> study.select("latency_ms@cpu <= 0.2").lines()        # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwnas.cost_models import AdditiveModel, CostModel, Prediction
    from hwnas.profilers import Graph, LocalProfiler, Measurement, Profiler
    from hwnas.search.metrics import Limit, Metric, Reading
    from hwnas.search.run_data import RunData
    from hwnas.search.study import Result, Study
    from hwnas.spaces import Architecture, Chooser, Space, load_space, space
    from hwnas.spaces.errors import HwnasError

__version__ = "0.1.0"

_HOMES = {
    "AdditiveModel": "cost_models",
    "Architecture": "spaces",
    "Chooser": "spaces",
    "CostModel": "cost_models",
    "Graph": "profilers",
    "HwnasError": "spaces.errors",
    "Limit": "search.metrics",
    "LocalProfiler": "profilers",
    "Measurement": "profilers",
    "Metric": "search.metrics",
    "Prediction": "cost_models",
    "Profiler": "profilers",
    "Reading": "search.metrics",
    "Result": "search.study",
    "RunData": "search.run_data",
    "Space": "spaces",
    "Study": "search.study",
    "load_space": "spaces",
    "space": "spaces",
}
"""Where each public name lives; it is imported when it is first used, so that `import hwnas` stays fast."""

__all__ = [
    "AdditiveModel",
    "Architecture",
    "Chooser",
    "CostModel",
    "Graph",
    "HwnasError",
    "Limit",
    "LocalProfiler",
    "Measurement",
    "Metric",
    "Prediction",
    "Profiler",
    "Reading",
    "Result",
    "RunData",
    "Space",
    "Study",
    "__version__",
    "load_space",
    "space",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hwnas' has no attribute '{name}'")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
