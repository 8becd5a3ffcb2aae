"""A board is not trusted: whatever it answers, at worst a number is wrong."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwnas.profilers.golden import golden_model
from hwnas.profilers.hosts.ssh import SshProfiler
from hwnas.profilers.hosts.wire import MAX_ANSWER_BYTES, BadAnswer, Request, encode_ok, read_answer
from hwnas.spaces.errors import CandidateError, DataError, DeviceError, DiskError

LEASE = "0123456789abcdef" * 2
GOOD = {
    "blocks": [[1.0, 1.1], [1.0]],
    "disturbance": [1.0, 1.01],
    "warmup": 3,
    "conditions": {"loadavg": 0.5},
    "fingerprint": {"cpu": "x"},
    "process": 7,
}


def good(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def line(value: Any, lease: str = LEASE) -> bytes:
    return json.dumps({"lease": lease, "ok": value}).encode()


MEASUREMENTS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "half a line": line(GOOD)[:-20],
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "empty": b"{}",
    "bytes that are no text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "deep within": b'{"lease": "' + LEASE.encode() + b'", "ok": ' + b"[" * 50_000 + b"}",
    "many digits": b'{"lease": "' + LEASE.encode() + b'", "ok": ' + b"9" * 10_000 + b"}",
    "another's lease": line(GOOD, "f" * 32),
    "no lease": json.dumps({"ok": GOOD}).encode(),
    "lease is a list": json.dumps({"lease": [LEASE], "ok": GOOD}).encode(),
    "both a result and a failure": json.dumps({"lease": LEASE, "ok": GOOD, "failure": "oom", "detail": ""}).encode(),
    "one key more": json.dumps({"lease": LEASE, "ok": GOOD, "run": "rm -rf /"}).encode(),
    "result is a list": line([GOOD]),
    "result is a text": line("1.0"),
    "result is empty": line({}),
    "a key is missing": line({key: value for key, value in GOOD.items() if key != "blocks"}),
    "a key too many": line(good(path="/etc/passwd")),
    "NaN": line(GOOD).replace(b"1.1", b"NaN"),
    "infinity": line(GOOD).replace(b"1.1", b"Infinity"),
    "minus infinity": line(GOOD).replace(b"1.1", b"-Infinity"),
    "1e999": line(GOOD).replace(b"1.1", b"1e999"),
    "1e300": line(GOOD).replace(b"1.1", b"1e300"),
    "zero": line(good(blocks=[[0.0], [1.0]])),
    "negative": line(good(blocks=[[-1.0], [1.0]])),
    "a time as a text": line(good(blocks=[["1.0"], [1.0]])),
    "a time as true": line(good(blocks=[[True], [1.0]])),
    "a time as a list": line(good(blocks=[[[1.0]], [1.0]])),
    "a time as null": line(good(blocks=[[None], [1.0]])),
    "a time beyond every deadline": line(good(blocks=[[1e9], [1.0]])),
    "no blocks": line(good(blocks=[], disturbance=[])),
    "an empty block": line(good(blocks=[[], [1.0]])),
    "blocks as a text": line(good(blocks="11")),
    "a block as a text": line(good(blocks=["11", [1.0]])),
    "blocks as a mapping": line(good(blocks={"0": [1.0]})),
    "too many samples": line(good(blocks=[[1] * 100_001], disturbance=[1.0])),
    "disturbance of another length": line(good(disturbance=[1.0])),
    "disturbance as a text": line(good(disturbance="xx")),
    "disturbance of NaN": line(good(disturbance=[1.0, 0.5])).replace(b"0.5]", b"NaN]"),
    "a negative warm-up": line(good(warmup=-1)),
    "a warm-up of half": line(good(warmup=0.5)),
    "a process as a text": line(good(process="1; rm -rf /")),
    "conditions as a list": line(good(conditions=[1])),
    "conditions within conditions": line(good(conditions={"a": {"b": 1}})),
    "conditions of a strange key": line(good(conditions={"<script>": 1})),
    "conditions of a strange text": line(good(conditions={"a": "\x1b[31mred"})),
    "conditions of a long text": line(good(conditions={"a": "x" * 10_000})),
    "too many conditions": line(good(conditions={f"a{i}": 1 for i in range(1000)})),
    "a fingerprint as null": line(good(fingerprint=None)),
    "a fingerprint of lists": line(good(fingerprint={"cpu": ["x"]})),
    "a failure of no known kind": json.dumps({"lease": LEASE, "failure": "crash:; rm", "detail": ""}).encode(),
    "a failure as a list": json.dumps({"lease": LEASE, "failure": ["oom"], "detail": ""}).encode(),
    "a detail as a list": json.dumps({"lease": LEASE, "failure": "oom", "detail": ["x"]}).encode(),
    "an error of no known kind": json.dumps({"lease": LEASE, "error": "SystemExit", "message": ""}).encode(),
    "an error as a mapping": json.dumps({"lease": LEASE, "error": {}, "message": ""}).encode(),
    "a message as a number": json.dumps({"lease": LEASE, "error": "DeviceError", "message": 1}).encode(),
}


def test_there_are_fifty() -> None:
    assert len(MEASUREMENTS) >= 50


def test_a_good_answer() -> None:
    measurement = read_answer(line(GOOD), LEASE, "measure", "pi5")["measurement"]
    assert measurement.blocks == ((1.0, 1.1), (1.0,))


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_hostile_measurements(name: str) -> None:
    with pytest.raises(BadAnswer, match=r"^bad_result: ") as raised:
        read_answer(MEASUREMENTS[name], LEASE, "measure", "pi5")
    assert "\n" not in str(raised.value) and len(str(raised.value)) <= 300
    assert str(raised.value).isprintable()


PARTS = [{"blocks": 1, "slowdown": 1.2}, {"blocks": 1, "slowdown": 1.0}]


@pytest.mark.parametrize(
    "parts",
    [
        "xx",
        {"blocks": 2},
        [1, 1],
        [{}],
        [{"blocks": 1}],
        [{"blocks": 3}],
        [{"blocks": -1}, {"blocks": 3}],
        [{"blocks": 0}, {"blocks": 2}],
        [{"blocks": "2"}, {"blocks": 0}],
        [{"blocks": 1, "slowdown": -1}, {"blocks": 1}],
        [{"blocks": 1, "slowdown": "x"}, {"blocks": 1}],
        [{"blocks": 1, "run": {"a": 1}}, {"blocks": 1}],
        [{"blocks": 2, "a": "x" * 5000}],
        [{"blocks": 2}] * 1000,
    ],
)
def test_hostile_parts(parts: Any) -> None:
    told = read_answer(line(good(conditions={"parts": PARTS})), LEASE, "measure", "pi5")
    assert told["measurement"].latency_ms > 0
    with pytest.raises(BadAnswer):
        read_answer(line(good(conditions={"parts": parts})), LEASE, "measure", "pi5")


NODE = {
    "name": "a",
    "op": "Conv",
    "domain": "",
    "inputs": [[1, 3, 8, 8]],
    "outputs": [[1, 4, 8, 8]],
    "dtype": "float32",
    "group": 1,
    "attributes": {},
    "weight_bytes": 0,
    "bytes_in": 0,
    "bytes_out": 0,
    "macs": 0,
    "weights": [],
}
GRAPH = {"nodes": [NODE], "edges": [], "runtime": "x", "peak_activation_bytes": 0}


@pytest.mark.parametrize(
    "graph",
    [
        None,
        [],
        {},
        {**GRAPH, "nodes": [{**NODE, "run": "x"}]},
        {**GRAPH, "nodes": [{**NODE, "macs": -1}]},
        {**GRAPH, "nodes": [{**NODE, "macs": "1"}]},
        {**GRAPH, "nodes": [{**NODE, "macs": 1e30}]},
        {**GRAPH, "nodes": [{**NODE, "op": 3}]},
        {**GRAPH, "nodes": [{**NODE, "name": "x" * 2000}]},
        {**GRAPH, "nodes": [{**NODE, "name": "\x1b[2J"}]},
        {**GRAPH, "nodes": [{**NODE, "inputs": [["a"]]}]},
        {**GRAPH, "nodes": [{**NODE, "inputs": [[-1]]}]},
        {**GRAPH, "nodes": [{**NODE, "attributes": [[[[[[[[[[1]]]]]]]]]]}]},
        {**GRAPH, "edges": [[0, 1]]},
        {**GRAPH, "edges": [[1, 0]]},
        {**GRAPH, "edges": ["ab"]},
        {**GRAPH, "peak_activation_bytes": -1},
    ],
)
def test_hostile_graphs(graph: Any) -> None:
    assert read_answer(line({"graph": GRAPH}), LEASE, "graph", "pi5")["graph"].nodes
    with pytest.raises(BadAnswer):
        read_answer(line({"graph": graph}), LEASE, "graph", "pi5")


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"shape": [1, 1], "data": "x"},
        {"shape": [1, 2], "data": "AACAPw=="},
        {"shape": [0], "data": ""},
        {"shape": [-1, -1], "data": "AACAPw=="},
        {"shape": [True], "data": "AACAPw=="},
        {"shape": [1 << 40], "data": "AACAPw=="},
        {"shape": [1], "data": "AADAfw=="},
        {"shape": [1], "data": 1},
        {"shape": "1", "data": "AACAPw=="},
    ],
)
def test_hostile_outputs(told: Any) -> None:
    assert read_answer(line({"shape": [1], "data": "AACAPw=="}), LEASE, "run", "pi5")["shape"] == (1,)
    with pytest.raises(BadAnswer):
        read_answer(line(told), LEASE, "run", "pi5")


@pytest.mark.parametrize(
    ("name", "kind"), [("DeviceError", DeviceError), ("DataError", DataError), ("DiskError", DiskError)]
)
def test_errors_of_the_board_name_it(name: str, kind: type[Exception]) -> None:
    told = json.dumps({"lease": LEASE, "error": name, "message": "no\nway \x1b[31m"}).encode()
    with pytest.raises(kind, match=r"^pi5: no way  \[31m$"):
        read_answer(told, LEASE, "measure", "pi5")


def test_failures_of_the_candidate_are_its_own() -> None:
    told = json.dumps({"lease": LEASE, "failure": "crash:SIGSEGV", "detail": "x"}).encode()
    with pytest.raises(CandidateError, match="crash:SIGSEGV: x"):
        read_answer(told, LEASE, "measure", "pi5")


def test_an_answer_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(DeviceError, match="go over the wire"):
        encode_ok(LEASE, {"x": "x" * MAX_ANSWER_BYTES})


def received(data: bytes, tmp_path: Path) -> Request:
    return Request.receive(io.BytesIO(data), tmp_path / "model", tmp_path / "samples")


def framed(told: Any, blob: bytes = b"") -> bytes:
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    return struct.pack(">II", len(text), len(blob)) + text + blob


def test_a_request_arrives(tmp_path: Path) -> None:
    import hashlib

    model, samples = b"model", struct.pack("<4f", 1, 2, 3, 4)
    request = Request(
        LEASE,
        "run",
        shape=(1, 4),
        model_bytes=len(model),
        model_sha256=hashlib.sha256(model).hexdigest(),
        samples_bytes=len(samples),
        samples_sha256=hashlib.sha256(samples).hexdigest(),
    )
    assert received(request.frame() + model + samples, tmp_path) == request
    assert (tmp_path / "model").read_bytes() == model
    assert (tmp_path / "samples").read_bytes() == samples
    with pytest.raises(DataError, match="digest"):
        received(request.frame() + b"MODEL" + samples, tmp_path / "..")


REQUEST = {"lease": LEASE, "do": "measure"}


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"[]",
        b"[" * 50_000,
        b"\xff",
        {},
        {"lease": LEASE},
        {**REQUEST, "do": "exec"},
        {**REQUEST, "do": ["measure"]},
        {**REQUEST, "lease": "x"},
        {**REQUEST, "code": "import os"},
        {**REQUEST, "threads": 0},
        {**REQUEST, "threads": True},
        {**REQUEST, "threads": 1.5},
        {**REQUEST, "threads": 1 << 40},
        {**REQUEST, "deadline_s": 1e9},
        {**REQUEST, "deadline_s": float("nan")},
        {**REQUEST, "deadline_s": -1},
        {**REQUEST, "runtime": "../x"},
        {**REQUEST, "runtime": "a;b"},
        {**REQUEST, "precision": None},
        {**REQUEST, "phone": "-s"},
        {**REQUEST, "phone": ";id"},
        {**REQUEST, "tool": "/data/x;id"},
        {**REQUEST, "tool": "/data/../x"},
        {**REQUEST, "tool": "x"},
        {**REQUEST, "shape": [-1]},
        {**REQUEST, "shape": "x"},
        {**REQUEST, "model_bytes": 5},
        {**REQUEST, "model_bytes": -5},
        {**REQUEST, "do": "run", "shape": [4]},
    ],
)
def test_hostile_requests(told: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        received(framed(told), tmp_path)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_requests_that_are_too_long(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too long"):
        received(struct.pack(">II", 1 << 20, 0), tmp_path)
    with pytest.raises(DataError, match="too long"):
        received(struct.pack(">II", 10, 0xFFFFFFFF), tmp_path)


def test_a_request_that_ends_early(tmp_path: Path) -> None:
    data = framed(REQUEST)
    for cut in (0, 4, 8, len(data) - 1):
        with pytest.raises(EOFError):
            received(data[:cut], tmp_path)


def test_another_version(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="different versions"):
        received(framed({**REQUEST, "wire": 2}), tmp_path)


ANSWERS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "late": lambda request: line(GOOD, "f" * 32) + b"\n",
    "noise": lambda request: b"Welcome to the board!\n",
    "endless": lambda request: b"x" * (MAX_ANSWER_BYTES + 100_000),
    "blanks": lambda request: b" " * (MAX_ANSWER_BYTES + 100_000),
    "script": lambda request: line(good(conditions={"a": "<script>\n"}), request["lease"]) + b"\n",
    "nothing": lambda request: b"",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_hostile_answers_over_ssh(board: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / "golden.onnx"
    path.write_bytes(golden_model())
    board.answer = ANSWERS[name]
    with SshProfiler(f"board:{board.port}", backoff_s=(0.01,)) as profiler:
        with pytest.raises(DeviceError) as raised:
            profiler.measure(path)
        assert ("bad_result" in str(raised.value)) == (name != "nothing")
        assert "\n" not in str(raised.value)
    assert len(board.commands) == 2, "asked twice, for it may have been the link"


@pytest.mark.slow
def test_all_hostile_answers_over_ssh(board: Any, tmp_path: Path) -> None:
    path = tmp_path / "golden.onnx"
    path.write_bytes(golden_model())
    for name, data in MEASUREMENTS.items():
        board.answer = lambda request, data=data: data.replace(LEASE.encode(), request["lease"].encode()) + b"\n"
        with SshProfiler(f"board:{board.port}", backoff_s=()) as profiler:
            with pytest.raises(DeviceError) as raised:
                profiler.measure(path)
            assert "bad_result" in str(raised.value), name
