"""Whatever a child does, its parent gets one error with a reason, and goes on."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hwnas.profilers import LocalProfiler
from hwnas.profilers.child import Child
from hwnas.spaces.errors import CandidateError, DeviceError, DiskError

HERE = Path(__file__).parent
FAKE_ENV = {"PYTHONPATH": str(HERE)}


def processes_of(mark: str) -> list[int]:
    """Process ids whose environment holds `mark`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if mark.encode() in Path("/proc", entry, "environ").read_bytes():
                    found.append(int(entry))
            except OSError:
                continue
    return found


def gone(mark: str, within_s: float = 5.0) -> bool:
    """True when no process with the mark is left after at most `within_s` seconds."""
    end = time.monotonic() + within_s
    while processes_of(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    with Child("fake_handlers", env=FAKE_ENV, name="fake", log=tmp_path / "child.log") as made:
        yield made


def failure(child: Child, request: dict[str, object], deadline_s: float = 20.0) -> CandidateError:
    with pytest.raises(CandidateError) as raised:
        child.call(request, deadline_s)
    return raised.value


@pytest.mark.parametrize(("deaths", "comes_up"), [(1, True), (2, True), (3, False)])
def test_a_child_that_is_killed_while_it_starts_is_started_again(tmp_path: Path, deaths: int, comes_up: bool) -> None:
    left = tmp_path / "deaths"
    left.write_text("x" * deaths)
    with Child("fake_handlers", env={**FAKE_ENV, "DEATHS_AT_START": str(left)}, log=tmp_path / "log") as child:
        if comes_up:
            assert child.call({"do": "echo", "value": 1}, 20)["value"] == 1
        else:
            with pytest.raises(DeviceError, match="cannot start"):
                child.call({"do": "echo"}, 20)
    assert left.read_text() == ""


def test_one_process_serves_many_calls(child: Child) -> None:
    first = child.call({"do": "echo", "value": [1, "é", None]}, 20)
    second = child.call({"do": "echo", "value": 2}, 20)
    assert first["value"] == [1, "é", None]
    assert first["pid"] == second["pid"] == child.pid


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"])
def test_a_crash_is_named_and_the_next_call_works(child: Child, name: str) -> None:
    assert failure(child, {"do": "die", "signal": name}).code == f"crash:{name}"
    assert child.call({"do": "echo", "value": 1}, 20)["value"] == 1


def test_a_kill_from_outside_counts_as_out_of_memory(child: Child) -> None:
    assert failure(child, {"do": "die", "signal": "SIGKILL"}).code == "oom"


@pytest.mark.parametrize("status", [0, 3])
def test_an_exit_without_an_answer(child: Child, status: int) -> None:
    assert failure(child, {"do": "leave", "status": status}).code == f"crash:exit{status}"
    assert child.call({"do": "echo", "value": 1}, 20)["value"] == 1


@pytest.mark.parametrize("hang", ["spin", "double_fork"])
def test_a_hang_ends_at_the_deadline_without_orphans(tmp_path: Path, hang: str) -> None:
    mark = f"HWNAS_TEST_MARK={os.getpid()}-{hang}"
    name, _, value = mark.partition("=")
    with Child("fake_handlers", env={**FAKE_ENV, name: value}) as child:
        child.call({"do": "echo"}, 20)
        start = time.monotonic()
        assert failure(child, {"do": hang}, deadline_s=0.5).code == "timeout"
        assert 0.4 < time.monotonic() - start < 1.5
        assert gone(mark)
        assert child.call({"do": "echo", "value": 1}, 20)["value"] == 1
    assert gone(mark)


def test_a_dead_child_with_a_living_descendant(child: Child) -> None:
    start = time.monotonic()
    assert failure(child, {"do": "leave_a_descendant"}).code == "crash:exit0"
    assert time.monotonic() - start < 3


def test_prints_never_reach_the_channel(child: Child, tmp_path: Path) -> None:
    assert child.call({"do": "print"}, 20) == {"printed": True}
    assert child.call({"do": "echo", "value": 1}, 20)["value"] == 1
    assert b"garbage without end" in (tmp_path / "child.log").read_bytes()


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"id": 77, "ok": {}}', "[" * 20_000, "\x00\xff"])
def test_garbage_in_the_channel(child: Child, text: str) -> None:
    assert failure(child, {"do": "write_raw", "text": text}).code == "bad_result"
    assert child.call({"do": "echo", "value": 1}, 20)["value"] == 1


def test_a_closed_channel(child: Child) -> None:
    assert failure(child, {"do": "close_channel"}).code == "crash:channel"
    assert child.call({"do": "echo", "value": 1}, 20)["value"] == 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [("candidate", "parity"), ("memory", "oom"), ("torch", "oom"), ("value", "crash:ValueError")],
)
def test_what_a_handler_raises(child: Child, kind: str, code: str) -> None:
    pid = child.call({"do": "echo"}, 20)["pid"]
    assert failure(child, {"do": "raise", "kind": kind}).code == code
    assert child.call({"do": "echo"}, 20)["pid"] == pid, "an exception does not cost the process"


def test_our_own_errors_keep_their_class(child: Child) -> None:
    with pytest.raises(DeviceError, match="no such runtime"):
        child.call({"do": "raise", "kind": "device"}, 20)


def test_a_full_disk_is_not_the_candidates_fault(child: Child) -> None:
    with pytest.raises(DiskError, match=r"out\.npy: No space left"):
        child.call({"do": "raise", "kind": "full"}, 20)


