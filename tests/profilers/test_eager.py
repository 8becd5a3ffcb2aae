"""torch as a runtime: its files, what they may call, and CUDA devices."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from hwnas.profilers import fingerprint, get_runtime
from hwnas.profilers.runtimes.aten import OPERATORS
from hwnas.profilers.runtimes.aten_file import FORMAT, read_aten
from hwnas.profilers.runtimes.eager import TorchEager
from hwnas.profilers.runtimes.folding import fold
from hwnas.spaces.errors import CandidateError, DeviceError


def _networks() -> Any:
    """The module of benchmarks/, which is no package."""
    path = Path(__file__).parents[2] / "benchmarks" / "networks.py"
    spec = importlib.util.spec_from_file_location("benchmark_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SIDE, make = (getattr(_networks(), name) for name in ("SIDE", "make"))


def written(path: Path, calls: list[dict[str, Any]], **more: Any) -> Path:
    """Writes a file by hand."""
    graph = {"inputs": [[1, 1, 8, 8]], "calls": calls, "outputs": [{"value": "v0"}], **more}
    path.write_bytes(save({"c0": torch.ones(2)}, {"format": FORMAT, "graph": json.dumps(graph)}))
    return path


X: dict[str, Any] = {"value": "x"}


def test_a_file_written_by_hand_runs(tmp_path: Path) -> None:
    path = written(tmp_path / "a.aten", [{"op": "aten.relu.default", "args": [X], "kwargs": {}, "name": "v0"}])
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    np.testing.assert_array_equal(TorchEager().load(path)(x), np.maximum(x, 0))


@pytest.mark.parametrize(
    "call",
    [
        {"op": "aten.from_file.default", "args": ["/etc/hostname", False, 4], "kwargs": {}},
        {"op": "aten.from_file.default", "args": [X, False, 4], "kwargs": {}},
        {"op": "aten.relu_.default", "args": [X], "kwargs": {}},
        {"op": "aten.add.out", "args": [X, X], "kwargs": {"out": X}},
        {"op": "aten.set_.source_Tensor", "args": [X, X], "kwargs": {}},
        {"op": "aten.relu.__init__", "args": [X], "kwargs": {}},
        {"op": "aten.relu.default.__class__", "args": [X], "kwargs": {}},
        {"op": "aten.no_such.default", "args": [X], "kwargs": {}},
        {"op": "prims.device_put.default", "args": [X, "cpu"], "kwargs": {}},
        {"op": "os.system", "args": ["true"], "kwargs": {}},
        {"op": "getitem", "args": [X, 0], "kwargs": {"x": 1}},
        {"op": "aten.relu.default", "args": [X], "kwargs": {"self=0); print(": 1}},
        {"op": "aten.relu.default", "args": [{"value": "y"}], "kwargs": {}},
        {"op": "aten.relu.default", "args": [{"torch": "load"}], "kwargs": {}},
        {"op": "aten.relu.default", "args": [{"torch": "float32", "value": "x"}], "kwargs": {}},
        {"op": 3, "args": [X], "kwargs": {}},
        {"op": "aten.relu.default", "args": [X], "kwargs": []},
        {"op": "aten.mul.left_t", "args": [[0], 3], "kwargs": {}},
        {"op": "aten._to_copy.default", "args": [X], "kwargs": {"layout": {"torch": "sparse_coo"}}},
        {"op": "aten._to_copy.default", "args": [X], "kwargs": {"dtype": {"torch": "quint8"}}},
    ],
    ids=lambda call: str(call["op"]),
)
def test_what_a_file_may_not_call(tmp_path: Path, call: dict[str, Any]) -> None:
    path = written(tmp_path / "a.aten", [{**call, "name": "v0"}])
    with pytest.raises(CandidateError) as raised:
        read_aten(path)
    assert raised.value.code == "export" and len(str(raised.value).splitlines()) == 1


ONES = {"value": "c0"}


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("_reshape_alias.default", [X, [4000], [1]]),
        ("_sparse_coo_tensor_unsafe.default", [ONES, ONES, [4000]]),
        ("_to_dense.default", [X]),
        ("as_strided.default", [X, [4000], [1]]),
        ("_native_batch_norm_legit_no_training.default", [X, ONES, ONES, ONES, ONES, 0.1, 1e-5]),
        ("upsample_nearest2d.default", [X, [4, 4], 1e-30, 1e-30]),
        ("empty_like.default", [X]),
        ("resize.default", [X, [4000]]),
        ("from_file.default", ["/etc/hostname", False, 4]),
    ],
)
def test_operators_that_show_other_memory_are_not_loaded(tmp_path: Path, op: str, args: list[Any]) -> None:
    path = written(tmp_path / "a.aten", [{"op": f"aten.{op}", "args": args, "kwargs": {}, "name": "v0"}])
    with pytest.raises(CandidateError) as raised:
        TorchEager().load(path)
    assert raised.value.code == "export" and f"does not know aten::{op.partition('.')[0]}" in str(raised.value)


def test_attention_does_not_read_beyond_its_values(tmp_path: Path) -> None:
    heads = {"op": "aten.slice.Tensor", "args": [X, 2, 0, 4], "kwargs": {}, "name": "v1"}
    attention = {"op": "aten.scaled_dot_product_attention.default", "kwargs": {}, "name": "v0"}
    x = np.zeros((1, 1, 8, 8), np.float32)
    path = written(tmp_path / "a.aten", [heads, {**attention, "args": [X, X, X]}])
    assert TorchEager().load(path)(x).shape == (1, 1, 8, 8)
    assert [node.op for node in TorchEager().executed_graph(path).nodes] == [
        "Slice",
        "aten::scaled_dot_product_attention",
    ]
    path = written(tmp_path / "b.aten", [heads, {**attention, "args": [X, X, {"value": "v1"}]}])
    with pytest.raises(CandidateError, match=r"keys \(1, 1, 8, 8\) and values \(1, 1, 4, 8\)"):
        TorchEager().load(path)(x)


class Strided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.as_strided([2, 2], [1, 1])


def test_operators_that_show_other_memory_are_not_converted(tmp_path: Path) -> None:
    with pytest.raises(CandidateError, match="the torch runtime does not know aten::as_strided") as raised:
        TorchEager().convert(Strided(), torch.zeros(1, 1, 8, 8), tmp_path / "a.aten")
    assert raised.value.code == "export" and not (tmp_path / "a.aten").exists()


def test_every_operator_of_the_list_exists() -> None:
    for name in OPERATORS:
        packet, _, overload = name.partition(".")
        assert not overload or hasattr(getattr(torch.ops.aten, packet), overload)
        assert hasattr(torch.ops.aten, packet)


class Shapes(nn.Module):
    """Activations, norms, pooling, resizing and shapes as networks for images use them."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.PReLU(), nn.Hardswish())
        self.up = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Mish())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norms(nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1].roll(1, 2))
        gate = y.amax((2, 3), keepdim=True).sigmoid() + y.std((2, 3), keepdim=True) + torch.tensor([0.5])
        left, right = torch.chunk(self.up(y * gate), 2, dim=1)
        z = torch.stack([left, right], 1).flatten(1, 2).double().to(x.dtype)
        z = nn.functional.pixel_shuffle(nn.functional.max_pool2d(z, 2), 2) + nn.functional.interpolate(
            z[:, :1], size=32
        )
        return torch.where(z > 0, z, z.clamp(min=-1)).softmax(-1) @ torch.ones_like(z).mT


