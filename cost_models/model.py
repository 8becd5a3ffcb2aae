"""Cost models: what a device would say about a graph that was not measured."""

from __future__ import annotations

import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ..profilers.graph import Graph
from ..spaces.errors import DataError, DiskError, UsageError, did_you_mean, quoted
from .features import FEATURES, totals

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]

__all__ = [
    "CostModel",
    "Prediction",
    "Range",
    "TotalsModel",
    "check_samples",
    "model_class",
    "model_names",
    "read_json",
    "write_json",
]

_MODELS = {
    "additive": ("additive", "AdditiveModel"),
    "additive+gp": ("additive_gp", "AdditiveGpModel"),
    "auto": ("auto", "AutoModel"),
    "lookup": ("lookup", "LookupModel"),
    "memory": ("memory", "MemoryModel"),
    "roofline": ("roofline", "RooflineModel"),
    "transfer": ("transfer", "TransferModel"),
    "trees": ("trees", "TreesModel"),
}
"""Name in a file → module and class."""

SCHEMA_VERSION = 2
"""Of the JSON that `save` writes. 1 had the parameters at the top level, no noise and no range."""

FAR = 0.5
"""A total is far outside when it is beyond the fitted ones by more than this share of the largest of them."""

STRETCH_AT_MOST = 10.0
"""Factor by which an interval far outside is widened, at most."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a cost model says: never shown without its `~`.

    Attributes:
        value: in the unit of the fitted values.
        low: lower end of the 90 % interval, above 0.
        high: upper end of the 90 % interval.
        outside: what is far outside the fitted graphs: features, and operators written `operator NAME`. The interval is
            wider then; empty when nothing is.
    """

    value: float
    low: float
    high: float
    outside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.value <= self.high or not math.isfinite(self.high):
            raise ValueError(f"a prediction needs 0 < low <= value <= high < infinity: {self}")


class CostModel(ABC):
    """Learns a cost from measured graphs.

    >>> model = AdditiveModel().fit(graphs, latencies_ms)                     # doctest: +SKIP
    >>> model.predict(graph)                                                  # doctest: +SKIP
    Prediction(value=1.42, low=1.31, high=1.55)

    A new model is one file with a subclass, an entry in `_MODELS`, and passes `tests/contracts/test_cost_models.py`.
    """

    name: ClassVar[str]
    """Stands in the saved file."""

    min_samples: ClassVar[int]
    """Fewest measured graphs that `fit` takes."""

    source: ClassVar[Literal["predicted", "estimated"]] = "predicted"
    """What a reading of this model is called: `estimated` where nothing was measured."""

    @abstractmethod
    def fit(
        self, graphs: Sequence[Graph], values: Sequence[float], noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        """Learns from scratch; the same samples in the same order give the same model.

        Args:
            graphs: executed graphs, (n,).
            values: their measured costs, (n,), finite and above 0.
            noise: relative standard deviation of one measurement; 0 when it is not known.
            at_random: which samples were drawn at random and not by design, (n,): their errors tell how wide intervals
                must be; empty when it is not known.

        Raises:
            ValueError: fewer than `min_samples`, lengths differ, a value is not finite and above 0, different graphs
                all have the same value, or the noise is negative or not finite.
        """

    @abstractmethod
    def predict(self, graph: Graph) -> Prediction:
        """Predicts the cost of a graph, with its 90 % interval.

        Raises:
            ValueError: the model is not fitted.
        """

    def predict_many(self, graphs: Sequence[Graph]) -> list[Prediction]:
        """As `predict`, for many."""
        return [self.predict(graph) for graph in graphs]

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """All that `predict` needs, JSON-plain."""

    @classmethod
    @abstractmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
            DeviceError: a package that the model needs is missing.
        """

    def save(self, path: Path) -> None:
        """Writes a JSON file, aside first and then renamed. `Fitted.save` keeps the samples and the device, too.

        Raises:
            DiskError: it cannot be written.
        """
        write_json(path, {"model": self.name, "parameters": self.to_json()})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a file that `save` or `Fitted.save` wrote, of this schema or an older one. No code of it is run.

        Raises:
            DataError: it is missing, not JSON, of a newer schema or another model.
            DeviceError: a package that the model needs is missing.
        """
        data = read_json(path)
        try:
            if data["model"] != cls.name:
                raise ValueError(f"a '{data['model']}' model, not '{cls.name}'")
            return cls.from_json(data["parameters"])
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise DataError(f"{path}: not a cost model ({_reason(error)})") from None


@dataclass(frozen=True, slots=True)
class Range:
    """What the fitted graphs were like, to know what is far from them.

    Attributes:
        least: smallest total of each feature, (k,).
        most: largest total of each feature, (k,).
        operators: those whose multiply-adds are unknown and that were in a fitted graph.
    """

    least: tuple[float, ...] = ()
    most: tuple[float, ...] = ()
    operators: tuple[str, ...] = ()

    @classmethod
    def of(cls, x: Array, operators: Iterable[str] = ()) -> Range:
        """Of totals (n, k)."""
        return cls(tuple(x.min(axis=0).tolist()), tuple(x.max(axis=0).tolist()), tuple(sorted(set(operators))))

    def distances(self, x: Array) -> Array:
        """How far totals (m, k) are beyond the fitted ones, as shares of the largest fitted one; (m, k), 0 inside.

        A feature that no fitted graph has is at distance 1, wherever a graph has it: nothing is known of its cost.
        """
        import numpy as np

        if not self.most:  # a file of schema 1 does not tell
            return np.zeros_like(x, dtype=float)
        least, most = np.array(self.least), np.array(self.most)
        beyond = np.maximum(np.maximum(x - most, least - x), 0.0) / np.where(most > 0, most, 1.0)
        return np.where(most > 0, beyond, (x > 0).astype(float))

    def to_json(self) -> dict[str, Any]:
        return {"least": list(self.least), "most": list(self.most), "operators": list(self.operators)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], names: Sequence[str], features: Sequence[str]) -> Range:
        """Reads what `to_json` wrote for features of these names; later features were in none of its graphs.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """
        if not data["most"]:
            return cls()
        least, most = (aligned([finite(item) for item in data[end]], names, features) for end in ("least", "most"))
        return cls(tuple(least), tuple(most), tuple(map(str, data["operators"])))


