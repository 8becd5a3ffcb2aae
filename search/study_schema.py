"""The keys of a study file: types, defaults, and what each means.

The models are frozen. What the interface names but this version does not run is known here too, so that the answer to
it is "not in this version" and not "unknown".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from ..spaces.errors import UsageError, did_you_mean
from .metrics import Direction, Limit, Metric
from .study_fields import (
    FittedField,
    HostText,
    KnobName,
    KnobValue,
    LimitField,
    MeterField,
    MetricField,
    OptionalSeconds,
    PathText,
    PlainName,
    Seconds,
    Share,
    SpaceName,
    fault,
    refuse_choice,
)

__all__ = [
    "CostModelSpec",
    "DataSpec",
    "DeviceSpec",
    "ExportSpec",
    "ObjectiveSpec",
    "QualitySpec",
    "RunSpec",
    "RungSpec",
    "SearchSpec",
    "SpaceSpec",
    "StopSpec",
    "StudySpec",
    "VerifySpec",
]

ESTIMATED = (
    *("ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256"),
    *("ethos-u65-256", "ethos-u65-512"),
    *("ethos-u85-128", "ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048"),
)
"""Devices that are estimated, not run; a test holds it against the profilers' own list."""
PRECISIONS = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "litert": ("fp32", "int8"),
    "ncnn": ("fp32", "bf16"),
    "mnn": ("fp32", "int8"),
    "executorch": ("fp32", "int8"),
    "torch": ("fp32", "bf16"),
    "torch-compile": ("fp32", "bf16"),
    "torch-aoti": ("fp32", "bf16"),
    "torch-cuda": ("fp32", "fp16", "bf16"),
    **dict.fromkeys(ESTIMATED, ("int8",)),
}
"""Runtime → what it computes in; a test holds it against the runtimes' own lists, which are not imported here."""
REPLAY = "replay"
"""The runtime that runs nothing: a table says what a device once measured."""
LATER_RUNTIMES = ("coreml", "tensorrt", "tflite")
LATER_QUALITY = ("supernet",)
LATER_DATA = ("huggingface", "image_folder", "torchvision")
ESTIMATED_METRICS = ("sram_mb", "flash_mb")
LATER_FORMATS = ("executorch", "litert", "ncnn", "openvino", "tflite")


class Spec(BaseModel):
    """Frozen, strict, closed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True)

    @classmethod
    def by_key(cls) -> dict[str, FieldInfo]:
        """Returns the fields by their keys in a study file."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}


