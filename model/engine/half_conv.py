"""Convolutions of float16 weights on a CPU, for which torch has no fast kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class HalfConv2d(nn.Module):
    """A float16 `nn.Conv2d` that adds up in float32 and rounds the result, as accelerators do.

    torch's own takes 15 times as long as in float32, on a CPU without float16 instructions.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self._weight = convolution.weight.detach().float()
        self._bias = None if convolution.bias is None else convolution.bias.detach().float()
        self._stride, self._padding = convolution.stride, convolution.padding

    def forward(self, images: Tensor) -> Tensor:
        """float16 (N, C, H, W) to float16."""
        output = functional.conv2d(
            images.float(), self._weight, self._bias, self._stride, self._padding
        )
        return output.half()


def use_half_conv(network: nn.Module) -> None:
    """Replace the float16 convolutions in `network`."""
    for name, module in network.named_children():
        if isinstance(module, nn.Conv2d) and module.weight.dtype == torch.float16:
            setattr(network, name, HalfConv2d(module))
        else:
            use_half_conv(module)
