"""`hwnas profile` on a torch module."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hwnas.profilers import get_runtime
from hwnas.profilers.golden import golden_model
from hwnas.search.branches import looks_at_values
from hwnas.search.cli import main
from hwnas.search.torch_module import TorchModule, convert
from hwnas.spaces.errors import CandidateError, UsageError

Call = Callable[..., tuple[int, str, str]]

CODE = """
import os, time
import torch
from torch import nn

NUMBER = 3
net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10))

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def wants(width):
    return nn.Linear(width, 1)

class Odd(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such luck")

def of_another_kind():
    return "a text"

class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        if self.scale > 1 and x.shape[1] == 1 and len(x) == 1:
            x = x * 2
        return torch.where(x.sum() > 0, x, -x)

class Looks(Decides):
    def forward(self, x):
        x = super().forward(x)
        if x.mean() > 0:  # by its values
            return x
        return -x

def dies():
    os.abort()

def hangs():
    time.sleep(600)
"""


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return code, told.out, told.err

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_a_module_on_two_devices(call: Call, code: Path) -> None:
    devices = ("--device", "torch", "--device", "onnxruntime")
    status, out, _ = call("profile", "mine:net", "--input", "1,8,8", "--allow-code", code, *devices, "--json")
    assert status == 0
    told = json.loads(out)
    assert told["model"] == "mine:net"
    assert [profile["device"] for profile in told["profiles"]] == ["torch:fp32", "onnxruntime:fp32"]
    assert all(profile["latency_ms"]["median"] > 0 and profile["size_mb"] > 0 for profile in told["profiles"])
    assert told["profiles"][0]["macs"] == 4 * 9 * 36 + 1440
    assert "torch" in told["profiles"][0]["fingerprint"]


def test_a_function_that_returns_a_module(code: Path, tmp_path: Path) -> None:
    assert convert(asked("mine:make", code, tmp_path)) == {"looks_at": ""}
    found = get_runtime("torch").executed_graph(tmp_path / "m.aten")
    assert found.macs == 640


def test_what_is_under_way_is_shown_on_a_terminal_and_gone_in_the_end(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    path = tmp_path / "model.onnx"
    path.write_bytes(golden_model())
    status, out, said = call("profile", path)
    assert status == 0 and "\x1b" not in out
    lines = said.split("\r\x1b[K")
    cut = ["onnxruntime:fp32: converting", "onnxruntime:fp32: measuring", "onnxruntime:fp32: reading its"]
    assert lines[:4] == ["", *cut], "cut to the width"
    assert len(lines) == 5 and lines[4].splitlines()[-1].startswith("next: "), "cleared before the talk"


@pytest.mark.parametrize(
    ("terminal", "term", "words", "shown"),
    [
        (True, "xterm", (), True),
        (True, "xterm", ("-q",), False),
        (True, "dumb", (), False),
        (False, "xterm", (), False),
    ],
)
def test_where_nobody_looks_nothing_is_shown(
    call: Call, monkeypatch: pytest.MonkeyPatch, terminal: bool, term: str, words: tuple[str, ...], shown: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", term)
    _, _, said = call(*words, "profile", "torch.nn:NoSuch", "--input", "1,8,8", "--device", "torch")
    assert (said.startswith("\r\x1b[Ktorch:fp32: converting\r\x1b[K")) == shown
    assert said.split("\x1b[K")[-1].startswith("module 'torch.nn' has no 'NoSuch'") and said.count("\x1b") == 2 * shown


LINE = next(number for number, line in enumerate(CODE.splitlines(), 1) if "by its values" in line)


def test_a_module_that_decides_by_values_is_told(
    call: Call, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--input", "1,8,8", "--allow-code", code)
    status, _, said = call("profile", "mine:Looks", *words)
    line = f"mine:Looks decides by values of its input (mine.py:{LINE}): its files keep the way that one random sample"
    assert status == 0 and said.count(line) == 1
    status, out, said = call("profile", "mine:Looks", *words, "--device", "torch")
    assert (status, out) == (65, "") and len(said.splitlines()) == 1
    assert f"export: it decides by values of its input (mine.py:{LINE}), which no file for torch can hold" in said


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("x.max().item() * x", True),
        ("x[:, : int(x.sum().abs())]", True),
        ("x if torch.equal(x, -x) else -x", True),
        ("x if 0.5 in x else -x", True),
        ("x * max(x.flatten().tolist())", True),
        ("x if self.limit > 1 else -x", False),
        ("x if self.limit.item() > x.shape[-1] else x[..., 1:]", False),
        ("torch.where(x > 0, x, -x)[torch.arange(len(x))]", False),
        ("x.reshape(x.size(0), -1) if x.numel() > 4 else x", False),
        ("x.unknown()", False),
    ],
)
def test_where_a_module_looks_at_values(body: str, seen: bool) -> None:
    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.limit = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = eval(body, {"torch": torch, "x": x, "self": self})
            return found

    model = Module()
    assert bool(looks_at_values(model, torch.rand(1, 2, 4, 4))) == seen
    assert model.training, "it is left as it was"


def test_an_installed_module(call: Call) -> None:
    status, out, _ = call("profile", "torch.nn:Flatten", "--input", "1,8,8", "--device", "torch", "--layers")
    assert status == 0 and "Reshape" in out


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("mine:nett", "--input", "1,8,8"), 2, "module 'mine' has no 'nett' (did you mean 'net'?)"),
        (("mine:net",), 2, "--input C,H,W"),
        (("mine:net", "--input", "8,8"), 2, "--input must be three whole numbers C,H,W, not '8,8'"),
        (("mine:net", "--input", "1,-8,8"), 2, "'1,-8,8'"),
        (("mine.net", "--input", "1,8,8"), 2, "no file 'mine.net'"),
        (("mine:Odd", "--input", "1,8,8"), 65, "mine:Odd: export: RuntimeError: no such luck"),
        (("mine:dies", "--input", "1,8,8"), 65, "mine:dies: crash:SIGABRT"),
    ],
)
def test_what_is_refused(call: Call, code: Path, words: tuple[str, ...], status: int, says: str) -> None:
    found, out, said = call("profile", *words, "--allow-code", code)
    assert (found, out) == (status, "") and says in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("minee:net", UsageError, "no module 'minee' is installed"),
        ("torch.nnn:Linear", UsageError, "no module 'torch.nnn' is installed"),
        ("mine:NUMBER", UsageError, "'mine:NUMBER' is a int"),
        ("mine:of_another_kind", UsageError, "gives a str, expected a torch.nn.Module"),
        ("mine:wants", CandidateError, "build: mine:wants: TypeError"),
    ],
)
def test_names_of_other_things(code: Path, tmp_path: Path, name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        convert(asked(name, code, tmp_path))


def asked(name: str, code: Path, folder: Path) -> dict[str, Any]:
    """Returns a request to the converter."""
    return {
        "name": name,
        "allow_code": str(code),
        "input": [1, 8, 8],
        "runtime": "torch",
        "precision": "fp32",
        "path": str(folder / "m.aten"),
    }


def test_a_file_runs_only_when_it_is_allowed(
    call: Call, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code.write_text(f"{CODE}\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    status, _, said = call("profile", "mine:net", "--input", "1,8,8")
    assert status == 2 and "--allow-code" in said and not (tmp_path / "ran").exists()
    (tmp_path / "broken.py").write_text("1 / 0\n")
    status, _, said = call("profile", "broken:net", "--input", "1,8,8", "--allow-code", tmp_path / "broken.py")
    assert status == 2 and f"{tmp_path / 'broken.py'}:1: ZeroDivisionError" in said


def test_a_shape_is_not_for_files(call: Call, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"")
    status, _, said = call("profile", tmp_path / "model.onnx", "--input", "1,8,8")
    assert status == 2 and "--input is for torch modules" in said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("net.py", "give the name of the torch module in it: net:ATTRIBUTE --input C,H,W --allow-code net.py"),
        ("net.py:make", "net:make --input C,H,W --allow-code net.py"),
        ("model.ncnn.param", "give the ONNX file, with --device ncnn"),
        ("model.xml", "give the ONNX file, with --device openvino"),
        ("model.pth", "package.module:attribute"),
        ("model.keras", ".tflite"),
        ("model.tflite", "onnxruntime does not run .tflite files such as 'model.tflite': give --device litert"),
        ("model.jpg", "give an ONNX file"),
        ("run", "'run' is a folder: give a file in it, e.g. run/artifacts/a1/model.onnx"),
        ("empty", "e.g. empty/model.onnx"),
    ],
)
def test_what_to_give_instead(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "artifacts" / "a1").mkdir(parents=True)
    for name in ("model.ncnn.param", "model.xml", "model.pth", "model.keras", "model.jpg", "net.py"):
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "run" / "artifacts" / "a1" / "model.onnx").touch()
    (tmp_path / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(64))
    status, out, said = call("profile", given)
    assert (status, out) == (2, "") and says in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope.py", "--allow-code: no file 'nope.py'"),
        ("mien.py", "--allow-code: no file 'mien.py' (did you mean 'mine.py'?)"),
        ("no/mine.py", "--allow-code: no file 'no/mine.py'"),
        ("mine.txt", "--allow-code: 'mine.txt' is not Python: give a file whose name ends in .py"),
        (".", "--allow-code: '.' is a folder"),
    ],
)
def test_a_wrong_file_of_code(
    call: Call, code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text(CODE)
    for words in (("profile", "other:net", "--input", "1,8,8"), ("run", "study.yaml"), ("check", "study.yaml")):
        status, out, said = call(*words, "--allow-code", name)
        assert (status, out) == (2, "") and said.startswith(says) and len(said.splitlines()) == 1
    status, _, said = call("profile", "other:net", "--input", "1,8,8", "--allow-code", code)
    assert status == 2 and "no module 'other' is installed; that of --allow-code mine.py is 'mine': mine:net" in said


def test_a_conversion_that_hangs_is_killed(code: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    with TorchModule("mine:hangs", (1, 8, 8), code, deadline_s=3.0) as module:
        with pytest.raises(CandidateError) as raised:
            module.convert(get_runtime("torch"), "fp32", folder)
        assert raised.value.code == "timeout" and os.listdir(folder) == []


def test_a_file_of_the_runtimes_own_is_profiled(call: Call, code: Path, tmp_path: Path) -> None:
    with TorchModule("mine:net", (1, 8, 8), code) as module:
        file = module.convert(get_runtime("torch"), "fp32", tmp_path)
    assert file == tmp_path / "module.aten"
    status, out, _ = call("profile", file, "--device", "torch", "--json")
    assert status == 0 and json.loads(out)["profiles"][0]["macs"] == 4 * 9 * 36 + 1440
