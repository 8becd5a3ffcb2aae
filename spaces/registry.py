"""Finding a space by the name that a study file gives it.

A name means, in this order: a space of a file that the user gave on the command line, a built-in space, or an
installed plug-in. A study file never names a path or a module, so that reading one runs no code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from .errors import HwnasError, SpaceError, did_you_mean
from .fbnet import FBNet
from .mobile import Mobile
from .narrowing import Params
from .nasbench201 import NasBench201
from .space import Shape, Space, own_code

__all__ = ["builtin_names", "execute", "find_space", "load_space"]

GROUP = "hwnas.spaces"
"""Entry point group of plug-ins."""

_BUILTIN: dict[str, type[Space]] = {"fbnet": FBNet, "mobile": Mobile, "nasbench201": NasBench201}
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_files: dict[Path, ModuleType] = {}

Found = Space | type[Space]


def builtin_names() -> tuple[str, ...]:
    """Returns the names of the built-in spaces."""
    return tuple(sorted(_BUILTIN))


def load_space(
    use: str,
    *,
    input_shape: Shape | None = None,
    num_classes: int | None = None,
    params: Params | None = None,
    allow_code: Path | None = None,
) -> Space:
    """Returns a validated space.

    Args:
        use: name of the space.
        input_shape: channels, height, width; None takes the space's own.
        num_classes: number of classes; None takes the space's own.
        params: narrows knobs: name or pattern to a value, a list of options, or `[low, high]`.
        allow_code: a Python file whose spaces may be used by name; it is executed, once per process.

    Raises:
        SpaceError: the name is unknown, the file or plug-in fails, the task does not fit, or the space is not valid.

    >>> load_space("mobile", input_shape=(1, 8, 8), num_classes=10)
    <space 'mobile' 1x8x8, 10 classes>
    """
    found = find_space(use, allow_code)
    if isinstance(found, Space):
        loaded = _fit(found, input_shape, num_classes).narrow(params or {})
    else:
        with own_code(use, "making it"):
            loaded = found(input_shape, num_classes, params)
    loaded.validate()
    return loaded


def find_space(use: str, allow_code: Path | None = None) -> Found:
    """Returns what a name stands for: a space that is ready made, or the class of one.

    Raises:
        SpaceError: the name is unknown, or the file or plug-in fails.
    """
    own = _spaces_of(execute(allow_code)) if allow_code is not None else {}
    for name in own:
        if name in _BUILTIN:
            raise SpaceError(f"{allow_code}: space '{name}' has the name of a built-in space; give it another")
    if use in own:
        return own[use]
    if use in _BUILTIN:
        return _BUILTIN[use]
    plugins = _plugins()
    if use in plugins:
        return _load_plugin(plugins[use])
    near = did_you_mean(use, {*own, *_BUILTIN, *plugins})
    hint = "" if allow_code else "; a space of your own: --allow-code FILE.py"
    raise SpaceError(f"unknown space '{_shown(use)}'{near}{hint}", key=("use",))


def _fit(space: Space, input_shape: Shape | None, num_classes: int | None) -> Space:
    """Checks that a ready-made space is for the study's task."""
    if input_shape is not None and tuple(input_shape) != space.input_shape:
        raise SpaceError(
            f"space '{space.name}' is made for {list(space.input_shape)}, not {list(input_shape)}", key=("input",)
        )
    if num_classes is not None and num_classes != space.num_classes:
        raise SpaceError(
            f"space '{space.name}' is made for {space.num_classes} classes, not {num_classes}", key=("num_classes",)
        )
    return space


def execute(path: Path) -> ModuleType:
    """Runs a file that the user allowed, once per process.

    Raises:
        SpaceError: there is no such file, or it fails.
    """
    path = path.resolve()
    if path in _files:
        return _files[path]
    if not path.is_file():
        raise SpaceError(f"--allow-code: {path} is not a file")
    name = f"hwnas_code_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or path.suffix != ".py":
        raise SpaceError(f"--allow-code: {path} is not a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except HwnasError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SpaceError(f"--allow-code: {path}: {_one_line(error)}") from error
    _files[path] = module
    return module


def _spaces_of(module: ModuleType) -> dict[str, Found]:
    """Returns the spaces that a file defines, by name."""
    spaces: dict[str, Found] = {}
    for value in vars(module).values():
        if isinstance(value, Space):
            spaces[value.name] = value
        elif isinstance(value, type) and issubclass(value, Space) and value.__module__ == module.__name__:
            spaces[getattr(value, "name", value.__name__)] = value
    if not spaces:
        raise SpaceError(f"--allow-code: {module.__file__} defines no space")
    for name in spaces:
        if not _NAME.fullmatch(name):
            raise SpaceError(f"--allow-code: space name {name!r} is not legal; use letters, digits and . _ -")
    return spaces


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _load_plugin(point: EntryPoint) -> Found:
    try:
        found = point.load()
    except Exception as error:
        raise SpaceError(f"space plug-in '{point.name}' ({point.value}): {_one_line(error)}") from error
    if isinstance(found, Space) or (isinstance(found, type) and issubclass(found, Space)):
        return found
    raise SpaceError(f"space plug-in '{point.name}' ({point.value}) is a {type(found).__name__}, expected a Space")


def _one_line(error: BaseException) -> str:
    line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{line}"


def _shown(name: str) -> str:
    return name if _NAME.fullmatch(name) else repr(name)[1:65]
