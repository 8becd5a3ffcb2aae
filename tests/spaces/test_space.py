from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hwnas.spaces
from hwnas.spaces import (
    Architecture,
    Chooser,
    FunctionSpace,
    Params,
    ReplayChooser,
    Space,
    enumerate_architectures,
    space,
)
from hwnas.spaces.errors import SpaceError

ROOT = Path(__file__).parents[2]


class Tree(Space):
    """A tree of decisions whose size is known by hand: 1 + 2 * 3 + 1 * 3 = 10."""

    name = "tree"
    input_shape = (1, 2, 2)
    num_classes = 2

    def _decide(self, choose: Chooser) -> None:
        kind = choose.one_of("kind", ["none", "some", "one"])
        if kind == "some":
            choose.flag("some.deep")
        if kind != "none":
            choose.integer("width", 1, 3)

    def build(self, architecture: Architecture) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


class Unordered(Tree):
    """Two branches of one choice each, in either order the same network."""

    name = "unordered"
    has_twins = True

    def _decide(self, choose: Chooser) -> None:
        choose.one_of("a", [1, 2, 3])
        choose.one_of("b", [1, 2, 3])

    def canonical(self, architecture: Architecture) -> Architecture:
        a, b = sorted(architecture.as_dict().values())
        return Architecture(self.name, (("a", a), ("b", b)))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def function_space(function: Callable[[Chooser], nn.Module]) -> FunctionSpace:
    return FunctionSpace(function, (1, 2, 2), 2, "fn")


def test_conditional_trees_are_counted() -> None:
    tree = Tree()
    assert len(tree) == tree.size() == len(set(enumerate_architectures(tree))) == 10
    assert set(tree.knobs()) == {"kind", "some.deep", "width"}
    assert Tree(params={"kind": ["some", "one"], "width": [2, 3]}).size() == 6


def test_twins_are_one() -> None:
    twins = Unordered()
    assert twins.size() == 6
    assert twins.decide(ReplayChooser({"a": 3, "b": 1})) == Architecture("unordered", (("a", 1), ("b", 3)))


def test_infinite_and_huge_spaces_have_no_length() -> None:
    def real(choose: Chooser) -> nn.Module:
        choose.real("x", 0, 1)
        return linear()

    def huge(choose: Chooser) -> nn.Module:
        for i in range(40):
            choose.flag(f"a{i}")
        return linear()

    assert function_space(real).size() is None and function_space(huge).size() is None
    with pytest.raises(SpaceError, match="real-valued"):
        len(function_space(real))
    with pytest.raises(SpaceError, match="more than 5000"):
        len(function_space(huge))
    with pytest.raises(SpaceError, match="too many for len"):
        len(Big())


class Big(Tree):
    name = "big"

    def size(self, cap: int | None = None) -> int:
        return 2**70


