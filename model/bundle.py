"""A model directory: everything that a trained network is, and nothing that can run code.

::

    config.json         format, name, architecture, preprocessing, provenance, metrics
    model.safetensors   the weights, float32
    README.md           the model card
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from model.config import VAEConfig
from model.preprocessing import PREPROCESSING
from model.vae import VAE, weight_shapes

FORMAT: Final = 1
"""Grows when an older version of this file could misread a newer bundle."""

PRETRAINED: Final = Path(__file__).parent / "pretrained"
"""Bundles that ship, each under its name."""

MAX_HEADER_BYTES: Final = 1 << 20
"""Room for the names and shapes in model.safetensors; a real header here has under 2 kB."""

VERSION_DIGITS: Final = 16
"""Hex digits of the weights' sha256 that make the version: 64 bits, no collision in practice."""


class BundleError(Exception):
    """A bundle is missing, damaged or of a newer format. The message is one line."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A network with its weights and where they come from.

    `pixel_variance` is σ² of the Gaussian likelihood p(x|z) = N(x̂, σ² I), or None where the
    training had none. `provenance` and `metrics` are plain JSON values.
    """

    name: str
    config: VAEConfig
    weights: Mapping[str, Tensor]
    pixel_variance: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """Start of the sha256 of model.safetensors: same weights, same version."""
        return _sha256(self._safetensors())[:VERSION_DIGITS]

    def network(self) -> VAE:
        """The network with these weights, in evaluation mode."""
        with torch.device("meta"):  # no random start values that would be thrown away
            vae = VAE(self.config)
        vae.load_state_dict(dict(self.weights), assign=True)
        return vae.eval().requires_grad_(requires_grad=False)

    def save(self, directory: Path, card: str) -> None:
        """Write the directory, `card` as its README.md. Nothing is replaced until all is written.

        config.json is put in place last: it names the hash of the weights, so should the machine
        stop in between, the bundle does not load as something else. Raises `BundleError` for what
        would not load, and `ValueError` for metrics that JSON cannot hold.
        """
        self._check()
        data = self._safetensors()
        content = {
            "format": FORMAT,
            "name": self.name,
            "weights_sha256": _sha256(data),
            "config": self.config.to_json(),
            "preprocessing": PREPROCESSING,
            "pixel_variance": self.pixel_variance,
            "provenance": self.provenance,
            "metrics": self.metrics,
        }
        config = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = {
            "model.safetensors": data,
            "README.md": card.encode(),
            "config.json": config.encode(),
        }
        directory.mkdir(parents=True, exist_ok=True)
        try:
            for name, text in files.items():
                (directory / f".{name}.part").write_bytes(text)
            for name in files:
                (directory / f".{name}.part").replace(directory / name)
        finally:
            for name in files:
                (directory / f".{name}.part").unlink(missing_ok=True)

    def _check(self) -> None:
        """Raise `BundleError` for what would not load."""
        if not self.name.strip():
            raise BundleError(f"name is {self.name!r}, expected a text")
        variance = self.pixel_variance
        if variance is not None and not 0 < variance < math.inf:
            raise BundleError(f"pixel_variance is {variance!r}, expected a number above 0 or null")
        check_weights(self.weights, self.config)

    def _safetensors(self) -> bytes:
        return safetensors.torch.save({n: t.contiguous() for n, t in self.weights.items()})


def find_bundle(name_or_directory: str) -> Path:
    """Directory of a shipped bundle (`mnist`) or of the user's own (`runs/mine`).

    Raises `BundleError` naming the shipped ones if there is neither.
    """
    shipped = pretrained_names()
    if name_or_directory in shipped:
        return PRETRAINED / name_or_directory
    directory = Path(name_or_directory)
    try:
        found = bool(name_or_directory.strip()) and directory.is_dir()
    except (OSError, ValueError):  # a name too long for the file system, or with a null byte
        found = False
    if not found:
        raise BundleError(
            f"bundle {name_or_directory!r} is neither a directory nor one that ships "
            f"({', '.join(shipped)})"
        )
    return directory


def pretrained_names() -> list[str]:
    """Names of the bundles that ship."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def load_bundle(directory: Path) -> Bundle:
    """Read and check a bundle.

    Sizes and shapes are checked against the config before the weights are read, and the weights
    against their recorded sha256. Raises `BundleError`.
    """
    try:
        return _load(directory)
    except (BundleError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(
            f"bundle {directory} cannot be used: {' '.join(reason.split())}"
        ) from error


def _load(directory: Path) -> Bundle:
    content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise BundleError("config.json is not a JSON object")
    if type(content["format"]) is not int or content["format"] < 1:
        raise BundleError(f"format is {content['format']!r}, expected a whole number from 1")
    if content["format"] > FORMAT:
        raise BundleError(
            f"its format {content['format']} is newer than {FORMAT}, the newest this version reads"
        )
    if content["preprocessing"] != PREPROCESSING:
        raise BundleError(f"preprocessing is {content['preprocessing']!r}, not {PREPROCESSING!r}")
    if not isinstance(content["name"], str):
        raise BundleError(f"name is {content['name']!r}, expected a text")
    variance = content["pixel_variance"]
    if variance is not None and type(variance) not in (int, float):
        raise BundleError(f"pixel_variance is {variance!r}, expected a number above 0 or null")
    config = VAEConfig.from_json(content["config"])
    bundle = Bundle(
        name=content["name"],
        config=config,
        weights=_load_weights(directory / "model.safetensors", config, content["weights_sha256"]),
        pixel_variance=variance,
        provenance=_object(content, "provenance"),
        metrics=_object(content, "metrics"),
    )
    bundle._check()
    return bundle


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(content[key], dict):
        raise BundleError(f"{key} is {content[key]!r}, expected an object")
    value: Mapping[str, Any] = content[key]
    return value


def _load_weights(path: Path, config: VAEConfig, sha256: str) -> dict[str, Tensor]:
    shapes = weight_shapes(config)
    limit = sum(math.prod(shape) * 4 for shape in shapes.values()) + MAX_HEADER_BYTES
    if (size := path.stat().st_size) > limit:
        raise BundleError(f"{path.name} has {size:,} bytes > {limit:,}, all its config allows")
    data = path.read_bytes()
    if _sha256(data) != sha256:
        raise BundleError(f"{path.name} is damaged: its sha256 is not the one in config.json")
    try:
        weights = safetensors.torch.load(data)
    except Exception as error:  # SafetensorError derives from Exception directly
        raise BundleError(f"{path.name} is damaged: {error}") from error
    return weights


def check_weights(weights: Mapping[str, Tensor], config: VAEConfig) -> None:
    """Raise `BundleError` unless these are float32, finite, and just what `config` needs."""
    shapes = weight_shapes(config)
    if odd := sorted(set(weights) ^ set(shapes)):
        kind = "lacks" if odd[0] in shapes else "has an unknown"
        raise BundleError(f"the weights' file {kind} tensor {odd[0]!r}")
    for name, tensor in weights.items():
        if tuple(tensor.shape) != shapes[name]:
            raise BundleError(f"{name} has shape {tuple(tensor.shape)}, not {shapes[name]}")
        if tensor.dtype != torch.float32:
            raise BundleError(f"{name} is {tensor.dtype}, expected torch.float32")
        if not tensor.isfinite().all():
            raise BundleError(f"{name} holds NaN or infinity")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
