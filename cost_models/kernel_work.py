"""Work of one kernel as a vector unit executes it: with tails, edges and narrow outputs, not as the formula counts it.

The shapes that matter are those of a blocked kernel on 256-bit vectors, which AVX2 has and which two 128-bit units of
Arm come to: a tile of 3 outputs x 4 vectors of channels is kept in registers, and a multiply-add waits 4 cycles for the
one before. They are constants of the features, the same for every device; what a unit of work costs is fitted. The loop
structure is that of onnxruntime's MLAS (onnxruntime/core/mlas/lib: snchwc.cpp, convsym.cpp; MIT licence).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ..profilers.graph import Node, Shape

__all__ = ["depthwise_steps", "padded_macs", "vector_steps"]

LANES = 8
"""Values of 32 bits in a vector; of 8 bits twice as many are multiplied at once, in pairs widened to 16 bits."""

TILE_OUTPUTS, TILE_VECTORS = 3, 4
"""Neighbouring outputs and vectors of output channels that are kept in registers."""

UNITS, WAIT = 2, 4
"""Multiply-adds that begin in a cycle, and cycles until the next may add to the same sum."""

EDGE = 1.5
"""Cost of a depthwise output at the edge, which is worked out alone, over that of a tile of three."""

PARTIAL = 4 / 3
"""Cost of an 8-bit depthwise convolution whose channels do not fill vectors: sums go through memory."""

POINTER, RUN, PACKED = 2.0, 20.0, 0.2
"""Vector steps to look up where an input value begins, to copy a run of neighbours, and to pack one value of it."""

COPIED = 0.5
"""Vector steps to copy one 32-bit value into the matrix of an unrolled convolution, and from there into its blocks."""

REQUANTISED = 3
"""Steps per value from a 32-bit sum to 8 bits: to float and scaled, rounded, narrowed."""

BLOCKED = "com.microsoft.nchwc"
"""Domain of onnxruntime's convolutions on channels in blocks; others are unrolled into a matrix product first."""

ARITHMETIC: dict[str, float] = {
    **dict.fromkeys(("Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Shape", "Slice"), 0),
    **dict.fromkeys(("Split", "Squeeze", "StridedSlice", "Tile", "Unsqueeze"), 0),
    **dict.fromkeys(("Clip", "DequantizeLinear", "Div", "HardSigmoid", "LeakyRelu", "Pow", "Sqrt"), 2),
    **dict.fromkeys(("QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid"), 2),
    **dict.fromkeys(("BatchNormalization", "HardSwish", "QuantizeLinear"), 3),
    **dict.fromkeys(("QLinearAdd", "QLinearMul", "Transpose"), 4),
    "QLinearConcat": 5,
    **dict.fromkeys(("Exp", "Sigmoid"), 8),
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization", "Log", "Softmax", "Tanh"), 10),
    **dict.fromkeys(("QuickGelu", "SkipLayerNormalization"), 11),
    **dict.fromkeys(("Erf", "FastGelu"), 12),
    **dict.fromkeys(("BiasGelu", "Gelu"), 14),
    "QLinearSoftmax": 6 * LANES,  # one value after the other
}
"""Operator → vector instructions per vector of values, beside reading and writing them; 1 for an unknown one."""

FUSED: dict[str, float] = {"": 0, "Clip": 0, "HardSigmoid": 2, "HardSwish": 4, "LeakyRelu": 2, "Relu": 0}
"""Activation within a convolution → the same; as a pass of its own over the outputs where it is not a comparison."""

POOLS: dict[str, float] = {"AveragePool": 1, "MaxPool": 1, "NhwcMaxPool": 1, "QLinearAveragePool": 2 * LANES}
"""Pooling operator → the same for each value of a window; the quantised one looks up value after value."""

BROADCAST = 1.6
"""How much longer a quantised operator takes when it has to repeat an operand."""

BY_VALUE = 6.0
"""How much longer a transposition of more than four axes takes: it moves one value after the other."""


