"""Devices and meters as verbs take them: `RUNTIME[:PRECISION]` of this machine, or a name that the user added."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...spaces.errors import DeviceError, UsageError, did_you_mean

if TYPE_CHECKING:
    from ...profilers import Profiler
    from ..known_devices import KnownDevice

__all__ = ["NamedDevice", "check_threads", "input_shape", "meter_options", "named_device"]

THIS_CPU = "cpu"
"""Short for onnxruntime in fp32 on this machine, unless the user added a device of that name."""


@dataclass(frozen=True)
class NamedDevice:
    """A runtime of this machine, or a device that the user added."""

    name: str
    runtime: str
    precision: str
    known: KnownDevice | None = None

    @property
    def title(self) -> str:
        """What it is called where its profile is shown."""
        return self.name or f"{self.runtime}:{self.precision}"

    def open(self, threads: int, precision: str, meter: dict[str, Any], deadline_s: float | None) -> Profiler:
        from ...profilers import LocalProfiler

        if self.known is not None:
            return self.known.open(precision, None if meter["use"] == "auto" else meter, deadline_s)
        return LocalProfiler(self.runtime, threads, precision, deadline_s, meter=meter)


def named_device(device: str) -> NamedDevice:
    """Reads RUNTIME[:PRECISION], the name of a device that the user added, or `cpu`: onnxruntime of this machine.

    Raises:
        DeviceError: there is no such device, or it cannot do the precision.
    """
    from ...profilers import estimated_names, get_runtime, runtime_names
    from ..known_devices import read_devices

    runtime, _, precision = device.partition(":")
    here = (*runtime_names(), *estimated_names())
    if runtime not in here:
        known = read_devices()
        if device == THIS_CPU and device not in known:
            return NamedDevice("", "onnxruntime", "fp32")
        if device not in known:
            raise DeviceError(f"no device '{device}'{did_you_mean(device, (*here, *known))}")
        return NamedDevice(device, known[device].runtime, known[device].precision, known[device])
    precision = precision or get_runtime(runtime).precisions[0]
    get_runtime(runtime).check_precision(precision)
    return NamedDevice("", runtime, precision)


def check_threads(named: list[NamedDevice], threads: int) -> None:
    """Refuses a number of threads that an added device does not have: it keeps that with which it was added."""
    for device in named:
        if device.known is not None and device.known.threads != threads:
            raise UsageError(
                f"--threads {threads}: '{device.name}' was added with {device.known.threads}; add it under another "
                f"name with --threads {threads}, or leave --threads out"
            )


def meter_options(text: str, here: bool) -> dict[str, Any]:
    """Reads NAME[:OPTION=VALUE,...], and opens a meter that was named: one that is not there is told at once.

    Args:
        text: what was given.
        here: a device of this machine is measured; meters of others are not looked for here.
    """
    from ...profilers import open_meter
    from ...profilers.meters.meter import AUTO, NONE, stated_watts

    name, _, rest = text.partition(":")
    options: dict[str, Any] = {"use": name}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key == "use":
            raise UsageError(f"--meter: '{part}' is not OPTION=VALUE, e.g. csv:path=log.csv")
        options[key] = _plain(value)
    if name not in (AUTO, NONE) and stated_watts(options) is None and here:
        open_meter(options).close()
    return options


def _plain(value: str) -> str | int | float:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def input_shape(text: str) -> tuple[int, int, int]:
    """Reads the C,H,W of `--input`."""
    sides = text.split(",")
    if len(sides) != 3 or not all(side.strip().isdecimal() and 0 < int(side) < 1 << 16 for side in sides):
        raise UsageError(f"--input must be three whole numbers C,H,W, not '{text}'")
    channels, height, width = map(int, sides)
    return channels, height, width
