"""onnxruntime's blocked layout: convolutions whose channels stand in blocks of a vector register's width.

What takes part was read off onnxruntime 1.32's graphs: a convolution with a suitable number of channels, and whatever
follows it that can work on blocks. A value that is needed in the plain layout too is reordered, once.
"""

from __future__ import annotations

from .network import INPUT, Call, Network

__all__ = ["DOMAIN", "blocked_layout"]

DOMAIN = "com.microsoft.nchwc"
ALIGNED = 4
"""Channels that a convolution reorders must be a multiple of it."""

_ACTIVATIONS = frozenset({"Relu", "Sigmoid", "Tanh"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "MaxPool"})


def blocked_layout(network: Network, block: int) -> Network:
    """Returns the network in blocks; as it is when `block` is 1."""
    return network if block == 1 else _Blocking(network, block).network()


class _Blocking:
    """One pass over a network in its order.

    Args:
        network: with activations fused.
        block: channels kept together.
    """

    def __init__(self, network: Network, block: int) -> None:
        self._old, self._block = network, block
        self._readers = network.readers()
        self._calls: dict[int, Call] = {}
        self._blocked: dict[int, int] = {}
        """Value → its channels, when it is made in blocks."""
        self._reordered: dict[tuple[str, int], int] = {}
        """Change of layout and value → the value after it."""
        self._made: dict[int, int] = {}
        """Value → the value for which its call was made, when that is another."""
        self._next = network.new()
        self._in_file = {
            value: place + (self._next if call.activation else 0)
            for place, (value, call) in enumerate(network.calls.items())
        }
        """Value → number of its call; a convolution that took in its activation was made anew."""

    def network(self) -> Network:
        """Returns the network in blocks."""
        self._old.from_output(self._in_file)
        passed = {value: place for place, value in enumerate(self._old.calls)}
        for value, call in self._old.items():
            if not self._taken_over(value, call):
                self._calls[value] = call.with_inputs(*(self._plain(x) for x in call.inputs))
        network = Network(self._old.shape, self._calls, self._plain(self._old.output))
        network.from_output(self._numbers(passed))
        return network

    def _numbers(self, passed: dict[int, int]) -> dict[int, int]:
        """Numbers of the calls as onnxruntime makes them: what it replaces comes after what it leaves alone.

        Args:
            passed: value → when it was come to.
        """
        many = 2 * self._next
        numbers = {}
        for value, call in self._calls.items():
            old = self._made.get(value, value)
            if call.op == "ReorderOutput":
                numbers[value] = 2 * many + value
            else:
                numbers[value] = many + passed.get(old, value) if call.domain == DOMAIN else self._in_file.get(old, 0)
        return numbers

    def _taken_over(self, value: int, call: Call) -> bool:
        """True when a call runs on blocks: it is in the new network then."""
        if call.op == "Conv" and self._suits(call):
            self._convolution(value, call)
        elif call.op in _POOLS and call.shape[1] % self._block == 0:
            self._keep(value, call, call.with_inputs(self._in_blocks(call.inputs[0])), DOMAIN)
        elif call.op == "Add" and self._alike(call):
            self._sum(value, call)
        elif call.op in _ACTIVATIONS and call.inputs[0] in self._blocked:
            self._activation(value, call)
        elif call.op == "BatchNormalization" and call.inputs[0] in self._blocked:
            self._normalisation(value, call)
        else:
            return False
        return True

    def _suits(self, call: Call) -> bool:
        """True when a convolution is run in blocks."""
        outputs, inputs = call.filters[:2]
        if call.group == 1:
            return inputs < self._block or inputs % ALIGNED == 0
        if outputs % ALIGNED:
            return False
        if inputs == 1 and outputs == call.group:
            return True
        return inputs % self._block == 0 and outputs // call.group % self._block == 0

    def _convolution(self, value: int, call: Call) -> None:
        outputs, inputs, *kernel = call.filters
        direct = call.group == 1 and inputs < self._block
        new = call.with_inputs(self._plain(call.inputs[0]) if direct else self._in_blocks(call.inputs[0]))
        wide = self._padded(outputs)
        deep = inputs if direct or call.group > 1 else self._padded(inputs)
        new.weights = ((wide, deep, *kernel), *(((wide,),) if len(call.weights) > 1 else ()))
        new.group = wide if call.depthwise else call.group
        self._keep(value, call, new, DOMAIN)

    def _sum(self, value: int, call: Call) -> None:
        """A convolution that nothing else reads, with neither a sum nor an activation yet, adds by itself."""
        for place, x in enumerate(call.inputs):
            made = self._calls.get(x)
            free = made is not None and made.op == "Conv" and not made.activation and len(made.inputs) == 1
            if made is not None and free and self._readers[x] == 1:
                made.inputs.append(call.inputs[1 - place])
                self._move(x, value)
                return
        self._keep(value, call, call.with_inputs(*call.inputs), "")

    def _activation(self, value: int, call: Call) -> None:
        source = call.inputs[0]
        made = self._calls.get(source)
        if made is not None and made.op == "Conv" and not made.activation and self._readers[source] == 1:
            made.attributes["activation"] = call.op
            self._move(source, value)
        else:
            self._keep(value, call, call.with_inputs(source), "")

    def _normalisation(self, value: int, call: Call) -> None:
        """Batch normalisation by itself becomes a depthwise 1x1 convolution."""
        wide = self._padded(call.shape[1])
        new = Call("Conv", [call.inputs[0]], call.shape, ((wide, 1, 1, 1), (wide,)), wide)
        self._keep(value, call, new, DOMAIN)

    def _alike(self, call: Call) -> bool:
        """True when all that a sum reads is in blocks."""
        return all(x in self._blocked for x in call.inputs)

    def _keep(self, value: int, call: Call, new: Call, domain: str) -> None:
        new.domain = domain
        new.shape = (call.shape[0], self._padded(call.shape[1]), *call.shape[2:])
        self._calls[value] = new
        self._blocked[value] = call.shape[1]

    def _move(self, old: int, new: int) -> None:
        """A call takes the place of the one after it."""
        self._calls[new] = self._calls.pop(old)
        self._blocked[new] = self._blocked.pop(old)
        self._made[new] = self._made.pop(old, old)

    def _in_blocks(self, value: int) -> int:
        if value in self._blocked:
            return value
        shape = self._old.shape_of(value)
        return self._reorder("ReorderInput", value, (shape[0], self._padded(shape[1]), *shape[2:]))

    def _plain(self, value: int) -> int:
        if value == INPUT or value not in self._blocked:
            return value
        shape = self._calls[value].shape
        return self._reorder("ReorderOutput", value, (shape[0], self._blocked[value], *shape[2:]))

    def _reorder(self, op: str, value: int, shape: tuple[int, ...]) -> int:
        """The value in the other layout, reordered where it is first read so."""
        if (op, value) not in self._reordered:
            self._reordered[op, value] = self._next
            self._calls[self._next] = Call(op, [value], shape, domain=DOMAIN)
            self._next += 1
        return self._reordered[op, value]

    def _padded(self, channels: int) -> int:
        return -(-channels // self._block) * self._block
