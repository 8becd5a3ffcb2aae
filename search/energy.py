"""The meters of a study: which device has one, and what to say where one is needed and there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..profilers import open_meter
from ..profilers.meters.meter import AUTO, NONE, meter_help, stated_watts
from ..spaces.errors import DeviceError, UsageError
from .metrics import Metric, Reading

if TYPE_CHECKING:
    from ..profilers import Energy
    from .study_schema import DeviceSpec, StudySpec

__all__ = ["demand", "energy_metric", "energy_reading", "meters_of", "needed"]

ENERGY = "energy_mj"


def energy_metric(device: str) -> str:
    """Returns the metric of a device's energy."""
    return f"{ENERGY}@{device}"


def needed(spec: StudySpec) -> set[str]:
    """Returns the metrics that an objective or a limit cannot do without."""
    return {str(o.metric) for o in spec.objectives} | {str(limit.metric) for limit in spec.limits}


def meters_of(spec: StudySpec) -> dict[str, Mapping[str, Any]]:
    """Returns the meter of each device: a name in place of `auto`, none where the study names no energy.

    A meter of this machine is opened once, so that one that is not there is told before anything is trained.

    Raises:
        UsageError: no such meter or option; its attribute `key` says where in the study file.
        DeviceError: an objective or a limit needs a meter that is not there.
    """
    wanted = {metric.device for metric in spec.metrics if metric.name == ENERGY}
    return {
        name: _meter_of(name, device, needed=energy_metric(name) in needed(spec)) if name in wanted else {"use": NONE}
        for name, device in spec.devices.items()
    }


class MeterUsageError(UsageError):
    """A meter of the study file does not exist, or has other options."""

    def __init__(self, message: str, key: tuple[str, ...]) -> None:
        super().__init__(message)
        self.key = key


def _meter_of(name: str, device: DeviceSpec, *, needed: bool) -> Mapping[str, Any]:
    metric = energy_metric(name)
    try:
        if device.meter["use"] == NONE:
            raise DeviceError(f"meter: none was asked for; what could be: {meter_help()}")
        if stated_watts(device.meter) is not None or device.host != "local":
            return device.meter
        meter = open_meter(device.meter, device.runtime)
    except UsageError as error:
        raise MeterUsageError(str(error), ("devices", name, "meter")) from error
    except DeviceError as error:
        if needed:
            raise DeviceError(f"'{metric}' cannot be measured: {error}") from error
        return device.meter
    meter.close()
    return {"use": meter.name} if device.meter["use"] == AUTO else device.meter


def energy_reading(energy: Energy | None) -> Reading:
    """Returns the reading of an energy; missing, with its reason, where there is none."""
    if energy is None or energy.energy_mj is None:
        return Reading.missing(energy.reason if energy else "no meter")
    ends = energy.energy_mj, energy.low_mj, energy.high_mj
    if energy.source == "estimated":
        return Reading(*ends, "estimated", reason=energy.reason)
    return Reading(*ends, "measured", energy.noisy)


def demand(metrics: Iterable[str], readings: Mapping[str, Reading]) -> None:
    """Refuses to go on without an energy that the study needs: the meter was lost.

    Raises:
        DeviceError: one of the metrics is missing; it says why.
    """
    for metric in metrics:
        reading = readings.get(metric)
        if reading is not None and reading.value is None and Metric.parse(metric).name == ENERGY:
            raise DeviceError(f"'{metric}' cannot be measured: {reading.reason or 'no meter'}")
