"""The reference's usual time outlives a process, and a broken file does not matter."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hwnas.profilers.reference import KEPT, WINDOW_S, ReferenceMemory


def test_the_fastest_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    first = ReferenceMemory(tmp_path / "cache" / "reference.json")
    assert first.usual_s is None
    for value in (2e-5, 1e-5, 3e-5):
        first.add(value)
    first.save()
    assert ReferenceMemory(tmp_path / "cache" / "reference.json").usual_s == 1e-5


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock on."""
    now = time.time()

    def move(seconds: float) -> None:
        nonlocal now
        now += seconds
        monkeypatch.setattr(time, "time", lambda: now)

    move(0.0)
    return move


def test_a_machine_that_became_slower_is_believed(tmp_path: Path, later: Callable[[float], None]) -> None:
    memory = ReferenceMemory(tmp_path / "reference.json")
    memory.add(1e-5)
    for _ in range(KEPT):
        later(WINDOW_S)
        memory.add(2e-5)
    assert memory.usual_s == 2e-5


def test_a_busy_quarter_of_an_hour_is_not(tmp_path: Path, later: Callable[[float], None]) -> None:
    memory = ReferenceMemory(tmp_path / "reference.json")
    memory.add(1e-5)
    for _ in range(1000):
        later(0.9)
        memory.add(2e-5)
    assert memory.usual_s == 1e-5


def test_one_lucky_time_in_many_does_not_count(tmp_path: Path, later: Callable[[float], None]) -> None:
    memory = ReferenceMemory(tmp_path / "reference.json")
    memory.add(1e-5)
    for _ in range(10):
        later(WINDOW_S)
        memory.add(2e-5)
    assert memory.usual_s == 2e-5


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": [[1]]}', '{"a": 3}', '{"a": [["x", "y"]]}', "\x00"])
def test_a_broken_file_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "reference.json"
    path.write_text(text)
    memory = ReferenceMemory(path)
    assert memory.usual_s is None
    memory.add(1e-5)
    memory.save()
    assert ReferenceMemory(path).usual_s == 1e-5


def test_old_and_absurd_times_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    memory = ReferenceMemory(path)
    memory.add(1e-5)
    memory.save()
    (key,) = json.loads(path.read_text())
    path.write_text(json.dumps({key: [[0, 1e-9], [1e18, 1e-9], [1e9, -1.0]]}))
    assert ReferenceMemory(path).usual_s is None


def test_a_place_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = ReferenceMemory(tmp_path / "file" / "reference.json")
    memory.add(1e-5)
    memory.save()
    assert memory.usual_s == 1e-5, "this process goes on with what it knows"
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and not (tmp_path / "file").read_text()


@pytest.mark.parametrize("jump_s", [-90_000.0, 90_000.0])
def test_after_a_jump_of_the_clock_the_reference_is_learned_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    memory = ReferenceMemory(tmp_path / "reference.json")
    memory.add(1e-5)
    memory.save()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + jump_s)
    again = ReferenceMemory(tmp_path / "reference.json")
    assert again.usual_s is None
    again.add(2e-5)
    assert again.usual_s == 2e-5
