"""Convolutions of float16 weights, against float32 with the same rounded weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from model.config import VAEConfig
from model.engine.half_conv import HalfConv2d, use_half_conv
from model.vae import VAE
from tests.unit.samples import tiny_bundle

CONV = VAEConfig(
    architecture="conv", image_shape=(3, 24, 20), hidden_sizes=(8, 12, 16), latent_size=4
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_it_is_the_float32_convolution_of_the_rounded_weights(
    padding: int, stride: int, bias: bool
) -> None:
    torch.manual_seed(0)
    whole = nn.Conv2d(5, 7, 3, stride=stride, padding=padding, bias=bias)
    half = HalfConv2d(copy.deepcopy(whole).half())
    images = torch.randn(4, 5, 9, 8).half()
    weight = whole.weight.half().float()
    offset = None if whole.bias is None else whole.bias.half().float()
    expected = functional.conv2d(images.float(), weight, offset, stride, padding)
    output = half(images)
    assert output.dtype == torch.float16
    assert torch.equal(output, expected.half())


def test_sums_are_not_rounded_on_the_way() -> None:
    """4,608 products of 1: float16 knows no odd numbers above 2,048."""
    ones = nn.Conv2d(512, 1, 3, bias=False)
    nn.init.ones_(ones.weight)
    images = torch.ones(1, 512, 3, 3).half()
    images[0, 0, 0, 0] = -4_603
    assert HalfConv2d(ones.half())(images).item() == 4_607 - 4_604  # to which -4,603 is rounded


def test_all_convolutions_of_a_network_are_replaced_and_nothing_else() -> None:
    network = tiny_bundle(config=CONV).network()
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    half = copy.deepcopy(network).half()
    use_half_conv(half)
    kinds = [type(module) for module in half.modules()]
    assert kinds.count(HalfConv2d) == convolutions > 3
    assert nn.Conv2d not in kinds
    assert kinds.count(nn.Linear) == sum(isinstance(m, nn.Linear) for m in network.modules())
    rounded = copy.deepcopy(network).half().float()
    images = torch.from_numpy(np.random.default_rng(0).random((6, CONV.pixels), np.float32))
    with torch.inference_mode():
        output, expected = half(images.half()), rounded(images.half().float())
    assert output.images.dtype == torch.float16
    torch.testing.assert_close(output.images.float(), expected.images, rtol=0, atol=3e-3)
    torch.testing.assert_close(
        output.posterior.mean.float(), expected.posterior.mean, rtol=0, atol=3e-3
    )


def test_float32_convolutions_stay() -> None:
    network = VAE(CONV)
    use_half_conv(network)
    assert not any(isinstance(module, HalfConv2d) for module in network.modules())
