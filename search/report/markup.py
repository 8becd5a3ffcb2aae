"""HTML that is escaped unless said otherwise."""

from __future__ import annotations

import html
import json
import re
from typing import Any

__all__ = ["Markup", "element", "embed", "join"]

_UNITS = re.compile(r"(?<=\d) (?=(?:%|ms|mJ|MB|k|M|G|points)(?!\w))")  # a number and its unit stay on one line
_VOID = frozenset({"meta", "link", "br", "input"})


class Markup(str):
    """Text that is HTML already; every other string is escaped on its way into an element."""

    __slots__ = ()


def element(tag: str, *content: str | None, **attributes: str | None) -> Markup:
    """Builds an element; `class_` stands for `class`, `data_x` for `data-x`; None leaves out.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    words = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{words}>")
    return Markup(f"<{tag}{words}>{join(*content)}</{tag}>")


def join(*content: str | None) -> Markup:
    """Joins text and markup, escaping the text."""
    return Markup("".join(part if isinstance(part, Markup) else _escaped(part) for part in content if part))


def _escaped(text: str) -> str:
    return _UNITS.sub("\u00a0", html.escape(text))


def embed(data: Any) -> Markup:
    """Writes JSON that can stand inside a script element: it can neither close it nor open a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
