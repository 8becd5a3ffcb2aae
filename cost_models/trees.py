"""Gradient-boosted trees on what the additive model leaves over: for hundreds of measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ..spaces.errors import DeviceError
from .additive import AdditiveModel
from .intervals import half_width, ordinary
from .left_out import around, folds, log_cost, squared
from .model import Range, TotalsModel, aligned, check_samples, finite

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Places = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["TreesModel", "installed"]

_Node = tuple[int, float, int, int]
"""Feature or -1, limit or value, left, right."""

INSTALL = "pip install 'hwnas[trees]'"

ROUNDS = (0, 10, 20, 40, 80, 160)
"""Numbers of trees that are tried; the one with the least error at left-out samples is kept."""

FOLDS = 5
"""Ensembles for the errors at left-out samples."""

CHUNK = 2000
"""Graphs predicted at once: bounds the memory."""

_OPTIONS = {
    "objective": "regression",
    "learning_rate": 0.05,
    "num_leaves": 8,
    "min_data_in_leaf": 5,
    "lambda_l2": 1.0,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 0,
    "verbosity": -1,
}


def installed() -> bool:
    """True when LightGBM is there. It is not imported."""
    return find_spec("lightgbm") is not None


class TreesModel(TotalsModel):
    """Additive costs times exp(trees), by LightGBM (Ke et al., LightGBM, NeurIPS 2017).

    Trees alone are constant beyond the samples and need hundreds of them to learn that costs add up; so they learn the
    logarithm of measured / additive, the latter fitted without the sample. How many trees, possibly none, is chosen at
    left-out samples, whose errors tell how wide the intervals are. Saved as arrays and evaluated here: LightGBM is
    needed to fit only, and its parser, which ends the process on a damaged text (4.7), never sees a file.
    """

    name: ClassVar[str] = "trees"
    min_samples: ClassVar[int] = 50

    def __init__(self) -> None:
        super().__init__()
        self._all: _Ensemble | None = None
        self._errors: list[float] = []
        self._wide = 0.0
        """Half-width of the intervals, as a logarithm."""

    def fit_totals(
        self, x: Array, values: Sequence[float] | Array, noise: float = 0.0, at_random: Sequence[bool] = ()
    ) -> Self:
        import numpy as np

        y = np.array(values, dtype=float)
        check_samples(len(x), y.tolist(), self.min_samples, noise)
        self.range = Range.of(x)
        errors = {rounds: np.zeros(len(y)) for rounds in ROUNDS}
        left_out = folds(len(y), FOLDS)
        for out in left_out:
            part = _Ensemble.fit(x[~out], y[~out])
            for rounds in ROUNDS:
                errors[rounds][out] = np.log(y[out]) - part.first(rounds).predict(x[out])
        self._errors = [0.0] * len(y)
        for out in left_out:  # the number of trees, too, is chosen without the fold
            best = _best({rounds: error[~out] for rounds, error in errors.items()})
            for place in np.flatnonzero(out):
                self._errors[place] = float(errors[best][place])
        self._all = _Ensemble.fit(x, y).first(_best(errors))
        self._wide = half_width(ordinary(self._errors, at_random), noise)
        return self

    def predict_totals(self, x: Array) -> tuple[Array, Array, Array]:
        import numpy as np

        if self._all is None:
            raise ValueError("the cost model is not fitted")
        if len(x) > CHUNK:
            told = [self.predict_totals(x[start : start + CHUNK]) for start in range(0, len(x), CHUNK)]
            value, low, high = (np.concatenate(parts) for parts in zip(*told, strict=True))
            return value, low, high
        value = np.exp(self._all.predict(x))
        return value, *around(value, self._wide)

    @property
    def left_out_errors(self) -> list[float]:
        if self._all is None:
            raise ValueError("the cost model is not fitted")
        return list(self._errors)

    def to_json(self) -> dict[str, Any]:
        if self._all is None:
            raise ValueError("the cost model is not fitted")
        return {
            "features": list(self.features),
            "all": self._all.to_json(),
            "errors": self._errors,
            "wide": self._wide,
            "range": self.range.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        model, names = cls(), tuple(data["features"])
        model._all = _Ensemble.from_json(data["all"], names, cls.features)
        model._errors, model._wide = [finite(item) for item in data["errors"]], finite(data["wide"])
        model.range = Range.from_json(data["range"], names, cls.features)
        if len(model._errors) < cls.min_samples or model._wide < 0:
            raise ValueError("too few samples")
        return model


@dataclass(frozen=True)
class _Ensemble:
    """Costs and trees, fitted on the same samples.

    Attributes:
        costs: per unit of each feature, (k,).
        features: of each node, the feature that it splits on; -1 for a leaf.
        limits: of each node, the largest value that goes left; of a leaf, what it adds.
        children: of each node, the places of its left and right child, both after it; 0 for a leaf. (nodes, 2)
        roots: places of the trees' first nodes.
    """

    costs: Array
    features: Places
    limits: Array
    children: Places
    roots: Places

    @classmethod
    def fit(cls, x: Array, y: Array) -> _Ensemble:
        import numpy as np

        lightgbm, base = _lightgbm(), AdditiveModel().choose(x, y)
        residuals = np.zeros(len(y))
        for out in folds(len(y), 10):
            residuals[out] = np.log(y[out]) - log_cost(x[out], base.solve(x[~out], y[~out]))
        booster = lightgbm.train(_OPTIONS, lightgbm.Dataset(x, residuals), ROUNDS[-1])
        nodes: list[_Node] = []
        roots = [_flatten(tree["tree_structure"], nodes) for tree in booster.dump_model()["tree_info"]]
        features, limits, left, right = zip(*nodes, strict=True)
        children = np.array([left, right]).T
        return cls(base.solve(x, y), np.array(features), np.array(limits), children, np.array(roots))

    def first(self, count: int) -> _Ensemble:
        """With the first so many trees."""
        end = int(self.roots[count]) if count < len(self.roots) else len(self.limits)
        return _Ensemble(self.costs, self.features[:end], self.limits[:end], self.children[:end], self.roots[:count])

    def predict(self, x: Array) -> Array:
        """Logarithms of the costs, (m,)."""
        import numpy as np

        rows = np.arange(len(x))[:, None]
        places = np.tile(self.roots, (len(x), 1))
        while (splits := self.features[places] >= 0).any():
            right = x[rows, self.features[places]] > self.limits[places]
            places = np.where(splits, self.children[places, right.astype(int)], places)
        found: Array = log_cost(x, self.costs) + self.limits[places].sum(axis=1)
        return found

    def to_json(self) -> dict[str, Any]:
        return {key: array.tolist() for key, array in vars(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], names: Sequence[str], known: Sequence[str]) -> _Ensemble:
        import numpy as np

        costs = np.array(aligned([finite(item) for item in data["costs"]], names, known))
        limits = np.array([finite(item) for item in data["limits"]])
        features, children, roots = (np.array(data[key], int) for key in ("features", "children", "roots"))
        children = children.reshape(-1, 2)
        count = len(limits)
        if features.shape != (count,) or children.shape != (count, 2) or roots.ndim != 1 or (costs < 0).any():
            raise ValueError("trees whose parts do not fit together")
        splits = features >= 0
        onwards = (children > np.arange(count)[:, None]).all(axis=1) & (children < count).all(axis=1)
        if (
            not (onwards | ~splits).all()
            or (features >= len(names)).any()
            or not ((roots >= 0) & (roots < count)).all()
        ):
            raise ValueError("trees that lead nowhere")
        ours = np.array([*(list(known).index(name) for name in names), -1])
        return cls(costs, ours[np.where(splits, features, -1)], limits, children, roots)


def _best(errors: Mapping[int, Array]) -> int:
    """The number of trees with the least squared error."""
    return min(errors, key=lambda rounds: float(squared(errors[rounds]).mean()))


def _flatten(tree: Mapping[str, Any], nodes: list[_Node]) -> int:
    """Appends LightGBM's nested tree to the nodes; returns the place of its root."""
    place = len(nodes)
    if "split_feature" not in tree:
        nodes.append((-1, float(tree["leaf_value"]), 0, 0))
        return place
    if tree["decision_type"] != "<=":
        raise ValueError(f"a split of the kind {tree['decision_type']!r}")
    nodes.append((-1, 0.0, 0, 0))
    left, right = (_flatten(tree[child], nodes) for child in ("left_child", "right_child"))
    nodes[place] = (int(tree["split_feature"]), float(tree["threshold"]), left, right)
    return place


def _lightgbm() -> Any:
    """LightGBM's module.

    Raises:
        DeviceError: it is missing; the message says how to install it.
    """
    if not installed():
        raise DeviceError(f"cost model 'trees' needs a package that is missing (lightgbm): {INSTALL}")
    return import_module("lightgbm")
