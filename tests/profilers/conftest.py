"""A board: an SSH server in this process, whose commands really run here, with a home folder of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class FakeBoard:
    """What the server does, and what it has seen.

    Attributes:
        folder: with the server's and the client's files.
        port: of the server.
        home: of the user on the board.
        answer: makes the answer to a request from its JSON; None runs the command.
        drop_after: bytes of answers after which the connection is cut; None for never.
        drops: how many connections are cut so; the next ones work.
        freeze: stop the started command at once (SIGSTOP).
        commands: what was asked to run.
        pids: of the commands that run or ran.
        env: more of the environment of the commands.
    """

    folder: Path
    port: int = 0
    answer: Callable[[dict[str, Any]], bytes] | None = None
    drop_after: int | None = None
    drops: int = 1 << 30
    freeze: bool = False
    commands: list[str] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    tasks: list[Any] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def host(self) -> str:
        return f"ssh:board:{self.port}"

    @property
    def ssh(self) -> list[str]:
        """What the client's ssh begins with."""
        return ["ssh", "-F", str(self.folder / "config")]

    def trust(self, key: str) -> None:
        """Makes this the known key of the board."""
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {key}")

    async def serve(self, process: Any) -> None:
        """Runs a command as a server of SSH does."""
        self.commands.append(process.command)
        self.tasks.append(asyncio.current_task())
        try:
            if self.answer is not None:
                await self._lie(process, self.answer)
            elif self.drop_after is not None and self.drops > 0:
                self.drops -= 1
                await self._work(process, self.drop_after)
            else:
                await self._work(process)
        except (ConnectionError, asyncio.IncompleteReadError, BrokenPipeError):
            process.exit(1)

    async def _start(self, process: Any) -> asyncio.subprocess.Process:
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "LD_LIBRARY_PATH") if key in os.environ}
        own = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.folder / "run")}
        started = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            process.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**kept, **own, **self.env},
            cwd=self.home,
            start_new_session=True,
        )
        self.pids.append(started.pid)
        if self.freeze:
            os.kill(started.pid, signal.SIGSTOP)
        return started

    async def _work(self, process: Any, most: int | None = None) -> None:
        """Carries bytes both ways until the command ends or the client is gone."""
        started = await self._start(process)
        assert started.stdin and started.stdout and started.stderr
        up = asyncio.ensure_future(_carry_up(process, started.stdin))
        down = asyncio.ensure_future(_carry(started.stdout, process.stdout, most))
        aside = asyncio.ensure_future(_carry(started.stderr, process.stderr, None))
        gone = asyncio.ensure_future(process.channel.wait_closed())
        await asyncio.wait([gone, down], return_when=asyncio.FIRST_COMPLETED)
        if most is not None:
            process.get_extra_info("connection").abort()
        elif not gone.done():
            await asyncio.wait([gone, aside], return_when=asyncio.FIRST_COMPLETED)
            process.exit(await started.wait())
        up.cancel()
        started.stdin.close()  # as a server does when the client is gone: no signal, only the end of input
        await started.wait()
        await asyncio.gather(up, down, aside, gone, return_exceptions=True)
        started._transport.close()  # type: ignore[attr-defined]  # asyncio leaves it to the collector

    async def _lie(self, process: Any, answer: Callable[[dict[str, Any]], bytes]) -> None:
        head, _ = struct.unpack(">II", await process.stdin.readexactly(8))
        request = json.loads(await process.stdin.readexactly(head))
        process.stdout.write(answer(request))
        process.exit(0)


async def _carry_up(process: Any, to: asyncio.StreamWriter) -> None:
    try:
        while data := await process.stdin.read(1 << 16):
            to.write(data)
            await to.drain()
    except ConnectionError:
        pass
    to.close()


async def _carry(source: asyncio.StreamReader, to: Any, most: int | None) -> None:
    """Carries all bytes, or the first so many."""
    sent = 0
    while most is None or sent < most:
        data = await source.read(1 << 16 if most is None else most - sent)
        if not data:
            return
        sent += len(data)
        to.write(data)


async def _ended(tasks: list[Any]) -> None:
    if tasks:
        await asyncio.wait(tasks, timeout=5)


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, what: Any) -> Any:
        asked: Future[Any] = asyncio.run_coroutine_threadsafe(what, self.loop)
        return asked.result(60)

    def close(self) -> None:
        self.run(self._end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    async def _end_tasks(self) -> None:
        await asyncio.sleep(0.05)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBoard]:
    asyncssh = pytest.importorskip("asyncssh")
    folder = tmp_path / "board"
    made = FakeBoard(folder)
    for path in (made.home, folder / "run"):
        path.mkdir(parents=True)
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    (folder / "key").write_bytes(user_key.export_private_key())
    (folder / "key").chmod(stat.S_IRUSR)
    (folder / "authorized").write_bytes(user_key.export_public_key())
    loop = _Loop()

    async def listen() -> Any:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=str(folder / "authorized"),
            process_factory=made.serve,
            encoding=None,
        )

    server = loop.run(listen())
    made.port = server.get_port()
    made.trust(host_key.export_public_key().decode())
    (folder / "config").write_text(
        f"Host board\n HostName 127.0.0.1\n User tester\n IdentityFile {folder}/key\n IdentitiesOnly yes\n"
        f" UserKnownHostsFile {folder}/known_hosts\n GlobalKnownHostsFile /dev/null\n"
    )
    monkeypatch.setenv("HWNAS_SSH", " ".join(made.ssh))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    async def stop_listening() -> None:
        server.close()

    try:
        yield made
    finally:
        loop.run(stop_listening())  # in the loop's thread: connections that end meanwhile touch the server too
        for pid in made.pids:
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        loop.run(_ended(made.tasks))
        loop.close()


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    """A network of some tenths of a second: measuring it takes many seconds."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    names = ["input", *(f"x{i}" for i in range(5)), "output"]
    weights = [
        numpy_helper.from_array(np.full((64, 64, 3, 3), 1e-3, np.float32), f"w{i}") for i in range(len(names) - 1)
    ]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1, 1, 1, 1]) for i in range(len(names) - 1)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 256, 256]) for name in ("input", "output")]
    graph = helper.make_graph(nodes, "heavy", ends[:1], ends[1:], weights)
    path = tmp_path / "heavy.onnx"
    path.write_bytes(
        helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()
    )
    return path
