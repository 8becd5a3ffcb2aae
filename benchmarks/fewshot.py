"""Few measurements, other people's devices: how well an additive model predicts public tables of costs.

Reads NAS-Bench-201 and FBNet latencies and energies that others measured (HELP, Lee et al., NeurIPS 2021;
HW-NAS-Bench, Li et al., ICLR 2021), chooses a few architectures, fits on them alone and predicts others. No source
device, one configuration for all devices: the ways in which a device may execute a network, and two weights of the
penalty, are chosen between by leave-one-out on the samples. Prints, or only the parts named by `--only`:

tables    HELP's test: rows 900-1899, trimmed to the 10-90 % band of the target's latency, and untrimmed; all devices:
          1,000 rows drawn once, for every number of samples; every device beside its ceilings, and its intervals
energy    energy and latency of HW-NAS-Bench's edge GPU (measured) and Eyeriss (simulated), NAS-Bench-201
cross     fitted on NAS-Bench-201, tried on FBNet of the same device, without a sample of FBNet
ablation  what the executed graph, the design, the residual and other devices are worth

Samples come from rows that are in no test. Ceilings: `noise`, of pairs of equal networks that were measured twice, and
`900`, the same model fitted on 900 rows. The tables are in the order of measuring, and devices drift along it: see
docs/cost_models.md.

    python benchmarks/fewshot.py --data ../shared/data
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from hwnas.cost_models import features, graph_builder, totals
from hwnas.cost_models.accuracy import accuracy, paired_ceiling
from hwnas.cost_models.additive import AdditiveModel
from hwnas.cost_models.additive_gp import AdditiveGpModel
from hwnas.cost_models.bank import bank_of
from hwnas.cost_models.choosing import choose
from hwnas.cost_models.fbnet_graph import fbnet_graph
from hwnas.cost_models.intervals import LEVEL
from hwnas.cost_models.nasbench201_graph import nasbench201_graph
from hwnas.cost_models.sampling import AT_RANDOM, designed
from hwnas.cost_models.transfer import TransferModel
from hwnas.profilers import Graph
from hwnas.spaces import FBNet, NasBench201
from hwnas.spaces.fbnet import BLOCKS
from hwnas.spaces.nasbench201 import OPERATIONS, Cell

Array = np.ndarray[Any, np.dtype[Any]]

PARTS = ("tables", "energy", "cross", "ablation")

TEST = range(900, 1900)
"""HELP's test rows."""
OTHERS = 1000
"""Rows of the second test."""
POOL = 1200
"""Rows that samples are chosen from."""
MOST = 900
"""Samples of the ceiling."""
SHOWN = (10, 20)
"""Numbers of samples whose devices are listed; they have all seeds, others `FEWER`."""
FEWER = 3

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

SOURCES = {
    *("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r"),
    *("samsung_a50", "pixel3", "essential_ph_1", "samsung_s7"),
}
"""HELP's source devices."""

NOT_MEASURED = {"nasbench201": {"eyeriss", "fpga"}, "fbnet": {"eyeriss", "fpga", "pixel3", "raspi4"}}
"""Columns that are exact sums of a table of parts, not measured end to end."""

KNOWN_CROSS = (0.832, 0.406)
"""Spearman and MAPE of six totals fitted on 900 cells and tried on FBNet, mean of 22 devices (a study before this)."""

LATENCY = "latency_ms@"


class Ceiling(NamedTuple):
    """What a model that knew the truth would reach, by the repeat noise; nan where the table does not tell it."""

    spearman: float = math.nan
    within_10: float = math.nan
    half_width: float = math.nan


