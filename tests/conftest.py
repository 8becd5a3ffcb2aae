"""A study without torch and without a device: everything of the driver's side is real, the children are not."""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from hwnas.profilers import Graph, Node
from hwnas.search.metrics import Reading

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="hwnas-tests-cache-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# A shell without job control starts background jobs with SIGINT ignored, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

Study = Callable[..., Path]
CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONWARNINGS", "CI", "NO_COLOR")}


class Hwnas(Protocol):
    """Runs the command line in a process of its own."""

    def __call__(
        self, *words: object, cwd: Path, timeout: float = 240.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def hwnas() -> Hwnas:
    def call(
        *words: object, cwd: Path, timeout: float = 240.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hwnas", *map(str, words)]
        return subprocess.run(
            command, cwd=cwd, env={**CLEAN, **(env or {})}, capture_output=True, text=True, timeout=timeout
        )

    return call


@pytest.fixture(scope="session")
def study_file() -> Study:
    """Writes a small study file; keyword arguments replace its sections."""

    def write(folder: Path, **sections: object) -> Path:
        study: dict[str, object] = {
            "version": 1,
            "name": "tiny",
            "space": {"use": "mobile", "params": {"width": [0.25, 0.5], "stage*.kernel": 3, "stage*.expand": [2, 3]}},
            "data": {"use": "digits"},
            "quality": {"rungs": [{"epochs": 1}], "seeds": 1},
            "devices": {"cpu": {"runtime": "onnxruntime"}},
            "objectives": [{"metric": "top1"}, {"metric": "macs"}],
            "search": {"trials": 6, "seed": 0, "sampler": "tpe"},
            "verify": {"finalists": 2},
        }
        study.update(sections)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "tiny.yaml"
        lines = [f"{key}: {json.dumps(value)}" for key, value in study.items() if value is not None]  # JSON is YAML
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def install_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Installs a package with a meter for this process and its children: its code, and its entry point."""

    def install(code: str, entry: str) -> None:
        name = entry.partition("= ")[2].partition(":")[0]
        folder = tmp_path / "site"
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[hwnas.meters]\n{entry}\n")
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
        monkeypatch.setitem(CLEAN, "PYTHONPATH", os.environ["PYTHONPATH"])
        monkeypatch.syspath_prepend(folder)

    return install


@pytest.fixture
def cpu_watts(install_meter: Callable[[str, str], None]) -> None:
    """Installs the meter of `cpu_watts.py`."""
    install_meter(Path(__file__).with_name("cpu_watts.py").read_text(), "cpuwatts = cpu_watts:CpuWatts")


def chance(*words: object) -> float:
    """Returns a number of [0, 1) that depends on the words alone."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:6], "big") / 2**48


class FakeChild:
    """Answers like a worker, from hashes of the architecture."""

    def __init__(self, folder: Path, delay_s: float = 0.0) -> None:
        self.folder = folder
        self.delay_s = delay_s
        self.pid: int | None = None
        self.calls: list[str] = []

    def call(self, request: Mapping[str, Any], deadline_s: float) -> dict[str, Any]:
        self.pid = os.getpid()
        self.calls.append(request["do"])
        time.sleep(self.delay_s)
        answer: dict[str, Any] = getattr(self, request["do"])(request)
        return answer

    def describe(self, request: Mapping[str, Any]) -> dict[str, Any]:
        told = {"name": "fake", "digest": "0" * 64, "train": 10, "validation": 100, "mean": [0.0], "std": [1.0]}
        return {**told, "input": [1, 8, 8], "num_classes": 10}

    def prepare(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._files(Path(request["model"]), Path(request["probe"]))
        size = chance("size", request["arch"])
        computed = {"params": int(1e4 * size) + 1, "macs": int(1e6 * size) + 1, "peak_memory_mb": 0.1, "size_mb": 0.5}
        return {"computed": computed, "uncounted": [], "seconds": {"build": 0.1}}

    def score(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {"score": chance("score", request["arch"]), "seconds": 0.1}

    def train(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request.get("weights"):
            Path(request["weights"]).write_bytes(b"weights")
        correct = int(100 * chance("top1", request["arch"]))
        return {"correct": correct, "total": 100, "seconds": 0.1, "losses": [1.0] * request["epochs"]}

    def export(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._files(Path(request["model"]), Path(request["probe"]))
        return {"size_mb": 0.5}

    def warm(self, request: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def part(self, request: Mapping[str, Any]) -> dict[str, Any]:
        np.save(request["inputs"], np.zeros((20, 1, 8, 8), np.float32))
        np.save(request["labels"], np.arange(20) % 10)
        return {"n": 20}

    def _files(self, model: Path, probe: Path) -> None:
        model.write_bytes(b"model")
        np.save(probe.with_name(f"{probe.name}.x.npy"), np.ones((4, 1, 8, 8), np.float32))
        np.save(probe.with_name(f"{probe.name}.y.npy"), np.ones((4, 10), np.float32))

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def close(self) -> None:
        self.pid = None

    def __enter__(self) -> FakeChild:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class FakeDevice:
    """Has a latency for every architecture, always the same."""

    predicts_only = False
    begun_with = None
    gives_outputs = True
    runtime = "onnxruntime"
    precision = "fp32"

    def __init__(self, name: str, spec: object, cost_model: object, folder: Path, quiet: object, *how: object) -> None:
        self.name, self.folder = name, folder
        self.metric = f"latency_ms@{name}"

    def begin(self, *how: object) -> None: ...

    def load(self, arch_ids: object) -> None: ...

    def fingerprint(self) -> dict[str, object]:
        return {"cpu": "fake"}

    def file(self, model: Path) -> Path:
        return model

    def graph(self, model: Path) -> Graph:
        node = Node(f"of {model.parent.name}", "Conv", "", ((1, 1, 8, 8),), ((1, 4, 8, 8),), "float32", macs=2304)
        return Graph((node,), (), "fake")

    def predict(self, graph: object) -> dict[str, Reading]:
        return {}

    def knows(self, arch_id: str) -> bool:
        return False

    def measure(
        self, arch_id: str, model: Path, graph: object = None, stem: str = "", **how: object
    ) -> dict[str, Reading]:
        value = 1.0 + chance("latency", arch_id)
        return {self.metric: Reading(value, 0.99 * value, 1.01 * value)}

    def memory(self, arch_id: str) -> dict[str, Reading]:
        return {}

    def outputs(self, model: Path, inputs: Path) -> Any:
        return np.ones((len(np.load(inputs)), 10), np.float32)

    def close(self) -> None: ...


@pytest.fixture
def fake_machine(monkeypatch: pytest.MonkeyPatch) -> type[FakeChild]:
    """Gives studies fake children and devices for the length of a test; returns the child's class, to be changed."""

    class Child(FakeChild):
        """One class for each test, so that a test may change it."""

    def worker(self: Any, slot: int) -> FakeChild:
        child: FakeChild = self.workers.setdefault(slot, Child(self.folder))
        return child

    monkeypatch.setattr("hwnas.search.evaluation.Bench.worker", worker)
    monkeypatch.setattr("hwnas.search.latency.Device", FakeDevice)
    return Child


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, hwnas: Hwnas, study_file: Study) -> Path:
    """A real study, run to its end by the command line: its run folder. Tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    path = study_file(
        folder,
        objectives=[{"metric": "top1"}, {"metric": "latency_ms@cpu"}],
        limits=["macs <= 45000", "latency_ms@cpu <= 50"],
        search={"trials": 8, "seed": 1, "sampler": "random"},
    )
    done = hwnas("run", path, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    (folder / "stdout.json").write_text(done.stdout)
    return folder / "runs" / "tiny"


def leftovers(words: Sequence[str]) -> list[int]:
    """Returns the processes whose command line has all the words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if line and all(word in line for word in words):
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="session")
def children_of() -> Callable[[Path], list[int]]:
    """Returns a function: process ids of the workers of a run folder that are still there."""
    return lambda folder: leftovers(["hwnas.search.worker", str(folder)])
