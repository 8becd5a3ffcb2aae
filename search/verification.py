"""The end of a study: finalists are trained over seeds, exported, compared with torch, and measured on the device."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spaces import Architecture
from ..spaces.errors import CandidateError, DataError
from .evaluation import Bench, Evaluator, parity, probe_files, remove
from .files import read_json, write_json
from .frames import Row, objective_values
from .metrics import Limit, Metric, Reading
from .outcome import share_reading
from .pareto import crowding, nondominated, ranks
from .quantities import format_reading

if TYPE_CHECKING:
    from ..profilers import Child
    from .latency import Device

__all__ = ["Verified", "finalists", "test_accuracy", "verified_front", "verify"]

T90 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""Two-sided 90 % quantiles of Student's t for 1 to 9 degrees of freedom; beyond, 1.7."""

FILE = "verified.json"
VERIFIED = "verified"
MEASUREMENTS = 3
"""How often a finalist is measured at most, while its interval leaves open whether a limit holds."""


@dataclass(frozen=True)
class Verified:
    """A finalist after its verification.

    Attributes:
        arch_id: id of its architecture.
        readings: measured, or computed where a count is exact; `top1` is the mean over the seeds.
        feasible: True when every limit holds, by the worse end of a measured cost's interval.
        reason: why it is not: what failed, or the limit that does not surely hold; empty when feasible.
        seeds: for each seed, the share of validation samples that was right.
        seconds: spent on it.
        parity: largest difference between torch and the exported file, relative to the largest output.
    """

    arch_id: str
    readings: dict[str, Reading]
    feasible: bool
    reason: str
    seeds: dict[str, float]
    seconds: float
    parity: float | None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "readings": {name: reading.to_dict() for name, reading in self.readings.items()}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Verified:
        return cls(**{**data, "readings": {name: Reading.from_dict(r) for name, r in data["readings"].items()}})


def finalists(rows: Sequence[Row], objectives: Sequence[Metric]) -> list[Row]:
    """Returns the complete, feasible trials in the order in which they deserve a verification.

    The front first, then the front without it, and so on; within a front the least crowded first.
    """
    able = [row for row in rows if row.counts]
    if not able:
        return []
    values = objective_values(objectives, (row.outcome.readings for row in able))
    rank = ranks(values)
    spread = np.zeros(len(able))
    for level in np.unique(rank):
        spread[rank == level] = crowding(values[rank == level])
    order = np.lexsort((np.arange(len(able)), -spread, rank))
    return [able[i] for i in order]


def verify(bench: Bench, evaluator: Evaluator, row: Row) -> Verified:
    """Trains a finalist over the seeds, ships the best one's weights, and measures the file that is shipped.

    The answer is kept in the artefacts, so that a study that is stopped here goes on where it was.
    """
    folder = bench.artifacts(row.arch_id)
    if (folder / FILE).is_file() and (folder / "model.onnx").is_file():
        kept = _read(folder / FILE)
        if len(kept.seeds) in (0, bench.spec.quality.seeds):
            return kept
    try:
        verified = _verify(bench, evaluator, row, folder)
    except CandidateError as error:
        verified = Verified(row.arch_id, dict(row.outcome.readings), False, str(error), {}, 0.0, None)
    write_json(folder / FILE, verified.to_dict())
    return verified


def _read(path: Path) -> Verified:
    data = read_json(path)
    try:
        return Verified.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is corrupt ({error}): remove it, and the finalist is verified again") from error