class Table(NamedTuple):
    """A space's costs with the totals of every way to execute its architectures."""

    name: str
    values: dict[str, Array]
    """Device → costs, (rows,)."""
    ways: dict[str, Array]
    """Way → totals, (rows, k); nan in rows that are not used."""
    counts: Array
    """How often each operation or block is in an architecture, and 1, (rows, k)."""
    pool: Array
    others: Array
    ceilings: dict[str, Ceiling]


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the tables, *.parquet")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to print (default: all)")
    parser.add_argument(
        "--samples", type=int, nargs="+", default=[6, 10, 20, 50, 100], help="(default: 6 10 20 50 100)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=20,
        help=f"choices of samples for 10 and 20 of them, {FEWER} at most else (default: 20)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the rows, and the first of the choices (default: 0)")
    parser.add_argument(
        "--at-random", type=float, default=AT_RANDOM, help=f"share of samples not by design (default: {AT_RANDOM})"
    )
    parser.add_argument("--cache", type=Path, help="folder that keeps the totals of the tables for the next run")
    parser.add_argument("--json", type=Path, help="file for every figure of every device and seed")
    options = parser.parse_args(argv)
    start, rows = time.monotonic(), []
    seeds = range(options.seed, options.seed + options.seeds)
    print(
        f"seeds {seeds.start} to {seeds.stop - 1}; rows drawn with seed {options.seed}; "
        f"{options.at_random:.0%} of the samples at random"
    )
    cells, fbnets = _nasbench201(options.data, options.seed, options.cache), None
    if {"tables", "cross", "ablation"} & set(options.only):
        fbnets = _fbnet(options.data, options.seed, options.cache)
    for table in (cells, fbnets):
        if table is not None and "tables" in options.only:
            found = _evaluate(table, options.samples, seeds, options.at_random)
            _print(table, pd.DataFrame(found), options.samples)
            rows += found
    if "energy" in options.only:
        rows += _energy(options.data, cells, seeds, options.at_random)
    if fbnets is not None and "cross" in options.only:
        rows += _cross(cells, fbnets, seeds, options.at_random)
    if fbnets is not None and "ablation" in options.only:
        for table in (cells, fbnets):
            rows += _ablation(table, seeds)
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.json is not None:
        told = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"schema_version": 1, "options": told, "rows": rows}), encoding="utf-8")


def _nasbench201(folder: Path, seed: int, cache: Path | None) -> Table:
    """Cells without a path to the output are no networks: they are tested on, and never chosen as samples."""
    frame = _frame(folder / "nb201_latency.parquet")
    cells = _cells(frame)
    ways: dict[str, Callable[[int], Graph]] = {
        "eager": lambda row: nasbench201_graph(cells[row], "eager"),
        "converted": lambda row: nasbench201_graph(cells[row], "multiplied"),
    }
    candidates = [row for row, cell in enumerate(cells) if cell.live]
    counts = np.array([[1, *(cell.operations.count(name) for name in OPERATIONS)] for cell in cells], float)
    return _table("nasbench201", frame, ways, counts, candidates, seed, _twins(cells), cache)


def _cells(frame: pd.DataFrame) -> list[Cell]:
    space = NasBench201()
    return [space.cell_of(space.from_string(text)) for text in frame["arch"]]


def _fbnet(folder: Path, seed: int, cache: Path | None) -> Table:
    frame = _frame(folder / "fbnet_latency.parquet")
    space = FBNet()
    plans = [space.plan(space.from_string(text)) for text in frame["arch"]]
    ways: dict[str, Callable[[int], Graph]] = {
        "eager": lambda row: fbnet_graph(plans[row], converted=False),
        "converted": lambda row: fbnet_graph(plans[row]),
    }
    blocks = [text.split("-") for text in frame["arch"]]
    counts = np.array([[1, *(names.count(name) for name in BLOCKS)] for names in blocks], float)
    return _table("fbnet", frame, ways, counts, list(range(len(frame))), seed, [], cache)


