"""A file is made once, and found again only for the same content, runtime, precision and samples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hwnas.profilers import ConversionCache, get_runtime
from hwnas.spaces.errors import CandidateError

RUNTIME = get_runtime("onnxruntime")


class Maker:
    def __init__(self, path: Path, text: str = "made") -> None:
        self.path, self.text, self.calls = path, text, 0

    def __call__(self) -> None:
        self.calls += 1
        self.path.write_text(self.text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights and all")
    return path


def fetch(cache: ConversionCache, source: Path, make: Maker, precision: str = "int8", value: float = 0.0) -> bool:
    return cache.fetch(RUNTIME, source, make.path, precision, torch.full((2, 1, 4, 4), value), make)


def test_what_was_made_is_not_made_again(tmp_path: Path, source: Path) -> None:
    cache, make = ConversionCache(tmp_path / "cache"), Maker(tmp_path / "model.int8.onnx")
    assert [fetch(cache, source, make) for _ in range(3)] == [False, True, True]
    assert make.calls == 1 and make.path.read_text() == "made"
    other = Maker(tmp_path / "elsewhere.onnx")
    assert fetch(ConversionCache(tmp_path / "cache"), source, other) and other.path.read_text() == "made"


def test_another_content_or_precision_is_made(tmp_path: Path, source: Path) -> None:
    cache, make = ConversionCache(tmp_path / "cache"), Maker(tmp_path / "model.int8.onnx")
    fetch(cache, source, make)
    assert not fetch(cache, source, make, value=1.0), "other samples give other ranges"
    assert not fetch(cache, source, make, precision="fp32")
    assert fetch(cache, source, make, precision="fp32", value=1.0), "samples do not matter to fp32"
    source.write_bytes(b"other weights")
    assert not fetch(cache, source, make)


def test_what_fails_is_not_kept(tmp_path: Path, source: Path) -> None:
    cache, calls = ConversionCache(tmp_path / "cache"), []

    def make() -> None:
        calls.append(1)
        raise CandidateError("export", "no such operator")

    for _ in range(2):
        with pytest.raises(CandidateError):
            cache.fetch(RUNTIME, source, tmp_path / "model.x", "fp32", torch.zeros(1), make)
    assert len(calls) == 2


def test_the_oldest_go_when_there_is_too_much(tmp_path: Path, source: Path) -> None:
    cache = ConversionCache(tmp_path / "cache", most_bytes=250)
    for place in range(3):
        make = Maker(tmp_path / "model.int8.onnx", text="x" * 100)
        fetch(cache, source, make, value=float(place))
        for kept in cache.folder.iterdir():
            os.utime(kept, (kept.stat().st_mtime - 10,) * 2)
    assert len(list(cache.folder.iterdir())) == 2
    assert not fetch(cache, source, make, value=0.0), "the first is gone"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_text("")
    cache, make = ConversionCache(tmp_path / "file" / "cache"), Maker(tmp_path / "model.int8.onnx")
    assert not fetch(cache, source, make) and not fetch(cache, source, make)
    assert make.calls == 2 and make.path.read_text() == "made"
