"""Study files that are wrong in one way each. A `§` marks where the error must be said to stand."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["GOOD", "SPOILED", "Spoiled"]

GOOD = """\
version: 1
name: kws-edge
space:
  use: mobile
  input: [1, 8, 8]
  num_classes: 10
  params: {width: [0.5, 1.0], "stage*.kernel": [3, 5]}
data:
  use: digits
quality:
  metric: top1
  use: train
  rungs:
    - {proxy: synflow, keep: 0.5}
    - {epochs: 3, keep: 0.3}
    - {epochs: 20}
  seeds: 3
  learning_rate: 1e-3
devices:
  cpu: {runtime: onnxruntime, precision: fp32, threads: 1}
cost_model: {use: auto, samples: 10}
objectives:
  - {metric: top1, direction: maximize}
  - {metric: latency_ms@cpu, direction: minimize}
limits: [latency_ms@cpu <= 2, size_mb <= 1]
track: [macs, params, peak_memory_mb]
search: {sampler: auto, seed: 0, trials: 60, time_limit: 30m, stop: {hypervolume_patience: 30}}
run: {workers: 1, storage: auto}
verify: {finalists: 8}
export: {formats: [onnx]}
"""
"""Legal; each spoiled file is this one with one edit, or a file of its own."""


class Spoiled(NamedTuple):
    """A wrong study file.

    Attributes:
        name: of the file.
        content: its bytes.
        line: 1-based, where the error stands.
        column: 1-based, in characters.
        key: dotted key that the line names; empty where the file as a whole is wrong.
        says: words that the line has.
    """

    name: str
    content: bytes
    line: int
    column: int
    key: str
    says: str


def _marked(name: str, text: str, key: str, says: str) -> Spoiled:
    before, mark, after = text.partition("§")
    if not mark or "§" in after:
        raise ValueError(f"{name}: one mark is needed")
    line = before.count("\n") + 1
    return Spoiled(f"{name}.yaml", (before + after).encode(), line, len(before) - before.rfind("\n"), key, says)


def _edit(name: str, old: str, new: str, key: str, says: str) -> Spoiled:
    if GOOD.count(old) != 1:
        raise ValueError(f"{name}: '{old}' must occur once")
    return _marked(name, GOOD.replace(old, new), key, says)


def _raw(name: str, content: bytes, key: str, says: str, line: int = 1, column: int = 1) -> Spoiled:
    return Spoiled(f"{name}.yaml", content, line, column, key, says)


def _laughs(levels: int) -> str:
    lines = ["a0: §&a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


_UNKNOWN_KEYS = [
    _edit("key_at_top", "verify:", "§verfy:", "verfy", "did you mean 'verify'?"),
    _edit("key_in_space", "  use: mobile", "  §usee: mobile", "space.usee", "did you mean 'use'?"),
    _edit(
        "key_in_data",
        "  use: digits",
        "  use: digits\n  §valdation: 0.3",
        "data.valdation",
        "did you mean 'validation'?",
    ),
    _edit("key_in_quality", "  seeds: 3", "  §seed: 3", "quality.seed", "did you mean 'seeds'?"),
    _edit("key_in_rung", "{epochs: 20}", "{§epoch: 20}", "quality.rungs[2].epoch", "did you mean 'epochs'?"),
    _edit("key_in_device", "threads: 1", "§thread: 1", "devices.cpu.thread", "did you mean 'threads'?"),
    _edit("key_in_cost_model", "samples: 10", "§sample: 10", "cost_model.sample", "did you mean 'samples'?"),
    _edit("key_in_objective", "{metric: top1,", "{§metrik: top1,", "objectives[0].metrik", "did you mean 'metric'?"),
    _edit(
        "key_in_search", "sampler: auto", "§sampller: auto", "search.sampller", "unknown key (did you mean 'sampler'?)"
    ),
    _edit(
        "key_in_stop",
        "hypervolume_patience: 30",
        "§hypervolume_patiance: 30",
        "search.stop.hypervolume_patiance",
        "did you mean 'hypervolume_patience'?",
    ),
    _edit("key_in_run", "workers: 1", "§worker: 1", "run.worker", "did you mean 'workers'?"),
    _edit("key_in_verify", "finalists: 8", "§finalist: 8", "verify.finalist", "did you mean 'finalists'?"),
    _edit("key_in_export", "formats: [onnx]", "§format: [onnx]", "export.format", "did you mean 'formats'?"),
    _edit("key_in_wrong_place", "data:\n", "§trials: 60\ndata:\n", "trials", "did you mean 'search.trials'?"),
    _edit("key_merge", "data:\n", "§<<: {name: x}\ndata:\n", "<<", "unknown key"),
]

_MISSING = [
    _edit("missing_version", "version: 1\nname: kws-edge", "§name: kws-edge", "version", "missing"),
    _marked(
        "missing_space_use", GOOD.replace("  use: mobile\n", "").replace("space:", "§space:"), "space.use", "missing"
    ),
    _marked(
        "missing_metric",
        GOOD.replace("metric: top1, ", "").replace("{direction: max", "§{direction: max"),
        "objectives[0].metric",
        "missing",
    ),
    _edit("missing_npz_path", "data:\n  use: digits", "§data:\n  use: npz", "data.path", "missing: the .npz file"),
    _edit("missing_keep", "{epochs: 3, keep: 0.3}", "§{epochs: 3}", "quality.rungs[1]", "needs keep"),
]

_WRONG_TYPES = [
    _edit("type_text_for_number", "trials: 60", "trials: §'60'", "search.trials", "whole number, not the text '60'"),
    _edit("type_no", "trials: 60", "trials: §no", "search.trials", "not the text 'no'"),
    _edit("type_float", "trials: 60", "trials: §1e3", "search.trials", "expected a whole number, not 1000.0"),
    _edit("type_underscore", "trials: 60", "trials: §1_000", "search.trials", "not the text '1_000'"),
    _edit("type_true", "trials: 60", "trials: §true", "search.trials", "expected a whole number, not true"),
    _edit("type_version", "version: 1\n", "version: §'1'\n", "version", "expected a whole number"),
    _edit("type_name", "name: kws-edge", "name: §1.20", "name", "expected a text"),
    _edit("type_yes", "samples: 10", "stand_in: §yes", "cost_model.stand_in", "true or false, not the text 'yes'"),
    _edit(
        "type_exponent", "learning_rate: 1e-3", "learning_rate: §'1e-3'", "quality.learning_rate", "not the text '1e-3'"
    ),
    _edit(
        "type_list_for_mapping", "export: {formats: [onnx]}", "export: §[onnx]", "export", "expected a mapping of keys"
    ),
    _edit(
        "type_text_for_list", "limits: [latency_ms@cpu <= 2, size_mb <= 1]", "limits: §size_mb <= 1", "limits", "a list"
    ),
    _edit("type_null", "run: {workers: 1, storage: auto}", "§run:", "run", "not nothing"),
    _edit("type_sexagesimal", "time_limit: 30m", "time_limit: §10:30", "search.time_limit", "expected a duration"),
    _edit("type_input", "[1, 8, 8]", "§[8, 8]", "space.input", "too few entries"),
    _edit("type_knob", "width: [0.5, 1.0]", "width: §{low: 1}", "space.params.width", "a value or a list of values"),
]

_WRONG_VALUES = [
    _edit("value_version", "version: 1\n", "version: §2\n", "version", "reads study files of version 1"),
    _edit("value_octal", "seed: 0", "seed: §010", "search.seed", "leading zero"),
    _edit("value_negative_trials", "trials: 60", "trials: §-5", "search.trials", "must be >= 1, not -5"),
    _edit("value_huge", "trials: 60", "trials: §" + "9" * 30, "search.trials", "too large"),
    _edit("value_nan", "learning_rate: 1e-3", "learning_rate: §.nan", "quality.learning_rate", "not a finite number"),
    _edit(
        "value_overflow", "learning_rate: 1e-3", "learning_rate: §1e999", "quality.learning_rate", "not a finite number"
    ),
    _edit("value_threads", "threads: 1", "threads: §0", "devices.cpu.threads", "must be >= 1"),
    _edit("value_keep", "keep: 0.3", "keep: §1.5", "quality.rungs[1].keep", "must be <= 1"),
    _edit("value_falling_epochs", "{epochs: 20}", "{epochs: §2}", "quality.rungs[2].epochs", "must rise"),
    _edit("value_last_keep", "{epochs: 20}", "{epochs: 20, keep: §0.5}", "quality.rungs[2].keep", "no keep"),
    _edit("value_samples", "samples: 10", "samples: §3", "cost_model.samples", "must be >= 6"),
    _edit("value_sampler", "sampler: auto", "sampler: §tep", "search.sampler", "did you mean 'tpe'?"),
    _edit("value_name_path", "name: kws-edge", "name: §../../etc", "name", "is not a name"),
    _edit("value_space_path", "use: mobile", "use: §./my_space.py", "space.use", "--allow-code FILE"),
    _edit("value_space_attribute", "use: mobile", "use: §os:system", "space.use", "--allow-code FILE"),
    _edit(
        "value_runtime",
        "runtime: onnxruntime",
        "runtime: §onnxrt",
        "devices.cpu.runtime",
        "did you mean 'onnxruntime'?",
    ),
    _edit("value_host", "runtime: onnxruntime", "host: §pi5.local", "devices.cpu.host", "expected local, ssh:"),
    _edit("value_data", "use: digits", "use: §digit", "data.use", "did you mean 'digits'?"),
    _edit("value_format", "[onnx]", "[§onx]", "export.formats[0]", "did you mean 'onnx'?"),
    _edit("later_quality", "use: train", "use: §supernet", "quality.use", "(available: train, table)"),
    _edit("later_data", "use: digits", "use: §torchvision", "data.use", "not in this version (available: digits, npz)"),
    _edit("later_format", "[onnx]", "[onnx, §litert]", "export.formats[1]", "not in this version (available: onnx)"),
    _edit("digits_with_path", "use: digits", "use: digits\n  path: §a.npz", "data.path", "has no file"),
    _edit("device_name", "  cpu: {runtime", "  §c pu: {runtime", "devices.c pu", "is not a name"),
]

_METRICS = [
    _edit("limit_unknown_metric", "size_mb <= 1]", "§size_gb <= 1]", "limits[1]", "did you mean 'size_mb'?"),
    _edit("limit_unknown_device", "[latency_ms@cpu", "[§latency_ms@gpu", "limits[0]", "unknown device 'gpu'"),
    _edit("limit_no_device", "[latency_ms@cpu", "[§latency_ms", "limits[0]", "needs a device, e.g. latency_ms@cpu"),
    _edit("limit_form", "size_mb <= 1]", "§size_mb < 1]", "limits[1]", "is not a limit"),
    _edit("limit_no_number", "size_mb <= 1]", "§size_mb <= 1MB]", "limits[1]", "is not a number"),
    _edit("limit_never", "size_mb <= 1]", "§size_mb <= -1]", "limits[1]", "can never hold"),
    _edit("limit_contradiction", "size_mb <= 1]", "§latency_ms@cpu >= 3]", "limits[1]", "contradicts"),
    _edit("limit_twice", "size_mb <= 1]", "§latency_ms@cpu <= 3]", "limits[1]", "keep one"),
    _edit("objective_metric", "metric: top1,", "metric: §top5,", "objectives[0].metric", "did you mean 'top1'?"),
    _edit("objective_device", "metric: latency_ms@cpu", "metric: §latency_ms@cpu0", "objectives[1].metric", "'cpu'?"),
    _marked(
        "objective_twice",
        GOOD.replace("{metric: latency_ms@cpu, direction: minimize}", "{metric: §top1}"),
        "objectives[1].metric",
        "twice",
    ),
    _edit(
        "objective_direction", "direction: maximize", "direction: §minimize", "objectives[0].direction", "better high"
    ),
    _edit("track_unknown", "track: [macs", "track: [§flops", "track[0]", "unknown metric 'flops'"),
    _marked("no_objective", GOOD[: GOOD.index("objectives:")] + "objectives: §[]\n", "objectives", "at least one"),
    _marked(
        "no_device",
        GOOD.replace("devices:\n  cpu: {runtime: onnxruntime, precision: fp32, threads: 1}", "devices: §{}"),
        "devices",
        "at least one",
    ),
]

_DEVICES = [
    _edit("precision_mapping", "precision: fp32", "precision: §{a: 1}", "devices.cpu.precision", "expected one of"),
    _edit("runtime_list", "runtime: onnxruntime", "runtime: §[onnxruntime]", "devices.cpu.runtime", "expected one of"),
    _edit("precision_unknown", "precision: fp32", "precision: §int4", "devices.cpu.precision", "did you mean 'int8'?"),
]

_SPACE = [
    _edit("space_unknown", "use: mobile", "use: §mobil", "space.use", "did you mean 'mobile'?"),
    _edit("params_unknown", "{width: [0.5", "{§widht: [0.5", "space.params.widht", "did you mean 'width'?"),
    _edit("params_no_match", '"stage*.kernel"', '§"stgae*.kernel"', "space.params.stgae*.kernel", "no knob matches"),
    _edit("params_impossible", "width: [0.5, 1.0]", "§width: [0.5, 1.1]", "space.params.width", "cannot be 1.1"),
    _edit("channels", "input: [1, 8, 8]", "input: §[3, 8, 8]", "space.input", "the data has 1"),
    _edit("classes", "num_classes: 10", "num_classes: §3", "space.num_classes", "the data has 10"),
]

_NOT_YAML = [
    _raw("empty", b"", "", "the file is empty"),
    _raw("only_comments", b"# later\n\n", "", "the file is empty"),
    _marked("list_at_top", "§- version: 1\n", "", "found a list"),
    _marked("text_at_top", "§hello\n", "", "found the text 'hello'"),
    _edit("duplicate_key", "verify:", "§name: again\nverify:", "name", "duplicate key (first on line 2)"),
    _edit("duplicate_inner_key", "seed: 0", "seed: 0, §seed: 1", "search.seed", "duplicate key"),
    _edit("tab", "  use: digits", "§\tuse: digits", "data", "a tab stands here"),
    _edit("colon", "use: digits", "use: digits§: npz", "data", "not legal YAML"),
    _marked("two_documents", GOOD + "§---\nversion: 1\n", "", "second document"),
    _edit("alias", "use: digits", "use: §*everything", "data.use", "alias"),
    _edit("glob_without_quotes", '"stage*.kernel"', "§*kernel", "space.params", "quote a text that begins with *"),
    _edit("tag", "name: kws-edge", "name: §!!python/object/apply:os.system [ls]", "name", "tag"),
    _marked("billion_laughs", _laughs(10), "a0", "anchor"),
    _raw(
        "megabyte_of_aliases",
        ("a: &a [x]\n" + "".join(f"k{i}: [*a, *a, *a]\n" for i in range(60_000)))[: 1 << 20].encode(),
        "",
        "larger than 256 KiB",
    ),
    _marked(
        "deep",
        "version: 1\nname: " + "[" * 31 + "§" + "[" * 900 + "\n",
        "name" + "[0]" * 31,
        "nested more than 32 deep",
    ),
    _raw("nul", GOOD.replace("digits", "dig\0its").encode(), "", "NUL byte", line=9, column=11),
    _raw("byte_order_mark", b"\xef\xbb\xbf" + GOOD.encode(), "", "byte order mark"),
    _raw("utf16", GOOD.encode("utf-16"), "", "byte order mark"),
    _raw("latin1", GOOD.replace("kws-edge", "caf\xe9").encode("latin-1"), "", "not UTF-8", line=2, column=10),
    _raw("binary", bytes(range(256)) * 8, "", "not UTF-8", line=2, column=118),
    _edit("directive", "version: 1\n", "%YAML 1.1\n§---\nversion: 1\n", "", "directives"),
    _marked("long_line", "version: 1\n§name: " + "x" * 5000 + "\n", "", "line of 5006 characters"),
]

SPOILED: tuple[Spoiled, ...] = (
    *_UNKNOWN_KEYS,
    *_MISSING,
    *_WRONG_TYPES,
    *_WRONG_VALUES,
    *_METRICS,
    *_DEVICES,
    *_SPACE,
    *_NOT_YAML,
)
"""Every spoiled file; each must give exit code 2 and one line."""