def _frame(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; --data names the folder of the tables")
    return pd.read_parquet(path)


def _table(
    name: str,
    frame: pd.DataFrame,
    ways: dict[str, Callable[[int], Graph]],
    counts: Array,
    candidates: list[int],
    seed: int,
    twins: list[tuple[int, int]],
    cache: Path | None,
) -> Table:
    rng = random.Random(seed)
    outside = sorted(set(range(len(frame))) - set(TEST))
    others = rng.sample(outside, OTHERS)
    pool = rng.sample(sorted(set(outside) & set(candidates) - set(others)), POOL)
    used = sorted({*TEST, *others, *pool})
    rows = _totals(name, ways, used, cache)
    made = {way: np.full((len(frame), part.shape[1]), np.nan) for way, part in rows.items()}
    for way, part in rows.items():
        made[way][used] = part
    columns = [str(column) for column in frame if str(column).startswith(LATENCY)]
    values = {column.removeprefix(LATENCY): frame[column].to_numpy(float) for column in columns}
    ceilings = {}
    for device, ms in values.items():
        if twins and device not in ("raspi4", "pixel3"):  # their converter treats the two differently
            ceilings[device] = _ceiling(*(ms[list(side)] for side in zip(*twins, strict=True)))
    return Table(name, values, made, counts, np.array(pool), np.array(others), ceilings)


def _totals(
    name: str, ways: dict[str, Callable[[int], Graph]], rows: Sequence[int], cache: Path | None
) -> dict[str, Array]:
    """Way → totals of the rows, (rows, k); from the cache's file where one of the same rows and code is there."""
    code = [
        inspect.getsource(module) for module in (features, graph_builder, sys.modules[nasbench201_graph.__module__])
    ]
    code.append(inspect.getsource(sys.modules[fbnet_graph.__module__]))
    digest = hashlib.sha256(repr((name, list(rows), code)).encode()).hexdigest()[:16]
    path = None if cache is None else cache / f"{name}-{digest}.npz"
    if path is not None and path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            return {way: kept[way] for way in ways}
    made = {
        way: np.array([totals(graph(row)) for row in _progress(rows, f"{name}, {way}")]) for way, graph in ways.items()
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **made)  # type: ignore[arg-type]
    return made


def _twins(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Rows of cells without an edge 1-2 that are the same but for the names of the nodes 1 and 2."""
    row_of = {cell.operations: row for row, cell in enumerate(cells)}
    pairs = []
    for (a, b, c, d, e, f), row in row_of.items():
        twin = row_of.get((b, a, c, d, f, e))
        if c == "none" and twin is not None and row < twin:
            pairs.append((row, twin))
    return pairs


def _ceiling(first: Array, second: Array) -> Ceiling:
    """Of pairs of equal networks. The truth is nearer to a measurement than another measurement, by a root of 2."""
    apart = np.abs(np.log(first / second)) / math.sqrt(2)
    return Ceiling(
        paired_ceiling(first, second), float(np.mean(apart <= math.log(1.1))), float(np.quantile(apart, LEVEL))
    )


def _chosen_rows(table: Table, count: int, seed: int, at_random: float) -> tuple[Array, list[bool]]:
    """Samples of the pool and which of them are at random; from `MOST` on all are."""
    if count >= MOST:
        return table.pool[random.Random(seed).sample(range(len(table.pool)), count)], [True] * count
    design = np.hstack([x[table.pool][:, features.DESIGNED_ON] for x in table.ways.values()])
    drawn = round(count * at_random)
    return table.pool[designed(design, count, seed, at_random)], [False] * (count - drawn) + [True] * drawn


def _figures(model: Any, x: Array, true: Array) -> dict[str, float]:
    """How good predictions are."""
    said, low, high = model.predict_totals(x)
    return {
        **accuracy(said, true).to_json(),
        "coverage": float(np.mean((low <= true) & (true <= high))),
        "half_width": float(np.median(np.log(high / low) / 2)),
    }


def _evaluate(table: Table, samples: Sequence[int], seeds: range, at_random: float) -> list[dict[str, Any]]:
    """One row of figures per device, number of samples, seed and test."""
    found = []
    for count, seed in _progress(_runs(samples, seeds), f"{table.name}, fits"):
        rows, marks = _chosen_rows(table, count, seed, at_random)
        for device, values in table.values.items():
            chosen = choose({way: x[rows] for way, x in table.ways.items()}, values[rows], at_random=marks)
            tests = {"others": table.others}
            if device in HELP.get(table.name, {}):
                tests |= {"help": np.array(TEST), "trimmed": _band(values)}
            told = {"space": table.name, "device": device, "samples": count, "seed": seed, "way": chosen.way}
            for test, places in tests.items():
                figures = _figures(chosen.model, table.ways[chosen.way][places], values[places])
                found.append({**told, "test": test, **figures})
    return found


def _runs(samples: Sequence[int], seeds: range) -> list[tuple[int, int]]:
    """Numbers of samples with seeds; all seeds for those whose devices are listed."""
    few = seeds[: max(1, min(FEWER, len(seeds)))]
    return [(count, seed) for count in samples for seed in (seeds if count in SHOWN else few)] + [(MOST, seeds[0])]


def _band(ms: Array) -> Array:
    """HELP's test rows whose latency is in the 10-90 % band."""
    rows = np.array(TEST)
    low, high = np.quantile(ms[rows], [0.1, 0.9])
    inside: Array = rows[(ms[rows] >= low) & (ms[rows] <= high)]
    return inside


FIGURES = ["spearman", "kendall", "mape", "within_5", "within_10", "coverage", "half_width"]
HEAD = ("Spearman", "Kendall", "MAPE", "5 %", "10 %", "cover", "width")


def _print(table: Table, found: Any, samples: Sequence[int]) -> None:
    counts = [*samples, MOST]
    means = found.groupby(["test", "device", "samples"])[FIGURES].mean()
    spread = found.groupby(["test", "device", "samples"])[FIGURES].std()
    targets = HELP[table.name]
    for test, title in (("trimmed", "HELP's test, trimmed"), ("help", "HELP's test rows, untrimmed")):
        print(f"\n{table.name}, {title}: Spearman by number of samples ({MOST}: ceiling)")
        print(f"{'':16}{'HELP, 10':>10}" + "".join(f"{count:>8}" for count in counts) + f"{'sd at 10':>10}")
        for device, published in targets.items():
            cells = "".join(f"{means.loc[(test, device, count), 'spearman']:8.3f}" for count in counts)
            sd = f"{spread.loc[(test, device, 10), 'spearman']:10.3f}" if 10 in samples else ""
            print(f"{device:16}{published if test == 'trimmed' else math.nan:10.3f}{cells}{sd}")
        every = [means.loc[test].xs(count, level="samples")["spearman"].mean() for count in counts]
        mean = sum(targets.values()) / len(targets) if test == "trimmed" else math.nan
        print(f"{'mean':16}{mean:10.3f}" + "".join(f"{value:8.3f}" for value in every))
    others, exact = means.loc["others"], NOT_MEASURED[table.name]
    print(f"\n{table.name}, all devices, {OTHERS} other rows: means; (measured): without columns that are exact sums")
    print(f"{'samples':16}" + "".join(f"{name:>9}" for name in HEAD) + f"{'(Spearman':>11}{'10 %)':>8}")
    for count in counts:
        every = others.xs(count, level="samples")
        measured = every.drop(index=sorted(exact)).mean()
        line = "".join(f"{value:9.3f}" for value in every.mean())
        print(f"{count:<16}{line}{measured['spearman']:11.3f}{measured['within_10']:8.3f}")
    noise = pd.DataFrame(table.ceilings, index=Ceiling._fields).T
    if len(noise):
        same = others.xs(MOST, level="samples").loc[noise.index]
        print(
            f"noise allows on {len(noise)} devices: Spearman {noise['spearman'].mean():.3f}, "
            f"10 % {noise['within_10'].mean():.3f}; the model of {MOST} rows there: {same['spearman'].mean():.3f}, "
            f"{same['within_10'].mean():.3f}"
        )
    _print_devices(table, others, spread.loc["others"], found, [count for count in SHOWN if count in samples])


def _print_devices(table: Table, others: Any, spread: Any, found: Any, shown: Sequence[int]) -> None:
    exact = NOT_MEASURED.get(table.name, set())
    names = {device: device + ("*" if device in exact else "") for device in table.values}
    head = "".join(f"{f'N={count}':>10}{'10 %':>6}" for count in (*shown, MOST))
    print(f"\n{table.name}, by device, {len(table.others)} other rows (* not measured end to end)")
    print(f"{'':18}{head}{'noise':>8}{'10 %':>6}  way at 10")
    for device in table.values:
        line = f"{names[device]:18}"
        for count in (*shown, MOST):
            row = others.loc[(device, count)]
            line += f"{row['spearman']:10.3f}{row['within_10']:6.2f}"
        ceiling = table.ceilings.get(device, Ceiling())
        ways = found[(found["device"] == device) & (found["test"] == "others") & (found["samples"] == 10)]["way"]
        told = ", ".join(f"{way} {n}" for way, n in ways.value_counts().items())
        print(f"{line}{ceiling.spearman:8.3f}{ceiling.within_10:6.2f}  {told}")
    print(f"\n{table.name}, {LEVEL:.0%} intervals by device: coverage, its standard error over the seeds, half-width")
    print(f"{'':18}" + "".join(f"{f'N={count}':>8}{'se':>6}{'width':>7}" for count in (*shown, MOST)) + f"{'noise':>8}")
    for device in table.values:
        line = f"{names[device]:18}"
        for count in (*shown, MOST):
            row = others.loc[(device, count)]
            runs = len(found[(found["samples"] == count) & (found["device"] == device) & (found["test"] == "others")])
            error = spread.loc[(device, count), "coverage"] / math.sqrt(runs) if runs > 1 else math.nan
            line += f"{row['coverage']:8.3f}{error:6.3f}{row['half_width']:7.3f}"
        print(f"{line}{table.ceilings.get(device, Ceiling()).half_width:8.3f}")
    for count in shown:
        cover = others.xs(count, level="samples")["coverage"]
        good = int(((cover >= LEVEL - 0.03) & (cover <= LEVEL + 0.03)).sum())
        widths = others.xs(count, level="samples")["half_width"]
        floors = {device: ceiling.half_width for device, ceiling in table.ceilings.items() if device not in exact}
        ratios = [widths[device] / floor for device, floor in floors.items()]
        most = others.xs(MOST, level="samples")["half_width"]
        print(
            f"N={count}: coverage {cover.mean():.3f}, within 0.87 to 0.93 on {good} of {len(cover)} devices, "
            f"{cover.min():.2f} to {cover.max():.2f}; half-width {(widths / most).median():.2f} times that of "
            f"{MOST} rows (median)"
            + (f", {np.median(ratios):.2f} times the noise's, at most 1.3 on {sum(r <= 1.3 for r in ratios)} "
               f"of {len(ratios)} measured" if ratios else "")
        )  # fmt: skip


def _energy(folder: Path, cells: Table, seeds: range, at_random: float) -> list[dict[str, Any]]:
    """Other targets of the same cells: those rows of the table that are in this one, too."""
    frame = _frame(folder / "nb201_energy.parquet")
    kept = _frame(folder / "nb201_latency.parquet")["arch"].reset_index().merge(frame.reset_index(drop=True), on="arch")
    columns = [str(column) for column in frame if "@" in str(column)]
    values = {}
    for column in columns:
        values[column] = np.full(len(cells.counts), np.nan)
        values[column][kept["index"]] = kept[column]
    there = np.zeros(len(cells.counts), bool)
    there[kept["index"]] = True
    table = Table(
        "nasbench201 energy", values, cells.ways, cells.counts,
        cells.pool[there[cells.pool]], cells.others[there[cells.others]], {},
    )  # fmt: skip
    found = _evaluate(table, SHOWN, seeds, at_random)
    means = pd.DataFrame(found).groupby(["device", "samples"])[FIGURES].mean()
    print(f"\n{table.name}: {len(table.others)} other rows (eyeriss is simulated)")
    print(f"{'':22}{'samples':>8}" + "".join(f"{name:>9}" for name in HEAD))
    for place, row in means.iterrows():
        device, count = cast(tuple[str, int], place)
        print(f"{device:22}{count:8}" + "".join(f"{value:9.3f}" for value in row))
    return found


def _cross(cells: Table, fbnets: Table, seeds: range, at_random: float) -> list[dict[str, Any]]:
    """Fits on cells, predicts FBNet; only devices with the same batch in both tables."""
    found = []
    exact = NOT_MEASURED["nasbench201"] | NOT_MEASURED["fbnet"]
    shared = [device for device in cells.values if device in fbnets.values]
    for count, seed in [(20, seed) for seed in seeds[:FEWER]] + [(MOST, seeds[0])]:
        rows, marks = _chosen_rows(cells, count, seed, at_random)
        for device in shared:
            chosen = choose(
                {way: x[rows] for way, x in cells.ways.items()}, cells.values[device][rows], at_random=marks
            )
            figures = _figures(
                chosen.model, fbnets.ways[chosen.way][fbnets.others], fbnets.values[device][fbnets.others]
            )
            told = {"space": "nasbench201 to fbnet", "device": device, "samples": count, "seed": seed}
            found.append({**told, "test": "cross", "way": chosen.way, **figures})
    means = pd.DataFrame(found).groupby(["device", "samples"])[FIGURES].mean()
    print(f"\nnasbench201 to fbnet, no sample of FBNet, {len(shared)} devices of the same batch (* not end to end)")
    print(f"{'':18}{'N=20':>10}{'MAPE':>8}{'10 %':>7}{f'N={MOST}':>10}{'MAPE':>8}{'10 %':>7}")
    print(f"{'known, 900 rows':18}{'':25}{KNOWN_CROSS[0]:10.3f}{KNOWN_CROSS[1]:8.3f}")
    groups = {device + ("*" if device in exact else ""): [device] for device in shared}
    groups |= {"mean": shared, "mean, measured": [device for device in shared if device not in exact]}
    for name, devices in groups.items():
        line = f"{name:18}"
        for count in (20, MOST):
            row = means.loc[[(device, count) for device in devices]].mean()
            line += f"{row['spearman']:10.3f}{row['mape']:8.3f}{row['within_10']:7.2f}"
        print(line)
    return found


Fit = Callable[[str, Array, list[bool]], tuple[Any, Array]]
"""Device, samples' rows and which of them are at random → a fitted model and the totals (rows, k) it reads."""


def _ablation(table: Table, seeds: range) -> list[dict[str, Any]]:
    """Leaves out or adds one thing at a time; everything else as in the tables."""
    few, found = seeds[:FEWER], []
    for what, (fit, share, counts) in _variants(table).items():
        for count, seed in _progress([(count, seed) for count in counts for seed in few], f"{table.name}, {what}"):
            rows, marks = _chosen_rows(table, count, seed, share)
            for device, values in table.values.items():
                model, x = fit(device, rows, marks)
                figures = _figures(model, x[table.others], values[table.others])
                told = {"space": table.name, "device": device, "samples": count, "seed": seed, "test": what}
                found.append({**told, **figures})
    frame = pd.DataFrame(found)
    frame["even"] = (frame["coverage"] - LEVEL).abs()
    means = frame.groupby(["test", "samples"], sort=False)[[*FIGURES, "even"]].mean()
    print(
        f"\n{table.name}, ablation: means of all devices, {len(few)} seeds; uneven: mean distance of coverage from .90"
    )
    print(f"{'':44}{'samples':>8}" + "".join(f"{name:>9}" for name in (*HEAD, "uneven")))
    for place, row in means.iterrows():
        what, count = cast(tuple[str, int], place)
        print(f"{what:44}{count:8}" + "".join(f"{value:9.3f}" for value in row))
    return found


def _variants(table: Table) -> dict[str, tuple[Fit, float, Sequence[int]]]:
    """What is tried: a fit, the share of random samples, and numbers of samples."""
    banks: dict[str, dict[str, AdditiveModel]] = {}

    def additive(ways: dict[str, Array]) -> Fit:
        def fit(device: str, rows: Array, marks: list[bool]) -> tuple[Any, Array]:
            chosen = choose({way: x[rows] for way, x in ways.items()}, table.values[device][rows], at_random=marks)
            return chosen.model, ways[chosen.way]

        return fit

    def way_of(device: str, rows: Array, marks: list[bool]) -> str:
        return choose({way: x[rows] for way, x in table.ways.items()}, table.values[device][rows], at_random=marks).way

    def residual(device: str, rows: Array, marks: list[bool]) -> tuple[Any, Array]:
        x = table.ways[way_of(device, rows, marks)]
        return AdditiveGpModel().fit_totals(x[rows], table.values[device][rows], at_random=marks), x

    def transfer(device: str, rows: Array, marks: list[bool]) -> tuple[Any, Array]:
        way = way_of(device, rows, marks)
        if way not in banks:
            many = table.pool[:MOST]
            sources = [name for name in table.values if name.replace("_64", "_256") in SOURCES]
            banks[way] = {
                name: AdditiveModel().fit_totals(table.ways[way][many], table.values[name][many]) for name in sources
            }
        bank = bank_of({name: model for name, model in banks[way].items() if name != device})
        return TransferModel(bank).fit_totals(
            table.ways[way][rows], table.values[device][rows], at_random=marks
        ), table.ways[way]

    every = additive(table.ways)
    return {
        "as in the tables": (every, AT_RANDOM, (10, 20, 50)),
        "operations of the string counted": (additive({"counts": table.counts}), AT_RANDOM, (10, 20, 50)),
        "modules as written, nothing dropped or fused": (additive({"eager": table.ways["eager"]}), AT_RANDOM, SHOWN),
        "converted graph only": (additive({"converted": table.ways["converted"]}), AT_RANDOM, SHOWN),
        "all samples by design": (every, 0.0, SHOWN),
        "all samples at random": (every, 1.0, SHOWN),
        "with a residual (additive+gp)": (residual, AT_RANDOM, (20, 50)),
        "with other devices (transfer, nine sources)": (transfer, AT_RANDOM, SHOWN),
    }


def _progress(items: Sequence[Any], text: str) -> Iterable[Any]:
    """Passes items on, telling a terminal how far it is."""
    for place, item in enumerate(items):
        if sys.stderr.isatty() and place % 20 == 0:
            print(f"\r{text}: {place} of {len(items)}      ", end="", file=sys.stderr, flush=True)
        yield item
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
