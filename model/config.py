"""The architecture of a network: everything about it but its weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

Architecture = Literal["mlp", "conv"]
"""Fully connected or convolutional layers; see `model.vae`."""

Head = Literal["log_variance", "relu"]
"""How the output of the last encoder layer becomes μ and σ; see `model.vae`."""

MAX_PIXELS = 3 * 1024 * 1024
"""Largest C·H·W. More is a mistake in a config: the first layer alone would take gigabytes."""

MAX_WIDTH = 65_536
"""Largest hidden or latent size, for the same reason."""

CONV_SIDES = (16, 256)
"""Smallest and largest side of an image for `conv`: smaller ones cannot be halved, larger ones are
slow."""

PATCH = 4
"""Side of the squares of pixels that `conv` starts and ends with."""

MAX_CONV_GRID = 8
"""`conv_sizes` halves the grid until no side is longer than this."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Architecture of a VAE.

    >>> VAEConfig().encoder_sizes
    (784, 256, 64, 20)
    >>> VAEConfig().decoder_sizes
    (10, 64, 256, 784)
    >>> VAEConfig(architecture="conv", hidden_sizes=(64, 128), latent_size=32).grid
    (7, 7)

    Raises `ValueError`, naming the field, the value and the limit, for an invalid architecture.
    """

    architecture: Architecture = "mlp"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    """C, H, W."""
    hidden_sizes: tuple[int, ...] = (256, 64)
    """Widths of the encoder's hidden layers, from pixels to latents; the decoder mirrors them.

    For `conv`, the last is the width of a fully connected layer. The others are channels: those of
    the grid of patches, then those after each halving of the grid's sides.
    """
    latent_size: int = 10
    downscale: int = 1
    """Sides of the squares of pixels that `conv` averages before it begins, and that its output is
    enlarged by: a large image costs it no more than a small one."""
    head: Head = "log_variance"

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            names = ", ".join(get_args(Architecture))
            raise ValueError(f"architecture is {self.architecture!r}, this version knows {names}")
        if self.head not in get_args(Head):
            raise ValueError(f"head is {self.head!r}, expected one of {', '.join(get_args(Head))}")
        if len(self.image_shape) != 3 or not all(_is_size(n) for n in self.image_shape):
            raise ValueError(f"image_shape is {self.image_shape!r}, expected three sizes (C, H, W)")
        if self.image_shape[0] not in (1, 3):
            raise ValueError(f"image_shape has {self.image_shape[0]} channels, expected 1 or 3")
        if self.pixels > MAX_PIXELS:
            raise ValueError(f"image_shape has {self.pixels:,} pixels > maximum {MAX_PIXELS:,}")
        if self.architecture == "conv":
            self._check_conv()
        elif self.downscale != 1:
            raise ValueError(f"downscale is {self.downscale!r}, only conv has one")
        for name, size in [("latent_size", self.latent_size)] + [
            ("hidden_sizes", size) for size in self.hidden_sizes
        ]:
            if not _is_size(size) or size > MAX_WIDTH:
                raise ValueError(f"{name} holds {size!r}, expected whole numbers 1..{MAX_WIDTH:,}")

    def _check_conv(self) -> None:
        if not _is_size(self.downscale) or any(n % self.downscale for n in self.image_shape[1:]):
            sides = " × ".join(map(str, self.image_shape[1:]))
            raise ValueError(f"downscale is {self.downscale!r}, which does not divide {sides}")
        min_side, max_side = CONV_SIDES
        if not all(min_side <= side <= max_side for side in self.reduced_shape[1:]):
            sides = " × ".join(map(str, self.reduced_shape[1:]))
            raise ValueError(f"image_shape has sides {sides}, conv takes {min_side} to {max_side}")
        if len(self.hidden_sizes) < 2:
            raise ValueError(f"hidden_sizes is {self.hidden_sizes!r}, conv needs at least two")
        if self.reduction >= 2 * max(self.reduced_shape[1:]):
            raise ValueError(
                f"hidden_sizes is {self.hidden_sizes!r}: that many channels halve a side of "
                f"{max(self.reduced_shape[1:])} to less than 1"
            )
        if self.head != "log_variance":
            raise ValueError(f"head is {self.head!r}, conv has log_variance only")

    @property
    def pixels(self) -> int:
        """P = C·H·W, the numbers in one image."""
        return math.prod(self.image_shape)

    @property
    def encoder_sizes(self) -> tuple[int, ...]:
        """Layer widths of an `mlp` encoder; the last, 2D, holds μ and what becomes σ."""
        return (self.pixels, *self.hidden_sizes, 2 * self.latent_size)

    @property
    def decoder_sizes(self) -> tuple[int, ...]:
        """Layer widths of an `mlp` decoder."""
        return (self.latent_size, *reversed(self.hidden_sizes), self.pixels)

    @property
    def reduced_shape(self) -> tuple[int, int, int]:
        """C, H, W of what `conv` sees: an image whose squares are averaged."""
        channels, height, width = self.image_shape
        return channels, height // self.downscale, width // self.downscale

    @property
    def reduction(self) -> int:
        """Pixels of the reduced image, along one side, in one cell of `grid`."""
        reduction: int = PATCH << (len(self.hidden_sizes) - 2)
        return reduction

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells between the convolutions and the dense layers of `conv`."""
        _, height, width = self.reduced_shape
        return (math.ceil(height / self.reduction), math.ceil(width / self.reduction))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        lists = {"image_shape": list(self.image_shape), "hidden_sizes": list(self.hidden_sizes)}
        values = asdict(self) | lists
        if self.downscale == 1:  # as in bundles made before there was one
            del values["downscale"]
        return values

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The reverse of `to_json`. Raises `ValueError` for missing, unknown or wrong fields."""
        names = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or set(value) | {"downscale"} != names:
            needed = ", ".join(sorted(names - {"downscale"}))
            raise ValueError(f"expected an object with exactly {needed}, and downscale if not 1")
        lists = {name: value[name] for name in ("image_shape", "hidden_sizes")}
        for name, item in lists.items():
            if not isinstance(item, list):
                raise ValueError(f"{name} is {item!r}, expected a list of whole numbers")
        return cls(**value | {name: tuple(item) for name, item in lists.items()})


def conv_sizes(image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Suitable `hidden_sizes` of `conv` for images of shape (C, H, W).

    >>> conv_sizes((1, 28, 28)), conv_sizes((3, 64, 64))
    ((64, 128), (64, 64, 128))
    """
    halvings, side = 0, math.ceil(max(image_shape[1:]) / PATCH)
    while side > MAX_CONV_GRID:
        halvings, side = halvings + 1, math.ceil(side / 2)
    return (64,) * (1 + halvings) + (128,)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