def padded_macs(node: Node) -> float:
    """Multiply-adds that a full pipeline could do in the time of these: tails, edges and narrow outputs included.

    A depthwise convolution has none: see `depthwise_steps`.
    """
    found = _convolution(node)
    if found is None:
        columns = node.outputs[0][-1] if node.macs and node.outputs and node.outputs[0] else 0
        return node.macs / columns * _up(columns, 2 * LANES) if columns else float(node.macs)
    if node.depthwise:
        return 0.0
    if found.bytes_:
        return (
            math.prod(found.sides) * math.prod(found.kernel) * _up(found.read, 4) * _up_8_bit(found.made) * node.group
        )
    if node.domain not in ("", BLOCKED):  # a matrix product whose columns are the places
        places = math.prod(found.sides)
        products = math.prod(found.kernel) * found.read * found.made * node.group
        return float(products * (_up(places, 2 * LANES) if places > 1 else 1))
    vectors = -(-found.made // LANES)
    sets = [TILE_VECTORS] * (vectors // TILE_VECTORS) + [vectors % TILE_VECTORS]
    if found.pointwise:
        cycles = sum(_cycles(math.prod(found.sides), vectors) for vectors in sets if vectors)
    else:
        whole, edge, column = found.last_axis
        tiles = sum(
            _cycles(whole, vectors) * found.kernel[-1] + _cycles(1, vectors) * edge for vectors in sets if vectors
        )
        cycles = tiles * column
    return cycles * found.read * node.group * UNITS * LANES


def depthwise_steps(node: Node) -> float:
    """Vectors of products in a depthwise convolution; a tile of three outputs is one step, as its sums wait."""
    found = _convolution(node) if node.depthwise else None
    if found is None:
        return 0.0
    channels = node.group * found.made
    if found.bytes_:
        vectors = -(-channels // (2 * LANES))
        partial = PARTIAL if channels % (2 * LANES) else 1.0
        return math.prod(found.sides) * math.prod(found.kernel) * (vectors + 1) * partial  # 1 for the address
    whole, edge, column = found.last_axis
    return (-(-whole // TILE_OUTPUTS) * found.kernel[-1] + EDGE * edge) * column * -(-channels // LANES)


def vector_steps(node: Node) -> float:
    """Vector instructions beside products: values read, written, activated, pooled, requantised, copied together."""
    return (node.bytes_in + node.bytes_out) / (4 * LANES) + _arithmetic(node) / LANES + _gathered(node)


def _arithmetic(node: Node) -> float:
    """Instructions times values."""
    made: int = math.prod(node.outputs[0]) if node.outputs else 0
    if node.macs:
        return made * (FUSED.get(node.attributes.get("activation", ""), 8.0) + REQUANTISED * _is_8_bit(node))
    if node.op in POOLS:
        window: list[int] = node.attributes.get("kernel") or [1]
        return made * math.prod(window) * POOLS[node.op]
    read: list[int] = [math.prod(shape) for shape in node.inputs]
    steps = ARITHMETIC.get(node.op, 1.0)
    if node.op == "Transpose" and node.inputs:
        moved = node.inputs[0][-1:] != node.outputs[0][-1:]
        steps = steps * (BY_VALUE if len(node.inputs[0]) > 4 else 1.0) if moved else 0.0
    elif node.op.startswith("QLinear") and len(set(read)) > 1 and node.op != "QLinearConcat":
        steps *= BROADCAST
    return steps * max([made, *read])


def _gathered(node: Node) -> float:
    """Steps to bring together what the windows of a convolution see, where that is done before the products."""
    found = None if node.domain in ("", BLOCKED) else _convolution(node)
    if found is None or found.pointwise or (found.bytes_ and node.depthwise):
        return 0.0
    places, taps = math.prod(found.sides), math.prod(found.kernel)
    if not found.bytes_:
        return COPIED * places * taps * found.read * node.group
    if node.group == 1 and found.read % 4 == 0 and found.made % LANES == 0 and found.made >= 2 * LANES:
        return POINTER * places * taps
    runs = taps // found.kernel[-1]
    return (RUN * runs + PACKED * taps * found.read) * places * node.group


@dataclass(frozen=True, slots=True)
class _Convolution:
    """Sizes of a convolution wherever its channels stand.

    Attributes:
        read: input channels per group.
        made: output channels per group.
        kernel: sides of the kernel.
        seen: sides of the input.
        sides: sides of the output.
        strides: one per side.
        bytes_: True when values are of 8 bits.
    """

    read: int
    made: int
    kernel: Shape
    seen: Shape
    sides: Shape
    strides: Shape
    bytes_: bool

    @property
    def pointwise(self) -> bool:
        return math.prod(self.kernel) == 1 and math.prod(self.strides) == 1

    @property
    def last_axis(self) -> tuple[int, int, int]:
        """Outputs of a row without padding, taps of its other outputs, and taps within the input along other axes."""
        taps = [_taps(*axis) for axis in zip(self.sides, self.seen, self.kernel, self.strides, strict=True)]
        edge = [count for count in taps[-1] if count < self.kernel[-1]]
        return len(taps[-1]) - len(edge), sum(edge), math.prod(sum(axis) for axis in taps[:-1])


def _convolution(node: Node) -> _Convolution | None:
    """None for another operator, and for filters that are computed."""
    if not node.macs or "Conv" not in node.op or "Transpose" in node.op or not (node.inputs and node.outputs):
        return None
    out, seen = node.outputs[0], node.inputs[0]
    filters = next((shape for shape in node.weights if len(shape) == len(out) > 2), None)
    if filters is None or len(seen) != len(out):
        return None
    last = out[1] != filters[0] and out[-1] == filters[0]
    sides = slice(1, -1) if last else slice(2, None)
    kernel = filters[2:]
    strides = tuple(node.attributes.get("strides") or [1] * len(kernel))
    made = filters[0] // node.group
    return _Convolution(filters[1], made, kernel, seen[sides], out[sides], strides, _is_8_bit(node))


@lru_cache(maxsize=4096)
def _taps(made: int, read: int, kernel: int, stride: int) -> tuple[int, ...]:
    """Taps that fall on the input, for each output along an axis; the padding is told by the sizes."""
    before = max((made - 1) * stride + kernel - read, 0) // 2
    starts = [place * stride - before for place in range(made)]
    return tuple(max(min(kernel, read - start) - max(0, -start), 0) for start in starts)


def _cycles(outputs: int, vectors: int) -> float:
    """Cycles of one tap and input channel for a row of outputs: full tiles, and what is left over.

    >>> _cycles(3, 4), _cycles(3, 1), _cycles(1, 4)
    (6.0, 4.0, 4.0)
    """
    tiles, left = divmod(outputs, TILE_OUTPUTS)
    full = max(float(WAIT), TILE_OUTPUTS * vectors / UNITS)
    return tiles * full + (max(float(WAIT), left * vectors / UNITS) if left else 0.0)


def _is_8_bit(node: Node) -> bool:
    return "int8" in node.dtype


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _up_8_bit(channels: int) -> int:
    """Half vectors are used from one whole vector on."""
    return _up(channels, LANES if channels > 2 * LANES and channels % LANES == 0 else 2 * LANES)
