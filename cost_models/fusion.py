"""What a runtime makes of a network before it runs it, as a table of rules: runtime and precision → rules in order.

A rule takes a network and returns the network that comes of it. The input is the plain network, an operator of torch a
call; the last rule's output has one call per kernel launched. Tests hold the outcome equal to what the runtime itself
tells of its files (tests/cost_models/test_written_graph.py).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import Any

from .blocked_layout import blocked_layout
from .ncnn_layers import ncnn_layers
from .network import INPUT, Call, Network
from .quantised import quantised

__all__ = ["Rule", "applied", "fold_normalisation", "fuse_activations", "fuse_sums", "needed", "once", "rules_of"]

Rule = Callable[[Network], Network]

_ACTIVATIONS = frozenset({"HardSigmoid", "HardSwish", "Relu", "Sigmoid"})


def applied(network: Network, rules: Collection[Rule]) -> Network:
    """Returns what rules make of a network, one after the other; the network itself stays as it is."""
    network = network.copy()
    for rule in rules:
        network = rule(network)
    return network


def once(network: Network) -> Network:
    """Operators without weights on the same values are one."""
    same: dict[tuple[Any, ...], int] = {}
    stands_for: dict[int, int] = {}
    for value, call in network.items():
        call.inputs = [stands_for.get(x, x) for x in call.inputs]
        key = (call.op, *call.inputs, str(call.attributes), call.shape)
        if not call.weights and same.setdefault(key, value) != value:
            stands_for[value] = same[key]
            del network.calls[value]
    network.output = stands_for.get(network.output, network.output)
    return network


def needed(network: Network) -> Network:
    """What the output does not depend on is not executed."""
    wanted = {network.output}
    for value in reversed(network.calls):
        if value in wanted:
            wanted.update(network.calls[value].inputs)
    network.calls = {value: call for value, call in network.calls.items() if value in wanted}
    return network


def fold_normalisation(network: Network) -> Network:
    """Batch normalisation goes into the convolution before it, when nothing else reads that."""
    readers = network.readers()
    for value, call in network.items():
        if call.op != "BatchNormalization":
            continue
        before = network.calls.get(call.inputs[0])
        if before is not None and before.op == "Conv" and readers[call.inputs[0]] == 1:
            del network.calls[call.inputs[0]]
            before.weights = (before.filters, (before.shape[1],))
            network.calls[value] = before
    return network


def fuse_activations(network: Network, activations: Collection[str] = _ACTIVATIONS) -> Network:
    """A convolution read only by an activation applies it by itself."""
    readers = network.readers()
    for value, call in network.items():
        if call.op not in activations:
            continue
        source = call.inputs[0]
        before = network.calls.get(source)
        if before is not None and before.op == "Conv" and readers[source] == 1 and not before.activation:
            del network.calls[source]
            before.attributes["activation"] = call.op
            network.calls[value] = before
    return network


def fuse_sums(network: Network) -> Network:
    """A convolution read only by a sum, with neither an activation nor a sum yet, adds by itself."""
    return _with_sums(network, lambda before, total: before.op == "Conv" and _is_bare(before))


def _with_sums(network: Network, adds: Callable[[Call, Call], bool], activation: str | None = None) -> Network:
    """Sums become part of the first of their operands that nothing else reads and that `adds`, given it and the sum.

    `activation` is what such an operand has from then on; None: it stays as it is.
    """
    readers = network.readers()
    for value, call in network.items():
        if call.op != "Add":
            continue
        for place, x in enumerate(call.inputs):
            before = network.calls.get(x)
            if before is not None and adds(before, call) and readers[x] == 1:
                before.inputs.append(call.inputs[1 - place])
                if activation is not None:
                    before.attributes["activation"] = activation
                del network.calls[x]
                network.calls[value] = before
                break
    return network


def _is_bare(call: Call) -> bool:
    return not call.activation and len(call.inputs) == 1


def tell_dilations(network: Network) -> Network:
    """A file tells the dilations of a convolution."""
    for call in network.calls.values():
        if call.op == "Conv":
            call.attributes["dilations"] = [1, 1]
    return network


def shapes_as_constants(network: Network) -> Network:
    """A reshape reads the wanted shape, int64."""
    for call in network.calls.values():
        if call.op == "Reshape":
            call.weights, call.weight_types = ((len(call.shape),),), ("int64",)
    return network


def fuse_sums_of_plain_convolutions(network: Network) -> Network:
    """onnxruntime's convolutions that stayed unblocked: one with a bias adds what it is summed up with, and clips."""
    network = _with_sums(network, lambda before, total: _adds(before) and INPUT not in total.inputs, _SUMMED)
    return _activations_of_sums(network)


_SUMMED = "summed"


def _adds(call: Call) -> bool:
    return call.op == "Conv" and not call.domain and len(call.weights) > 1 and not call.activation


def _activations_of_sums(network: Network) -> Network:
    readers = network.readers()
    for value, call in network.items():
        source = call.inputs[0]
        before = network.calls.get(source)
        if call.op in _ACTIVATIONS and before is not None and before.activation == _SUMMED and readers[source] == 1:
            before.attributes["activation"] = call.op
            del network.calls[source]
            network.calls[value] = before
    for call in network.calls.values():
        if call.activation == _SUMMED:
            call.op, call.domain = "FusedConv", "com.microsoft"
            del call.attributes["activation"]
        elif call.op == "Conv" and not call.domain and call.activation:
            call.op, call.domain = "FusedConv", "com.microsoft"
    return network


def onnxruntime_fp32(block: int | None) -> tuple[Rule, ...] | None:
    """Rules of onnxruntime on the CPU, all optimisations, fp32.

    Args:
        block: channels that its blocked layout keeps together; 1 for none, None where it is not known.
    """
    if block is None:
        return None
    return (
        once,
        needed,
        fold_normalisation,
        tell_dilations,
        shapes_as_constants,
        fuse_activations,
        partial(blocked_layout, block=block),
        fuse_sums_of_plain_convolutions,
    )


def onnxruntime_int8(block: int | None) -> tuple[Rule, ...]:
    """Rules of onnxruntime on the CPU for files with quantise-dequantise pairs; they know no blocks."""
    fused = partial(fuse_activations, activations=("Relu",))
    return (once, needed, fold_normalisation, tell_dilations, shapes_as_constants, fused, quantised)


def ncnn_fp32(block: int | None) -> tuple[Rule, ...]:
    """Rules of ncnn and its converter, fp32; its layers tell no blocks."""
    return (once, needed, fold_normalisation, partial(fuse_activations, activations=("Relu",)), ncnn_layers)


_RULES: dict[tuple[str, str], Callable[[int | None], tuple[Rule, ...] | None]] = {
    ("ncnn", "fp32"): ncnn_fp32,
    ("onnxruntime", "fp32"): onnxruntime_fp32,
    ("onnxruntime", "int8"): onnxruntime_int8,
}


def rules_of(runtime: str, precision: str, block: int | None = None) -> tuple[Rule, ...] | None:
    """Returns the rules of a runtime, None where there are none or they depend on an unknown processor.

    Args:
        runtime: its name.
        precision: of the file.
        block: see `written_graph`.
    """
    make = _RULES.get((runtime, precision))
    return None if make is None else make(channels_of_a_block() if block is None else block)


@cache
def channels_of_a_block() -> int | None:
    """Channels that onnxruntime keeps together on this machine: 16 with AVX-512, 8 on other x86-64, else not known."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    flags = next((line.split() for line in told.splitlines() if line.startswith("flags")), [])
    return 16 if "avx512f" in flags else 8
