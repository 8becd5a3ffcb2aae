"""Types of single values in a study file: names, durations, metrics, limits; and how their errors are said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

from ..spaces.errors import DeviceError, UsageError, did_you_mean
from .metrics import Limit, Metric
from .study_yaml import shown

__all__ = [
    "NAME",
    "FittedField",
    "HostText",
    "KnobName",
    "KnobValue",
    "LimitField",
    "MeterField",
    "MetricField",
    "OptionalSeconds",
    "PathText",
    "PlainName",
    "Seconds",
    "Share",
    "SpaceName",
    "fault",
    "quoted",
    "refuse_choice",
]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A name of a study, a device, a space: safe as a file name and as a command line argument."""

_RESERVED = {"CON", "PRN", "AUX", "NUL"} | {f"{port}{digit}" for port in ("COM", "LPT") for digit in range(1, 10)}
_DURATION = re.compile(r"(?:(\d{1,6}(?:\.\d+)?)h)?(?:(\d{1,6}(?:\.\d+)?)m)?(?:(\d{1,8}(?:\.\d+)?)s)?", re.ASCII)
_LONGEST = 366 * 86400.0


def fault(message: str, *at: str | int, kind: Literal["study", "device"] = "study") -> PydanticCustomError:
    """An error of a validator.

    Args:
        message: one line for the user.
        at: where, below the value that is validated.
        kind: `device` for what is legal but needs a device, runtime or meter that is not here (exit code 4).
    """
    return PydanticCustomError(kind, "{message}", {"message": message, "at": at})


def refuse_choice(
    value: object, available: tuple[str, ...], later: tuple[str, ...], kind: Literal["study", "device"]
) -> None:
    """Refuses what the interface names and this version has not; the field's own type refuses the rest."""
    if isinstance(value, str) and value in later:
        raise fault(f"'{value}' is not in this version (available: {', '.join(available)})", kind=kind)
    if isinstance(value, str) and value not in available:
        raise fault(f"unknown: '{value[:64]}'{did_you_mean(value[:64], (*available, *later))}")


def quoted(text: str) -> str:
    return shown(text).removeprefix("the text ")


