"""Reading and writing study files.

A study file is text of strangers: it is capped in size, depth and number of values, no part of it is code, and of all
that is wrong the first is said in one line: `study.yaml:12:3: search.sampller: unknown key (did you mean 'sampler'?)`.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..spaces.errors import DeviceError, HwnasError, StudyFileError, UsageError, did_you_mean
from .study_schema import SECTIONS, Spec, StudySpec, choices
from .study_yaml import MAX_BYTES, Node, dotted, flow, parse_yaml, shown

__all__ = [
    "dump_study",
    "fault_at",
    "load_study_file",
    "load_study_text",
]

MOST_NAMED = 12
"""Choices that a message lists."""

COMMAND_LINE = "command line"


def load_study_file(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Reads a study file.

    Args:
        path: the file.
        overrides: `key=value` with a dotted key, e.g. `search.trials=20`; the value is YAML.

    Raises:
        UsageError: the file cannot be read.
        StudyFileError: it, or an override, is not legal.
        DeviceError: it is legal, but a device or meter is not in this version.
    """
    return load_study_text(_read(path), overrides, origin=str(path))


def load_study_text(text: str, overrides: Sequence[str] = (), origin: str = "study.yaml") -> StudySpec:
    """Reads the text of a study file; see `load_study_file`.

    >>> spec = load_study_text('''
    ... version: 1
    ... name: small
    ... space: {use: mobile}
    ... data: {use: digits}
    ... devices: {cpu: {}}
    ... objectives: [{metric: top1}, {metric: latency_ms@cpu}]
    ... ''', ["search.trials=20"])
    >>> spec.search.trials, spec.objectives[1].direction
    (20, 'minimize')
    """
    root = parse_yaml(text, origin)
    if not isinstance(root.value, dict):
        message = f"expected keys such as version, name, space; found {shown(root.plain())}"
        raise StudyFileError(origin, message, line=root.line, column=root.column)
    for override in overrides:
        _apply(root, override)
    try:
        return StudySpec.model_validate(root.plain())
    except ValidationError as error:
        raise _first_error(root, error) from None


def fault_at(
    path: Path, overrides: Sequence[str], key: Sequence[str], message: str, *, on_key: bool = False
) -> StudyFileError:
    """Returns an error that stands where a key of a (legal) study file does, or the override that set it.

    Args:
        path: the file.
        overrides: as it was read with.
        key: path of the key; its nearest parent stands for one that is not in the file.
        message: what is wrong.
        on_key: point at the key, not at its value.
    """
    root = parse_yaml(_read(path), str(path))
    for override in overrides:
        _apply(root, override)
    origin, line, column = _place(root, key, on_key)
    return StudyFileError(origin, message, key=dotted(key), line=line, column=column)


def dump_study(spec: StudySpec) -> str:
    """Writes a study with every default; reading it gives the same study back."""
    return "\n".join(_block(spec.model_dump(exclude_none=True), "")) + "\n"


def _block(value: Mapping[str, object], indent: str) -> Iterator[str]:
    """Writes a mapping in lines that are short enough to be read back, whatever it holds."""
    for key, part in value.items():
        if isinstance(part, Mapping) and part:
            yield f"{indent}{flow(key)}:"
            yield from _block(part, indent + "  ")
        elif isinstance(part, list | tuple) and len(flow(part)) > 100:
            yield f"{indent}{flow(key)}:"
            yield from (f"{indent}  - {flow(item)}" for item in part)
        else:
            yield f"{indent}{flow(key)}: {flow(part)}"


