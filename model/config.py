"""What a network looks like, apart from its weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

Head = Literal["log_variance", "relu"]
"""How the last encoder layer becomes μ and σ; see `model.vae`."""

MAX_PIXELS = 3 * 1024 * 1024
"""Largest C·H·W. More is a mistake in a config: its first layer alone would be gigabytes."""

MAX_WIDTH = 65_536
"""Largest hidden or latent size, for the same reason."""


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Architecture of a fully connected VAE.

    >>> VAEConfig().encoder_sizes
    (784, 256, 64, 20)
    >>> VAEConfig().decoder_sizes
    (10, 64, 256, 784)

    Raises `ValueError`, naming the field, the value and the limit, for anything that is no network.
    """

    architecture: Literal["mlp"] = "mlp"
    image_shape: tuple[int, int, int] = (1, 28, 28)
    """C, H, W."""
    hidden_sizes: tuple[int, ...] = (256, 64)
    """Widths between pixels and latent, from the encoder's side; the decoder mirrors them."""
    latent_size: int = 10
    head: Head = "log_variance"

    def __post_init__(self) -> None:
        if self.architecture != "mlp":
            raise ValueError(f"architecture is {self.architecture!r}, this version knows 'mlp'")
        if self.head not in get_args(Head):
            raise ValueError(f"head is {self.head!r}, expected one of {', '.join(get_args(Head))}")
        if len(self.image_shape) != 3 or not all(_is_size(n) for n in self.image_shape):
            raise ValueError(f"image_shape is {self.image_shape!r}, expected three sizes (C, H, W)")
        if self.image_shape[0] not in (1, 3):
            raise ValueError(f"image_shape has {self.image_shape[0]} channels, expected 1 or 3")
        if self.pixels > MAX_PIXELS:
            raise ValueError(f"image_shape has {self.pixels:,} pixels > maximum {MAX_PIXELS:,}")
        for name, size in [("latent_size", self.latent_size)] + [
            ("hidden_sizes", size) for size in self.hidden_sizes
        ]:
            if not _is_size(size) or size > MAX_WIDTH:
                raise ValueError(f"{name} holds {size!r}, expected whole numbers 1..{MAX_WIDTH:,}")

    @property
    def pixels(self) -> int:
        """C·H·W: numbers in one image."""
        return math.prod(self.image_shape)

    @property
    def encoder_sizes(self) -> tuple[int, ...]:
        """Layer widths of the encoder; the last holds μ and what becomes σ."""
        return (self.pixels, *self.hidden_sizes, 2 * self.latent_size)

    @property
    def decoder_sizes(self) -> tuple[int, ...]:
        """Layer widths of the decoder."""
        return (self.latent_size, *reversed(self.hidden_sizes), self.pixels)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for a JSON file."""
        lists = {"image_shape": list(self.image_shape), "hidden_sizes": list(self.hidden_sizes)}
        return asdict(self) | lists

    @classmethod
    def from_json(cls, value: object) -> Self:
        """The reverse of `to_json`. Raises `ValueError` for missing, unknown or wrong fields."""
        names = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or set(value) != names:
            raise ValueError(f"expected an object with exactly {', '.join(sorted(names))}")
        lists = {name: value[name] for name in ("image_shape", "hidden_sizes")}
        for name, item in lists.items():
            if not isinstance(item, list):
                raise ValueError(f"{name} is {item!r}, expected a list of whole numbers")
        return cls(**value | {name: tuple(item) for name, item in lists.items()})


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
