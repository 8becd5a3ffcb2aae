"""A meter that is installed by tests: 2 W always, and 10 W for each processor that this process keeps busy."""

from __future__ import annotations

import math
import time
from typing import Any, ClassVar

from hwnas.profilers import Availability, Meter


class CpuWatts(Meter):
    name: ClassVar[str] = "cpuwatts"
    covers = "this process"
    interval_s = 0.001

    def __init__(self, mode: str = "sound", busy_w: float = 10.0) -> None:
        self.mode, self.busy_w, self.asked = mode, busy_w, 0
        if mode == "broken":
            raise OSError("no such wire")

    @staticmethod
    def available() -> Availability:
        return Availability(True)

    def mark(self) -> Any:
        self.asked += 1
        mj = 1e3 * (2.0 * time.monotonic() + self.busy_w * time.process_time())
        if self.mode == "dies" and self.asked > 6:
            raise OSError("the wire came off")
        made = {"nothing": None, "nan": math.nan, "zero": 0.0, "backwards": -mj, "text": "12"}
        return made.get(self.mode, mj)
