"""The ONNX graphs of a bundle: a file beside the weights for each part of the network that has one.

config.json names them under `graphs`, each with its sha256; a bundle without graphs has no such
field. A graph repeats what the weights say, in the form that ONNX Runtime reads, so a bundle works
without the graphs or without the runtime, only slower. Nothing here parses a graph.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from model.bundle.checks import BundleError

GRAPH_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""A name becomes a file's, and config.json may be anyone's: no dots and no slashes."""

MAX_GRAPH_BYTES: Final = 1 << 28
"""Room for 67 million weights. The encoder of a convolutional network for 256×256 pixels has 2."""


def file_name(name: str) -> str:
    """The file of the graph `name`."""
    return f"{name}.onnx"


def check(graphs: Mapping[str, bytes]) -> None:
    """Raise `BundleError` for graphs that would not load again."""
    for name, data in graphs.items():
        _check_name(name)
        _check_size(name, len(data))


def hashes(graphs: Mapping[str, bytes]) -> dict[str, str]:
    """The sha256 of each graph, by name, as config.json records it."""
    return {name: hashlib.sha256(graphs[name]).hexdigest() for name in sorted(graphs)}


def combined_sha256(weights_sha256: str, graphs: Mapping[str, bytes]) -> str:
    """One sha256 for the weights and the graphs; that of the weights if there are no graphs."""
    return combined_hash(weights_sha256, hashes(graphs))


def combined_hash(weights_sha256: str, graph_hashes: Mapping[str, str]) -> str:
    """As `combined_sha256`, of graphs whose sha256 are known, by name.

    It is what `sha256sum decoder.onnx encoder.onnx model.safetensors | sha256sum` prints, with the
    files in the order of their names.
    """
    if not graph_hashes:
        return weights_sha256
    files = {file_name(name): sha256 for name, sha256 in graph_hashes.items()}
    files["model.safetensors"] = weights_sha256
    lines = [f"{files[name]}  {name}\n" for name in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read(directory: Path, content: object) -> dict[str, bytes]:
    """The graphs that config.json names in `content`, by name. Raises `BundleError`."""
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(sha, str) for sha in content.values()):
        raise BundleError("graphs is no object of sha256 strings")
    for name in content:
        _check_name(name)
    return {name: _read(directory / file_name(name), name, content[name]) for name in content}


def saved(directory: Path) -> set[str]:
    """Files of graphs that the bundle in `directory` names, if there is a bundle."""
    try:
        content: Any = json.loads((directory / "config.json").read_bytes())
        return {file_name(name) for name in content["graphs"] if GRAPH_NAME.fullmatch(name)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def _read(path: Path, name: str, sha256: str) -> bytes:
    _check_size(name, path.stat().st_size)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{path.name} is damaged: its sha256 is not the one in config.json")
    return data


def _check_name(name: str) -> None:
    if not GRAPH_NAME.fullmatch(name):
        raise BundleError(
            f"graph {name[:64]!r} has a wrong name, expected up to 32 of a-z, 0-9 and _"
        )


def _check_size(name: str, size: int) -> None:
    if size > MAX_GRAPH_BYTES:
        raise BundleError(f"{file_name(name)} has {size:,} bytes > maximum {MAX_GRAPH_BYTES:,}")
