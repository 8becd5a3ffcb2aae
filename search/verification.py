"""The end of a study: finalists are trained over seeds, exported, compared with torch, and measured on the device."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spaces import Architecture
from ..spaces.errors import CandidateError, DataError
from .energy import demand, needed
from .evaluation import Bench, Evaluator, parity, probe_files, remove
from .files import read_json, write_json
from .frames import Row, objective_values, write_parquet
from .metrics import Limit, Metric, Reading
from .outcome import share_reading
from .pareto import Floats, Ints, crowding, nondominated, ranks
from .quantities import format_reading

if TYPE_CHECKING:
    import pandas as pd

    from ..profilers import Child
    from .latency import Device

__all__ = ["Verified", "finalists", "front_of_search", "test_accuracy", "verified_front", "verify"]

T90 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
"""Two-sided 90 % quantiles of Student's t for 1 to 9 degrees of freedom; beyond, 1.7."""

FILE, TEST = "verified.json", "test.json"
VERIFIED = "verified"

PROCESSES = 2
"""Fresh processes that measure each finalist: memory is laid out anew in each, and the network may notice."""


@dataclass(frozen=True)
class Verified:
    """A finalist after its verification.

    Attributes:
        arch_id: id of its architecture.
        readings: measured, or computed where a count is exact, or estimated where the device is not there; `top1` is
            the mean over the seeds, of the network in the precision of the study's first device.
        feasible: True when every limit holds, by the worse end of a measured cost's interval.
        reason: why it is not: what failed, or the limit that does not surely hold; empty when feasible.
        seeds: for each seed, the share of validation samples that was right.
        seconds: spent on it.
        parity: for each device, the largest difference between torch and its file, relative to the largest output.
    """

    arch_id: str
    readings: dict[str, Reading]
    feasible: bool
    reason: str
    seeds: dict[str, float]
    seconds: float
    parity: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "readings": {name: reading.to_dict() for name, reading in self.readings.items()}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Verified:
        readings = {name: Reading.from_dict(reading) for name, reading in data["readings"].items()}
        return cls(**{**data, "readings": readings, "parity": dict(data["parity"])})


