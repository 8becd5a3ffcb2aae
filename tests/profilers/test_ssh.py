"""A board over SSH: the whole way, and every way in which it can go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.profilers.golden import golden_model
from hwnas.profilers.hosts.lease import hold_lease
from hwnas.profilers.hosts.ssh import Destination, SshProfiler
from hwnas.spaces.errors import CandidateError, DeviceError

pytest.importorskip("onnxruntime")


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden.onnx"
    path.write_bytes(golden_model())
    return path


def profiler_of(board: Any, **more: Any) -> SshProfiler:
    calm: dict[str, Any] = {"budget_s": 0.05, "attempts": 1, "backoff_s": (0.05, 0.05, 0.05), "python": sys.executable}
    return SshProfiler(f"board:{board.port}", **{**calm, **more})


def test_the_whole_way(board: Any, golden: Path, tmp_path: Path) -> None:
    with profiler_of(board) as profiler:
        with pytest.raises(DeviceError, match="runner of this version is not on the board"):
            profiler.fingerprint()
        assert profiler.lacks_runner
        profiler.send_runner()
        assert profiler.fingerprint()["host"] == board.host
        told = profiler.measure(golden)
        assert 0 < told.median_ms < 1000
        assert told.fingerprint and told.fingerprint["onnxruntime"]
        assert profiler.graph(golden).macs > 0
        x = np.random.default_rng(0).standard_normal((70, 3, 32, 32)).astype(np.float32)
        np.save(tmp_path / "x.npy", x)
        got = profiler.run(golden, tmp_path / "x.npy")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(golden), providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"input": x[i : i + 1]})[0] for i in range(len(x))])
    assert got.shape == (70, 10)
    assert np.allclose(got, expected, atol=1e-5)
    (runner,) = (board.home / ".cache" / "hwnas").glob("board-*")
    assert runner.name.startswith("board-") and runner.suffix == ".pyz"


def test_a_runner_that_was_changed_is_not_started(board: Any) -> None:
    with profiler_of(board) as profiler:
        profiler.send_runner()
    (runner,) = (board.home / ".cache" / "hwnas").glob("board-*")
    runner.write_bytes(runner.read_bytes() + b"\0")
    with profiler_of(board) as profiler, pytest.raises(DeviceError, match="runner of this version"):
        profiler.fingerprint()


def test_a_wrong_host_key(board: Any, golden: Path) -> None:
    import asyncssh

    board.trust(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode())
    with profiler_of(board) as profiler, pytest.raises(DeviceError, match="host key is unknown or has changed") as told:
        profiler.measure(golden)
    assert "\n" not in str(told.value)
    assert board.commands == [], "nothing was tried behind a wrong key"


def test_an_unknown_host_key(board: Any, golden: Path) -> None:
    (board.folder / "known_hosts").write_text("")
    with profiler_of(board) as profiler, pytest.raises(DeviceError, match="host key"):
        profiler.measure(golden)
    assert (board.folder / "known_hosts").read_text() == "", "no key is learnt on the way"


def test_no_board_there(board: Any, golden: Path) -> None:
    board.port = 1
    with profiler_of(board) as profiler, pytest.raises(DeviceError, match="ssh failed"):
        profiler.measure(golden)


def test_no_python_there(board: Any, golden: Path) -> None:
    with profiler_of(board, python="/no/such/python") as profiler, pytest.raises(DeviceError, match="--python"):
        profiler.measure(golden)


def test_no_ssh_here(board: Any, golden: Path) -> None:
    with profiler_of(board, ssh=["/no/such/ssh"]) as profiler, pytest.raises(DeviceError, match="cannot start"):
        profiler.measure(golden)


@pytest.mark.parametrize("after", [0, 1, 40])
def test_a_board_that_drops_is_tried_again(board: Any, golden: Path, after: int) -> None:
    with profiler_of(board, idle_s=3.0) as profiler:
        profiler.send_runner()
        board.drop_after, board.drops = after, 2
        assert profiler.measure(golden).median_ms > 0
    assert board.drops == 0
    assert len(board.commands) == 1 + 3


def test_a_board_that_drops_every_time_is_put_in_quarantine(board: Any, golden: Path) -> None:
    with profiler_of(board) as profiler:
        profiler.send_runner()
        board.drop_after = 0
        with pytest.raises(DeviceError, match="quarantine"):
            profiler.measure(golden)
        tried = len(board.commands)
        assert tried == 1 + 4
        with pytest.raises(DeviceError, match="quarantine"):
            profiler.measure(golden)
        assert len(board.commands) == tried, "a device in quarantine is left alone"


def test_a_board_that_stalls(board: Any, golden: Path) -> None:
    with profiler_of(board, idle_s=1.0, backoff_s=()) as profiler:
        profiler.send_runner()
        board.freeze = True
        start = time.monotonic()
        with pytest.raises(DeviceError, match=r"timeout: silent for 1 s"):
            profiler.measure(golden)
        assert time.monotonic() - start < 5
        stopped = board.pids[-1]
        board.freeze = False
        os.kill(stopped, signal.SIGCONT)  # its answer comes too late, to nobody
    with profiler_of(board, lease_wait_s=3.0) as again:
        assert again.measure(golden).median_ms > 0, "the lease is free"


@pytest.mark.slow
def test_a_board_that_works_long_is_not_taken_for_stalled(board: Any, heavy: Path) -> None:
    with profiler_of(board, idle_s=2.5, backoff_s=()) as profiler:
        profiler.send_runner()
        start = time.monotonic()
        assert profiler.measure(heavy).median_ms > 0
        assert time.monotonic() - start > 3.0


def test_a_device_in_use(board: Any, golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with profiler_of(board, lease_wait_s=0.5) as profiler:
        profiler.send_runner()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(board.folder / "run"))
        with hold_lease("board", 1.0), pytest.raises(DeviceError, match="device_busy"):
            profiler.measure(golden)
        assert profiler.measure(golden).latency_ms > 0, "busy is not lost"


def test_a_client_that_is_killed_lets_go_of_the_board(board: Any, heavy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with profiler_of(board) as profiler:
        profiler.send_runner()
    code = (
        "import sys\nfrom pathlib import Path\nfrom hwnas.profilers.hosts.ssh import SshProfiler\n"
        "SshProfiler(sys.argv[1], python=sys.executable).measure(Path(sys.argv[2]))"
    )
    client = subprocess.Popen([sys.executable, "-c", code, f"board:{board.port}", str(heavy)])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(board.folder / "run"))
    end, busy = time.monotonic() + 30, False
    while not busy:
        assert time.monotonic() < end, "the board was not asked"
        try:
            with hold_lease("board", 0.05):
                time.sleep(0.001)
        except DeviceError as error:
            busy = "device_busy" in str(error)
        time.sleep(0.02)
    client.kill()
    start = time.monotonic()
    with hold_lease("board", 10.0):
        assert time.monotonic() - start < 2.0
    client.wait()


def test_closing_ends_a_call(board: Any, golden: Path, heavy: Path) -> None:
    profiler = profiler_of(board)
    profiler.send_runner()
    raised: list[BaseException] = []

    def call() -> None:
        try:
            profiler.measure(heavy)
        except DeviceError as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(2.0)
    start = time.monotonic()
    profiler.close()
    thread.join(5)
    assert raised and "closed" in str(raised[0])
    assert time.monotonic() - start < 2
    with profiler_of(board, lease_wait_s=2.0) as again:
        assert again.measure(golden).median_ms > 0, "the board has let go"


def test_a_candidate_that_fails_there_is_at_fault(board: Any, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    node = helper.make_node("Reshape", ["input", "shape"], ["output"])
    value = helper.make_tensor_value_info
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [7])
    graph = helper.make_graph(
        [node], "bad", [value("input", TensorProto.FLOAT, [1, 8])], [value("output", TensorProto.FLOAT, [7])], [shape]
    )
    path = tmp_path / "bad.onnx"
    path.write_bytes(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    )
    with profiler_of(board) as profiler:
        profiler.send_runner()
        with pytest.raises(CandidateError) as raised:
            profiler.measure(path)
        assert raised.value.code in ("export", "crash:onnxruntime")
        assert profiler.fingerprint()


def test_a_missing_runtime_there(board: Any, golden: Path) -> None:
    with profiler_of(board, runtime="nothing") as profiler:
        profiler.send_runner()
        with pytest.raises(DeviceError, match="unknown runtime 'nothing'"):
            profiler.measure(golden)


BAD_DESTINATIONS = [
    "",
    ";id",
    "-oProxyCommand=touch x",
    "pi@-oProxyCommand=x",
    "$(id)",
    "`id`",
    "pi@host;id",
    "pi@host id",
    "pi@host\nid",
    "pi'@host",
    "a@b@c",
    "host:99999",
    "host:22:22",
    "ssh://host",
    "../host",
    "hôst",
    "x" * 300,
    "-l root",
    "host/../../x",
    "pi@",
]


@pytest.mark.parametrize("text", BAD_DESTINATIONS)
def test_strange_destinations_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeviceError, match="not a destination") as raised:
        SshProfiler(text)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", [";id", "python3 -c x", "$(id)", "a'b", "-c", "/x/../$y", ""])
def test_strange_pythons_are_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="the board's python"):
        SshProfiler("host", python=text)


def test_the_words_of_ssh() -> None:
    assert Destination.parse("pi@pi5.local:2222").words() == ["-p", "2222", "--", "pi@pi5.local"]
    command = SshProfiler("pi@pi5.local", ssh=["ssh"]).command
    for option in ("BatchMode=yes", "StrictHostKeyChecking=yes", "ServerAliveInterval=5"):
        assert option in command
    assert command[-3] == "--"
    assert command[-1].count("'") == 2
