"""Which architectures to measure: those whose features tell the most, chosen before anything is measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

__all__ = ["d_optimal", "designed"]

AT_RANDOM = 0.4
"""Share of the samples that `designed` draws at random: with less, their errors do not tell how wide an interval is on
every single device (docs/cost_models.md)."""

_RIDGE = 1e-3
"""Added to the information matrix, so that fewer samples than features are possible."""
_ROUNDS = 20
"""Exchanges all over the design, at most."""


def d_optimal(features: Array | Sequence[Array], count: int, seed: int = 0, kept: Sequence[int] = ()) -> list[int]:
    """Chooses rows with a large determinant of their information matrix, det(X'X + ridge).

    Rows are whitened first, so that units and correlations of the features do not matter. A greedy choice from a random
    row on is improved by Fedorov's exchange: a chosen row for another while that enlarges the determinant (Fedorov,
    Theory of Optimal Experiments, 1972). Of several matrices, for several ways in which a device may execute the same
    candidates, the product of the determinants is enlarged.

    Args:
        features: (n, k), one row per candidate; finite. Or several such matrices, with the same candidates.
        count: rows to choose, 1 to n.
        seed: of the first row.
        kept: rows that are in the design already, and stay there.

    Returns:
        `count` different row numbers without those kept, ascending.

    Raises:
        ValueError: with those kept `count` is not from 1 to n, a feature is not finite, or the matrices have
            different rows.
    """
    import numpy as np

    several = features if isinstance(features, Sequence) else [features]
    matrices = [np.asarray(matrix, float) for matrix in several]
    if not matrices or any(x.ndim != 2 or not np.isfinite(x).all() for x in matrices):
        raise ValueError("features must be a finite matrix (n, k)")
    rows = len(matrices[0])
    if any(len(x) != rows for x in matrices):
        raise ValueError("the matrices of features have different numbers of candidates")
    if not 1 <= count <= rows - len(kept):
        raise ValueError(f"cannot choose {count} of {rows - len(kept)}")
    designs = [_Design(_whitened(x)) for x in matrices]
    chosen: list[int] = []

    def change(row: int, sign: float) -> None:
        for design in designs:
            design.change(row, sign)

    def best() -> tuple[int, Array]:
        gains = np.sum([design.gains() for design in designs], axis=0)
        gains[[*chosen, *kept]] = -1.0
        return int(gains.argmax()), gains

    for row in kept:
        change(row, 1.0)
    for place in range(count):
        chosen.append(best()[0] if place or kept else random.Random(seed).randrange(rows))
        change(chosen[-1], 1.0)
    for _ in range(_ROUNDS):
        changed = False
        for place in range(count):
            old = chosen.pop(place)
            change(old, -1.0)
            new, gains = best()
            if gains[new] <= gains[old] + 1e-6:
                new = old
            chosen.insert(place, new)
            change(new, 1.0)
            changed = changed or new != old
        if not changed:
            break
    return sorted(chosen)


def designed(
    features: Array | Sequence[Array],
    count: int,
    seed: int = 0,
    at_random: float = AT_RANDOM,
    kept: Sequence[int] = (),
) -> list[int]:
    """Chooses rows at random and others by D-optimality: ordinary rows tell the errors, extreme ones the costs.

    The random ones are drawn first, and the design adds to them what they do not tell.

    Args:
        features: as `d_optimal`.
        count: rows to choose, 1 to n.
        seed: of both choices.
        at_random: share of the rows that is drawn at random.
        kept: as `d_optimal`.

    Returns:
        `count` different row numbers without those kept: those by design first, each part ascending.

    Raises:
        ValueError: as `d_optimal`, or the share is not from 0 to 1.
    """
    if not 0 <= at_random <= 1:
        raise ValueError(f"the share at random must be from 0 to 1, not {at_random}")
    first = features[0] if isinstance(features, Sequence) and features else features
    rest = sorted(set(range(len(first))) - set(kept))
    if not 1 <= count <= len(rest):
        raise ValueError(f"cannot choose {count} of {len(rest)}")
    drawn = sorted(random.Random(seed).sample(rest, round(count * at_random)))
    if len(drawn) == count:
        return drawn
    return d_optimal(features, count - len(drawn), seed, [*kept, *drawn]) + drawn


class _Design:
    """Rows taken into an information matrix and out of it.

    Args:
        rows: (n, k), whitened.
    """

    def __init__(self, rows: Array) -> None:
        import numpy as np

        self._rows = rows
        self._inverse: Array = np.eye(rows.shape[1]) / _RIDGE

    def gains(self) -> Array:
        """By how much the logarithm of the determinant would grow, for every row; (n,)."""
        import numpy as np

        gains: Array = np.log1p(np.einsum("ij,ij->i", self._rows @ self._inverse, self._rows))
        return gains

    def change(self, row: int, sign: float) -> None:
        """Takes a row in (1) or out (-1), by the formula of Sherman and Morrison."""
        import numpy as np

        y = self._inverse @ self._rows[row]
        self._inverse = self._inverse - sign * np.outer(y, y) / (1 + sign * float(self._rows[row] @ y))


def _whitened(x: Array) -> Array:
    """Rows in coordinates with the identity as their second moment; directions without spread are left out."""
    import numpy as np

    scale = np.sqrt((x**2).mean(axis=0))
    x = x / np.where(scale > 0, scale, 1.0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    kept = s > 1e-6 * max(float(s[0]), 1e-300)
    white: Array = u[:, kept] * np.sqrt(len(x))
    return white