def _verify(bench: Bench, evaluator: Evaluator, row: Row, folder: Path) -> Verified:
    readings = {name: r for name, r in row.outcome.readings.items() if r.source == "computed"}
    seeds, seconds = {}, 0.0
    best = folder / "weights.safetensors"
    shares: list[float] = []
    arch = Architecture.from_json(row.arch)
    total = 0
    for index in range(bench.spec.quality.seeds):
        seed = bench.spec.search.seed + 1 + index  # the search's own seed chose this candidate: it would flatter it
        weights = folder / f"seed{seed}.safetensors"
        told = evaluator.train(arch, seed, bench.spec.quality.rungs[-1].epochs or 1, weights)
        share, total = told["correct"] / told["total"], told["total"]
        seconds += told["seconds"]
        if not shares or share > max(shares):
            weights.replace(best)
        else:
            weights.unlink()
        shares.append(share)
        seeds[str(seed)] = share
    readings["top1"] = mean_reading(shares, total)
    probe = folder / "probe"
    size_mb = evaluator.export(arch, best, folder / "model.onnx", probe)
    readings["size_mb"] = Reading(size_mb, source="computed")
    worst = 0.0
    for device in bench.devices.values():
        worst = max(worst, parity(device, folder / "model.onnx", probe))
        if device in bench.measured:
            readings[device.metric] = _measured(bench, device, row.arch_id, folder / "model.onnx")
    remove(*probe_files(probe))
    reason = _broken(bench.spec.limits, readings)
    return Verified(row.arch_id, readings, not reason, reason, seeds, seconds, worst)


def _measured(bench: Bench, device: Device, arch_id: str, model: Path) -> Reading:
    """Measures the file that is shipped; again when the interval leaves open whether a limit holds."""
    limits = [limit for limit in bench.spec.limits if str(limit.metric) == device.metric]
    for _ in range(MEASUREMENTS):
        reading = device.measure(arch_id, model, stem=VERIFIED)
        if all(limit.surely_met_by(reading) or limit.surely_broken_by(reading) for limit in limits):
            break
    return reading


def _broken(limits: Sequence[Limit], readings: Mapping[str, Reading]) -> str:
    """Returns which limit does not surely hold, or an empty text; of accuracy the mean over the seeds counts."""
    for limit in limits:
        reading = readings.get(str(limit.metric))
        if reading is None:
            continue
        if limit.broken_by(reading) if limit.metric.name == "top1" else not limit.surely_met_by(reading):
            shown = format_reading(str(limit.metric), reading, interval=True)
            return f"{limit.metric} {shown}, limit {limit.sign} {limit.bound:g}"
    return ""


def mean_reading(shares: Sequence[float], total: int) -> Reading:
    """Returns the mean over seeds with its 90 % interval by Student's t; one seed has the interval of its samples."""
    if len(shares) == 1:
        return share_reading(round(shares[0] * total), total)
    mean = statistics.fmean(shares)
    t = T90[len(shares) - 2] if len(shares) - 2 < len(T90) else 1.7
    reach = t * statistics.stdev(shares) / len(shares) ** 0.5
    return Reading(mean, max(0.0, mean - reach), min(1.0, mean + reach))


def verified_front(verified: Sequence[Verified], objectives: Sequence[Metric]) -> list[Verified]:
    """Returns the feasible finalists that no other one dominates."""
    able = [v for v in verified if v.feasible]
    if not able:
        return []
    keep = nondominated(objective_values(objectives, (v.readings for v in able)))
    return [v for v, kept in zip(able, keep, strict=True) if kept]


def test_accuracy(bench: Bench, child: Child, row: Row) -> Reading:
    """Scores the shipped file of a front member once on the test part, with the device's runtime."""
    folder = bench.artifacts(row.arch_id)
    inputs, labels = bench.folder / "test_inputs.npy", bench.folder / "test_labels.npy"
    try:
        child.call(
            {"do": "test_part", "arch": row.arch, "inputs": str(inputs), "labels": str(labels)}, deadline_s=600.0
        )
        device = next(iter(bench.devices.values()))
        outputs = device.outputs(folder / "model.onnx", inputs)
        right = int((outputs.argmax(axis=1) == np.load(labels, allow_pickle=False)).sum())
        return share_reading(right, len(outputs))
    finally:
        remove(inputs, labels)
