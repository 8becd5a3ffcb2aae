"""Graphs written down operator by operator, without a module: the fast way from an architecture to its executed graph.

Eager torch runs every operator by itself. A converter folds batch normalisation into convolutions, drops what no output
needs, computes equal operators once and fuses a sum and an activation into the convolution before them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..profilers.graph import Graph, Shape
from .fusion import needed, once
from .network import Call, Network

__all__ = ["GraphBuilder"]


class GraphBuilder:
    """Takes the operators of a network in order; a value is the number of the call that makes it, -1 the input.

    Args:
        shape: of the network's input, without the batch: channels, height, width.
        converted: as a converted graph executes it, else as eager torch does.

    >>> builder = GraphBuilder((3, 8, 8), converted=True)
    >>> x = builder.relu(builder.convolution(-1, 16, 3))
    >>> [(node.op, node.attributes["activation"], node.macs) for node in builder.graph(x).nodes]
    [('Conv', 'Relu', 27648)]
    """

    def __init__(self, shape: tuple[int, int, int], *, converted: bool) -> None:
        self._calls: list[Call] = []
        self._shape: Shape = (1, *shape)
        self._converted = converted

    def shape(self, value: int) -> Shape:
        """(1, channels, height, width) of a value."""
        return self._shape if value < 0 else self._calls[value].shape

    def convolution(
        self, x: int, channels: int, kernel: int, stride: int = 1, group: int = 1, normalised: bool = True
    ) -> int:
        """A convolution that keeps the sides at stride 1; without a bias before batch normalisation."""
        _, inputs, height, width = self.shape(x)
        shape = (1, channels, -(-height // stride), -(-width // stride))
        filters: Shape = (channels, inputs // group, kernel, kernel)
        weights = (filters, (channels,)) if normalised and self._converted else (filters,)
        y = self._add("Conv", [x], shape, weights, group, {"kernel": [kernel, kernel], "strides": [stride, stride]})
        return self.normalisation(y) if normalised and not self._converted else y

    def dense(self, x: int, channels: int) -> int:
        """A 1x1 convolution with a bias and no batch normalisation."""
        inputs = self.shape(x)[1]
        y = self.convolution(x, channels, 1, normalised=False)
        self._calls[y].weights = ((channels, inputs, 1, 1), (channels,))
        return y

    def normalisation(self, x: int) -> int:
        """Batch normalisation by itself; onnxruntime makes it a depthwise 1x1 convolution where it cannot be folded."""
        shape = self.shape(x)
        if self._converted:
            return self.convolution(x, shape[1], 1, group=shape[1])
        return self._add("BatchNormalization", [x], shape, ((shape[1],),) * 4)

    def relu(self, x: int) -> int:
        """A ReLU; on values that have had one already, a converter's equal one."""
        return self.activation(x, "Relu")

    def activation(self, x: int, name: str) -> int:
        """An activation by ONNX's name, e.g. `HardSwish`."""
        return self._add(name, [x], self.shape(x))

    def scaled(self, x: int, by: int) -> int:
        """A product with one number a channel."""
        return self._add("Mul", [x, by], self.shape(x))

    def global_pool(self, x: int) -> int:
        """The mean of each channel."""
        return self._add("GlobalAveragePool", [x], (1, self.shape(x)[1], 1, 1))

    def average_pool(self, x: int, kernel: int, stride: int = 1) -> int:
        """An average over windows that keeps the sides at stride 1."""
        _, channels, height, width = self.shape(x)
        shape = (1, channels, -(-height // stride), -(-width // stride))
        return self._add("AveragePool", [x], shape, (), 1, {"kernel": [kernel, kernel], "strides": [stride, stride]})

    def zero(self, x: int) -> int:
        """A multiplication by zero, as an operator."""
        return self._add("Mul", [x], self.shape(x))

    def total(self, terms: Iterable[int]) -> int:
        """The sum of values, two by two from the first on.

        Raises:
            ValueError: there are none.
        """
        values = list(terms)
        if not values:
            raise ValueError("a sum needs a term")
        y = values[0]
        for term in values[1:]:
            y = self._add("Add", [y, term], self.shape(y))
        return y

    def shuffle(self, x: int, groups: int) -> int:
        """Channels of groups in turn: reshaped, transposed, reshaped."""
        _, channels, height, width = self.shape(x)
        parts = (1, groups, channels // groups, height, width)
        y = self._add("Reshape", [x], parts)
        y = self._add("Transpose", [y], (1, parts[2], groups, height, width))
        return self._add("Reshape", [y], (1, channels, height, width))

    def classifier(self, x: int, classes: int) -> int:
        """The mean of each channel, and a linear layer."""
        channels = self.shape(x)[1]
        y = self._add("Flatten", [self.global_pool(x)], (1, channels))
        return self._add("Gemm", [y], (1, classes), ((classes, channels), (classes,)))

    def network(self, output: int) -> Network:
        """Returns the calls so far, as a network that ends in a value; not to be changed (`fusion.applied` copies)."""
        return Network(self._shape, dict(enumerate(self._calls)), output)

    def graph(self, output: int) -> Graph:
        """Returns the graph that ends in a value."""
        network = self.network(output).copy()
        if self._converted:
            network = _fused(needed(once(network)))
        return network.graph(f"{'converted' if self._converted else 'eager'}, written down")

    def _add(
        self,
        op: str,
        inputs: list[int],
        shape: Shape,
        weights: tuple[Shape, ...] = (),
        group: int = 1,
        attributes: dict[str, Any] | None = None,
    ) -> int:
        self._calls.append(Call(op, inputs, shape, weights, group, attributes or {}))
        return len(self._calls) - 1


def _fused(network: Network) -> Network:
    """A convolution read only by a sum adds by itself; one read only by a ReLU clips by itself."""
    calls = network.calls
    readers = Counter(x for call in calls.values() for x in call.inputs)
    for value, call in network.items():
        if call.op not in ("Add", "Relu"):
            continue
        into = next((x for x in reversed(call.inputs) if x >= 0 and _takes(calls[x], call.op, readers[x])), None)
        if into is None:
            continue
        target = calls.pop(into)
        if call.op == "Add":
            rest = list(call.inputs)
            rest.remove(into)
            target.inputs += rest
        target.attributes["activation"] = "Relu" if call.op == "Relu" else ""
        calls[value] = target  # it runs where the last of its inputs is there
    return network


def _takes(call: Call, op: str, readers: int) -> bool:
    """True when a convolution can take in the operator after it."""
    if call.op != "Conv" or readers != 1 or call.attributes.get("activation"):
        return False
    return op == "Relu" or len(call.inputs) == 1