class SpaceSpec(Spec):
    """What can be built."""

    use: SpaceName = Field(title="name", description="built-in name or the name of a plug-in")
    input: tuple[int, int, int] | None = Field(
        default=None,
        title="[C, H, W]",
        description="channels, height, width of the input; the data's own when left out",
    )
    num_classes: Annotated[int, Field(ge=2, le=1_000_000)] | None = Field(
        default=None, description="number of classes; the data's own when left out"
    )
    params: Mapping[KnobName, KnobValue] = Field(
        default_factory=dict,
        title="mapping",
        description="narrows knobs by name or pattern: a list of options, [low, high], or one value that fixes it",
    )

    @field_validator("input")
    @classmethod
    def _input(cls, value: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if value is not None and not all(1 <= side <= 4096 for side in value):
            raise fault(f"each of C, H, W must be between 1 and 4096, not {list(value)}")
        return value


class DataSpec(Spec):
    """What the networks learn. The search never reads the test part."""

    use: Literal["digits", "npz"] = Field(description="digits (comes with scikit-learn) or npz (arrays of your own)")
    path: PathText | None = Field(
        default=None,
        title="path",
        description="the .npz file, relative to the study file's folder; for `use: npz` only",
    )
    validation: Share = Field(default=0.2, description="share of the samples kept for validation")
    test: Share = Field(default=0.2, description="share of the samples kept for the final test")

    @field_validator("use", mode="before")
    @classmethod
    def _use(cls, value: object) -> object:
        refuse_choice(value, ("digits", "npz"), LATER_DATA, "study")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.use == "npz" and self.path is None:
            raise fault("missing: the .npz file, relative to the study file's folder", "path")
        if self.use != "npz" and self.path is not None:
            raise fault(f"'{self.use}' has no file: path is for `use: npz`", "path")
        if self.validation + self.test > 0.9:
            raise fault(f"validation and test take {self.validation + self.test:g} of the samples: at most 0.9", "test")
        return self


class RungSpec(Spec):
    """One step of spending on quality."""

    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = Field(default=None, description="epochs of training")
    proxy: Literal["synflow"] | None = Field(
        default=None, description="a score without training, in place of epochs; first rung only"
    )
    keep: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="share that goes on to the next rung; on every rung but the last"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.epochs is None and self.proxy is None:
            raise fault("a rung needs epochs (or proxy: synflow)")
        if self.epochs is not None and self.proxy is not None:
            raise fault("a rung has epochs or a proxy, not both", "proxy")
        return self


class QualitySpec(Spec):
    """How the worth of a network is found."""

    metric: Literal["top1"] = Field(default="top1", description="what is maximised on the validation part")
    use: Literal["train", "table"] = Field(
        default="train",
        description="train: each candidate is trained from scratch; table: a table tells it, and of the other keys "
        "only metric, path and column have a meaning",
    )
    path: PathText | None = Field(
        default=None,
        title="path",
        description="the table, a parquet file, relative to the study file's folder; for `use: table` only",
    )
    column: PathText | None = Field(
        default=None,
        title="text",
        description="the table's column that has the quality, in its own unit; for `use: table` only",
    )
    rungs: tuple[RungSpec, ...] = Field(
        default=(RungSpec(epochs=3, keep=0.3), RungSpec(epochs=20)),
        title="list",
        description="cheapest first; epochs rise from rung to rung",
        min_length=1,
        max_length=16,
    )
    seeds: int = Field(default=3, ge=1, le=100, description="trainings of each finalist, with different seeds")
    batch: int = Field(default=64, ge=1, le=65_536, description="samples per step of training")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="adamw, or sgd with momentum")
    learning_rate: float = Field(default=0.01, gt=0, le=10, description="peak learning rate")
    weight_decay: float = Field(default=0.01, ge=0, le=10, description="weight decay")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="label smoothing")
    augment: Literal["shift", "none"] = Field(default="none", description="shift: random shifts of the training images")

    @model_validator(mode="before")
    @classmethod
    def _later(cls, data: Any) -> Any:
        """Speaks of `use` before it speaks of keys that belong to another `use`."""
        if isinstance(data, Mapping) and data.get("use") in LATER_QUALITY:
            raise fault(f"'{data['use']}' is not in this version (available: train, table)", "use")
        return data

    @model_validator(mode="after")
    def _together(self) -> Self:
        told = {"path": "the table, a parquet file", "column": "the table's column that has the quality"}
        for key, what in told.items():
            if self.use == "table" and getattr(self, key) is None:
                raise fault(f"missing: {what}", key)
            if self.use != "table" and getattr(self, key) is not None:
                raise fault(f"'{key}' is for `use: table`", key)
        if self.use == "table" and (key := _other_than_default(self, {"use", "metric", *told})):
            raise fault(f"'{key}' is for `use: train`: a table tells the quality without a training", key)
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        table = ("path", "column")
        kept = ("metric", "use", *table) if self.use == "table" else [key for key in plain if key not in table]
        return {key: plain[key] for key in kept}

    @field_validator("rungs")
    @classmethod
    def _rungs(cls, rungs: tuple[RungSpec, ...]) -> tuple[RungSpec, ...]:
        epochs = 0
        for i, rung in enumerate(rungs):
            last = i == len(rungs) - 1
            if rung.proxy is not None and (i > 0 or last):
                raise fault("a proxy can only be the first rung, with a rung of epochs after it", i, "proxy")
            if not last and rung.keep is None:
                raise fault("needs keep: the share that goes on to the next rung", i)
            if last and rung.keep is not None:
                raise fault("the last rung has no keep: nothing comes after it", i, "keep")
            if rung.epochs is not None and rung.epochs <= epochs:
                raise fault(f"epochs must rise from rung to rung: {rung.epochs} after {epochs}", i, "epochs")
            epochs = rung.epochs or 0
        return rungs


