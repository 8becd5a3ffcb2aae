"""What goes over the wire to a board and back.

A connection carries one request and one answer. The request is a frame: two lengths (big-endian, 4 bytes each), JSON of
at most 64 KiB, then the bytes of the model and of the samples, whose digests the JSON has. The answer is one line of
JSON of at most 1 MiB; blanks before it are signs of life. Neither side takes pickle, code or names of files from the
other.
Standard library only: a board has it too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

from ...spaces.errors import CandidateError, DataError, DeviceError, DiskError, HwnasError
from ..graph import Graph
from ..measurement import Measurement
from ..model_gate import MAX_MODEL_BYTES

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_S",
    "BadAnswer",
    "Busy",
    "Lost",
    "Request",
    "encode_error",
    "encode_ok",
    "read_answer",
]

MAX_PARTS = 64
"""Attempts of a measurement."""
WIRE = 1
"""Version of what goes over the wire."""
MAX_JSON_BYTES = 64 << 10
MAX_SAMPLES_BYTES = 64 << 20
MAX_ANSWER_BYTES = 1 << 20
MAX_S = 3600.0
"""Longest deadline and wait for a lease that a board accepts."""

DO = ("fingerprint", "graph", "measure", "run")
_HEAD = struct.Struct(">II")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERIAL = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._:-]{0,63})?")
_TOOL = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_DIGEST = re.compile(r"(?:[0-9a-f]{64})?")
_CODE = re.compile(r"timeout|oom|non_finite|bad_result|export|parity|crash:[A-Za-z0-9_]{1,40}")
_CHUNK = 1 << 20


class Lost(Exception):
    """The device cannot be reached, or went away: not the candidate's fault.

    Args:
        why: one line.
        final: to try again makes no sense.
    """

    def __init__(self, why: str, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class BadAnswer(Lost):
    """What came back is not an answer to what was asked: `bad_result`."""

    def __init__(self, why: str) -> None:
        super().__init__(f"bad_result: {why}"[:300])


class Busy(DeviceError):
    """Someone else held the device for longer than one was ready to wait."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a board.

    Attributes:
        lease: an id of this request, which the answer has to repeat.
        do: one of `DO`.
        runtime: by its name.
        threads: of one inference.
        precision: of the runtime.
        deadline_s: longest time of the work.
        lease_wait_s: longest time to wait for the device.
        alive_s: time between two signs of life.
        budget_s: seconds of timed inferences per attempt.
        attempts: how often a noisy measurement is repeated.
        phone: serial number of a phone at that machine, or empty.
        tool: path of the benchmark program on the phone, or empty.
        shape: of the samples, (n, C, H, W), float32.
        model_bytes: size of the model file.
        model_sha256: its digest.
        samples_bytes: size of the samples.
        samples_sha256: their digest.
        wire: version of all this.
    """

    lease: str
    do: str
    runtime: str = "onnxruntime"
    threads: int = 1
    precision: str = "fp32"
    deadline_s: float = 60.0
    lease_wait_s: float = 60.0
    alive_s: float = 4.0
    budget_s: float = 0.6
    attempts: int = 3
    phone: str = ""
    tool: str = ""
    shape: tuple[int, ...] = ()
    model_bytes: int = 0
    model_sha256: str = ""
    samples_bytes: int = 0
    samples_sha256: str = ""
    wire: int = WIRE

    def __post_init__(self) -> None:
        if self.wire != WIRE:
            raise DeviceError(
                f"the two sides are of different versions ({self.wire} and {WIRE}): send the runner again"
            )
        for name, pattern in _TEXTS.items():
            value = getattr(self, name)
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise DataError(f"a request with a bad '{name}'")
        for name, (low, high) in _NUMBERS.items():
            value = getattr(self, name)
            whole = isinstance(low, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise DataError(f"a request with a bad '{name}'")
            if not low <= value <= high:  # also false for NaN
                raise DataError(f"a request with a bad '{name}': {value} is not from {low} to {high}")
        if self.do not in DO or len(self.shape) > 8 or not all(type(side) is int and side > 0 for side in self.shape):
            raise DataError("a request that is not understood")
        expected = 4 * math.prod(self.shape) if self.shape else 0
        if expected != self.samples_bytes or (self.do == "run" and not self.shape):
            raise DataError("a request whose samples do not have their shape")

    def frame(self) -> bytes:
        """Returns what stands before the bytes of model and samples."""
        text = json.dumps(asdict(self), allow_nan=False).encode()
        if len(text) > MAX_JSON_BYTES:
            raise DataError("a request that is too long")
        return _HEAD.pack(len(text), self.model_bytes + self.samples_bytes) + text

    @classmethod
    def receive(cls, stream: BinaryIO, model: Path, samples: Path) -> Request:
        """Reads a request; model and samples go to files, with names that this side chose.

        Raises:
            DataError: it is not one, or a digest is wrong.
            DeviceError: the other side is of another version.
            EOFError: it ends too early.
        """
        length, rest = _HEAD.unpack(_exactly(stream, _HEAD.size))
        if length > MAX_JSON_BYTES or rest > MAX_MODEL_BYTES + MAX_SAMPLES_BYTES:
            raise DataError(f"a request of {length:,} and {rest:,} bytes is too long")
        try:
            told = json.loads(_exactly(stream, length))
            if not isinstance(told, dict) or not set(told) <= {field.name for field in fields(cls)}:
                raise ValueError("unknown keys")
            request = cls(**{**told, "shape": tuple(told.get("shape", ()))})
        except (ValueError, TypeError, RecursionError) as error:
            if isinstance(error, HwnasError):
                raise
            raise DataError("a request that is not of the protocol") from None
        if request.model_bytes + request.samples_bytes != rest:
            raise DataError("a request with wrong lengths")
        for path, size, digest in (
            (model, request.model_bytes, request.model_sha256),
            (samples, request.samples_bytes, request.samples_sha256),
        ):
            _save(stream, path, size, digest)
        return request


_TEXTS = {
    "lease": re.compile("[0-9a-f]{32}"),
    "do": _PLAIN,
    "runtime": _PLAIN,
    "precision": _PLAIN,
    "phone": _SERIAL,
    "tool": _TOOL,
    "model_sha256": _DIGEST,
    "samples_sha256": _DIGEST,
}
_NUMBERS: dict[str, tuple[int, int] | tuple[float, float]] = {
    "threads": (1, 1024),
    "attempts": (1, 10),
    "deadline_s": (0.1, MAX_S),
    "lease_wait_s": (0.0, MAX_S),
    "alive_s": (0.05, 60.0),
    "budget_s": (0.01, 60.0),
    "model_bytes": (0, MAX_MODEL_BYTES),
    "samples_bytes": (0, MAX_SAMPLES_BYTES),
}


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise EOFError
    return data


def _save(stream: BinaryIO, path: Path, size: int, digest: str) -> None:
    """Writes the next bytes of a stream to a file and checks them."""
    if not size:
        return
    found = hashlib.sha256()
    with path.open("xb") as file:
        while size:
            data = _exactly(stream, min(size, _CHUNK))
            found.update(data)
            file.write(data)
            size -= len(data)
    if found.hexdigest() != digest:
        raise DataError("the bytes that came are not those that were sent: wrong digest")


def encode_ok(lease: str, result: Mapping[str, Any]) -> bytes:
    """Returns the line of a good answer.

    Raises:
        DeviceError: it would be too long.
    """
    line = json.dumps({"lease": lease, "ok": result}, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    if len(line) > MAX_ANSWER_BYTES - 4096:
        raise DeviceError(f"the answer has {len(line):,} bytes, at most {MAX_ANSWER_BYTES:,} go over the wire")
    return line


def encode_error(lease: str, error: BaseException) -> bytes:
    """Returns the line of an answer that says what went wrong."""
    told: dict[str, str] = {"error": "DeviceError", "message": f"the runner failed: {type(error).__name__}: {error}"}
    if isinstance(error, CandidateError):
        told = {"failure": error.code, "detail": error.detail[:300]}
    elif isinstance(error, Lost):
        told = {"error": "Lost", "message": str(error)}
    elif isinstance(error, OSError) and not isinstance(error, HwnasError):
        told = {"error": "DiskError", "message": f"cannot write: {error.strerror}"}
    elif isinstance(error, HwnasError):
        kind = "Busy" if str(error).startswith("device_busy") else type(error).__name__
        told = {"error": kind, "message": str(error)}
    return json.dumps({"lease": lease, **{key: value[:600] for key, value in told.items()}}).encode() + b"\n"


_ERRORS: dict[str, type[HwnasError]] = {
    "Busy": Busy,
    "DataError": DataError,
    "DeviceError": DeviceError,
    "DiskError": DiskError,
}


def read_answer(line: bytes, lease: str, do: str, who: str) -> dict[str, Any]:
    """Reads a line from a board that is not trusted: at worst it gives a wrong number.

    Args:
        line: as it came.
        lease: the id that was sent.
        do: what was asked for.
        who: the device's name, for messages.

    Returns:
        `measure`: `{"measurement": Measurement}`; `graph`: `{"graph": Graph}`; `run`: `{"shape": …, "data": bytes}`;
        `fingerprint`: a flat mapping.

    Raises:
        BadAnswer: it is not an answer to that.
        Lost: the board has lost its phone.
        CandidateError: the candidate failed there.
        DeviceError, DataError, DiskError: something else failed there.
    """
    try:
        told = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadAnswer("the answer is not JSON (does a start-up file on the device print?)") from None
    if not isinstance(told, dict) or told.get("lease") != lease:
        raise BadAnswer("an answer to something else: another lease")
    if set(told) == {"lease", "failure", "detail"}:
        if not isinstance(told["failure"], str) or not _CODE.fullmatch(told["failure"]):
            raise BadAnswer("a failure of no known kind")
        raise CandidateError(told["failure"], plain(told["detail"], 300))
    if set(told) == {"lease", "error", "message"}:
        message = f"{who}: {plain(told['message'], 600)}"
        if told["error"] == "Lost":
            raise Lost(plain(told["message"], 300))
        kind = _ERRORS.get(told["error"]) if isinstance(told["error"], str) else None
        if kind is None:
            raise BadAnswer("an error of no known kind")
        raise kind(message)
    if set(told) != {"lease", "ok"} or not isinstance(told["ok"], dict):
        raise BadAnswer("neither a result nor an error")
    try:
        return _RESULTS[do](told["ok"])
    except CandidateError as error:
        raise BadAnswer(error.detail) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
        raise BadAnswer(f"not a result of '{do}': {plain(str(error), 200)}") from None


def plain(text: object, most: int) -> str:
    """Returns a text from a device as one line that may be shown.

    Raises:
        BadAnswer: it is no text.
    """
    if not isinstance(text, str):
        raise BadAnswer("a text was expected")
    return "".join(c if c.isprintable() else " " for c in text[:most]).strip()


def flat(told: object, most: int = 64) -> dict[str, Any]:
    """Returns a mapping of names to short scalars as it is.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(told, dict) or len(told) > most:
        raise ValueError("a flat mapping was expected")
    for key, value in told.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", key):
            raise ValueError("a mapping with a strange key")
        if isinstance(value, str) and (len(value) > 300 or not value.isprintable()):
            raise ValueError("a mapping with a strange text")
        if isinstance(value, int | float) and not abs(value) < 1e18:
            raise ValueError("a mapping with a strange number")
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError("a mapping within a mapping")
    return told


