"""Study files: what is legal, what it means, and that nothing but our own errors comes out."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.profilers import estimated_names, get_runtime, runtime_names
from hwnas.search.metrics import Limit, Metric
from hwnas.search.study_file import dump_study, load_study_file, load_study_text
from hwnas.search.study_schema import ESTIMATED, PRECISIONS, REPLAY, SECTIONS, DeviceSpec, StudySpec, choices
from hwnas.search.study_text import init_text, study_reference
from hwnas.search.study_yaml import parse_yaml
from hwnas.spaces.errors import DeviceError, StudyFileError, UsageError

LEAST = """\
version: 1
name: small
space: {use: mobile}
data: {use: digits}
devices: {cpu: {}}
objectives: [{metric: top1}, {metric: latency_ms@cpu}]
"""

ROOT = Path(__file__).parents[2]


def fails(text: str, *overrides: str) -> str:
    with pytest.raises(StudyFileError) as caught:
        load_study_text(text, overrides)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_least_file_gets_every_default() -> None:
    spec = load_study_text(LEAST)
    assert spec.space.input is None and spec.space.num_classes is None
    assert [(rung.epochs, rung.keep) for rung in spec.quality.rungs] == [(3, 0.3), (20, None)]
    assert spec.quality.seeds == 3
    assert (spec.quality.batch, spec.quality.optimizer, spec.quality.learning_rate) == (64, "adamw", 0.01)
    assert spec.data is not None and (spec.data.validation, spec.data.test) == (0.2, 0.2)
    assert spec.devices["cpu"].model_dump() == {
        "host": "local",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "threads": 1,
        "meter": {"use": "auto"},
    }
    assert [objective.direction for objective in spec.objectives] == ["maximize", "minimize"]
    assert (spec.cost_model.use, spec.cost_model.samples, spec.cost_model.stand_in) == ("auto", 10, False)
    assert (spec.search.sampler, spec.search.seed, spec.search.trials, spec.search.time_limit) == ("auto", 0, 60, None)
    assert (spec.run.workers, spec.run.storage, spec.run.trial_timeout) == (1, "auto", 600.0)
    assert spec.verify.finalists == 8
    assert spec.export.formats == ("onnx",)


@pytest.mark.parametrize("key", ["version", "name", "space", "data", "devices", "objectives"])
def test_least_file_needs_each_key(key: str) -> None:
    text = "".join(line for line in LEAST.splitlines(keepends=True) if not line.startswith(f"{key}:"))
    assert fails(text).startswith(f"study.yaml:1:1: {key}: missing")


def test_metrics_and_limits_are_read() -> None:
    spec = load_study_text(LEAST + "limits: [latency_ms@cpu <= 2, size_mb <= 1]\ntrack: [macs, size_mb]\n")
    assert spec.limits == (Limit.parse("latency_ms@cpu <= 2"), Limit.parse("size_mb <= 1"))
    assert spec.metrics == tuple(Metric.parse(m) for m in ("top1", "latency_ms@cpu", "size_mb", "macs"))


def test_limits_may_bound_from_both_sides() -> None:
    assert len(load_study_text(LEAST + "limits: [latency_ms@cpu <= 2, latency_ms@cpu >= 1]\n").limits) == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("90s", 90), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("45", 45)]
)
def test_durations(text: str, seconds: float) -> None:
    assert load_study_text(LEAST + f"search: {{time_limit: {text}}}\n").search.time_limit == seconds


@pytest.mark.parametrize("text", ["''", "m30", "30 m", "30x", "0", "-1s", "'45'", "9999999h", "[1]", "true"])
def test_wrong_durations(text: str) -> None:
    assert fails(LEAST + f"search: {{time_limit: {text}}}\n").startswith("study.yaml:7:22: search.time_limit: ")


def test_yaml_1_2_scalars() -> None:
    node = parse_yaml("[no, on, 1e-3, 0x10, 0o17, ~, null, true, '1', 1.20, .5, 12:30, 2020-01-01, +3]", "x")
    assert node.plain() == ("no", "on", 0.001, 16, 15, None, None, True, "1", 1.2, 0.5, "12:30", "2020-01-01", 3)


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("{runtime: coreml}", "devices.cpu.runtime: 'coreml' is not in this version (available: onnxruntime, openvino"),
        ("{precision: fp16}", "devices.cpu.precision: onnxruntime has no 'fp16' in this version (fp32, int8)"),
        ("{precision: bf16}", "devices.cpu.precision: onnxruntime has no 'bf16' in this version (fp32, int8)"),
    ],
)
def test_absent_devices_are_device_errors(device: str, says: str) -> None:
    with pytest.raises(DeviceError, match=r"^study\.yaml:5:\d+: devices") as caught:
        load_study_text(LEAST.replace("{cpu: {}}", f"{{cpu: {device}}}"))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["local", "ssh:pi5", "ssh:pi@pi5.local", "ssh:pi@10.0.0.7:2222", "adb:R58M12ABCDE", "adb:R58M12@lab@gateway"],
)
def test_hosts(host: str) -> None:
    spec = load_study_text(LEAST.replace("{cpu: {}}", f"{{cpu: {{host: '{host}'}}}}"))
    assert spec.devices["cpu"].host == host


@pytest.mark.parametrize(
    "host",
    [
        "ssh:",
        "ssh:;id",
        "ssh:-oProxyCommand=touch x",
        "ssh:$(id)",
        "ssh:a b",
        "adb:",
        "adb:;id",
        "adb:-s",
        "adb:x@-oProxyCommand=x",
        "usb:1",
        "Local",
        "",
    ],
)
def test_strange_hosts_are_one_line(host: str) -> None:
    message = fails(LEAST.replace("{cpu: {}}", f"{{cpu: {{host: '{host}'}}}}"))
    assert message.startswith("study.yaml:5:") and "devices.cpu.host" in message and "\n" not in message


def test_wrong_file_comes_before_absent_device() -> None:
    text = LEAST.replace("{cpu: {}}", "{cpu: {runtime: coreml}}") + "serch: {}\n"
    assert "did you mean 'search'?" in fails(text)


def test_first_error_in_the_file_is_shown() -> None:
    assert fails(LEAST + "search: {trials: 0, seed: -1}\nrun: {workers: 0}\n").startswith(
        "study.yaml:7:18: search.trials"
    )


def test_unknown_key_is_shown_before_missing_key() -> None:
    assert fails(LEAST.replace("name:", "nmae:")) == "study.yaml:2:1: nmae: unknown key (did you mean 'name'?)"


@pytest.mark.parametrize(
    ("path", "section"), SECTIONS.items(), ids=lambda part: ".".join(part) if isinstance(part, tuple) else ""
)
def test_every_key_misspelt_finds_its_name(path: tuple[str, ...], section: Any) -> None:
    names = {"*": "0"} | {"devices": "devices"}
    where = [names.get(part, part) for part in path]
    if where[:1] == ["devices"] and len(where) > 1:
        where[1] = "cpu"
    if where[:2] == ["quality", "rungs"]:
        overrides, where = ["quality.rungs=[{epochs: 1}]"], ["quality", "rungs", "0"]
    else:
        overrides = []
    for key in section.by_key():
        wrong = key[:-1] + "q" if len(key) > 3 else key + key[-1]
        line = fails(LEAST, *overrides, ".".join([*where, f"{wrong}=1"]))
        assert line.startswith("command line: ")
        assert line.endswith(f"unknown key (did you mean '{key}'?)")


@pytest.mark.parametrize(
    ("override", "check"),
    [
        ("search.trials=20", lambda spec: spec.search.trials == 20),
        ("name=other", lambda spec: spec.name == "other"),
        ("limits=[latency_ms@cpu <= 1]", lambda spec: spec.limits == (Limit.parse("latency_ms@cpu <= 1"),)),
        ("devices.cpu.threads=2", lambda spec: spec.devices["cpu"].threads == 2),
        ("devices.my.board.threads=2", lambda spec: spec.devices["my.board"].threads == 2),
        ("objectives.1.metric=macs", lambda spec: spec.objectives[1].metric.name == "macs"),
        ("space.params.stage*.kernel=[3]", lambda spec: spec.space.params == {"stage*.kernel": (3,)}),
        ("search.stop.hypervolume_patience=5", lambda spec: spec.search.stop.hypervolume_patience == 5),
        ("search.time_limit=null", lambda spec: spec.search.time_limit is None),
    ],
)
def test_overrides(override: str, check: Any) -> None:
    text = LEAST.replace("{cpu: {}}", "{cpu: {}, my.board: {}}")
    assert check(load_study_text(text, [override]))


def test_later_override_wins() -> None:
    assert load_study_text(LEAST, ["search.trials=5", "search.trials=6"]).search.trials == 6


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("search.trials=-1", "command line: search.trials: must be >= 1, not -1"),
        ("search.trials=", "command line: search.trials: expected a whole number, not nothing"),
        ("search.sampller=tpe", "command line: search.sampller: unknown key (did you mean 'sampler'?)"),
        ("trials", "command line: the text 'trials' is not an override: write key=value, e.g. search.trials=20"),
        ("=1", "command line: the text '=1' is not an override: write key=value, e.g. search.trials=20"),
        ("name.x=1", "command line: name: the text 'small' has no keys, so 'x' cannot be set in it"),
        ("objectives.7.metric=top1", "command line: objectives: expected an index below 2, not '7'"),
        ("objectives.x=1", "command line: objectives: expected an index below 2, not 'x'"),
        (
            "search.trials=[1",
            "command line: search.trials: not legal YAML: expected ',' or ']', but got the end of the text",
        ),
        ("name=&a x", "command line: name: anchor '&a': not used in study files; quote a text that begins with &"),
        ("space.use=a/b.py", None),
    ],
)
def test_wrong_overrides(override: str, line: str | None) -> None:
    found = fails(LEAST, override)
    assert found.startswith("command line: space.use: 'a/b.py'") if line is None else found == line


def test_file_errors_name_the_path(tmp_path: Path) -> None:
    for path, says in (
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "a folder"),
        (Path("/dev/null"), "not a file"),
    ):
        with pytest.raises(UsageError, match=says) as caught:
            load_study_file(path)
        assert str(path) in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        load_study_file(Path("a\0b"))


def test_load_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(LEAST.replace("\n", "\r\n"))
    assert load_study_file(path, ["search.seed=3"]).search.seed == 3


def test_specs_are_frozen() -> None:
    spec = load_study_text(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        spec.search.trials = 3


@pytest.mark.parametrize("data", ["digits", "my data/set.npz"])
@pytest.mark.parametrize("name", ["kws", "no", "1e3", "a.b-c"])
def test_init_text_is_legal(name: str, data: str) -> None:
    text = init_text(name, data=data, device="y")
    spec = load_study_text(text)
    assert (spec.name, spec.space.use, list(spec.devices)) == (name, "mobile", ["y"])
    assert spec.data is not None and spec.data.path == (None if data == "digits" else data)
    assert load_study_text(dump_study(spec)) == spec


def test_init_text_says_only_true_things_in_its_comments() -> None:
    text = init_text("kws")
    # a commented key becomes a key: it has to be legal, and to show its default
    bare = re.sub(r"(?m)^(  )?# (?=[a-z_]+: )", r"\1", text).replace("    # - {proxy", "    - {proxy")
    spec, bare_spec = load_study_text(text), load_study_text(bare)
    assert bare_spec.quality.rungs[0].proxy == "synflow"
    assert bare_spec.quality.model_copy(update={"rungs": spec.quality.rungs}) == spec.quality
    assert bare_spec.search.time_limit == 1800
    for section in ("data", "cost_model", "run", "verify", "export"):
        assert getattr(bare_spec, section) == getattr(spec, section), section


@pytest.mark.parametrize("arguments", [{"name": "../x"}, {"name": "x", "data": "cifar"}, {"name": "x", "space": "a b"}])
def test_init_text_refuses(arguments: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        init_text(**arguments)


def test_reference_is_up_to_date() -> None:
    written = (ROOT / "docs" / "study_file.md").read_text(encoding="utf-8")
    assert written == study_reference(), "python -m hwnas.search.study_text > docs/study_file.md"


def test_reference_names_every_key() -> None:
    text = study_reference()
    assert all(f"| `{key}` |" in text for section in SECTIONS.values() for key in section.by_key())
    assert all(field.description for section in SECTIONS.values() for field in section.by_key().values())


def test_import_is_light() -> None:
    code = (
        "import sys, hwnas.search.study_file, hwnas.search.data;"
        "sys.exit(','.join({'torch', 'pandas', 'optuna', 'numpy', 'sklearn'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


# --- properties -------------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
values = st.one_of(texts, st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6), st.booleans())


@st.composite
def studies(draw: st.DrawFn) -> StudySpec:
    epochs = sorted(draw(st.sets(st.integers(1, 500), min_size=1, max_size=4)))
    rungs: list[dict[str, Any]] = [{"epochs": epoch, "keep": draw(st.floats(0.01, 1))} for epoch in epochs]
    del rungs[-1]["keep"]
    devices = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    devices = [name for name in devices if name.split(".")[0].upper() not in ("CON", "AUX", "NUL", "PRN")] or ["cpu"]
    bound = draw(st.floats(0, 1e6))
    return StudySpec.model_validate(
        {
            "version": 1,
            "name": "a" + draw(names),
            "space": {
                "use": draw(names),
                "input": draw(st.none() | st.tuples(*[st.integers(1, 4096)] * 3)),
                "params": draw(st.dictionaries(texts, values | st.lists(values, min_size=1, max_size=3).map(tuple))),
            },
            "data": draw(st.just({"use": "digits"}) | texts.map(lambda path: {"use": "npz", "path": path})),
            "quality": {"rungs": tuple(rungs), "learning_rate": draw(st.floats(1e-9, 10))},
            "devices": {name: {"threads": draw(st.integers(1, 64))} for name in devices},
            "objectives": ({"metric": "top1"}, {"metric": f"latency_ms@{devices[0]}"}),
            "limits": (f"latency_ms@{devices[-1]} <= {bound!r}",),
            "search": {"time_limit": draw(st.none() | st.floats(0.001, 1e6)), "seed": draw(st.integers(0, 2**31 - 1))},
        }
    )


@given(studies())
@settings(deadline=None, max_examples=60)
def test_dump_loads_back_to_the_same_study(spec: StudySpec) -> None:
    text = dump_study(spec)
    assert load_study_text(text) == spec
    assert dump_study(load_study_text(text)) == text


def _sound_or_one_line(text: str, *overrides: str) -> None:
    """A text is a study that can be written and read again, or refused in one line with its place."""
    try:
        spec = load_study_text(text, overrides)
    except (StudyFileError, DeviceError) as error:
        assert str(error).isprintable() and re.match(r"(study\.yaml(:\d+:\d+)?|command line): ", str(error))
    else:
        assert load_study_text(dump_study(spec)) == spec


@given(st.text(max_size=200))
@settings(deadline=None, max_examples=150)
def test_any_text_gives_one_line(text: str) -> None:
    assert re.match(r"study\.yaml(:\d+:\d+)?: ", fails(text)), "no random text is a study"


yaml_noise = st.text(st.sampled_from("{}[]:,-?&*!|>'\"%@`# \t\n~0123.eabn\\"), max_size=12)


@given(st.integers(0, 2000), st.integers(0, 30), yaml_noise)
@settings(deadline=None, max_examples=300)
def test_any_edit_gives_one_line(start: int, length: int, noise: str) -> None:
    text = init_text("kws")
    start = min(start, len(text))
    _sound_or_one_line(text[:start] + noise + text[start + length :])


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=50)
def test_any_bytes_give_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(StudyFileError) as caught:
        load_study_file(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["a: " + "{" * 1000, "a: " + "[" * 1000, "".join(f"k{i}: 1\n" for i in range(4999))])
def test_hostile_text_is_refused_fast(text: str) -> None:
    start = time.process_time()
    fails(text)
    assert time.process_time() - start < 2


@given(st.text(max_size=60))
@settings(deadline=None, max_examples=100)
def test_any_override_gives_one_line(override: str) -> None:
    _sound_or_one_line(LEAST, override)


def test_a_study_with_many_knobs_can_be_written_and_read() -> None:
    knobs = "\n".join(f"    stage{i}.a_knob_with_a_long_name: [{i}, {i + 1}]" for i in range(100))
    spec = load_study_text(LEAST.replace("space: {use: mobile}", f"space:\n  use: mobile\n  params:\n{knobs}"))
    assert len(spec.space.params) == 100
    assert load_study_text(dump_study(spec)) == spec


def test_devices_are_what_the_runtimes_can_do() -> None:
    known = (*runtime_names(), *estimated_names())
    assert {name: get_runtime(name).precisions for name in known} == PRECISIONS
    assert estimated_names() == ESTIMATED
    assert choices(DeviceSpec, "runtime") == (*PRECISIONS, REPLAY)
    assert set(choices(DeviceSpec, "precision")) == {name for names in PRECISIONS.values() for name in names}


TWO = "devices={cpu: {}, pi: {host: 'ssh:pi@pi5'}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["cost_model={from: 3}"],
            "cost_model.from: expected a file path, or a mapping of devices to file paths, not 3",
        ),
        (["cost_model={from: {}}"], "cost_model.from: expected a file path, or a mapping of devices"),
        (["cost_model={from: {cpu: [a]}}"], "cost_model.from.cpu: expected a file path, not a list"),
        (["cost_model={from: {cpy: a.json}}"], "cost_model.from.cpy: unknown device 'cpy' (did you mean 'cpu'?)"),
        ([TWO, "cost_model={from: a.json}"], "cost_model.from: which of 2 devices is it of? Write e.g. {cpu: cpu.json"),
        (["cost_model={use: none, from: a.json}"], "cost_model.from: 'none' learns from no measurement"),
        (["cost_model={use: roofline, from: a.json}"], "cost_model.from: 'roofline' learns from no measurement"),
        (
            ["cost_model={use: roofline, stand_in: true}"],
            "cost_model.stand_in: an estimate stands in for no measurement",
        ),
        (["cost_model={use: lookup}"], "cost_model.use: needs times of kernels"),
        ([TWO, "cost_model={use: roofline}"], "cost_model.use: 'roofline' knows the peak rates of this machine's"),
        (["cost_model={use: tree}"], "cost_model.use: unknown: 'tree' (did you mean 'trees'?)"),
    ],
)
def test_cost_models_that_make_no_sense(overrides: list[str], message: str) -> None:
    assert message in fails(LEAST, *overrides)


def test_files_of_cost_models_by_device() -> None:
    one = load_study_text(LEAST, ["cost_model={from: a.json}"])
    assert one.fitted == {"cpu": "a.json"} and load_study_text(dump_study(one)) == one
    two = load_study_text(LEAST, [TWO, "cost_model={use: lookup, from: {pi: b.json}}"])
    assert two.fitted == {"pi": "b.json"} and load_study_text(dump_study(two)) == two
    assert load_study_text(LEAST).fitted == {}
