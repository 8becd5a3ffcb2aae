"""`hwnas fit`"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ...spaces.errors import CandidateError, DeviceError, HwnasError, InterruptedStudyError, SpaceError
from .common import allow_code, as_json, next_command, print_json, print_table, say, status
from .named_device import NamedDevice, check_threads, input_shape, meter_options, named_device

if TYPE_CHECKING:
    from ...cost_models.probe_fusion import FusionTable
    from ...profilers import Profiler
    from ...spaces import Space
    from ..fit_report import Report
    from ..fitting import Fit, Task

REPORTED = 40
"""Other networks of a report, when no number is stated."""
USUAL = {"input": (3, 32, 32), "num_classes": 10}
"""Input and classes, when neither the user nor the space states them."""
GOOD_ENOUGH = 0.1
"""Error at left-out networks above which more samples are suggested, up to MOST_SUGGESTED."""
MOST_SUGGESTED = 100
CLOSE = 0.1
"""Error of a prediction that is called close."""


@click.command("fit")
@click.argument("device")
@click.option("--space", required=True, metavar="NAME", help="Whose networks are measured, e.g. mobile.")
@click.option("--input", "shape", metavar="C,H,W", help="Input of the networks [the space's own, or 3,32,32].")
@click.option("--num-classes", type=click.IntRange(1, 1_000_000), help="Their classes [the space's own, or 10].")
@click.option(
    "--samples",
    default=10,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="Networks to measure, with those of earlier fits in the file.",
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of networks.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads of one inference.")
@click.option("--use", default="auto", show_default=True, metavar="MODEL", help="auto, additive, ...; see docs/fit.md.")
@click.option(
    "--target",
    default="latency_ms",
    show_default=True,
    type=click.Choice(["latency_ms", "energy_mj", "peak_memory_mb"]),
    help="What is measured.",
)
@click.option(
    "--meter",
    default="auto",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="What tells energy_mj, as for `hwnas profile`.",
)
@click.option(
    "--report",
    is_flag=False,
    flag_value=REPORTED,
    default=None,
    type=click.IntRange(3, 10_000),
    metavar="[N]",
    help=f"Measure N other networks [{REPORTED}], each twice, and tell how good the predictions are.",
)
@click.option(
    "--probe-fusion",
    "probe",
    is_flag=True,
    help="Also infer which operators the runtime fuses, from the times of 18 short chains; the table goes beside FILE.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Where the model goes.")
@click.option("--fresh", is_flag=True, help="Take nothing from earlier fits and measurements.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 86400),
    metavar="SECONDS",
    help="Longest time of one conversion [600], and of one request to the device [the runtime's own].",
)
@allow_code
@as_json
def command(
    device: str,
    space: str,
    shape: str | None,
    num_classes: int | None,
    samples: int,
    seed: int,
    threads: int,
    use: str,
    target: Any,
    meter: str,
    report: int | None,
    probe: bool,
    out: Path | None,
    fresh: bool,
    timeout: float | None,
    allow_code: Path | None,
    as_json: bool,
) -> int:
    """Measure a few networks of a space, and fit the device's cost model to them.

    DEVICE is a runtime of this machine, e.g. openvino or onnxruntime:int8, cpu for onnxruntime, or a device added by
    `hwnas devices add`.

    The networks are chosen so that they tell the costs, some at random so that the errors are honest, and the first
    three are measured twice for the noise. With --samples 20 a second run measures ten more. An interrupted run goes
    on where it was. Exit code 4 when the device cannot tell the target, 75 while another fit works on the same file.
    """
    named = named_device(device)
    if click.get_current_context().get_parameter_source("threads") is not ParameterSource.DEFAULT:
        check_threads([named], threads)
    threads = named.known.threads if named.known else threads
    found = _space(space, shape, num_classes, allow_code)
    from ..fit_report import report_on
    from ..fitting import Task, default_path, fit_device
    from ..networks import Networks, refuse_estimated
    from ..space_files import DEADLINE_S, SpaceFiles

    refuse_estimated(named.runtime)
    task = Task(found, target, samples, seed, use)
    task.check()
    path = out or default_path(named.name, named.runtime, named.precision, threads, task)
    begin = time.monotonic()
    reported: Report | None = None
    fused: FusionTable | None = None
    fault: HwnasError | None = None
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwnas-fit-")))
        files = stack.enter_context(SpaceFiles(found, folder, allow_code, timeout or DEADLINE_S))
        opened = named.open(threads, named.precision, _meter(named, target, meter), timeout)
        profiler = stack.enter_context(opened)
        networks = Networks(files, profiler, named.runtime, named.precision, target, fresh=fresh)
        stack.callback(networks.close)
        try:
            with status() as told:
                fit = fit_device(networks, task, path, fresh=fresh, told=told)
        except KeyboardInterrupt as error:
            raise InterruptedStudyError("interrupted: what was measured is kept, the same command goes on") from error
        seconds = time.monotonic() - begin
        _say_failed(fit.failed)
        if not as_json:
            _print(named, threads, task, fit, path, seconds)
        try:
            if probe:
                fused = _fusions(profiler, named, folder, path)
                if not as_json:
                    _print_fusions(fused, path)
            if report:
                try:
                    with status() as told:
                        reported = report_on(fit.fitted, networks, task, report, told)
                except KeyboardInterrupt as error:
                    raise InterruptedStudyError(f"interrupted in the report: the cost model is in {path}") from error
                _say_failed(reported.failed)
        except HwnasError as error:  # the fit itself is sound, and is told with the exit code of the failure
            fault = error
    if as_json:
        title = {"device": named.title, "threads": threads, "target": target, "space": space}
        title |= {"input": list(found.input_shape), "num_classes": found.num_classes, "seed": seed}
        parts = {"report": reported.to_json() if reported else None, "fusion": fused.to_json() if fused else None}
        print_json({**title, **_fit_json(fit, path, seconds), **parts, "error": str(fault) if fault else None})
    if fault:
        raise fault
    if reported and not as_json:
        _print_report(reported, target)
    _suggest(fit, device, path, task)
    return 0


def _say_failed(failed: Mapping[str, str]) -> None:
    for name, why in failed.items():
        say(f"network {name} failed, another took its place: {why}")


def _space(use: str, shape: str | None, num_classes: int | None, code: Path | None) -> Space:
    """Returns the space, for the usual task where none is stated."""
    from ...spaces import load_space

    task: dict[str, Any] = {"input": None if shape is None else input_shape(shape), "num_classes": num_classes}
    while True:
        try:
            return load_space(use, input_shape=task["input"], num_classes=task["num_classes"], allow_code=code)
        except SpaceError as error:
            missing = error.key[0] if error.key else ""
            if missing not in USUAL or task[missing] is not None:
                raise
            task[missing] = USUAL[missing]


def _meter(device: NamedDevice, target: str, text: str) -> dict[str, Any]:
    """Returns the options of the meter that the target needs; none for other targets.

    Raises:
        DeviceError: there is none, or it does not measure.
    """
    from ...profilers import open_meter
    from ...profilers.meters.meter import NONE, stated_watts

    if target != "energy_mj":
        return {"use": NONE}
    if device.known is not None and device.known.host != "local":
        raise DeviceError(f"energy_mj cannot be measured on '{device.name}': meters are read on this machine only")
    options = meter_options(text, here=True)
    if options["use"] == NONE or stated_watts(options) is not None:
        raise DeviceError("energy_mj needs a meter that measures: a stated power says nothing that a latency does not")
    try:
        meter = open_meter(options, device.runtime)
    except DeviceError as error:
        raise DeviceError(f"energy_mj cannot be measured: {error}") from error
    meter.close()
    return {**options, "use": meter.name}


def _fit_json(fit: Fit, path: Path, seconds: float) -> dict[str, Any]:
    fitted = fit.fitted
    errors: Sequence[float | None] = fit.left_out or [None] * len(fitted.samples)
    return {
        "model": fitted.model.name,
        "why": fit.why,
        "noise": fitted.provenance.noise,
        "left_out_error": fit.left_out_error,
        "measured_now": fit.measured,
        "noisy": fit.noisy,
        "stopped": fit.stopped or None,
        "failed": [{"arch_id": name, "error": why} for name, why in fit.failed.items()],
        "samples": [
            {"arch_id": one.name, "measured": one.value, "at_random": one.at_random, "left_out_log_ratio": error}
            for one, error in zip(fitted.samples, errors, strict=True)
        ],
        "file": str(path),
        "seconds": round(seconds, 1),
    }


def _print(device: NamedDevice, threads: int, task: Task, fit: Fit, path: Path, seconds: float) -> None:
    fitted, errors = fit.fitted, fit.left_out
    samples = fitted.samples
    shape = "x".join(map(str, task.space.input_shape))
    unit = task.target.rpartition("_")[2]
    values = [one.value for one in samples]
    at_random = sum(one.at_random for one in samples)
    rows = [
        ["device", f"{device.title}, {threads} thread{'s' if threads > 1 else ''}"],
        ["space", f"{task.space.name} {shape}, {task.space.num_classes} classes, seed {task.seed}"],
        ["networks", f"{len(samples)} measured, {at_random} of them at random, {fit.measured} now"],
        [task.target, f"{min(values):.4g} to {max(values):.4g} {unit}"],
        ["noise", f"{fitted.provenance.noise:.1%} of one measurement (standard deviation)"],
        ["model", fit.why],
    ]
    if errors:
        close = sum(abs(math.expm1(-error)) <= CLOSE for error in errors)
        told = f"{fit.left_out_error:.1%} off on average, {close} of {len(errors)} within {CLOSE:.0%}"
        rows.append(["left out", told])
    rows += [["time", f"{seconds:.0f} s"], ["file", str(path)]]
    print_table(["", ""], rows)
    if fit.noisy:
        say(f"{fit.noisy} of {fit.measured} measurements were disturbed: fit again when the machine is idle")
    if fit.stopped:
        say(fit.stopped)


def _fusions(profiler: Profiler, device: NamedDevice, folder: Path, path: Path) -> FusionTable:
    """Infers what the runtime fuses; the table is written beside the cost model.

    Raises:
        DeviceError: a chain cannot be converted or run on the device.
    """
    from ..files import write_json
    from ..fusions import fusions

    try:
        with status() as told:
            found = fusions(profiler, device.runtime, device.precision, folder, told)
    except CandidateError as error:
        raise DeviceError(f"{device.title} does not run the chains of --probe-fusion: {error}") from error
    except KeyboardInterrupt as error:
        raise InterruptedStudyError(f"interrupted in --probe-fusion: the cost model is in {path}") from error
    write_json(_fusion_path(path), found.to_json())
    return found


def _fusion_path(path: Path) -> Path:
    return path.with_suffix(".fusion.json")


def _print_fusions(table: FusionTable, path: Path) -> None:
    said = {True: "fused", False: "not fused", None: "open"}
    rows = [
        [f"{pair.first} + {pair.second}", f"{pair.share:.2f}", f"{pair.error:.2f}", said[pair.fused]]
        for pair in table.pairs
    ]
    click.echo("")
    print_table(["operators", "share", "error", "inferred"], rows)
    click.echo(f"share: cost of the second after the first over its cost alone; table in {_fusion_path(path)}")


def _print_report(report: Report, target: str) -> None:
    model, ceiling = report.model, report.ceiling
    rows = [
        ["Spearman", f"{model.spearman:.3f}", f"{ceiling.spearman:.3f}"],
        ["Kendall", f"{model.kendall:.3f}", f"{ceiling.kendall:.3f}"],
        ["mean error", f"{model.mape:.1%}", f"{ceiling.mape:.1%}"],
        ["within 5 %", f"{model.within_5:.0%}", f"{ceiling.within_5:.0%}"],
        ["within 10 %", f"{model.within_10:.0%}", f"{ceiling.within_10:.0%}"],
        ["shift", f"{report.shift:+.1%}", f"{report.ceiling_shift:+.1%}"],
        ["in the 90 % interval", f"{report.coverage:.0%}", ""],
        ["half-width of the interval", f"{report.half_width:.1%}", ""],
    ]
    click.echo("")
    print_table([f"{len(report.names)} other networks", "predicted", "measured again"], rows)
    click.echo(
        f"{target} against a first measurement; 'measured again' is what a second one differs by: both have noise, "
        "so a perfect model could be nearer"
    )
    if report.noisy:
        say(f"{report.noisy} of {len(report.names)} other networks were disturbed in a measurement")


def _suggest(fit: Fit, device: str, path: Path, task: Task) -> None:
    """Names the next command: more samples while they would help, else a study that uses the model."""
    error, count = fit.left_out_error or 0.0, len(fit.fitted.samples)
    if error > max(GOOD_ENOUGH, fit.fitted.provenance.noise) and 2 * count <= MOST_SUGGESTED:
        next_command("hwnas", *_again(2 * count))
    elif task.target == "latency_ms":
        next_command("hwnas", "run", "STUDY.yaml", f"cost_model.from={path}")
    else:
        next_command("hwnas", "profile", "MODEL.onnx", "--device", device)


def _again(samples: int) -> list[str]:
    """The arguments of this command with another number of samples."""
    context = click.get_current_context()
    words = ["fit", str(context.params["device"])]
    for option in context.command.params:
        value = context.params.get(option.name or "")
        asked = context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
        if isinstance(option, click.Option) and asked and option.name not in ("samples", "fresh", "report"):
            words += [option.opts[0]] if value is True else [option.opts[0], str(value)]
    return [*words, "--samples", str(samples)]
