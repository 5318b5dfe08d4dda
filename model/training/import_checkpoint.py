"""Convert checkpoints saved by the tutorial's code to bundles."""

from __future__ import annotations

import math
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from model.bundle.bundle import Bundle
from model.bundle.checks import BundleError, check_weights
from model.config import Head, VAEConfig
from model.datasets.folder import numbered, printable, some
from model.images.formats import name_of
from model.training.state_dicts import find_state_dict


def import_checkpoint(
    path: Path,
    *,
    name: str,
    head: Head = "relu",
    image_shape: tuple[int, int, int] | None = None,
    key: str | None = None,
    report: Callable[[str], object] = lambda _: None,
) -> Bundle:
    """Read a state dict saved by `torch.save(vae.state_dict(), path)`, keys `encoder.0.weight` ….

    It may be within a checkpoint, as in `{"model": …, "epoch": 3}`, and its names may have a
    prefix, as `module.`. `report` is called with a line that says where it was found. If there are
    several, `key` chooses.

    Widths and latent size follow from the shapes. The head cannot be inferred from the weights; the
    tutorial's code has `relu`. `image_shape`, (C, H, W), defaults to a square grey image. The file
    is read with `weights_only=True`, so it cannot run code, and it cannot take more memory than its
    size suggests. Raises `BundleError`.
    """
    try:
        _check_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unusual pickles, which are refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except BundleError:
        raise
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:
        # torch raises a dozen types, with a page of text that suggests disabling weights_only.
        raise BundleError(
            f"{path} is not a file of plain tensors ({_unread(error)}): save it with "
            "torch.save(vae.state_dict(), path)"
        ) from error
    try:
        found = find_state_dict(loaded, key)
    except BundleError as error:
        raise BundleError(f"{path} {error}") from error
    for tensor_name, value in found.tensors.items():
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            raise BundleError(f"{path}: {tensor_name} is not a dense tensor of real numbers")
        if (claimed := value.nbytes) > (stored := value.untyped_storage().nbytes()):
            raise BundleError(
                f"{path}: {tensor_name} claims {claimed:,} bytes, but the file stores only "
                f"{stored:,}"
            )
    weights = {tensor_name: value.float() for tensor_name, value in found.tensors.items()}
    config = _infer_config(weights, path, head, image_shape)
    try:
        check_weights(weights, config)
    except BundleError as error:
        where = f", at {printable(found.key)!r}" if found.key else ""
        raise BundleError(f"{path}{where}: {error}") from error
    if found.key:
        report(f"found the state dict at {printable(found.key)!r}")
    if found.others:
        report(f"left out {numbered(len(found.others), 'other tensor')} ({some(found.others)})")
    return Bundle(
        name=name,
        config=config,
        weights=weights,
        provenance={
            "imported_from": path.name,
            **({"state_dict": printable(found.key)} if found.key else {}),
            "torch": torch.__version__,
        },
    )


def _unread(error: Exception) -> str:
    """Why torch did not read the file, in a few words: the class of an object that it may hold, as
    a checkpoint with its arguments does."""
    if found := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
        return f"it holds an object of {printable(found[1][:64])}, which could run code"
    return "TorchScript" if "TorchScript" in str(error) else type(error).__name__


def _check_size(path: Path) -> None:
    """Refuse an archive that unpacks to more than its size, as torch never compresses."""
    with path.open("rb") as file:  # a missing file raises here; is_zipfile would return False
        if not zipfile.is_zipfile(file):
            _check_start(path, file)
            return
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > (size := path.stat().st_size):
        raise BundleError(
            f"{path} has {size:,} bytes but unpacks to {unpacked:,}: torch.save did not write it"
        )


def _check_start(path: Path, file: BinaryIO) -> None:
    """Refuse what is no checkpoint by its first bytes, such as what a failed download leaves."""
    file.seek(0)
    start = file.read(1024)
    if not start:
        raise BundleError(f"{path} is empty")
    if start.startswith(b"PK\x03\x04"):
        raise BundleError(f"{path} is cut short: the end of the archive is missing")
    if name := name_of(start):
        raise BundleError(f"{path} is {name.partition(', ')[0]}, not a checkpoint")


def _infer_config(
    weights: dict[str, Tensor],
    path: Path,
    head: Head,
    image_shape: tuple[int, int, int] | None,
) -> VAEConfig:
    """Infer widths from the encoder's matrices: layers 0, 2, 4 …, with activations in between."""
    matrices = [weights.get(f"encoder.{index}.weight") for index in range(0, 2 * len(weights), 2)]
    shapes = [tuple(m.shape) for m in matrices if m is not None]
    if not shapes or any(len(shape) != 2 for shape in shapes) or shapes[-1][0] % 2:
        raise BundleError(
            f"{path} holds {', '.join(sorted(weights)[:4]) or 'nothing'} …: expected the matrices "
            "encoder.0.weight, encoder.2.weight …, the last with an even number of rows"
        )
    pixels = shapes[0][1]
    side = math.isqrt(pixels)
    if image_shape is None and side * side != pixels:
        raise BundleError(
            f"{path} takes {pixels} pixels, not a square grey image: set --image-shape C H W"
        )
    try:
        config = VAEConfig(
            image_shape=image_shape or (1, side, side),
            hidden_sizes=tuple(shape[0] for shape in shapes[:-1]),
            latent_size=shapes[-1][0] // 2,
            head=head,
        )
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from error
    return config
