"""Bundles with ONNX graphs, and a machine without the packages for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.config import VAEConfig
from model.training.onnx_export import export_graph, with_graphs
from tests.unit.model.features.detectors import as_pixels, detector_bundle, photographs
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


@cache
def exported_detector() -> Bundle:
    """A bundle whose detector has a graph."""
    bundle = detector_bundle()
    return replace(bundle, graphs={"detector": detector_graph(bundle)})


def detector_graph(bundle: Bundle) -> bytes:
    """A bundle's detector as a graph."""
    assert bundle.detector is not None
    rows = as_pixels(photographs(3, bundle.config.image_shape, seed=2))
    return export_graph("detector", bundle.detector.module(), rows)


def uninstall(monkeypatch: pytest.MonkeyPatch, packages: Sequence[str]) -> None:
    """Importing one of `packages` fails, as where it is not installed."""
    for name in packages:
        for module in [module for module in sys.modules if module.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)
