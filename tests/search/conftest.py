"""A small maker of runs for the tests of the selection and the page."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hwnas.search.run_data import RunData

RunMaker = Callable[..., RunData]
TWO = (("top1", "maximize"), ("latency_ms@cpu", "minimize"))
THREE = (*TWO, ("size_mb", "minimize"))
METRICS = ("top1", "latency_ms@cpu", "size_mb", "params", "macs")


def _cells(metric: str, value: float | None, spread: float, source: str) -> dict[str, Any]:
    if value is None:
        return {metric: math.nan, f"{metric}.low": math.nan, f"{metric}.high": math.nan, f"{metric}.source": "missing"}
    ends = {f"{metric}.low": value * (1 - spread), f"{metric}.high": value * (1 + spread)}
    return {metric: value, f"{metric}.source": source} | ends


def _row(number: int, rng: random.Random, reasons: Sequence[str]) -> dict[str, Any]:
    """One trial as the search leaves it: about two in three complete, the others for one reason each."""
    size = math.exp(rng.uniform(math.log(0.008), math.log(0.6)))
    latency = 0.05 + 1.9 * size**0.85 * rng.uniform(0.8, 1.25)
    quality = min(0.994, 0.99 - 0.011 / size**0.55 + rng.gauss(0, 0.008))
    kind = rng.random()
    state, reason, top1, source = "complete", None, quality, "measured"
    if latency > 0.9 and kind < 0.8:
        state, reason, top1, source = "pruned", f"infeasible: latency_ms@cpu {latency:.2f} > 0.8", None, "predicted"
    elif kind < 0.12:
        state, reason, top1, source = "pruned", "rung 1: 0.71 is not in the upper 30 %", quality * 0.8, "predicted"
    elif kind < 0.18:
        state, reason, top1, source = "fail", reasons[number % len(reasons)], None, "missing"
    elif kind < 0.4:
        source = "predicted"
    decisions = {"resolution": 8, "width": rng.choice([0.5, 0.75, 1.0]), "activation": rng.choice(["relu", "hswish"])}
    for stage in range(3):
        decisions |= {f"stage{stage}.depth": rng.randint(1, 3), f"stage{stage}.kernel": rng.choice([3, 5])}
        decisions |= {f"stage{stage}.expand": rng.choice([2, 3, 4]), f"stage{stage}.se": rng.random() < 0.3}
    spread = 0.02 if source == "measured" else 0.12
    shown = source != "missing"
    return {
        "number": number,
        "arch_id": f"{rng.getrandbits(64):016x}",
        "arch": json.dumps({"space": "mobile", "decisions": decisions}),
        "state": state,
        "reason": reason,
        "seconds": rng.uniform(1, 9),
        "feasible": state == "complete" and latency <= 0.8,
        "on_front": False,
        **_cells("top1", top1, 0.006, "measured"),
        **_cells("latency_ms@cpu", latency if shown else None, spread, source),
        **_cells("size_mb", size if shown else None, 0.0, "computed"),
        **_cells("params", round(size * 2.4e5) if shown else None, 0.0, "computed"),
        **_cells("macs", round(size * 4e6) if shown else None, 0.0, "computed"),
    }


def _mark_front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best = 0.0
    front = []
    for row in sorted((row for row in rows if row["feasible"]), key=lambda row: float(row["latency_ms@cpu"])):
        if row["top1"] > best:
            best = row["top1"]
            row["on_front"] = True
            front.append(row)
    return front


def _verify(row: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    top1 = min(float(row["top1"]) + rng.gauss(0.004, 0.002), 0.997)
    latency = float(row["latency_ms@cpu"]) * rng.gauss(1.0, 0.05)
    return {
        **row,
        **_cells("top1", top1, 0.005, "measured"),
        **_cells("latency_ms@cpu", latency, 0.025, "measured"),
        **_cells("top1_test", top1 - rng.uniform(0.0, 0.008), 0.0, "measured"),
    }


def _study(objectives: Sequence[tuple[str, str]], limits: Sequence[str], trials: int) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "digits-edge",
        "space": {"use": "mobile"},
        "data": {"use": "digits"},
        "devices": {"cpu": {"runtime": "onnxruntime", "precision": "fp32", "threads": 1}},
        "objectives": [{"metric": metric, "direction": direction} for metric, direction in objectives],
        "limits": list(limits),
        "track": ["macs", "params"],
        "search": {"sampler": "nsga2", "seed": 0, "trials": trials},
    }


ENVIRONMENT = {
    "hwnas": "0.1.0",
    "python": "3.12.11",
    "versions": {"torch": "2.13.0", "onnxruntime": "1.32.0", "optuna": "5.0.0"},
    "seed": 0,
    "data": {"name": "digits", "digest": "sha256:7d1c0c7f"},
    "devices": {"cpu": {"model": "Example CPU @ 2.4 GHz", "cores": 2, "governor": "performance"}},
    "git": {"commit": "0123abc", "dirty": False},
}


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """Returns a function that makes a run of the wanted shape.

    Its arguments: trials, objectives, limits, verified, seed, reasons (of failed trials), edit (called with the list of
    rows before the front is taken), folder.
    """

    def make(
        trials: int = 60,
        objectives: Sequence[tuple[str, str]] = TWO,
        limits: Sequence[str] = ("latency_ms@cpu <= 0.8",),
        verified: bool = True,
        seed: int = 3,
        reasons: Sequence[str] = ("timeout", "crash:SIGSEGV", "export: unsupported"),
        edit: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
        folder: Path = tmp_path,
    ) -> RunData:
        rng = random.Random(seed)
        rows = [_row(number, rng, reasons) for number in range(trials)]
        edit(rows)
        front = [_verify(row, rng) for row in _mark_front(rows)]
        columns = list(_row(0, random.Random(0), reasons))
        return RunData(
            folder=folder,
            study=_study(objectives, limits, trials),
            environment=ENVIRONMENT,
            trials=pd.DataFrame(rows, columns=columns),
            front=pd.DataFrame(front) if verified and front else None,
        )

    return make
