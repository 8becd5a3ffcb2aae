"""Where a torch module looks at the values of its input, as in `if x.sum() > 0`: a model file cannot do that."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["looks_at_values"]


def looks_at_values(model: torch.nn.Module, example: torch.Tensor) -> str:
    """Runs a module once, in evaluation mode, and watches for values that its code takes out of a tensor.

    What comes from the input is watched, and nothing else: decisions by shapes and by the module's own weights are the
    same at every run. Scripted parts are not seen; exporters keep their branches.

    Args:
        model: the module; it is left as it was.
        example: one input, (1, C, H, W).

    Returns:
        `file:line` of the first such place; empty where there is none, or the module does not run.
    """
    import torch

    takers = {
        *(torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__),
        *(torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.is_nonzero),
        *(torch.Tensor.__contains__, torch.equal, torch.allclose, torch.is_nonzero),
    }
    places: list[str] = []

    class Watched(torch.Tensor):
        """The input and all that is made from it: torch gives results the class of their arguments."""

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if func in takers:
                places.append(_place())
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    modes = {module: module.training for module in model.modules()}
    try:
        with suppress(Exception), torch.no_grad():  # whatever the user's code raises: the conversion tells it
            model.eval()(example.clone().as_subclass(Watched))
    finally:
        for module, mode in modes.items():
            module.training = mode
    return places[0] if places else ""


def _place() -> str:
    """Returns the innermost `file:line` that is neither here nor in torch, from the current folder on if below it."""
    import torch

    ours = (__file__, f"{Path(torch.__file__).parent}{os.sep}")
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(ours)]
    path = Path(frames[-1].filename)
    with suppress(ValueError):
        path = path.relative_to(Path.cwd())
    return f"{path}:{frames[-1].lineno}"
