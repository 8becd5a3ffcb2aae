"""Tables of readings: what was measured before, here or by others, a row for each architecture.

A table is a parquet file with the column `arch`, which holds the space's canonical string or an architecture as a run
writes it (JSON), and columns of numbers. It is text of strangers: all of it is read and checked before the first trial.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np

from ..spaces import Architecture, ReplayChooser, Space
from ..spaces.errors import CandidateError, DataError, HwnasError, UsageError, did_you_mean, quoted
from .energy import needed
from .metrics import Metric, Reading, Source

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from .pareto import Floats
    from .study_schema import StudySpec

__all__ = ["Column", "ColumnError", "Table", "Tables", "read_tables"]

ARCH = "arch"
MAX_BYTES, MAX_ROWS = 2 << 30, 5_000_000
"""Of a table: it is held in memory as a whole."""
MISSING = "data"
"""Code of a trial that fails for want of a reading."""
_PARTS = (".low", ".high", ".source", ".noisy", ".predicted", ".by")


class ColumnError(UsageError):
    """A table lacks a column that the study names; `key` says where in the study file."""

    def __init__(self, message: str, key: tuple[str, ...]) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Column:
    """The readings of one metric in a table of n rows.

    Attributes:
        values: (n,), NaN where there is none.
        low, high: (n,), the ends of 90 % intervals; None where the table has none.
        sources: of each row, where the table says so.
        noisy: of each row, where the table says so.
    """

    values: Floats
    low: Floats | None = None
    high: Floats | None = None
    sources: Sequence[str | None] | None = None
    noisy: Sequence[bool | None] | None = None

    def reading(self, row: int, *, own_unit: bool = False) -> Reading:
        """Returns the reading of a row; missing where the value is, or was no more than predicted."""
        value = float(self.values[row])
        source = (self.sources[row] if self.sources is not None else None) or "measured"
        if not math.isfinite(value) or source == "missing":
            return Reading.missing("has no value")
        if source not in ("measured", "computed", "estimated"):
            return Reading.missing(f"was {source}, not measured")
        low, high = (None if ends is None or not np.isfinite(ends[row]) else float(ends[row]) for ends in self._ends)
        noisy = bool(self.noisy is not None and self.noisy[row])
        return Reading(value, low, high, cast(Source, source), noisy, own_unit=own_unit)

    @property
    def _ends(self) -> tuple[Floats | None, Floats | None]:
        return self.low, self.high


class Table:
    """A parquet file of readings.

    Args:
        path: the file.
        space: the study's; it reads the strings of the column `arch`.
        known: architectures by their strings, as far as other tables of the study had them; it is added to.

    Attributes:
        digest: SHA-256 of the file.
        rows: id of an architecture → its row.
        names: the columns.

    Raises:
        DataError: the file is missing, is not a parquet file or a broken one, has no rows or no texts in the column
            `arch`, one that is there twice, or one that the space does not know.
    """

    def __init__(self, path: Path, space: Space, known: dict[str, Architecture]) -> None:
        self.path = path
        raw = _read(path)
        self.digest = hashlib.sha256(raw).hexdigest()
        with self._readable():
            import pyarrow.parquet as pq

            self._file = pq.ParquetFile(io.BytesIO(raw), page_checksum_verification=True)
            self.names: tuple[str, ...] = tuple(self._file.schema_arrow.names)
            count = self._file.metadata.num_rows
        if ARCH not in self.names:
            raise DataError(f"{path}: column '{ARCH}' is missing: it says which architecture a row is about")
        if not 0 < count <= MAX_ROWS:
            raise DataError(f"{path}: {f'{count:,} rows: at most {MAX_ROWS:,} are read' if count else 'has no rows'}")
        self.rows = self._rows(space, known)

    def column(self, name: str, key: tuple[str, ...] = ()) -> Column:
        """Returns a column of numbers, with what else the table says of them.

        Args:
            name: of the column.
            key: where the study file names it.

        Raises:
            ColumnError: there is none of this name.
            DataError: it does not hold numbers.
        """
        if name not in self.names:
            shown = [each for each in self.names if each.isprintable() and not each.endswith(_PARTS) and each != ARCH]
            raise ColumnError(f"{self.path} has no column '{name}'{did_you_mean(name, shown)}", key)
        ends = (f"{name}.low", f"{name}.high")
        low, high = (self._numbers(end) if end in self.names else None for end in ends)
        sources, noisy = (self._plain(f"{name}{part}") for part in (".source", ".noisy"))
        for row, source in enumerate(sources or ()):
            if source is not None and source not in get_args(Source):
                raise DataError(f"{self.path}: row {row + 1}: '{name}.source' is {quoted(str(source))}, no source")
        if not all(flag is None or isinstance(flag, bool) for flag in noisy or ()):
            raise DataError(f"{self.path}: column '{name}.noisy' holds more than true and false")
        return Column(self._numbers(name), low, high, sources, noisy)

    def ended(self) -> NDArray[np.bool_] | None:
        """Returns which rows are trials that were completed, where the table is a run's own: (n,)."""
        states = self._plain("state")
        return None if states is None else np.array([state == "complete" for state in states])

    def _numbers(self, name: str) -> Floats:
        import pyarrow as pa

        read = self._read(name)
        kind = read.type.value_type if pa.types.is_dictionary(read.type) else read.type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise DataError(f"{self.path}: column '{name}' holds {kind}: expected numbers")
        with self._readable():
            values: Floats = read.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return values

    def _plain(self, name: str) -> list[Any] | None:
        """Returns a column as Python values, or None where there is no such column."""
        return self._values(self._read(name)) if name in self.names else None

    def _values(self, read: pa.Array) -> list[Any]:
        with self._readable():  # here texts are decoded
            values: list[Any] = read.to_pylist()
        return values

    def _read(self, name: str) -> pa.Array:
        with self._readable():
            return self._file.read(columns=[name]).column(name).combine_chunks()

    def _rows(self, space: Space, known: dict[str, Architecture]) -> dict[str, int]:
        import pyarrow as pa

        texts = self._read(ARCH)
        kind = texts.type.value_type if pa.types.is_dictionary(texts.type) else texts.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"{self.path}: column '{ARCH}' holds {kind}: expected texts")
        whole, rows, first = space.narrow({}), dict[str, int](), dict[str, int]()
        for row, text in enumerate(self._values(texts)):
            if text is None:
                raise DataError(f"{self.path}: row {row + 1} has no '{ARCH}'")
            if text in first:
                raise DataError(f"{self.path}: rows {first[text] + 1} and {row + 1} have the same '{ARCH}': keep one")
            first[text] = row
            try:
                found = known.get(text) or known.setdefault(text, _architecture(text, whole))
            except HwnasError as error:
                raise DataError(f"{self.path}: row {row + 1}: {error}") from error
            if found.id in rows and not space.has_twins:
                twins = f"rows {rows[found.id] + 1} and {row + 1}"
                raise DataError(f"{self.path}: {twins} are the same architecture: keep one")
            if found.id not in rows or whole.string_of(found) == text:  # of twins, the one that stands for both
                rows[found.id] = row
        return rows

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except HwnasError:
            raise
        except Exception as error:  # pyarrow has its own hierarchy beside OSError and ValueError
            told = (" ".join(str(error).split()) or type(error).__name__)[:160]
            raise DataError(f"{self.path}: not a readable parquet file ({told})") from error


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise DataError(f"{path}: a folder; a parquet file was expected")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES / 1e9:.1f} GB: too large for a table")
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _architecture(text: str, space: Space) -> Architecture:
    """Reads a canonical string, or an architecture as a run writes it whatever the space's own strings are."""
    if not text.startswith("{"):
        return space.from_string(text)
    written = Architecture.from_json(text)
    if written.space != space.name:
        raise DataError(f"an architecture of space '{written.space}', not '{space.name}'")
    return space.decide(ReplayChooser(written.as_dict()))


