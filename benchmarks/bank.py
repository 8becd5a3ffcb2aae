"""Adds fitted devices to a bank of costs, from which the cost model `transfer` starts on another device.

Reads files of `hwnas fit` (or of `Fitted.save`) with their samples, fits the additive model of this version on them,
and writes an entry for each: costs by feature, the device, the number of samples, the noise. Prints the entries, and
how well each device is predicted from the others' costs and a few samples of its own, beside these samples alone;
and measured / estimated by `roofline` with the peaks of this machine, the least and the greatest.

    python benchmarks/bank.py cpu.json cpu-int8.json --out cost_models/bank
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwnas.cost_models import AdditiveModel, Fitted
from hwnas.cost_models.accuracy import accuracy
from hwnas.cost_models.bank import BankEntry, add_to_bank, entry_of
from hwnas.cost_models.roofline import RooflineModel
from hwnas.cost_models.transfer import TransferModel


def main(argv: Sequence[str] | None = None) -> None:
    """Reads, fits, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="fitted cost models with their samples")
    parser.add_argument("--out", type=Path, help="folder of the bank; nothing is written when left out")
    parser.add_argument("--samples", type=int, default=6, help="of a device's own in the comparison (default: 6)")
    parser.add_argument("--seeds", type=int, default=5, help="choices of these samples (default: 5)")
    parser.add_argument("--json", type=Path, help="file for the rows of the comparison")
    options = parser.parse_args(argv)
    fitted = {_name(one): one for one in map(Fitted.load, options.files)}
    entries = {name: entry_of(one, name) for name, one in fitted.items()}
    rows = []
    for name, entry in entries.items():
        others = [other for each, other in entries.items() if each != name and other.target == entry.target]
        rows.append({"device": name, **_compared(fitted[name], others, options.samples, range(options.seeds))})
        told = " ".join(f"{key} {row:.3f}" for key, row in rows[-1].items() if isinstance(row, float))
        ratios = [one.value / RooflineModel().fit().predict(one.graph).value for one in fitted[name].samples]
        told += f"; measured / roofline {min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name}: {entry.samples} samples of {entry.space or 'no space'}, noise {entry.noise:.1%}; {told}")
        if options.out is not None:
            print(add_to_bank(entry, options.out))
    if options.json is not None:
        told_options = {key: str(value) for key, value in vars(options).items()}
        options.json.write_text(json.dumps({"schema_version": 1, "options": told_options, "rows": rows}), "utf-8")


def _name(fitted: Fitted) -> str:
    """Of a device: processor, runtime, precision, threads."""
    told = fitted.provenance.fingerprint
    runtime = fitted.samples[0].graph.runtime.partition(" ")[0] if fitted.samples else ""
    shown = [told.get("cpu", told.get("board", "device")), runtime, told.get("precision", ""), told.get("threads", "")]
    return " ".join(str(part) for part in shown if part != "")


def _compared(fitted: Fitted, others: Sequence[BankEntry], count: int, seeds: range) -> dict[str, Any]:
    """MAPE at the samples that were not fitted, and the weight of the bank: means over seeds."""
    x = np.array([AdditiveModel.totals_of(sample.graph) for sample in fitted.samples])
    y = np.array([sample.value for sample in fitted.samples])
    if len(y) < count + 2:
        return {}
    alone, helped, weights = [], [], []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(y))
        own, rest = order[:count], order[count:]
        transfer = TransferModel(others, fitted.provenance.target).fit_totals(x[own], y[own])
        alone.append(accuracy(AdditiveModel().fit_totals(x[own], y[own]).predict_totals(x[rest])[0], y[rest]).mape)
        helped.append(accuracy(transfer.predict_totals(x[rest])[0], y[rest]).mape)
        weights.append(transfer.weight)
    return {
        "MAPE alone": float(np.mean(alone)),
        "with the bank": float(np.mean(helped)),
        "weight": float(np.mean(weights)),
    }


if __name__ == "__main__":
    main()
