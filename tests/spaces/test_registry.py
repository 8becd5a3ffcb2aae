from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from hwnas.spaces import FunctionSpace, Mobile, builtin_names, load_space, registry
from hwnas.spaces.errors import SpaceError

MY_SPACE = Path(__file__).parents[2] / "studies" / "my_space.py"

OWN = """
import builtins
builtins.hwnas_runs = getattr(builtins, "hwnas_runs", 0) + 1
from hwnas.spaces import Space
from torch import nn

class Own(Space):
    name = "own"
    def _decide(self, choose):
        choose.flag("a")
    def build(self, architecture):
        return nn.Linear(1, 1)

class Other(Own):
    name = "other"
"""


def write(folder: Path, text: str, name: str = "own.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_built_in() -> None:
    assert builtin_names() == ("fbnet", "mobile", "nasbench201")
    mobile = load_space("mobile", input_shape=(3, 32, 32), num_classes=4, params={"width": 0.5})
    assert isinstance(mobile, Mobile) and mobile.input_shape == (3, 32, 32) and mobile.num_classes == 4
    assert mobile.random(0).as_dict()["width"] == 0.5


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("moble", r"unknown space 'moble' \(did you mean 'mobile'\?\); a space of your own: --allow-code FILE.py"),
        ("os:system", "unknown space 'os:system'"),
        ("../x", "unknown space"),
        ("a\nb", r"unknown space 'a\\nb'"),
        ("", "unknown space"),
    ],
)
def test_unknown_names(use: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message) as caught:
        load_space(use, input_shape=(1, 8, 8), num_classes=2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "classes", "params", "message"),
    [
        (None, 10, {}, "needs space.input"),
        ((1, 8, 8), None, {}, "needs space.num_classes"),
        ((1, 4, 8), 10, {}, "8 to 512 pixels"),
        ((1, 8, 1024), 10, {}, "8 to 512 pixels"),
        ((1, 8, 8), 10, {"stages*.kernel": 3}, "no knob matches 'stages"),
        ((1, 8, 8), 10, {"stage*.kernel": [3, 9]}, r"'stage1.kernel' cannot be 9; allowed: one of \[3, 5, 7\]"),
        ((1, 8, 8), 10, {"stage*.depth": [0, 2]}, "'stage1.depth' cannot be 0"),
    ],
)
def test_bad_use_of_mobile(
    shape: tuple[int, int, int] | None, classes: int | None, params: dict[str, int], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        load_space("mobile", input_shape=shape, num_classes=classes, params=params)


def test_a_users_function() -> None:
    tiny = load_space("tiny_cnn", allow_code=MY_SPACE, params={"depth": [1, 2]})
    assert isinstance(tiny, FunctionSpace) and tiny.input_shape == (1, 8, 8)
    assert tiny.size() == 2 * (6 + 36)
    assert load_space("tiny_cnn", allow_code=MY_SPACE).size() == 2 * (6 + 36 + 216)
    assert load_space("mobile", input_shape=(1, 8, 8), num_classes=2, allow_code=MY_SPACE).name == "mobile"
    with pytest.raises(SpaceError, match=r"is made for \[1, 8, 8\], not \[1, 9, 9\]"):
        load_space("tiny_cnn", input_shape=(1, 9, 9), allow_code=MY_SPACE)
    with pytest.raises(SpaceError, match="10 classes, not 3"):
        load_space("tiny_cnn", num_classes=3, allow_code=MY_SPACE)
    with pytest.raises(SpaceError, match=r"did you mean 'tiny_cnn'"):
        load_space("tiny_cn", allow_code=MY_SPACE)


def test_a_users_classes_and_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    monkeypatch.setattr(builtins, "hwnas_runs", 0, raising=False)
    path = write(tmp_path, OWN)
    for name in ("own", "other", "own"):
        assert load_space(name, input_shape=(1, 1, 1), num_classes=2, allow_code=path).name == name
    assert vars(builtins)["hwnas_runs"] == 1
    with pytest.raises(SpaceError, match="needs space"):
        load_space("own", allow_code=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no space"),
        ("def f(:", r"SyntaxError: .* \(line 1\)"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import no_such_module", "ModuleNotFoundError"),
        (OWN.replace('"own"', '"mobile"'), "has the name of a built-in space"),
        (OWN.replace('"own"', '"a b"'), "'a b' is not legal"),
        (OWN.replace('choose.flag("a")', "pass"), "no choice"),
        (OWN.replace('choose.flag("a")', "choose.flog()"), "AttributeError while deciding"),
        (OWN.replace('name = "own"', 'name = "own"\n    def __init__(self): pass'), "TypeError while making it"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    before = {name for name in sys.modules if name.startswith("hwnas_code")}
    with pytest.raises(SpaceError, match=message) as caught:
        load_space("own", input_shape=(1, 1, 1), num_classes=2, allow_code=write(tmp_path, text))
    assert "\n" not in str(caught.value)
    if "no choice" not in message:
        assert len({name for name in sys.modules if name.startswith("hwnas_code")} - before) <= 1


def test_files_that_are_none(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "missing.py", "is not a file"),
        (tmp_path, "is not a file"),
        (write(tmp_path, OWN, "own.txt"), "is not a .py file"),
    ]:
        with pytest.raises(SpaceError, match=message):
            load_space("own", allow_code=path)


def test_plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("plugged", "hwnas.spaces:Mobile", registry.GROUP),
        EntryPoint("broken", "no_such_module:Space", registry.GROUP),
        EntryPoint("wrong", "json:dumps", registry.GROUP),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == registry.GROUP else [])
    assert isinstance(load_space("plugged", input_shape=(1, 8, 8), num_classes=2), Mobile)
    with pytest.raises(SpaceError, match=r"plug-in 'broken' \(no_such_module:Space\): ModuleNotFoundError"):
        load_space("broken")
    with pytest.raises(SpaceError, match="is a function, expected a Space"):
        load_space("wrong")
    with pytest.raises(SpaceError, match="did you mean 'plugged'"):
        load_space("pluged")
