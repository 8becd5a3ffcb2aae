"""A fitted cost model with what it learned from: the samples, the device, the noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..profilers.graph import Graph
from ..spaces.errors import DataError, UsageError, did_you_mean
from .model import CostModel, check_samples, finite, model_class, read_json, write_json

if TYPE_CHECKING:
    from .bank import BankEntry
    from .roofline import Peaks

__all__ = ["TARGETS", "USES", "Fitted", "Provenance", "Sample", "device_of", "differences", "fit_model"]

USES = ("auto", "additive", "additive+gp", "lookup", "trees", "transfer", "roofline")
"""What `use` of `fit_model` may be."""

TARGETS = ("latency_ms", "energy_mj", "peak_memory_mb")
"""What can be learned."""

_OF_TIME = ("lookup", "roofline")
"""Models that add up times."""

_NO_MATTER = frozenset({"cores", "cores_used", "memory_gb", "meter", "os", "python"})
"""Keys of a fingerprint that do not decide how fast a network runs; all others do (governor, versions, threads).

Of energy the meter decides, too: two of them do not measure the same part of a machine."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A measured network.

    Attributes:
        graph: what the device executes.
        value: measured, in the target's unit, finite and above 0.
        name: of the architecture; empty when it has none.
        at_random: drawn at random, not by design: only these tell the error at ordinary networks without a bias.
        device: `device_of` the fingerprint it was measured under, and the target; empty when it is not known.
        kernels_ms: times of the graph's kernels in their order, for `lookup`, see `kernel_times`; empty when not taken.
    """

    graph: Graph
    value: float
    name: str = ""
    at_random: bool = False
    device: str = ""
    kernels_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the samples come from.

    Attributes:
        fingerprint: of the device, see `profilers/fingerprint.py`; empty when it is not known.
        target: what was measured, one of `TARGETS`.
        space: name of the space of the samples.
        input_shape: (C, H, W); empty when there are several or it is not known.
        num_classes: of the samples; 0: several, or not known.
        seed: of the choice of samples; None when there was none.
        noise: relative standard deviation of one measurement; 0: not known.
        created: time in ISO 8601, or empty.
    """

    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    target: str = "latency_ms"
    space: str = ""
    input_shape: tuple[int, ...] = ()
    seed: int | None = None
    noise: float = 0.0
    created: str = ""
    num_classes: int = 0

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "fingerprint": dict(self.fingerprint), "input_shape": list(self.input_shape)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            TypeError, ValueError: it is not of that form.
        """
        shape = tuple(int(side) for side in data.get("input_shape", ()))
        found = cls(**{**data, "fingerprint": dict(data.get("fingerprint", {})), "input_shape": shape})
        if found.target not in TARGETS:
            raise ValueError(f"unknown target {found.target!r}")
        if finite(found.noise) < 0:
            raise ValueError("a negative noise")
        return found


@dataclass(frozen=True)
class Fitted:
    """A cost model, its samples and their provenance: one file.

    >>> fitted = Fitted.of("auto", samples, Provenance(profiler.fingerprint()))   # doctest: +SKIP
    >>> fitted.save(Path("cpu.json"))                                             # doctest: +SKIP
    >>> Fitted.load(Path("cpu.json"), profiler.fingerprint()).model.predict(graph)  # doctest: +SKIP

    Attributes:
        model: fitted.
        samples: all that it was fitted on, in order; empty when the file does not have them (schema 1).
        provenance: of the samples.
        foreign: keys of the fingerprint in which the device at hand differs from that of the samples; empty unless it
            was loaded with `any_device`.
    """

    model: CostModel
    samples: tuple[Sample, ...] = ()
    provenance: Provenance = Provenance()
    foreign: tuple[str, ...] = ()

    @classmethod
    def of(cls, use: str, samples: Sequence[Sample], provenance: Provenance, **how: Any) -> Self:
        """Fits; see `fit_model`, which says what it raises."""
        model = fit_model(use, samples, provenance.noise, target=provenance.target, **how)
        return cls(model, tuple(samples), provenance)

    def save(self, path: Path) -> None:
        """Writes a JSON file, aside first and then renamed.

        Raises:
            DiskError: it cannot be written.
        """
        data = {
            "model": self.model.name,
            "parameters": self.model.to_json(),
            "provenance": self.provenance.to_json(),
            **_packed(self.samples),
        }
        write_json(path, data)

    @classmethod
    def load(cls, path: Path, fingerprint: Mapping[str, Any] | None = None, any_device: bool = False) -> Self:
        """Reads a file that `save` wrote, or `CostModel.save` (also of schema 1). No code of it is run.

        Args:
            path: the file.
            fingerprint: of the device at hand; None where none is, e.g. to look at a file: nothing is compared then.
            any_device: take another device's model, too; `foreign` says in what they differ.

        Raises:
            DataError: it is missing, truncated, not JSON, of a newer schema, of another device, or not a cost model.
            DeviceError: a package that the model needs is missing.
        """
        data = read_json(path)
        try:
            model = model_class(str(data["model"])).from_json(data["parameters"])
            provenance = Provenance.from_json(data.get("provenance", {}))
            samples = _unpacked(data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise DataError(f"{path}: not a cost model ({type(error).__name__}: {error})".replace("\n", " ")) from None
        if fingerprint is not None and not any_device:
            _check_device(str(path), fingerprint, provenance.fingerprint, provenance.target)
        foreign = () if fingerprint is None else differences(provenance.fingerprint, fingerprint, provenance.target)
        return cls(model, samples, provenance, foreign)


def fit_model(
    use: str,
    samples: Sequence[Sample],
    noise: float = 0.0,
    target: str = "latency_ms",
    bank: Sequence[BankEntry] | None = None,
    peaks: Peaks | None = None,
) -> CostModel:
    """Fits a cost model of a kind.

    Args:
        use: one of `USES`. Peak memory has one model, whatever `auto` or `additive` is asked for: see `memory.py`.
        samples: measured networks of one device; `roofline` needs none and learns from none.
        noise: relative standard deviation of one measurement; 0: not known.
        target: what was measured, one of `TARGETS`.
        bank: devices that `transfer` and `auto` may start from; those that come with hwnas when left out.
        peaks: of the device, for `roofline`; those of this machine's processor when left out.

    Raises:
        UsageError: no such kind or target, or not this kind for this target.
        DataError: the samples are of two devices.
        DeviceError: a package that the model needs is missing.
        ValueError: see `CostModel.fit`.
    """
    if use not in USES:
        raise UsageError(f"unknown cost model '{use}'{did_you_mean(use, USES)}")
    if target not in TARGETS:
        raise UsageError(f"unknown target '{target}'{did_you_mean(target, TARGETS)}")
    if (target == "peak_memory_mb" and use not in ("auto", "additive")) or (target != "latency_ms" and use in _OF_TIME):
        raise UsageError(f"cost model '{use}' cannot learn {target}: use 'auto'")
    check_samples(len(samples), [sample.value for sample in samples], 0, noise)
    _check_one_device(samples)
    model = _unfitted(use, samples, target, bank, peaks)
    graphs, values = [sample.graph for sample in samples], [sample.value for sample in samples]
    marks = [sample.at_random for sample in samples]
    return model.fit(graphs, values, noise, marks if any(marks) else ())


def _unfitted(
    use: str, samples: Sequence[Sample], target: str, bank: Sequence[BankEntry] | None, peaks: Peaks | None
) -> CostModel:
    from .auto import AutoModel
    from .lookup import LookupModel, table_of
    from .memory import MemoryModel
    from .roofline import RooflineModel
    from .transfer import TransferModel

    if target == "peak_memory_mb":
        return MemoryModel()
    if use == "lookup":
        return LookupModel(table_of([(sample.graph, sample.kernels_ms) for sample in samples if sample.kernels_ms]))
    if use == "roofline":
        return RooflineModel(peaks)
    if use == "auto":
        return AutoModel(bank, target)
    return TransferModel(bank, target) if use == "transfer" else model_class(use)()


def device_of(fingerprint: Mapping[str, Any], target: str = "latency_ms") -> str:
    """A short digest of what decides a target on a device; empty for an empty fingerprint."""
    if not fingerprint:
        return ""
    matters = {key: value for key, value in fingerprint.items() if key not in _no_matter(target)}
    return hashlib.sha256(json.dumps(matters, sort_keys=True, default=str).encode()).hexdigest()[:12]


def differences(one: Mapping[str, Any], other: Mapping[str, Any], target: str = "latency_ms") -> tuple[str, ...]:
    """Keys in which two fingerprints differ so that costs of the one do not hold for the other, sorted.

    >>> differences({"cpu": "A", "os": "Linux 6"}, {"cpu": "B", "os": "Linux 5"})
    ('cpu',)
    >>> differences({"meter": "rapl"}, {"meter": "ina219"}, "energy_mj")
    ('meter',)
    """
    keys = (set(one) | set(other)) - _no_matter(target)
    return tuple(sorted(key for key in keys if _plain(one.get(key)) != _plain(other.get(key))))


def _no_matter(target: str) -> frozenset[str]:
    return _NO_MATTER - {"meter"} if target == "energy_mj" else _NO_MATTER


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    return json.loads(json.dumps(value, default=str))


def _check_device(what: str, here: Mapping[str, Any], there: Mapping[str, Any], target: str) -> None:
    """Refuses another device's costs, for energy those of another meter.

    Raises:
        DataError: the message names what differs.
    """
    if not there:
        raise DataError(f"{what}: does not say of which device it is; any_device takes it all the same")
    if not (names := differences(here, there, target)):
        return
    told = ", ".join(f"{name} {there.get(name)!r}, here {here.get(name)!r}" for name in names[:4])
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    raise DataError(f"{what}: of another device ({told}{more}); any_device takes it all the same".replace("\n", " "))


def _check_one_device(samples: Sequence[Sample]) -> None:
    """Refuses samples of two devices, or of graphs that two runtimes execute.

    Raises:
        DataError: the message names two that differ.
    """
    devices = [sample.device for sample in samples]
    runtimes = [sample.graph.runtime.partition(" ")[0] for sample in samples]
    for what, keys in (("device", devices), ("runtime", runtimes)):
        found: dict[str, Sample] = {}
        for key, sample in zip(keys, samples, strict=True):
            if key:
                found.setdefault(key, sample)
        if len(found) > 1:
            (one, first), (two, second) = list(found.items())[:2]
            raise DataError(
                f"samples of two {what}s: {one} ({first.name or 'no name'}) and {two} ({second.name or 'no name'}); "
                "fit one cost model for each"
            )


def _packed(samples: Sequence[Sample]) -> dict[str, Any]:
    """The samples for a file: kernels that are the same but for their name are written once."""
    kernels: dict[str, int] = {}
    told = []
    for sample in samples:
        graph = sample.graph.to_json()
        names, places = [], []
        for node in graph.pop("nodes"):
            names.append(node.pop("name"))
            places.append(kernels.setdefault(json.dumps(node, sort_keys=True), len(kernels)))
        rest = {key: getattr(sample, key) for key in ("value", "name", "at_random", "device", "kernels_ms")}
        told.append({**rest, "graph": {**graph, "names": names, "kernels": places}})
    return {"kernels": [json.loads(text) for text in kernels], "samples": told}


def _unpacked(data: Mapping[str, Any]) -> tuple[Sample, ...]:
    """Reads what `_packed` wrote.

    Raises:
        KeyError, TypeError, ValueError, IndexError: it is not of that form.
    """
    kernels = data.get("kernels", [])
    found = []
    for item in data.get("samples", []):
        told = dict(item["graph"])
        names, places = told.pop("names"), told.pop("kernels")
        if any(place < 0 for place in places):
            raise ValueError("a kernel's place is negative")
        nodes = [{**kernels[place], "name": name} for name, place in zip(names, places, strict=True)]
        rest = {key: value for key, value in item.items() if key not in ("graph", "kernels_ms")}
        times = tuple(finite(ms) for ms in item.get("kernels_ms", ()))
        sample = Sample(Graph.from_json({**told, "nodes": nodes}), **rest, kernels_ms=times)
        check_samples(1, [sample.value], 1)
        found.append(sample)
    return tuple(found)
