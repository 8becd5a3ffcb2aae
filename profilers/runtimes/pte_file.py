"""What an ExecuTorch file tells of the operators that it runs.

A .pte file is a flatbuffer of instructions, each a call of a portable kernel or of a delegate, with blobs behind it;
that of the XNNPACK delegate is a flatbuffer of its own. The field numbers are those of `program.fbs` (schema/) and
`schema.fbs` (backends/xnnpack/serialization/) of https://github.com/pytorch/executorch. Nothing in a file is executed.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..graph import Graph, Node, Shape, count_macs, peak_bytes
from .aten import onnx_name
from .flatbuffer import FlatbufferError, Table, root

__all__ = ["read_graph"]

_TYPES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64"} | {
    11: "bool",
    15: "bfloat16",
}
"""Scalar types of ExecuTorch."""

_XNN_TYPES = {1: "float32", 2: "float16", 3: "int8", 4: "uint8", 5: "int32", 6: "int8", 7: "int32", 8: "int4"} | {
    9: "int8",
    10: "int4",
    11: "int8",
    12: "int32",
    13: "float32",
    14: "bfloat16",
}
"""Data types of XNNPACK; scales are not told apart."""

_BYTES = {"int64": 8, "float64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "int4": 0.5}

_CONVOLUTION = ((15,), (16, 17), 18)
_BINARY, _UNARY = ((0, 1), (), 2), ((0,), (), 1)
_POOL = ((10,), (), 11)
_LATE = ((2,), (), 3)
_LATER = ((3,), (), 4)
_CONCAT = ((1, 2, 3, 4, 7), (), 5)
_SCALED = ((1,), (), 2)

_XNN_OPERATORS: dict[int, tuple[str, tuple[tuple[int, ...], tuple[int, ...], int]]] = {
    1: ("Add", _BINARY),
    2: ("Gemm", ((0,), (1, 2), 3)),
    3: ("Softmax", _UNARY),
    4: ("Sigmoid", _UNARY),
    5: ("Transpose", _LATE),
    6: ("Clip", _UNARY),
    7: ("Conv", _CONVOLUTION),
    8: ("Div", _BINARY),
    9: ("Resize", _LATE),
    10: ("Pad", _LATER),
    11: ("AveragePool", _POOL),
    12: ("Min", _BINARY),
    13: ("Conv", _CONVOLUTION),
    14: ("MaxPool", _POOL),
    15: ("Mul", _BINARY),
    16: ("Sub", _BINARY),
    17: ("Math", _UNARY),
    18: ("Convert", _UNARY),
    19: ("GlobalAveragePool", _UNARY),
    20: ("Reshape", _LATE),
    21: ("MaxPool", ((6,), (), 7)),
    22: ("Sqrt", _UNARY),
    23: ("Math", _UNARY),
    24: ("HardSwish", _UNARY),
    25: ("LeakyRelu", _SCALED),
    26: ("Max", _BINARY),
    27: ("Neg", _UNARY),
    28: ("Math", _UNARY),
    29: ("Elu", _SCALED),
    30: ("Abs", _UNARY),
    31: ("PRelu", _BINARY),
    32: ("Concat", ((1, 2), (), 5)),
    33: ("Concat", ((1, 2, 3), (), 5)),
    34: ("Concat", ((1, 2, 3, 4), (), 5)),
    35: ("Slice", _LATER),
    36: ("ScaledDotProductAttention", ((0, 1, 2), (), 5)),
    37: ("MatMul", _BINARY),
    38: ("Concat", _CONCAT),
    39: ("ConvTranspose", _CONVOLUTION),
    40: ("Math", _UNARY),
    41: ("Log", _UNARY),
    42: ("Gelu", _UNARY),
    43: ("Tanh", _UNARY),
    44: ("Exp", _UNARY),
    45: ("Math", _UNARY),
    46: ("Identity", _UNARY),
    47: ("Math", _UNARY),
}
"""Operator of XNNPACK → the name of ONNX, by which it is counted, and the fields of inputs, constants and output."""

_CHANNELS_LAST = frozenset({"Conv", "ConvTranspose", "AveragePool", "MaxPool", "GlobalAveragePool", "Resize"})
_FUNCTIONS = frozenset({"Abs", "Clip", "Elu", "Exp", "Gelu", "HardSwish", "LeakyRelu", "Log", "Math", "Neg"}) | {
    "Sigmoid",
    "Sqrt",
    "Tanh",
}
"""Functions of one value, which XNNPACK turns into tables between int8 values."""
_LIMITED = frozenset({"AveragePool", "Clip", "Conv", "ConvTranspose", "Gemm", "MaxPool"})
"""Operators that XNNPACK gives the limits of the one behind them."""
_DEPTHWISE = 13
_NO_VALUE = 0xFFFFFFFF

_TENSOR, _TENSOR_LISTS, _INT, _BOOL = 5, (10, 11), 2, 3


@dataclass(frozen=True)
class _Value:
    """A tensor: its key in the whole program, shape, type, and whether it is a constant."""

    key: tuple[int, int]
    shape: Shape
    dtype: str
    constant: bool

    @property
    def size(self) -> int:
        """In bytes."""
        return math.ceil(math.prod(self.shape) * _BYTES.get(self.dtype, 1))


@dataclass(frozen=True)
class _Call:
    """An operator with what it reads, constants too, and what it makes."""

    op: str
    read: tuple[_Value, ...]
    made: tuple[_Value, ...]
    group: int = 1
    depthwise: bool = False
    attributes: Mapping[str, object] = field(default_factory=dict)

    def node(self, name: str, domain: str) -> Node:
        last = domain == "xnnpack" and self.op in _CHANNELS_LAST
        inputs = tuple(_first(value.shape, last) for value in self.read if not value.constant)
        weights = tuple(_filter(value.shape, last, self.depthwise) for value in self.read if value.constant)
        outputs = tuple(_first(value.shape, last) for value in self.made)
        kernel = {"kernel": list(weights[0][2:])} if self.op in ("Conv", "ConvTranspose") and weights else {}
        return Node(
            name=name,
            op=self.op,
            domain=domain,
            inputs=inputs,
            outputs=outputs,
            dtype=self.made[0].dtype if self.made else "unknown",
            group=self.group,
            attributes={**kernel, **self.attributes},
            weight_bytes=sum(value.size for value in self.read if value.constant),
            bytes_in=sum(value.size for value in self.read if not value.constant),
            bytes_out=sum(value.size for value in self.made),
            macs=count_macs(self.op, inputs, weights, outputs),
            weights=weights,
        )


@dataclass
class _Reading:
    """What was read so far: kernels, who made each tensor, and who read it last."""

    nodes: list[Node] = field(default_factory=list)
    edges: set[tuple[int, int]] = field(default_factory=set)
    makers: dict[tuple[int, int], int] = field(default_factory=dict)
    last: dict[tuple[int, int], int] = field(default_factory=dict)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, node: Node, inputs: Sequence[_Value], outputs: Sequence[_Value]) -> None:
        place = len(self.nodes)
        for value in inputs:
            if value.constant:
                continue
            if value.key in self.makers:
                self.edges.add((self.makers[value.key], place))
            self.last[value.key] = place
            self.sizes.setdefault(value.key, value.size)
        for value in outputs:
            self.makers[value.key] = place
            self.sizes[value.key] = value.size
        self.nodes.append(node)

    def peak_bytes(self, kept: set[tuple[int, int]]) -> int:
        """Largest sum of live activations; ExecuTorch's own plan of memory is coarser."""
        end = len(self.nodes)
        spans = []
        for key, size in self.sizes.items():
            made = self.makers.get(key, 0)
            spans.append((made, end if key in kept else self.last.get(key, made), size))
        return peak_bytes(spans, end)


