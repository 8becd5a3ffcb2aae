"""The file that holds an ncnn model: an uncompressed zip of its layers, its weights and its shapes.

ncnn itself has two files, `.param` (text) and `.bin`, drops the batch axis, and trusts what it reads. The zip keeps
them together, with check sums; what is read here is verified before ncnn sees it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...spaces.errors import CandidateError

__all__ = ["Layer", "NcnnModel", "read_layers", "read_model", "write_model"]

MAGIC = "7767517"
"""First line of a .param file of the current form (ncnn wiki, param and model file structure)."""

_LAYERS, _WEIGHTS, _SHAPES = "model.param", "model.bin", "model.json"
_MOST_TEXT = 16 << 20
_ARRAY = -23300
"""Keys of arrays in a .param file are this minus the key."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of a .param file.

    Attributes:
        kind: ncnn's type, e.g. `Convolution`.
        name: unique.
        bottoms: names of the blobs read.
        tops: names of the blobs written.
        params: key → value; what each key means depends on the type.
    """

    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    params: Mapping[int, str]

    def integer(self, key: int, default: int = 0) -> int:
        """Returns a parameter that is a whole number.

        Raises:
            CandidateError: `export`, it is none.
        """
        try:
            return int(self.params.get(key, default))
        except ValueError:
            raise _bad(f"{self.name}: {key}={self.params[key]} is no whole number") from None


@dataclass(frozen=True, slots=True)
class NcnnModel:
    """What a file holds.

    Attributes:
        text: the .param file.
        layers: the same, read.
        weights: the .bin file.
        input_shape: (1, C, H, W).
        output_shape: of the first output, with the batch axis that ncnn drops.
    """

    text: str
    layers: tuple[Layer, ...]
    weights: bytes
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def write_model(
    path: Path, text: str, weights: bytes, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> None:
    """Writes the file; arguments as the attributes of `NcnnModel`."""
    shapes = {"version": 1, "input": input_shape, "output": output_shape}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, data in ((_SHAPES, json.dumps(shapes)), (_LAYERS, text), (_WEIGHTS, weights)):
            file.writestr(zipfile.ZipInfo(name), data)  # without the time: the same model is the same file


def read_model(path: Path) -> NcnnModel:
    """Reads and verifies the file.

    Raises:
        CandidateError: `export`, it is not such a file, or a damaged one.
    """
    try:
        with zipfile.ZipFile(path) as file:
            entries = {item.filename: item for item in file.infolist()}
            stored = all(item.compress_type == zipfile.ZIP_STORED for item in entries.values())
            if set(entries) != {_LAYERS, _WEIGHTS, _SHAPES} or not stored:
                raise _bad("not an ncnn model of hwnas")
            if entries[_LAYERS].file_size > _MOST_TEXT or entries[_SHAPES].file_size > _MOST_TEXT:
                raise _bad("too many layers")
            text, weights = file.read(_LAYERS).decode(), file.read(_WEIGHTS)  # reading compares the check sums
            shapes = json.loads(file.read(_SHAPES))
        given, made = (tuple(int(side) for side in shapes[name]) for name in ("input", "output"))
    except (zipfile.BadZipFile, OSError, EOFError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise _bad(str(error) or type(error).__name__) from None
    if len(given) != 4 or given[0] != 1 or min((*given, *made), default=0) < 1:
        raise _bad(f"input {given} and output {made}")
    return NcnnModel(text, read_layers(text), weights, given, made)


def read_layers(text: str) -> tuple[Layer, ...]:
    """Reads a .param file.

    Raises:
        CandidateError: `export`, it is none, or its lines do not fit together.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or lines[0] != [MAGIC] or len(lines[1]) != 2 or not all(item.isdigit() for item in lines[1]):
        raise _bad("no .param file")
    layers = tuple(_layer(fields) for fields in lines[2:])
    known: set[str] = set()
    for layer in layers:
        if not known.issuperset(layer.bottoms) or known.intersection(layer.tops):
            raise _bad(f"{layer.name} reads what is not there, or writes what is")
        known.update(layer.tops)
    if [len(layers), len(known)] != [int(item) for item in lines[1]]:
        raise _bad(f"{len(layers)} layers and {len(known)} blobs, not {' and '.join(lines[1])}")
    return layers


def _layer(fields: list[str]) -> Layer:
    """Reads `type name #bottoms #tops bottoms… tops… key=value…`."""
    try:
        reads, writes = int(fields[2]), int(fields[3])
        if reads < 0 or writes < 0 or len(fields) < 4 + reads + writes:
            raise ValueError
        params = {_key(key): value for key, _, value in (item.partition("=") for item in fields[4 + reads + writes :])}
    except (IndexError, ValueError):
        raise _bad(f"no layer: {' '.join(fields)}"[:200]) from None
    return Layer(
        fields[0], fields[1], tuple(fields[4 : 4 + reads]), tuple(fields[4 + reads : 4 + reads + writes]), params
    )


def _key(text: str) -> int:
    key = int(text)
    return _ARRAY - key if key <= _ARRAY else key


def _bad(why: str) -> CandidateError:
    return CandidateError("export", f"ncnn cannot load the model: {why}"[:300])
