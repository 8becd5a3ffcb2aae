"""Data sets as whole tensors: what the networks learn, are compared on, and are tested on once.

The split into train, validation and test is stratified and depends on the seed alone. The test part has no attribute:
`Dataset.open_test()` is the only way to it, so that nothing in a search can read it by accident.
"""

from __future__ import annotations

import hashlib
import importlib.util
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..spaces.errors import DataError
from .npz import read_npz
from .study_schema import DataSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["Dataset", "load_data", "resize"]

MAX_CLASSES = 100_000
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """A data set, split and standardised by the statistics of its train part.

    Attributes:
        name: `digits`, or the name of the file.
        x_train: (n, C, H, W) float32, contiguous.
        y_train: (n,) int64, classes 0 to num_classes - 1.
        x_val: like x_train.
        y_val: like y_train.
        num_classes: number of classes.
        input_shape: (C, H, W).
        mean: per channel, of the raw train values; a raw value v enters a network as (v - mean) / std.
        std: per channel, of the raw train values.
        digest: sha256 of the raw arrays with their names, types and shapes; the split is not part of it.
    """

    name: str
    x_train: torch.Tensor
    y_train: torch.Tensor
    x_val: torch.Tensor
    y_val: torch.Tensor
    num_classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str
    _test: tuple[torch.Tensor, torch.Tensor] = field(repr=False)

    def open_test(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (x, y) of the test part, shapes as in training; for the final verification only."""
        return self._test


def load_data(spec: DataSpec, base: Path, seed: int = 0) -> Dataset:
    """Loads a data set.

    Args:
        spec: the `data` part of a study.
        base: folder of the study file; a relative `path` begins there.
        seed: of the split. All trials and all training seeds of a study must share it, or their scores are not
            comparable and test samples leak into training.

    Raises:
        DataError: the data is missing, broken, or not as described in `docs/study_file.md`.
    """
    if spec.use == "digits":
        name, source, arrays = "digits", "digits", _digits()
    else:
        path = base / (spec.path or "")
        name, source, arrays = path.name, str(path), read_npz(path)
    digest = _digest(arrays)
    parts, channels_last = _checked_parts(arrays, source)
    parts = _split(parts, spec, seed, source)
    return _standardised(parts, channels_last, name, source, digest)


def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes images bilinearly, anti-aliased, for a network whose input is not the data's size.

    Args:
        x: (n, C, H, W).
        size: (h, w).

    Returns:
        (n, C, h, w), contiguous; `x` itself when it has that size.
    """
    import torch

    if tuple(x.shape[-2:]) == tuple(size):
        return x
    resized = torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    return resized.contiguous()


def _digits() -> dict[str, np.ndarray]:
    """Reads scikit-learn's digits, (1797, 8, 8) values 0 to 16, without importing scikit-learn, which takes seconds.

    Raises:
        DataError: scikit-learn does not bring the file.
    """
    import numpy as np

    found = importlib.util.find_spec("sklearn")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        try:
            table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        except (OSError, ValueError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read: install scikit-learn again ({type(error).__name__})") from None
        return {"x": table[:, :-1].reshape(-1, 8, 8), "y": table[:, -1]}
    raise DataError("digits: scikit-learn brings it and is not installed: pip install scikit-learn")


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    import numpy as np

    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.newbyteorder('<').str} {array.shape}\n".encode())
        total.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return total.hexdigest()


def _checked_parts(
    arrays: Mapping[str, np.ndarray], source: str
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], bool]:
    """Returns (x, y) by part, x as stored, and whether the channels are last.

    Raises:
        DataError: a part does not fit itself or the train part.
    """
    import numpy as np

    suffix = {"train": ""} if "x" in arrays else {part: f"_{part}" for part in PARTS if f"x_{part}" in arrays}
    parts = {}
    for part, end in suffix.items():
        x, y = arrays[f"x{end}"], arrays[f"y{end}"]
        _check_images(x, f"{source}: x{end}")
        parts[part] = (x, _checked_labels(y, len(x), f"{source}: y{end}", f"x{end}"))
    (x, y), first = parts["train"], f"{source}: y{suffix['train']}"
    counts = np.bincount(y)
    if len(counts) < 2:
        raise DataError(f"{first}: expected at least 2 classes, found {len(counts)}")
    if not counts.all():
        raise DataError(
            f"{first}: expected classes 0 to {len(counts) - 1}, each with samples; {int(counts.argmin())} has none"
        )
    for part in [part for part in parts if part != "train"]:
        shape, labels = parts[part][0].shape[1:], parts[part][1]
        if shape != x.shape[1:]:
            raise DataError(f"{source}: x_{part}: expected images of shape {x.shape[1:]} as in x_train, found {shape}")
        if labels.max() >= len(counts):
            raise DataError(
                f"{source}: y_{part}: class {labels.max()} does not occur in y_train (0 to {len(counts) - 1})"
            )
    return parts, _channels_last(x.shape)


