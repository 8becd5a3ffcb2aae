"""The user's devices: boards and phones that were added by name, in a file of the user's configuration folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spaces.errors import DataError
from .files import read_json, write_json
from .study_fields import NAME

if TYPE_CHECKING:
    from ..profilers import Profiler

__all__ = ["KnownDevice", "devices_path", "how_to_open", "read_devices", "write_devices"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class KnownDevice:
    """A device that the user added.

    Attributes:
        host: as in a study file.
        runtime: name of the runtime.
        threads: threads of one inference.
        precision: of the runtime.
        python: the board's Python.
        tool: path of the benchmark program on a phone.
        allow_tcp: a phone over the network is meant.
        golden_ms: latency of the golden network when the device was added; None where it cannot be measured.
        fingerprint: what the device said of itself then.
    """

    host: str
    runtime: str = "onnxruntime"
    threads: int = 1
    precision: str = "fp32"
    python: str = "python3"
    tool: str = ""
    allow_tcp: bool = False
    golden_ms: float | None = None
    fingerprint: Mapping[str, Any] = field(default_factory=dict)

    def how(self, precision: str, threads: int) -> dict[str, Any]:
        """What `open_profiler` has to know beside host, runtime, threads and precision."""
        phone = {"tool": self.tool, "allow_tcp": self.allow_tcp} if self.host.startswith("adb:") else {}
        same = (precision, threads) == (self.precision, self.threads)  # else the golden network takes another time
        return {"python": self.python, **phone, **({"golden_ms": self.golden_ms} if same and self.golden_ms else {})}

    def open(
        self, precision: str | None = None, meter: Mapping[str, Any] | None = None, deadline_s: float | None = None
    ) -> Profiler:
        """Returns its profiler; a request may take `deadline_s`, or what is usual for the runtime.

        Raises:
            DeviceError: host, runtime or paths are not of a form that is accepted.
        """
        from ..profilers import open_profiler

        precision = precision or self.precision
        how = {"host": self.host, "meter": meter, "deadline_s": deadline_s, **self.how(precision, self.threads)}
        return open_profiler(self.runtime, self.threads, precision, **how)

    def found(self, golden_ms: float | None, fingerprint: Mapping[str, Any]) -> KnownDevice:
        """Returns it with what was found out about it."""
        return replace(self, golden_ms=golden_ms, fingerprint=dict(fingerprint))


def devices_path() -> Path:
    """Returns the file's path, whether it is there or not."""
    configuration = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    return Path(configuration) / "hwnas" / "devices.json"


def read_devices() -> dict[str, KnownDevice]:
    """Returns the user's devices by name; none where there is no file.

    Raises:
        DataError: the file is not one.
    """
    path = devices_path()
    if not path.exists():
        return {}
    data = read_json(path)
    try:
        if data["schema_version"] != SCHEMA_VERSION:
            raise DataError(f"{path} is of another version ({data['schema_version']}) than this hwnas reads")
        found = {str(name): KnownDevice(**entry) for name, entry in data["devices"].items()}
        for name, device in found.items():
            texts = (device.host, device.runtime, device.precision, device.python, device.tool)
            if not NAME.fullmatch(name) or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"the entry '{name[:64]}'")
            if type(device.threads) is not int or type(device.allow_tcp) is not bool:
                raise ValueError(f"the entry '{name[:64]}'")
            if device.golden_ms is not None and not (type(device.golden_ms) is float and device.golden_ms > 0):
                raise ValueError(f"the entry '{name[:64]}'")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is corrupt ({error}): mend or remove it") from error
    return found


def write_devices(devices: Mapping[str, KnownDevice]) -> None:
    """Writes the file, whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    entries = {name: asdict(device) for name, device in sorted(devices.items())}
    write_json(devices_path(), {"schema_version": SCHEMA_VERSION, "devices": entries})


def how_to_open(host: str, runtime: str, precision: str, threads: int) -> dict[str, Any]:
    """Returns what the user's file knows of a device that a study file names: of its host and runtime.

    Of several, that of the same precision counts, and among those that of as many threads.
    """
    if host == "local":
        return {}
    known = [device for device in read_devices().values() if (device.host, device.runtime) == (host, runtime)]
    known.sort(key=lambda device: (device.precision != precision, device.threads != threads))
    return known[0].how(precision, threads) if known else {}
