"""Networks as lists of calls that rules rewrite, from what a module says to what a runtime executes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..profilers.graph import Graph, Node, Shape, count_macs, peak_bytes

__all__ = ["INPUT", "Call", "Network", "NoRule"]

INPUT = -1
"""The value that comes into a network."""

_BYTES = {"float32": 4, "int8": 1, "uint8": 1, "int32": 4, "int64": 8}


class NoRule(ValueError):
    """No rule tells what the runtime makes of this network."""


@dataclass(slots=True)
class Call:
    """One operator of a network.

    Attributes:
        op: its name.
        inputs: the values that it reads.
        shape: of what it writes, batch first.
        weights: shapes of the constants that it reads.
        group: groups of a convolution.
        attributes: as of a `Node`.
        domain: as of a `Node`.
        weight_types: types of the constants; float32 where there are fewer than constants.
        dtype: of what it writes.
    """

    op: str
    inputs: list[int]
    shape: Shape
    weights: tuple[Shape, ...] = ()
    group: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    weight_types: tuple[str, ...] = ()
    dtype: str = "float32"

    @property
    def filters(self) -> Shape:
        """Shape of the first constant: a convolution's filters, (out, in / group, height, width)."""
        return self.weights[0]

    @property
    def depthwise(self) -> bool:
        """True for a convolution of each channel by itself."""
        return self.group > 1 and self.filters[1] == 1

    @property
    def activation(self) -> str:
        """The activation that it applies by itself, or nothing."""
        return str(self.attributes.get("activation", ""))

    def with_inputs(self, *inputs: int) -> Call:
        """The same on other values; attributes are a copy."""
        attributes, types = dict(self.attributes), self.weight_types
        return Call(
            self.op, list(inputs), self.shape, self.weights, self.group, attributes, self.domain, types, self.dtype
        )

    def bytes_of_weights(self) -> int:
        """Bytes of the constants that it reads."""
        types = (*self.weight_types, *("float32",) * len(self.weights))
        return sum(_BYTES[kind] * math.prod(shape) for shape, kind in zip(self.weights, types, strict=False))


@dataclass(slots=True)
class Network:
    """Calls by the value that each makes, in an order in which they can run.

    Attributes:
        shape: of the input, batch first.
        calls: value → what makes it.
        output: the value that comes out; `INPUT` when nothing is computed.
    """

    shape: Shape
    calls: dict[int, Call]
    output: int

    def shape_of(self, value: int) -> Shape:
        """Shape of a value."""
        return self.shape if value == INPUT else self.calls[value].shape

    def readers(self) -> Counter[int]:
        """How often each value is read; coming out counts as once."""
        read = Counter(x for call in self.calls.values() for x in call.inputs)
        read[self.output] += 1
        return read

    def copy(self) -> Network:
        """A network whose calls can be changed without changing this one's."""
        return Network(self.shape, {value: call.with_inputs(*call.inputs) for value, call in self.items()}, self.output)

    def items(self) -> Iterator[tuple[int, Call]]:
        """Values and their calls, as they are now: calls may be added or taken out meanwhile."""
        return iter(list(self.calls.items()))

    def new(self) -> int:
        """A value that no call makes."""
        return max(self.calls, default=0) + 1

    def from_output(self, number: dict[int, int]) -> None:
        """Puts the calls into the order of a search in depth from the output; of a call's inputs, that with the largest
        number and all it depends on comes first."""
        order: dict[int, Call] = {}
        waiting = [(self.output, False)]
        while waiting:
            value, is_done = waiting.pop()
            if is_done:
                order[value] = self.calls[value]
            elif value != INPUT and value not in order:
                waiting.append((value, True))
                waiting += [(x, False) for x in sorted(self.calls[value].inputs, key=lambda x: number.get(x, -1))]
        self.calls = order

    def graph(self, runtime: str) -> Graph:
        """Returns the graph of kernels."""
        places = {value: place for place, value in enumerate(self.calls)}
        nodes = tuple(self._node(value, call) for value, call in self.calls.items())
        edges = {(places[x], places[value]) for value, call in self.calls.items() for x in call.inputs if x != INPUT}
        return Graph(nodes, tuple(sorted(edges)), runtime, self._peak_bytes(places))

    def _node(self, value: int, call: Call) -> Node:
        inputs = tuple(self.shape_of(x) for x in call.inputs)
        return Node(
            name=f"{call.op}_{value}",
            op=call.op,
            domain=call.domain,
            inputs=inputs,
            outputs=(call.shape,),
            dtype=call.dtype,
            group=call.group,
            attributes=call.attributes,
            weight_bytes=call.bytes_of_weights(),
            bytes_in=sum(self._size(x) for x in call.inputs),
            bytes_out=self._size(value),
            macs=count_macs(call.op, inputs[:1], call.weights, (call.shape,)),
            weights=call.weights,
        )

    def _size(self, value: int) -> int:
        kind = "float32" if value == INPUT else self.calls[value].dtype
        return _BYTES[kind] * math.prod(self.shape_of(value))

    def _peak_bytes(self, places: dict[int, int]) -> int:
        """Largest sum of live values: each lives from the call that makes it to the last that reads it."""
        last = {x: places[value] for value, call in self.calls.items() for x in call.inputs}
        last[self.output] = len(places) - 1
        spans = [(start, last.get(value, start), self._size(value)) for value, start in {INPUT: 0, **places}.items()]
        return peak_bytes(spans, len(places))
