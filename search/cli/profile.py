"""`hwnas profile`"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from click.core import ParameterSource

from ...spaces.errors import CandidateError, DataError, DeviceError, UsageError
from .. import interrupts
from .common import allow_code, as_json, next_command, print_json, say, status
from .named_device import NamedDevice, check_threads, input_shape, meter_options, named_device

if TYPE_CHECKING:
    from ...profilers import Child, Runtime
    from ..torch_module import TorchModule
    from .profiled import Estimated, Profiled

PROCESSES = 2
"""Fresh processes that measure each device."""

CONVERTER = "hwnas.profilers.runtimes.converter"
"""The module whose process makes files for runtimes."""

CONVERSION_S = 600.0
"""Longest time of a conversion, when none is stated."""

ESTIMATE_S = 60.0
"""Longest time of an estimate, where --timeout does not say."""


@click.command("profile")
@click.argument("model")
@click.option("--input", "shape", metavar="C,H,W", help="Shape of the input of a torch module.")
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("onnxruntime",),
    show_default=True,
    metavar="RUNTIME[:PRECISION]|NAME",
    help="Of this machine, e.g. openvino or onnxruntime:int8, or a device added by `hwnas devices add`; may be given "
    "several times.",
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="Threads of one inference.")
@click.option(
    "--meter",
    default="auto",
    show_default=True,
    metavar="NAME[:OPTION=VALUE,...]",
    help="What tells the energy: auto, none, rapl, csv:path=log.csv, model:watts=5, ...; see docs/energy.md.",
)
@click.option("--layers", is_flag=True, help="List the operators that are really executed.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 86400),
    metavar="SECONDS",
    help="Longest time of one conversion [600], and of one request to a runtime of this machine [60; 300 where it "
    "compiles].",
)
@allow_code
@as_json
def command(
    model: str,
    shape: str | None,
    devices: tuple[str, ...],
    threads: int,
    meter: str,
    layers: bool,
    timeout: float | None,
    allow_code: Path | None,
    as_json: bool,
) -> int:
    """Latency, energy, memory, size and operators of a model, on one or several devices.

    MODEL is an ONNX file, a file of the runtime's own such as .tflite, or package.module:attribute: a torch module, or
    a function without arguments that returns one. Its module must be installed, or be that of the --allow-code file.

    An fp32 model on an int8 device is quantised first, with random samples: its latency counts, its outputs do not.
    Devices such as ethos-u55-128 are estimated by their vendor's tool, not measured. A device on which the model does
    not convert or run is named, the others go on, and the exit code is 65.
    Exit code 4 when a meter that was named tells nothing.
    """
    from ..torch_module import TorchModule
    from .profiled import Profiled, print_profiles

    named = [named_device(device) for device in devices]
    if click.get_current_context().get_parameter_source("threads") is not ParameterSource.DEFAULT:
        check_threads(named, threads)
    options = meter_options(meter, here=any(device.known is None for device in named))
    with contextlib.ExitStack() as stack:
        source = _source(model, shape, allow_code, timeout or CONVERSION_S, stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hwnas-profile-")))
        converter = stack.enter_context(_Converter(folder, timeout or CONVERSION_S))
        how: dict[str, Any] = {"threads": threads, "meter": options, "layers": layers, "deadline_s": timeout}
        found: list[Profiled | Estimated] = []
        failed: list[tuple[NamedDevice, DataError | DeviceError]] = []
        with status() as told:
            for place, device in enumerate(named, 1):
                interrupts.check()
                where = f"{device.title} ({place} of {len(named)})" if len(named) > 1 else device.title
                try:
                    found.append(_profile(source, device, converter, _saying(told, where), **how))
                except (DataError, DeviceError) as error:
                    failed.append((device, error))
    if not found and len(failed) == 1 and not as_json:
        raise failed[0][1]
    if isinstance(source, TorchModule) and source.looks_at:
        say(
            f"{source} decides by values of its input ({source.looks_at}): its files keep the way that one random "
            "sample took, and only that is measured"
        )
    energies = [profile.told.energy for profile in found if isinstance(profile, Profiled)]
    lost = [energy.reason for energy in energies if energy and energy.source == "missing"]
    if as_json:
        errors = [{"device": device.title, "error": str(fault)} for device, fault in failed]
        profiles = [profile.to_json(layers=layers) for profile in found]
        print_json({"model": str(model), "profiles": profiles, **({"failed": errors} if errors else {})})
    elif found:
        print_profiles(found, layers=layers)
    code = DeviceError.exit_code if lost and options["use"] != "auto" else 0
    for reason in dict.fromkeys(lost) if code else ():
        say(f"energy is missing: {reason}")
    for device, fault in failed:
        say(f"{device.title}: {fault}")
        code = fault.exit_code
    if not as_json:
        next_command("hwnas", "doctor", "--noise")
    return code


def _saying(told: Callable[[str], None], where: str) -> Callable[[str], None]:
    return lambda what: told(f"{where}: {what}")


def _source(
    model: str, shape: str | None, code: Path | None, deadline_s: float, stack: contextlib.ExitStack
) -> Path | TorchModule:
    """Returns what MODEL names: a file, or a module whose converter lives as long as `stack`."""
    if Path(model).is_file():
        suffix = Path(model).suffix
        if suffix in _INSTEAD:
            raise UsageError(f"'{model}' {_INSTEAD[suffix].format(model=model, stem=Path(model).stem)}")
        if not _who_runs(Path(model)):
            raise UsageError(f"'{model}' is no model file of a known kind: give an ONNX file")
        if shape is not None:
            raise UsageError(f"--input is for torch modules; '{model}' tells the shape of its input itself")
        return Path(model)
    if Path(model).is_dir():
        raise UsageError(f"'{model}' is a folder: give a file in it, e.g. {_some_model(Path(model))}")
    place, colon, attribute = model.partition(":")
    if colon and place.endswith(".py"):
        module = f"{Path(place).stem}:{attribute}"
        raise UsageError(f"'{model}': give the module by its name: {module} --input C,H,W --allow-code {place}")
    if not colon or not all(map(str.isidentifier, (*place.split("."), attribute))):
        raise UsageError(
            f"no file '{model}': give an ONNX file, e.g. runs/NAME/artifacts/ID/model.onnx, or package.module:attribute"
        )
    if shape is None:
        raise UsageError("a torch module needs the shape of its input: --input C,H,W")
    from ..torch_module import TorchModule

    return stack.enter_context(TorchModule(model, input_shape(shape), code, deadline_s))


_WEIGHTS = "holds weights, and not the network: give its torch module, package.module:attribute, or its ONNX file"
_KERAS = "is not read: convert it, and give the ONNX or the .tflite file"
_INSTEAD = {
    ".py": "is Python: give the name of the torch module in it: {stem}:ATTRIBUTE --input C,H,W --allow-code {model}",
    **dict.fromkeys((".param", ".bin"), "is one half of ncnn's own form: give the ONNX file, with --device ncnn"),
    ".xml": "is OpenVINO's own form: give the ONNX file, with --device openvino",
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), _WEIGHTS),
    **dict.fromkeys((".h5", ".keras", ".pb"), _KERAS),
}
"""Ending of a file that cannot be profiled → what it is, and what to give instead."""


def _some_model(folder: Path) -> Path:
    """Returns a model file in a folder, such as that of a run, or what one is called there."""
    for pattern in ("*.onnx", "*.tflite", "artifacts/*/model.onnx"):
        if found := sorted(folder.glob(pattern)):
            return found[0]
    return folder / "model.onnx"


class _Converter:
    """Makes the files of runtimes from an ONNX file, in a child process.

    Args:
        folder: where they are made.
        deadline_s: longest time of one conversion.
    """

    def __init__(self, folder: Path, deadline_s: float) -> None:
        self.folder, self.deadline_s = folder, deadline_s
        self._child: Child | None = None

    def file(self, model: Path, runtime: Runtime, precision: str) -> Path:
        """Returns the file that a runtime needs: the one given, or one made from it.

        Raises:
            CandidateError: `export`, or how the converter ended: `crash:…`, `timeout`, `oom`.
            DeviceError: the runtime is missing, or does not make its files from ONNX files.
            UsageError: it does not run such files.
        """
        from ...profilers import Child, OnnxBased
        from ...profilers.runtimes.onnx_file import is_quantised

        file = runtime.file(self.folder / model.name, precision)
        if file.suffix == model.suffix and (model.suffix != ".onnx" or precision != "int8" or is_quantised(model)):
            return model
        if model.suffix != ".onnx":
            able = " or ".join(_who_runs(model))
            raise UsageError(
                f"{runtime.name} does not run {model.suffix} files such as '{model}': give --device {able}"
            )
        if not isinstance(runtime, OnnxBased):
            raise DeviceError(f"{runtime.name} makes its files from torch modules, not from '{model}'")
        _check_available(runtime)
        if not file.is_file():
            if self._child is None:
                self._child = Child(CONVERTER, name="converter", private=True)
            what = {"runtime": runtime.name, "precision": precision, "source": str(model.resolve()), "path": str(file)}
            self._child.call({"do": "convert", **what}, self.deadline_s)
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.close()


def _check_available(runtime: Runtime) -> None:
    """Raises DeviceError when a runtime is missing."""
    available = runtime.available()
    if not available.ok:
        raise DeviceError(f"{runtime.name} is missing ({available.missing}): {available.install}")


def _profile(
    model: Path | TorchModule,
    device: NamedDevice,
    converter: _Converter,
    says: Callable[[str], None],
    *,
    threads: int,
    meter: dict[str, Any],
    layers: bool,
    deadline_s: float | None,
) -> Profiled | Estimated:
    """Profiles a model on a device; `says` is called with what is under way."""
    from ...profilers import LocalProfiler, MeasurementStore, Stored, estimated_names, get_runtime
    from ...profilers.model_gate import check_model
    from ...profilers.profiler import measured
    from ...profilers.runtimes.onnx_file import is_quantised
    from .profiled import Estimated, Profiled

    runtime, precision = device.runtime, device.precision
    found = get_runtime(runtime)
    try:
        says("converting")
        if isinstance(model, Path):
            check_model(model)
            if model.suffix == ".onnx" and is_quantised(model):
                precision = "int8"
            file = converter.file(model, found, precision)
        else:
            _check_available(found)
            file = model.convert(found, precision, converter.folder)
        if runtime in estimated_names():
            from ...profilers.runtimes.ethos_u import EthosUProfiler

            says("estimating")
            with EthosUProfiler(runtime, deadline_s or ESTIMATE_S) as npu:
                return Estimated(runtime, npu.estimate(file), npu.graph(file))
        says("measuring")
        with device.open(threads, precision, meter, deadline_s) as profiler:
            told = measured(Stored(profiler, MeasurementStore(), ask=False), file, PROCESSES)
            says("reading its operators and memory")
            graph = profiler.graph(file)
            if file == model and file.suffix != ".onnx":  # the file itself says what it computes in
                precision = "int8" if any(node.dtype == "int8" for node in graph.nodes) else precision
            return Profiled(
                device.name or f"{runtime}:{precision}",
                told,
                graph,
                profiler.fingerprint(),
                file.stat().st_size / 1e6,
                profiler.memory(file) if isinstance(profiler, LocalProfiler) and found.tells_resident else None,
                profiler.kernels(file) if layers and isinstance(profiler, LocalProfiler) else (),
                own_graph=profiler.gives_outputs,
            )
    except CandidateError as error:
        raise DataError(f"{model}: {error}") from error


def _who_runs(model: Path) -> list[str]:
    """Returns the runtimes whose files end as this one."""
    from ...profilers import get_runtime, runtime_names

    return [name for name in runtime_names() if get_runtime(name).suffix == model.suffix]
