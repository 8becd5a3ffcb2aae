"""A torch module that the user names: found, built and converted in a child process.

The child is `python -m hwnas.search.torch_module`. It runs code of the user's own, and is killed when that crashes or
hangs.
"""

from __future__ import annotations

import functools
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..profilers import Child, OnnxBased, Runtime, get_runtime
from ..profilers.serve import serve
from ..spaces.errors import CandidateError, UsageError, did_you_mean
from .branches import looks_at_values

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TorchModule", "convert"]

DEADLINE_S = 600.0
"""Longest time to convert a module for one device; ExecuTorch takes a minute for a large network in int8."""

_CALIBRATION = 8
"""Random samples that tell an int8 file the ranges of its activations."""


class TorchModule:
    """A module by its name.

    Args:
        name: `package.module:attribute`, a `torch.nn.Module` or a function without arguments that returns one.
        input_shape: (C, H, W).
        allow_code: a Python file that may be executed; its stem is the name of its module. Others must be installed.
        deadline_s: longest time of one conversion.
    """

    def __init__(
        self, name: str, input_shape: tuple[int, ...], allow_code: Path | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self.name, self.input_shape, self.allow_code, self.deadline_s = name, input_shape, allow_code, deadline_s
        self.looks_at = ""
        """Where it decides by values of its input, `file:line`; known after a conversion, empty where it does not."""
        self._child = Child("hwnas.search.torch_module", name="converter")

    def convert(self, runtime: Runtime, precision: str, folder: Path) -> Path:
        """Returns the module's file for a runtime, in `folder`; of a module that decides by values, one of its ways.

        Raises:
            CandidateError: `build` or `export`, it cannot be built or converted; or it crashed or hung.
            UsageError: there is no such module or attribute, or it is no torch module.
            DiskError: the file cannot be written.
        """
        file = runtime.file(folder / "module.onnx", precision)
        request = {"name": self.name, "input": list(self.input_shape), "runtime": runtime.name, "precision": precision}
        code = None if self.allow_code is None else str(self.allow_code.resolve())
        told = self._child.call({"do": "convert", "path": str(file), "allow_code": code, **request}, self.deadline_s)
        self.looks_at = str(told["looks_at"])
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()

    def __str__(self) -> str:
        return self.name


def convert(request: dict[str, Any]) -> dict[str, Any]:
    """Writes a module's file. Request: `name`, `allow_code`, `input`, `runtime`, `precision`, `path`.

    Returns `looks_at`: `file:line` where the module decides by values of its input, or an empty text.
    """
    import torch

    model = _built(request["name"], request["allow_code"])
    torch.manual_seed(0)
    example = torch.randn(1, *request["input"])
    samples = torch.randn(_CALIBRATION, *request["input"])
    looks_at = looks_at_values(model, example)
    torch.manual_seed(0)
    runtime = get_runtime(request["runtime"])
    try:
        runtime.convert(model, example, Path(request["path"]), request["precision"], samples)
    except CandidateError as error:
        if looks_at and error.code == "export" and not isinstance(runtime, OnnxBased):
            raise CandidateError(
                "export",
                f"it decides by values of its input ({looks_at}), which no file for {runtime.name} can hold: write it "
                f"with torch.where ({error.detail})",
            ) from error
        raise
    return {"looks_at": looks_at}


@functools.lru_cache(1)
def _built(name: str, allow_code: str | None) -> nn.Module:
    """Returns the module of that name, with the same weights each time."""
    import torch

    found = _found(name, None if allow_code is None else Path(allow_code))
    torch.manual_seed(0)
    try:
        model = found if isinstance(found, torch.nn.Module) else found()
    except Exception as error:  # whatever the user's code raises
        raise CandidateError("build", f"{name}: {type(error).__name__}: {_one_line(error)}") from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"'{name}' gives a {type(model).__name__}, expected a torch.nn.Module")
    return model


def _found(name: str, allow_code: Path | None) -> Any:
    """Returns the module, or the function that makes it."""
    from ..spaces.registry import execute

    place, _, attribute = name.partition(":")
    if allow_code is not None and place == allow_code.stem:
        module = execute(allow_code)
    else:
        try:
            module = import_module(place)
        except ModuleNotFoundError as error:
            if not place.startswith(str(error.name)):
                raise UsageError(f"module '{place}': {_one_line(error)}") from None
            hint = "a file of your own: --allow-code FILE.py"
            if allow_code is not None:
                hint = f"that of --allow-code {allow_code.name} is '{allow_code.stem}': {allow_code.stem}:{attribute}"
            raise UsageError(f"no module '{place}' is installed; {hint}") from None
        except Exception as error:  # whatever the user's code raises
            raise UsageError(f"module '{place}': {type(error).__name__}: {_one_line(error)}") from None
    public = [key for key in vars(module) if not key.startswith("_")]
    if not hasattr(module, attribute):
        raise UsageError(f"module '{place}' has no '{attribute}'{did_you_mean(attribute, public)}"[:300])
    found = getattr(module, attribute)
    if not callable(found):
        raise UsageError(
            f"'{name}' is a {type(found).__name__}, expected a torch.nn.Module or a function that gives one"
        )
    return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


if __name__ == "__main__":
    serve({"convert": convert})
