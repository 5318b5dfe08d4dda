"""The network that suits the images, where nothing else is asked for."""

from __future__ import annotations

import math
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.config import CONV_SIDES, Architecture, Head, VAEConfig, conv_sizes
from model.datasets.folder import Folder

SMALL_SIDE: Final = 32
"""Grey pictures up to this side get the fully connected network, at their own size."""

PHOTO_SIDE: Final = 64
"""Larger pictures are reduced to this longer side: training on 600 takes minutes on two cores."""

CONV_LATENT_SIZE: Final = 32
"""Latents of a convolutional network: photographs vary in more ways than digits."""

DETECTOR_SIDE: Final = 256
"""The same where a detector looks for small defects; the network itself averages them to
`PHOTO_SIDE`."""

DRAWN: Final = 0.25
"""In drawings, such as digits and clothes on black, this share of the pixels has one value."""

GREY_MODES: Final = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F"})
"""Pillow's modes without colour."""


def choose_sides(folder: Folder, longer: int | None, max_side: int = PHOTO_SIDE) -> tuple[int, int]:
    """Height and width for the images of a folder, from their headers.

    The aspect ratio is the median of theirs. The longer side is `longer`; by default it is
    `longer_side`, but at most `max_side`. Above `SMALL_SIDE` the shorter side is at least the least
    that the convolutional network takes. If `max_side` is above `PHOTO_SIDE`, both are rounded to
    multiples of the squares that the network averages, the longer one down.
    """
    sides = [(image.height, image.width) for image in folder.images]
    if longer is None:
        longer = min(longer_side(folder), max_side)
    shape = median(math.log(height / width) for height, width in sides)
    ratio = math.exp(-abs(shape))
    square = math.ceil(longer / PHOTO_SIDE) if max_side > PHOTO_SIDE else 1
    longer = max(1, longer // square) * square
    shorter = max(CONV_SIDES[0] if longer > SMALL_SIDE else 1, round(longer / square * ratio))
    shorter *= square
    return (longer, shorter) if shape > 0 else (shorter, longer)


def longer_side(folder: Folder) -> int:
    """Longer side of the images of a folder: their median, rounded."""
    return round(median(max(image.height, image.width) for image in folder.images))


def choose_channels(folder: Folder) -> int:
    """1 if all files of a folder are grey by their mode, otherwise 3."""
    return 1 if all(image.mode in GREY_MODES for image in folder.images) else 3


def is_grey(images: NDArray[np.uint8]) -> bool:
    """Whether uint8 `images`, (N, 3, H, W), have no colour in any pixel: grey ones saved as RGB."""
    return bool((images[:, :1] == images).all())


def is_photographs(images: NDArray[np.uint8]) -> bool:
    """Whether uint8 `images`, (N, C, H, W), are photographs rather than small drawings."""
    if images.shape[1] == 3 or max(images.shape[2:]) > SMALL_SIDE:
        return True
    return bool(np.bincount(images.ravel(), minlength=256).max() < DRAWN * images.size)


def choose_downscale(sides: tuple[int, int]) -> int:
    """Sides of the squares that a network for images with these `sides` averages; 1 if none fit."""
    smallest = math.ceil(max(sides) / PHOTO_SIDE)
    fitting = (n for n in range(smallest, 2 * smallest) if all(side % n == 0 for side in sides))
    return next(fitting, 1)


def can_be_averaged(sides: tuple[int, int]) -> bool:
    """Whether images with these `sides` reach the convolutional network at about `PHOTO_SIDE`:
    they are small, or squares of them are averaged."""
    downscale = choose_downscale(sides)
    if max(sides) > PHOTO_SIDE and downscale == 1:
        return False
    return max(sides) <= PHOTO_SIDE or all(side // downscale >= CONV_SIDES[0] for side in sides)


def nearest_sides(sides: tuple[int, int]) -> tuple[int, int]:
    """The sides nearest to these for which `can_be_averaged` holds."""

    def change(other: tuple[int, int]) -> int:
        return abs(other[0] - sides[0]) + abs(other[1] - sides[1])

    smallest = math.ceil(max(sides) / PHOTO_SIDE)
    rounded = [
        (_multiple(sides[0], square), _multiple(sides[1], square))
        for square in range(smallest, 2 * smallest)
    ]
    return min(filter(can_be_averaged, rounded), key=change)


def _multiple(side: int, square: int) -> int:
    """The multiple of `square` nearest to a side that is large enough for `conv`."""
    return max(CONV_SIDES[0], round(side / square)) * square


def choose_architecture(image_shape: tuple[int, int, int], downscale: int = 1) -> Architecture:
    """`mlp` for small grey pictures, and for those whose sides `conv` does not take."""
    channels, *sides = image_shape
    if channels == 1 and max(sides) <= SMALL_SIDE:
        return "mlp"
    smallest, largest = CONV_SIDES
    return "conv" if all(smallest <= n // downscale <= largest for n in sides) else "mlp"


def suitable_config(
    image_shape: tuple[int, int, int],
    *,
    architecture: Architecture | None = None,
    hidden_sizes: tuple[int, ...] | None = None,
    latent_size: int | None = None,
    downscale: int = 1,
    head: Head = "log_variance",
) -> VAEConfig:
    """A network for images of shape (C, H, W), with the given fields as they are.

    Raises `ValueError` as `VAEConfig` does.
    """
    if architecture is None:  # only mlp has the relu head
        architecture = "mlp" if head == "relu" else choose_architecture(image_shape, downscale)
    is_conv = architecture == "conv"
    usual = VAEConfig()
    if hidden_sizes is None:
        channels, height, width = image_shape
        reduced = channels, height // downscale, width // downscale
        hidden_sizes = conv_sizes(reduced) if is_conv else usual.hidden_sizes
    if latent_size is None:
        latent_size = CONV_LATENT_SIZE if is_conv else usual.latent_size
    return VAEConfig(
        architecture=architecture,
        image_shape=image_shape,
        hidden_sizes=hidden_sizes,
        latent_size=latent_size,
        downscale=downscale if is_conv else 1,
        head=head,
    )
