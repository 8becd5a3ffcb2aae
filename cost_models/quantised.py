"""onnxruntime's int8 graphs: what it makes of files with quantise-dequantise pairs around every operator.

Read off onnxruntime 1.32's graphs of the files that `onnx_file.quantise` writes. Convolutions run with channels last; a
ReLU right after a convolution is in the convolution's range; a hard-swish is a hard-sigmoid in float32 and a product.
"""

from __future__ import annotations

from ..profilers.graph import Shape
from .network import INPUT, Call, Network, NoRule

__all__ = ["quantised"]

_MS = "com.microsoft"
_PAIR = ("float32", "uint8")
"""Scale and zero point of a tensor."""

_ALIKE = {
    "Add": ("QLinearAdd", 3),
    "AveragePool": ("QLinearAveragePool", 2),
    "GlobalAveragePool": ("QLinearGlobalAveragePool", 2),
    "Mul": ("QLinearMul", 3),
}
"""Operator → the quantised one, and how many scales and zero points it reads."""


def quantised(network: Network) -> Network:
    """Returns the network in int8; batch normalisation and a ReLU after a convolution are fused into it before.

    Raises:
        NoRule: batch normalisation is left over. It runs in float32 with channels first, and how far the change of
            layout moves back from it depends on estimates of onnxruntime's.
    """
    return _Quantising(network).network()


class _Quantising:
    def __init__(self, network: Network) -> None:
        self._old = network
        self._calls: dict[int, Call] = {}
        self._next = network.new()
        self._last: dict[int, int] = {}
        """Value → the same with channels last."""

    def network(self) -> Network:
        """Returns the network in int8."""
        start = self._add(_between("QuantizeLinear", INPUT, self._old.shape, "uint8"))
        for value, call in self._old.items():
            call = call.with_inputs(*(start if x == INPUT else x for x in call.inputs))
            if call.op == "Conv":
                self._convolution(value, call)
            elif call.op in _ALIKE:
                self._calls[value] = self._alike(call, *map(self._channels_last, call.inputs))
            elif call.op == "HardSwish":
                x = self._channels_last(call.inputs[0])
                self._calls[value] = self._alike(Call("Mul", [], call.shape), x, self._hard_sigmoid(x))
            elif call.op == "HardSigmoid":
                self._hard_sigmoid(self._channels_last(call.inputs[0]), value)
            elif call.op == "Relu":
                self._relu(value, call)
            elif call.op == "BatchNormalization":
                raise NoRule("batch normalisation by itself in int8")
            elif call.op == "Gemm":
                self._gemm(value, call)
            else:
                self._moved(value, call)
        output = self._old.output
        end = self._add(_between("DequantizeLinear", output, self._calls[output].shape, "float32"))
        return Network(self._old.shape, self._calls, end)

    def _convolution(self, value: int, call: Call) -> None:
        new = call.with_inputs(self._channels_last(call.inputs[0]))
        outputs: Shape = (call.filters[0],)
        new.op, new.domain, new.dtype = "QLinearConv", _MS, "uint8"
        new.weights = ((), (), call.filters, outputs, outputs, (), ())
        new.weight_types = (*_PAIR, "int8", "float32", "int8", *_PAIR)
        if len(call.weights) > 1:
            new.weights, new.weight_types = (*new.weights, outputs), (*new.weight_types, "int32")
        new.attributes.pop("activation", None)
        self._keep(value, new, call.shape)

    def _gemm(self, value: int, call: Call) -> None:
        outputs: Shape = (call.weights[0][0],)
        types = (*_PAIR, "int8", "float32", "int8", "int32", *_PAIR)
        weights = ((), (), call.weights[0], outputs, outputs, outputs, (), ())
        self._calls[value] = Call("QGemm", call.inputs, call.shape, weights, 1, {}, _MS, types, "uint8")

    def _alike(self, call: Call, *inputs: int) -> Call:
        op, pairs = _ALIKE[call.op]
        shape = _last(call.shape)
        return Call(op, list(inputs), shape, ((),) * 2 * pairs, 1, call.attributes, _MS, _PAIR * pairs, "uint8")

    def _hard_sigmoid(self, x: int, value: int | None = None) -> int:
        """In float32, between a dequantisation and a quantisation."""
        shape = self._calls[x].shape
        y = self._add(_between("DequantizeLinear", x, shape, "float32"))
        y = self._add(Call("HardSigmoid", [y], shape))
        return self._add(_between("QuantizeLinear", y, shape, "uint8"), value)

    def _relu(self, value: int, call: Call) -> None:
        """A ReLU by itself is in the range of the quantisation after it."""
        x = self._channels_last(call.inputs[0])
        y = self._add(_between("DequantizeLinear", x, self._calls[x].shape, "float32"))
        self._add(_between("QuantizeLinear", y, self._calls[x].shape, "uint8"), value)

    def _moved(self, value: int, call: Call) -> None:
        """Operators that move values only."""
        new = call.with_inputs(*call.inputs)
        new.dtype = "uint8"
        source = self._calls[call.inputs[0]]
        if call.op == "Flatten" and len(source.shape) == 4:
            new.inputs = [self._add(Call("Transpose", call.inputs, _first(source.shape), dtype="uint8"))]
        elif call.op == "Reshape" and len(call.shape) == 5:
            new.shape = (1, *call.shape[3:], *call.shape[1:3])  # split where the channels are, at the end
        self._calls[value] = new
        if call.op == "Reshape" and len(call.shape) == 4:
            self._last[value] = self._add(Call("Transpose", [value], _last(call.shape), dtype="uint8"))

    def _channels_last(self, value: int) -> int:
        if value in self._last:
            return self._last[value]
        if self._calls[value].op == "QuantizeLinear" and self._calls[value].inputs == [INPUT]:
            self._last[value] = self._add(Call("Transpose", [value], _last(self._old.shape), dtype="uint8"))
            return self._last[value]
        return value

    def _keep(self, value: int, call: Call, shape: Shape) -> None:
        call.shape = _last(shape)
        self._calls[value] = call

    def _add(self, call: Call, value: int | None = None) -> int:
        if value is None:
            value = self._next
            self._next += 1
        self._calls[value] = call
        return value


def _between(op: str, x: int, shape: Shape, dtype: str) -> Call:
    return Call(op, [x], shape, ((), ()), weight_types=_PAIR, dtype=dtype)


def _last(shape: Shape) -> Shape:
    """Channels last."""
    return (shape[0], *shape[2:], shape[1])


def _first(shape: Shape) -> Shape:
    return (shape[0], shape[-1], *shape[1:-1])
