"""Few measurements, other people's devices: how well an additive model predicts public tables of latencies.

Reads NAS-Bench-201 and FBNet latencies that others measured (HELP, Lee et al., NeurIPS 2021; HW-NAS-Bench, Li et al.,
ICLR 2021), chooses a few architectures by D-optimality, fits on them alone and predicts others. No source device, one
configuration for all devices: the ways in which a device may execute a network, and two weights of the penalty, are
chosen between by leave-one-out on the samples. Prints:

1. HELP's test: rows 900-1899, trimmed to the 10-90 % band of the target's latency, and untrimmed;
2. all devices: 1,000 rows drawn once, for every number of samples;
3. the intervals of every device.

Samples come from rows that are in no test. `ceiling` is the same model fitted on 900 rows. The tables are in the order
of measuring, and devices drift along it: see docs/cost_models.md.

    python benchmarks/fewshot.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hwnas.cost_models import totals
from hwnas.cost_models.accuracy import accuracy, paired_ceiling
from hwnas.cost_models.choosing import choose
from hwnas.cost_models.fbnet_graph import fbnet_graph
from hwnas.cost_models.nasbench201_graph import nasbench201_graph
from hwnas.cost_models.sampling import AT_RANDOM, designed
from hwnas.profilers import Graph
from hwnas.spaces import FBNet, NasBench201
from hwnas.spaces.nasbench201 import Cell

Array = np.ndarray[Any, np.dtype[Any]]

TEST = range(900, 1900)
"""HELP's test rows."""
OTHERS = 1000
"""Rows of the second test."""
POOL = 1200
"""Rows that samples are chosen from."""
MOST = 900
"""Samples of the ceiling."""

HELP = {
    "nasbench201": {
        "titan_rtx_256": 0.987,
        "gold_6226": 0.989,
        "pixel2": 0.802,
        "raspi4": 0.890,
        "eyeriss": 0.940,
        "fpga": 0.985,
    },
    "fbnet": {"raspi4": 0.887, "eyeriss": 0.943, "fpga": 0.892},
}
"""Spearman correlations of HELP (Lee et al., NeurIPS 2021): 10 samples, 9 fully measured source devices."""

NOT_MEASURED = {"nasbench201": {"eyeriss", "fpga"}, "fbnet": {"eyeriss", "fpga", "pixel3", "raspi4"}}
"""Columns that are exact sums of a table of parts."""


class Table(NamedTuple):
    """A space's latencies with the totals of every way to execute its architectures."""

    name: str
    latencies: dict[str, Array]
    """Device → ms, (rows,)."""
    ways: dict[str, Array]
    """Way → totals, (rows, k); nan in rows that are not used."""
    pool: Array
    others: Array
    ceilings: dict[str, float]
    """Device → highest Spearman correlation that its repeat noise allows, where the table tells it."""


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with nb201_latency and fbnet_latency.parquet")
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[6, 10, 20, 50, 100], help="(default: 6 10 20 50 100)"
    )
    parser.add_argument("--seeds", type=int, default=5, help="designs per figure (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of the rows, and the first of the designs (default: 0)")
    parser.add_argument(
        "--at-random", type=float, default=AT_RANDOM, help=f"share of samples not by design (default: {AT_RANDOM})"
    )
    parser.add_argument("--json", type=Path, help="file for every figure of every device and seed")
    options = parser.parse_args(argv)
    start, rows = time.monotonic(), []
    seeds = range(options.seed, options.seed + options.seeds)
    print(
        f"seeds {seeds.start} to {seeds.stop - 1}; rows drawn with seed {options.seed}; "
        f"{options.at_random:.0%} of the samples at random"
    )
    for read in (_nasbench201, _fbnet):
        table = read(options.data, options.seed)
        found = _evaluate(table, options.samples, seeds, options.at_random)
        _print(table, pd.DataFrame(found), options.samples)
        rows += found
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.json is not None:
        told = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"schema_version": 1, "options": told, "rows": rows}), encoding="utf-8")


