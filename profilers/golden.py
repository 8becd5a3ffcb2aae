"""The golden network: small and sound; run after a crash, it tells whether the candidate or the device is at fault."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from .runtimes.runtime import OnnxBased

if TYPE_CHECKING:
    from .runtimes.runtime import Runtime

__all__ = ["golden_file", "golden_model"]

SHAPE = (1, 3, 32, 32)
"""Of its input."""


def golden_file(runtime: Runtime, precision: str, folder: Path) -> Path | None:
    """Writes the golden network as a runtime needs it; None where the runtime does not make its files from ONNX files.

    Args:
        runtime: what is to run it.
        precision: one of the runtime's.
        folder: to write to.

    Raises:
        CandidateError, DeviceError, DiskError: as `Runtime.convert`.
    """
    if not isinstance(runtime, OnnxBased):
        return None
    source = folder / "golden.onnx"
    path = runtime.file(source, precision)
    source.write_bytes(golden_model())
    if path != source:
        import torch  # only for the samples that an int8 file is calibrated on

        samples = torch.randn(8, *SHAPE[1:], generator=torch.Generator().manual_seed(0))
        runtime.convert_file(source, path, precision, samples)
    return path


@cache
def golden_model() -> bytes:
    """Returns an ONNX file: a convolution, a rectifier, a pooling and a product; the same bytes every time."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {"kernel": (16, 3, 3, 3), "bias": (16,), "weight": (16, 10), "offset": (10,)}
    constants = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name) for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["input", "kernel", "bias"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "weight", "offset"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "golden",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, 10))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = model.SerializeToString()
    return data
