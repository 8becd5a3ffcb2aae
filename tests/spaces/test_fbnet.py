from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from hwnas.profilers import computed_metrics, get_runtime
from hwnas.spaces import FBNet
from hwnas.spaces.errors import SpaceError
from hwnas.spaces.fbnet_net import Shuffle

# As listed in github.com/facebookresearch/mobile-vision.
FBNET_B = (
    "k3_e1-k3_e6-k5_e1-k3_e1-k3_e1-k5_e6-k5_e3-k3_e6-k5_e6-k5_e6-k5_e1-skip-k5_e3-"
    "k5_e6-k3_e1-k5_e1-k5_e3-k5_e6-k5_e1-k5_e6-k5_e6-k3_e6"
)
MIXED = (
    "k3_e1_g2-k5_e6-k3_e1-skip-k3_e1-k3_e1-k3_e1_g2-k5_e1-k3_e6-k3_e6-k5_e1_g2-k5_e1-skip-"
    "k3_e1_g2-k5_e3-k3_e3-k3_e3-k3_e1-k5_e1_g2-k3_e3-k5_e1_g2-k5_e6"
)
SKIPS = "-".join(["skip"] * 22)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two processes of tests with two threads each on two cores would wait for each other at every layer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(text: str, space: FBNet) -> nn.Module:
    torch.manual_seed(0)
    return space.build(space.from_string(text))


@pytest.mark.parametrize(
    ("side", "classes", "params", "macs"),
    [(32, 100, 1_952_868, 59_011_328), (224, 1000, 3_957_288, 212_802_776)],
)
def test_counts_are_those_of_hw_nas_bench(side: int, classes: int, params: int, macs: int) -> None:
    """Counted in its own modules (`FBNet_Infer`, commit 6c67e04), for CIFAR-100 and ImageNet."""
    with torch.device("meta"):
        counted = computed_metrics(built(MIXED, FBNet((3, side, side), classes)), (3, side, side))
    assert (counted["params"], counted["macs"]) == (params, macs)


def test_fbnet_b_is_as_large_as_published() -> None:
    with torch.device("meta"):
        counted = computed_metrics(built(FBNET_B, FBNet((3, 224, 224), 1000)), (3, 224, 224))
    assert counted["macs"] == pytest.approx(295e6, rel=0.01)  # the paper's abstract: 295 million


def test_skip_is_nothing_where_the_shape_stays() -> None:
    model = built(SKIPS, FBNet())
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    # Six stages begin with another shape; the stem and the head are the other two.
    assert len(convolutions) == 8
    assert [layer.stride[0] for layer in convolutions] == [1, 1, 2, 2, 1, 2, 1, 1]


def test_groups_are_shuffled() -> None:
    x = torch.randn(2, 6, 3, 3)
    assert torch.equal(Shuffle()(x), x[:, [0, 3, 1, 4, 2, 5]])


@pytest.mark.parametrize(("side", "last"), [(8, 1), (32, 4), (95, 12), (96, 3), (224, 7)])
def test_strides_follow_the_input(side: int, last: int) -> None:
    with torch.device("meta"):
        model = built(SKIPS, FBNet((3, side, side))).eval()
        features = model.get_submodule("features")(torch.empty(1, 3, side, side))
    assert features.shape[2:] == (last, last)


@pytest.mark.parametrize("text", [FBNET_B, MIXED, SKIPS])
def test_export(tmp_path: Path, text: str) -> None:
    model = built(text, FBNet((3, 16, 16), 10)).train()
    with torch.no_grad():
        model(torch.randn(8, 3, 16, 16))  # so that batch norms have something to fold
    x = torch.randn(1, 3, 16, 16)
    runtime = get_runtime("onnxruntime")
    artifact = runtime.convert(model.eval(), x, tmp_path / "model.onnx")
    nodes = Counter(node.op for node in runtime.executed_graph(artifact).nodes)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
    assert nodes["Conv"] + nodes["FusedConv"] == convolutions and not nodes["BatchNormalization"]
    assert nodes["Transpose"] == text.count("g2")
    with torch.no_grad():
        scores = model(x)
    torch.testing.assert_close(torch.from_numpy(runtime.load(artifact)(x.numpy())), scores, rtol=1e-3, atol=1e-4)


def test_it_learns() -> None:
    model = built("k3_e1_g2-k5_e1" + SKIPS[9:], FBNet((1, 8, 8), 4)).train()
    x, labels = torch.randn(32, 1, 8, 8), torch.arange(32) % 4
    x += labels.reshape(-1, 1, 1, 1)
    optimiser, losses = torch.optim.AdamW(model.parameters(), 3e-3), []
    for _ in range(8):
        optimiser.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip", "it has 1 blocks joined by '-', expected 22"),
        (SKIPS + "-skip", "23 blocks"),
        (SKIPS.replace("skip", "k3e1", 1), r"block 1 is 'k3e1' \(did you mean 'k3_e1'\?\)"),
        (SKIPS.replace("skip", "", 1), "block 1 is ''"),
    ],
)
def test_other_strings_are_refused(text: str, message: str) -> None:
    with pytest.raises(SpaceError, match=f"space 'fbnet' has no architecture .*{message}"):
        FBNet().from_string(text)


def test_size_and_inputs() -> None:
    assert FBNet().size() == 9**22 and (FBNet().input_shape, FBNet().num_classes) == ((3, 32, 32), 100)
    assert FBNet(params={"layer*": "skip", "layer1": ["k3_e1", "k5_e1"]}).size() == 2
    for shape in ((3, 7, 32), (3, 32, 513)):
        with pytest.raises(SpaceError, match="8 to 512 pixels a side"):
            FBNet(shape)
