"""Is a board ever used by two at the same time? Many clients, many jobs, clients and boards killed at random.

Every job starts the real board's side (`hwnas.profilers.hosts.board`) with the real lease; only the work is replaced:
it notes when it begins and ends, and sleeps a little in between. Some clients vanish (the end of the board's input is
all that shows it), some boards are killed, while they wait or while they work. Then the notes are read: whoever
begins while another works must come after that one's death, and within two seconds of it.

    python benchmarks/lease.py --clients 16 --jobs 1000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwnas.profilers.hosts.board import main as serve
from hwnas.profilers.hosts.wire import Request

WORK_S = 0.002
KILLED = 0.3
"""Share of the jobs whose client or board is killed."""


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        clients: at the same time.
        jobs: asked for.
        begun: jobs whose work began.
        killed: clients that vanished, and boards that were killed.
        overlaps: jobs that began while another worked.
        takeovers: jobs that began after the one before had died at work.
        freed_s: longest time from a death at work to the next begin; of one that only began when its client was already
            gone, from its begin.
        seconds: of all.
    """

    clients: int
    jobs: int
    begun: int
    killed: int
    overlaps: int
    takeovers: int
    freed_s: float
    seconds: float


def note_work(request: Request, model: Path, samples: Path) -> dict[str, Any]:
    """The work of a job: notes begin and end, with the clock of this machine."""
    log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"begin {os.getpid()} {time.monotonic()}\n".encode())
    time.sleep(float(sys.argv[3]))
    os.write(log, f"end {os.getpid()} {time.monotonic()}\n".encode())
    return {"process": os.getpid()}


def start(log: Path, work_s: float, lease_wait_s: float = 600.0, deadline_s: float = 60.0) -> subprocess.Popen[bytes]:
    """Starts a board and sends it a request, whose answer is not waited for."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--work", str(log), str(work_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin, "it was started with a pipe"
    request = Request("0" * 32, "fingerprint", lease_wait_s=lease_wait_s, deadline_s=deadline_s)
    process.stdin.write(request.frame())
    process.stdin.flush()
    return process


def finish(process: subprocess.Popen[bytes]) -> bytes:
    """Returns the answer of a board that ends by itself."""
    assert process.stdout and process.stdin, "it was started with pipes"
    answer = process.stdout.read()
    process.stdin.close()
    process.stdout.close()
    process.wait(30)
    return answer


def kill(process: subprocess.Popen[bytes], board: bool) -> float:
    """Kills a board, or its client: then it only sees the end of its input. Returns when."""
    assert process.stdout and process.stdin, "it was started with pipes"
    if board:
        process.send_signal(signal.SIGKILL)
    at = time.monotonic()
    process.stdin.close()
    process.stdout.close()
    process.wait(30)
    return at


def torture(log: Path, clients: int, jobs: int, seed: int) -> Outcome:
    """Runs all jobs from so many clients; returns what the notes say."""
    left, lock = iter(range(jobs)), threading.Lock()
    deaths: dict[int, float] = {}
    unanswered: list[bytes] = []

    def client(number: int) -> None:
        dice = random.Random(f"{seed}/{number}")
        while True:
            with lock:
                if next(left, None) is None:
                    return
            doomed = dice.random() < KILLED
            process = start(log, 30.0 if doomed and dice.random() < 0.3 else WORK_S)
            if doomed:
                time.sleep(dice.expovariate(1.0))
                deaths[process.pid] = kill(process, board=dice.random() < 0.5)
            elif b'"ok"' not in (answer := finish(process)):
                unanswered.append(answer)

    begun = time.monotonic()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if unanswered:
        raise SystemExit(f"{len(unanswered)} jobs of living clients had no answer, e.g. {unanswered[0]!r}")
    return read_notes(log, deaths, clients, jobs, time.monotonic() - begun)


def read_notes(log: Path, deaths: dict[int, float], clients: int, jobs: int, seconds: float) -> Outcome:
    """Reads who worked when; `deaths` has the time at which a process was killed."""
    holder: int | None = None
    begun = overlaps = takeovers = 0
    freed_s = since = 0.0
    for line in log.read_text().splitlines():
        what, pid, at = line.split()
        if what == "end":
            overlaps += holder != int(pid)
            holder = None
            continue
        begun += 1
        if holder is not None:
            takeovers += 1
            overlaps += holder not in deaths
            freed_s = max(freed_s, float(at) - max(deaths.get(holder, 0.0), since))
        holder, since = int(pid), float(at)
    return Outcome(clients, jobs, begun, len(deaths), overlaps, takeovers, freed_s, seconds)


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        serve(note_work)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of who is killed, and when")
    parser.add_argument("--json", type=Path, help="write the row to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hwnas-lease-") as folder:
        os.environ["XDG_RUNTIME_DIR"] = os.environ["TMPDIR"] = folder
        outcome = torture(Path(folder, "log"), options.clients, options.jobs, options.seed)
    headings = ("clients", "jobs", "begun", "killed", "overlaps", "takeovers", "freed", "took")
    print(*(f"{heading:>{width}}" for heading, width in zip(headings, (8, 6, 6, 7, 9, 10, 8, 7), strict=True)))
    print(
        f"{outcome.clients:8} {outcome.jobs:6} {outcome.begun:6} {outcome.killed:7} {outcome.overlaps:9} "
        f"{outcome.takeovers:10} {outcome.freed_s:6.2f} s {outcome.seconds:5.0f} s"
    )
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome)], indent=1))
    return 0 if outcome.overlaps == 0 and outcome.freed_s <= 2.0 else 1


if __name__ == "__main__":
    sys.exit(main())
