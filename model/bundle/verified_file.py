"""A safetensors file of a bundle, read only if it is what config.json says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from model.bundle.checks import BundleError
from model.tensor_file import HeaderError, TensorHeader, read_tensor_headers

T = TypeVar("T")


def read_verified(
    path: Path,
    sha256: str,
    max_bytes: int,
    check: Callable[[Mapping[str, TensorHeader]], None],
    parse: Callable[[bytes], T],
) -> T:
    """The tensors of a safetensors file, whose bytes must have the hash that config.json names.

    `check` raises `BundleError` for a wrong header, before anything else is read. Raises
    `BundleError` or `OSError`.
    """
    if (size := path.stat().st_size) > max_bytes:
        raise BundleError(f"{path.name} has {size:,} bytes > maximum {max_bytes:,} for its config")
    try:
        check(read_tensor_headers(path))
    except HeaderError as error:
        raise BundleError(f"{path.name} is damaged: {error}") from error
    data = path.read_bytes()
    if sha256_of(data) != sha256:
        raise BundleError(f"{path.name} is damaged: its sha256 is not the one in config.json")
    try:
        return parse(data)
    except Exception as error:  # SafetensorError derives from Exception directly
        raise BundleError(f"{path.name} is damaged: {error}") from error


def sha256_of(data: bytes) -> str:
    """The sha256 in hex, as config.json records it."""
    return hashlib.sha256(data).hexdigest()
