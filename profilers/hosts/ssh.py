"""Boards over the user's own OpenSSH: their configuration, keys, jump hosts and known hosts.

hwnas adds no port, no daemon and no password. It starts `ssh` with a list of words; the one command that the board's
shell sees is made of constants, a digest and a checked path. The runner is one file, `~/.cache/hwnas/board-DIGEST.pyz`,
which is sent when the user says so, and whose digest is checked before every start.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...spaces.errors import DeviceError
from .bundle import bundle, digest
from .remote import RemoteProfiler
from .wire import Lost

__all__ = ["Destination", "SshProfiler"]

OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "RequestTTY=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
)
"""What holds whatever the user's configuration says: no questions, known hosts only, dead links noticed in 15 s."""

_DESTINATION = re.compile(r"(?:([A-Za-z0-9_][A-Za-z0-9_.-]{0,63})@)?([A-Za-z0-9][A-Za-z0-9_.-]{0,252})(?::(\d{1,5}))?")
_PYTHON = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,63}|(?:~?(?:/[A-Za-z0-9_.][A-Za-z0-9_.+-]*){1,16})")
_REFUSED = ("Permission denied", "Too many authentication failures", "Bad configuration")
"""What ssh says where another try would end the same way."""
_NO_RUNNER, _OLD_PYTHON, _BAD_DIGEST = 97, 96, 95

_START = "import hashlib,os,runpy,sys;sys.version_info<(3,11) and sys.exit(96);k=sys.argv[1];"
_FILE = 'p=os.path.join(os.path.expanduser("~/.cache/hwnas"),"board-"+k+".pyz");'
_HELD = 'ok=os.path.isfile(p) and hashlib.sha256(open(p,"rb").read()).hexdigest()==k;'
_CODES = {
    "serve": _START + _FILE + _HELD + 'ok or sys.exit(97);sys.argv=[p];runpy.run_path(p,run_name="__main__")',
    "store": _START
    + _FILE
    + "n=int(sys.argv[2]);d=sys.stdin.buffer.read(n);hashlib.sha256(d).hexdigest()==k or sys.exit(95);"
    + 'os.makedirs(os.path.dirname(p),0o700,True);t=p+"."+str(os.getpid());open(t,"wb").write(d);os.replace(t,p);'
    + 'print("stored")',
}
"""What Python runs on the board: one line each, without single quotes."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where ssh goes.

    Attributes:
        user: empty for the one of the user's configuration.
        host: a name, an address, or an alias of the user's configuration.
        port: 0 for the one of the user's configuration.

    >>> Destination.parse("pi@pi5.local:2222")
    Destination(user='pi', host='pi5.local', port=2222)
    """

    user: str
    host: str
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Reads `[USER@]HOST[:PORT]`.

        Raises:
            DeviceError: it is something else.
        """
        match = _DESTINATION.fullmatch(text)
        if match is None or int(match[3] or 0) > 65535:
            shown = "".join(c if c.isprintable() else "?" for c in text[:64])
            raise DeviceError(f"'{shown}' is not a destination of ssh: [USER@]HOST[:PORT], e.g. pi@pi5.local")
        return cls(match[1] or "", match[2], int(match[3] or 0))

    def words(self) -> list[str]:
        """The words of ssh's command line that name it."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, "--", f"{self.user}@{self.host}" if self.user else self.host]


class SshProfiler(RemoteProfiler):
    """A board that ssh reaches.

    >>> with SshProfiler("pi@pi5.local") as profiler:                        # doctest: +SKIP
    ...     profiler.measure(Path("model.onnx")).median_ms
    11.3

    Args:
        destination: `[USER@]HOST[:PORT]`.
        runtime: name of the runtime on the board.
        threads: threads of one inference.
        precision: of the runtime.
        deadline_s: longest time of one request.
        python: Python of the board, 3.11 or newer, which has the runtime; a name or a path.
        ssh: the words that ssh begins with; `HWNAS_SSH` of the environment, or `ssh`, when left out.
        **more: as `RemoteProfiler`.

    Raises:
        DeviceError: destination or python are not of a form that is accepted.
    """

    def __init__(
        self,
        destination: str,
        runtime: str = "onnxruntime",
        threads: int = 1,
        precision: str = "fp32",
        deadline_s: float = 60.0,
        *,
        python: str = "python3",
        ssh: Sequence[str] = (),
        **more: Any,
    ) -> None:
        where = Destination.parse(destination)
        if not _PYTHON.fullmatch(python):
            raise DeviceError("the board's python is a name or a path of letters, digits, '/', '.', '_', '+' and '-'")
        words = list(ssh) or shlex.split(os.environ.get("HWNAS_SSH", "")) or ["ssh"]
        options = [word for option in OPTIONS for word in ("-o", option)]
        self._python = python
        self._ssh = [*words, *options, *where.words()]
        self.lacks_runner = False
        host = more.pop("host", f"ssh:{destination}")
        super().__init__([*self._ssh, self._command("serve")], host, runtime, threads, precision, deadline_s, **more)

    def send_runner(self) -> None:
        """Puts the runner on the board, beside those of other versions.

        Raises:
            DeviceError: the board cannot be reached, or does not take it.
        """
        data = bundle()
        serve, self.command = self.command, [*self._ssh, self._command("store", str(len(data)))]
        try:
            with self._busy:
                stored = self._transfer([data], self.deadline_s).strip() == b"stored"
        except Lost as lost:
            raise DeviceError(f"{self.host}: {lost}") from None
        finally:
            self.command = serve
        if not stored:
            raise DeviceError(f"{self.host}: the runner was not stored")
        self.lacks_runner, self._quarantine = False, ""

    def explain(self, status: int, said: list[str]) -> Lost:
        text = " ".join(said)
        last = f": {said[-1]}" if said else ""
        if status == 255 and ("host key" in text.lower() or "HOST IDENTIFICATION" in text):
            return Lost("the host key is unknown or has changed: connect with `ssh` by hand and check it", final=True)
        if status == 255 and "Could not resolve hostname" in text:
            # of a board that has answered before, the network may be down: that passes
            return Lost("its name does not resolve: check the name, or the network", final=self._fingerprint is None)
        if status == 255:
            return Lost(f"ssh failed{last}", final=any(refusal in text for refusal in _REFUSED))
        if status in (126, 127):
            return Lost(f"no '{self._python}' on the board: name its Python with --python", final=True)
        if status == _OLD_PYTHON:
            return Lost("the board's Python is older than 3.11: name another with --python", final=True)
        if status == _NO_RUNNER:
            self.lacks_runner = True
            return Lost("the runner of this version is not on the board: `hwnas devices add` sends it", final=True)
        if status == _BAD_DIGEST:
            return Lost("the runner was damaged on its way")
        return super().explain(status, said)

    def _command(self, what: Literal["serve", "store"], *more: str) -> str:
        """The command for the board's shell: constants, a checked path, a digest and numbers."""
        return " ".join(["exec", self._python, "-c", f"'{_CODES[what]}'", digest(), *more])