def test_a_space_without_choice_is_refused() -> None:
    with pytest.raises(SpaceError, match="no choice"):
        function_space(lambda choose: linear()).validate()

    def one_option(choose: Chooser) -> nn.Module:
        choose.one_of("a", [1])
        return linear()

    with pytest.raises(SpaceError, match="no choice"):
        function_space(one_option).validate()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"widht": 1}, r"no knob matches 'widht' \(did you mean 'width'\?\)"),
        ({"layer*.width": 1}, "no knob matches"),
        ({"width": [0, 2]}, "knob 'width' cannot be 0; allowed: 1 to 3"),
        ({"*.deep": 7}, "knob 'some.deep' cannot be 7"),
        ({"kind": None}, "takes a value or a list"),
        ({"kind": {"a": 1}}, "takes a value or a list"),
    ],
)
def test_bad_params(params: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Tree(params=params).validate()


def test_name_beats_pattern_and_the_last_pattern_wins() -> None:
    params: Params = {"w*": 1, "width": 3, "*th": 2, "kind": "one"}
    assert Tree(params=params).corners()[0].as_dict() == {"kind": "one", "width": 3}
    assert Tree(params={"w*": 1, "*th": 2, "kind": "one"}).corners()[0].as_dict()["width"] == 2


def test_own_errors_are_named_and_kept() -> None:
    def broken(choose: Chooser) -> nn.Module:
        choose.flag("a")
        raise KeyError("oh\nno")

    with pytest.raises(SpaceError, match=rf"space 'fn': KeyError while deciding at {__file__}:\d+: ") as caught:
        function_space(broken).random(0)
    assert isinstance(caught.value.__cause__, KeyError) and "\n" not in str(caught.value)

    class Broken(Tree):
        def build(self, architecture: Architecture) -> nn.Module:
            raise ZeroDivisionError

    with pytest.raises(SpaceError, match="ZeroDivisionError while building"):
        Broken().build(Broken().random(0))


def test_what_is_not_a_network_is_refused() -> None:
    def number(choose: Chooser) -> nn.Module:
        return int(choose.flag("a"))  # type: ignore[return-value]  # the point of the test

    with pytest.raises(SpaceError, match=r"returns a int, expected a torch.nn.Module"):
        function_space(number).random(0)


def test_deciding_allocates_nothing_and_falls_back() -> None:
    seen: list[str] = []

    def layers(choose: Chooser) -> nn.Module:
        layer = nn.Linear(4, 2 + choose.integer("a", 0, 1))
        seen.append(layer.weight.device.type)
        return layer

    def reads_values(choose: Chooser) -> nn.Module:
        seen.append("call")
        rates = [float(rate) for rate in torch.linspace(0, 0.5, choose.integer("depth", 1, 3))]
        return nn.Sequential(*[nn.Dropout(rate) for rate in rates])

    function_space(layers).random(0)
    assert seen == ["meta"]
    seen.clear()
    reader = function_space(reads_values)
    assert reader.random(0) == reader.random(0)
    assert seen == ["call"] * 3  # the first once more for real, from then on for real only


def test_an_unsteady_space_is_refused() -> None:
    calls: list[int] = []

    def unsteady(choose: Chooser) -> nn.Module:
        calls.append(1)
        choose.flag(f"a{len(calls) % 2}")
        return linear()

    with pytest.raises(SpaceError, match="does not decide the same way twice"):
        function_space(unsteady).validate()


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((1, 8), 10, "space.input must be"),
        ((1, 0, 8), 10, "space.input must be"),
        ((1, 8, 8), 0, "num_classes must be"),
        ((1, 8, 8), True, "num_classes must be"),
    ],
)
def test_bad_tasks(shape: tuple[int, int, int], classes: int, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Tree(shape, classes)


def test_the_decorated_function_stays_callable() -> None:
    @space(input_shape=(1, 2, 2), num_classes=2)
    def named(choose: Chooser) -> nn.Module:
        """Doc."""
        return nn.Sequential(nn.Flatten(), nn.Linear(4, choose.one_of("a", [2, 3])))

    assert named.name == "named" and named.__doc__ == "Doc." and named.input_shape == (1, 2, 2)
    assert isinstance(named(ReplayChooser({"a": 2})), nn.Sequential)


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "spaces.md").read_text(), re.DOTALL)


def test_the_guides_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    function, split, cell, use = python_blocks()
    file = (ROOT / "studies" / "my_space.py").read_text()
    assert function == file[file.index("from torch") :] and len(file.splitlines()) < 30
    scope: dict[str, object] = {"__name__": "guide"}
    exec(split, scope)
    mlp = scope["Mlp"]
    assert isinstance(mlp, type) and issubclass(mlp, Space)
    mlp().validate()
    assert len(mlp()) == 3 + 9 + 27
    assert mlp((3, 4, 4), 5).build(mlp().random(0))(torch.zeros(1, 3, 4, 4)).shape == (1, 5)
    exec(cell, {})
    assert capsys.readouterr().out.splitlines()[1] == "|none~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|"
    exec(use, {})
    assert "stage1.kernel" in capsys.readouterr().out


def test_docstring_examples() -> None:
    for file in sorted((ROOT / "spaces").glob("*.py")):
        name = "hwnas.spaces" if file.stem == "__init__" else f"hwnas.spaces.{file.stem}"
        result = doctest.testmod(importlib.import_module(name))
        assert result.failed == 0, name


def test_public_names() -> None:
    assert sorted(hwnas.spaces.__all__) == hwnas.spaces.__all__
    assert all(hasattr(hwnas.spaces, name) for name in hwnas.spaces.__all__)


def test_import_and_deciding_need_no_torch() -> None:
    code = (
        "import sys; from hwnas.spaces import load_space\n"
        "m = load_space('mobile', input_shape=(1, 8, 8), num_classes=10); m.random(0); m.corners(); len(m)\n"
        "for name in ('nasbench201', 'fbnet'):\n"
        "    m = load_space(name); m.from_string(m.string_of(m.random(0))); m.size()\n"
        "heavy = {'torch', 'numpy', 'pandas', 'optuna'} & set(sys.modules); print(sorted(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
