"""The gate for model files: what is refused before any runtime, or any library that reads models, sees it.

A file that comes over the wire, or from someone else, is read here field by field, in the wire format of protocol
buffers (https://protobuf.dev/programming-guides/encoding), and never as a whole: nothing is allocated by what a header
declares. Field numbers are those of onnx.proto3 (ONNX 1.21). Refused are: tensors in other files, operators outside the
standard domains and a list of onnxruntime's own (so no EPContext, PyOp or custom operators), tensors that declare more
than they hold, too many nodes, too deep graphs. Standard library only: a board has it too.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path

from ..spaces.errors import CandidateError, DataError

__all__ = ["MAX_MODEL_BYTES", "check_model"]

MAX_MODEL_BYTES = 512 << 20
"""Largest model file."""

MAX_NODES = 50_000
MAX_TENSORS = 50_000
MAX_FIELDS = 500_000
"""Parts of all messages that are looked at: less than a second's work."""
MAX_DEPTH = 8
"""Of graphs within graphs."""
MAX_INPUT_ELEMENTS = 1 << 28
"""Of one input of the model: the runner makes a sample of that shape."""

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
MICROSOFT = frozenset(
    [
        "Attention",
        "BiasGelu",
        "DequantizeLinear",
        "DynamicQuantizeMatMul",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "NhwcMaxPool",
        "QAttention",
        "QGemm",
        "QLinearAdd",
        "QLinearAveragePool",
        "QLinearConcat",
        "QLinearConv",
        "QLinearGlobalAveragePool",
        "QLinearLeakyRelu",
        "QLinearMul",
        "QLinearReduceMean",
        "QLinearSigmoid",
        "QLinearSoftmax",
        "QLinearWhere",
        "QuantizeLinear",
        "QuickGelu",
        "SkipLayerNormalization",
    ]
)
"""Operators of the domain com.microsoft that are accepted: what quantisation and fusion make."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PER_BYTE = 4
"""Most elements of a tensor that one byte can hold (2-bit integers)."""
_SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
"""Data type of TensorProto → bytes of an element of raw data; where it is not in the list, at most _PER_BYTE apply."""

Span = tuple[int, int]
"""First byte and the byte after the last."""


def check_model(path: Path) -> None:
    """Lets a model file pass, or says why not; needs little memory whatever the file declares.

    Raises:
        CandidateError: `export`, the file is not one that may be loaded; the detail says why, in one line.
        DataError: there is no such file, or it cannot be read.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(f"{path}: no such model file")
        if size > MAX_MODEL_BYTES:
            raise _refused(f"the file has {size:,} bytes, at most {MAX_MODEL_BYTES:,} are taken")
        if size < 16:
            raise _refused(f"the file has only {size} bytes")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if path.suffix == ".onnx":
                _Onnx(data).check()
            elif path.suffix == ".tflite" and data[4:8] != b"TFL3":
                raise _refused("not a TFLite file: its identifier is missing")
    except OSError as error:
        raise DataError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _refused(why: str) -> CandidateError:
    return CandidateError("export", f"model refused: {why}"[:300])


