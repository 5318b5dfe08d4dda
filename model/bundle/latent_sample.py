"""Posterior means of images that are kept with a network, to show where images lie in its latents.

config.json describes them under `latents`; a bundle without them has no such field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from model.bundle.checks import BundleError
from model.bundle.verified_file import read_verified, sha256_of
from model.config import VAEConfig
from model.results import Floats
from model.tensor_file import MAX_HEADER_BYTES, TensorHeader

LATENTS_FILE: Final = "latents.safetensors"

MAX_LATENTS: Final = 3_000
"""Images. More would not be told apart in a scatter plot, and their file is read at each start."""

MAX_CLASSES: Final = 1_000
"""As many as ImageNet has. The names of all go into config.json and into each JSON answer."""

MAX_CLASS_NAME: Final = 100
"""Characters."""

LABEL_TYPES: Final = ("U8", "I64")
"""Of labels in the file, as safetensors names them. The first is used where it suffices."""


@dataclass(frozen=True, kw_only=True)
class LatentSample:
    """Posterior means of M images, 1 to `MAX_LATENTS`."""

    mu: Floats
    """(M, D), float32, finite."""
    data_set: str
    """Where the images come from, in words."""
    labels: NDArray[np.int64] | None = None
    """(M,); None if the data set has no labels."""
    classes: tuple[str, ...] | None = None
    """The name of each label, from 0; None if the names are not known."""

    @property
    def n(self) -> int:
        """M."""
        return len(self.mu)

    def check(self, config: VAEConfig) -> None:
        """Raise `BundleError` for a sample that would not load with such a network."""
        n, size = self.n, config.latent_size
        _check_count(n)
        if self.mu.shape != (n, size):
            raise BundleError(f"mu has shape {self.mu.shape}, expected ({n}, {size})")
        if self.mu.dtype != np.float32:
            raise BundleError(f"mu is {self.mu.dtype}, expected float32")
        if not np.isfinite(self.mu).all():
            raise BundleError("mu holds NaN or infinity")
        if self.labels is not None and self.labels.shape != (n,):
            raise BundleError(f"labels have shape {self.labels.shape}, expected ({n},)")
        if self.classes is not None:
            self._check_classes(self.classes)

    def _check_classes(self, classes: tuple[str, ...]) -> None:
        if self.labels is None:
            raise BundleError("latents have classes, but no labels")
        if not 1 <= len(classes) <= MAX_CLASSES:
            raise BundleError(f"latents have {len(classes):,} classes, expected 1..{MAX_CLASSES:,}")
        for name in classes:
            if not name.strip() or len(name) > MAX_CLASS_NAME:
                raise BundleError(
                    f"latents have a class {name[:64]!r}, expected a name of up to "
                    f"{MAX_CLASS_NAME} characters"
                )
        lowest, highest = int(self.labels.min()), int(self.labels.max())
        if lowest < 0 or highest >= len(classes):
            wrong = lowest if lowest < 0 else highest
            raise BundleError(f"labels hold {wrong}, but there are {len(classes)} classes")

    def to_bytes(self) -> bytes:
        """The contents of `LATENTS_FILE`."""
        tensors: dict[str, NDArray[Any]] = {"mu": self.mu}
        if self.labels is not None:
            fits = self.labels.min() >= 0 and self.labels.max() <= np.iinfo(np.uint8).max
            tensors["labels"] = self.labels.astype(np.uint8 if fits else np.int64)
        return safetensors.numpy.save(tensors)

    def to_json(self, data: bytes) -> dict[str, Any]:
        """What config.json says of the file with the bytes `data`."""
        classes = {} if self.classes is None else {"classes": list(self.classes)}
        return {
            "n": self.n,
            "data_set": self.data_set,
            **classes,
            "sha256": sha256_of(data),
        }


def read_latents(directory: Path, content: object, config: VAEConfig) -> LatentSample | None:
    """The sample that config.json describes in `content`, its value under `latents`.

    None if it has none, as in bundles made before there were any. Raises `BundleError` or
    `OSError`.
    """
    if content is None:
        return None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), str) for key in ("data_set", "sha256")
    ):
        raise BundleError("latents is no object with the strings data_set and sha256")
    n, classes = content.get("n"), content.get("classes")
    if type(n) is not int:
        raise BundleError(f"latents has n {n!r}, expected a whole number")
    _check_count(n)
    if classes is not None and not _are_strings(classes):
        raise BundleError("latents has classes that are no list of strings")
    types: list[dict[str, TensorHeader]] = [{"mu": TensorHeader("F32", (n, config.latent_size))}]
    types += [{**types[0], "labels": TensorHeader(kind, (n,))} for kind in LABEL_TYPES]

    def check(headers: Mapping[str, TensorHeader]) -> None:
        if headers not in types:
            found = ", ".join(
                f"{name[:64]!r}: {header.dtype[:8]} {header.shape}"
                for name, header in list(headers.items())[:3]
            )
            raise BundleError(
                f"{LATENTS_FILE} holds {found or 'nothing'}, expected mu, F32 of shape "
                f"{(n, config.latent_size)}, and perhaps labels, U8 or I64 of shape {(n,)}"
            )

    limit = n * (4 * config.latent_size + 8) + MAX_HEADER_BYTES
    tensors = read_verified(
        directory / LATENTS_FILE, content["sha256"], limit, check, safetensors.numpy.load
    )
    labels = tensors.get("labels")
    return LatentSample(
        mu=tensors["mu"],
        data_set=content["data_set"],
        labels=None if labels is None else labels.astype(np.int64),
        classes=None if classes is None else tuple(classes),
    )


def _check_count(n: int) -> None:
    if not 1 <= n <= MAX_LATENTS:
        raise BundleError(f"latents are of {n:,} images, expected 1..{MAX_LATENTS:,}")


def _are_strings(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
