"""Cost models: what a device would say about a graph that was not measured."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from ..profilers.graph import Graph
from ..spaces.errors import DataError, DiskError

__all__ = ["CostModel", "Prediction"]

SCHEMA_VERSION = 1
"""Of the JSON that `save` writes."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a cost model says: never shown without its `~`.

    Attributes:
        value: in the unit of the fitted values.
        low: lower end of the 90 % interval, above 0.
        high: upper end of the 90 % interval.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.value <= self.high or not math.isfinite(self.high):
            raise ValueError(f"a prediction needs 0 < low <= value <= high < infinity: {self}")


class CostModel(ABC):
    """Learns a cost from measured graphs.

    >>> model = AdditiveModel().fit(graphs, latencies_ms)                     # doctest: +SKIP
    >>> model.predict(graph)                                                  # doctest: +SKIP
    Prediction(value=1.42, low=1.31, high=1.55)

    A new model is one file with a subclass and passes `tests/contracts/test_cost_models.py`.
    """

    name: ClassVar[str]
    """Stands in the saved file."""

    min_samples: ClassVar[int]
    """Fewest measured graphs that `fit` takes."""

    @abstractmethod
    def fit(self, graphs: Sequence[Graph], values: Sequence[float]) -> Self:
        """Learns from scratch; the same samples in the same order give the same model.

        Args:
            graphs: executed graphs, (n,).
            values: their measured costs, (n,), finite and above 0.

        Raises:
            ValueError: fewer than `min_samples`, lengths differ, or a value is not finite and above 0.
        """

    @abstractmethod
    def predict(self, graph: Graph) -> Prediction:
        """Predicts the cost of a graph, with its 90 % interval.

        Raises:
            ValueError: the model is not fitted.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All that `predict` needs, JSON-plain."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """

    def save(self, path: Path) -> None:
        """Writes a JSON file, aside first and then renamed.

        Raises:
            DiskError: it cannot be written.
        """
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        data = {"schema_version": SCHEMA_VERSION, "model": self.name, **self.to_json()}
        text = json.dumps(data, allow_nan=False, indent=1)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(text + "\n", encoding="utf-8")
            aside.replace(path)
        except OSError as error:
            raise DiskError(f"{path}: cannot write the cost model ({error.strerror or error})") from error
        finally:
            if aside.exists():
                aside.unlink()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file that `save` wrote. No code of the file is run.

        Raises:
            DataError: it is missing, not JSON, of another schema or another model.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["schema_version"] != SCHEMA_VERSION:
                raise ValueError(f"schema_version {data['schema_version']}, this hwnas reads {SCHEMA_VERSION}")
            if data["model"] != cls.name:
                raise ValueError(f"a '{data['model']}' model, not '{cls.name}'")
            return cls.from_json(data)
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: not a cost model ({type(error).__name__}: {error})") from None


def check_samples(count: int, values: Sequence[float], fewest: int) -> None:
    """Checks what `fit` was given.

    Raises:
        ValueError: see `CostModel.fit`.
    """
    if count != len(values):
        raise ValueError(f"{count} graphs but {len(values)} values")
    if count < fewest:
        raise ValueError(f"a cost model needs at least {fewest} measured networks, not {count}")
    for value in values:
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"a measured cost must be finite and above 0, not {value!r}")