@dataclass(frozen=True)
class _Told:
    """What one table tells of one architecture: the readings of a device, or the quality."""

    table: Table
    columns: Mapping[str, tuple[str, Column]]
    """Metric of the study → the column's name and the column."""
    own_unit: bool = False

    def readings(self, arch_id: str) -> Iterator[tuple[str, Reading]]:
        """Yields metric and reading; one that is missing says why.

        Raises:
            CandidateError: the architecture is not in the table.
        """
        row = self.table.rows.get(arch_id)
        if row is None:
            raise CandidateError(MISSING, f"the architecture is not in {self.table.path.name}")
        for metric, (name, column) in self.columns.items():
            reading = column.reading(row, own_unit=self.own_unit)
            if reading.value is None:
                reading = Reading.missing(f"{name} {reading.reason} in {self.table.path.name}")
            elif reading.value <= 0 and "@" in metric:
                reading = Reading.missing(f"{name} is {reading.value:g} in {self.table.path.name}")
            yield metric, reading


class Tables:
    """Everything that a study takes from tables.

    Args:
        devices: what is told of each replay device, by its name.
        quality: what is told of the quality, or None.
        needed: metrics without which a trial fails.
        space: the study's.
        known: architectures by their strings in the tables.
    """

    def __init__(
        self,
        devices: Mapping[str, _Told],
        quality: _Told | None,
        needed: set[str],
        space: Space,
        known: Mapping[str, Architecture],
    ) -> None:
        self._needed, self._space, self._known = needed, space, known
        self._common: dict[str, Mapping[str, Reading]] | None = None
        places = {f"devices.{name}": told for name, told in devices.items()}
        self.used = {**places, **({"quality": quality} if quality else {})}
        self._parts = [told for told in self.used.values() if told.columns]

    def __bool__(self) -> bool:
        return bool(self._parts)

    def __contains__(self, arch_id: object) -> bool:
        return all(arch_id in part.table.rows for part in self._parts)

    @property
    def metrics(self) -> set[str]:
        """The metrics that tables tell."""
        return {metric for part in self._parts for metric in part.columns}

    @property
    def own_unit(self) -> bool:
        """True when a table tells the quality, and not as a share."""
        return "quality" in self.used and self.used["quality"].own_unit

    @property
    def names(self) -> list[str]:
        """The files' names, each once."""
        return list(dict.fromkeys(part.table.path.name for part in self._parts))

    def digests(self) -> dict[str, dict[str, Any]]:
        """Returns what `environment.json` says of the tables, by the key in the study file."""
        return {
            place: {"file": told.table.path.name, "digest": told.table.digest, "own_unit": told.own_unit}
            for place, told in self.used.items()
        }

    def readings(self, arch_id: str) -> dict[str, Reading]:
        """Returns what the tables say of an architecture: metric → reading.

        Raises:
            CandidateError: it is not in one of them, or a reading is not that an objective or a limit needs.
        """
        readings = dict(pair for part in self._parts for pair in part.readings(arch_id))
        for metric, reading in readings.items():
            if reading.value is None and metric in self._needed:
                raise CandidateError(MISSING, reading.reason)
        return readings

    def common(self) -> Mapping[str, Mapping[str, Reading]]:
        """Returns the readings of every architecture of the (narrowed) space that all tables can tell, by its id."""
        if self._common is None:
            self._common = dict(self._told())
        return self._common

    def demand_one(self) -> None:
        """Makes sure that a trial can be completed.

        Raises:
            DataError: no architecture of the (narrowed) space has its readings in all tables.
        """
        if self._parts and next(self._told(), None) is None:
            raise DataError(f"no architecture of the space has all its readings in {' and '.join(self.names)}")

    def architecture(self, arch_id: str) -> Architecture:
        """Returns an architecture that is in the tables."""
        return next(each for each in self._known.values() if each.id == arch_id)

    def architectures(self) -> list[Architecture]:
        """Returns the architectures of the (narrowed) space that all tables can tell."""
        known = {each.id: each for each in self._known.values()}
        return [known[arch_id] for arch_id in self.common()]

    def _told(self) -> Iterator[tuple[str, Mapping[str, Reading]]]:
        known = {each.id: each for each in self._known.values()}
        for arch_id in self._parts[0].table.rows:
            if not self._space.params or self._space.contains(known[arch_id]):
                try:
                    yield arch_id, self.readings(arch_id)
                except CandidateError:
                    continue