def _measurement(told: dict[str, Any]) -> dict[str, Any]:
    if set(told) != {"blocks", "disturbance", "warmup", "conditions", "fingerprint", "process"}:
        raise ValueError("not the keys of a measurement")
    if not isinstance(told["conditions"], dict):
        raise ValueError("conditions that are no mapping")
    flat({key: value for key, value in told["conditions"].items() if key != "parts"})
    parts = told["conditions"].get("parts", [])
    if not isinstance(parts, list) or len(parts) > MAX_PARTS:
        raise ValueError("strange parts")
    for part in parts:
        flat(part)
    flat(told["fingerprint"])
    for name in ("warmup", "process"):
        if type(told[name]) is not int or not 0 <= told[name] < 1 << 40:
            raise ValueError(f"a strange '{name}'")
    blocks = told["blocks"]
    if not isinstance(blocks, list) or not all(isinstance(block, list) for block in blocks):
        raise ValueError("blocks that are no lists")
    if not isinstance(told["disturbance"], list):
        raise ValueError("a disturbance that is no list")
    measurement = Measurement.from_json(told)
    if max(max(block) for block in measurement.blocks) > 1e3 * MAX_S:
        raise ValueError("a time beyond every deadline")
    return {"measurement": measurement}


def _graph(told: dict[str, Any]) -> dict[str, Any]:
    if set(told) != {"graph"}:
        raise ValueError("not an executed graph")
    _check_tree(told["graph"])
    graph = Graph.from_json(told["graph"])
    for node in graph.nodes:
        counts = (node.weight_bytes, node.bytes_in, node.bytes_out, node.macs, node.group)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError("a kernel with a strange count")
        if not all(isinstance(text, str) for text in (node.name, node.op, node.domain, node.dtype)):
            raise ValueError("a kernel with a strange name")
        if any(side < 0 for shape in (*node.inputs, *node.outputs, *node.weights) for side in shape):
            raise ValueError("a kernel with a strange shape")
    if graph.peak_activation_bytes < 0:
        raise ValueError("a strange peak of memory")
    return {"graph": graph}


