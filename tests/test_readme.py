"""What the README shows is what works."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from hwnas.search.study_file import load_study_text
from hwnas.spaces import load_space

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_study_is_legal() -> None:
    (text,) = blocks("yaml")
    assert load_study_text(text).name == "my-study"


def test_the_space_builds(tmp_path: Path) -> None:
    (code,) = blocks("python")
    assert len(code.splitlines()) < 30
    path = tmp_path / "my_space.py"
    path.write_text(code)
    found = load_space("tiny_cnn", input_shape=None, num_classes=None, params={}, allow_code=path)
    assert found.size() == 3 + 9 + 27
    model = found.build(found.random(0))
    torch = pytest.importorskip("torch")
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"\b[A-Z]{4,}_[A-Z]+\b", README)


GROUPS = {"hwnas.meters", "hwnas.spaces"}
"""Entry points that plug-ins use, which are no modules or not only."""


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_modules_that_a_page_names_are_there(page: Path) -> None:
    for name in set(re.findall(r"\bhwnas(?:\.[a-z]\w*)+", page.read_text("utf-8"))) - GROUPS:
        place, rest = ROOT, name.split(".")
        module: list[str] = []
        while rest and ((place / rest[0]).is_dir() or (place / f"{rest[0]}.py").is_file()):
            place /= rest[0]
            module.append(rest.pop(0))
        found: object = import_module(".".join(module))
        for part in rest:
            assert hasattr(found, part), f"{name}: there is no '{part}'"
            found = getattr(found, part)


def test_links_and_pictures_are_there() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