def _check_images(x: np.ndarray, where: str) -> None:
    import numpy as np

    if x.ndim not in (3, 4):
        raise DataError(f"{where}: expected shape (N, H, W), (N, H, W, C) or (N, C, H, W), found {x.shape}")
    if 0 in x.shape:
        raise DataError(f"{where}: is empty: shape {x.shape}")
    if x.dtype.kind not in "uif" or x.dtype.itemsize > 8:
        raise DataError(f"{where}: expected uint8 or float values, found {x.dtype}")
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise DataError(f"{where}: expected finite values, found {x[index]} at {list(index)}")
    if max(-low, high) > 1e30:
        raise DataError(f"{where}: expected values below 1e30, found {max(-low, high):g}")


def _checked_labels(y: np.ndarray, count: int, where: str, images: str) -> np.ndarray:
    import numpy as np

    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(f"{where}: expected one class number per sample, shape ({count},), found {y.shape}")
    if len(y) != count:
        raise DataError(f"{where}: expected {count} labels, as many as {images} has samples, found {len(y)}")
    if y.dtype.kind not in "ui":
        raise DataError(f"{where}: expected whole class numbers, found {y.dtype}")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= MAX_CLASSES:
        raise DataError(
            f"{where}: expected classes from 0, at most {MAX_CLASSES - 1}, found {low if low < 0 else high}"
        )
    return y.astype(np.int64)


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Says whether (N, ?, ?, ?) is (N, H, W, C): its last axis has at most 4, and its second cannot be channels."""
    return len(shape) == 4 and shape[3] <= 4 and (shape[1] > 4 or (shape[1] == shape[2] != shape[3]))


def _split(
    parts: dict[str, tuple[np.ndarray, np.ndarray]], spec: DataSpec, seed: int, source: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cuts the parts that the data does not bring from its train part, class by class.

    Raises:
        DataError: a class has too few samples to be in every part.
    """
    import numpy as np

    x, y = parts["train"]
    shares = {part: share for part, share in (("test", spec.test), ("val", spec.validation)) if part not in parts}
    chosen: dict[str, list[np.ndarray]] = {part: [] for part in ("train", *shares)}
    random = np.random.default_rng(seed)
    for label in range(int(y.max()) + 1):
        indices = random.permutation(np.flatnonzero(y == label))
        if len(indices) <= len(shares):
            need = len(shares) + 1
            raise DataError(
                f"{source}: class {label} has {len(indices)} samples: at least {need} are needed to split it"
            )
        total = len(indices)
        for part, share in shares.items():
            # one sample of each class stays for each of the parts to come
            count = min(max(1, round(share * total)), len(indices) - 1 - (part == "test" and "val" in shares))
            chosen[part].append(indices[:count])
            indices = indices[count:]
        chosen["train"].append(indices)
    return parts | {part: _take(x, y, np.sort(np.concatenate(found))) for part, found in chosen.items()}


def _take(x: np.ndarray, y: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x[indices], y[indices]


def _standardised(
    parts: dict[str, tuple[np.ndarray, np.ndarray]], channels_last: bool, name: str, source: str, digest: str
) -> Dataset:
    """Builds the tensors.

    Raises:
        DataError: all values of the train part are the same.
    """
    import numpy as np
    import torch

    images = {part: _channels_first(x, channels_last) for part, (x, _) in parts.items()}
    mean = images["train"].mean(axis=(0, 2, 3), dtype=np.float64)
    std = images["train"].std(axis=(0, 2, 3), dtype=np.float64)
    if not std.any():
        raise DataError(f"{source}: all values of the train part are {mean[0]:g}: nothing can be learnt from them")
    std[std == 0] = 1.0  # a channel that never changes becomes zero
    tensors = {}
    for part, x in images.items():
        scaled = ((x - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
        tensors[part] = (torch.from_numpy(np.ascontiguousarray(scaled)), torch.from_numpy(parts[part][1].copy()))
    channels, height, width = images["train"].shape[1:]
    return Dataset(
        name=name,
        x_train=tensors["train"][0],
        y_train=tensors["train"][1],
        x_val=tensors["val"][0],
        y_val=tensors["val"][1],
        num_classes=int(parts["train"][1].max()) + 1,
        input_shape=(int(channels), int(height), int(width)),
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
        digest=digest,
        _test=tensors["test"],
    )


def _channels_first(x: np.ndarray, channels_last: bool) -> np.ndarray:
    if x.ndim == 3:
        return x[:, None]
    return x.transpose(0, 3, 1, 2) if channels_last else x