class DeviceSpec(Spec):
    """Where a model runs: host, runtime, precision, threads."""

    host: HostText = Field(
        default="local",
        title="local | ssh:[USER@]HOST[:PORT] | adb:SERIAL",
        description="local: this machine; ssh: a board, over the user's own OpenSSH; adb: a phone (docs/devices.md)",
    )
    runtime: Literal[
        "onnxruntime",
        "openvino",
        "litert",
        "ncnn",
        "mnn",
        "executorch",
        "torch",
        "torch-compile",
        "torch-aoti",
        "torch-cuda",
        "ethos-u55-32",
        "ethos-u55-64",
        "ethos-u55-128",
        "ethos-u55-256",
        "ethos-u65-256",
        "ethos-u65-512",
        "ethos-u85-128",
        "ethos-u85-256",
        "ethos-u85-512",
        "ethos-u85-1024",
        "ethos-u85-2048",
        "replay",
    ] = Field(
        default="onnxruntime",
        description="what runs the model; ethos-u…: estimated by Vela, int8; replay: nothing runs, a table tells",
    )
    table: PathText | None = Field(
        default=None,
        title="path",
        description="recorded measurements, a parquet file with the columns `arch` and `METRIC@NAME` of this device, "
        "relative to the study file's folder; for `runtime: replay` only (docs/tables.md)",
    )
    precision: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        default="fp32", description="number format of weights and activations"
    )
    threads: int = Field(default=1, ge=1, le=1024, description="threads of the runtime")
    meter: MeterField = Field(
        default={"use": "auto"},
        title="name or mapping",
        description="what tells energy_mj: auto (the first that is here), none, a name, or {use: NAME, OPTION: …}; "
        "see energy.md",
    )

    @model_validator(mode="before")
    @classmethod
    def _later(cls, data: Any) -> Any:
        """What is named right but is not here is a missing device (exit code 4), whatever its further keys are."""
        if not isinstance(data, Mapping):
            return data
        runtime, precision = data.get("runtime", "onnxruntime"), data.get("precision")
        if runtime in LATER_RUNTIMES:
            known = ", ".join(name for name in PRECISIONS if name not in ESTIMATED)
            raise fault(f"'{runtime}' is not in this version (available: {known})", "runtime", kind="device")
        if runtime in ESTIMATED and precision is None:
            precision, data = "int8", {**data, "precision": "int8"}
        able = PRECISIONS.get(runtime, ()) if isinstance(runtime, str) else ()
        named = [name for names in PRECISIONS.values() for name in names]
        if able and precision in named and precision not in able:
            known = ", ".join(able)
            raise fault(f"{runtime} has no '{precision}' in this version ({known})", "precision", kind="device")
        return data

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not self.is_replay and self.table is not None:
            raise fault("'table' is for `runtime: replay`", "table")
        if self.is_replay and self.table is None:
            raise fault("missing: the parquet file with the recorded measurements", "table")
        if self.is_replay and (key := _other_than_default(self, {"runtime", "table"})):
            raise fault(f"'{key}' is for a device that runs models: a replay device has its table alone", key)
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        kept = ("runtime", "table") if self.is_replay else [key for key in plain if key != "table"]
        return {key: plain[key] for key in kept}

    @property
    def is_replay(self) -> bool:
        """True when a table tells its metrics, and nothing is run."""
        return self.runtime == REPLAY