def read_graph(data: bytes, runtime: str) -> Graph:
    """Returns the operators of the method `forward`, in order, those inside the XNNPACK delegate one by one.

    Shapes of convolutions and pooling are (N, C, H, W), of other operators as they are stored. Merged is what XNNPACK
    merges when it loads the file, as far as `_merged` knows.

    Args:
        data: the file.
        runtime: name and version for the graph.

    Raises:
        FlatbufferError: it is no .pte file.
    """
    program = root(data, b"ET12")
    base = struct.unpack_from("<Q", data, 24)[0] if data[8:12] == b"eh00" else 0  # of the extended header
    segments = [(base + item.whole(0, "Q"), item.whole(1, "Q")) for item in program.tables(4)]
    plan = next((item for item in program.tables(1) if item.text(0) == "forward"), None)
    if plan is None:
        raise FlatbufferError("it has no method 'forward'")
    values = plan.tables(2)
    reading = _Reading()
    for number, call in enumerate(item for chain in plan.tables(5) for item in chain.tables(2)):
        kind, told = call.whole(0, "B"), call.table(1)
        if told is None or kind not in (1, 2):
            continue  # moves and jumps launch nothing
        args = told.numbers(1)
        if kind == 1:
            _portable(reading, plan.tables(6)[told.whole(0)], args, values, number)
        else:
            delegate = plan.tables(7)[told.whole(0)]
            _delegate(reading, delegate, _blob(program, data, segments, delegate), args, values, number)
    kept = {(-1, key) for key in plan.numbers(4)}
    return Graph(tuple(reading.nodes), tuple(sorted(reading.edges)), runtime, reading.peak_bytes(kept))


