"""Work of single kernels, against what is counted by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.cost_models.kernel_work import depthwise_steps, padded_macs, vector_steps
from hwnas.profilers import Graph, Node
from hwnas.profilers.graph import count_macs

NCHWC = "com.microsoft.nchwc"


def _convolution(
    read: int,
    made: int,
    side: int,
    kernel: int = 1,
    stride: int = 1,
    group: int = 1,
    dtype: str = "float32",
    domain: str = NCHWC,
    last: bool = False,
) -> Node:
    """A convolution with a padding of half the kernel; `last`: channels stand last."""
    out = -(-side // stride)
    seen, sides = (1, read, side, side), (1, made, out, out)
    if last:
        seen, sides = (1, side, side, read), (1, out, out, made)
    weights = ((made, read // group, kernel, kernel),)
    size = 1 if "int8" in dtype else 4
    return Node(
        "c",
        "QLinearConv" if size == 1 else "Conv",
        domain,
        (seen,),
        (sides,),
        dtype,
        group,
        {"kernel": [kernel, kernel], "strides": [stride, stride]},
        bytes_in=size * math.prod(seen),
        bytes_out=size * math.prod(sides),
        macs=count_macs("Conv", (seen,), weights, (sides,)),
        weights=weights,
    )


@pytest.mark.parametrize(
    ("made", "side", "factor"),
    [
        (32, 6, 1),  # twelve tiles of three outputs and four vectors: the pipeline is full
        (8, 6, 8 / 3),  # one vector: a tile has three multiply-adds, and waits four cycles, not one and a half
        (24, 6, 4 / 4.5 * 4.5 / 4),  # three vectors fill it too
        (20, 6, 24 / 20),  # a third of the last vector is padding
        (32, 1, 2),  # one output alone waits four cycles, not two
    ],
)
def test_pointwise(made: int, side: int, factor: float) -> None:
    node = _convolution(16, made, side)
    assert padded_macs(node) == pytest.approx(node.macs * factor)
    assert depthwise_steps(node) == 0


def test_edges_are_worked_out_alone_and_padding_is_skipped() -> None:
    # 3 x 3: 2 + 3 + 2 taps down a column; in a row one whole output of 3 taps, and 2 taps of each of the two others
    cycles = 7 * (3 * 4 + 4 * 4)
    assert padded_macs(_convolution(8, 32, 3, kernel=3)) == cycles * 8 * 16
    assert depthwise_steps(_convolution(16, 16, 3, kernel=3, group=16)) == 7 * (3 + 1.5 * 4) * 2


def test_a_stride_needs_rows() -> None:
    node = _convolution(8, 32, 8, stride=2)
    assert padded_macs(node) == 4 * (6 + 4) * 8 * 16, "a row of four: a tile of three, and one alone"


def test_eight_bits() -> None:
    node = _convolution(10, 40, 4, dtype="uint8", domain="com.microsoft", last=True)
    assert padded_macs(node) == 16 * 12 * 40
    assert padded_macs(_convolution(10, 20, 4, dtype="uint8", domain="com.microsoft", last=True)) == 16 * 12 * 32
    whole, partial = (
        depthwise_steps(_convolution(n, n, 4, 3, group=n, dtype="uint8", domain="com.microsoft", last=True))
        for n in (32, 24)
    )
    assert whole == 16 * 9 * 3 and partial == pytest.approx(whole * 4 / 3)


def test_unrolled_convolutions_copy_what_they_see() -> None:
    blocked, unrolled = (_convolution(12, 12, 6, 3, domain=domain) for domain in (NCHWC, "com.microsoft"))
    assert vector_steps(unrolled) - vector_steps(blocked) == 36 * 9 * 12 / 2
    assert padded_macs(unrolled) == unrolled.macs / 36 * 48, "36 places fill three vectors of sixteen"
    pointwise = [vector_steps(_convolution(12, 12, 6, domain=domain)) for domain in (NCHWC, "com.microsoft")]
    assert pointwise[0] == pointwise[1]
    direct, copied = (
        vector_steps(_convolution(read, 16, 6, 3, dtype="uint8", domain="com.microsoft", last=True))
        for read in (16, 15)
    )
    assert direct < copied, "16 channels are read where they stand"


def test_products_fill_whole_vectors() -> None:
    node = Node("g", "Gemm", "", ((1, 64),), ((1, 10),), "float32", macs=640, weights=((10, 64),))
    assert padded_macs(node) == 16 * 64


def test_pools_and_activations() -> None:
    shape = ((1, 8, 4, 4),)
    pool = Node("p", "MaxPool", "", shape, shape, "float32", attributes={"kernel": [3, 3]})
    assert vector_steps(pool) == 9 * 128 / 8
    hard, plain = (
        Node("c", "Conv", NCHWC, shape, shape, "float32", attributes={"activation": name}, macs=1, weights=())
        for name in ("HardSwish", "Relu")
    )
    assert vector_steps(hard) - vector_steps(plain) == 4 * 128 / 8
    small = ((1, 8, 1, 1),)
    repeated = Node("m", "QLinearMul", "com.microsoft", (*shape, *small), shape, "uint8")
    assert vector_steps(repeated) > vector_steps(Node("m", "QLinearMul", "com.microsoft", shape * 2, shape, "uint8"))


def test_an_unknown_operator_costs_its_bytes_and_is_named() -> None:
    shape = ((1, 8, 4, 4),)
    node = Node("u", "Whirl", "my.domain", shape, shape, "float32", bytes_in=512, bytes_out=512)
    assert vector_steps(node) == 1024 / 32 + 128 / 8
    assert Graph((node,), ()).uncounted == ("Whirl",)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MatMul", "Transpose", "MaxPool", "QLinearMul"])
def test_nothing_known_of_the_shapes(op: str) -> None:
    for macs in (0, 7):
        node = Node("n", op, "", (), (), "float32", macs=macs)
        assert padded_macs(node) == macs and depthwise_steps(node) == 0 and vector_steps(node) == 0
    computed = Node("n", "Conv", "", ((1, 3, 8, 8),), ((1, 4, 8, 8),), "float32", macs=99)
    assert padded_macs(computed) >= 99, "filters that are computed"


@given(
    read=st.integers(1, 70),
    made=st.integers(1, 70),
    side=st.integers(1, 20),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    dtype=st.sampled_from(["float32", "uint8"]),
)
def test_no_less_than_what_has_to_be_done(
    read: int, made: int, side: int, kernel: int, stride: int, dtype: str
) -> None:
    node = _convolution(read, made, side, kernel, stride, dtype=dtype, last=dtype == "uint8")
    before = max((-(-side // stride) - 1) * stride + kernel - side, 0) // 2
    starts = [place * stride - before for place in range(-(-side // stride))]
    taps = sum(0 <= start + tap < side for start in starts for tap in range(kernel))
    assert padded_macs(node) >= taps * taps * read * made * (1 - 1e-9)
    each = _convolution(made, made, side, kernel, stride, made, dtype, last=dtype == "uint8")
    lanes = 8 if dtype == "float32" else 16
    if made > 1:
        assert depthwise_steps(each) * lanes * 3 >= taps * taps * made
    assert vector_steps(node) >= (node.bytes_in + node.bytes_out) / 32