class _Onnx:
    """Walks an ONNX file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._nodes = 0
        self._tensors = 0
        self._fields_left = MAX_FIELDS

    def check(self) -> None:
        graphs = 0
        for field, _, span in self._fields((0, len(self._data))):
            if field == 7:
                graphs += 1
                self._graph(span, 0)
            elif field == 20:
                raise _refused("it holds a training graph")
            elif field == 25:
                self._function(span)
        if not graphs:
            raise _refused("not an ONNX file: it holds no graph")

    def _graph(self, graph: Span, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _refused(f"graphs within graphs, more than {MAX_DEPTH} deep")
        for field, _, span in self._fields(graph):
            if field == 1:
                self._node(span, depth)
            elif field == 5:
                self._tensor(span)
            elif field == 15:
                self._sparse(span)
            elif field == 11:
                self._input(span)

    def _function(self, function: Span) -> None:
        domain = ""
        for field, _, span in self._fields(function):
            if field == 10:
                domain = self._text(span)
            elif field == 7:
                self._node(span, 0)
        if domain not in DOMAINS:
            raise _refused(f"a function of the domain '{domain}'")

    def _node(self, node: Span, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _refused(f"more than {MAX_NODES:,} nodes")
        op, domain = "", ""
        for field, _, span in self._fields(node):
            if field == 4:
                op = self._text(span)
            elif field == 7:
                domain = self._text(span)
            elif field == 5:
                self._attribute(span, depth)
        if domain not in DOMAINS and not (domain == "com.microsoft" and op in MICROSOFT):
            raise _refused(f"operator '{op}' of the domain '{domain}'")

    def _attribute(self, attribute: Span, depth: int) -> None:
        for field, _, span in self._fields(attribute):
            if field in (5, 10):
                self._tensor(span)
            elif field in (6, 11):
                self._graph(span, depth + 1)
            elif field in (22, 23):
                self._sparse(span)

    def _sparse(self, tensor: Span) -> None:
        dims: list[int] = []
        for field, kind, span in self._fields(tensor):
            if field in (1, 2):
                self._tensor(span)
            elif field == 3:
                dims += self._numbers(kind, span)
        if _product(dims) > MAX_INPUT_ELEMENTS:
            raise _refused(f"a sparse tensor of {_product(dims):,} elements")

    def _tensor(self, tensor: Span) -> None:
        """A tensor holds in itself all that it declares."""
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise _refused(f"more than {MAX_TENSORS:,} tensors")
        dims: list[int] = []
        element, raw = 0, None
        for field, kind, span in self._fields(tensor):
            if field == 1:
                dims += self._numbers(kind, span)
                if len(dims) > 64:
                    raise _refused("a tensor of more than 64 axes")
            elif field == 2:
                element = span[0]
            elif field == 9:
                raw = span[1] - span[0]
            elif field == 13 or (field == 14 and span[0] != 0):
                raise _refused("it has external data: weights in another file")
        declared = _product(dims)
        size = _SIZES.get(element)
        held = tensor[1] - tensor[0]
        short = raw != declared * size if raw is not None and size else declared > held * _PER_BYTE
        if short:
            raise _refused(f"a tensor declares {declared:,} elements and holds {held if raw is None else raw:,} bytes")

    def _input(self, value: Span) -> None:
        dims = [
            dim
            for field, _, kind in self._fields(value)
            if field == 2
            for field, _, tensor in self._fields(kind)
            if field == 1
            for field, _, shape in self._fields(tensor)
            if field == 2
            for field, _, side in self._fields(shape)
            if field == 1
            for field, _, (dim, _) in self._fields(side)
            if field == 1
        ]
        if _product([dim for dim in dims if dim]) > MAX_INPUT_ELEMENTS:
            raise _refused(f"an input of {_product(dims):,} elements")

    def _numbers(self, kind: int, span: Span) -> Iterator[int]:
        """A repeated integer: one, or packed."""
        if kind == _VARINT:
            yield span[0]
            return
        place, end = span
        if end - place > 640:
            raise _refused("a tensor of more than 64 axes")
        while place < end:
            value, place = self._varint(place, end)
            yield value

    def _text(self, span: Span) -> str:
        return bytes(self._data[span[0] : min(span[1], span[0] + 128)]).decode("utf-8", "backslashreplace")

    def _fields(self, message: Span) -> Iterator[tuple[int, int, Span]]:
        """Fields of a message: number, kind, and where its bytes stand (of an integer: its value, twice)."""
        place, end = message
        data, left = self._data, self._fields_left
        while place < end:
            left -= 1
            if left < 0:
                raise _refused(f"more than {MAX_FIELDS:,} parts")
            tag = data[place]
            place += 1
            if tag > 127:
                tag, place = self._varint(place - 1, end)
            field, kind = tag >> 3, tag & 7
            if kind in (_VARINT, _BYTES):
                if place < end and (value := data[place]) < 128:  # nearly all are: the rest is slower
                    place += 1
                else:
                    value, place = self._varint(place, end)
            if kind == _VARINT:
                yield field, kind, (value, value)
                continue
            if kind == _BYTES:
                length = value
            elif kind in (_FIXED64, _FIXED32):
                length = 8 if kind == _FIXED64 else 4
            else:
                raise _refused("not an ONNX file, or a damaged one")
            if field == 0 or length > end - place:
                raise _refused("the file is cut off or damaged: a part reaches beyond its end")
            self._fields_left = left
            yield field, kind, (place, place + length)
            left = self._fields_left
            place += length
        self._fields_left = left

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        value = shift = 0
        data = self._data
        while place < end and shift < 70:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place
            shift += 7
        raise _refused("the file is cut off or damaged: a number has no end")


def _product(dims: list[int]) -> int:
    """Elements of a tensor; a negative side is a huge number in the wire format, and so refused as one."""
    return math.prod(dims)
