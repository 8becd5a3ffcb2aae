"""ncnn's graphs: its layers' names, and what its converter makes of a network.

Read off ncnn's own list of layers (`profilers/runtimes/ncnn_graph.py`), which tells no biases and no strides.
"""

from __future__ import annotations

from typing import Any

from .network import Call, Network

__all__ = ["ncnn_layers"]

DOMAIN = "ncnn"

_LAYERS = {
    "Add": ("Add", "BinaryOp"),
    "AveragePool": ("AveragePool", "Pooling"),
    "BatchNormalization": ("BatchNorm", "BatchNorm"),
    "GlobalAveragePool": ("AveragePool", "Pooling"),
    "HardSigmoid": ("HardSigmoid", "HardSigmoid"),
    "HardSwish": ("HardSwish", "HardSwish"),
    "Mul": ("Add", "BinaryOp"),
    "Relu": ("Relu", "ReLU"),
}
"""Operator → the name that the runtime's graph has for it (all of two operands are `Add`), and its layer."""


def ncnn_layers(network: Network) -> Network:
    """Returns the network in ncnn's layers; batch normalisation and ReLUs are fused into convolutions before.

    A mean over the image has no sides left, so that a 1x1 convolution of it is a linear layer, and nothing is to be
    flattened; a shuffle of channels is one layer.
    """
    calls: dict[int, Call] = {}
    stands_for: dict[int, int] = {}
    shuffled = _shuffles(network)
    for value, call in network.items():
        inputs = [stands_for.get(x, x) for x in call.inputs]
        if value in shuffled:
            calls[value] = _layer(
                "ShuffleChannel", "ShuffleChannel", [stands_for.get(x, x) for x in shuffled[value]], call
            )
        elif call.op == "Flatten" or call.op in ("Reshape", "Transpose"):
            stands_for[value] = inputs[0]
        elif call.op == "Gemm":
            calls[value] = _product(inputs, *call.weights[0])
        elif call.op == "Conv" and inputs[0] in calls and len(calls[inputs[0]].shape) == 2:
            calls[value] = _product(inputs, *call.filters[:2])
        elif call.op == "Conv":
            calls[value] = _convolution(inputs, call)
        else:
            calls[value] = _layer(*_LAYERS[call.op], inputs, call)
            if call.op == "GlobalAveragePool" or all(x in calls and len(calls[x].shape) == 2 for x in inputs):
                calls[value].shape = call.shape[:2]
    return Network(network.shape, calls, stands_for.get(network.output, network.output))


def _shuffles(network: Network) -> dict[int, list[int]]:
    """The last operator of each shuffle, and what is shuffled."""
    found = {}
    for value, call in network.items():
        middle = network.calls.get(call.inputs[0])
        first = network.calls.get(middle.inputs[0]) if middle is not None else None
        if call.op == "Reshape" and middle is not None and middle.op == "Transpose" and first is not None:
            found[value] = first.inputs
    return found


def _convolution(inputs: list[int], call: Call) -> Call:
    attributes = {"kernel": call.attributes["kernel"]}
    layer = "ConvolutionDepthWise" if call.group > 1 else "Convolution"
    new = _layer("Conv", layer, inputs, call, attributes)
    new.weights, new.group = (call.filters,), call.group
    return new


def _product(inputs: list[int], outputs: int, depth: int) -> Call:
    return Call("Gemm", inputs, (1, outputs), ((depth, outputs),), 1, {"layer": "InnerProduct"}, DOMAIN)


def _layer(op: str, layer: str, inputs: list[int], call: Call, more: dict[str, Any] | None = None) -> Call:
    return Call(op, inputs, call.shape, (), 1, {"layer": layer, **(more or {})}, DOMAIN)