@pytest.mark.parametrize("name", ["mobilenet", "resnet18", "vit", "shapes"])
def test_usual_networks_are_converted_and_loaded(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model, side = (Shapes().eval(), 8) if name == "shapes" else (make(name, 0), SIDE)
    x = torch.randn(1, 4 if name == "shapes" else 3, side, side)
    with torch.no_grad():
        expected = model(x).numpy()
    run = TorchEager().load(TorchEager().convert(model, x, tmp_path / "a.aten"))
    np.testing.assert_allclose(run(x.numpy()), expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))


def test_other_safetensors_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "a.aten").write_bytes(save({"c0": torch.ones(2)}))
    with pytest.raises(CandidateError, match="not a file of ATen operators"):
        read_aten(tmp_path / "a.aten")


def test_a_spoiled_file_never_crashes(tmp_path: Path) -> None:
    TorchEager().convert(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8), tmp_path / "good.aten")
    good, rng = (tmp_path / "good.aten").read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(good)
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
        (tmp_path / "bad.aten").write_bytes(data[: int(rng.integers(1, len(data) + 1))])
        try:
            read_aten(tmp_path / "bad.aten")
        except CandidateError as error:
            assert error.code == "export"


def test_a_file_holds_no_pickle(tmp_path: Path) -> None:
    TorchEager().convert(nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8), tmp_path / "a.aten")
    with safe_open(tmp_path / "a.aten", "np") as file:
        assert set(file.keys()) == {"c0", "c1"}
        assert json.loads(file.metadata()["graph"])["calls"][0]["op"] == "aten.conv2d.default"


