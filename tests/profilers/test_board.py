"""The board's side: one at a time, and gone when the other side is."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hwnas.profilers.golden import golden_model
from hwnas.profilers.hosts.bundle import bundle
from hwnas.profilers.hosts.lease import hold_lease
from hwnas.profilers.hosts.remote import RemoteProfiler
from hwnas.profilers.hosts.wire import Request
from hwnas.spaces.errors import CandidateError, DeviceError

HERE = Path(__file__).parent
BOARD = [sys.executable, "-P", "-m", "hwnas.profilers.hosts.board"]


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return folder


def fake(log: Path, work_s: float) -> list[str]:
    return [sys.executable, str(HERE / "fake_work.py"), str(log), str(work_s)]


def ask(command: list[str], **changes: object) -> subprocess.Popen[bytes]:
    """Starts a board and sends it a request, whose answer is not waited for."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    request = Request("0" * 32, "fingerprint", **changes)  # type: ignore[arg-type]  # of the test
    assert process.stdin
    process.stdin.write(request.frame())
    process.stdin.flush()
    return process


def begun(log: Path, times: int = 1) -> None:
    end = time.monotonic() + 20
    while not log.exists() or log.read_text().count("begin") < times:
        assert time.monotonic() < end, "the work has not begun"
        time.sleep(0.01)


def finish(process: subprocess.Popen[bytes], kill: bool = False) -> bytes:
    if kill:
        process.kill()
    assert process.stdout and process.stdin
    answer = process.stdout.read()
    for stream in (process.stdin, process.stdout):
        stream.close()
    process.wait(10)
    return answer


@pytest.mark.parametrize("death", ["client", "board"])
def test_the_lease_is_free_after_a_death(tmp_path: Path, death: str) -> None:
    log = tmp_path / "log"
    first = ask(fake(log, 60.0))
    begun(log)
    died: list[float] = []

    def die() -> None:
        died.append(time.monotonic())
        if death == "client":
            assert first.stdin
            first.stdin.close()  # all that a board sees of a client that is gone
        else:
            first.kill()

    timer = threading.Timer(0.5, die)
    timer.start()
    with hold_lease("board", 20.0):
        freed = time.monotonic()
    timer.join()
    assert 0 < freed - died[0] < 2.0
    finish(first, kill=True)


def test_a_sign_of_life_comes_at_once(tmp_path: Path) -> None:
    process = ask(fake(tmp_path / "log", 60.0), alive_s=60.0)
    assert process.stdout
    assert select.select([process.stdout], [], [], 30.0)[0], "not only after 60 s"
    assert os.read(process.stdout.fileno(), 10) == b" "
    finish(process, kill=True)


def test_a_wait_has_an_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = ask(fake(log, 60.0))
    begun(log)
    start = time.monotonic()
    told = json.loads(finish(ask(fake(log, 0.0), lease_wait_s=0.5)))
    assert told["error"] == "Busy" and "device_busy" in told["message"]
    assert time.monotonic() - start < 30
    finish(first, kill=True)


def test_a_board_ends_by_itself_when_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; import hwnas.profilers.hosts.board as board; board.SPARE_S = 0.2; "
        "sys.argv[0] = 'x'; sys.path.insert(0, sys.argv.pop(1)); import fake_work; board.main(fake_work.work)"
    )
    log = tmp_path / "log"
    process = ask([sys.executable, "-c", code, str(HERE), str(log), "60"], deadline_s=0.3, lease_wait_s=0.5)
    start = time.monotonic()
    assert b'"ok"' not in finish(process)
    assert time.monotonic() - start < 30