def finalists(rows: Sequence[Row], objectives: Sequence[Metric], wanted: int) -> list[Row]:
    """Returns the complete, feasible trials in the order in which they deserve a verification.

    The first half of those wanted are the front, then the front without it, and so on, the least crowded of each first.
    The others are neighbours: trials that may be on the front, given their intervals. One training and one validation
    part are noisy, and a lucky cheap network hides better ones that cost more; so neighbours are taken far apart in
    their costs, the farthest from those chosen first.
    """
    able = [row for row in rows if row.counts]
    if not able:
        return []
    values = objective_values(objectives, (row.outcome.readings for row in able))
    order = [int(i) for i in _by_rank(values)]
    chosen, rest = order[: -(-wanted // 2)], order[-(-wanted // 2) :]
    neighbours = [i for i in rest if _may_be_on_front(able[i], able, objectives)]
    costs = _scaled(values[:, [metric.name != "top1" for metric in objectives]])
    while neighbours:
        distances = [float(np.abs(costs[i] - costs[chosen]).sum(axis=1).min()) for i in neighbours]
        chosen.append(neighbours.pop(int(np.argmax(distances))))
    return [able[i] for i in (*chosen, *(i for i in rest if i not in set(chosen)))]


def _by_rank(values: Floats) -> Ints:
    """Returns the order of points (n, m), minimised: by rank, within a rank the least crowded first."""
    rank = ranks(values)
    spread = np.zeros(len(values))
    for level in np.unique(rank):
        spread[rank == level] = crowding(values[rank == level])
    order: Ints = np.lexsort((np.arange(len(values)), -spread, rank))
    return order


def _may_be_on_front(row: Row, others: Sequence[Row], objectives: Sequence[Metric]) -> bool:
    """True unless another trial is better everywhere, at the worse ends of its intervals and the better of this."""
    best = _ends(row, objectives, better=True)
    return not any((_ends(other, objectives, better=False) < best).all() for other in others)


def _ends(row: Row, objectives: Sequence[Metric], *, better: bool) -> Floats:
    """Returns one end of each objective's interval, less being better: (m,)."""
    ends = []
    for metric in objectives:
        reading = row.outcome.readings[str(metric)]
        minimised = metric.kind.direction == "minimize"
        end = reading.low if minimised == better else reading.high
        value = reading.value if end is None else end
        assert value is not None, "a complete trial has all its objectives"
        ends.append(value if minimised else -value)
    return np.array(ends)


def _scaled(values: Floats) -> Floats:
    """Returns the columns of (n, m) on a scale from 0 to 1, logarithmic where all values are above 0."""
    logs = np.where((values > 0).all(axis=0), np.log(np.where(values > 0, values, 1.0)), values)
    width = np.ptp(logs, axis=0)
    scaled: Floats = (logs - logs.min(axis=0)) / np.where(width > 0, width, 1.0)
    return scaled


def verify(bench: Bench, evaluator: Evaluator, row: Row) -> Verified:
    """Trains a finalist over the seeds, ships the best one's weights, and measures the file that is shipped.

    The answer is kept in the artefacts, so that a study that is stopped here goes on where it was.
    """
    folder = bench.artifacts(row.arch_id)
    needed = [folder / FILE, *(device.file(folder / "model.onnx") for device in bench.devices.values())]
    if all(path.is_file() for path in needed):
        kept = _read(folder / FILE)
        if len(kept.seeds) == bench.spec.quality.seeds:
            return kept
    try:
        verified = _verify(bench, evaluator, row, folder)
    except CandidateError as error:
        verified = Verified(row.arch_id, dict(row.outcome.readings), False, str(error), {}, 0.0, {})
    write_json(folder / FILE, verified.to_dict())
    return verified


def front_of_search(bench: Bench, rows: Sequence[Row]) -> list[Verified]:
    """Returns the complete trials as they are, for a study that has no weights to verify; the limits hold surely."""
    able = [row for row in rows if row.counts and not _broken(bench.spec.limits, row.outcome.readings)]
    return [Verified(row.arch_id, dict(row.outcome.readings), True, "", {}, 0.0, {}) for row in able]


def _read(path: Path) -> Verified:
    data = read_json(path)
    try:
        return Verified.from_dict(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is corrupt ({error}): remove it, and the finalist is verified again") from error


def _verify(bench: Bench, evaluator: Evaluator, row: Row, folder: Path) -> Verified:
    arch = Architecture.from_json(row.arch)
    readings = {name: r for name, r in row.outcome.readings.items() if r.source == "computed"} | evaluator.told(arch)
    seeds, seconds = {}, 0.0
    best = folder / "weights.safetensors"
    shares: list[float] = []
    total, device = 0, next(iter(bench.devices.values()))
    for index in range(bench.spec.quality.seeds):
        seed = bench.spec.search.seed + 1 + index  # the search's own seed chose this candidate: it would flatter it
        weights = folder / f"seed{seed}.safetensors"
        told = evaluator.train(arch, seed, bench.spec.quality.rungs[-1].epochs or 1, weights)
        share, total = told["correct"] / told["total"], told["total"]
        if device.precision != "fp32":
            share, total = _share_of_file(evaluator, device, arch, weights)
        seconds += told["seconds"]
        if not shares or share > max(shares):
            weights.replace(best)
        else:
            weights.unlink()
        shares.append(share)
        seeds[str(seed)] = share
    readings["top1"] = mean_reading(shares, total)
    probe, differences = folder / "probe", {}
    try:
        size_mb = evaluator.export(arch, best, folder / "model.onnx", probe)
        readings["size_mb"] = Reading(size_mb, source="computed")
        for each in bench.devices.values():
            difference = parity(each, folder / "model.onnx", probe)
            if each.gives_outputs:
                differences[each.name] = difference
            if each in bench.measured:
                readings |= _measured(bench, each, row.arch_id, folder / "model.onnx", probe)
        if any(device.gives_outputs for device in bench.measured):
            write_parquet(_layers(bench, folder / "model.onnx"), folder / "layers.parquet", schema_version=1)
    finally:
        remove(*probe_files(probe))
    reason = _broken(bench.spec.limits, readings)
    return Verified(row.arch_id, readings, not reason, reason, seeds, seconds, differences)


def _share_of_file(evaluator: Evaluator, device: Device, arch: Architecture, weights: Path) -> tuple[float, int]:
    """Returns the share of validation samples that a device gets right with these weights, and their number."""
    model, probe = weights.with_suffix(".onnx"), weights.with_suffix(".probe")
    try:
        evaluator.export(arch, weights, model, probe)
        right, total = _score(evaluator.child, arch.to_json(), "validation", device, model)
        return right / total, total
    finally:
        files = {each.file(model) for each in evaluator.bench.devices.values()}
        remove(model, *files, *probe_files(probe))


def _score(child: Child, arch: str, part: str, device: Device, model: Path) -> tuple[int, int]:
    """Returns how many samples of a part a device gets right with its file of a network, and their number."""
    inputs, labels = (model.with_name(f"{model.stem}.{part}.{what}.npy") for what in ("inputs", "labels"))
    try:
        request = {"do": "part", "arch": arch, "part": part, "inputs": str(inputs), "labels": str(labels)}
        child.call(request, deadline_s=600.0)
        right = np.load(labels, allow_pickle=False)
        return int((device.outputs(model, inputs).argmax(axis=1) == right).sum()), len(right)
    finally:
        remove(inputs, labels)


def _layers(bench: Bench, model: Path) -> pd.DataFrame:
    """Returns what each device executes for a network: a row for each operator, in order."""
    import pandas as pd

    rows = [
        {
            "device": device.name,
            "place": place,
            "name": node.name,
            "operator": node.op,
            "type": node.dtype,
            "output": "x".join(map(str, node.outputs[0])) if node.outputs else "",
            "macs": node.macs if node.counted else None,
            "weight_bytes": node.weight_bytes,
            "bytes_in": node.bytes_in,
            "bytes_out": node.bytes_out,
        }
        for device in bench.measured
        if device.gives_outputs
        for place, node in enumerate(device.graph(model).nodes)
    ]
    return pd.DataFrame(rows).astype({"macs": "Int64"})  # which has a null for what cannot be counted


def _measured(bench: Bench, device: Device, arch_id: str, model: Path, probe: Path) -> dict[str, Reading]:
    """Measures the file that is shipped; again when it was noisy, or leaves open whether a limit holds."""
    limits = [limit for limit in bench.spec.limits if str(limit.metric) == device.metric]

    def decided(reading: Reading) -> bool:
        return not reading.noisy and all(
            limit.surely_met_by(reading) or limit.surely_broken_by(reading) for limit in limits
        )

    inputs, _ = probe_files(probe)
    measured = device.measure(arch_id, model, stem=VERIFIED, inputs=inputs, decided=decided, processes=PROCESSES)
    demand(needed(bench.spec), measured)
    return measured


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


def test_accuracy(bench: Bench, child: Child, row: Row, note: Callable[[str], None]) -> dict[str, Reading]:
    """Scores the shipped files of a front member once on the test part, each with a device's runtime.

    The answers are kept beside the files: a study that is run again does not look at the test part again.

    Returns:
        `top1_test` of the first device, and `top1_test@NAME` of each other that has another precision; missing, with a
        note, where a device fails.
    """
    folder = bench.artifacts(row.arch_id)
    model, kept = folder / "model.onnx", folder / TEST
    scored: dict[str, Device] = {}
    for device in bench.devices.values():
        if device.precision not in {other.precision for other in scored.values()}:
            scored[f"top1_test@{device.name}" if scored else "top1_test"] = device
    told = _scores_kept(kept)
    for name, device in scored.items():
        digest = _digest(device.file(model))
        if told.get(name, {}).get("model") != digest:
            told.pop(name, None)
            try:
                right, total = _score(child, row.arch, "test", device, model)
            except CandidateError as error:
                note(f"{row.arch_id} could not be run on the test part on {device.name}: {error}")
                continue
            told[name] = {"model": digest, "correct": right, "total": total}
            write_json(kept, told)
    return {
        name: share_reading(told[name]["correct"], told[name]["total"]) if name in told else Reading.missing()
        for name in scored
    }


def _scores_kept(path: Path) -> dict[str, dict[str, Any]]:
    """Reads what was found on the test part earlier.

    Raises:
        DataError: the file is corrupt.
    """
    if not path.is_file():
        return {}
    try:
        return {
            str(name): {"model": str(said["model"]), "correct": int(said["correct"]), "total": int(said["total"])}
            for name, said in read_json(path).items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is corrupt ({error}): remove it, and the test part is read again") from error


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