def _nasbench201(folder: Path, seed: int) -> Table:
    """Cells without a path to the output are no networks: they are tested on, and never chosen as samples."""
    frame = _frame(folder / "nb201_latency.parquet")
    space = NasBench201()
    cells = [space.cell_of(space.from_string(text)) for text in frame["arch"]]
    ways: dict[str, Callable[[int], Graph]] = {
        "eager": lambda row: nasbench201_graph(cells[row], "eager"),
        "converted": lambda row: nasbench201_graph(cells[row], "multiplied"),
    }
    candidates = [row for row, cell in enumerate(cells) if cell.live]
    return _table("nasbench201", frame, ways, candidates, seed, _twins(cells))


def _fbnet(folder: Path, seed: int) -> Table:
    frame = _frame(folder / "fbnet_latency.parquet")
    space = FBNet()
    plans = [space.plan(space.from_string(text)) for text in frame["arch"]]
    ways: dict[str, Callable[[int], Graph]] = {
        "eager": lambda row: fbnet_graph(plans[row], converted=False),
        "converted": lambda row: fbnet_graph(plans[row]),
    }
    return _table("fbnet", frame, ways, list(range(len(frame))), seed, [])


def _frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; --data names the folder of the tables")
    return pd.read_parquet(path)


def _table(
    name: str,
    frame: pd.DataFrame,
    ways: dict[str, Callable[[int], Graph]],
    candidates: list[int],
    seed: int,
    twins: list[tuple[int, int]],
) -> Table:
    rng = random.Random(seed)
    outside = sorted(set(range(len(frame))) - set(TEST))
    others = rng.sample(outside, OTHERS)
    pool = rng.sample(sorted(set(outside) & set(candidates) - set(others)), POOL)
    used = sorted({*TEST, *others, *pool})
    made: dict[str, Array] = {}
    for way, graph in ways.items():
        rows = np.array([totals(graph(row)) for row in _progress(used, f"{name}, {way}")])
        made[way] = np.full((len(frame), rows.shape[1]), np.nan)
        made[way][used] = rows
    prefix = "latency_ms@"
    latencies = {
        str(column).removeprefix(prefix): frame[column].to_numpy(float)
        for column in frame
        if str(column).startswith(prefix)
    }
    ceilings = {}
    for device, ms in latencies.items():
        if twins and device not in ("raspi4", "pixel3"):  # their converter treats the two differently
            first, second = (ms[list(side)] for side in zip(*twins, strict=True))
            ceilings[device] = paired_ceiling(first, second)
    return Table(name, latencies, made, np.array(pool), np.array(others), ceilings)


