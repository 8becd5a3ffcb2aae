"""The matrix form of a depthwise convolution computes the convolution."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hwnas.search.small_depthwise import faster_depthwise


@given(
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(2, 5),
    bias=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_fast_depthwise_training_is_the_convolution(
    kernel: int, stride: int, height: int, width: int, channels: int, bias: bool
) -> None:
    layer = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=bias).double()
    fast = faster_depthwise(nn.Sequential(layer)).train()
    x = torch.randn(3, channels, height, width, dtype=torch.float64, requires_grad=True)
    outputs = []
    for network in (fast, layer):
        y = network(x)
        weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        outputs.append((y, *torch.autograd.grad((y * weights).sum(), (x, *layer.parameters()))))
    for quick, plain in zip(*outputs, strict=True):
        torch.testing.assert_close(quick, plain)
