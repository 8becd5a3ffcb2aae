"""Reading flatbuffers, the format of .pte files, without generated code.

The layout is that of https://flatbuffers.dev/internals/: little endian; a table begins with the signed distance to its
vtable, which gives the place of each field, or 0 for one that is left out. Fields are named here by their number in the
schema, which never changes for a field.
"""

from __future__ import annotations

import struct
from typing import Literal

__all__ = ["FlatbufferError", "Table", "root"]

Kind = Literal["b", "B", "h", "H", "i", "I", "q", "Q", "f", "d"]
"""How a number is stored, as in `struct`."""


class FlatbufferError(ValueError):
    """The bytes are not a flatbuffer of that form."""


class Table:
    """A table of a flatbuffer.

    Args:
        data: the whole buffer.
        start: where the table begins.

    Raises:
        FlatbufferError: it is not there.
    """

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self._start = start
        self._vtable = start - _number(data, "i", start)
        self._fields = _number(data, "H", self._vtable) // 2 - 2

    def number(self, field: int, kind: Kind, default: float = 0) -> float:
        """Returns a number; whole for kinds other than `f` and `d`."""
        place = self._place(field)
        return default if place is None else _number(self._data, kind, place)

    def whole(self, field: int, kind: Kind = "i", default: int = 0) -> int:
        """Returns a whole number."""
        return int(self.number(field, kind, default))

    def table(self, field: int) -> Table | None:
        """Returns a table, also the one in a union; None when it is left out."""
        place = self._place(field)
        return None if place is None else Table(self._data, self._target(place))

    def text(self, field: int) -> str:
        return self.blob(field).decode("utf-8", "replace")

    def blob(self, field: int) -> bytes:
        """Returns a text or a vector of bytes."""
        start, length = self._vector(field, 1)
        return self._data[start : start + length]

    def numbers(self, field: int, kind: Kind = "i") -> tuple[int, ...]:
        """Returns a vector of whole numbers."""
        start, length = self._vector(field, struct.calcsize(f"<{kind}"))
        return struct.unpack_from(f"<{length}{kind}", self._data, start)

    def tables(self, field: int) -> tuple[Table, ...]:
        """Returns a vector of tables."""
        start, length = self._vector(field, 4)
        return tuple(Table(self._data, self._target(start + 4 * place)) for place in range(length))

    def _place(self, field: int) -> int | None:
        if field >= self._fields:
            return None
        offset = int(_number(self._data, "H", self._vtable + 4 + 2 * field))
        return self._start + offset if offset else None

    def _target(self, place: int) -> int:
        return place + int(_number(self._data, "I", place))

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        """Returns where the elements begin, and how many there are."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = self._target(place)
        length = int(_number(self._data, "I", start))
        if start + 4 + length * size > len(self._data):
            raise FlatbufferError(f"a vector of {length} elements exceeds the {len(self._data)} bytes")
        return start + 4, length


def root(data: bytes, identifier: bytes = b"", start: int = 0) -> Table:
    """Returns the outermost table.

    Args:
        data: the buffer.
        identifier: the four bytes that the schema demands; none when empty.
        start: where the buffer begins in `data`.

    Raises:
        FlatbufferError: it is of another schema, or no flatbuffer.
    """
    if identifier and data[start + 4 : start + 8] != identifier:
        raise FlatbufferError(f"it begins with {data[start + 4 : start + 8]!r}, not {identifier!r}")
    return Table(data, start + int(_number(data, "I", start)))


def _number(data: bytes, kind: Kind, place: int) -> int:
    if place < 0:
        raise FlatbufferError("a reference points before the beginning")
    try:
        found: int = struct.unpack_from(f"<{kind}", data, place)[0]
    except struct.error:
        raise FlatbufferError(f"a reference points to byte {place} of {len(data)}") from None
    return found
