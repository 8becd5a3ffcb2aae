"""What an MNN file says about its operators: names, weights of convolutions, which feeds which.

MNN tells of its own kernels only a name, a kind and shapes. The rest stands in the file, a flatbuffer; the numbers of
fields and unions below are those of MNN's schema (schema/default/MNN.fbs, CaffeOp.fbs, TensorflowOp.fbs).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...spaces.errors import CandidateError
from ..graph import Shape

__all__ = ["MnnModel", "MnnOperator", "check_seal", "read_operators", "seal"]

_SEAL = b"hwnas-crc32:"
"""Begins the check sum that `seal` appends; MNN does not look behind the end of its flatbuffer."""

_OPLISTS, _OUTPUT_NAMES = 3, 4
_INPUTS, _PARAMETER_KIND, _PARAMETER, _NAME, _OUTPUTS = range(5)
_CONSTANT, _CONVOLUTION = 7, 9
"""Kinds of parameters (union OpParameter): Blob, Convolution2D."""
_KERNEL_WIDTH, _KERNEL_HEIGHT, _GROUP, _MADE, _READ = 2, 3, 9, 10, 11
"""Fields of Convolution2DCommon."""


@dataclass(frozen=True, slots=True)
class MnnOperator:
    """One operator of the file.

    Attributes:
        name: unique where it is not empty.
        inputs: numbers of the tensors read.
        outputs: numbers of the tensors written.
        constant: True for one that holds values and computes none.
        kernel: (height, width) of a convolution, empty elsewhere.
        group: of a convolution.
        channels: (in, out) of a convolution; 0 where the file does not say.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    constant: bool = False
    kernel: tuple[int, ...] = ()
    group: int = 1
    channels: tuple[int, int] = (0, 0)

    def weights(self, transposed: bool, inputs: tuple[Shape, ...]) -> Shape:
        """Returns the shape of a convolution's weights, (out, in / group, height, width).

        Transposed they are (in, out / group, height, width).

        Args:
            transposed: whether it is a transposed convolution.
            inputs: shapes read, for channels that the file does not tell.
        """
        read = self.channels[0] or (inputs[0][1] if inputs and len(inputs[0]) > 1 else 1)
        if transposed:
            return (read, self.channels[1] // self.group, *self.kernel)
        return (self.channels[1], max(read // self.group, 1), *self.kernel)


@dataclass(frozen=True, slots=True)
class MnnModel:
    """What is read of a file.

    Attributes:
        operators: in the file's order.
        outputs: names of the outputs, in the model's order.
    """

    operators: tuple[MnnOperator, ...]
    outputs: tuple[str, ...]

    @property
    def by_name(self) -> Mapping[str, MnnOperator]:
        """The operators that have a name."""
        return {operator.name: operator for operator in self.operators if operator.name}


def seal(data: bytes) -> bytes:
    """Returns a model with its check sum behind it: MNN verifies structure, and crashes on wrong values."""
    return data + _SEAL + struct.pack("<I", zlib.crc32(data))


def check_seal(path: Path) -> None:
    """Compares a file with its check sum; a file without one, from elsewhere, passes.

    Raises:
        CandidateError: `export`, the file is damaged.
    """
    data = path.read_bytes()
    end = len(data) - len(_SEAL) - 4
    sealed = data[end : end + len(_SEAL)] == _SEAL if end > 0 else False
    if sealed and struct.pack("<I", zlib.crc32(data[:end])) != data[-4:]:
        raise CandidateError("export", "mnn cannot load the model: the file is damaged (its check sum differs)")


def read_operators(path: Path) -> MnnModel:
    """Reads a file that MNN can load (MNN verifies its structure before).

    Raises:
        CandidateError: `export`, it is not an MNN file.
    """
    try:
        net = _Table.root(path.read_bytes())
        operators = tuple(_operator(table) for table in net.tables(_OPLISTS))
        return MnnModel(operators, net.texts(_OUTPUT_NAMES))
    except (struct.error, IndexError, UnicodeDecodeError, TypeError, ZeroDivisionError) as error:
        raise CandidateError("export", f"mnn cannot load the model: {error}"[:300]) from None


def _operator(table: _Table) -> MnnOperator:
    kind = table.integer(_PARAMETER_KIND, "B")
    kernel: tuple[int, ...] = ()
    group, channels = 1, (0, 0)
    common = table.table(_PARAMETER).table(0) if kind == _CONVOLUTION else None
    if common is not None:
        kernel = common.integer(_KERNEL_HEIGHT, "i", 1), common.integer(_KERNEL_WIDTH, "i", 1)
        group = max(common.integer(_GROUP, "i", 1), 1)
        channels = common.integer(_READ, "i"), common.integer(_MADE, "i")
    name = table.text(_NAME)
    return MnnOperator(
        name, table.integers(_INPUTS), table.integers(_OUTPUTS), kind == _CONSTANT, kernel, group, channels
    )


class _Table:
    """A table of a flatbuffer: fields by number (flatbuffers internals, "Tables").

    Args:
        data: the whole file.
        at: where the table begins.
    """

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at
        self._fields = at - self._number(at, "i")
        self._count = (self._number(self._fields, "H") - 4) // 2

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def integer(self, field: int, form: str, default: int = 0) -> int:
        place = self._place(field)
        return self._number(place, form) if place else default

    def text(self, field: int) -> str:
        place = self._place(field)
        return self._text(self._follow(place)) if place else ""

    def table(self, field: int) -> _Table:
        place = self._place(field)
        if not place:
            raise IndexError(f"no field {field}")
        return _Table(self.data, self._follow(place))

    def integers(self, field: int) -> tuple[int, ...]:
        return tuple(self._number(place, "i") for place in self._items(field))

    def tables(self, field: int) -> Iterator[_Table]:
        return (_Table(self.data, self._follow(place)) for place in self._items(field))

    def texts(self, field: int) -> tuple[str, ...]:
        return tuple(self._text(self._follow(place)) for place in self._items(field))

    def _items(self, field: int) -> range:
        """Places of the entries of a vector, four bytes each."""
        place = self._place(field)
        if not place:
            return range(0)
        start = self._follow(place)
        count = self._number(start, "I")
        if start + 4 + 4 * count > len(self.data):
            raise IndexError("a vector longer than the file")
        return range(start + 4, start + 4 + 4 * count, 4)

    def _place(self, field: int) -> int:
        """Where a field stands; 0 when it has its default."""
        offset = self._number(self._fields + 4 + 2 * field, "H") if field < self._count else 0
        return self.at + offset if offset else 0

    def _follow(self, place: int) -> int:
        return place + self._number(place, "I")

    def _text(self, place: int) -> str:
        count = self._number(place, "I")
        return self.data[place + 4 : place + 4 + count].decode()

    def _number(self, place: int, form: str) -> int:
        if place < 0:
            raise IndexError("before the file")
        found: Any = struct.unpack_from(f"<{form}", self.data, place)[0]
        return int(found)
