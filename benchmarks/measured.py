"""Networks measured twice by the project's profiler, for the benchmarks of cost models."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.profilers import LocalProfiler, Measurement, get_runtime
from hwnas.spaces import load_space
from hwnas.spaces.errors import CandidateError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["Network", "drawn", "measured_twice"]

CALIBRATION = 8
"""Samples that normalisation takes its statistics from, and int8 its ranges."""

Row = dict[str, Any]
Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Network:
    """One network to measure.

    Attributes:
        family: name of the family or space.
        name: unique among all.
        input_shape: channels, height, width.
        build: makes it, with fresh weights.
        arch: decisions, of a space's network.
    """

    family: str
    name: str
    input_shape: Shape
    build: Callable[[], nn.Module]
    arch: dict[str, Any] | None = None


def drawn(space: str, input_shape: Shape, count: int, seed: int) -> Iterator[Network]:
    """Distinct random networks of a space; fewer where it has no more."""
    found = load_space(space, input_shape=input_shape, num_classes=10, params={}, allow_code=None)
    architectures = {}
    for draw in range(50 * count):
        architecture = found.random(f"{seed}-{draw}")
        architectures[architecture.id] = architecture
        if len(architectures) == count:
            break
    for name, architecture in architectures.items():
        build = lambda architecture=architecture: found.build(architecture)  # noqa: E731
        yield Network(space, name, found.input_of(architecture), build, architecture.as_dict())


def measured_twice(
    networks: Sequence[Network], precision: str, seed: int, threads: int = 1, attempts: int = 5, rounds: int = 3
) -> tuple[list[Row], list[Row]]:
    """Exports the networks and measures each in two passes, the second in another order.

    Args:
        networks: what to measure.
        precision: fp32 or int8.
        seed: of the weights and of the second order.
        threads: of one inference.
        attempts: tries for a quiet measurement.
        rounds: later tries of what was noisy, or not known to be quiet.

    Returns:
        One row per network, and one per measurement with its raw samples.
    """
    runtime = get_runtime("onnxruntime")
    rows: list[Row] = []
    raw: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalProfiler(threads=threads, precision=precision, attempts=attempts) as on,
    ):
        for network in networks:
            path = Path(folder, f"{network.name}.onnx")
            model, x = _ready(network, seed)
            runtime.convert(model, x[:1], path, precision, x)
            told = {"family": network.family, "precision": precision, "arch": network.arch}
            rows.append({"id": network.name, **told, "graph": on.graph(path).to_json()})
            _progress(f"{precision}, exported {len(rows)} of {len(networks)}")
        for pass_, order in ((1, rows), (2, random.Random(seed).sample(rows, len(rows)))):
            for row in order:
                raw.append({"id": row["id"], "pass": pass_, **_measure(on, folder, row["id"]).to_json()})
                _progress(f"{precision}, pass {pass_}: {sum(item['pass'] == pass_ for item in raw)} of {len(rows)}")
            for _ in range(rounds):
                for item in [item for item in raw if item["pass"] == pass_ and _doubtful(on, item)]:
                    item.update(_measure(on, folder, item["id"]).to_json())
    by_id = {row["id"]: row for row in rows}
    for item in raw:
        taken = _measurement(item)
        by_id[item["id"]][f"ms_{item['pass']}"] = taken.latency_ms
        by_id[item["id"]][f"quality_{item['pass']}"] = taken.quality
    _progress("")
    return rows, raw


def _progress(text: str) -> None:
    """Shows where a benchmark is, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r{text:40}\r{text}", end="", file=sys.stderr, flush=True)


def _ready(network: Network, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """The network with statistics of smooth random pictures, and these, (n, C, H, W)."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    model, (channels, height, width) = network.build(), network.input_shape
    coarse = torch.randn(CALIBRATION, channels, 5, 5)
    x = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    x = x + 0.2 * torch.randn(CALIBRATION, channels, height, width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all samples seen, not a mixture with the initial values
    with torch.no_grad():
        model.train()(x)
    return model.eval(), x


def _measure(profiler: LocalProfiler, folder: str, name: str) -> Measurement:
    try:
        return profiler.measure(Path(folder, f"{name}.onnx"))
    except CandidateError as error:
        raise SystemExit(f"{name}: {error}") from None


def _measurement(item: Row) -> Measurement:
    return Measurement.from_json({key: value for key, value in item.items() if key not in ("id", "pass")})


def _doubtful(profiler: LocalProfiler, item: Row) -> bool:
    taken = _measurement(item)
    return taken.quality == "noisy" or profiler.outdated(taken)
