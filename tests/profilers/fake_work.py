"""A board whose work only shows that nobody else works at the same time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from hwnas.profilers.hosts.board import main
from hwnas.profilers.hosts.wire import Request


def work(request: Request, model: Path, samples: Path) -> dict[str, Any]:
    """Notes begin and end of the work, with the clock of this machine, in one line each."""
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"begin {os.getpid()} {time.monotonic()}\n".encode())
    time.sleep(float(sys.argv[2]))
    os.write(log, f"end {os.getpid()} {time.monotonic()}\n".encode())
    return {"process": os.getpid()}


if __name__ == "__main__":
    main(work)
