"""What can be told of a network without a device: weights, multiply-adds, peak memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch

__all__ = ["Computed", "computed_metrics"]

_NAMES = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _log_softmax _native_batch_norm_legit_no_training _prelu_kernel
_safe_softmax _softmax _to_copy _unsafe_view adaptive_max_pool2d adaptive_max_pool3d arange avg_pool2d avg_pool3d cat
channel_shuffle clone constant_pad_nd copy_ cudnn_batch_norm embedding empty empty_like fill_ flip full full_like
gather glu hardswish hardswish_ index index_select lift_fresh lift_fresh_copy logsumexp max_pool2d_with_indices
max_pool3d_with_indices native_batch_norm native_channel_shuffle native_dropout native_group_norm native_layer_norm
new_empty new_full new_ones new_zeros ones ones_like pixel_shuffle pixel_unshuffle reflection_pad1d reflection_pad2d
repeat replication_pad2d roll scalar_tensor stack topk unsafe_chunk unsafe_split unsafe_split_with_sizes
upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d var_mean zero_ zeros
zeros_like
"""
_FREE = frozenset(_NAMES.split())
"""Operators of torch that have no multiply-adds by convention, beside views, elementwise operators and reductions."""

_IN_PLACE = frozenset(
    ["_native_batch_norm_legit_no_training", "cudnn_batch_norm", "hardswish", "hardswish_", "native_batch_norm"]
)
"""Operators that can write over their first input of the same size when nothing else reads it, beside elementwise."""


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
            recording = _record(model, torch.zeros(1, *input_shape, device=device))
    finally:
        for module, mode in was_training.items():
            module.training = mode
    params = sum(parameter.numel() for parameter in model.parameters())
    return Computed(
        params=params,
        macs=recording.macs,
        peak_memory_mb=_peak_of(recording) / 1e6,
        uncounted=sorted(recording.uncounted),
    )


class _Shaped:
    """A tensor as fvcore's counters ask for it; they are made for the values of a traced graph.

    Args:
        tensor: has a shape.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._shape = list(tensor.shape)

    def isCompleteTensor(self) -> bool:
        return True

    def type(self) -> _Shaped:
        return self

    def sizes(self) -> list[int]:
        return self._shape


def _counters() -> dict[str, Callable[[Sequence[Any], Any], int]]:
    """Returns fvcore's count of multiply-adds for each operator that has some: from arguments and result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the import warns of its own use of torch.jit
        from fvcore.nn import jit_handles

    def convolution(args: Sequence[Any], result: Any) -> int:
        return int(jit_handles.conv_flop_count(args[0].shape, args[1].shape, result.shape, transposed=args[6]))

    def product(handle: Any, skipped: int = 0) -> Callable[[Sequence[Any], Any], int]:
        """Returns the count of a product of two tensors, the first of which is argument number `skipped`."""
        none = [None] * skipped  # fvcore looks at places, not at these arguments
        return lambda args, result: int(handle([*none, *map(_Shaped, args[skipped : skipped + 2])], [_Shaped(result)]))

    return {
        "convolution": convolution,
        "addmm": product(jit_handles.addmm_flop_jit, skipped=1),
        "mm": product(jit_handles.matmul_flop_jit),
        "bmm": product(jit_handles.bmm_flop_jit),
    }


@dataclass
class _Step:
    """One operator: the storages that it reads and makes, and whether it can write over what it reads."""

    reads: list[int]
    makes: list[int]
    in_place: bool


@dataclass
class _Recording:
    """The operators of one inference, in order, with the size of every storage in bytes.

    Attributes:
        steps: the operators.
        sizes: bytes of each storage but those of weights and buffers.
        kept: storages that the outputs are in.
        macs: multiply-adds.
        uncounted: names of operators that may have multiply-adds, but no count.
    """

    steps: list[_Step] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    kept: set[int] = field(default_factory=set)
    macs: int = 0
    uncounted: set[str] = field(default_factory=set)


def _record(model: torch.nn.Module, x: torch.Tensor) -> _Recording:
    """Runs one inference and notes every operator that torch dispatches.

    To trace the network for fvcore's own walk would take 5 times as long.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    def tensors(value: Any) -> list[torch.Tensor]:
        return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]

    constants = {_storage(item) for item in (*model.parameters(), *model.buffers())}
    recording = _Recording(sizes={_storage(x): x.numel() * x.element_size()})
    counters, tags = _counters(), {torch.Tag.reduction, torch.Tag.inplace_view}
    held: list[torch.Tensor] = []  # so that no storage's address is used twice

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no annotations there
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            makes = [tensor for tensor in tensors(result) if tensor.numel()]
            held.extend(makes)
            for tensor in makes:
                recording.sizes.setdefault(_storage(tensor), tensor.numel() * tensor.element_size())
            name = func.overloadpacket.__name__
            elementwise = torch.Tag.pointwise in func.tags and name != "clone"  # that copies, often to another layout
            recording.steps.append(
                _Step(
                    [key for key in map(_storage, tensors((args, kwargs))) if key not in constants],
                    [key for key in map(_storage, makes) if key not in constants],
                    elementwise or name in _IN_PLACE,
                )
            )
            if name in counters:
                recording.macs += counters[name](args, result)
            elif not (elementwise or func.is_view or tags & set(func.tags) or name in _FREE):
                recording.uncounted.add(name)
            return result

    with _plain_attention(), Recorder():  # type: ignore[no-untyped-call]  # as above
        outputs = model(x)
    recording.kept = {_storage(tensor) for tensor in tensors(outputs)}
    return recording


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Has attention computed by operators that can be counted, instead of one fused operator."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _peak_of(recording: _Recording) -> int:
    """Largest sum of live storages, with elementwise operators in place where that is possible."""
    last = {key: place for place, step in enumerate(recording.steps) for key in (*step.reads, *step.makes)}
    end = len(recording.steps)
    last.update((key, end) for key in recording.kept)
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
                if step.in_place and fresh and last[key] == place and live.get(key) == recording.sizes[fresh[0]]
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
