"""Networks of a space, built and written as model files in a child process: `python -m hwnas.search.space_files`.

The child runs code of the space, which may be the user's own, and is killed when that crashes or hangs.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..profilers import Child, get_runtime
from ..profilers.serve import serve
from ..spaces import Architecture, load_space
from ..spaces.errors import CandidateError, SpaceError

if TYPE_CHECKING:
    from ..spaces import Space

__all__ = ["SpaceFiles", "write"]

DEADLINE_S = 600.0
"""Longest time to build and convert one network, when none is stated."""

_CALIBRATION = 8
"""Random samples that tell an int8 file the ranges of its activations."""


class SpaceFiles:
    """Writes untrained networks of a space; the same architecture gives the same file.

    Args:
        space: whose networks.
        folder: where the files are written.
        allow_code: the Python file that the space is of, or None.
        deadline_s: longest time for one network.
    """

    def __init__(
        self, space: Space, folder: Path, allow_code: Path | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self.space, self._folder, self._deadline_s = space, folder, deadline_s
        self._allow_code = None if allow_code is None else str(allow_code.resolve())
        self._child = Child("hwnas.search.space_files", name="builder", env={"OMP_NUM_THREADS": "1"})

    def file(self, architecture: Architecture, runtime: str, precision: str) -> Path:
        """Returns the file that a runtime needs of a network.

        Raises:
            CandidateError: `build` or `export`, it cannot be built or converted; or it crashed or hung.
            DiskError: the file cannot be written.
        """
        found = get_runtime(runtime)
        path = found.file(self._folder / f"{architecture.id}-{runtime}.onnx", precision)
        if not path.is_file():
            task = {"use": self.space.name, "input": list(self.space.input_shape), "classes": self.space.num_classes}
            how = {"arch": architecture.to_json(), "runtime": runtime, "precision": precision, "path": str(path)}
            self._child.call({"do": "write", "allow_code": self._allow_code, **task, **how}, self._deadline_s)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.close()


def write(request: dict[str, Any]) -> dict[str, Any]:
    """Writes a network's file.

    Request: `use`, `input`, `classes`, `allow_code` of the space; `arch` (JSON), `runtime`, `precision`, `path`.

    Raises:
        CandidateError: `build` or `export`.
    """
    import torch

    space = _space(request["use"], tuple(request["input"]), request["classes"], request["allow_code"])
    architecture = Architecture.from_json(request["arch"])
    shape = space.input_of(architecture)
    torch.manual_seed(0)
    try:
        model = space.build(architecture).eval()
    except SpaceError as error:  # of this one architecture: the others may be sound
        raise CandidateError("build", str(error)) from error
    random = torch.Generator().manual_seed(0)
    example = torch.randn(1, *shape, generator=random)
    samples = torch.randn(_CALIBRATION, *shape, generator=random)
    get_runtime(request["runtime"]).convert(model, example, Path(request["path"]), request["precision"], samples)
    return {}


@functools.lru_cache(1)
def _space(use: str, shape: tuple[int, int, int], classes: int, allow_code: str | None) -> Space:
    code = None if allow_code is None else Path(allow_code)
    return load_space(use, input_shape=shape, num_classes=classes, params={}, allow_code=code)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    serve({"write": write})
