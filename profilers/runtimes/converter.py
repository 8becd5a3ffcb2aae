"""Makes a runtime's file from an ONNX file, in a process of its own: `python -m hwnas.profilers.runtimes.converter`.

Converters are native code that may crash, hang or take all memory on a file that they do not expect.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...spaces.errors import DeviceError
from ..serve import serve
from .runtime import OnnxBased, get_runtime

__all__ = ["convert"]

SAMPLES = 8
"""Random samples that tell an int8 file the ranges of its activations."""


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Writes a file. Request: `runtime`, `precision`, `source`, `path`.

    Raises:
        CandidateError, DiskError: as `OnnxBased.convert_file`.
        DeviceError: the runtime does not make its files from ONNX files.
    """
    import torch

    from .onnx_file import input_shape

    runtime, source = get_runtime(request["runtime"]), Path(request["source"])
    if not isinstance(runtime, OnnxBased):
        raise DeviceError(f"{runtime.name} makes its files from torch modules, not from '{source}'")
    samples = torch.randn(SAMPLES, *input_shape(source)[1:], generator=torch.Generator().manual_seed(0))
    runtime.convert_file(source, Path(request["path"]), request["precision"], samples)
    return {}


if __name__ == "__main__":
    serve({"convert": convert})
