"""The backbone, against the network as the papers describe it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional

from model.features.backbone import (
    CHANNELS,
    FEATURES,
    STRIDE,
    TAPS,
    Backbone,
    BackboneError,
    folded,
    with_backbone,
)
from tests.unit.model.features.detectors import (
    imagenet_backbone,
    imagenet_weights,
    random_backbone,
)
from tests.unit.samples import assert_one_line


class Published(NamedTuple):
    """A row of Table 1 of Tan and Le 2019, with the expansion and stride of its first block."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    layers: int


PUBLISHED = [
    Published(1, 3, 1, 16, 1),
    Published(6, 3, 2, 24, 2),
    Published(6, 5, 2, 40, 2),
    Published(6, 3, 2, 80, 3),
    Published(6, 5, 1, 112, 3),
    Published(6, 5, 2, 192, 4),
    Published(6, 3, 1, 320, 1),
]
PALACE, DAISY = 698, 985
"""Of ImageNet's classes."""


def same_conv(x: Tensor, kernel: Tensor, stride: int, groups: int = 1) -> Tensor:
    """A convolution with TensorFlow's SAME padding, for sides of any size."""
    padding: list[int] = []
    for side, k in zip(reversed(x.shape[2:]), reversed(kernel.shape[2:]), strict=True):
        total = max((-(-side // stride) - 1) * stride + k - side, 0)
        padding += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, padding), kernel, None, stride, groups=groups)


class Plain:
    """The whole network, one operation after the other, batch normalization included."""

    def __init__(self) -> None:
        self.weights = imagenet_weights()

    def norm(self, name: str, x: Tensor) -> Tensor:
        w = self.weights
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return functional.batch_norm(
            x, mean, variance, w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-3
        )

    def blocks(self, images: Tensor) -> list[Tensor]:
        """RGB in [0, 1], (N, 3, H, W), to the outputs of all blocks."""
        w = self.weights
        x = same_conv((images * 255 - 127) / 128, w["_conv_stem.weight"], 2)
        x = functional.relu6(self.norm("_bn0", x))
        outputs: list[Tensor] = []
        for stage in PUBLISHED:
            for layer in range(stage.layers):
                x = self.block(f"_blocks.{len(outputs)}", x, stage, layer)
                outputs.append(x)
        return outputs

    def block(self, name: str, x: Tensor, stage: Published, layer: int) -> Tensor:
        w, y = self.weights, x
        if stage.expansion > 1:
            y = same_conv(y, w[f"{name}._expand_conv.weight"], 1)
            y = functional.relu6(self.norm(f"{name}._bn0", y))
            assert y.shape[1] == x.shape[1] * stage.expansion
        kernel = w[f"{name}._depthwise_conv.weight"]
        assert kernel.shape[2:] == (stage.kernel, stage.kernel)
        y = same_conv(y, kernel, 1 if layer else stage.stride, groups=y.shape[1])
        y = functional.relu6(self.norm(f"{name}._bn1", y))
        y = self.norm(f"{name}._bn2", same_conv(y, w[f"{name}._project_conv.weight"], 1))
        assert y.shape[1] == stage.channels
        return x + y if layer else y

    def classify(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], (N, 3, H, W), to logits, (N, 1000)."""
        x = same_conv(self.blocks(images)[-1], self.weights["_conv_head.weight"], 1)
        x = functional.relu6(self.norm("_bn1", x)).mean(dim=(2, 3))
        return functional.linear(x, self.weights["_fc.weight"], self.weights["_fc.bias"])


def sample_photographs() -> Tensor:
    """scikit-learn's photographs, their largest squares, (2, 3, 256, 256)."""
    china, flower = (torch.tensor(image) / 255 for image in load_sample_images().images)
    squares = torch.stack([image[:, 106:533].permute(2, 0, 1) for image in (china, flower)])
    return functional.interpolate(squares, (256, 256), mode="bilinear", antialias=True)


@torch.inference_mode()
def test_the_reference_knows_what_is_on_photographs() -> None:
    """So padding, input and weights fit together there, and what agrees with it is right."""
    assert Plain().classify(sample_photographs()).argmax(dim=1).tolist() == [PALACE, DAISY]


@pytest.mark.parametrize("sides", [(256, 256), (64, 128), (16, 16), (48, 16)])
@torch.inference_mode()
def test_it_is_the_published_network(sides: tuple[int, int]) -> None:
    images = torch.cat(
        [
            functional.interpolate(sample_photographs(), sides, mode="bilinear"),
            torch.rand(1, 3, *sides, generator=torch.Generator().manual_seed(0)),
            torch.zeros(1, 3, *sides),
            torch.ones(1, 3, *sides),
        ]
    )
    outputs = Plain().blocks(images)
    expected = [outputs[number] for number in (2, 4, 10)]
    found = with_backbone(imagenet_backbone())(images)
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        height, width = (side >> (2 + number) for side in sides)
        assert one.shape == (5, CHANNELS[number], height, width)
        off = (one - other).abs().amax()
        assert off < 1e-4 * other.abs().amax().clamp_min(1), off


def test_the_features_are_the_last_at_each_stride() -> None:
    """Of those published: the next block of each halves the sides."""
    starts = [sum(stage.layers for stage in PUBLISHED[:n]) for n in range(len(PUBLISHED))]
    halving = [start for start, stage in zip(starts, PUBLISHED, strict=True) if stage.stride == 2]
    assert [start - 1 for start in halving[1:]] == list(TAPS)
    assert (sum(CHANNELS), STRIDE) == (FEATURES, 16)


def test_it_has_about_seven_hundred_thousand_parameters() -> None:
    count = sum(parameter.numel() for parameter in Backbone().parameters())
    assert count == pytest.approx(690_000, rel=0.01)
    assert count == sum(tensor.numel() for tensor in imagenet_backbone().values())


def test_it_is_frozen_and_an_image_is_independent_of_those_beside_it() -> None:
    backbone = with_backbone(random_backbone())
    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    images = torch.rand(3, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    for whole, alone in zip(backbone(images), backbone(images[1:2]), strict=True):
        torch.testing.assert_close(whole[1:2], alone, rtol=1e-4, atol=1e-5)


def test_folded_takes_double_precision_and_leaves_the_weights_alone() -> None:
    weights = dict(imagenet_weights())
    before = {name: tensor.clone() for name, tensor in weights.items()}
    in_double = folded({name: tensor.double() for name, tensor in weights.items()})
    for name, tensor in folded(weights).items():
        assert tensor.dtype == in_double[name].dtype == torch.float32
        torch.testing.assert_close(tensor, in_double[name], rtol=1e-4, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights.items())


USED = [
    "_conv_stem.weight",
    "_bn0.running_var",
    "_blocks.0._depthwise_conv.weight",
    "_blocks.0._bn2.bias",
    "_blocks.3._expand_conv.weight",
    "_blocks.7._bn1.weight",
    "_blocks.10._bn0.running_mean",
    "_blocks.10._project_conv.weight",
]


@pytest.mark.parametrize("name", USED)
def test_weights_without_a_name_are_refused(name: str) -> None:
    weights = {key: tensor for key, tensor in imagenet_weights().items() if key != name}
    with pytest.raises(BackboneError) as raised:
        folded(weights)
    assert_one_line(raised.value, name)


@pytest.mark.parametrize("change", ["longer", "shorter", "one", "flat"])
@pytest.mark.parametrize("name", USED)
def test_weights_of_another_shape_are_refused(name: str, change: str) -> None:
    """A file may be anyone's: one that fits by broadcasting alone is not this network's."""
    tensor = imagenet_weights()[name]
    other: Any = {
        "longer": torch.cat([tensor, tensor]),
        "shorter": tensor[:-1],
        "one": tensor[:1],
        "flat": tensor.reshape(1, -1),
    }[change]
    with pytest.raises(BackboneError) as raised:
        folded({**imagenet_weights(), name: other})
    assert_one_line(raised.value, "shape")


SPOILT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "no axes": (lambda tensor: tensor.flatten()[0], "shape"),
    "NaN": (lambda tensor: tensor * float("nan"), "NaN"),
    "infinity": (lambda tensor: tensor.index_fill(0, torch.tensor([1]), float("inf")), "infinity"),
    "whole numbers": (lambda tensor: tensor.int(), "int32"),
    "complex": (lambda tensor: tensor.to(torch.complex64), "complex64"),
    "sparse": (lambda tensor: tensor.to_sparse(), "sparse_coo"),
    "without values": (lambda tensor: tensor.to("meta"), "dense"),
}


@pytest.mark.parametrize("is_folded", [False, True], ids=["as trained", "folded"])
@pytest.mark.parametrize("how", SPOILT)
def test_weights_that_no_network_can_compute_with_are_refused(how: str, is_folded: bool) -> None:
    """They may be anyone's, and would otherwise fail after all networks have been trained."""
    weights = random_backbone() if is_folded else imagenet_weights()
    spoil, reason = SPOILT[how]
    for name in ["stem.weight", "blocks.6.layers.2.bias"] if is_folded else USED:
        with pytest.raises(BackboneError) as raised:
            folded({**weights, name: spoil(weights[name])})
        assert_one_line(raised.value, name, reason)


def test_a_negative_variance_is_refused_and_zero_is_not() -> None:
    name = "_blocks.0._bn2.running_var"
    variance = imagenet_weights()[name].clone()
    variance[3] = 0
    assert folded({**imagenet_weights(), name: variance})
    variance[3] = -1e-4  # which the epsilon would hide
    with pytest.raises(BackboneError) as raised:
        folded({**imagenet_weights(), name: variance})
    assert_one_line(raised.value, name, "-0.0001")


def test_a_product_beyond_float32_is_refused() -> None:
    large = {
        name: imagenet_weights()[name] * 1e25
        for name in ("_blocks.0._bn2.weight", "_blocks.0._project_conv.weight")
    }
    with pytest.raises(BackboneError) as raised:
        folded({**imagenet_weights(), **large})
    assert_one_line(raised.value, "_blocks.0._bn2", "_blocks.0._project_conv", "float32")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_folded_in_float32(dtype: torch.dtype) -> None:
    half = {name: tensor.to(dtype) for name, tensor in imagenet_weights().items()}
    expected = folded({name: tensor.float() for name, tensor in half.items()})
    for name, tensor in folded(half).items():
        assert torch.equal(tensor, expected[name])


def test_the_state_of_a_backbone_stays_as_it_is() -> None:
    state = random_backbone()
    taken = folded({**state, "extra": torch.zeros(3)})
    assert taken.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in taken.items())
    with pytest.raises(BackboneError) as raised:
        folded({name: tensor for name, tensor in state.items() if name != "stem.bias"})
    assert_one_line(raised.value, "stem.bias")


def test_the_weights_of_another_network_are_refused() -> None:
    with pytest.raises(BackboneError, match="_conv_stem"):
        folded({"conv1.weight": torch.zeros(64, 3, 7, 7)})
    with pytest.raises(BackboneError):
        folded({})
