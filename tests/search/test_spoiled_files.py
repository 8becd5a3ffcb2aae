"""Every spoiled study file: exit code 2, one line, the right place, in under a second."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hwnas.search.study import Study
from hwnas.search.study_file import load_study_text
from hwnas.spaces.errors import StudyFileError

ROOT = Path(__file__).parents[2]


def _corpus() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spoiled_corpus", ROOT / "benchmarks" / "spoiled_corpus.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CORPUS = _corpus()


def test_corpus_is_large_and_its_base_is_legal() -> None:
    names = [spoiled.name for spoiled in CORPUS.SPOILED]
    assert len(names) >= 40
    assert len(set(names)) == len(names)
    assert len({spoiled.content for spoiled in CORPUS.SPOILED}) == len(names)
    assert load_study_text(CORPUS.GOOD).name == "kws-edge"


@pytest.mark.usefixtures("fake_machine")
@pytest.mark.parametrize("spoiled", CORPUS.SPOILED, ids=lambda spoiled: spoiled.name)
def test_spoiled_file(spoiled: Any, tmp_path: Path) -> None:
    path = tmp_path / spoiled.name
    path.write_bytes(spoiled.content)
    start = time.process_time()
    with pytest.raises(StudyFileError) as caught:
        Study.from_yaml(path, folder=tmp_path / "run").check()
    seconds = time.process_time() - start
    line = str(caught.value)
    assert caught.value.exit_code == 2
    assert line.isprintable(), "one line, nothing that a terminal could act on"
    key = f"{spoiled.key}: " if spoiled.key else ""
    assert line.startswith(f"{path}:{spoiled.line}:{spoiled.column}: {key}")
    assert spoiled.says in line
    assert len(line) < len(str(path)) + 300
    assert seconds < 1
