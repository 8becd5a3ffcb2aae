"""How well does a cost model, fitted on a few networks of `mobile`, predict networks of other families?

Draws networks of `mobile` and takes those of `families.py`, measures each twice on this machine (two passes, the second
in another order), chooses ten of `mobile` by design before anything is known of their latency, fits on these, and
predicts the others and all families. Prints per family the mean absolute percentage error, the shares within 10 and
20 %, the share that the 90 % intervals held, the share that the model itself flagged as far from what it was fitted on,
and the noise floor: the mean difference between the two passes. `designs` is the mean over
other choices of the ten.

    python benchmarks/crossfamily.py --seed 0
    python benchmarks/crossfamily.py --json rows.json
    python benchmarks/crossfamily.py --reuse rows.json --samples 6
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from families import families
from measured import drawn, measured_twice

from hwnas.cost_models import AdditiveModel, totals
from hwnas.cost_models.features import DESIGNED_ON
from hwnas.cost_models.sampling import AT_RANDOM, designed
from hwnas.profilers import Graph, conditions, fingerprint
from hwnas.profilers.fingerprint import used_shares

Row = dict[str, Any]
Array = np.ndarray[Any, Any]

SPACE = "mobile"
INPUT = (3, 32, 32)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, fits, predicts and prints."""
    options = _options(argv)
    before, start = conditions(), time.monotonic()
    if options.reuse is not None:
        earlier = json.loads(options.reuse.read_text(encoding="utf-8"))
        rows, raw, told = earlier["networks"], earlier["measurements"], earlier["machine"]
    else:
        networks = [*drawn(SPACE, INPUT, options.pool, options.seed), *families()]
        rows, raw = [], []
        for precision in options.precisions.split(","):
            how = {"threads": options.threads, "attempts": options.attempts, "rounds": options.rounds}
            found = measured_twice(networks, precision, options.seed, **how)
            rows += found[0]
            raw += [{"precision": precision, **item} for item in found[1]]
        told = used_shares(before, conditions())
    tables = {}
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = [row for row in rows if row["precision"] == precision]
        tables[precision] = _evaluate(own, options)
        _print(precision, tables[precision], own, options)
    noisy = sum(row[f"quality_{pass_}"] == "noisy" for row in rows for pass_ in (1, 2))
    print(
        f"{noisy} of {2 * len(rows)} measurements noisy; machine busy {told['busy']:.0%}, stolen {told['steal']:.1%}, "
        f"load {os.getloadavg()[0]:.2f}; {time.monotonic() - start:.0f} s"
    )
    if options.json is not None:
        data = {
            "schema_version": 1,
            "options": {key: str(value) for key, value in vars(options).items()},
            "fingerprint": fingerprint(),
            "machine": told,
            "tables": tables,
            "networks": rows,
            "measurements": raw,
        }
        options.json.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the networks and of the design (default: 0)")
    parser.add_argument("--samples", type=int, default=10, help="networks of `mobile` to fit on (default: 10)")
    parser.add_argument("--pool", type=int, default=40, help="networks of `mobile` to measure (default: 40)")
    parser.add_argument("--designs", type=int, default=20, help="other choices of the samples (default: 20)")
    parser.add_argument("--precisions", default="fp32,int8", help="comma separated (default: fp32,int8)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference (default: 1)")
    parser.add_argument("--attempts", type=int, default=3, help="tries for a quiet measurement (default: 3)")
    parser.add_argument("--rounds", type=int, default=1, help="later tries of noisy measurements (default: 1)")
    parser.add_argument("--json", type=Path, help="file for the rows, the graphs and every raw sample")
    parser.add_argument("--reuse", type=Path, help="evaluate the measurements of an earlier --json, measure nothing")
    return parser.parse_args(argv)


def _evaluate(rows: list[Row], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Family → its figures; `designs` and `all families` are means."""
    graphs = [Graph.from_json(row["graph"]) for row in rows]
    x = np.array([totals(graph) for graph in graphs])
    first, second = (np.array([row[f"ms_{pass_}"] for row in rows]) for pass_ in (1, 2))
    pool = np.array([place for place, row in enumerate(rows) if row["family"] == SPACE])
    table: dict[str, dict[str, float]] = {}
    over: list[list[dict[str, float]]] = []
    for seed in range(options.seed, options.seed + options.designs + 1):
        fit = pool[designed(x[pool][:, DESIGNED_ON], options.samples, seed)]
        marks = [place >= len(fit) - round(len(fit) * AT_RANDOM) for place in range(len(fit))]  # drawn ones come last
        model = AdditiveModel().fit_totals(x[fit], first[fit], at_random=marks)
        said = model.predict_many(graphs)
        parts = {f"{SPACE}, others": [int(place) for place in pool if place not in fit]}
        for place, row in enumerate(rows):
            if row["family"] != SPACE:
                parts.setdefault(row["family"], []).append(place)
        families_ = [place for places in list(parts.values())[1:] for place in places]
        told = {name: _figures(said, first, second, places) for name, places in parts.items()}
        told["all families"] = _figures(said, first, second, families_)
        if seed == options.seed:
            table = told
        else:
            over.append([told[f"{SPACE}, others"], told["all families"]])
    for place, name in enumerate(("designs: mobile", "designs: families")):
        if over:
            table[name] = {key: float(np.mean([one[place][key] for one in over])) for key in over[0][place]}
    return table


def _figures(said: Sequence[Any], first: Array, second: Array, places: list[int]) -> dict[str, float]:
    value = np.array([said[place].value for place in places])
    error = np.abs(value / first[places] - 1)
    held = [said[place].low <= first[place] <= said[place].high for place in places]
    return {
        "n": float(len(places)),
        "MAPE": float(error.mean()),
        "within 10 %": float(np.mean(error <= 0.10)),
        "within 20 %": float(np.mean(error <= 0.20)),
        "bias": float((value / first[places] - 1).mean()),
        "coverage": float(np.mean(held)),
        "flagged": float(np.mean([bool(said[place].outside) for place in places])),
        "noise": float(np.abs(second[places] / first[places] - 1).mean()),
    }


def _print(precision: str, table: dict[str, dict[str, float]], rows: list[Row], options: argparse.Namespace) -> None:
    times = sorted(row["ms_1"] for row in rows)
    print(
        f"onnxruntime {precision}, {options.threads} thread: fitted on {options.samples} networks of {SPACE} "
        f"{'x'.join(map(str, INPUT))}; latencies {times[0]:.3f} to {times[-1]:.3f} ms"
    )
    names = list(next(iter(table.values())))
    print(f"{'':20}" + "".join(f"{name:>13}" for name in names))
    for family, figures in table.items():
        cells = [f"{value:>13.{0 if name == 'n' else 3}f}" for name, value in figures.items()]
        print(f"{family:20}" + "".join(cells))
    print()


if __name__ == "__main__":
    main()
