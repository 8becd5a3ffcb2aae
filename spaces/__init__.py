"""What can be built: spaces, architectures, and the choosers that pick one.

>>> from hwnas.spaces import load_space
>>> mobile = load_space("mobile", input_shape=(1, 8, 8), num_classes=10)
>>> architecture = mobile.random(seed=0)
>>> model = mobile.build(architecture)
"""

from __future__ import annotations

from .architecture import Architecture, Value
from .chooser import (
    Chooser,
    CrossoverChooser,
    EnumeratingChooser,
    ExtremeChooser,
    MutatingChooser,
    RandomChooser,
    ReplayChooser,
    enumerate_architectures,
)
from .decision import Domain, Integer, OneOf, Real
from .fbnet import FBNet
from .function_space import FunctionSpace, space
from .mobile import Mobile
from .narrowing import NarrowedChooser, Params
from .nasbench201 import Cell, NasBench201
from .registry import builtin_names, find_space, load_space
from .space import Shape, Space

__all__ = [
    "Architecture",
    "Cell",
    "Chooser",
    "CrossoverChooser",
    "Domain",
    "EnumeratingChooser",
    "ExtremeChooser",
    "FBNet",
    "FunctionSpace",
    "Integer",
    "Mobile",
    "MutatingChooser",
    "NarrowedChooser",
    "NasBench201",
    "OneOf",
    "Params",
    "RandomChooser",
    "Real",
    "ReplayChooser",
    "Shape",
    "Space",
    "Value",
    "builtin_names",
    "enumerate_architectures",
    "find_space",
    "load_space",
    "space",
]
