"""Fusions inferred from times, against what the runtime tells of the same chains.

A pair counts as fused when the runtime's own graph has, per link, less than half a kernel more with the second operator
than without. A chain is measured in several turns; its latency is the shortest inference of all, its error how far the
shortest of the next best turn is from it.

    python benchmarks/probe_fusion.py --runtime onnxruntime
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hwnas.cost_models.probe_fusion import CHAINS, LENGTH, FusionTable
from hwnas.profilers import LocalProfiler
from hwnas.search.fusions import chain_files, chain_times, infer

LINKS = {
    "Conv BatchNormalization": ("conv", "bn"),
    "Conv Relu": ("conv", "relu"),
    "Conv HardSwish": ("conv", "hswish"),
    "Conv Swish": ("conv", "swish"),
    "Conv Add": ("conv", "add"),
    "Conv+Add Relu": ("conv add", "relu"),
    "DepthwiseConv Relu": ("dwconv", "relu"),
    "DepthwiseConv Conv": ("dwconv", "conv"),
}
"""Pair → links before, and the link that is added."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code: 1 when a pair was decided wrongly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runtime", default="onnxruntime", help="(default onnxruntime)")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each chain (default 5)")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hwnas-probe-") as folder:
        files = chain_files(options.runtime, "fp32", Path(folder))
        with LocalProfiler(options.runtime, budget_s=0.3, attempts=1) as profiler:
            table = infer(chain_times(profiler, files, options.turns))
            kernels = {text: len(profiler.graph(path).nodes) for text, path in files.items()}
    truth = {pair: kernels[f"{a} {b}"] - kernels[a] < LENGTH / 2 for pair, (a, b) in LINKS.items()}
    rows = [{**pair, "told": truth[f"{pair['first']} {pair['second']}"]} for pair in table.to_json()["pairs"]]
    seconds = time.perf_counter() - begun
    print(_text(rows, table, options.runtime, seconds))
    if options.json is not None:
        data = {"schema_version": 1, "runtime": options.runtime, "turns": options.turns, "pairs": rows}
        options.json.write_text(json.dumps({**data, "seconds": seconds}, indent=1), encoding="utf-8")
    return 1 if any(row["fused"] not in (None, row["told"]) for row in rows) else 0


def _text(rows: list[dict[str, object]], table: FusionTable, runtime: str, seconds: float) -> str:
    said = {True: "fused", False: "not", None: "open"}
    lines = [
        f"{runtime}: {len(CHAINS)} chains, {seconds:.0f} s",
        "pair                           share  error  inferred  told",
    ]
    for row, pair in zip(rows, table.pairs, strict=True):
        name = f"{pair.first} {pair.second}"
        told = said[bool(row["told"])]
        lines.append(f"{name:<29}{pair.share:>7.2f}{pair.error:>7.2f}  {said[pair.fused]:<9} {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