class CostModelSpec(Spec):
    """The learned cost model: what a device would say about a network that was not measured."""

    use: Literal["auto", "additive", "additive+gp", "lookup", "trees", "transfer", "roofline", "none"] = Field(
        default="auto",
        description="auto: what predicts left-out samples best; lookup: with `from` alone; trees: from 50 samples on; "
        "roofline: an estimate, which refuses nothing; none: every candidate is measured (docs/cost_models.md)",
    )
    samples: int = Field(default=10, ge=6, le=10_000, description="measured candidates before the model is used")
    stand_in: bool = Field(
        default=False, description="predictions stand in for measurements during the search; finalists are measured"
    )
    from_: FittedField | None = Field(
        default=None,
        alias="from",
        title="path, or mapping of devices to paths",
        description="what `hwnas fit` wrote for this device, relative to the study file's folder: the model is used "
        "from the first candidate on, and goes on learning; {cpu: a.json, pi5: b.json} for several devices",
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.stand_in and self.use == "none":
            raise fault("needs a cost model: use auto or additive", "stand_in")
        if self.stand_in and self.use == "roofline":
            raise fault("an estimate stands in for no measurement: use auto or additive", "stand_in")
        if self.from_ is not None and self.use in ("none", "roofline"):
            raise fault(f"'{self.use}' learns from no measurement: leave from out, or use auto", "from")
        if self.from_ is None and self.use == "lookup":
            raise fault("needs times of kernels, which no trial takes: cost_model.from a file of `hwnas fit`", "use")
        return self


class ObjectiveSpec(Spec):
    """One thing to be best at."""

    metric: MetricField = Field(
        title="metric", description="a metric, with its device where it has one: top1, latency_ms@cpu"
    )
    direction: Direction = Field(
        default_factory=lambda data: data["metric"].kind.direction,
        description="minimize or maximize; the metric's own when left out",
    )

    @model_validator(mode="after")
    def _natural(self) -> Self:
        if self.direction != self.metric.kind.direction:
            raise fault(
                f"'{self.metric}' is better {'low' if self.direction == 'maximize' else 'high'}: "
                f"leave direction out or write {self.metric.kind.direction}",
                "direction",
            )
        return self


class StopSpec(Spec):
    """When to stop before the last trial."""

    hypervolume_patience: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="stop after this many trials without a better front"
    )


class SearchSpec(Spec):
    """How candidates are picked."""

    sampler: Literal["auto", "random", "tpe", "nsga2", "nsga3", "gp"] = Field(
        default="auto", description="Optuna's sampler; auto is tpe"
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1, description="same study, same seed, same trials")
    trials: int = Field(default=60, ge=1, le=1_000_000, description="total number of trials over all resumes")
    time_limit: OptionalSeconds = Field(
        default=None,
        title="duration",
        description="no new trial after this time: seconds, or a text such as 90s, 30m, 1h30m",
    )
    stop: StopSpec = Field(default=StopSpec(), title="mapping", description="when to stop before the last trial")


class RunSpec(Spec):
    """How candidates are worked on."""

    workers: int = Field(default=1, ge=1, le=256, description="trials at the same time")
    threads: int = Field(
        default=1, ge=1, le=1024, description="torch threads of each worker; 1 is best for small networks"
    )
    storage: Literal["auto", "sqlite"] = Field(default="auto", description="auto: SQLite in the run folder")
    reuse: bool = Field(
        default=True, description="take what was measured before, of the same file on the same device, from the store"
    )
    trial_timeout: Seconds = Field(
        default=600.0, title="duration", description="a trial that takes longer is stopped and fails: timeout"
    )


class VerifySpec(Spec):
    """The end of a study."""

    finalists: int = Field(default=8, ge=1, le=1000, description="networks that are trained over seeds and measured")


class ExportSpec(Spec):
    """What is shipped."""

    formats: tuple[Literal["onnx"], ...] = Field(
        default=("onnx",),
        min_length=1,
        max_length=8,
        title="list of: onnx",
        description="model files that are written for each finalist",
    )

    @field_validator("formats", mode="before")
    @classmethod
    def _formats(cls, value: object) -> object:
        for i, entry in enumerate(value if isinstance(value, tuple) else ()):
            if entry in LATER_FORMATS:
                raise fault(f"'{entry}' is not in this version (available: onnx)", i)
            if entry in value[:i]:  # type: ignore[index]  # a tuple, or the loop does not run
                raise fault(f"'{entry}' is listed twice", i)
        return value


