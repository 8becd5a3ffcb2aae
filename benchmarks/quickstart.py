"""Where the seconds of a study go, trial by trial.

    python benchmarks/quickstart.py                     # runs studies/digits.yaml in a temporary folder
    python benchmarks/quickstart.py --run runs/digits   # takes a run that is there

Prints seconds per trial: ask, build, count, export, predict, measure, train, tell, and the rest, which is what passed
between ask and tell beside them. The driver's own overhead is everything but train and measure. With several workers, a
stage's seconds are those of the one evaluation; what it waited for others is among them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STAGES = ("ask", "build", "count", "export", "predict", "measure", "train", "tell", "rest")
SPENDING = ("measure", "train")
ROOT = Path(__file__).parents[1]


def rows_of(events: Path) -> list[dict[str, float]]:
    """Returns the seconds of each stage, one row a trial."""
    rows, asked = [], {}
    for line in events.read_text("utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "asked":
            asked[event["number"]] = event["clock"] - event["seconds"]
        elif event["event"] == "adopted":
            asked[event["number"]] = event["clock"]
        elif event["event"] == "told":
            seconds = {**event["outcome"]["seconds"], "tell": event["seconds"]}
            rest = event["clock"] - asked[event["number"]] - sum(seconds.values())
            rows.append({stage: {**seconds, "rest": rest}.get(stage, 0.0) for stage in STAGES})
    return rows


def summary(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Returns median, mean and largest seconds of each stage, of the overhead, and of the whole."""
    columns = {stage: [row[stage] for row in rows] for stage in STAGES}
    columns["overhead"] = [sum(row[stage] for stage in STAGES if stage not in SPENDING) for row in rows]
    columns["whole"] = [sum(row.values()) for row in rows]
    return [
        {"stage": name, "median": statistics.median(v), "mean": statistics.fmean(v), "most": max(v)}
        for name, v in columns.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder; without it, the study is run")
    parser.add_argument("--study", type=Path, default=ROOT / "studies" / "digits.yaml")
    parser.add_argument("--seed", type=int, default=0, help="of the study that is run")
    parser.add_argument("--workers", type=int, default=1, help="of the study that is run")
    parser.add_argument("--trials", type=int, help="of the study that is run; its own number when left out")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hwnas-benchmark-") as scratch:
        run, wall = options.run, None
        if run is None:
            run = Path(scratch) / "run"
            keys = [f"search.seed={options.seed}", f"run.workers={options.workers}"]
            keys += [f"search.trials={options.trials}"] if options.trials else []
            start = time.monotonic()
            command = [sys.executable, "-m", "hwnas", "run", str(options.study), *keys, "--out", str(run), "--json"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall = time.monotonic() - start
        rows = rows_of(run / "events.jsonl")
    table = summary(rows)
    print(f"{len(rows)} trials, seed {options.seed}" + (f", {wall:.0f} s in all" if wall else ""))
    print(f"{'stage':10} {'median s':>9} {'mean s':>9} {'most s':>9}")
    for row in table:
        print(f"{row['stage']:10} {row['median']:9.3f} {row['mean']:9.3f} {row['most']:9.3f}")
    if options.json:
        options.json.write_text(json.dumps({"trials": len(rows), "wall_s": wall, "rows": table}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
