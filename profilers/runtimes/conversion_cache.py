"""Converted models kept by content, so that no file is made twice: some runtimes take seconds for a conversion."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ..store import digest_of
from .runtime import Runtime

if TYPE_CHECKING:
    import torch

__all__ = ["ConversionCache"]

FORMAT = 1
"""Goes up when hwnas itself comes to write something else into any file."""

MOST_BYTES = 2 << 30
"""Of all files together; those that were not used for longest go first."""


class ConversionCache:
    """Files made by runtimes, in a folder that may be deleted at any time.

    Args:
        folder: where they are kept; None for the user's cache folder.
        most_bytes: of all files together.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        self.folder = folder or cache / "hwnas" / "models"
        self.most_bytes = most_bytes

    def fetch(
        self,
        runtime: Runtime,
        source: Path,
        path: Path,
        precision: str,
        calibration: torch.Tensor,
        make: Callable[[], object],
    ) -> bool:
        """Brings the file of a network to `path`: from the cache, or by `make`, and then into the cache.

        What cannot be read from or written to the cache is made, and not kept.

        Args:
            runtime: what is to run it; its version counts.
            source: the fp32 ONNX file of the same network, whose content counts, weights included.
            path: the file to write.
            precision: one of the runtime's.
            calibration: samples, whose content counts when the precision is int8.
            make: writes `path`.

        Returns:
            True when it came from the cache.

        Raises:
            CandidateError, DeviceError, DiskError: as `make`.
        """
        kept = self.folder / f"{self._key(runtime, source, precision, calibration)}{path.suffix}"
        with contextlib.suppress(OSError):
            _copy(kept, path)
            os.utime(kept)
            return True
        make()
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            _copy(path, kept)
            self._trim()
        return False

    def _key(self, runtime: Runtime, source: Path, precision: str, calibration: torch.Tensor) -> str:
        packages = ("torch", "onnx", "onnxruntime", *runtime.converters)
        versions = [f"{name} {metadata.version(name)}" for name in packages]
        parts = [digest_of(source), runtime.name, runtime.available().version, precision, str(FORMAT), *versions]
        if precision == "int8":
            parts.append(hashlib.sha256(calibration.contiguous().numpy().tobytes()).hexdigest())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _trim(self) -> None:
        """Removes the files that were not used for longest while all are too large together."""
        files = sorted((entry.stat().st_mtime, entry.stat().st_size, entry.path) for entry in os.scandir(self.folder))
        total = sum(size for _, size, _ in files)
        for _, size, name in files:
            if total <= self.most_bytes:
                break
            Path(name).unlink(missing_ok=True)
            total -= size


def _copy(source: Path, path: Path) -> None:
    """Copies a file; whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        shutil.copyfile(source, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
