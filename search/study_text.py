"""The study file that `hwnas init` writes, and the reference of all keys for the guide."""

from __future__ import annotations

from typing import Any, get_args

from ..spaces.errors import UsageError
from .metrics import METRICS
from .study_fields import NAME
from .study_schema import SECTIONS, ObjectiveSpec, Spec, choices
from .study_yaml import flow

__all__ = ["init_text", "study_reference"]

_TEMPLATE = """\
# A study of hwnas. `hwnas check {name}.yaml` says whether the limits can be met; `hwnas run {name}.yaml` runs it.
# What is commented out is optional. All keys: docs/study_file.md.
version: 1
name: {name} # the run folder is runs/{name}

space:
  use: {space} # a built-in space, or a plug-in by its name; your own file: --allow-code FILE
  # input: [1, 8, 8]               # channels, height, width; the data's own when left out
  # num_classes: 10                # the data's own when left out
  # params: {{width: [0.5, 1.0], "stage*.kernel": [3, 5]}}    # narrows knobs, by name or pattern

data:
{data}
  # validation: 0.2                # share kept for validation, unless the file has a validation part
  # test: 0.2                      # share kept for the final test, which the search never reads

quality:
  rungs:                           # cheapest first; keep: the share that goes on to the next rung
    # - {{proxy: synflow, keep: 0.5}}                         # a score without training, as the first rung
    - {{epochs: 3, keep: 0.3}}
    - {{epochs: 20}}
  # seeds: 3                       # trainings of each finalist
  # batch: 64
  # optimizer: adamw               # adamw | sgd
  # learning_rate: 0.01
  # weight_decay: 0.01
  # label_smoothing: 0.0
  # augment: none                  # shift | none

devices:                           # the names are used as metric@device
  {device}: {{runtime: onnxruntime, precision: fp32, threads: 1}}

objectives:                        # 1 to 4 of: {metrics}
  - {{metric: top1, direction: maximize}}
  - {{metric: latency_ms@{device_name}, direction: minimize}}

limits:                            # METRIC <= NUMBER or METRIC >= NUMBER; [] for none
  - latency_ms@{device_name} <= 2
  - size_mb <= 1

track: [macs, params, peak_memory_mb]                         # recorded, not searched for

# cost_model: {{use: auto, samples: 10}}  # from: FILE of `hwnas fit`, so that it predicts from the first candidate on
search:
  sampler: auto                    # auto | random | tpe | nsga2 | nsga3 | gp
  seed: 0                          # same study, same seed, same trials
  trials: 60                       # the total over all resumes
  # time_limit: 30m                # no new trial after this time: 90s, 30m, 2h
  # stop: {{hypervolume_patience: 30}}                          # stop after so many trials without a better front
# run: {{workers: 1, storage: auto, trial_timeout: 10m}}
# verify: {{finalists: 8}}           # trained over seeds, exported, measured again, tested once
# export: {{formats: [onnx]}}
"""


def init_text(name: str, space: str = "mobile", data: str = "digits", device: str = "cpu") -> str:
    """Returns a commented study file.

    Args:
        name: of the study.
        space: a space, by name.
        data: `digits`, or the path of an `.npz` file relative to where the study file will be.
        device: the name to give to this machine's CPU.

    Raises:
        UsageError: one of them is not legal; the message begins with the option.
    """
    for option, value in (("NAME", name), ("--space", space), ("--device", device)):
        if not NAME.fullmatch(value):
            raise UsageError(f"{option}: '{value[:64]}' is not a name: letters, digits, '.', '_', '-', at most 64")
    if data != "digits" and not data.endswith(".npz"):
        raise UsageError(f"--data: '{data[:64]}' is not known: digits, or the path of an .npz file")
    lines = "  use: digits                      # digits | npz"
    if data != "digits":
        lines = f"  use: npz                         # digits | npz\n  path: {flow(data)}"
    return _TEMPLATE.format(
        name=flow(name),
        space=flow(space),
        data=lines,
        device=flow(device),
        device_name=device,
        metrics=", ".join(_metric_examples(device)),
    )


def _metric_examples(device: str) -> list[str]:
    return [f"{kind.name}@{device}" if kind.on_device else kind.name for kind in METRICS.values()]


