"""Pareto code on plain arrays; every objective is minimised (negate those to maximise).

>>> import numpy as np
>>> nondominated(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 3.0]])).tolist()
[True, True, False]
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "Ints", "crowding", "hypervolume", "knee", "nondominated", "ranks"]

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]


def _table(values: npt.ArrayLike) -> Floats:
    """Returns values as a finite (n, m) array.

    Raises:
        ValueError: it is not two-dimensional, has no column, or holds a value that is not finite.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"expected an (n, m) array with m >= 1, got shape {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("values must be finite: leave out what has no value")
    return table


def nondominated(values: npt.ArrayLike) -> Bools:
    """Marks the points that no other point dominates.

    A point dominates another when it is nowhere worse and somewhere better, so equal points do not dominate each other.

    Args:
        values: (n, m), minimised.

    Returns:
        (n,) mask.

    Raises:
        ValueError: values are not an (n, m) table of finite numbers.
    """
    table = _table(values)
    unique, inverse = np.unique(table, axis=0, return_inverse=True)
    # In lexicographic order only an earlier point can dominate a later one, and the front so far is enough to tell.
    keep = np.zeros(len(unique), dtype=bool)
    front = np.empty_like(unique)
    size = 0
    for index, point in enumerate(unique):
        if not (front[:size] <= point).all(axis=1).any():
            keep[index] = True
            front[size] = point
            size += 1
    return np.asarray(keep[inverse.reshape(-1)], dtype=np.bool_)


def ranks(values: npt.ArrayLike) -> Ints:
    """Returns the non-domination rank of each point: 0 for the front, 1 for the front without it, and so on.

    Args:
        values: (n, m), minimised.

    Returns:
        (n,) ranks.
    """
    table = _table(values)
    rank = np.full(len(table), -1, dtype=np.int64)
    level = 0
    left = np.arange(len(table))
    while len(left):
        front = nondominated(table[left])
        rank[left[front]] = level
        left = left[~front]
        level += 1
    return rank


def crowding(values: npt.ArrayLike) -> Floats:
    """Returns the crowding distance of each point among the others (Deb et al. 2002, NSGA-II, section III-B).

    Per objective, the gap between both neighbours over the range; infinite at both ends. Equal values share one gap, so
    that the answer does not depend on the order of the rows.

    Args:
        values: (n, m), all of one rank.

    Returns:
        (n,) distances.
    """
    table = _table(values)
    distance = np.zeros(len(table))
    for column in table.T:
        levels, place = np.unique(column, return_inverse=True)
        if len(levels) < 2:
            continue
        gaps = np.full(len(levels), np.inf)
        gaps[1:-1] = (levels[2:] - levels[:-2]) / (levels[-1] - levels[0])
        distance += gaps[place.reshape(-1)]
    return distance


def hypervolume(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Returns the volume that the points dominate up to the reference point.

    Exact: own code for one and two objectives, moocore's for more (Guerreiro and Fonseca 2018, HV4D+).

    Args:
        values: (n, m), minimised.
        reference: (m,), the worst point that still counts; points not better than it in every objective add nothing.

    Raises:
        ValueError: shapes do not match, or a value is not finite.
    """
    table = _table(values)
    corner = _table(np.atleast_2d(np.asarray(reference, dtype=np.float64)))[0]
    if corner.shape != (table.shape[1],):
        raise ValueError(f"the reference has {corner.size} values for {table.shape[1]} objectives")
    inside = table[(table < corner).all(axis=1)]
    if not len(inside):
        return 0.0
    if table.shape[1] == 1:
        return float(corner[0] - inside.min())
    if table.shape[1] == 2:
        return _area(inside, corner)
    import moocore

    return float(moocore.hypervolume(inside, ref=corner))


def _area(points: Floats, corner: Floats) -> float:
    """Adds up the steps of a staircase of (n, 2) points inside the corner."""
    ordered = points[np.lexsort((points[:, 1], points[:, 0]))]
    best = np.minimum.accumulate(ordered[:, 1])
    ends = np.append(ordered[1:, 0], corner[0])
    return float(((ends - ordered[:, 0]) * (corner[1] - best)).sum())


def knee(values: npt.ArrayLike) -> int | None:
    """Finds the point of the front where giving up a little of one objective stops buying much of another.

    Each objective is scaled to [0, 1] over the front; the knee is the point farthest below the hyperplane of equal
    sums, for two objectives the chord between both ends (Das 1999, On characterizing the "knee" of the Pareto curve).

    Args:
        values: (n, m), minimised; dominated points are ignored.

    Returns:
        The row of the knee (the first of equal ones), or None when the front has fewer than three different points or
        does not bulge towards the better side.
    """
    table = _table(values)
    if not len(table):
        return None
    front = np.flatnonzero(nondominated(table))
    points = table[front]
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    moving = span > 0
    if len(np.unique(points, axis=0)) < 3 or moving.sum() < 2:
        return None
    scaled = (points[:, moving] - low[moving]) / span[moving]
    sums = np.round(scaled.sum(axis=1), 9)  # rounding keeps ties ties after a change of unit
    if sums.min() >= moving.sum() - 1:
        return None
    tied = np.flatnonzero(sums == sums.min())
    first = tied[np.lexsort(points[tied].T[::-1])[0]]
    return int(front[first])