def _read(path: Path) -> str:
    """Returns the text of a study file.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        StudyFileError: it is too large or not UTF-8.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'not a file'}; a study file was expected")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file (`hwnas init NAME` writes a study file)") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(f"{str(path)!r}: cannot be read: {reason}") from None
    if len(raw) > MAX_BYTES:
        raise StudyFileError(path, f"larger than {MAX_BYTES // 1024} KiB: not a study file", line=1, column=1)
    if raw.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise StudyFileError(path, "begins with a byte order mark: save it as UTF-8 without one", line=1, column=1)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        message = f"byte 0x{raw[error.start]:02x} is not UTF-8: save the file as UTF-8"
        raise StudyFileError(path, message, line=line, column=column) from None


def _apply(root: Node, override: str) -> None:
    """Sets one value of the tree, in place.

    Raises:
        StudyFileError: the override has no `=`, its value is not YAML, or its key leads into a value without keys.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise StudyFileError(
            COMMAND_LINE, f"{shown(override)} is not an override: write key=value, e.g. search.trials=20"
        )
    node, done, rest = root, list[str | int](), key
    while True:
        if isinstance(node.value, list):
            part, rest = rest.partition(".")[::2]
            if not part.isascii() or not part.isdigit() or int(part[:6]) >= len(node.value):
                size = len(node.value)
                raise StudyFileError(COMMAND_LINE, f"expected an index below {size}, not '{part}'", key=dotted(done))
            index = int(part[:6])
            done.append(index)
            if not rest:
                node.value[index] = parse_yaml(text, COMMAND_LINE, path=done, located=False)
                return
            node = node.value[index]
            continue
        if node.value is None:
            node.value = {}
        if not isinstance(node.value, dict):
            message = f"{shown(node.plain())} has no keys, so '{rest}' cannot be set in it"
            raise StudyFileError(COMMAND_LINE, message, key=dotted(done))
        part, rest = _split(node.value, done, rest)
        done.append(part)
        if not rest:
            node.value[part] = parse_yaml(text, COMMAND_LINE, path=done, located=False)
            node.keys[part] = (None, None)
            return
        if part not in node.value:
            node.value[part] = Node({}, COMMAND_LINE, None, None, {})
            node.keys[part] = (None, None)
        node = node.value[part]


def _split(known: Mapping[str, Node], done: Sequence[str | int], rest: str) -> tuple[str, str]:
    """Takes the next key off a dotted key; knobs and devices may have dots in their names."""
    if list(done) == ["space", "params"]:
        return rest, ""
    parts = rest.split(".")
    for count in range(len(parts), 0, -1):
        if (head := ".".join(parts[:count])) in known:
            return head, ".".join(parts[count:])
    return parts[0], ".".join(parts[1:])


def _first_error(root: Node, error: ValidationError) -> HwnasError:
    """Picks, of all errors, the one to show: exit code 2 before 4, wrong before missing, else the first in the file."""
    found = [_Fault(root, details) for details in error.errors(include_url=False)]
    found = [fault for fault in found if fault.kind != "default_factory_not_called"]
    return min(found, key=lambda fault: fault.rank).exception()


class _Fault:
    """One error of pydantic, with its place in the file and its line for the user."""

    def __init__(self, root: Node, details: ErrorDetails) -> None:
        self.kind = details["type"]
        self.details = details
        context = details.get("ctx", {})
        at = context.get("at", ())
        # pydantic marks a key that is not legal by a last part '[key]'
        on_key = bool(details["loc"]) and details["loc"][-1] == "[key]"
        self.path: tuple[str | int, ...] = (*(details["loc"][:-1] if on_key else details["loc"]), *at)
        self.entries = self.kind == "missing" and isinstance(self.path[-1], int)  # a list of fixed length is too short
        # a list with an entry that is wrong also counts as too short
        missing = self.kind in ("missing", "too_short") or str(context.get("message", "")).startswith("missing")
        origin, line, column = _place(root, self.path, on_key or self.kind == "extra_forbidden")
        self.origin, self.line, self.column = origin, line, column
        self.rank = (
            missing or self.path != ("version",),
            self.kind == "device",
            missing,
            line if line is not None else 10**9,
            column if column is not None else 0,
        )

    def exception(self) -> HwnasError:
        located = StudyFileError(
            self.origin,
            self._message(),
            key=dotted(self.path[:-1] if self.entries else self.path),
            line=self.line,
            column=self.column,
        )
        return DeviceError(str(located)) if self.kind == "device" else located

    def _message(self) -> str:
        kind, context = self.kind, self.details.get("ctx", {})
        value = self.details["input"]
        if kind in ("study", "device"):
            return str(context["message"])
        if kind == "extra_forbidden":
            return "unknown key" + _near_key(self.path)
        if self.entries:
            return "too few entries" + _purpose(self.path[:-1])
        if kind == "missing":
            return "missing" + _purpose(self.path)
        if kind == "literal_error":
            return _wrong_choice(self.path, value)
        if expected := _EXPECTED.get(kind):
            return f"expected {expected}, not {_exactly(value)}"
        if kind == "too_short":
            return "needs at least one entry"
        if kind == "too_long":
            return f"at most {context['max_length']} entries, not {context['actual_length'] or len(value)}"
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            if name in context:
                return f"must be {sign} {context[name]:g}, not {shown(value)}"
        return f"{self.details['msg']}, not {shown(value)}"


