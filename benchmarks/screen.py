"""What does the cost model save in a study, and what does it refuse wrongly?

1. A real study (digits, `mobile` at 1 x 8 x 8, onnxruntime fp32 on this machine) with a latency limit at a quantile of
   the space, which is taken from random networks measured first. Of the networks that the cost model refused some are
   trained and measured all the same: was the measured latency inside the limit, and would the network have been on the
   front? At last every network of the verified front is measured once more, in fresh processes.
2. With `--data`: the same question on tables that others measured, for all their devices: a model fitted on a few
   designed cells of NAS-Bench-201 screens other cells against the same quantile.

A limit on latency is also held by measuring, before anything is trained. What the prediction saves beyond that is the
measurement; `without any screen` counts the trainings that a study would have spent that looks at latency at the end.
The sampler is `random`, which goes on asking for networks outside the limit; `--sampler auto` soon avoids them.

    python benchmarks/screen.py --seed 0 --trials 60
    python benchmarks/screen.py --sampler auto
    python benchmarks/screen.py --no-study --data ../shared/data
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas import Study
from hwnas.cost_models import totals
from hwnas.cost_models.choosing import choose
from hwnas.cost_models.features import DESIGNED_ON
from hwnas.cost_models.nasbench201_graph import nasbench201_graph
from hwnas.cost_models.sampling import AT_RANDOM, designed
from hwnas.profilers import Graph, Measurement, open_profiler
from hwnas.search.run_data import RunData, Trial
from hwnas.spaces import Architecture, NasBench201

Row = dict[str, Any]

LATENCY = "latency_ms@cpu"
EPOCHS = 5
"""Of the last rung, and of the training of a refused network."""
STUDY = """\
version: 1
name: screen
space: {{use: mobile}}
data: {{use: digits}}
quality: {{rungs: [{rungs}], seeds: 1, learning_rate: 0.02, label_smoothing: 0.05}}
devices: {{cpu: {{runtime: onnxruntime, precision: fp32, threads: 1, meter: none}}}}
cost_model: {{use: {use}, samples: {samples}}}
objectives: [{{metric: top1}}, {{metric: latency_ms@cpu}}]
limits: [{limits}]
search: {{sampler: {sampler}, seed: {seed}, trials: {trials}}}
verify: {{finalists: 6}}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs and prints."""
    options = _options(argv)
    start, found = time.monotonic(), dict[str, Any]()
    if not options.no_study:
        with tempfile.TemporaryDirectory(prefix="hwnas-benchmark-") as scratch:
            found["study"] = _study(options, options.out or Path(scratch))
        _print_study(found["study"], options)
    if options.data is not None:
        found["tables"] = _tables(options)
        _print_tables(found["tables"], options)
    print(f"\n{time.monotonic() - start:.0f} s")
    if options.json is not None:
        told = {key: str(value) for key, value in vars(options).items()}
        text = json.dumps({"schema_version": 1, "options": told, **found}, indent=1)
        options.json.write_text(text, encoding="utf-8")
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of the search, the random networks and the designs")
    parser.add_argument("--trials", type=int, default=60, help="of the study (default: 60)")
    parser.add_argument("--sampler", default="random", help="of the study (default: random)")
    parser.add_argument("--use", default="auto", help="cost model of the study (default: auto)")
    parser.add_argument("--samples", type=int, default=10, help="measured networks before it is used (default: 10)")
    parser.add_argument("--quantile", type=float, default=0.3, help="of the latencies: the limit (default: 0.3)")
    parser.add_argument("--random", type=int, default=40, help="networks that tell the quantile (default: 40)")
    parser.add_argument("--refused", type=int, default=20, help="refused networks to train and measure (default: 20)")
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    parser.add_argument("--no-study", action="store_true", help="the tables alone")
    parser.add_argument("--data", type=Path, help="folder with nb201_latency.parquet")
    parser.add_argument("--designs", type=int, default=5, help="designs on the tables, from --seed on (default: 5)")
    parser.add_argument("--cells", type=int, default=4000, help="cells to screen, 0 for all (default: 4000)")
    parser.add_argument("--json", type=Path, help="file for every figure")
    options = parser.parse_args(argv)
    if options.no_study and options.data is None:
        parser.error("--no-study leaves nothing to do without --data")
    return options


def _study(options: argparse.Namespace, folder: Path) -> Row:
    """Runs the study, and looks at what its cost model refused."""
    rungs = f"{{epochs: 1, keep: 0.5}}, {{epochs: {EPOCHS}}}"
    space = _yaml(folder / "space.yaml", options, rungs=rungs, limits=f"{LATENCY} <= 1000000", use="none")
    _progress("latencies of random networks")
    check = Study.from_yaml(space, folder=folder / "space").check(samples=options.random)
    latencies = [probe.readings[LATENCY].value or 0.0 for probe in check.probes if probe.role == "random"]
    bound = float(f"{np.quantile(latencies, options.quantile):.3g}")

    _progress(f"a study of {options.trials} trials within {bound} ms")
    file = _yaml(folder / "screen.yaml", options, rungs=rungs, limits=f"{LATENCY} <= {bound}", use=options.use)
    start = time.monotonic()
    result = Study.from_yaml(file, folder=folder / "run").run()
    seconds = time.monotonic() - start
    run = RunData.load(folder / "run")

    screened = list(run.screened)
    some = random.Random(options.seed).sample(screened, min(options.refused, len(screened)))
    looked = _looked_at(options, folder, some, bound, run)
    again = _measured_again(run, bound)
    trained = [trial for trial in run.rows if trial.value("top1") is not None]
    by_measurement = [trial for trial in run.rows if trial.reason.startswith("infeasible") and trial not in screened]
    spent = [trial.seconds or 0.0 for trial in trained], [trial.seconds or 0.0 for trial in screened]
    return {
        "limit_ms": bound,
        "inside": sum(value <= bound for value in latencies) / len(latencies),
        "latency_ms": [min(latencies), max(latencies)],
        "trials": len(run.rows),
        "screened": len(screened),
        "by_measurement": len(by_measurement),
        "failed": sum(trial.state == "fail" for trial in run.rows),
        "trained": len(trained),
        "trained_s": float(np.median(spent[0])) if trained else 0.0,
        "screened_s": float(np.median(spent[1])) if screened else 0.0,
        "seconds": seconds,
        "looked_at": looked,
        "finalists": result.verified + result.refused,
        "finalists_refused": [[trial.arch_id, reason] for trial, reason in run.refused],
        "front": again,
    }


def _yaml(path: Path, options: argparse.Namespace, **keys: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "samples": options.samples,
        "seed": options.seed,
        "trials": options.trials,
        "sampler": options.sampler,
        **keys,
    }
    path.write_text(STUDY.format(**told), encoding="utf-8")
    return path


def _looked_at(
    options: argparse.Namespace, folder: Path, some: Sequence[Trial], bound: float, run: RunData
) -> list[Row]:
    """Trains and measures refused networks as the last rung does, without limits and without a cost model."""
    from hwnas.search.evaluation import Evaluator

    front = [
        (trial.value("top1") or 0.0, trial.value(LATENCY) or 0.0)
        for trial in run.rows
        if trial.state == "complete" and trial.feasible
    ]
    file = _yaml(folder / "refused.yaml", options, rungs=f"{{epochs: {EPOCHS}}}", limits="", use="none")
    study = Study.from_yaml(file, folder=folder / "refused")
    rows = []
    with study._bench(study._space_at_once()) as (bench, _, _):  # what a driver does, for networks of our own choice
        evaluator = Evaluator(bench, 0)
        for place, trial in enumerate(some, 1):
            _progress(f"refused network {place} of {len(some)}, trained and measured")
            (arch,) = run.trials.loc[run.trials["number"] == trial.number, "arch"]
            outcome = evaluator.evaluate(Architecture.from_json(arch))
            if outcome.state != "complete":
                raise SystemExit(f"{trial.arch_id}: {outcome.reason}")
            guess, true = trial.reading(LATENCY), outcome.readings[LATENCY]
            top1, ms = outcome.readings["top1"].value or 0.0, true.value or 0.0
            beaten = any(t >= top1 and m <= ms and (t, m) != (top1, ms) for t, m in front)
            rows.append(
                {
                    "arch_id": trial.arch_id,
                    "predicted_ms": guess.value,
                    "low_ms": guess.low,
                    "high_ms": guess.high,
                    "measured_ms": ms,
                    "measured_low_ms": true.low,
                    "top1": top1,
                    "inside": ms <= bound,
                    "on_front": ms <= bound and not beaten,
                }
            )
    return rows


def _measured_again(run: RunData, bound: float) -> list[Row]:
    """Measures the shipped files of the verified front once more."""
    rows = []
    with open_profiler("onnxruntime", 1, "fp32") as profiler:
        for place, member in enumerate(run.verified, 1):
            _progress(f"member {place} of {len(run.verified)} of the front, measured again")
            profiler.restart()
            taken = profiler.measure(run.folder / "artifacts" / member.arch_id / "model.onnx")
            assert isinstance(taken, Measurement)
            rows.append(
                {
                    "arch_id": member.arch_id,
                    "verified_ms": member.value(LATENCY),
                    "again_ms": taken.latency_ms,
                    "again_low_ms": taken.low_ms,
                    "noisy": taken.quality == "noisy",
                    "violates": taken.latency_ms > bound,
                    "surely": taken.low_ms > bound,
                }
            )
    return rows


def _print_study(row: Row, options: argparse.Namespace) -> None:
    _progress("")
    low, high = row["latency_ms"]
    before = row["screened"] + row["by_measurement"]
    print(
        f"mobile 1x8x8, onnxruntime fp32, sampler {options.sampler}, seed {options.seed}, cost model {options.use} "
        f"from {options.samples} samples"
    )
    print(f"limit {row['limit_ms']:g} ms, inside {row['inside']:.0%} of {options.random} random networks ", end="")
    print(f"({low:.3f} to {high:.3f} ms)")
    rows = [
        ("trials", row["trials"], f"{row['seconds']:.0f} s with the verification"),
        ("refused by the cost model", row["screened"], f"{row['screened_s']:.2f} s each (median)"),
        ("refused by their measurement", row["by_measurement"], ""),
        ("trained", row["trained"], f"{row['trained_s']:.2f} s each (median), first rung included"),
        ("without any screen, trained", row["trained"] + before, f"{before} trainings saved"),
    ]
    for name, count, note in rows:
        print(f"{name:32}{count:6}  {note}".rstrip())
    looked = row["looked_at"]
    wrongly = [each for each in looked if each["inside"]]
    members = sum(each["on_front"] for each in wrongly)
    print(
        f"{'refused, trained all the same':32}{len(looked):6}  {len(wrongly)} inside the limit, {members} on the front"
    )
    for each in wrongly:
        said = f"~{each['predicted_ms']:.4f} ms ({each['low_ms']:.4f} to {each['high_ms']:.4f})"
        print(
            f"{'':32}{'':6}  {each['arch_id']} {said}, measured {each['measured_ms']:.4f} ms, top1 {each['top1']:.3f}"
        )
    print(f"{'finalists refused when verified':32}{len(row['finalists_refused']):6}  of {row['finalists']}")
    front = row["front"]
    broken, surely = sum(each["violates"] for each in front), sum(each["surely"] for each in front)
    print(f"{'front, measured again':32}{len(front):6}  {broken} outside the limit, {surely} of them surely")


def _tables(options: argparse.Namespace) -> list[Row]:
    """Screens cells of NAS-Bench-201 on every device of the table."""
    import pandas as pd

    path = options.data / "nb201_latency.parquet"
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; --data names the folder of the tables")
    frame = pd.read_parquet(path)
    if options.cells:
        frame = frame.sample(min(options.cells, len(frame)), random_state=options.seed)
    space = NasBench201()
    cells = [space.cell_of(space.from_string(text)) for text in frame["arch"]]
    alive = np.array([cell.live != frozenset() for cell in cells])
    graphs: dict[str, Callable[[int], Graph]] = {
        "eager": lambda row: nasbench201_graph(cells[row], "eager"),
        "converted": lambda row: nasbench201_graph(cells[row], "multiplied"),
    }
    ways = {}
    for way, graph in graphs.items():
        _progress(f"totals of {len(cells)} cells, {way}")
        ways[way] = np.array([totals(graph(row)) for row in range(len(cells))])
    pool = np.flatnonzero(alive)[:1200]
    design = np.hstack([x[pool][:, DESIGNED_ON] for x in ways.values()])
    found = []
    for seed in range(options.seed, options.seed + options.designs):
        rows = pool[designed(design, options.samples, seed)]
        drawn = round(options.samples * AT_RANDOM)
        marks = [False] * (options.samples - drawn) + [True] * drawn
        others = np.setdiff1d(np.arange(len(cells)), rows)
        for column in (str(name) for name in frame if str(name).startswith("latency_ms@")):
            ms = frame[column].to_numpy(float)
            bound = float(np.quantile(ms, options.quantile))
            chosen = choose({way: x[rows] for way, x in ways.items()}, ms[rows], at_random=marks)
            _, low, _, outside = chosen.model.predict_widened(ways[chosen.way][others])
            far = outside.any(axis=1)
            refused = (low > bound) & ~far
            inside = ms[others] <= bound
            found.append(
                {
                    "device": column.removeprefix("latency_ms@"),
                    "seed": seed,
                    "way": chosen.way,
                    "limit_ms": bound,
                    "cells": len(others),
                    "outside": int((~inside).sum()),
                    "far": int(far.sum()),
                    "refused": int(refused.sum()),
                    "refused_wrongly": int((refused & inside).sum()),
                    "inside_lost": float((refused & inside).sum() / max(1, inside.sum())),
                    "caught": float((refused & ~inside).sum() / max(1, (~inside).sum())),
                }
            )
    return found


def _print_tables(found: Sequence[Row], options: argparse.Namespace) -> None:
    _progress("")
    cells, told = found[0]["cells"], f"seeds {options.seed} to {options.seed + options.designs - 1}"
    print(
        f"\nNAS-Bench-201: {options.samples} designed cells, {cells} others, limit: {options.quantile:.0%} quantile, "
        f"{told}"
    )
    print(
        f"{'device':16}{'limit ms':>10}{'outside':>9}{'refused':>9}{'caught':>8}"
        f"{'wrongly':>9}{'of inside':>11}{'most':>8}"
    )
    for device in dict.fromkeys(row["device"] for row in found):
        rows = [row for row in found if row["device"] == device]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key not in ("device", "way")}
        print(
            f"{device:16}{mean['limit_ms']:10.3g}{mean['outside']:9.0f}{mean['refused']:9.0f}{mean['caught']:8.1%}"
            f"{mean['refused_wrongly']:9.1f}{mean['inside_lost']:11.2%}{max(row['inside_lost'] for row in rows):8.2%}"
        )
    refused, wrongly = (sum(row[key] for row in found) for key in ("refused", "refused_wrongly"))
    print(f"all: {wrongly} of {refused} refused cells are inside the limit ({wrongly / max(1, refused):.2%})")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}\r{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