def study_reference() -> str:
    """Returns `docs/study_file.md`: every key with its type, default and meaning."""
    parts = [_INTRODUCTION]
    for path, section in SECTIONS.items():
        title = ".".join(path).replace(".*", "[…]") if path else "The file"
        parts.append(f"## {f'`{title}`' if path else title}\n\n{section.__doc__}\n")
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        for key, field in section.by_key().items():
            cells = (f"`{key}`", _type_text(section, key), _default_text(section, key), field.description or "")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join([*parts, _metrics_text(), _DATA])


_INTRODUCTION = """\
# The study file

One YAML file (YAML 1.2, UTF-8, at most 256 KiB) says what is searched, on what data, for which device and inside which
limits. The least legal file has `version`, `name`, `space.use`, `data.use`, `devices` and `objectives`:

```yaml
version: 1
name: small
space: {use: mobile}
data: {use: digits}
devices: {cpu: {runtime: onnxruntime}}
objectives: [{metric: top1}, {metric: latency_ms@cpu}]
```

`hwnas init NAME` writes a commented one; `hwnas check FILE --show-resolved` prints every default. Any value can be set
on the command line, as `key=value` with a dotted key and a YAML value:
`hwnas run study.yaml search.trials=20 "limits=[latency_ms@cpu <= 1]"`.

What is wrong is said in one line with file, line, column and key, and the exit code is 2:
`study.yaml:12:3: search.sampller: unknown key (did you mean 'sampler'?)`. A device, runtime or meter that is legal but
not in this version gives exit code 4. Not part of study files: anchors and aliases, tags, directives, a second
document, duplicate keys, numbers with a leading zero. `no`, `yes` and `on` are texts; `true` and `false` are not.

Durations are seconds (`90`) or a text (`90s`, `30m`, `1h30m`). Names are 1 to 64 letters, digits, `.`, `_` or `-` and
begin with a letter or digit. The metrics of this version are listed at the end of the page.
"""


_DATA = """\
## Data files

`use: npz` reads one `.npz` file of numpy with `x, y`, or `x_train, y_train` and, where they exist, `x_val, y_val` and
`x_test, y_test`. Parts that are not in the file are cut from the train part, class by class (`data.validation`,
`data.test`). The search never reads the test part.

- Images: `(N, H, W)`, `(N, C, H, W)`, or `(N, H, W, C)` with at most 4 channels; uint8, another whole number type, or
  float; finite. They are standardised per channel by the mean and the standard deviation of the train part.
- Labels: one whole number per image, 0 to the number of classes - 1, every class in the train part, at least 2 classes.
- Python objects (pickles) are never read. A file that is missing, broken or not of this form gives exit code 65.
"""


def _type_text(section: type[Spec], key: str) -> str:
    """The type of a key in words: its own title, its choices, or its number type with bounds."""
    field = section.by_key()[key]
    if field.title:
        return field.title
    if known := choices(section, key):
        return " | ".join(known)
    parts: list[Any] = [field.annotation, *get_args(field.annotation)]
    names = {int: "whole number", float: "number", bool: "true | false"}
    name = next(names[part] for part in _bare(parts) if part in names)
    return " ".join([name, ", ".join(_bounds([*field.metadata, *parts]))]).strip()


def _bare(parts: list[Any]) -> list[Any]:
    return [get_args(part)[0] if hasattr(part, "__metadata__") else part for part in parts]


def _bounds(parts: list[Any]) -> list[str]:
    found = []
    for part in parts:
        for inner in (part, *getattr(part, "__metadata__", ())):
            for item in (inner, *getattr(inner, "metadata", ())):
                for name, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<")):
                    if isinstance(bound := getattr(item, name, None), int | float):
                        found.append(f"{sign} {bound:g}" if isinstance(bound, float) else f"{sign} {bound}")
    return found


def _default_text(section: type[Spec], key: str) -> str:
    field = section.by_key()[key]
    if field.is_required():
        return "required"
    if field.default is None:
        return "—"
    if field.title in ("mapping", "metric") or (section, key) == (ObjectiveSpec, "direction"):
        return "its own"
    default = field.default
    if isinstance(default, tuple):
        default = [part.model_dump(exclude_none=True) if isinstance(part, Spec) else part for part in default]
    return f"`{flow(default)}`"


def _metrics_text() -> str:
    rows = ["## Metrics\n", "| metric | better | meaning |", "|---|---|---|"]
    for kind in METRICS.values():
        better = "low" if kind.direction == "minimize" else "high"
        rows.append(f"| `{kind.name}{'@device' if kind.on_device else ''}` | {better} | {kind.text} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(study_reference(), end="")