class StudySpec(Spec):
    """One search."""

    version: int = Field(description="version of the study file: 1")
    name: PlainName = Field(title="name", description="name of the study and of its run folder")
    space: SpaceSpec = Field(title="mapping", description="what can be built")
    data: DataSpec | None = Field(
        default=None,
        title="mapping",
        description="what the networks learn; may be left out only where nothing is trained (docs/tables.md)",
    )
    quality: QualitySpec = Field(
        default=QualitySpec(), title="mapping", description="how the worth of a network is found"
    )
    devices: Mapping[PlainName, DeviceSpec] = Field(
        min_length=1,
        max_length=16,
        title="mapping of names",
        description="where models run, by the name used in metric@device",
    )
    cost_model: CostModelSpec = Field(
        default=CostModelSpec(), title="mapping", description="predicts costs without measuring"
    )
    objectives: tuple[ObjectiveSpec, ...] = Field(
        min_length=1, max_length=4, title="list", description="1 to 4 things to be best at"
    )
    limits: tuple[LimitField, ...] = Field(
        default=(), max_length=64, title="list of limits", description="METRIC <= NUMBER or METRIC >= NUMBER, each"
    )
    track: tuple[MetricField, ...] = Field(
        default=(),
        max_length=64,
        title="list of metrics",
        description="metrics that are recorded without being objectives",
    )
    search: SearchSpec = Field(default=SearchSpec(), title="mapping", description="how candidates are picked")
    run: RunSpec = Field(default=RunSpec(), title="mapping", description="how candidates are worked on")
    verify: VerifySpec = Field(default=VerifySpec(), title="mapping", description="the end of a study")
    export: ExportSpec = Field(default=ExportSpec(), title="mapping", description="what is shipped")

    @field_validator("version")
    @classmethod
    def _version(cls, value: int) -> int:
        if value != 1:
            raise fault(f"this version of hwnas reads study files of version 1, not {value}")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        for i, objective in enumerate(self.objectives):
            self._check_metric(objective.metric, "objectives", i, "metric")
            if objective.metric in [other.metric for other in self.objectives[:i]]:
                raise fault(f"'{objective.metric}' is an objective twice", "objectives", i, "metric")
        for i, limit in enumerate(self.limits):
            self._check_metric(limit.metric, "limits", i)
            self._check_limit(i, limit)
        for i, metric in enumerate(self.track):
            self._check_metric(metric, "track", i)
            if metric in self.track[:i]:
                raise fault(f"'{metric}' is tracked twice", "track", i)
        for at, metric in self._named():
            able = (*ESTIMATED, REPLAY)
            if metric.name in ESTIMATED_METRICS and self.devices[metric.device or ""].runtime not in able:
                raise fault(f"'{metric}': only estimated devices tell it (ethos-u…); leave it out", *at, kind="device")
            if metric.name == "size_mb" and not self.exports:
                raise fault("'size_mb' is that of a file, and this study exports none: leave it out", *at)
        self._check_tables()
        return self

    def _check_tables(self) -> None:
        """Refuses what does not go with tables, or without data."""
        needs_quality = any(metric.name == "top1" for metric in self.metrics)
        runs = any(not device.is_replay for device in self.devices.values())
        if self.data is None and self.quality.use == "train" and (needs_quality or runs):
            raise fault("missing: what the networks learn", "data")
        for key, given in (("stand_in", self.cost_model.stand_in), ("from", self.cost_model.from_ is not None)):
            if given and not runs:
                raise fault("there is nothing to predict: every device replays a table", "cost_model", key)
        self._check_fitted()
        if self.cost_model.stand_in and not self.trains:
            raise fault(
                "a study without a training has no verification, which would measure what was predicted",
                "cost_model", "stand_in",
            )  # fmt: skip

    def _check_fitted(self) -> None:
        """Refuses files of cost models that do not say which device they are of."""
        runs = [name for name, device in self.devices.items() if not device.is_replay]
        given = self.cost_model.from_
        for name in runs if self.cost_model.use == "roofline" else ():
            device = self.devices[name]
            if device.host != "local" or device.runtime in (*ESTIMATED, "torch-cuda"):
                message = f"'roofline' knows the peak rates of this machine's processor alone, not of '{name}'"
                raise fault(message, "cost_model", "use")
        if isinstance(given, str) and len(runs) > 1:
            example = ", ".join(f"{name}: {name}.json" for name in runs[:2])
            raise fault(f"which of {len(runs)} devices is it of? Write e.g. {{{example}}}", "cost_model", "from")
        for name in given if isinstance(given, Mapping) else ():
            if name not in self.devices:
                raise fault(f"unknown device '{name}'{did_you_mean(name, runs)}", "cost_model", "from", name)
            if name not in runs:
                raise fault(f"'{name}' replays a table: there is nothing to predict", "cost_model", "from", name)

    def _check_metric(self, metric: Metric, *at: str | int) -> None:
        try:
            Metric.parse(str(metric), list(self.devices))
        except UsageError as error:
            raise fault(str(error), *at) from None

    def _check_limit(self, i: int, limit: Limit) -> None:
        for other in self.limits[:i]:
            if other.metric != limit.metric:
                continue
            if other.sign == limit.sign:
                raise fault(f"'{limit}' and '{other}' say the same: keep one", "limits", i)
            if limit.violation(other.bound) > 0:
                raise fault(f"'{limit}' contradicts '{other}'", "limits", i)
        if limit.beyond_shares and self.quality.use != "table":
            raise fault(f"'{limit}' can never hold: {limit.metric} lies between 0 and 1", "limits", i)

    def _named(self) -> list[tuple[tuple[str | int, ...], Metric]]:
        """Every mention of a metric, with its place."""
        return [
            *((("objectives", i, "metric"), objective.metric) for i, objective in enumerate(self.objectives)),
            *((("limits", i), limit.metric) for i, limit in enumerate(self.limits)),
            *((("track", i), metric) for i, metric in enumerate(self.track)),
        ]

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric that the study names, objectives first, each once."""
        return tuple(dict.fromkeys(metric for _, metric in self._named()))

    @property
    def fitted(self) -> dict[str, str]:
        """The files of cost models that the study begins with, by device."""
        given = self.cost_model.from_
        if isinstance(given, str):
            return {name: given for name, device in self.devices.items() if not device.is_replay}
        return dict(given or {})

    @property
    def trains(self) -> bool:
        """True when candidates are trained; else no weights are made, and the study has no verification."""
        return self.quality.use == "train" and self.data is not None

    @property
    def exports(self) -> bool:
        """True when candidates are written as model files: to be shipped, or to be run on a device."""
        named = {metric.device for metric in self.metrics}
        return self.trains or any(name in named and not device.is_replay for name, device in self.devices.items())

    @property
    def builds(self) -> bool:
        """True when candidates are built as networks at all; else tables tell everything."""
        return self.exports or any(metric.device is None and metric.name != "top1" for metric in self.metrics)


SECTIONS: dict[tuple[str, ...], type[Spec]] = {
    (): StudySpec,
    ("space",): SpaceSpec,
    ("data",): DataSpec,
    ("quality",): QualitySpec,
    ("quality", "rungs", "*"): RungSpec,
    ("devices", "*"): DeviceSpec,
    ("cost_model",): CostModelSpec,
    ("objectives", "*"): ObjectiveSpec,
    ("search",): SearchSpec,
    ("search", "stop"): StopSpec,
    ("run",): RunSpec,
    ("verify",): VerifySpec,
    ("export",): ExportSpec,
}
"""Every mapping with fixed keys, by its path; `*` is a name or an index."""


def _other_than_default(spec: Spec, allowed: set[str]) -> str:
    """Returns the first key that is not allowed and has another value than its default, or an empty text."""
    fields = type(spec).model_fields.items()
    return next((key for key, field in fields if key not in allowed and getattr(spec, key) != field.get_default()), "")


def choices(section: type[Spec], key: str) -> tuple[str, ...]:
    """The values that a key may have, when they are a closed list; else empty."""
    annotation = section.by_key()[key].annotation
    for part in (annotation, *get_args(annotation)):
        if str(getattr(part, "__origin__", "")) == "typing.Literal":
            return tuple(str(value) for value in get_args(part))
    return ()