class TotalsModel(CostModel):
    """A cost model that sees a graph only as its totals, see `features.py`.

    A subclass has `fit_totals` and `predict_totals`; the first ends with `self.range = Range.of(x)`.
    """

    features: ClassVar[tuple[str, ...]] = FEATURES
    """Names of the totals, in the order of `totals_of`."""

    def __init__(self) -> None:
        self.range = Range()
        """Of the fitted graphs."""

    @staticmethod
    def totals_of(graph: Graph) -> Array:
        """The totals of a graph, (k,), none negative."""
        return totals(graph)

    def fit(
        self, graphs: Sequence[Graph], values: Sequence[float], noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        import numpy as np

        check_samples(len(graphs), values, self.min_samples, noise)
        x = np.array([self.totals_of(graph) for graph in graphs])
        check_spread(x, values)
        self.fit_totals(x, values, noise, at_random)
        unknown = [op for graph in graphs for op in graph.uncounted]
        self.range = Range(self.range.least, self.range.most, tuple(sorted(set(unknown))))
        return self

    @abstractmethod
    def fit_totals(
        self, x: Array, values: Sequence[float] | Array, noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        """As `fit`, from the totals of the graphs, (n, k) in the order of `features`.

        Raises:
            ValueError: see `CostModel.fit`.
        """

    @abstractmethod
    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        """As `predict`, for many at once, and without a look at what is far outside (`predict_many` widens there).

        Args:
            x: totals of graphs, (m, k) in the order of `features`.

        Returns:
            Values, lower and upper ends of the 90 % intervals, each (m,).

        Raises:
            ValueError: the model is not fitted.
        """

    @property
    @abstractmethod
    def left_out_errors(self) -> list[float]:
        """log(measured / predicted) at every sample, (n,), predicted by costs that were fitted without it.

        Which of the few sets of features and penalties was taken is decided on all of them.

        Raises:
            ValueError: the model is not fitted.
        """

    @property
    def left_out_error(self) -> float:
        """Root mean square of `left_out_errors`, each counted as 1 at most.

        Raises:
            ValueError: the model is not fitted.
        """
        errors = self.left_out_errors
        return math.sqrt(sum(min(abs(error), 1.0) ** 2 for error in errors) / len(errors))

    def predict(self, graph: Graph) -> Prediction:
        return self.predict_many([graph])[0]

    @property
    def judged(self) -> tuple[str, ...]:
        """Features whose range says what is far outside: those that the predictions are made of."""
        return self.features

    def predict_widened(self, x: Array, unknown: Mask | None = None) -> tuple[Array, Array, Array, Mask]:
        """As `predict_totals`, with wider intervals for what is far outside the fitted graphs.

        Args:
            x: totals of graphs, (m, k).
            unknown: which graphs have operators of unknown work that no fitted graph had, (m,); none when left out.

        Returns:
            Values, lower and upper ends, each (m,); and which features are far outside, (m, k).

        Raises:
            ValueError: the model is not fitted.
        """
        import numpy as np

        value, low, high = self.predict_totals(x)
        beyond = self.range.distances(x) * np.isin(self.features, self.judged)
        far = beyond > FAR
        distance = np.where(far.any(axis=1), beyond.max(axis=1), 0.0)
        if unknown is not None:
            distance = np.maximum(distance, unknown)
        factor = np.minimum(1.0 + distance, STRETCH_AT_MOST)
        low = value / np.minimum((value / low) ** factor, 1e9)
        high = value * np.minimum((high / value) ** factor, 1e9)
        return value, low, high, far

    def predict_many(self, graphs: Sequence[Graph]) -> list[Prediction]:
        import numpy as np

        if not graphs:
            return []
        unknown = [[op for op in graph.uncounted if op not in self.range.operators] for graph in graphs]
        x = np.array([self.totals_of(graph) for graph in graphs])
        value, low, high, far = self.predict_widened(x, np.array([bool(ops) for ops in unknown]))
        told = []
        for place, ops in enumerate(unknown):
            outside = (*compress(self.features, far[place]), *(f"operator {op}" for op in ops))
            told.append(Prediction(float(value[place]), float(low[place]), float(high[place]), outside))
        return told


def model_names() -> tuple[str, ...]:
    """Names of all models, sorted."""
    return tuple(sorted(_MODELS))


def model_class(name: str) -> type[CostModel]:
    """Returns a model's class by its name.

    Raises:
        UsageError: there is none of that name.

    >>> model_class("additive").__name__
    'AdditiveModel'
    """
    if name not in _MODELS:
        raise UsageError(f"unknown cost model {quoted(str(name))}{did_you_mean(str(name), _MODELS)}")
    module, attribute = _MODELS[name]
    found: type[CostModel] = getattr(import_module(f".{module}", __package__), attribute)
    return found


def stretched(value: float, low: float, high: float, factor: float) -> tuple[float, float, float]:
    """Returns value, low and high with both ends so many times as far from the value, as logarithms.

    >>> stretched(1.0, 0.5, 2.0, 2.0)
    (1.0, 0.25, 4.0)
    """
    factor = min(factor, STRETCH_AT_MOST)
    down, up = (value / low) ** factor, (high / value) ** factor
    return value, value / min(down, 1e9), value * min(up, 1e9)


def write_json(path: Path, data: Mapping[str, Any], indent: int | None = None) -> None:
    """Writes a cost model's file with its schema version, aside first and then renamed.

    Raises:
        DiskError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps({"schema_version": SCHEMA_VERSION, **data}, allow_nan=False, indent=indent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise DiskError(f"{path}: cannot write the cost model ({error.strerror or error})") from error
    finally:
        if aside.exists():
            aside.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a cost model's file, brought into the form of this schema.

    Raises:
        DataError: it is missing, not JSON, or of a newer schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise TypeError("not an object")
        version = data["schema_version"]
        if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
            raise ValueError(f"schema_version {version!r}, this hwnas reads 1 to {SCHEMA_VERSION}")
        if version == 1:
            parameters = {key: value for key, value in data.items() if key not in ("schema_version", "model")}
            data = {"schema_version": SCHEMA_VERSION, "model": data["model"], "parameters": parameters}
        return data
    except OSError as error:
        raise DataError(f"{path}: not a cost model ({error.strerror or error})") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a cost model ({_reason(error)})") from None


def check_samples(count: int, values: Sequence[float], fewest: int, noise: float = 0.0) -> None:
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
    if not math.isfinite(noise) or noise < 0:
        raise ValueError(f"the noise must be a finite share of at least 0, not {noise!r}")


def check_spread(x: Array, values: Sequence[float]) -> None:
    """Refuses different networks (totals (n, k)) with one and the same cost: nothing can be learned from that.

    Raises:
        ValueError: the measured costs are all equal, and the networks are not.
    """
    if len(values) > 1 and min(values) == max(values) and (x != x[0]).any():
        raise ValueError(
            f"all {len(values)} measured costs are {values[0]:g}, although the networks differ: "
            "the clock or meter is too coarse for them, or it stands still"
        )


def aligned(costs: Sequence[float], names: Sequence[str], features: Sequence[str]) -> list[float]:
    """Costs by feature in the order of `features`; a feature that the file does not know costs nothing.

    Raises:
        ValueError: lengths differ, or there is a cost of a feature that is not known any more.
    """
    by_name = dict(zip(names, costs, strict=True))
    if lost := sorted(set(by_name) - set(features)):
        raise ValueError(f"fitted on other features: {', '.join(lost)}")
    return [by_name.get(name, 0.0) for name in features]


def finite(item: Any) -> float:
    """A finite number of a file.

    Raises:
        ValueError: it is none.
    """
    if isinstance(item, bool) or not isinstance(item, int | float) or not abs(item) < math.inf:
        raise ValueError(f"a finite number is needed, not {item!r}")
    try:
        return float(item)
    except OverflowError:
        raise ValueError("a number is too large") from None


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")