@pytest.mark.parametrize(("kind", "code"), [("nan", "non_finite"), ("inf", "non_finite"), ("object", "bad_result")])
def test_answers_that_json_cannot_hold(child: Child, kind: str, code: str) -> None:
    assert failure(child, {"do": "return", "kind": kind}).code == code


def test_long_requests_and_answers(child: Child) -> None:
    assert len(child.call({"do": "return", "kind": "big"}, 20)["value"]) == 1 << 20
    assert len(child.call({"do": "echo", "value": "y" * (1 << 20)}, 20)["value"]) == 1 << 20


def test_an_unknown_handler_is_the_callers_fault(child: Child) -> None:
    assert failure(child, {"do": "nothing"}).code == "crash:KeyError"


def test_a_module_that_cannot_start() -> None:
    with Child("no_such_module_anywhere") as child, pytest.raises(DeviceError, match="no_such_module_anywhere"):
        child.call({"do": "echo"}, 20)


def test_paused_time_does_not_count(child: Child) -> None:
    child.call({"do": "echo"}, 20)
    timer = threading.Timer(0.2, child.pause)
    later = threading.Timer(1.5, child.resume)
    timer.start()
    later.start()
    start = time.monotonic()
    assert child.call({"do": "sleep", "seconds": 0.4}, 0.9)["slept"] == 0.4
    assert time.monotonic() - start > 1.2
    timer.join()
    later.join()


def test_calls_from_threads_are_served_one_by_one(child: Child) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: child.call({"do": "echo", "value": i}, 20), range(12)))
    assert [answer["value"] for answer in answers] == list(range(12))
    time.sleep(0.1)
    assert child.pid == answers[0]["pid"], "the thread that started the child is gone, the child is not"


def test_closing_during_a_call(child: Child) -> None:
    child.call({"do": "echo"}, 20)
    timer = threading.Timer(0.3, child.close)
    timer.start()
    with pytest.raises(DeviceError, match="closed"):
        child.call({"do": "sleep", "seconds": 30}, 20)
    timer.join()


def test_interrupting_a_call(child: Child) -> None:
    child.call({"do": "echo"}, 20)
    timer = threading.Timer(0.3, _thread.interrupt_main)
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        child.call({"do": "sleep", "seconds": 30}, 20)
    assert time.monotonic() - start < 2
    timer.join()
    assert child.call({"do": "echo", "value": 1}, 20)["value"] == 1


def test_secrets_are_not_passed_on(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "canary")
    monkeypatch.setenv("MY_PLAIN", "shown")
    assert child.call({"do": "echo", "ask": "MY_API_TOKEN"}, 20)["environ"] == ""
    assert child.call({"do": "echo", "ask": "MY_PLAIN"}, 20)["environ"] == "shown"


PARENT = """
import sys, threading
from hwnas.profilers import LocalProfiler
from hwnas.profilers.child import Child
child = Child("fake_handlers", env={"PYTHONPATH": sys.argv[1], "HWNAS_TEST_MARK": sys.argv[2]})
child.call({"do": "echo"}, 60)
threading.Thread(target=lambda: child.call({"do": sys.argv[3], "seconds": 300}, 300), daemon=True).start()
print("up", flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("busy", ["sleep", "spin"])
def test_the_parents_death_ends_the_child(busy: str) -> None:
    mark = f"orphan-{os.getpid()}-{busy}"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(HERE), mark, busy], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert parent.stdout is not None
        with parent.stdout as out:
            assert out.readline() == b"up\n"
        assert processes_of(mark)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone(mark)


def test_a_private_child_has_a_folder_that_goes_with_it(tmp_path: Path) -> None:
    with Child("fake_handlers", env=FAKE_ENV, private=True) as child:
        told = child.call({"do": "where"}, 20)
        assert Path(told["cwd"]) == Path(told["temporary"]) != Path.cwd()
        assert Path(told["cwd"]).is_dir()
        with pytest.raises(CandidateError):
            child.call({"do": "die", "signal": "SIGSEGV"}, 20)
        assert not Path(told["cwd"]).exists()
        again = child.call({"do": "where"}, 20)["cwd"]
    assert again != told["cwd"] and not Path(again).exists()


def test_a_child_is_renewed_when_it_is_idle() -> None:
    with Child("fake_handlers", env=FAKE_ENV) as child, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(child.call, {"do": "sleep", "seconds": 0.05}, 20) for _ in range(20)]
        renewed = [pool.submit(child.renew) for _ in range(5)]
        assert all(call.result() == {"slept": 0.05} for call in asked), "no call is cut off"
        assert all(done.result() is None for done in renewed)
        first = child.call({"do": "echo"}, 20)["pid"]
        child.renew()
        assert child.call({"do": "echo"}, 20)["pid"] != first


def test_memory_is_limited() -> None:
    with Child("fake_handlers", env=FAKE_ENV, memory_mb=1000) as child:
        assert failure(child, {"do": "allocate", "bytes": 4_000_000_000}).code == "oom"
        assert child.call({"do": "allocate", "bytes": 1000}, 20) == {"bytes": 1000}


def test_the_measuring_process_has_no_network() -> None:
    code = (
        "import socket; from hwnas.profilers.isolation import cut_network; cut = cut_network(); "
        "server = socket.socket(); server.bind(('127.0.0.1', 0)); server.listen(); "
        "client = socket.socket(); client.settimeout(1); "
        "print(cut, client.connect_ex(server.getsockname()) != 0)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    if told[0] == "False":
        pytest.skip("this kernel gives no namespaces to users")
    assert told == ["True", "True"]
    with LocalProfiler() as profiler:
        assert profiler.child.call({"do": "ping"}, 20)["network"] is False
