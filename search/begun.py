"""What a run folder was begun with: written down, and compared before a study goes on in it."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..profilers import get_runtime, runtime_names
from ..profilers.meters.meter import AUTO, NONE
from ..spaces.errors import DataError, UsageError
from .files import read_json, write_json
from .study_file import load_study_file

if TYPE_CHECKING:
    from .evaluation import Bench
    from .study_schema import StudySpec

__all__ = ["check_environment", "check_same_study", "logged", "write_environment"]

MAY_CHANGE = {"search": ("trials", "time_limit", "stop"), "run": None, "verify": None, "export": None}
"""Keys of a study file that may be another when a run is resumed; None stands for the whole section."""
_FILES = ("tables", "cost_models")
"""Parts of `environment.json` that have the digests of files."""


def check_same_study(folder: Path, spec: StudySpec) -> None:
    """Refuses to go on with another study than that of the run folder.

    Raises:
        UsageError: it names the key that differs.
    """
    path = folder / "study.yaml"
    if not path.exists():
        return
    before, now = load_study_file(path).model_dump(mode="json"), spec.model_dump(mode="json")
    for section, keys in MAY_CHANGE.items():
        for key in keys or list(now[section]):
            before[section].pop(key, None)
            now[section].pop(key, None)
    changed = next((section for section in now if now[section] != before.get(section)), None)
    if changed is not None:
        key = _first_change(changed, before.get(changed), now[changed])
        raise UsageError(
            f"{folder} was begun with another '{key}': change it back, or give the study another name (name=…)"
        )


def check_environment(
    folder: Path,
    allow_code: Path | None,
    data: Mapping[str, Any] | None,
    now: Mapping[str, Mapping[str, object]],
    tables: Mapping[str, Mapping[str, object]],
) -> None:
    """Refuses to go on with other data, tables or code than the run folder was begun with, or on another machine.

    Args:
        folder: the run folder.
        allow_code: the file of the user's own spaces.
        data: what is known of the data, with its `digest`; None when the study needs none.
        now: fingerprint of each device that runs models.
        tables: place in the study file → `file` and `digest` of a table, or of a cost model that it begins with.

    Raises:
        UsageError: a device or the code is another one.
        DataError: data or a table has changed, or `environment.json` is corrupt.
    """
    path = folder / "environment.json"
    if path.exists() and logged(folder)[0]:
        try:
            before = read_json(path)
            digest, devices = (before["data"] or {"digest": None})["digest"], dict(before["devices"])
            digests = {place: told["digest"] for part in _FILES for place, told in before.get(part, {}).items()}
            changed = [name for name, found in now.items() if not _alike(devices[name], found)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is corrupt: it lacks the data's digest or a device; restore it") from error
        if changed:
            raise UsageError(
                f"device '{changed[0]}' of {folder} is not the one it was begun on (another processor, "
                "meter or runtime version): its measurements would not compare; give the study another name"
            )
        if before.get("code") != _digest_of(allow_code):
            raise UsageError(
                f"the file of --allow-code is not the one that {folder} was begun with: its architectures may "
                "be other networks now; restore it, or give the study another name"
            )
        other = [place for place, told in tables.items() if digests.get(place) != told["digest"]]
        if other:
            raise DataError(
                f"the file {tables[other[0]]['file']} of {folder} ({other[0]}) has changed since it began: "
                "restore it, or give the study another name"
            )
        if digest != (data or {"digest": None})["digest"]:
            raise DataError(
                f"the data of {folder} has changed since it began: restore it, or give the study another name"
            )


def write_environment(bench: Bench, known: Mapping[str, Any]) -> None:
    """Writes `environment.json`: versions, devices, digests, seed, commit.

    Args:
        bench: of the study.
        known: `data`, `input` and `num_classes`.
    """
    spec = bench.spec
    used = {device.runtime for device in spec.devices.values() if not device.is_replay}
    tables = bench.tables.digests() if bench.tables else {}
    begun_with = bench.begun_with()
    replayed = {name: {"runtime": device.runtime} for name, device in spec.devices.items() if device.is_replay}
    packages = ("hwnas", "torch", "optuna", "onnx", "onnxruntime", "fvcore", "numpy", "pandas", "plotly")
    write_json(
        bench.folder / "environment.json",
        {
            "versions": {
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in packages},
                **{name: get_runtime(name).available().version for name in sorted(used - set(packages))},
            },
            "devices": {**{name: each.fingerprint() for name, each in bench.devices.items()}, **replayed},
            **({"tables": tables} if tables else {}),
            **({"cost_models": begun_with} if begun_with else {}),
            "data": known["data"],
            "input": known["input"],
            "num_classes": known["num_classes"],
            "seed": spec.search.seed,
            "code": _digest_of(bench.allow_code),
            "allow_code": bench.allow_code and bench.allow_code.name,
            "git": _git(),
        },
    )


def logged(folder: Path) -> tuple[int, set[int]]:
    """Returns how many trials drivers have asked for here, and the numbers of those that they told the end of.

    Both are logged after they were stored, so the database has at least as much. Broken lines are left out.
    """
    events = folder / "events.jsonl"
    asked, told = 0, set()
    if events.exists():
        with events.open("rb") as lines:
            for line in lines:
                with suppress(ValueError, KeyError, TypeError):
                    event = json.loads(line)
                    if event["event"] == "asked":
                        asked = max(asked, int(event["number"]) + 1)
                    elif event["event"] == "told":
                        told.add(int(event["number"]))
    return asked, told


def _first_change(key: str, before: Any, now: Any) -> str:
    """Returns the dotted key of the first difference."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys([*now, *before]):
            if before.get(name) != now.get(name):
                return _first_change(f"{key}.{name}", before.get(name), now.get(name))
    return key


def _alike(before: Mapping[str, object], now: Mapping[str, object]) -> bool:
    """True when measurements of both fingerprints compare."""
    npu = ("vela", "accelerator", "system_config", "memory_mode")
    machine = ("cpu", "cpu_flags", "gpu", "compiler", "machine", "board", "phone", "soc", "serial", "protocol")
    keys = (*machine, *runtime_names(), *npu)
    meters = {before.get("meter", NONE), now.get("meter", NONE)}
    if len(meters) > 1 and AUTO not in meters:  # auto: there was none
        return False
    return all(before.get(key) == now.get(key) for key in keys)


def _digest_of(code: Path | None) -> str | None:
    """Returns the digest of a file that the user allowed to run."""
    return None if code is None else hashlib.sha256(code.read_bytes()).hexdigest()


def _git() -> str | None:
    """Returns the commit of the folder the study is run in, with `+` when it has changes; None outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