def children_of(pid: int) -> list[int]:
    """Process ids of the children; kept up by /proc (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def test_nothing_measures_on_after_a_board_was_killed(heavy: Path) -> None:
    model = heavy.read_bytes()
    process = subprocess.Popen(BOARD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    request = Request("0" * 32, "measure", model_bytes=len(model), model_sha256=hashlib.sha256(model).hexdigest())
    assert process.stdin
    process.stdin.write(request.frame() + model)
    process.stdin.flush()
    end = time.monotonic() + 30
    while not (children := children_of(process.pid)):
        assert time.monotonic() < end, "no child was started"
        time.sleep(0.05)
    time.sleep(1.0)
    start = time.monotonic()
    finish(process, kill=True)
    while any(Path("/proc", str(child)).exists() for child in children):
        assert time.monotonic() - start < 2.0
        time.sleep(0.01)
    with hold_lease("board", 1.0):
        pass


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "golden.onnx"
    path.write_bytes(golden_model())
    with RemoteProfiler(BOARD, "here", budget_s=0.05, attempts=1, backoff_s=()) as profiler:
        assert profiler.measure(path).median_ms > 0
    process = ask(BOARD)
    assert process.stdin
    process.stdin.close()
    process.wait(10)
    assert process.stdout
    process.stdout.close()
    assert not list(tmp_path.glob("hwnas-board-*"))


def test_the_file_of_the_runner_is_always_the_same_and_works_alone(tmp_path: Path) -> None:
    bundle.cache_clear()
    first = bundle()
    bundle.cache_clear()
    assert bundle() == first
    path = tmp_path / "board.pyz"
    path.write_bytes(first)
    model = tmp_path / "golden.onnx"
    model.write_bytes(golden_model())
    with RemoteProfiler([sys.executable, "-P", str(path)], "here", budget_s=0.05, attempts=1) as profiler:
        assert profiler.measure(model).median_ms > 0


def test_a_long_deadline_is_cut_to_what_a_board_accepts(tmp_path: Path) -> None:
    with RemoteProfiler(BOARD, "here", deadline_s=1e6, backoff_s=()) as profiler:
        assert profiler.fingerprint()["cores"] >= 1


def test_prints_do_not_reach_the_channel(tmp_path: Path) -> None:
    code = (
        "import hwnas.profilers.hosts.board as board, os\n"
        "def work(*all):\n print('noise'); os.write(1, b'more noise'); return {'cpu': 'x'}\n"
        "board.main(work)"
    )
    with RemoteProfiler([sys.executable, "-c", code], "here", backoff_s=()) as profiler:
        assert profiler.fingerprint()["cpu"] == "x"


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        ("CandidateError('export', 'no')", CandidateError, "export: no"),
        ("DeviceError('no runtime')", DeviceError, "here: no runtime"),
        ("ValueError('a bug')", DeviceError, "ValueError: a bug"),
        ("OSError(28, 'No space left on device')", OSError, "No space left"),
        ("DeviceError('x' * (2 << 20))", DeviceError, "here: xxx"),
    ],
)
def test_what_goes_wrong_there_is_told(raised: str, kind: type[Exception], says: str) -> None:
    code = (
        "import hwnas.profilers.hosts.board as board\nfrom hwnas.spaces.errors import *\n"
        f"def work(*all): raise {raised}\nboard.main(work)"
    )
    with RemoteProfiler([sys.executable, "-c", code], "here", backoff_s=()) as profiler:
        with pytest.raises(kind, match=says) as told:
            profiler.fingerprint()
        assert "\n" not in str(told.value)


def crashing(tmp_path: Path, golden_too: bool, conditions: str = "{}") -> list[str]:
    """A board on which every model crashes, or every one but the golden network, which takes a millisecond."""
    code = (
        "import hwnas.profilers.hosts.board as board\nfrom hwnas.spaces.errors import CandidateError\n"
        "from hwnas.profilers.golden import golden_model\n"
        "def work(request, model, samples):\n"
        f" if {golden_too} or model.read_bytes() != golden_model(): raise CandidateError('crash:SIGSEGV', 'x')\n"
        " told = {'blocks': [[1.0]], 'disturbance': [], 'warmup': 0, 'process': 1}\n"
        f" return {{**told, 'conditions': {conditions}, 'fingerprint': {{}}}}\n"
        "board.main(work)"
    )
    return [sys.executable, "-c", code]


def another_model(tmp_path: Path) -> Path:
    import onnx

    model = onnx.load_model_from_string(golden_model())
    model.doc_string = "another"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_crash_is_the_candidates_when_the_golden_network_runs(tmp_path: Path) -> None:
    with RemoteProfiler(crashing(tmp_path, False), "here", backoff_s=()) as profiler:
        for _ in range(2):
            with pytest.raises(CandidateError, match="crash:SIGSEGV"):
                profiler.measure(another_model(tmp_path))


@pytest.mark.parametrize(("golden_ms", "conditions"), [(1.05, "{}"), (0.95, "{}"), (2.0, "{'throttled': True}")])
def test_a_crash_is_the_candidates_when_the_golden_network_is_as_fast_as_ever_or_disturbed(
    tmp_path: Path, golden_ms: float, conditions: str
) -> None:
    board = crashing(tmp_path, False, conditions)
    with (
        RemoteProfiler(board, "here", backoff_s=(), golden_ms=golden_ms) as profiler,
        pytest.raises(CandidateError, match="crash:SIGSEGV"),
    ):
        profiler.measure(another_model(tmp_path))


@pytest.mark.parametrize("golden_ms", [0.8, 1.2])
def test_a_crash_is_the_devices_when_the_golden_network_takes_another_time(tmp_path: Path, golden_ms: float) -> None:
    with (
        RemoteProfiler(crashing(tmp_path, False), "here", backoff_s=(), golden_ms=golden_ms) as profiler,
        pytest.raises(DeviceError, match=rf"takes 1 ms, and took {golden_ms} ms when .*quarantine"),
    ):
        profiler.measure(another_model(tmp_path))


def test_a_crash_is_the_devices_when_the_golden_network_crashes_too(tmp_path: Path) -> None:
    with (
        RemoteProfiler(crashing(tmp_path, True), "here", backoff_s=(0.01,)) as profiler,
        pytest.raises(DeviceError, match=r"golden network does not run either after 'crash:SIGSEGV: x'; .*quarantine"),
    ):
        profiler.measure(another_model(tmp_path))


def answering_by_turns(tmp_path: Path, *turns: str) -> list[str]:
    """A board that does the n-th word of `turns` with the n-th request, and the last with all further ones."""
    code = (
        "import hwnas.profilers.hosts.board as board, base64, os, pathlib\n"
        "from hwnas.spaces.errors import CandidateError\n"
        f"turns, count = {turns!r}, pathlib.Path({str(tmp_path / 'turns')!r})\n"
        "def work(request, model, samples):\n"
        " turn = int(count.read_text()) if count.exists() else 0\n"
        " count.write_text(str(turn + 1))\n"
        " what = turns[min(turn, len(turns) - 1)]\n"
        " if what == 'crash': raise CandidateError('crash:SIGSEGV', 'x')\n"
        " if what == 'gone': os._exit(1)\n"
        " shape = [request.shape[0], int(what)]\n"
        " return {'shape': shape, 'data': base64.b64encode(bytes(4 * shape[0] * shape[1])).decode()}\n"
        "board.main(work)"
    )
    return [sys.executable, "-c", code]


def test_a_device_that_is_lost_while_the_golden_network_runs(tmp_path: Path) -> None:
    board = answering_by_turns(tmp_path, "crash", "gone")
    with (
        RemoteProfiler(board, "here", backoff_s=(0.01,)) as profiler,
        pytest.raises(DeviceError, match=r"here: the runner ended without an answer .*quarantine"),
    ):
        profiler.measure(another_model(tmp_path))
    assert (tmp_path / "turns").read_text() == "3", "the model, the golden network, and the model once more"


def test_outputs_of_another_shape_are_asked_for_again(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((100, 1, 2, 2), np.float32))
    with RemoteProfiler(answering_by_turns(tmp_path, "10", "11", "10"), "here", backoff_s=(0.01,)) as profiler:
        assert profiler.run(another_model(tmp_path), tmp_path / "x.npy").shape == (100, 10)
    (tmp_path / "turns").unlink()
    with (
        RemoteProfiler(answering_by_turns(tmp_path, "10", "11"), "here", backoff_s=(0.01,)) as profiler,
        pytest.raises(
            DeviceError, match=r"bad_result: outputs of shape \(11,\) after outputs of shape \(10,\); .*quar"
        ),
    ):
        profiler.run(another_model(tmp_path), tmp_path / "x.npy")


def test_the_lock_of_a_removed_file_keeps_nobody_out(runtime_folder: Path) -> None:
    with hold_lease("board", 1.0):
        (runtime_folder / "hwnas-board.lock").unlink()
        with hold_lease("board", 1.0):
            pass


@pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 100, "-x"])
def test_strange_names_of_devices(name: str) -> None:
    with pytest.raises(DeviceError), hold_lease(name, 0.1):
        pass


def test_a_folder_of_someone_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / f"hwnas-{os.getuid()}").symlink_to("/etc")
    with pytest.raises(DeviceError, match="lease"), hold_lease("board", 0.1):
        pass


def lease_benchmark() -> ModuleType:
    path = HERE.parents[1] / "benchmarks" / "lease.py"
    spec = importlib.util.spec_from_file_location("lease_benchmark", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["lease_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("clients", "jobs"), [(4, 20), pytest.param(16, 250, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_one_at_a_time_whatever_dies(tmp_path: Path, clients: int, jobs: int) -> None:
    found = lease_benchmark().torture(tmp_path / "log", clients, jobs, seed=1)
    assert found.overlaps == 0
    assert found.begun >= jobs - found.killed and found.killed
    assert found.freed_s < 2.0


def test_the_check_of_overlaps_sees_them(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("begin 1 1.0\nbegin 2 2.0\nend 2 3.0\nbegin 3 4.0\nbegin 4 6.5\nend 4 7.0\n")
    found = lease_benchmark().read_notes(tmp_path / "log", {3: 5.0}, 4, 4, 1.0)
    assert (found.overlaps, found.takeovers, found.freed_s) == (1, 2, 1.5)
