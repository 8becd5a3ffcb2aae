"""A converter that crashes for MNN and hangs for ncnn, whatever it is told; for others it is the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

from hwnas.profilers.runtimes.converter import convert
from hwnas.profilers.serve import serve


def misbehave(request: dict[str, Any]) -> dict[str, Any]:
    if request["runtime"] == "mnn":
        os.kill(os.getpid(), signal.SIGSEGV)
    if request["runtime"] == "ncnn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
        while True:
            pass
    if request["runtime"] == "openvino":
        raise MemoryError("all of it")
    return convert(request)


if __name__ == "__main__":
    serve({"convert": misbehave})