def _twins(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Rows of cells without an edge 1-2 that are the same but for the names of the nodes 1 and 2."""
    row_of = {cell.operations: row for row, cell in enumerate(cells)}
    pairs = []
    for (a, b, c, d, e, f), row in row_of.items():
        twin = row_of.get((b, a, c, d, f, e))
        if c == "none" and twin is not None and row < twin:
            pairs.append((row, twin))
    return pairs


def _evaluate(table: Table, samples: Sequence[int], seeds: range, at_random: float) -> list[dict[str, Any]]:
    """One row of figures per device, number of samples, seed and test."""
    design = np.hstack([x[table.pool] for x in table.ways.values()])
    found = []
    runs = [(count, seed) for count in samples for seed in seeds] + [(MOST, seeds[0])]
    for count, seed in _progress(runs, f"{table.name}, fits"):
        if count == MOST:
            rows = table.pool[random.Random(seed).sample(range(POOL), count)]
        else:
            rows = table.pool[designed(design, count, seed, at_random)]
        for device, ms in table.latencies.items():
            chosen = choose({way: x[rows] for way, x in table.ways.items()}, ms[rows])
            tests = {"help": np.array(TEST), "trimmed": _band(ms), "others": table.others}
            for test, places in tests.items():
                said, low, high = chosen.model.predict_totals(table.ways[chosen.way][places])
                true = ms[places]
                found.append(
                    {
                        "space": table.name,
                        "device": device,
                        "samples": count,
                        "seed": seed,
                        "test": test,
                        "way": chosen.way,
                        **accuracy(said, true).to_json(),
                        "coverage": float(np.mean((low <= true) & (true <= high))),
                        "half_width": float(np.median((high - low) / 2 / said)),
                    }
                )
    return found


def _band(ms: Array) -> Array:
    """HELP's test rows whose latency is in the 10-90 % band."""
    rows = np.array(TEST)
    low, high = np.quantile(ms[rows], [0.1, 0.9])
    inside: Array = rows[(ms[rows] >= low) & (ms[rows] <= high)]
    return inside


def _print(table: Table, found: Any, samples: Sequence[int]) -> None:
    counts = [*samples, MOST]
    means = found.groupby(["test", "device", "samples"])[
        ["spearman", "kendall", "mape", "within_5", "within_10", "coverage", "half_width"]
    ].mean()
    spread = found.groupby(["test", "device", "samples"])["spearman"].std()
    targets = HELP[table.name]
    for test, title in (("trimmed", "HELP's test, trimmed"), ("help", "HELP's test rows, untrimmed")):
        print(f"\n{table.name}, {title}: Spearman by number of samples ({MOST}: ceiling)")
        print(f"{'':16}{'HELP, 10':>10}" + "".join(f"{count:>8}" for count in counts) + f"{'sd at 10':>10}")
        for device, published in targets.items():
            cells = "".join(f"{means.loc[(test, device, count), 'spearman']:8.3f}" for count in counts)
            sd = f"{spread.loc[(test, device, 10)]:10.3f}" if 10 in samples else ""
            print(f"{device:16}{published if test == 'trimmed' else math.nan:10.3f}{cells}{sd}")
        every = [means.loc[test].loc[list(targets)].xs(count, level="samples")["spearman"].mean() for count in counts]
        mean = sum(targets.values()) / len(targets) if test == "trimmed" else math.nan
        print(f"{'mean':16}{mean:10.3f}" + "".join(f"{value:8.3f}" for value in every))
    others = means.loc["others"]
    print(f"\n{table.name}, all devices, {OTHERS} other rows: means")
    print(f"{'samples':16}{'Spearman':>10}{'Kendall':>9}{'MAPE':>8}{'5 %':>8}{'10 %':>8}{'cover':>8}{'width':>8}")
    for count in counts:
        row = others.xs(count, level="samples").mean()
        print(f"{count:<16}{row.iloc[0]:10.3f}{row.iloc[1]:9.3f}" + "".join(f"{value:8.3f}" for value in row.iloc[2:]))
    shown = [count for count in (10, 20) if count in samples]
    head = "".join(f"{f'N={count}':>10}{'10 %':>7}{'cover':>7}{'width':>7}" for count in shown)
    print(f"\n{table.name}, by device, {OTHERS} other rows (* not measured end to end)")
    print(f"{'':18}{head}{f'N={MOST}':>10}{'10 %':>7}{'noise':>8}  way at 10")
    for device in table.latencies:
        line = f"{device + ('*' if device in NOT_MEASURED[table.name] else ''):18}"
        for count in shown:
            row = others.loc[(device, count)]
            line += f"{row['spearman']:10.3f}{row['within_10']:7.2f}{row['coverage']:7.2f}{row['half_width']:7.2f}"
        row = others.loc[(device, MOST)]
        line += f"{row['spearman']:10.3f}{row['within_10']:7.2f}{table.ceilings.get(device, math.nan):8.3f}"
        ways = found[(found["device"] == device) & (found["test"] == "others") & (found["samples"] == 10)]["way"]
        print(f"{line}  " + ", ".join(f"{way} {n}" for way, n in ways.value_counts().items()))
    for count in shown:
        cover = others.xs(count, level="samples")["coverage"]
        good = int(((cover >= 0.87) & (cover <= 0.93)).sum())
        print(f"N={count}: coverage within 0.87 to 0.93 on {good} of {len(cover)} devices, least {cover.min():.2f}")


def _progress(items: Sequence[Any], text: str) -> Any:
    """Passes items on, telling a terminal how far it is."""
    for place, item in enumerate(items):
        if sys.stderr.isatty() and place % 20 == 0:
            print(f"\r{text}: {place} of {len(items)}      ", end="", file=sys.stderr, flush=True)
        yield item
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
