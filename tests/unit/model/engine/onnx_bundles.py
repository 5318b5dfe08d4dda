"""Bundles with ONNX graphs, and a machine without the packages for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

import pytest

from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.config import VAEConfig
from model.training.onnx_export import with_graphs
from tests.unit.samples import tiny_bundle

TINY_CONV = VAEConfig(
    architecture="conv", image_shape=(1, 16, 18), hidden_sizes=(3, 4, 5), latent_size=2
)


@cache
def exported(name: str = "") -> Bundle:
    """A shipped bundle with convolutions, or a tiny one, with graphs. Made once: it is slow."""
    plain = load_bundle(find_bundle(name)) if name else tiny_bundle(config=TINY_CONV)
    bundle = with_graphs(plain, pytest.fail)
    assert set(bundle.graphs) == {"encoder", "decoder"}
    return bundle


def uninstall(monkeypatch: pytest.MonkeyPatch, packages: Sequence[str]) -> None:
    """Importing one of `packages` fails, as where it is not installed."""
    for name in packages:
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
