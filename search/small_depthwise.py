"""Depthwise convolution on small images as one matrix product a channel: the same function, faster to train on a CPU.

oneDNN's backward pass of a depthwise convolution is slow where the kernel is large for the image: 4 to 10 ms for 100
channels of 5x5 on 4x4 pixels and a batch of 64. The same linear map, as a (H*W, H'*W') matrix for every channel, is a
batched product of a few hundred thousand multiply-adds, and takes about 1 ms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["faster_depthwise"]

LARGEST = 64
"""Pixels of the input up to which the matrix form is considered; beyond it the convolution is as fast."""


class _MatrixDepthwise(nn.Module):
    """Computes what `conv` computes, with its own parameters.

    Shapes:
        input (N, C, H, W), output (N, C, H', W') as for `conv`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._taps: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if not self.training or h * w > min(LARGEST, 3 * self.conv.weight[0].numel()):
            return self.conv(x)  # type: ignore[no-any-return]
        if (h, w) not in self._taps:
            self._taps[h, w] = self._joined(h, w).to(x)
        taps = self._taps[h, w]
        rows, columns = taps.shape[-2:]
        matrices = (self.conv.weight.reshape(c, -1) @ taps.flatten(1)).view(c, h * w, rows * columns)
        out = (x.flatten(2).transpose(0, 1) @ matrices).transpose(0, 1)
        if self.conv.bias is not None:
            out = out + self.conv.bias[:, None]
        return out.reshape(n, c, rows, columns)

    def _joined(self, h: int, w: int) -> Tensor:
        """Returns which weight joins which input pixel to which output pixel: (k*k, h*w, h', w') of zeros and ones."""
        rows, columns = self.conv.kernel_size
        pixels = torch.eye(h * w).view(h * w, 1, h, w)
        weights = torch.eye(rows * columns).view(rows * columns, 1, rows, columns)
        return F.conv2d(pixels, weights, stride=self.conv.stride, padding=self.conv.padding).transpose(0, 1)


def _is_depthwise(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and 1 < module.groups == module.in_channels == module.out_channels
        and module.padding_mode == "zeros"
        and tuple(module.dilation) == (1, 1)
    )


def faster_depthwise(model: nn.Module) -> nn.Module:
    """Replaces the depthwise convolutions inside `model` in place; their parameters stay the same objects.

    Use it on a copy that shares parameters: names in the `state_dict` change.

    Returns:
        The model.
    """
    for name, child in list(model.named_children()):
        if _is_depthwise(child):
            setattr(model, name, _MatrixDepthwise(child))  # type: ignore[arg-type]  # it is a Conv2d
        else:
            faster_depthwise(child)
    return model
