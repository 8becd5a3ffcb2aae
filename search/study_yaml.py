"""YAML 1.2 with a line and a column at every key and value, and nothing that a study file has no use for.

Anchors, aliases, tags, directives, several documents and duplicate keys are refused, so that a text can neither grow
when it is read nor mean two things. Scalars follow the core schema of YAML 1.2 (section 10.3): `no` is a text, `1e-3`
is a number; numbers that YAML 1.1 and 1.2 read differently (`010`) are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..spaces.errors import StudyFileError

__all__ = ["MAX_BYTES", "Node", "dotted", "flow", "parse_yaml", "shown"]

MAX_BYTES = 256 * 1024
"""Size limit of a study file; an ordinary one has 2 kB."""

MAX_LINE = 1024
MAX_LINES = 5_000
MAX_DEPTH = 32
MAX_NODES = 5_000

Scalar = str | int | float | bool | None

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS: dict[str, Scalar] = {word: None for word in ("", "~", "null", "Null", "NULL")}
_WORDS |= {word: True for word in ("true", "True", "TRUE")} | {word: False for word in ("false", "False", "FALSE")}
_UNPRINTABLE = re.compile(
    r"[^\t\n\r\x20-\x7e\x85\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


@dataclass(slots=True)
class Node:
    """A value of the file and where it stands.

    Attributes:
        value: a scalar, a list of nodes, or nodes by key.
        origin: the file, or `command line`.
        line: 1-based; None on the command line.
        column: 1-based; None on the command line.
        keys: for a mapping, where each key stands, as (line, column).
    """

    value: Scalar | list[Node] | dict[str, Node]
    origin: str
    line: int | None
    column: int | None
    keys: dict[str, tuple[int | None, int | None]]

    def plain(self) -> Any:
        """The value as plain objects; sequences become tuples."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return tuple(node.plain() for node in self.value)
        return self.value


def dotted(path: Sequence[str | int]) -> str:
    """Writes a path as users do.

    >>> dotted(["objectives", 1, "metric"])
    'objectives[1].metric'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{_clip(part)}" if text else _clip(part)
    return text


def shown(value: object) -> str:
    """Says what a value is, in a few words on one line.

    >>> shown("no")
    "the text 'no'"
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"the text '{_clip(value)}'"
    if isinstance(value, int | float):
        return f"{value:.12g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, Sequence) else _clip(str(value))


_PLAIN = re.compile(r"(?!(?i:null|true|false|yes|no|on|off|y|n)$)[A-Za-z_][A-Za-z0-9_.@/-]*")


