"""Files of fitted cost models: what they keep, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.cost_models import Fitted, Provenance, Sample, fit_model
from hwnas.cost_models.fitted import device_of, differences
from hwnas.profilers import Graph, Node
from hwnas.spaces.errors import DataError, UsageError

HERE = {
    "cpu": "A",
    "governor": "performance",
    "onnxruntime": "1.30",
    "threads": 1,
    "precision": "fp32",
    "os": "Linux 6",
}


def graph(layers: int, width: int, runtime: str = "onnxruntime 1.30") -> Graph:
    shape = ((1, width, 8, 8),)
    size, weights = 4 * 64 * width, ((width, width, 3, 3),)
    node = Node(
        "n", "Conv", "", shape, shape, "float32", 1, {"kernel": [3, 3]}, 36 * width * width, size, size,
        64 * 9 * width * width, weights,
    )  # fmt: skip
    nodes = tuple(replace(node, name=f"layer {place}") for place in range(layers))
    return Graph(nodes, tuple((place, place + 1) for place in range(layers - 1)), runtime, 2 * size)


def samples(count: int = 8, device: str = "") -> list[Sample]:
    return [
        Sample(graph(1 + place % 4, 8 * (1 + place % 3)), 0.1 + 0.05 * place, f"net {place}", place > 5, device)
        for place in range(count)
    ]


def fitted() -> Fitted:
    where = Provenance(HERE, "latency_ms", "mobile", (1, 8, 8), 3, 0.02, "2026-01-02T03:04:05", 10)
    return Fitted.of("additive", samples(device=device_of(HERE)), where)


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    first = fitted()
    first.save(path)
    again = Fitted.load(path, HERE)
    assert again.samples == first.samples
    assert again.provenance == first.provenance
    assert again.foreign == ()
    asked = graph(5, 16)
    assert again.model.predict(asked) == first.model.predict(asked)
    assert path.stat().st_size < 60_000, "kernels that are the same are written once"


def test_another_device_is_refused_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    fitted().save(path)
    other = {**HERE, "governor": "powersave", "onnxruntime": "1.31", "os": "Linux 7"}
    with pytest.raises(
        DataError, match=r"cpu\.json: of another device \(governor 'performance', here 'powersave', onnx"
    ):
        Fitted.load(path, other)
    assert Fitted.load(path, other, any_device=True).foreign == ("governor", "onnxruntime")
    assert Fitted.load(path, {**HERE, "os": "Linux 7"}).foreign == ()
    assert Fitted.load(path).foreign == ()


def test_a_fingerprint_of_lists_compares_with_what_json_makes_of_it() -> None:
    assert differences({"pins": (1, 2)}, {"pins": [1, 2]}) == ()


def test_another_meter_is_another_device_of_energy_alone(tmp_path: Path) -> None:
    rapl, ina = {**HERE, "meter": "rapl"}, {**HERE, "meter": "ina219"}
    path = tmp_path / "cpu.json"
    for target in ("latency_ms", "energy_mj"):
        where = Provenance(rapl, target, "mobile", (1, 8, 8))
        Fitted.of("additive", samples(device=device_of(rapl, target)), where).save(path)
        if target == "latency_ms":
            assert Fitted.load(path, ina).foreign == () and device_of(rapl, target) == device_of(ina, target)
    with pytest.raises(DataError, match=r"of another device \(meter 'rapl', here 'ina219'\)"):
        Fitted.load(path, ina)
    assert Fitted.load(path, ina, any_device=True).foreign == ("meter",)
    mixed = [*samples(device=device_of(rapl, "energy_mj")), *samples(device=device_of(ina, "energy_mj"))]
    with pytest.raises(DataError, match="two devices"):
        fit_model("additive", mixed, target="energy_mj")


def test_two_devices_mixed_are_refused() -> None:
    with pytest.raises(DataError, match=r"two devices: a \(net 0\) and b \(net 0\)"):
        fit_model("additive", [*samples(device="a"), *samples(device="b")])
    other = [replace(sample, graph=replace(sample.graph, runtime="openvino 2026.1")) for sample in samples()]
    with pytest.raises(DataError, match="two runtimes: onnxruntime"):
        fit_model("additive", [*samples(), *other])


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="did you mean 'additive'"):
        fit_model("aditive", samples())
    with pytest.raises(UsageError, match="latency_ms"):
        fit_model("additive", samples(), target="speed")


def test_files_that_are_not_fitted(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    fitted().save(path)
    text = path.read_text()
    data = json.loads(text)
    bad_samples = [
        {**data["samples"][0], key: value}
        for key, value in (("value", -1.0), ("value", 10**400), ("graph", {}), ("bogus", 1))
    ]
    spoiled = [
        text[: len(text) // 2],
        json.dumps({**data, "schema_version": 3}),
        json.dumps({**data, "model": "sorcery"}),
        json.dumps({**data, "provenance": {"target": "speed"}}),
        json.dumps({**data, "kernels": []}),
        *(json.dumps({**data, "samples": [sample]}) for sample in bad_samples),
    ]
    for content in spoiled:
        path.write_text(content)
        with pytest.raises(DataError, match=r"cpu\.json: not a cost model") as raised:
            Fitted.load(path)
        assert "\n" not in str(raised.value)


OLD = {
    "schema_version": 1,
    "model": "additive",
    "features": ["calls", "depth", "kernels", "macs"],
    "costs": [0.01, 0.0, 0.002, 1e-8],
    "left_out": [{"costs": [0.01, 0.0, 0.002, 1e-8], "residual": 0.05}] * 4,
}
"""The form of schema 1, by hand; features of its time that are left out cost nothing."""


def test_a_file_of_schema_1(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(OLD))
    old = Fitted.load(path)
    asked = graph(3, 8)
    said = old.model.predict(asked)
    assert said.value == pytest.approx(0.01 + 3 * 0.002 + 1e-8 * asked.macs)
    assert said.low < 0.96 * said.value and said.high > 1.04 * said.value
    assert old.samples == () and old.provenance == Provenance()
    with pytest.raises(DataError, match="does not say of which device"):
        Fitted.load(path, HERE)
    assert Fitted.load(path, HERE, any_device=True).foreign
    path.write_text(json.dumps({**OLD, "features": ["calls", "depth", "kernels", "witchcraft"]}))
    with pytest.raises(DataError, match="other features: witchcraft"):
        Fitted.load(path)