class Busy(nn.Module):
    """In-place operators, a normalisation that cannot be folded, constants, several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.conv(x)
        y = y + self.other(y)
        y = self.relu(self.norm(self.conv(x))) + y * torch.tensor([2.0])
        left, right = y.flatten(2).split(32, dim=2)
        return torch.cat([left, right], 2).masked_fill(left.sum() > 1e9, float("-inf")), right.mean(2)


def test_folding_changes_nothing_else(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Busy()
    for _ in range(3):
        model(torch.randn(8, 1, 8, 8))
    x = torch.randn(1, 1, 8, 8)
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of torch.export
        expected, kept = model(x), x.clone()
        folded = fold(model, x)
        for found, value in zip(folded(x), expected, strict=True):
            torch.testing.assert_close(found, value)
        torch.testing.assert_close(x, kept, rtol=0, atol=0)
    names = [str(node.target) for node in folded.graph.nodes if "batch_norm" in str(node.target)]
    assert len(names) == 1, "one follows a convolution that is read elsewhere, too"
    artifact = TorchEager().convert(model, x, tmp_path / "a.aten")
    assert [node.op for node in TorchEager().executed_graph(artifact).nodes].count("BatchNormalization") == 1
    run = TorchEager().load(artifact)
    np.testing.assert_allclose(run(x.numpy()), expected[0].numpy(), rtol=1e-4, atol=1e-5)
    assert run.bind(x.numpy())() is not None


def test_every_operator_is_timed(tmp_path: Path) -> None:
    artifact = TorchEager().convert(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(1, 1, 8, 8), tmp_path / "a"
    )
    kernels = TorchEager().kernels(artifact, runs=3)
    assert [kernel.op for kernel in kernels] == ["aten.conv2d.default", "aten.relu.default"]
    assert all(kernel.ms > 0 and kernel.placement == "CPU" for kernel in kernels)


def test_bf16_on_a_processor_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = TorchEager().convert(nn.ReLU(), torch.zeros(1, 1, 8, 8), tmp_path / "a.aten", "bf16")
    monkeypatch.setattr("hwnas.profilers.runtimes.eager.cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(DeviceError, match="this processor has no bf16"):
        TorchEager().load(artifact)
    monkeypatch.setattr("hwnas.profilers.runtimes.eager.cpu_flags", lambda: frozenset({"amx_bf16"}))
    assert "bfloat16" in {node.dtype for node in TorchEager().executed_graph(artifact).nodes}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_without_a_cuda_device(tmp_path: Path) -> None:
    runtime = get_runtime("torch-cuda")
    told = runtime.available()
    assert not told.ok and "CUDA" in told.missing and told.install
    artifact = runtime.convert(nn.ReLU(), torch.zeros(1, 1, 8, 8), tmp_path / "a.aten", "fp16")
    assert artifact.precision == "fp16", "a file can be made anywhere"
    for ask in (runtime.load, runtime.executed_graph, runtime.kernels):
        asked: Callable[..., object] = ask
        with pytest.raises(DeviceError, match="torch finds no CUDA device"):
            asked(artifact)


def test_a_fingerprint_names_the_graphics_card() -> None:
    told = fingerprint("torch-cuda")
    assert told["torch-cuda"] == fingerprint("torch")["torch"] != "missing" and told["gpu"]
    assert "gpu" not in fingerprint("torch")


@pytest.mark.gpu
def test_on_a_cuda_device(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    x = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
    expected = model(torch.from_numpy(x)).detach().numpy()
    runtime = get_runtime("torch-cuda")
    artifact = runtime.convert(model, torch.zeros(1, 1, 8, 8), tmp_path / "a.aten")
    for precision, tolerance in (("fp32", 1e-4), ("fp16", 1e-2), ("bf16", 1e-1)):
        session = runtime.load(artifact, precision=precision)
        np.testing.assert_allclose(session(x), expected, atol=tolerance)
        outputs: Any = session.bind(x)()
        np.testing.assert_allclose(outputs[0].float().cpu().numpy(), expected, atol=tolerance)
