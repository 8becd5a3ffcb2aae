"""Phones: the sender's side. The machine that the phone hangs on is this one, or another that ssh reaches."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, ClassVar

from ...spaces.errors import DeviceError
from ..graph import Graph
from ..profiler import LocalProfiler
from .phone import SUFFIXES
from .remote import RemoteProfiler
from .ssh import SshProfiler

__all__ = ["open_phone", "parse_phone"]

_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OVER_TCP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,57}:\d{1,5}")
_TOOL = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]*){1,16}")


def parse_phone(text: str, allow_tcp: bool = False) -> tuple[str, str]:
    """Reads `SERIAL[@DESTINATION]`; returns the serial number and where ssh goes, empty for this machine.

    Raises:
        DeviceError: it is something else, or a phone that adb reaches over the network.

    >>> parse_phone("R58M12ABCDE@lab@gateway.local")
    ('R58M12ABCDE', 'lab@gateway.local')
    """
    serial, _, destination = text.partition("@")
    if _OVER_TCP.fullmatch(serial) or "._tcp" in serial:
        if not allow_tcp:
            raise DeviceError("adb over the network lets anyone there use the phone: --allow-adb-tcp if that is meant")
    elif not _SERIAL.fullmatch(serial):
        shown = "".join(c if c.isprintable() else "?" for c in serial[:64])
        raise DeviceError(f"'{shown}' is not the serial number of a phone (see `adb devices`)")
    return serial, destination


def open_phone(
    text: str,
    runtime: str = "onnxruntime",
    threads: int = 1,
    precision: str = "fp32",
    deadline_s: float = 60.0,
    *,
    tool: str = "",
    allow_tcp: bool = False,
    **more: Any,
) -> RemoteProfiler:
    """The profiler of a phone.

    Args:
        text: `SERIAL[@DESTINATION]`.
        runtime: onnxruntime or litert: what `tool` runs.
        threads: threads of one inference.
        precision: of the model file.
        deadline_s: longest time of one measurement.
        tool: path of the benchmark program on the phone.
        allow_tcp: a phone over the network is meant.
        **more: as `SshProfiler` or `RemoteProfiler`.

    Raises:
        DeviceError: one of these is not of a form that is accepted.
    """
    serial, destination = parse_phone(text, allow_tcp)
    if runtime not in SUFFIXES:
        raise DeviceError(f"phones run {', '.join(SUFFIXES)}, not {runtime}")
    if tool and not _TOOL.fullmatch(tool):
        raise DeviceError("the benchmark program is an absolute path of letters, digits, '/', '.', '_' and '-'")
    phone = {"phone": serial, "tool": tool, "host": f"adb:{text}", **more}
    if destination:
        return _PhoneBehindSsh(destination, runtime, threads, precision, deadline_s, **phone)
    phone.pop("python", None)
    return _PhoneHere(phone.pop("host"), runtime, threads, precision, deadline_s, **phone)


class _Phone(RemoteProfiler):
    """Gives times; outputs and operators are those of the same file with the same runtime on this machine."""

    gives_outputs: ClassVar[bool] = False
    _local: LocalProfiler | None = None

    def graph(self, path: Path) -> Graph:
        return self._beside().graph(path)

    def run(self, path: Path, x: Path, out: Path | None = None, deadline_s: float | None = None) -> Any:
        return self._beside().run(path, x, out, deadline_s)

    def close(self) -> None:
        super().close()
        if self._local is not None:
            self._local.close()

    def _beside(self) -> LocalProfiler:
        with self._busy:
            if self._local is None:
                self._local = LocalProfiler(self.runtime, self.threads, self.precision, self.deadline_s)
            return self._local


class _PhoneHere(_Phone):
    """A phone at this machine."""

    def __init__(self, host: str, *how: Any, **more: Any) -> None:
        super().__init__([sys.executable, "-P", "-m", "hwnas.profilers.hosts.board"], host, *how, **more)


class _PhoneBehindSsh(_Phone, SshProfiler):
    """A phone at a machine that ssh reaches."""