_EXPECTED = {
    "model_type": "a mapping of keys",
    "model_attributes_type": "a mapping of keys",
    "dict_type": "a mapping of keys",
    "mapping_type": "a mapping of keys",
    "tuple_type": "a list, e.g. [a, b]",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a text (in quotes if it looks like a number)",
    "bool_type": "true or false",
}


def _exactly(value: object) -> str:
    return f"{value!r}" if isinstance(value, float) else shown(value)


def _place(root: Node, path: Sequence[str | int], on_key: bool) -> tuple[str, int | None, int | None]:
    """Where a path stands; its nearest parent where it is not in the file (a missing key, a default)."""
    node, place = root, (root.origin, root.line, root.column)
    for i, part in enumerate(path):
        if isinstance(node.value, dict) and part in node.value:
            key_line, key_column = node.keys[str(part)]
            child = node.value[str(part)]
            last = i == len(path) - 1
            use_key = (last and on_key) or (child.value is None and child.line is not None)
            node, place = child, (child.origin, child.line, child.column)
            if use_key or (not last and _leads_nowhere(child, path[i + 1])):
                place = (child.origin, key_line, key_column)
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            place = (node.origin, node.line, node.column)
        else:
            break
    return place


def _leads_nowhere(node: Node, part: str | int) -> bool:
    return isinstance(node.value, dict) and part not in node.value


def _section(path: Sequence[str | int]) -> type[Spec] | None:
    for pattern, section in SECTIONS.items():
        if len(pattern) == len(path) and all(p in ("*", part) for p, part in zip(pattern, path, strict=True)):
            return section
    return None


def _near_key(path: Sequence[str | int]) -> str:
    """Near names for an unknown key, or the section that has it."""
    section, key = _section(path[:-1]), str(path[-1])
    known = list(section.by_key()) if section else []
    near = did_you_mean(key, known)
    if near.startswith(" (did"):
        return near
    homes = [".".join((*pattern, key)) for pattern, other in SECTIONS.items() if key in other.by_key()]
    return f" (did you mean '{homes[0]}'?)" if homes else near


def _purpose(path: Sequence[str | int]) -> str:
    section = _section(path[:-1])
    field = section.by_key().get(str(path[-1])) if section else None
    return f": {field.description}" if field and field.description else ""


def _wrong_choice(path: Sequence[str | int], value: Any) -> str:
    names = [part for part in path if isinstance(part, str)]
    section = _section(path[:-1]) or _section(path[:-2]) if path else None
    known = choices(section, names[-1]) if section and names and names[-1] in section.by_key() else ()
    if isinstance(value, str):
        return f"unknown: {shown(value).removeprefix('the text ')}{did_you_mean(value[:64], known)}"
    more = f", … ({len(known)} in all)" if len(known) > MOST_NAMED else ""
    return f"expected one of {', '.join(known[:MOST_NAMED])}{more}; not {shown(value)}"