def read_tables(spec: StudySpec, space: Space) -> Tables:
    """Reads the tables of a study, each file once.

    Raises:
        ColumnError: a table lacks a column that the study asks for.
        DataError: a file is not such a table, or knows no architecture of the space.
    """
    files: dict[str, Table] = {}
    known: dict[str, Architecture] = {}

    def table(path: str | None) -> Table:
        assert path is not None, "the schema asks for one"
        if path not in files:
            files[path] = Table(Path(path), space, known)
        return files[path]

    devices = {}
    for name, device in spec.devices.items():
        if device.is_replay:
            found = table(device.table)
            metrics = [str(metric) for metric in spec.metrics if metric.device == name]
            columns = {metric: (metric, found.column(metric, ("devices", name, "table"))) for metric in metrics}
            devices[name] = _Told(found, columns)
    quality = None
    if spec.quality.use == "table":
        found, name = table(spec.quality.path), spec.quality.column or ""
        column = found.column(name, ("quality", "column"))
        if (ended := found.ended()) is not None:  # of a run: what was stopped early has another quality
            column = replace(column, values=np.where(ended, column.values, np.nan))
        own_unit = bool(column.values[np.isfinite(column.values)].max(initial=0.0) > 1)
        columns = {"top1": (name, column)} if Metric("top1") in spec.metrics else {}
        quality = _Told(found, columns, own_unit)
    return Tables(devices, quality, needed(spec), space, known)
