"""What may not be loaded is refused before anything loads it, in one line, fast and in little memory."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hwnas.profilers import LocalProfiler
from hwnas.profilers.golden import golden_model
from hwnas.profilers.model_gate import check_model
from hwnas.spaces.errors import CandidateError, DataError

onnx = pytest.importorskip("onnx")


def golden() -> Any:
    return onnx.load_model_from_string(golden_model())


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data += bytes([value & 127 | 128])
        value >>= 7
    return data + bytes([value])


def part(field: int, payload: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def refused(data: bytes, tmp_path: Path, name: str = "model.onnx") -> str:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(CandidateError) as raised:
        check_model(path)
    assert raised.value.code == "export"
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 330
    return str(raised.value)


def edited(edit: Callable[[Any], object]) -> bytes:
    model = golden()
    edit(model)
    data: bytes = model.SerializeToString()
    return data


def external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def external_without_location(model: Any) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def in_attribute(model: Any) -> None:
    tensor = onnx.TensorProto(dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("value", tensor))


def in_subgraph(model: Any) -> None:
    tensor = onnx.TensorProto(dims=[1], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    inner = onnx.helper.make_graph([], "inner", [], [], [tensor])
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("then_branch", inner))


def foreign(model: Any) -> None:
    model.graph.node[1].domain = "evil.corp"


def context(model: Any) -> None:
    model.graph.node[1].domain, model.graph.node[1].op_type = "com.microsoft", "EPContext"


def python_op(model: Any) -> None:
    model.graph.node[1].domain, model.graph.node[1].op_type = "ai.onnx.contrib", "PyOp"


def function(model: Any) -> None:
    model.functions.append(onnx.helper.make_function("evil", "f", [], [], [], []))


def training(model: Any) -> None:
    model.training_info.add()


def declares_2_gb(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [1 << 29]


def declares_a_negative_side(model: Any) -> None:
    model.graph.initializer[0].dims[:] = [-1, -432]


def declares_2_gb_of_numbers(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0])
    tensor.dims[:] = [1 << 29]


def huge_input(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1 << 40


def sparse(model: Any) -> None:
    model.graph.sparse_initializer.add(dims=[1 << 40])


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (external, "external data"),
        (external_without_location, "external data"),
        (in_attribute, "external data"),
        (in_subgraph, "external data"),
        (foreign, "'evil.corp'"),
        (context, "'EPContext'"),
        (python_op, "'PyOp'"),
        (function, "function of the domain 'evil'"),
        (training, "training"),
        (declares_2_gb, "declares 536,870,912 elements"),
        (declares_a_negative_side, "declares"),
        (declares_2_gb_of_numbers, "declares 536,870,912 elements"),
        (huge_input, "an input of"),
        (sparse, "sparse tensor"),
    ],
)
def test_what_is_refused(edit: Callable[[Any], object], says: str, tmp_path: Path) -> None:
    assert says in refused(edited(edit), tmp_path)


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 100, 1000, 2000])
def test_a_file_that_is_cut_off(cut: int, tmp_path: Path) -> None:
    said = refused(golden_model()[:cut], tmp_path)
    assert (f"only {cut} bytes" if cut < 16 else "cut off or damaged: a part reaches beyond its end") in said


def test_other_things_than_onnx(tmp_path: Path) -> None:
    assert "no graph" in refused(number(1, 8) * 20, tmp_path)
    refused(b"\x00" * 64, tmp_path)
    refused(b"PK\x03\x04" + b"x" * 100, tmp_path)
    assert "TFLite" in refused(b"x" * 100, tmp_path, "model.tflite")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        check_model(tmp_path / "none.onnx")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2 << 30)  # a hole: it takes no space
    with pytest.raises(CandidateError, match="at most 536,870,912"):
        check_model(path)


def test_damage_never_gives_another_error(tmp_path: Path) -> None:
    data, dice, path = golden_model(), random.Random(0), tmp_path / "model.onnx"
    passed = 0
    for _ in range(300):
        spoiled = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            spoiled[dice.randrange(len(spoiled))] = dice.randrange(256)
        path.write_bytes(spoiled)
        try:
            check_model(path)
            passed += 1
        except CandidateError:
            continue
    assert passed, "weights may hold anything"


NODE = part(4, b"Relu") + part(1, b"x") + part(2, b"y")
HOSTILE = {
    "a million nodes": (part(7, part(1, NODE) * 1_000_000), "50,000 nodes"),
    "five million attributes": (part(7, part(1, NODE + part(5, b"") * 5_000_000)), "500,000 parts"),
    "ten million numbers": (part(7, part(1, NODE + part(5, number(8, 1) * 10_000_000))), "500,000 parts"),
    "a tensor of 2 GB": (part(7, part(5, number(1, 1 << 31) + number(2, 1) + part(9, b"abcd"))), "declares"),
    "a million axes": (part(7, part(5, number(1, 1) * 1_000_000)), "64 axes"),
    "a million packed axes": (part(7, part(5, part(1, b"\x01" * 1_000_000))), "64 axes"),
    "an endless number": (b"\x08" + b"\xff" * 1000, "no end"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_cost_little(name: str, tmp_path: Path) -> None:
    data, says = HOSTILE[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from hwnas.profilers.model_gate import check_model\n"
        "start = time.process_time()\n"
        "try: check_model(Path(sys.argv[1]))\n"
        "except Exception as error: print(error)\n"
        "peak = next(x for x in open('/proc/self/status') if x.startswith('VmHWM'))\n"
        "print(time.process_time() - start, int(peak.split()[1]) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    message, numbers = done.stdout.splitlines()
    seconds, megabytes = map(float, numbers.split())
    assert says in message
    assert seconds < 1.5 and megabytes < 200


def test_what_the_exporters_make_passes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from hwnas.profilers import get_runtime
    from hwnas.spaces import load_space

    space = load_space("mobile", input_shape=(3, 32, 32), num_classes=10)
    runtime = get_runtime("onnxruntime")
    for seed in range(1):
        model = space.build(space.random(seed))
        for precision in ("fp32", "int8"):
            path = tmp_path / f"{seed}-{precision}.onnx"
            runtime.convert(model, torch.zeros(1, 3, 32, 32), path, precision)
            check_model(path)
            file = onnx.load(str(path))
            assert {node.op_type for node in file.graph.node} >= {"Conv", "Gemm"}, "it is the network that passes"
            file.graph.node[-1].domain = "evil.corp"
            assert "'evil.corp'" in refused(file.SerializeToString(), tmp_path)


def test_the_local_profiler_refuses_too(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(edited(external))
    with LocalProfiler(reference=tmp_path / "reference.json") as profiler:
        with pytest.raises(CandidateError, match="external data"):
            profiler.measure(path)
        assert profiler.child.pid is None, "no runtime has seen it"
