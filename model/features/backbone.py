"""The first eleven blocks of EfficientNet-Lite0: what a convolutional network sees in a photograph.

Architecture: Tan and Le 2019, "EfficientNet: Rethinking model scaling for convolutional neural
networks", in its Lite variant: ReLU6, and no squeeze-and-excitation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Stage(NamedTuple):
    """Blocks of one shape in a row; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    channels: int
    expansion: int


STEM: Final = 32
"""Channels after the first convolution, which halves the sides."""

STAGES: Final = (
    Stage(1, 3, 1, 16, 1),
    Stage(2, 3, 2, 24, 6),
    Stage(2, 5, 2, 40, 6),
    Stage(3, 3, 2, 80, 6),
    Stage(3, 5, 1, 112, 6),
)
"""Those up to a sixteenth of the sides."""

TAPS: Final = (2, 4, 10)
"""Blocks whose outputs are the features: the last at each of the strides 4, 8 and 16."""

CHANNELS: Final = (24, 40, 112)
"""Channels of the features at each of `TAPS`."""

FEATURES: Final = sum(CHANNELS)

STRIDE: Final = 16
"""Pixels, along one side, in a cell of the last features."""

MEAN: Final = 127 / 255
SCALE: Final = 128 / 255
"""Pixels enter as (x − MEAN) / SCALE, as in the training of the weights."""

BATCH_NORM_EPSILON: Final = 1e-3

FOLDED_STEM: Final = "stem.weight"
"""The name by which the state of a `Backbone` is told from that of the network as trained."""


class BackboneError(ValueError):
    """A backbone cannot be used. The message names what is wrong with its weights or features."""


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's padding, as the weights were trained.

    With a stride of 2 and even sides, the padding at the right and the bottom is larger by one.
    """

    def __init__(
        self, channels_in: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride); sides are multiples of the stride."""
        if self.stride[0] > 1:
            total = self.kernel_size[0] - self.stride[0]
            before, after = total // 2, total - total // 2
            x = functional.pad(x, (before, after, before, after))
        return super().forward(x)


class Block(nn.Module):
    """An inverted bottleneck: channels are expanded, convolved one by one, and projected."""

    def __init__(self, channels_in: int, stage: Stage, stride: int) -> None:
        super().__init__()
        wide = channels_in * stage.expansion
        layers: list[nn.Module] = []
        if stage.expansion > 1:
            layers += [SameConv(channels_in, wide, 1), nn.ReLU6()]
        layers += [SameConv(wide, wide, stage.kernel, stride=stride, groups=wide), nn.ReLU6()]
        layers.append(SameConv(wide, stage.channels, 1))
        self.layers = nn.Sequential(*layers)
        self.is_residual = stride == 1 and channels_in == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.is_residual else y


class Backbone(nn.Module):
    """RGB images to features at three scales. Batch normalization is part of the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, stride=2)
        blocks: list[nn.Module] = []
        channels = STEM
        for stage in STAGES:
            for number in range(stage.blocks):
                blocks.append(Block(channels, stage, stage.stride if number == 0 else 1))
                channels = stage.channels
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images in [0, 1], (N, 3, H, W), to maps (N, `CHANNELS`[i], H / s, W / s), s = 4, 8, 16.

        Sides are multiples of `STRIDE`.
        """
        x = functional.relu6(self.stem((images - MEAN) / SCALE))
        maps = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in TAPS:
                maps.append(x)
        return maps


def folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `Backbone`, from that of the whole network as it was trained.

    A convolution and the batch normalization after it become one convolution. Names are those of
    the package `efficientnet_lite_pytorch`; other tensors are ignored. The state of a `Backbone`
    itself is taken as it is, in float32.

    Raises `BackboneError`, naming the tensor, for one that is missing, has another shape, or is not
    dense, finite and floating-point, and for a negative variance.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in Backbone().state_dict().items()}
    if FOLDED_STEM in weights:
        return {name: _checked(weights, name, shape) for name, shape in expected.items()}
    state = {}
    for name, conv, norm in _trained_names():
        kernel = _checked(weights, f"{conv}.weight", expected[f"{name}.weight"], whole=True)
        scale, shift, mean, variance = (
            _checked(weights, f"{norm}.{field}", expected[f"{name}.bias"], whole=True)
            for field in ("weight", "bias", "running_mean", "running_var")
        )
        if (variance < 0).any():
            least = float(variance.min())
            raise BackboneError(f"{norm}.running_var holds {least:g}, expected variances from 0")
        scale = scale / (variance + BATCH_NORM_EPSILON).sqrt()
        state[f"{name}.weight"] = (kernel * scale[:, None, None, None]).float()
        state[f"{name}.bias"] = (shift - mean * scale).float()
        if not all(state[f"{name}.{field}"].isfinite().all() for field in ("weight", "bias")):
            raise BackboneError(f"{conv} and {norm} together exceed the range of float32")
    return state


def _trained_names() -> list[tuple[str, str, str]]:
    """For each convolution of a `Backbone`, its name, and those that it was trained under: of the
    convolution, and of the batch normalization after it."""
    names = [("stem", "_conv_stem", "_bn0")]
    for number, block in enumerate(Backbone().blocks):
        assert isinstance(block, Block)  # noqa: S101 - for mypy: ModuleList holds modules
        parts = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        convolutions = [i for i, layer in enumerate(block.layers) if isinstance(layer, SameConv)]
        for index, (conv, norm) in zip(convolutions, parts[-len(convolutions) :], strict=True):
            prefix = f"_blocks.{number}."
            names.append((f"blocks.{number}.layers.{index}", prefix + conv, prefix + norm))
    return names


def _checked(
    weights: Mapping[str, Tensor], name: str, shape: tuple[int, ...], *, whole: bool = False
) -> Tensor:
    """The tensor `name`: of this shape, dense, finite, and in float32, or float64 if it is that
    and the `whole` network's are folded. A file may be anyone's. Raises `BackboneError`."""
    if name not in weights:
        raise BackboneError(
            f"the weights have no {name!r}: expected are those of an EfficientNet-Lite0 with the "
            "names of the package efficientnet_lite_pytorch, or the state of a "
            "model.features.backbone.Backbone"
        )
    tensor = weights[name].detach()
    is_dense = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_meta)
    if not is_dense or not tensor.is_floating_point():
        kind = str(tensor.dtype if is_dense else tensor.layout).removeprefix("torch.")
        raise BackboneError(f"{name} is {kind}, expected dense floating-point numbers")
    if tuple(tensor.shape) != shape:  # it would be broadcast, or not fit
        raise BackboneError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
    tensor = tensor if whole and tensor.dtype == torch.float64 else tensor.float()
    if not tensor.isfinite().all():
        raise BackboneError(f"{name} holds NaN or infinity, or exceeds the range of float32")
    return tensor


def with_backbone(state: Mapping[str, Tensor]) -> Backbone:
    """A backbone with the state from `folded`, in evaluation mode."""
    with torch.device("meta"):
        backbone = Backbone()
    backbone.load_state_dict(dict(state), assign=True)
    return backbone.eval().requires_grad_(requires_grad=False)
