"""Networks that torch compiles: where machine code comes from, what stops a compiler, what is told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from hwnas.profilers import LocalProfiler, fingerprint, get_runtime
from hwnas.profilers.runtimes import inductor
from hwnas.profilers.runtimes.aten_file import FORMAT, read_aten
from hwnas.profilers.runtimes.eager import TorchEager
from hwnas.spaces.errors import CandidateError, DeviceError


@pytest.fixture(params=["torch-compile", "torch-aoti"])
def name(request: pytest.FixtureRequest) -> str:
    if not get_runtime(request.param).available().ok:
        pytest.skip(f"{request.param} is not available")
    return str(request.param)


def small(path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 3))
    return TorchEager().convert(model, torch.zeros(1, 1, 8, 8), path).path


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch-compile", "torch-aoti"):
        monkeypatch.setenv("CXX", "no-such-compiler")
        told = get_runtime(name).available()
        assert not told.ok and "C++ compiler" in told.missing and "g++" in told.install
        assert fingerprint(name)["compiler"] == ""
        with pytest.raises(DeviceError, match="C\\+\\+ compiler"):
            LocalProfiler(name)
        monkeypatch.delenv("CXX")
        assert "compiler" not in fingerprint("torch")


def test_the_cache_is_closed_to_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = os.umask(0o002)  # as some systems have it: others of the group may write
    try:
        folder = inductor.cache_folder()
    finally:
        os.umask(before)
    assert folder.is_relative_to(tmp_path) and folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    assert not inductor.cache_folder().is_relative_to(tmp_path), "anybody may have put machine code there"
    folder.rmdir()
    folder.symlink_to(tmp_path)
    assert not inductor.cache_folder().is_relative_to(tmp_path)


@pytest.mark.parametrize("text", ['"); system("true', "a\\b", "a\nb", "ä", "x" * 201])
def test_texts_of_a_file_cannot_end_a_string(tmp_path: Path, text: str) -> None:
    x, call = {"value": "x"}, {"op": "aten.gelu.default", "kwargs": {"approximate": text}, "name": "v0"}
    graph = {"inputs": [[1, 1, 8, 8]], "calls": [{**call, "args": [x]}], "outputs": [{"value": "v0"}]}
    path = tmp_path / "a.aten"
    path.write_bytes(save({"c0": torch.ones(2)}, {"format": FORMAT, "graph": json.dumps(graph)}))
    with pytest.raises(CandidateError, match="no text is written"):
        read_aten(path)


def test_a_package_is_no_model_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt2").write_bytes(b"PK\x03\x04 a foreign shared library")
    with pytest.raises(CandidateError) as raised:
        get_runtime(name).load(tmp_path / "a.pt2")
    assert raised.value.code == "export"


def test_no_memory_is_told(name: str, tmp_path: Path) -> None:
    with LocalProfiler(name) as profiler, pytest.raises(DeviceError, match="compiles in the process"):
        profiler.memory(small(tmp_path / "a.aten"))


def compilers(mark: str) -> list[str]:
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path("/proc", entry, "environ").read_bytes():
                found.append(Path("/proc", entry, "comm").read_text().strip())
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_deadline_ends_the_compiler_too(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow-g++"
    slow.write_text('#!/bin/sh\ncase "$*" in *.cpp*) sleep 300;; *) exec g++ "$@";; esac\n')
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HWNAS_TEST_MARK", str(tmp_path))
    mark = f"HWNAS_TEST_MARK={tmp_path}"
    with LocalProfiler(name, deadline_s=30) as profiler:
        with pytest.raises(CandidateError) as raised:
            profiler.measure(small(tmp_path / "a.aten"))
        assert raised.value.code == "timeout"
        end = time.monotonic() + 5
        while compilers(mark) and time.monotonic() < end:
            time.sleep(0.05)
        assert not compilers(mark), "nothing of the compiler is left"


@pytest.mark.slow
def test_what_was_compiled_is_not_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = get_runtime("torch-aoti")
    if not runtime.available().ok:
        pytest.skip("torch-aoti is not available")
    path, x = small(tmp_path / "a.aten"), np.ones((1, 1, 8, 8), np.float32)
    first, graph = runtime.load(path)(x), runtime.executed_graph(path)
    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", None)
    np.testing.assert_array_equal(runtime.load(path)(x), first)
    assert runtime.executed_graph(path) == graph and graph.macs == 4 * 9 * 36 + 4 * 36 * 3
