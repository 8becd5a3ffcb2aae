"""Reading `.npz` files of strangers: no pickle, and no allocation that the file's own size does not justify."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..spaces.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

__all__ = ["read_npz"]

MAX_BYTES = 4 * 1024**3
"""Size limit of all arrays together: a data set is held in memory as a whole."""

NAMES = ("x", "y", "x_train", "y_train", "x_val", "y_val", "x_test", "y_test")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a data set: `x, y`, or `x_train, y_train` and optionally `x_val, y_val, x_test, y_test`.

    Args:
        path: the file.

    Returns:
        The arrays by name.

    Raises:
        DataError: the file is missing, unreadable, not an .npz file or broken, or its arrays are not those above.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path}: expected an .npz file, found {'a folder' if path.is_dir() else 'something else'}")
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            return {name: _read_array(archive, info, f"{path}: {name}") for name, info in members.items()}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not an .npz file, or broken: {_line(error)}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or _line(error)}") from None
    except (ValueError, NotImplementedError, RuntimeError, EOFError, MemoryError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: broken: {_line(error) or type(error).__name__}") from None


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Returns the archive's members by the name of the array, once they are seen to be a data set."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        shown = name[:64].encode("unicode_escape").decode()
        if name not in NAMES:
            raise DataError(f"{path}: unknown array '{shown}'{did_you_mean(shown, NAMES)}")
        if name in members:
            raise DataError(f"{path}: array '{shown}' is there twice")
        members[name] = info
    first = "x" if {"x", "y"} & set(members) else "x_train"
    required = ("x", "y") if first == "x" else ("x_train", "y_train")
    for name in required:
        if name not in members:
            raise DataError(
                f"{path}: array '{name}' is missing: expected x, y or x_train, y_train (x_val, y_val, x_test, y_test)"
            )
    if first == "x" and len(members) > 2:
        raise DataError(f"{path}: expected x, y or x_train, y_train, …; found both: {', '.join(members)}")
    for name in members:
        partner = ("y" if name[0] == "x" else "x") + name[1:]
        if partner not in members:
            raise DataError(f"{path}: array '{partner}' is missing: '{name}' is there")
    size = sum(info.file_size for info in members.values())
    if size > MAX_BYTES:
        raise DataError(f"{path}: the arrays take {size / 1e9:.1f} GB: at most {MAX_BYTES / 1e9:.1f} GB are read")
    return members


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> np.ndarray:
    """Reads one array, after its header was found to agree with its size."""
    import numpy as np

    with archive.open(info) as file:
        try:
            size = _declared_size(file, where)
        except ValueError as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{where}: not an array of numpy: {_line(error)}") from None
        if size != info.file_size:
            raise DataError(f"{where}: broken: {size} bytes expected from its header, {info.file_size} found")
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _declared_size(file: IO[bytes], where: str) -> int:
    """Returns the bytes that the array takes with its header."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{where}: array format {version[0]}.{version[1]} is not read: save it with numpy.savez")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise DataError(f"{where}: holds Python objects, which are never read: expected numbers")
    count = 1
    for side in shape:
        count *= side
    return file.tell() + count * dtype.itemsize


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
