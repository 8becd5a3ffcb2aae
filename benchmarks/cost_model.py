"""How well does a cost model, fitted on a few measured networks, predict others measured the same way?

Samples distinct networks of a space, measures each of them twice on this machine (two passes, the second in another
order), fits on the first of them and predicts the rest. Prints the share of predictions within 5 and 10 %, rank
correlations, the mean absolute percentage error, the coverage of the 90 % intervals, and the noise floor: the same
comparison between the two passes, which no model can beat. `random splits` repeats the fit with other networks.

    python benchmarks/cost_model.py --seed 0 --samples 10 --others 40
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured import compared, drawn, measured_twice

from hwnas.cost_models import AdditiveModel
from hwnas.profilers import Graph, conditions, fingerprint
from hwnas.profilers.fingerprint import used_shares

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, fits, predicts and prints."""
    options = _options(argv)
    channels, side = (int(part) for part in options.input.split("x"))
    before, start = conditions(), time.monotonic()
    if options.reuse is not None:
        earlier = json.loads(options.reuse.read_text(encoding="utf-8"))
        rows, measurements = earlier["networks"], earlier["measurements"]
    else:
        rows, measurements = _measure(options, (channels, side, side))
    table = _evaluate(rows, options)
    told = used_shares(before, conditions()) if options.reuse is None else earlier["machine"]
    _print(table, rows, told, time.monotonic() - start, options)
    if options.json is not None:
        data = {
            "schema_version": 1,
            "options": {key: str(value) for key, value in vars(options).items()},
            "fingerprint": fingerprint(),
            "machine": {**told, "loadavg": os.getloadavg()[0]},
            "table": table,
            "networks": rows,
            "measurements": measurements,
        }
        options.json.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the sampled networks (default: 0)")
    parser.add_argument("--samples", type=int, default=10, help="networks to fit on (default: 10)")
    parser.add_argument("--others", type=int, default=40, help="networks to predict (default: 40)")
    parser.add_argument("--input", default="1x8", help="channels x side of the input, e.g. 1x8 or 3x32 (default: 1x8)")
    parser.add_argument("--space", default="mobile", help="name of the space (default: mobile)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference (default: 1)")
    parser.add_argument("--attempts", type=int, default=5, help="tries for a quiet measurement (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="later tries of noisy measurements (default: 3)")
    parser.add_argument("--splits", type=int, default=100, help="random splits for the second column (default: 100)")
    parser.add_argument("--json", type=Path, help="file for the rows, the graphs and every raw sample")
    parser.add_argument("--reuse", type=Path, help="evaluate the measurements of an earlier --json, measure nothing")
    return parser.parse_args(argv)


def _measure(options: argparse.Namespace, input_shape: tuple[int, int, int]) -> tuple[list[Row], list[Row]]:
    """Samples, exports and measures the networks twice.

    Returns:
        One row per network, and one per measurement with its raw samples.
    """
    networks = list(drawn(options.space, input_shape, options.samples + options.others, options.seed))
    how = {"threads": options.threads, "attempts": options.attempts, "rounds": options.rounds}
    return measured_twice(networks, "fp32", options.seed, **how)


def _evaluate(rows: list[Row], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The columns of the table: the model on the first split, over random splits, MACs alone, and the noise floor."""
    graphs = [Graph.from_json(row["graph"]) for row in rows]
    first, second = (np.array([row[f"ms_{pass_}"] for row in rows]) for pass_ in (1, 2))
    places = list(range(len(rows)))
    fit, rest = places[: options.samples], places[options.samples :]
    columns = {"model": _split(graphs, first, fit, rest)}
    rng = random.Random(options.seed)
    drawn = []
    for _ in range(options.splits):
        order = rng.sample(places, len(places))
        drawn.append(_split(graphs, first, order[: options.samples], order[options.samples :]))
    if drawn:
        columns["random splits"] = {key: float(np.mean([one[key] for one in drawn])) for key in drawn[0]}
    macs = np.array([graph.macs for graph in graphs], float)
    slope, base = np.polyfit(macs[fit], first[fit], 1)
    columns["MACs alone"] = compared(base + slope * macs[rest], first[rest])
    columns["noise floor"] = compared(first[rest], second[rest])
    return columns


def _split(graphs: list[Graph], values: np.ndarray[Any, Any], fit: list[int], rest: list[int]) -> dict[str, float]:
    model = AdditiveModel().fit([graphs[place] for place in fit], [float(values[place]) for place in fit])
    said = [model.predict(graphs[place]) for place in rest]
    inside = [one.low <= values[place] <= one.high for one, place in zip(said, rest, strict=True)]
    width = [(one.high - one.low) / 2 / one.value for one in said]
    return {
        **compared(np.array([one.value for one in said]), values[rest]),
        "interval coverage": float(np.mean(inside)),
        "interval half-width": float(np.median(width)),
    }


def _print(
    table: dict[str, dict[str, float]],
    rows: list[Row],
    told: dict[str, float],
    seconds: float,
    options: argparse.Namespace,
) -> None:
    names = list(table)
    print(
        f"{options.space} {options.input}: fitted on {options.samples} networks, "
        f"{len(rows) - options.samples} others, onnxruntime fp32"
    )
    print(f"{'':22}" + "".join(f"{name:>15}" for name in names))
    for metric in table["model"]:
        cells = [f"{table[name][metric]:>15.3f}" if metric in table[name] else f"{'':>15}" for name in names]
        print(f"{metric:22}" + "".join(cells))
    times = sorted(row["ms_1"] for row in rows)
    noisy = sum(row[f"quality_{pass_}"] == "noisy" for row in rows for pass_ in (1, 2))
    span = f"{times[0]:.3f} to {times[-1]:.3f} ms, median {times[len(times) // 2]:.3f} ms"
    print(f"latency {span}; nominal coverage 0.900")
    print(
        f"{noisy} of {2 * len(rows)} measurements noisy; machine busy {told['busy']:.0%}, stolen {told['steal']:.1%}, "
        f"load {os.getloadavg()[0]:.2f}; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