def _blob(program: Table, data: bytes, segments: Sequence[tuple[int, int]], delegate: Table) -> bytes:
    """Returns what the delegate was made from: inside the program or behind it."""
    place = delegate.table(1)
    if place is None:
        return b""
    index = place.whole(1, "I")
    if place.whole(0, "b") == 0:
        inside = program.tables(3)
        return inside[index].blob(0) if index < len(inside) else b""
    if index >= len(segments):
        raise FlatbufferError(f"there is no segment {index}")
    start, size = segments[index]
    return data[start : start + size]


def _portable(reading: _Reading, operator: Table, args: Sequence[int], values: Sequence[Table], number: int) -> None:
    """Adds a call of a portable kernel: its arguments are inputs, then outputs, and at last what it returns."""
    outputs = list(_tensors(values, args[-1:]))
    made = {value.key for value in outputs}
    read = [value for value in _tensors(values, args[:-1]) if value.key not in made]
    name = operator.text(0)
    short = name.rpartition("::")[2]
    op = onnx_name(name)
    group = 1
    if short == "convolution":
        group = _scalar(values, args[8])
        op = "ConvTranspose" if _scalar(values, args[6]) else op
    if short == "addmm":
        read = read[1:] + read[:1]  # the bias comes first
    call = _Call(op, tuple(read), tuple(outputs), group)
    reading.add(call.node(f"{number}:{short}", name.partition("::")[0]), read, outputs)


def _delegate(
    reading: _Reading, delegate: Table, blob: bytes, args: Sequence[int], values: Sequence[Table], number: int
) -> None:
    """Adds the operators of a delegate; of another than XNNPACK nothing is known but its name."""
    backend = delegate.text(0)
    if backend != "XnnpackBackend":
        tensors = list(_tensors(values, args))
        read = [value for value in tensors if value.key in reading.makers] or tensors[:1]
        made = [value for value in tensors if value not in read]
        reading.add(_Call(backend, tuple(read), tuple(made)).node(f"{number}:{backend}", backend), read, made)
        return
    start, size = struct.unpack_from("<II", blob, 10) if blob[4:8] == b"XH00" else (0, len(blob))
    graph = root(blob[start : start + size], b"XN01")
    outer = dict(zip((*graph.numbers(4, "I"), *graph.numbers(5, "I")), args, strict=False))
    inner = {value.key[1]: value for value in _xnn_values(graph, number)}
    for place, key in outer.items():
        inner[place] = _Value((-1, key), inner[place].shape, inner[place].dtype, False)
    for count, call in enumerate(_merged(_xnn_calls(graph, inner))):
        reading.add(call.node(f"{number}.{count}:{call.op}", "xnnpack"), call.read, call.made)


def _xnn_values(graph: Table, number: int) -> Iterator[_Value]:
    for item in graph.tables(2):
        told = item.table(1)
        tensor = told.table(0) if told is not None and item.whole(0, "B") == 2 else told  # 2: with scales around it
        if tensor is None:
            raise FlatbufferError("a value without a tensor")
        dtype = _XNN_TYPES.get(tensor.whole(0, "h"), "unknown")
        yield _Value((number, tensor.whole(6, "I")), tensor.numbers(2, "I"), dtype, tensor.whole(3, "I") > 0)