def flow(value: object) -> str:
    """Writes a value on one line of YAML; words that YAML 1.1 takes for true or false are quoted, too."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(flow(part) for part in value) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def parse_yaml(text: str, origin: str, *, path: Sequence[str | int] = (), located: bool = True) -> Node:
    """Reads one document.

    Args:
        text: the YAML.
        origin: what the errors name: the file, or `command line`.
        path: dotted key at which the document stands, for the errors.
        located: False to give no lines and columns.

    Raises:
        StudyFileError: the text is not legal YAML, or uses a part of YAML that study files have not.
    """
    return _Reader(text, origin, list(path), located).read()


def _clip(text: str, length: int = 48) -> str:
    clean = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[: length + 1]
    )
    return clean if len(text) <= length else clean[:length] + "…"


class _Reader:
    """Builds nodes from ruamel's events; ruamel's own composer would resolve aliases."""

    def __init__(self, text: str, origin: str, path: list[str | int], located: bool) -> None:
        self.text = text
        self.origin = origin
        self.path = path
        self.located = located
        self.count = 0
        self.events: Iterator[Any] = iter(())

    def read(self) -> Node:
        from ruamel.yaml import YAML

        self._check_text()
        yaml = YAML(typ="safe", pure=True)
        self.events = yaml.parse(self.text)
        self._next()  # the start of the stream
        event = self._next()
        if _kind(event) == "StreamEnd":
            if self.path:
                return self._node(None, event)
            self._fail(
                "the file is empty: a study file has at least version, name, space, data, devices and objectives"
            )
        if event.version is not None or event.tags:
            self._fail("directives (%YAML, %TAG) are not used in study files", event)
        root = self._build(self._next())
        self._next()  # the end of the document
        event = self._next()
        if _kind(event) != "StreamEnd":
            self._fail("a second document begins here: a study file has one", event)
        return root

    def _check_text(self) -> None:
        if match := _UNPRINTABLE.search(self.text):
            name = "NUL byte" if match[0] == "\0" else f"character U+{ord(match[0]):04X}"
            self._fail(f"{name} in the text", offset=match.start())
        start = 0
        for number, line in enumerate(self.text.split("\n"), 1):
            if len(line) > MAX_LINE:
                self._fail(f"line of {len(line)} characters; at most {MAX_LINE} are read", offset=start)
            if number > MAX_LINES:
                self._fail(f"more than {MAX_LINES} lines", offset=start)
            start += len(line) + 1

    def _next(self) -> Any:
        from ruamel.yaml.error import MarkedYAMLError

        try:
            return next(self.events)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            problem = " ".join(str(error.problem or error.context).split())
            problem = problem.replace("'<stream end>'", "the end of the text")
            if r"'\t'" in problem:
                problem = "a tab stands here: use spaces"
            at = None if mark is None else (mark.line + 1, mark.column + 1)
            self._fail(f"not legal YAML: {_clip(problem, 160)}", at=at)
        except RecursionError:
            self._fail(f"nested more than {MAX_DEPTH} deep")
        except Exception as error:  # the parser has a few internal errors on hostile text; none may reach the user
            self._fail(f"not legal YAML: {_clip(' '.join(str(error).split()), 120) or type(error).__name__}")

    def _build(self, event: Any) -> Node:
        self.count += 1
        if self.count > MAX_NODES:
            self._fail(f"more than {MAX_NODES} values", event)
        kind = _kind(event)
        if kind == "Alias" or event.anchor is not None:
            sign = "*" if kind == "Alias" else "&"
            what = "alias" if kind == "Alias" else "anchor"
            self._fail(
                f"{what} '{sign}{_clip(event.anchor)}': not used in study files; quote a text that begins with {sign}",
                event,
            )
        if event.ctag is not None and str(event.ctag):
            self._fail(f"tag '{_clip(str(event.ctag))}': not used in study files", event)
        if kind == "Scalar":
            return self._node(self._scalar(event), event)
        if len(self.path) >= MAX_DEPTH:
            self._fail(f"nested more than {MAX_DEPTH} deep", event)
        return self._mapping(event) if kind == "MappingStart" else self._sequence(event)

    def _sequence(self, start: Any) -> Node:
        nodes: list[Node] = []
        while _kind(event := self._next()) != "SequenceEnd":
            self.path.append(len(nodes))
            nodes.append(self._build(event))
            self.path.pop()
        return self._node(nodes, start)

    def _mapping(self, start: Any) -> Node:
        node = self._node({}, start)
        entries: dict[str, Node] = {}
        node.value = entries
        while _kind(event := self._next()) != "MappingEnd":
            key = self._key(event)
            self.path.append(key)
            if key in entries:
                first = node.keys[key][0]
                self._fail(f"duplicate key{f' (first on line {first})' if first else ''}", event)
            node.keys[key] = self._place(event)
            entries[key] = self._build(self._next())
            self.path.pop()
        return node

    def _key(self, event: Any) -> str:
        if _kind(event) != "Scalar" or event.anchor is not None or event.ctag is not None:
            self._build(event)  # names an anchor, an alias or a tag
            self._fail("a key must be a plain text", event)
        if event.value == "" or (event.style is None and event.value in ("~", "null")):
            self._fail("a key is empty", event)
        return str(event.value)

    def _scalar(self, event: Any) -> Scalar:
        text: str = event.value
        if event.style is not None:  # quoted, or a block
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            if _LEADING_ZERO.fullmatch(text):
                self._fail(
                    f"number with a leading zero: '{_clip(text)}'; write it without, or in quotes for a text", event
                )
            if len(text) > 20:
                self._fail(f"number of {len(text)} characters: too large", event)
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            number = float(text.replace(".inf", "inf").replace(".nan", "nan")) if len(text) <= 64 else math.inf
            if not math.isfinite(number):
                self._fail(f"'{_clip(text)}' is not a finite number", event)
            return number
        return text

    def _node(self, value: Any, event: Any) -> Node:
        line, column = self._place(event)
        return Node(value, self.origin, line, column, {})

    def _place(self, event: Any) -> tuple[int | None, int | None]:
        mark = event.start_mark
        return (mark.line + 1, mark.column + 1) if self.located else (None, None)

    def _fail(
        self, message: str, event: Any = None, *, offset: int | None = None, at: tuple[int, int] | None = None
    ) -> NoReturn:
        line, column = at or (1, 1)
        if event is not None:
            line, column = event.start_mark.line + 1, event.start_mark.column + 1
        elif offset is not None:
            line = self.text.count("\n", 0, offset) + 1
            column = offset - (self.text.rfind("\n", 0, offset) + 1) + 1
        key = dotted(self.path)
        if not self.located:
            raise StudyFileError(self.origin, message, key=key)
        raise StudyFileError(self.origin, message, key=key, line=line, column=column)


def _kind(event: Any) -> str:
    return type(event).__name__.removesuffix("Event")
