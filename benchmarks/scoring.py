"""Architectures scored a second of one core's time: by tables, one graph at a time, and from a module each time.

Fits the additive model on random architectures of each space (with made-up latencies: only the time to predict is
measured), then predicts by

- tables: `space_totals`, values with intervals, a whole array at once;
- written: `written_graph` and `predict`, one architecture after the other;
- exported: the module built, exported, loaded by onnxruntime, its executed graph read, predicted: what a predictor must
  do that takes a model and knows nothing of spaces (as nn-Meter, Zhang et al., MobiSys 2021, does).

The three must say the same, or it ends with 1. Times are the process's own, so that others' work counts little.

    python benchmarks/scoring.py --seed 0
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.cost_models import AdditiveModel, totals
from hwnas.cost_models.space_graphs import written_graph
from hwnas.cost_models.space_totals import space_totals
from hwnas.profilers import Graph, get_runtime
from hwnas.spaces import Architecture, Space, load_space

SPACES: dict[str, dict[str, Any]] = {
    "mobile 1x8x8": {"use": "mobile", "input_shape": (1, 8, 8), "num_classes": 10},
    "mobile 3x32x32": {"use": "mobile", "input_shape": (3, 32, 32), "num_classes": 10},
    "fbnet 3x32x32": {"use": "fbnet"},
    "nasbench201 3x32x32": {
        "use": "nasbench201",
        "params": {"edge01": ["none", "nor_conv_3x3"], "edge12": "skip_connect"},
    },
}
"""What is scored; `nasbench201` narrowed, as its tables take a minute in full."""

SAMPLES = 10
WRITTEN, EXPORTED = 50, 5
TOLERANCE = 1e-9


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of architectures and latencies (default 0)")
    parser.add_argument("--count", type=int, default=500_000, help="architectures scored by tables (default 500000)")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [
        {"space": name, **_of_space(load_space(**what), options.seed, options.count)} for name, what in SPACES.items()
    ]
    print(_table(rows))
    if options.json is not None:
        data = {"schema_version": 1, "seed": options.seed, "spaces": rows}
        options.json.write_text(json.dumps(data, indent=1), encoding="utf-8")
    return 0 if all(row["largest_difference"] <= TOLERANCE for row in rows) else 1


def _of_space(space: Space, seed: int, count: int) -> dict[str, Any]:
    made, table = _timed(lambda: space_totals(space))
    if table is None:
        raise SystemExit(f"{space}: no tables on this processor")
    architectures = _distinct(space, seed)
    choices = table.indices(architectures)
    x = table.totals(choices)
    costs = np.random.default_rng(seed).uniform(0.5, 1.5, x.shape[1]) / x.mean(axis=0).clip(1)
    noise = np.random.default_rng(seed + 1).normal(1, 0.02, SAMPLES)
    model = AdditiveModel().fit_totals(x[:SAMPLES], (x[:SAMPLES] @ costs) * noise)
    many = table.random(count, seed)
    totals_s, _ = _timed(lambda: [table.totals(many[start : start + 8192]) for start in range(0, count, 8192)])
    tables_s, _ = _timed(lambda: table.score(model, many))
    written_s, said = _timed(lambda: [model.predict(_written(space, one)).value for one in architectures[:WRITTEN]])
    with tempfile.TemporaryDirectory(prefix="hwnas-scoring-") as folder:
        _exported(space, architectures[0], Path(folder))  # the first time imports and starts much
        exported_s, told = _timed(
            lambda: [model.predict(_exported(space, one, Path(folder))).value for one in architectures[:EXPORTED]]
        )
    values = table.score(model, choices)[0]
    off = max(np.abs(values[: len(some)] / np.array(some) - 1).max() for some in (said, told))
    return {
        "tables_s": made,
        "totals_per_s": count / totals_s,
        "tables_per_s": count / tables_s,
        "written_per_s": WRITTEN / written_s,
        "exported_per_s": EXPORTED / exported_s,
        "largest_difference": float(off),
    }


def _distinct(space: Space, seed: int) -> list[Architecture]:
    """Random architectures that are no constant."""
    found: list[Architecture] = []
    for number in range(10 * WRITTEN):
        architecture = space.random(f"{seed} {number}")
        graph = written_graph(space, architecture)
        if graph is not None and totals(graph).any():
            found.append(architecture)
        if len(found) == WRITTEN:
            break
    return found


def _written(space: Space, architecture: Architecture) -> Graph:
    graph = written_graph(space, architecture)
    assert graph is not None
    return graph


def _exported(space: Space, architecture: Architecture, folder: Path) -> Graph:
    runtime, path = get_runtime("onnxruntime"), folder / "net.onnx"
    runtime.convert(space.build(architecture), torch.zeros(1, *space.input_of(architecture)), path)
    return runtime.executed_graph(path)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = call()
    return time.process_time() - start, result


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "architectures a second     tables   of these totals   written   exported   largest difference   tables made"
    ]
    lines += [
        f"{row['space']:<21}{row['tables_per_s']:>12,.0f}{row['totals_per_s']:>18,.0f}{row['written_per_s']:>10,.0f}"
        f"{row['exported_per_s']:>11,.1f}{row['largest_difference']:>21.1e}{row['tables_s']:>12.1f} s"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
