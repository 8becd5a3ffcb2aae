"""The runner as one file, made of this package's own modules: what `hwnas devices add` sends to a board."""

from __future__ import annotations

import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path

__all__ = ["bundle", "digest"]

_ENTRIES = {
    "__main__.py": "from hwnas.profilers.hosts.board import main\n\nmain()\n",
    "hwnas/__init__.py": "",
    **{f"hwnas/profilers{folder}/__init__.py": "" for folder in ("", "/hosts", "/meters", "/runtimes")},
    "hwnas/spaces/__init__.py": "",
}
"""Packages are empty in it: a board imports the modules that it needs."""


@cache
def bundle() -> bytes:
    """Returns a zip file that Python runs: the modules of `profilers` and the errors; the same bytes every time."""
    here = Path(__file__).parents[1]
    found = (path for path in here.rglob("*.py") if path.name != "__init__.py")
    modules = {f"hwnas/profilers/{path.relative_to(here).as_posix()}": path for path in found}
    modules["hwnas/spaces/errors.py"] = here.parent / "spaces" / "errors.py"
    texts = {**_ENTRIES, **{name: path.read_text("utf-8") for name, path in modules.items()}}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name in sorted(texts):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(entry, texts[name])
    return made.getvalue()


@cache
def digest() -> str:
    """Returns the sha256 of the file."""
    return hashlib.sha256(bundle()).hexdigest()
