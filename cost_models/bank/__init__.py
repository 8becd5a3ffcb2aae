"""Costs per unit of work of devices already fitted: what `TransferModel` starts from.

An entry is one plain JSON file: costs by feature, so that it outlives the order of the features, and their origin.
The scale of a device is its own; only the proportions of the costs are handed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ...spaces.errors import DataError
from ..model import finite, read_json, write_json

if TYPE_CHECKING:
    from ..additive import AdditiveModel
    from ..fitted import Fitted

__all__ = ["BankEntry", "add_to_bank", "bank_of", "entry_of", "read_bank"]

SHIPPED = Path(__file__).parent
"""Folder of the entries that come with hwnas."""

_TOLD = ("cpu", "machine", "governor", "threads", "precision", "protocol")
"""What an entry tells of a device beside its runtime."""


@dataclass(frozen=True, slots=True)
class BankEntry:
    """A fitted device.

    Attributes:
        name: of the device and its runtime, for people.
        costs: per unit of each feature of the set that its model chose, by name; none negative.
        target: what was measured.
        samples: number of networks measured.
        noise: relative standard deviation of one measurement; 0: not known.
        fingerprint: what tells the device.
        space: of the samples.
    """

    name: str
    costs: Mapping[str, float]
    target: str = "latency_ms"
    samples: int = 0
    noise: float = 0.0
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    space: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "costs": dict(self.costs), "fingerprint": dict(self.fingerprint)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """
        costs = {str(name): finite(cost) for name, cost in data["costs"].items()}
        if not costs or min(costs.values()) < 0 or max(costs.values()) == 0:
            raise ValueError("costs must be at least 0, and not all 0")
        return cls(**{**data, "costs": costs})


def bank_of(models: Mapping[str, AdditiveModel], target: str = "latency_ms") -> tuple[BankEntry, ...]:
    """A bank of fitted additive models, by the name of the device.

    Raises:
        ValueError: one is not fitted.
    """
    found = []
    for name, model in models.items():
        count = len(model.left_out_errors)
        every = zip(model.features, map(float, model.costs), strict=True)
        costs = {feature: cost for feature, cost in every if feature in model.judged}
        found.append(BankEntry(name, costs, target, count, model.noise))
    return tuple(found)


def entry_of(fitted: Fitted, name: str) -> BankEntry:
    """An entry of a file with its samples: an additive model is fitted on them, whatever the file's own model is.

    Raises:
        DataError: it has too few samples, e.g. because its file is of schema 1.
    """
    from ..additive import AdditiveModel

    if len(fitted.samples) < AdditiveModel.min_samples:
        raise DataError(f"{name}: {len(fitted.samples)} samples in the file, {AdditiveModel.min_samples} are needed")
    where = fitted.provenance
    model = AdditiveModel()
    model.fit([sample.graph for sample in fitted.samples], [sample.value for sample in fitted.samples], where.noise)
    (entry,) = bank_of({name: model}, where.target)
    told = {key: value for key, value in where.fingerprint.items() if key in _TOLD or _is_runtime(key)}
    return BankEntry(name, entry.costs, where.target, len(fitted.samples), where.noise, told, where.space)


def add_to_bank(entry: BankEntry, folder: Path) -> Path:
    """Writes an entry into a folder, in place of one of the same name and target; returns its file.

    Raises:
        DiskError: it cannot be written.
    """
    name = re.sub(r"[^a-z0-9]+", "-", entry.name.lower()).strip("-")
    path = folder / f"{name or 'device'}-{entry.target}.json"
    write_json(path, entry.to_json(), indent=1)
    return path


def read_bank(folder: Path = SHIPPED) -> tuple[BankEntry, ...]:
    """The entries of a folder, in the order of their files' names; those that come with hwnas when it is left out.

    Raises:
        DataError: a file is not an entry; the message names it.
    """
    return tuple(_read(path) for path in sorted(folder.glob("*.json")))


def _read(path: Path) -> BankEntry:
    data = read_json(path)
    try:
        return BankEntry.from_json({key: value for key, value in data.items() if key != "schema_version"})
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: not an entry of a bank ({type(error).__name__}: {error})") from None


def _is_runtime(key: str) -> bool:
    from ...profilers import runtime_names

    return key in runtime_names()
