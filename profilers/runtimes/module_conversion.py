"""Around a conversion of a torch module: whole or not at all, quiet, in evaluation mode, one error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ...spaces.errors import HwnasError
from .onnx_file import export_failed, replacing, without_noise

if TYPE_CHECKING:
    import torch

__all__ = ["converting"]


@contextlib.contextmanager
def converting(model: torch.nn.Module, path: Path) -> Iterator[Path]:
    """Gives a place beside `path` to write to, which takes the place of `path` in the end, or is gone.

    Meanwhile the model is in evaluation mode, nothing is printed, and no gradients are recorded.

    Raises:
        CandidateError: `export`, for whatever the candidate's code or the converter raises.
        DiskError: the file cannot be written.
    """
    import torch

    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with replacing(path) as aside, without_noise(), torch.no_grad():
            try:
                yield aside
            except (OSError, MemoryError, HwnasError):
                raise
            except Exception as error:  # converters' exceptions have no common base
                raise export_failed(error) from error
    finally:
        for module, mode in was_training.items():
            module.training = mode
