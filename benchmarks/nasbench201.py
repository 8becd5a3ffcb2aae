"""Whether the space `nasbench201` is the benchmark's: strings, weights and multiply-adds of all cells against a table.

    python benchmarks/nasbench201.py nb201_accuracy.parquet

The table has the columns `arch`, `params` and `mmacs` (of 32 x 32 images, millions), one row per cell. Weights and
multiply-adds of a cell are sums over its edges, so those of all cells follow from five networks, one per operation;
`--sample` networks more are built and counted themselves. Published multiply-adds count each bias of a classifier of 10
classes as one, here a bias is none: so many are added before the comparison. Exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hwnas.profilers import computed_metrics
from hwnas.profilers.computed import Computed
from hwnas.spaces import Cell, NasBench201
from hwnas.spaces.nasbench201 import OPERATIONS

BIASES = 10


def counted(space: NasBench201, text: str) -> Computed:
    with torch.device("meta"):
        return computed_metrics(space.build(space.from_string(text)), space.input_shape)


class Additive:
    """Weights and multiply-adds of any cell, from networks whose six edges are all the same."""

    def __init__(self, space: NasBench201) -> None:
        same = {name: counted(space, str(Cell((name,) * 6))) for name in OPERATIONS}
        none = same["none"]
        self._skeleton = none["params"], none["macs"]
        self._edge = {
            name: ((one["params"] - none["params"]) // 6, (one["macs"] - none["macs"]) // 6)
            for name, one in same.items()
        }

    def __call__(self, cell: Cell) -> tuple[int, int]:
        edges = [self._edge[operation] for operation in cell.operations]
        params, macs = self._skeleton
        return params + sum(edge[0] for edge in edges), macs + sum(edge[1] for edge in edges)


def compare(table: pd.DataFrame, classes: int, sample: int, seed: int) -> list[dict[str, Any]]:
    """Returns a row per check: how many cells, and how many of them agree."""
    space = NasBench201(num_classes=classes)
    additive, cells = Additive(space), [Cell.parse(text) for text in table["arch"]]
    pairs = [additive(cell) for cell in cells]
    macs = (table["mmacs"] * 1e6).round().astype(int) - BIASES
    drawn = random.Random(seed).sample(range(len(cells)), min(sample, len(cells)))
    built = {place: counted(space, str(cells[place])) for place in drawn}
    agree = {
        "strings": [str(cell) == text for cell, text in zip(cells, table["arch"], strict=True)],
        "different strings": [not again for again in table["arch"].duplicated()],
        "params": [pair[0] == value for pair, value in zip(pairs, table["params"], strict=True)],
        "macs": [pair[1] == value for pair, value in zip(pairs, macs, strict=True)],
        "params, built": [one["params"] == table["params"][place] for place, one in built.items()],
        "macs, built": [one["macs"] == macs[place] for place, one in built.items()],
    }
    return [{"check": name, "cells": len(values), "agree": sum(values)} for name, values in agree.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="parquet with the columns arch, params and mmacs")
    parser.add_argument("--classes", type=int, default=100, help="classes of the table's networks (default: 100)")
    parser.add_argument("--sample", type=int, default=100, help="cells to build and count (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="chooses them")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    rows = compare(pd.read_parquet(options.table), options.classes, options.sample, options.seed)
    print(f"{'check':20} {'cells':>7} {'agree':>7}")
    for row in rows:
        print(f"{row['check']:20} {row['cells']:7d} {row['agree']:7d}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(any(row["agree"] != row["cells"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
