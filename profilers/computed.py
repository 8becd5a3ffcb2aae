"""What can be told of a network without a device: weights, multiply-adds, peak memory."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch

__all__ = ["Computed", "computed_metrics"]

_IN_PLACE = frozenset(
    [
        "add",
        "add_",
        "clamp",
        "clamp_",
        "div",
        "div_",
        "dropout",
        "elu",
        "elu_",
        "gelu",
        "hardsigmoid",
        "hardsigmoid_",
        "hardswish",
        "hardswish_",
        "hardtanh",
        "hardtanh_",
        "leaky_relu",
        "leaky_relu_",
        "mish",
        "mul",
        "mul_",
        "native_batch_norm",
        "native_dropout",
        "relu",
        "relu_",
        "sigmoid",
        "sigmoid_",
        "silu",
        "silu_",
        "sub",
        "sub_",
        "tanh",
        "tanh_",
        "_native_batch_norm_legit_no_training",
        "cudnn_batch_norm",
        "batch_norm",
    ]
)
"""Operators that can write over their first input of the same size when nothing else reads it."""

_FREE = frozenset(
    [
        "add",
        "add_",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_max_pool2d",
        "avg_pool2d",
        "batch_norm",
        "clamp",
        "clamp_",
        "clamp_min",
        "div",
        "div_",
        "dropout",
        "elu",
        "exp",
        "gelu",
        "hardsigmoid",
        "hardsigmoid_",
        "hardswish",
        "hardswish_",
        "hardtanh",
        "hardtanh_",
        "leaky_relu",
        "leaky_relu_",
        "log_softmax",
        "max",
        "max_pool2d",
        "mean",
        "mul",
        "mul_",
        "neg",
        "pad",
        "pow",
        "relu",
        "relu6",
        "relu6_",
        "relu_",
        "rsqrt",
        "rsub",
        "sigmoid",
        "sigmoid_",
        "silu",
        "silu_",
        "softmax",
        "softplus",
        "sqrt",
        "sub",
        "sub_",
        "sum",
        "tanh",
        "upsample_bilinear2d",
        "upsample_nearest2d",
    ]
)
"""Operators that count no multiply-adds by convention; fvcore would list them as unsupported."""


class Computed(TypedDict):
    """Metrics of one network, batch 1.

    Keys:
        params: number of weights (trainable or not; buffers are not counted).
        macs: multiply-adds of one inference; one multiply-add is one (fvcore's convention), a bias is none.
        peak_memory_mb: peak of live activations in 10^6 bytes, fp32; see `computed_metrics`.
        uncounted: operators whose multiply-adds are unknown, sorted; `macs` is a lower bound when there are any.
    """

    params: int
    macs: int
    peak_memory_mb: float
    uncounted: list[str]


def computed_metrics(model: torch.nn.Module, input_shape: tuple[int, int, int]) -> Computed:
    """Computes what needs no device.

    Peak memory comes from the operators that torch runs for one input, as a lower bound of what a runtime needs: a
    tensor lives from the operator that makes it to the last that reads it; elementwise operators and batch
    normalisation write over their input when nothing else reads it, as fusing runtimes do; the network's input counts.

    Args:
        model: left as it was.
        input_shape: (C, H, W).

    >>> from torch import nn
    >>> computed_metrics(nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 8, 8))
    {'params': 216, 'macs': 13824, 'peak_memory_mb': 0.002816, 'uncounted': []}
    """
    import torch

    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    was_training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            x = torch.zeros(1, *input_shape, device=device)
            macs, uncounted = _macs(model, x)
            peak = _peak_bytes(model, x)
    finally:
        for module, mode in was_training.items():
            module.training = mode
    params = sum(parameter.numel() for parameter in model.parameters())
    return Computed(params=params, macs=macs, peak_memory_mb=peak / 1e6, uncounted=uncounted)


def _macs(model: torch.nn.Module, x: torch.Tensor) -> tuple[int, list[str]]:
    """Multiply-adds as fvcore counts them, without its counts for normalisation, pooling and resizing."""
    quiet = [logging.getLogger(name) for name in ("fvcore", "fvcore.nn.jit_analysis")]
    levels = [logger.level for logger in quiet]
    for logger in quiet:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from fvcore.nn import FlopCountAnalysis  # its import warns of its own use of torch.jit

            analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            analysis.tracer_warnings("none")
            analysis.set_op_handle(**{f"aten::{name}": _no_macs for name in _COUNTED_BY_FVCORE_ONLY})
            macs = int(sum(analysis.by_operator().values()))
            unsupported = analysis.unsupported_ops()
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)
    names = {str(name).removeprefix("aten::") for name in unsupported}
    return macs, sorted(name for name in names if name not in _FREE)


def _no_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """A handle for fvcore; `None`, which its documentation names, leaves the operator counted (0.1.5)."""
    return 0


_COUNTED_BY_FVCORE_ONLY = (
    "batch_norm",
    "layer_norm",
    "adaptive_avg_pool2d",
    "upsample_bilinear2d",
    "upsample_nearest2d",
)
"""fvcore gives these a few operations per value; torch's counter and the papers do not."""


@dataclass
class _Step:
    """One operator: the storages that it reads and makes."""

    name: str
    reads: list[int]
    makes: list[int]


@dataclass
class _Recording:
    """The operators of one inference, and the size of every storage in bytes."""

    steps: list[_Step] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)  # so that no storage's address is used twice


def _peak_bytes(model: torch.nn.Module, x: torch.Tensor) -> int:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    constants = {_storage(item) for item in (*model.parameters(), *model.buffers())}
    recording = _Recording(sizes={_storage(x): x.numel() * x.element_size()})

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotations there
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            reads = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, torch.Tensor)]
            makes = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.numel()]
            recording.held.extend(makes)
            for tensor in makes:
                recording.sizes.setdefault(_storage(tensor), tensor.numel() * tensor.element_size())
            read = [key for key in map(_storage, reads) if key not in constants]
            made = [key for key in map(_storage, makes) if key not in constants]
            recording.steps.append(_Step(func.overloadpacket.__name__, read, made))
            return result

    with Recorder():  # type: ignore[no-untyped-call]  # as above
        outputs = model(x)
    kept = {_storage(t) for t in tree_leaves(outputs) if isinstance(t, torch.Tensor)}
    return _peak_of(recording, kept)


def _peak_of(recording: _Recording, kept: set[int]) -> int:
    """Largest sum of live storages, with elementwise operators in place where that is possible."""
    last = {key: place for place, step in enumerate(recording.steps) for key in (*step.reads, *step.makes)}
    end = len(recording.steps)
    last.update((key, end) for key in kept)
    live: dict[int, int] = {}
    if recording.steps:
        live.update((key, recording.sizes[key]) for key in recording.steps[0].reads if key in recording.sizes)
    peak = sum(live.values())
    for place, step in enumerate(recording.steps):
        fresh = [key for key in step.makes if key not in live]
        reused = next(
            (
                key
                for key in step.reads
                if step.name in _IN_PLACE
                and fresh
                and last[key] == place
                and live.get(key) == recording.sizes[fresh[0]]
            ),
            None,
        )
        if reused is not None:
            del live[reused]
        live.update((key, recording.sizes[key]) for key in fresh)
        peak = max(peak, sum(live.values()))
        live = {key: size for key, size in live.items() if last.get(key, place) > place}
    return peak


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
