"""Files of ATen operators: weights and graph in one safetensors file, without pickle and without code.

What `torch.export.save` writes (torch 2.13) will not do for a file that may come from elsewhere: weights that are no
plain tensors and the example inputs are pickled, `torch.export.load` falls back to `weights_only=False`, and symbolic
sizes are evaluated as Python. Here the tensors are those of safetensors, whose metadata holds the graph as JSON:

    {"inputs": [[1, 3, 32, 32]], "calls": [{"op": "aten.relu.default", "args": [{"value": "x"}], "name": "v0"}, …],
     "outputs": [{"value": "v7"}]}

What runs when a file is loaded: a function is generated that calls operators of ATen by name, each of which must be one
of `aten.OPERATORS`: many others crash on, or read beyond, what they are given.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...spaces.errors import CandidateError
from .aten import OPERATORS

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT", "read_aten", "write_aten"]

FORMAT = "hwnas-aten-1"
"""Says what the file is, in its metadata."""

_OPERATOR = re.compile(r"aten\.([A-Za-z0-9_]+)\.([A-Za-z0-9_]+)")
_TEXT = re.compile(r"[A-Za-z0-9_,.> -]{0,200}")
"""Texts that a file may hold, such as `tanh` and `bij,bjk->bik`: a compiler writes them into programs."""
_WEIGHT = re.compile(r"c[0-9]{1,9}")
_GETITEM = "getitem"
_TYPES = frozenset({"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"})
_FORMATS = frozenset({"contiguous_format", "preserve_format", "channels_last", "channels_last_3d", "strided"})
"""Types, and orders in memory, that a file may name; none is sparse or quantised."""


def write_aten(module: torch.fx.GraphModule, example: torch.Tensor, path: Path) -> None:
    """Writes a module of `fold`.

    Raises:
        CandidateError: `export`, it has an operator or an argument that such files do not hold.
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    names: dict[Any, str] = {}
    calls: list[dict[str, Any]] = []
    outputs: list[Any] = []
    for node in module.graph.nodes:
        names[node] = {"placeholder": "x", "get_attr": str(node.target)}.get(node.op, f"v{len(calls)}")
        if node.op == "call_function":
            args, kwargs = ([_plain(item, names) for item in node.args], _plain(dict(node.kwargs), names))
            calls.append({"op": _name_of(node.target), "args": args, "kwargs": kwargs, "name": names[node]})
        elif node.op == "output":
            outputs = [_plain(item, names) for item in node.args[0]]
    graph = {"inputs": [list(example.shape)], "calls": calls, "outputs": outputs}
    weights = {name: tensor.contiguous() for name, tensor in module.named_buffers()}
    path.write_bytes(save(weights, {"format": FORMAT, "graph": json.dumps(graph, allow_nan=False)}))


def read_aten(path: Path) -> tuple[torch.fx.GraphModule, tuple[int, ...]]:
    """Returns the module of a file, with its weights as buffers, and the shape of its input.

    Raises:
        CandidateError: `export`, it is not such a file, or calls what it may not.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            if told.get("format") != FORMAT:
                raise CandidateError("export", f"not a file of ATen operators ({FORMAT})")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        graph = json.loads(told["graph"])
        [shape] = graph["inputs"]
        return _module(graph, weights), tuple(int(side) for side in shape)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError, IndexError) as error:
        raise CandidateError("export", f"not a file of ATen operators: {type(error).__name__} {error}"[:300]) from None


def _module(graph: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> torch.fx.GraphModule:
    import torch

    root, made = torch.nn.Module(), torch.fx.Graph()
    values: dict[str, Any] = {"x": made.placeholder("x")}
    for name, tensor in weights.items():
        if not _WEIGHT.fullmatch(name):
            raise ValueError(f"a weight is named {name!r}")
        root.register_buffer(name, tensor)
        values[name] = made.get_attr(name)
    for call in graph["calls"]:
        target = _operator(call["op"], {str(key): None for key, _ in _pairs(call["kwargs"])})
        args, kwargs = _revived(call["args"], values), _revived(call["kwargs"], values, mapping=True)
        if target is torch.ops.aten.scaled_dot_product_attention.default:
            named = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            made.call_function(_check_attention, (named["key"], named["value"]))
        values[str(call["name"])] = made.call_function(target, tuple(args), kwargs)
    made.output(tuple(_revived(graph["outputs"], values)))
    return torch.fx.GraphModule(root, made)


def _name_of(target: Any) -> str:
    import torch

    if target is operator.getitem:
        return _GETITEM
    name = str(target)
    if not isinstance(target, torch._ops.OpOverload) or not _OPERATOR.fullmatch(name):
        raise CandidateError("export", f"'{name}' is not an operator of ATen")
    _operator(name, {})
    return name


def _operator(name: str, kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns an operator that is safe to call.

    Raises:
        CandidateError: `export`, it is not one of `OPERATORS`.
        ValueError: there is none of that name, or it may not be called.
    """
    import torch

    if name == _GETITEM and not kwargs:
        return operator.getitem
    parts = _OPERATOR.fullmatch(name)
    if not parts:
        raise ValueError(f"there is no operator {name!r}")
    if OPERATORS.isdisjoint({parts[1], f"{parts[1]}.{parts[2]}"}):
        raise CandidateError("export", f"the torch runtime does not know aten::{parts[1]}"[:200])
    found = getattr(getattr(torch.ops.aten, parts[1]), parts[2], None)
    if not isinstance(found, torch._ops.OpOverload):
        raise ValueError(f"there is no operator {name!r}")
    schema = found._schema
    if schema.is_mutable or not {str(item.type) for item in schema.returns} <= {"Tensor", "List[Tensor]"}:
        raise ValueError(f"operator {name!r} may not be called from a file")
    if not {item.name for item in schema.arguments}.issuperset(kwargs):
        raise ValueError(f"operator {name!r} has no such arguments: {sorted(kwargs)}")
    return found


def _check_attention(key: torch.Tensor, value: torch.Tensor) -> None:
    """Refuses attention with fewer values than keys: that of torch 2.13 reads beyond them."""
    if key.shape[:-1] != value.shape[:-1]:
        raise ValueError(f"attention with keys {tuple(key.shape)} and values {tuple(value.shape)}")


def _plain(value: Any, names: Mapping[Any, str]) -> Any:
    """Returns an argument as JSON can hold it."""
    import torch

    if isinstance(value, torch.fx.Node):
        return {"value": names[value]}
    if isinstance(value, list | tuple):
        return [_plain(item, names) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, names) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": "of the session"}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CandidateError("export", f"an argument of type {type(value).__name__} is not held by such a file")


def _revived(told: Any, values: Mapping[str, Any], *, mapping: bool = False) -> Any:
    """Returns an argument that `_plain` wrote."""
    import torch

    if mapping:
        return {str(key): _revived(item, values) for key, item in _pairs(told)}
    if isinstance(told, list):
        return [_revived(item, values) for item in told]
    if isinstance(told, str) and not _TEXT.fullmatch(told):
        raise ValueError(f"no text is written {told!r}"[:200])
    if not isinstance(told, dict):
        return told
    [(kind, item)] = told.items()
    if kind == "value":
        return values[item]
    if kind == "float":
        return float(item)
    if kind == "device":
        return None  # where the weights are
    if kind != "torch" or item not in _TYPES | _FORMATS:
        raise ValueError(f"no argument is written {told!r}"[:200])
    return getattr(torch, item)


def _pairs(told: Any) -> Iterable[tuple[Any, Any]]:
    if not isinstance(told, dict):
        raise ValueError("arguments by name must be a mapping")
    return told.items()
