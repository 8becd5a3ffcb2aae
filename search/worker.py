"""The child that builds, exports and trains candidates: `python -m hwnas.search.worker RUN`.

It reads the resolved study of the run folder, so that no code and no object travels: only architectures as JSON, paths
and numbers. Everything here may crash or hang; the driver kills it, notes why, and starts another.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..profilers import ConversionCache, OnnxBased, Runtime, computed_metrics, get_runtime
from ..profilers.runtimes.onnx_file import write_onnx
from ..profilers.serve import serve
from ..spaces import Architecture, Space, load_space
from ..spaces.errors import CandidateError, SpaceError
from .data import Dataset, load_data, resize
from .files import disk_errors, write_aside
from .study_file import load_study_file
from .training import Recipe, synflow, train

if TYPE_CHECKING:
    from .study_schema import StudySpec

__all__ = ["main"]

PROBES = 4
"""Real samples on which the exported file is compared with torch."""
CALIBRATION = 64
"""Training samples that tell an int8 file the ranges of its activations."""


class Worker:
    """The handlers, over one study. Data and space are loaded at the first request that needs them."""

    def __init__(self, folder: Path, allow_code: Path | None) -> None:
        self.folder = folder
        self.allow_code = allow_code
        self.spec: StudySpec = load_study_file(folder / "study.yaml")
        self._resized: tuple[tuple[int, int, int], list[tuple[Tensor, Tensor]]] | None = None
        self.conversions = ConversionCache()

    @cached_property
    def data(self) -> Dataset:
        return load_data(self.spec.data, self.folder)

    @cached_property
    def space(self) -> Space:
        spec = self.spec.space
        return load_space(
            spec.use,
            input_shape=spec.input or self.data.input_shape,
            num_classes=spec.num_classes or self.data.num_classes,
            params=spec.params,
            allow_code=self.allow_code,
        )

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Builds an architecture with fresh weights, counts its costs and exports it.

        Request: `arch` (JSON), `seed`; `model`, path of the fp32 file to write; `precisions` of the devices, the first
        of which is the one whose file counts as the size; `probe`, stem of the files to write: `.x.npy`, real samples
        (n, C, H, W), and `.y.npy`, torch's outputs (n, classes).
        Returns `computed` (metric → value), `uncounted` (operators without a count) and `seconds` (of each stage).
        """
        clock = _Clock()
        architecture = Architecture.from_json(request["arch"])
        model = self._build(architecture, request["seed"]).eval()
        clock.lap("build")
        told = computed_metrics(model, self.space.input_of(architecture))
        computed = {name: value for name, value in told.items() if name != "uncounted"}
        clock.lap("count")
        size_mb = self._export(model, architecture, request)
        clock.lap("export")
        return {"computed": {**computed, "size_mb": size_mb}, "uncounted": told["uncounted"], "seconds": clock.laps}

    def score(self, request: dict[str, Any]) -> dict[str, Any]:
        """Scores an untrained network by a proxy. Request: `arch`, `seed`. Returns `score`, `seconds`."""
        start = time.monotonic()
        architecture = Architecture.from_json(request["arch"])
        score = synflow(self._build(architecture, request["seed"]), self.space.input_of(architecture))
        return {"score": score, "seconds": time.monotonic() - start}

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Trains an architecture from scratch and validates it.

        Request: `arch`, `seed`, `epochs`, `weights` (path to write them to, or None).
        Returns `correct`, `total`, `seconds`, `losses`.
        """
        architecture = Architecture.from_json(request["arch"])
        parts = self._parts(self.space.input_of(architecture))
        model = self._build(architecture, request["seed"])
        trained = train(
            model, parts[0], parts[1], epochs=request["epochs"], seed=request["seed"], recipe=self._recipe()
        )
        if request.get("weights"):
            save_weights(model, Path(request["weights"]))
        return asdict(trained)

    def export(self, request: dict[str, Any]) -> dict[str, Any]:
        """Exports trained weights. Request: `weights`, and as `prepare`. Returns `size_mb`."""
        from safetensors.torch import load_file

        architecture = Architecture.from_json(request["arch"])
        model = self._build(architecture, seed=0)
        model.load_state_dict(load_file(request["weights"]))
        return {"size_mb": self._export(model.eval(), architecture, request)}

    def part(self, request: dict[str, Any]) -> dict[str, Any]:
        """Writes the validation or the test part as the network takes it.

        Request: `arch`, `part` (`validation` or `test`), `inputs`, `labels` (.npy). Returns `n`.
        """
        x, y = self.data.open_test() if request["part"] == "test" else (self.data.x_val, self.data.y_val)
        x = _sized(x, self.space.input_of(Architecture.from_json(request["arch"])))
        _save(Path(request["inputs"]), x)
        _save(Path(request["labels"]), y)
        return {"n": len(y)}

    def warm(self, request: dict[str, Any]) -> dict[str, Any]:
        """Loads data and space, so that no trial's time goes into it."""
        return {"space": self.space.name, "train": len(self.data.y_train)}

    def describe(self, request: dict[str, Any]) -> dict[str, Any]:
        """Returns what the driver must know of the data; raises when it is unusable."""
        data = self.data
        return {
            "name": data.name,
            "digest": data.digest,
            "input": list(data.input_shape),
            "num_classes": data.num_classes,
            "train": len(data.y_train),
            "validation": len(data.y_val),
            "mean": list(data.mean),
            "std": list(data.std),
        }

    def _build(self, architecture: Architecture, seed: int) -> nn.Module:
        space = self.space
        torch.manual_seed(seed)
        try:
            return space.build(architecture)
        except SpaceError as error:  # of this one architecture: the others may be sound
            raise CandidateError("build", str(error)) from error

    def _parts(self, shape: tuple[int, int, int]) -> list[tuple[Tensor, Tensor]]:
        """Returns (x, y) of the training and the validation part, x as large as the network takes it."""
        if self._resized is None or self._resized[0] != shape:
            data = self.data
            parts = [(_sized(x, shape), y) for x, y in ((data.x_train, data.y_train), (data.x_val, data.y_val))]
            self._resized = shape, parts  # for the next rung; of one size only, for large data sets
        return self._resized[1]

    def _recipe(self) -> Recipe:
        q = self.spec.quality
        return Recipe(q.batch, q.optimizer, q.learning_rate, q.weight_decay, q.label_smoothing, q.augment)

    def _export(self, model: nn.Module, architecture: Architecture, request: dict[str, Any]) -> float:
        """Writes the model's files and the samples to compare them on; returns the first device's size in megabytes."""
        shape, path, probe = self.space.input_of(architecture), Path(request["model"]), Path(request["probe"])
        x = _sized(self.data.x_val[:PROBES], shape)
        with torch.inference_mode():
            y = model(x)
        if not torch.isfinite(y).all():
            raise CandidateError("non_finite", "an output of the network is not finite")
        write_onnx(model, x[:1], path)
        made = {path}
        for name, precision in request["runtimes"]:
            runtime = get_runtime(name)
            file = runtime.file(path, precision)
            if file not in made:
                made.add(file)
                self._convert(runtime, model, x[:1], path, file, precision)
        _save(probe.with_name(f"{probe.name}.x.npy"), x)
        _save(probe.with_name(f"{probe.name}.y.npy"), y)
        name, precision = request["runtimes"][0]
        return get_runtime(name).file(path, precision).stat().st_size / 1e6

    def _convert(
        self, runtime: Runtime, model: nn.Module, example: Tensor, source: Path, file: Path, precision: str
    ) -> None:
        """Writes a device's file of a network whose ONNX file is there, or takes it from the cache."""
        _, channels, height, width = example.shape
        calibration = self._calibration((channels, height, width))

        def make() -> None:
            if isinstance(runtime, OnnxBased):
                runtime.convert_file(source, file, precision, calibration)
            else:
                runtime.convert(model, example, file, precision, calibration)

        self.conversions.fetch(runtime, source, file, precision, calibration, make)

    def _calibration(self, shape: tuple[int, int, int]) -> Tensor:
        """Returns training samples, evenly spaced, as a network takes them."""
        x = self.data.x_train
        return _sized(x[:: max(1, len(x) // CALIBRATION)][:CALIBRATION], shape)


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = now - self._last, now


def _sized(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == shape[1:] else resize(x, shape[1:])


def _save(path: Path, values: Tensor) -> None:
    """Writes an .npy file that only the driver reads, at once: not worth a flush to the disk."""
    with disk_errors(path):
        np.save(path, values.numpy())


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes the weights and buffers of `model` as safetensors."""
    from safetensors.torch import save

    with write_aside(path) as file:
        file.write(save({name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--allow-code", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import_module("fvcore.nn")  # takes a second or two: better now than within the first trial
    worker = Worker(options.folder, options.allow_code)
    names = ("prepare", "score", "train", "export", "part", "describe", "warm")
    serve({name: getattr(worker, name) for name in names})


if __name__ == "__main__":
    main()