def _check_tree(value: object, depth: int = 0) -> None:
    """Refuses long texts, huge numbers and deep trees."""
    if depth > 8:
        raise ValueError("too deep")
    if isinstance(value, str) and (len(value) > 1000 or not value.isprintable()):
        raise ValueError("a strange text")
    if isinstance(value, int | float) and not abs(value) < 1e18:
        raise ValueError("a strange number")
    if isinstance(value, dict | list):
        for inner in (*value, *value.values()) if isinstance(value, dict) else value:
            _check_tree(inner, depth + 1)


def _outputs(told: dict[str, Any]) -> dict[str, Any]:
    if set(told) != {"shape", "data"} or not isinstance(told["data"], str):
        raise ValueError("not outputs")
    shape = told["shape"]
    if not isinstance(shape, list) or not 1 <= len(shape) <= 8 or not all(type(s) is int and s > 0 for s in shape):
        raise ValueError("outputs of a strange shape")
    try:
        data = base64.b64decode(told["data"], validate=True)
    except binascii.Error:
        raise ValueError("outputs that are not base64") from None
    if len(data) != 4 * math.prod(shape):
        raise ValueError("outputs that do not have their shape")
    if not all(map(math.isfinite, struct.unpack(f"<{len(data) // 4}f", data))):
        raise ValueError("outputs that are not finite")
    return {"shape": tuple(shape), "data": data}


_RESULTS = {"measure": _measurement, "graph": _graph, "run": _outputs, "fingerprint": flat}


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")
