"""Meters: what tells the energy that a device takes.

A meter is opened by its name with options of its own, in the process that measures:
`open_meter({"use": "csv", "path": "log.csv"})`.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

from ...spaces.errors import DeviceError, HwnasError, UsageError, did_you_mean
from ..runtimes.runtime import Availability

__all__ = ["AUTO", "MODEL", "NONE", "Meter", "find_meter", "meter_help", "meter_names", "open_meter", "stated_watts"]

GROUP = "hwnas.meters"
"""Entry point group of plug-ins."""

AUTO = "auto"
MODEL = "model"
NONE = "none"
"""Names that are no meters: the first one that is here; a stated number of watts; nothing."""


class Meter(ABC):
    """What tells the energy between two moments.

    The options of a meter are the arguments of its constructor, which raises DeviceError when the meter is not there.
    A new one is a subclass and an entry in `_METERS`, or an installed package with an entry point in `hwnas.meters`.
    """

    name: ClassVar[str]
    covers: str
    """What it sees, in words: `processor packages`, `the whole board`."""
    automatic: ClassVar[bool] = False
    """True when it sees the processor of this machine, so that `auto` may take it for what runs there."""
    resolution_mj: float = 0.0
    """Smallest step of its counter, in mJ; 0 where power is sampled."""
    interval_s: float
    """Time between two of its values, in s."""

    @staticmethod
    @abstractmethod
    def available() -> Availability:
        """Whether the meter is here, as far as can be told without options and without waiting."""

    @abstractmethod
    def mark(self) -> float:
        """Notes this moment; called at the begin and at the end of each window.

        Raises:
            DeviceError: the meter is lost or makes no sense.
        """

    def between_mj(self, begin: float, end: float) -> float:
        """Returns the energy between two marks in mJ; marks that count millijoules need nothing else.

        Raises:
            DeviceError: the meter is lost or makes no sense.
        """
        return end - begin

    def close(self) -> None:
        """Lets go of the meter."""
        return None


def _rapl() -> type[Meter]:
    from .counters import RaplMeter

    return RaplMeter


def _ina() -> type[Meter]:
    from .power import InaMeter

    return InaMeter


def _nvml() -> type[Meter]:
    from .counters import NvmlMeter

    return NvmlMeter


def _csv() -> type[Meter]:
    from .meter_log import CsvMeter

    return CsvMeter


_METERS: dict[str, Callable[[], type[Meter]]] = {"rapl": _rapl, "ina": _ina, "nvml": _nvml, "csv": _csv}

_WITHDRAWN = {
    "adb": "meter 'adb' is withdrawn: a phone's battery tells nothing of this machine, and adb needs the network, "
    "which measuring processes have not"
}
"""Names that are no longer meters, with the reason."""


def meter_names() -> tuple[str, ...]:
    """Names of all known meters, here or not, plug-ins last."""
    return tuple(dict.fromkeys([*_METERS, *_plugins()]))


def find_meter(name: str) -> type[Meter]:
    """Returns the class of a meter.

    Raises:
        UsageError: there is none of that name.
        DeviceError: it is withdrawn, or the plug-in of that name cannot be loaded.
    """
    if name in _METERS:
        return _METERS[name]()
    if name in _WITHDRAWN:
        raise DeviceError(_WITHDRAWN[name])
    plugins = _plugins()
    if name not in plugins:
        raise UsageError(f"unknown meter '{name[:64]}'{did_you_mean(name, [AUTO, NONE, MODEL, *_METERS, *plugins])}")
    try:
        found = plugins[name].load()
    except Exception as error:  # whatever a plug-in does
        raise DeviceError(f"meter plug-in '{name}' cannot be loaded: {_one_line(error)}") from error
    if not (isinstance(found, type) and issubclass(found, Meter)):
        raise DeviceError(f"meter plug-in '{name}' is a {type(found).__name__}, expected a class of Meter")
    return found


def open_meter(options: Mapping[str, Any], runtime: str = "") -> Meter:
    """Opens a meter.

    Args:
        options: `use`, its name or `auto`; the rest are the meter's own.
        runtime: what runs the model: for one on a GPU, `auto` takes no meter of the processor.

    Raises:
        UsageError: no such meter or option.
        DeviceError: it is not here; the message says what would help.
    """
    own = {key: value for key, value in options.items() if key != "use"}
    if options["use"] == AUTO:
        return _first_here(own, runtime)
    kind = find_meter(options["use"])
    known = inspect.signature(kind).parameters
    for key in own:
        if key not in known:
            raise UsageError(f"meter '{kind.name}' has no option '{key[:64]}'{did_you_mean(key, known)}")
    needed = [key for key, item in known.items() if item.default is item.empty and key not in own]
    if needed:
        raise UsageError(f"meter '{kind.name}' needs {', '.join(needed)}, e.g. {{use: {kind.name}, {needed[0]}: …}}")
    try:
        return kind(**own)
    except HwnasError:
        raise
    except Exception as error:  # whatever a plug-in does
        raise DeviceError(f"meter '{kind.name}' cannot be opened: {_one_line(error)}") from error


def stated_watts(options: Mapping[str, Any] | None) -> float | None:
    """Returns the power of a stated model, `{use: model, watts: 5}`; None for a meter.

    Raises:
        UsageError: the power is not a number above 0.
    """
    if options is None or options["use"] != MODEL:
        return None
    watts = options.get("watts")
    if isinstance(watts, bool) or not isinstance(watts, int | float) or not math.isfinite(watts) or watts <= 0:
        raise UsageError("the energy model needs the power it assumes, e.g. {use: model, watts: 5}")
    if unknown := set(options) - {"use", "watts"}:
        raise UsageError(f"the energy model has no option '{sorted(unknown)[0][:64]}': it has watts")
    return float(watts)


def meter_help() -> str:
    """Says in one line what would give energy on this machine."""
    told = []
    for name, kind in _METERS.items():
        found = kind().available()
        told.append(f"{name}: {'here, to be named' if found.ok else f'{found.missing} ({found.install})'}")
    return "; ".join([*told, "a plug-in (entry point hwnas.meters)", "or, as an estimate, {use: model, watts: …}"])


def _first_here(own: Mapping[str, Any], runtime: str) -> Meter:
    if own:
        raise UsageError(f"meter 'auto' has no options: name a meter to give it '{next(iter(own))[:64]}'")
    if runtime.endswith("-cuda"):
        kind, found = _nvml(), _nvml().available()
        if not found.ok:
            raise DeviceError(f"no energy meter of {runtime}'s GPU: nvml: {found.missing} ({found.install})")
        return kind()
    for kind in (make() for make in _METERS.values()):
        if kind.automatic and kind.available().ok:
            return kind()
    raise DeviceError(f"no energy meter: {meter_help()}")


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