def _xnn_calls(graph: Table, values: Mapping[int, _Value]) -> Iterator[_Call]:
    for item in graph.tables(1):
        kind, told = item.whole(0, "B"), item.table(1)
        if told is None:
            raise FlatbufferError("a node without an operator")
        if kind not in _XNN_OPERATORS:
            yield _Call(f"XNNPACK operator {kind}", (), ())
            continue
        op, (inputs, constants, output) = _XNN_OPERATORS[kind]
        keys = [told.whole(place, "I") for place in (*inputs, *constants)]
        read = tuple(values[key] for key in keys if key != _NO_VALUE and key in values)
        made = tuple(values[key] for key in [told.whole(output, "I")] if key in values)
        group = told.whole(12, "I") if constants and op != "Gemm" else 1
        bounds = item.table(3)
        attributes = {} if bounds is None else {"bounds": _bounds(bounds)}
        yield _Call(op, read, made, group, kind == _DEPTHWISE, attributes)


def _merged(calls: Iterable[_Call]) -> list[_Call]:
    """Merges what XNNPACK merges when it loads a file: limits into what they limit, and int8 → float → function → int8.

    The latter becomes a table of 256 values. Each must be the only reader of the one before it. (`subgraph.c` of
    XNNPACK; ExecuTorch's event tracer shows it.)
    """
    every = list(calls)
    readers = Counter(value.key for call in every for value in call.read)
    found: list[_Call] = []
    for call in every:
        chain = [call]
        while len(chain) < 3 and len(found) >= len(chain):
            before = found[-len(chain)]
            made = [value.key for value in before.made]
            if [value.key for value in chain[0].read] != made or readers[made[0]] != 1:
                break
            chain.insert(0, before)
        names = [part.op for part in chain]
        if names[-1] == "Clip" and len(names) > 1 and names[-2] in _LIMITED:
            found[-1] = replace(chain[-2], made=call.made, attributes={**chain[-2].attributes, **call.attributes})
        elif _is_table(chain, names):
            found[-2:] = [replace(chain[1], read=chain[0].read, made=call.made)]
        else:
            found.append(call)
    return found


def _is_table(chain: Sequence[_Call], names: Sequence[str]) -> bool:
    if len(chain) < 3 or names[0] != "Convert" or names[2] != "Convert" or names[1] not in _FUNCTIONS:
        return False
    return all(value.dtype in ("int8", "uint8") for value in (*chain[0].read, *chain[2].made))


def _bounds(table: Table) -> list[float | None]:
    """Returns the limits that an operator puts on its output, None for an infinite one."""
    found = table.number(0, "f"), table.number(1, "f")
    return [value if math.isfinite(value) else None for value in found]


def _first(shape: Shape, last: bool) -> Shape:
    """(N, H, W, C) → (N, C, H, W)."""
    return (shape[0], shape[3], shape[1], shape[2]) if last and len(shape) == 4 else shape


def _filter(shape: Shape, last: bool, depthwise: bool) -> Shape:
    """(out, height, width, in), or (1, height, width, out) for a depthwise one → (out, in, height, width)."""
    if not last or len(shape) != 4:
        return shape
    return (shape[3], 1, *shape[1:3]) if depthwise else (shape[0], shape[3], *shape[1:3])


def _tensors(values: Sequence[Table], places: Sequence[int]) -> Iterator[_Value]:
    """Yields the tensors among values, those in lists too."""
    for place in places:
        if not 0 <= place < len(values):
            continue  # an optional argument that is left out
        kind, told = values[place].whole(0, "B"), values[place].table(1)
        if told is None:
            continue
        if kind == _TENSOR:
            dtype = _TYPES.get(told.whole(0, "b"), "unknown")
            stored = told.whole(5, "I") > 0
            yield _Value((-1, place), told.numbers(2), dtype, stored and told.table(6) is None)
        elif kind in _TENSOR_LISTS:
            yield from _tensors(values, told.numbers(0))


def _scalar(values: Sequence[Table], place: int) -> int:
    kind, told = values[place].whole(0, "B"), values[place].table(1)
    if told is None or kind not in (_INT, _BOOL):
        return 0
    return told.whole(0, "q") if kind == _INT else told.whole(0, "b")
