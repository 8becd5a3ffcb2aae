"""Totals of very many architectures of a space at once: sums over parts, each looked up in an array.

The totals of a network are sums over its kernels, and which kernels a part of it has depends on few decisions and on
the layout that its input comes in. So each part's totals are worked out once, as the difference of two written graphs,
one with the part and one without; an architecture's are sums of entries of these tables. What comes out is checked
against `written_graph` on random architectures before it is used.

>>> table = space_totals(space)                                              # doctest: +SKIP
>>> choices = table.indices(architectures)                                   # doctest: +SKIP
>>> value, low, high, far = table.score(model, choices)                      # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..profilers.graph import Graph
from ..spaces import Architecture, ReplayChooser, Space, Value
from .features import totals
from .network import NoRule
from .space_graphs import written_graph
from .space_parts import PARTS, Measure, Written

if TYPE_CHECKING:
    import numpy as np

    from .model import TotalsModel

    Array = np.ndarray[Any, np.dtype[np.float64]]
    Mask = np.ndarray[Any, np.dtype[np.bool_]]
    Choices = np.ndarray[Any, np.dtype[np.int64]]

__all__ = ["SpaceTotals", "space_totals"]

CHECKED = 12
"""Random architectures on which the tables are checked."""

TOLERANCE = 1e-9
"""Largest relative difference there."""


@dataclass(frozen=True)
class _Table:
    """Totals that a part adds.

    Attributes:
        columns: of the choices that it depends on.
        strides: of these in `totals`.
        totals: (states, combinations, k): state of the layout before it, combination of choices.
        after: (states, combinations): state of the layout after it.
    """

    columns: tuple[int, ...]
    strides: tuple[int, ...]
    totals: Array
    after: Choices


class SpaceTotals:
    """Tables of a space; see `space_totals`.

    Attributes:
        knobs: decisions and their options; an architecture is a row of the options' places. A decision that an
            architecture does not make has place 0.
    """

    def __init__(self, space: Space, knobs: Mapping[str, tuple[Value, ...]], tables: Sequence[_Table]) -> None:
        self._space, self.knobs, self._tables = space, dict(knobs), tuple(tables)
        self._places = {name: {_key(option): i for i, option in enumerate(all_)} for name, all_ in knobs.items()}

    def indices(self, architectures: Sequence[Architecture]) -> Choices:
        """Returns the rows of architectures, (n, decisions).

        Raises:
            KeyError: a decision is none of the options.
        """
        import numpy as np

        rows = [
            [self._places[name][_key(made[name])] if name in made else 0 for name in self.knobs]
            for made in (architecture.as_dict() for architecture in architectures)
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, len(self.knobs))

    def architecture(self, row: Sequence[int]) -> Architecture:
        """Returns the architecture of a row; places of decisions that it does not make are ignored.

        Raises:
            IndexError: a place is out of range.
        """
        made = {name: options[int(place)] for (name, options), place in zip(self.knobs.items(), row, strict=True)}
        return self._space.decide(ReplayChooser(made, strict=False))

    def random(self, count: int, seed: int) -> Choices:
        """Returns random rows, (n, decisions), each option of a decision as likely as another."""
        import numpy as np

        most = [len(options) for options in self.knobs.values()]
        return np.random.default_rng(seed).integers(0, most, size=(count, len(most)))

    def totals(self, choices: Choices) -> Array:
        """Returns the totals of the graphs, (n, k), equal to those of their written graphs.

        Args:
            choices: rows, (n, decisions), each within the options.
        """
        import numpy as np

        state = np.zeros(len(choices), dtype=np.int64)
        x: Array | float = 0.0
        for table in self._tables:
            place = np.zeros(len(choices), dtype=np.int64)
            for column, stride in zip(table.columns, table.strides, strict=True):
                place += choices[:, column] * stride
            states, combinations, width = table.totals.shape
            if states > 1:
                place += state * combinations
            state = table.after.reshape(-1)[place]
            x = x + table.totals.reshape(-1, width)[place]
        return np.asarray(x)

    def score(self, model: TotalsModel, choices: Choices, rows: int = 8192) -> tuple[Array, Array, Array, Mask]:
        """Returns values, lower and upper ends of the intervals, each (n,), and which rows are far outside, (n,).

        Args:
            model: fitted on the same features; as its `predict` has it.
            choices: rows, (n, decisions).
            rows: how many are worked on at once, so that they stay in the processor's cache.
        """
        import numpy as np

        parts = [
            model.predict_widened(self.totals(choices[start : start + rows]))
            for start in range(0, max(len(choices), 1), rows)
        ]
        value, low, high, far = (np.concatenate(ends) for ends in zip(*parts, strict=True))
        return value, low, high, np.asarray(far.any(axis=1), bool)


def space_totals(
    space: Space,
    runtime: str = "onnxruntime",
    precision: str = "fp32",
    block: int | None = None,
    totals_of: Callable[[Graph], Array] = totals,
) -> SpaceTotals | None:
    """Works out the tables of a space.

    Args:
        space: narrowed as it is.
        runtime: see `written_graph`.
        precision: see `written_graph`.
        block: see `written_graph`.
        totals_of: totals of a graph, (k,): all of them sums over its kernels, or over its longest chain.

    Returns:
        None where there is no fast path, or the totals are not sums over parts (a maximum is none).
    """
    knobs = {name: domain.values() for name, domain in space.knobs().items()}
    write_parts = PARTS.get(type(space))
    written = Written.of(runtime, precision, block)
    if write_parts is None or written is None or any(not options for options in knobs.values()):
        return None
    options = {name: tuple(all_ or ()) for name, all_ in knobs.items()}
    measure = Measure(written, totals_of)
    try:
        table = SpaceTotals(space, options, list(_tables(write_parts(space, options, measure), options)))
    except NoRule:
        return None
    return (
        table
        if _agrees(table, space, lambda one: written_graph(space, one, runtime, precision, block), totals_of)
        else None
    )


def _tables(parts: Iterator[Any], options: Mapping[str, tuple[Value, ...]]) -> Iterator[_Table]:
    import numpy as np

    columns = {name: column for column, name in enumerate(options)}
    for part in parts:
        sizes = [len(options[name]) for name in part.knobs]
        strides = [math.prod(sizes[place + 1 :]) for place in range(len(sizes))]
        totals_, after = np.array(part.totals, dtype=np.float64), np.array(part.after, dtype=np.int64)
        yield _Table(tuple(columns[name] for name in part.knobs), tuple(strides), totals_, after)


def _agrees(
    table: SpaceTotals,
    space: Space,
    write: Callable[[Architecture], Graph | None],
    totals_of: Callable[[Graph], Array],
) -> bool:
    import numpy as np

    architectures = [space.random(f"check {seed}") for seed in range(CHECKED)]
    said = table.totals(table.indices(architectures))
    for row, architecture in zip(said, architectures, strict=True):
        graph = write(architecture)
        if graph is not None and not np.allclose(row, totals_of(graph), rtol=TOLERANCE, atol=TOLERANCE):
            return False
    return True


def _key(option: Value) -> tuple[str, Value]:
    """1, 1.0 and True are different options."""
    return type(option).__name__, option
