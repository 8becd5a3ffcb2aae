"""What the README shows is what works."""

from __future__ import annotations

import re
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


def test_links_and_pictures_are_there() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