def _plain_name(value: str) -> str:
    if not NAME.fullmatch(value) or value.split(".")[0].upper() in _RESERVED:
        raise fault(
            f"{quoted(value)} is not a name: 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        )
    return value


def _space_name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise fault(
            f"{quoted(value)} is not the name of a space: use a built-in or a plug-in by its name; "
            "a space of your own comes from the command line: --allow-code FILE"
        )
    return value


def _printable(value: str) -> str:
    if not value or not value.isprintable():
        raise fault(f"expected a file path, not {shown(value)}")
    return value


def _host(value: str) -> str:
    from ..profilers.hosts.adb import parse_phone
    from ..profilers.hosts.ssh import Destination

    kind, _, where = value.partition(":")
    try:
        if kind == "adb":
            _, where = parse_phone(where, allow_tcp=True)  # whether that is meant is in the user's own file
        if kind == "ssh" or (kind == "adb" and where):
            Destination.parse(where)
        elif value != "local" and kind != "adb":
            raise DeviceError("expected local, ssh:[USER@]HOST[:PORT] or adb:SERIAL")
    except DeviceError as error:
        raise fault(f"{quoted(value)}: {error}" if "'" not in str(error) else str(error)) from None
    return value


def _seconds(value: object) -> float:
    seconds = 0.0
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise fault(f"expected a duration such as 90s, 30m or 1h30m, not {shown(value)}")
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(value)
        if not value or match is None:
            raise fault(f"expected a duration such as 90s, 30m or 1h30m, not {shown(value)}")
        seconds = sum(float(part) * unit for part, unit in zip(match.groups("0"), (3600, 60, 1), strict=True))
    if not 0 < seconds <= _LONGEST:
        raise fault(f"must be more than 0 and at most 366 days, not {shown(value)}")
    return seconds


def _optional_seconds(value: object) -> float | None:
    return None if value is None else _seconds(value)


def _metric(value: object) -> Metric:
    if isinstance(value, Metric):
        return value
    if not isinstance(value, str):
        raise fault(f"expected a metric such as top1 or latency_ms@cpu, not {shown(value)}")
    try:
        return Metric.parse(value)
    except UsageError as error:
        raise fault(str(error)) from None


def _limit(value: object) -> Limit:
    if isinstance(value, Limit):
        return value
    if not isinstance(value, str):
        raise fault(f"expected a limit such as latency_ms@cpu <= 2, not {shown(value)}")
    try:
        return Limit.parse(value)
    except UsageError as error:
        raise fault(str(error)) from None


def _meter(value: object) -> dict[str, Any]:
    """Takes a name for `{use: name}`; whether the meter and its options exist is asked where it is opened."""
    if isinstance(value, str):
        value = {"use": value}
    if not isinstance(value, Mapping):
        raise fault(f"expected a meter such as auto, rapl or {{use: csv, path: log.csv}}, not {shown(value)}")
    if not isinstance(value.get("use"), str):
        raise fault("missing: the name of the meter, e.g. {use: csv, path: log.csv}", "use")
    for key, option in value.items():
        if isinstance(option, str) and not option.isprintable():
            raise fault("a text may not have control characters", key)
        if not isinstance(option, str | int | float | bool):
            raise fault(f"expected a text or a number, not {shown(option)}", key)
    return dict(value)


def _fitted(value: object) -> str | dict[str, str]:
    """Takes a path, or a mapping of devices to paths."""
    if isinstance(value, str):
        return _printable(value)
    if not isinstance(value, Mapping) or not value:
        raise fault(f"expected a file path, or a mapping of devices to file paths, not {shown(value)}")
    for name, path in value.items():
        if not isinstance(path, str) or not path or not path.isprintable():
            raise fault(f"expected a file path, not {shown(path)}", name)
    return dict(value)


def _knob(value: object) -> object:
    entries = value if isinstance(value, tuple) else (value,)
    if not entries or not all(isinstance(entry, str | int | float | bool) for entry in entries):
        raise fault(f"expected a value or a list of values, not {shown(value) if entries else 'an empty list'}")
    if any(isinstance(entry, str) and not entry.isprintable() for entry in entries):
        raise fault("a text may not have control characters")
    return value


def _knob_name(value: str) -> str:
    if not value.isprintable():
        raise fault("a knob's name may not have control characters")
    return value


SpaceName = Annotated[str, AfterValidator(_space_name)]
HostText = Annotated[str, AfterValidator(_host)]
PathText = Annotated[str, AfterValidator(_printable)]
KnobName = Annotated[str, AfterValidator(_knob_name)]
PlainName = Annotated[str, AfterValidator(_plain_name)]
KnobValue = Annotated[
    str | int | float | bool | tuple[str | int | float | bool, ...],
    PlainValidator(_knob, json_schema_input_type=Any),
    PlainSerializer(lambda value: value, return_type=Any),  # pydantic's own warns of a tuple
]
Seconds = Annotated[float, BeforeValidator(_seconds)]
OptionalSeconds = Annotated[float | None, BeforeValidator(_optional_seconds)]
MetricField = Annotated[Metric, PlainValidator(_metric), PlainSerializer(str)]
LimitField = Annotated[Limit, PlainValidator(_limit), PlainSerializer(str)]
MeterField = Annotated[
    Mapping[str, Any],
    PlainValidator(_meter, json_schema_input_type=Any),
    PlainSerializer(dict, return_type=Any),
]
"""`{"use": NAME, OPTION: …}`"""
Share = Annotated[float, Field(ge=0.01, le=0.9)]
FittedField = Annotated[
    str | Mapping[str, str],
    PlainValidator(_fitted, json_schema_input_type=Any),
    PlainSerializer(lambda value: value, return_type=Any),
]
"""A path, or device → path."""
