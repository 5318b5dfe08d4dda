"""Parts of a network exported as ONNX graphs, which ONNX Runtime computes faster on a CPU.

Needs `pip install 'vae-service[onnx]'`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from model.bundle.bundle import Bundle
from model.bundle.checks import BundleError
from model.bundle.graph_files import check
from model.engine.onnx_graph import OnnxGraph
from model.features.detector import Detector
from model.vae import VAE

PACKAGES: Final = ("onnx", "onnxscript", "onnxruntime")
"""The exporter needs the first two, and the check of what it exports the last."""

OPSET: Final = 18
"""The oldest that torch's exporter writes, for the most runtimes to read."""

IR_VERSION: Final = 8
"""The file format that came with it."""

TOLERANCE: Final = 1e-4
"""Relative, and absolute near 0. Rounding differs by 1e-6, a wrong operator by far more."""

CHECKED_ROWS: Final = 5
"""Not the number that is exported with, so that a size that became a constant is found."""


class ExportError(Exception):
    """There is no graph. The message is one line that says why."""


def with_graphs(bundle: Bundle, report: Callable[[str], object]) -> Bundle:
    """The bundle with graphs of its encoder and decoder, if its network has convolutions, and of
    its detector, if it has one.

    Fully connected networks are faster in C. If there can be no graphs, the bundle is as it was,
    torch computes it, and `report` is called with a line that says why.
    """
    graphs: dict[str, bytes] = {}
    try:
        if bundle.config.architecture == "conv":
            graphs |= export_network(bundle.network())
        if bundle.detector is not None:
            graphs["detector"] = export_detector(bundle.detector.module())
    except ExportError as error:
        report(f"no ONNX graphs: {error}; the network works without them, slower on a CPU")
        return bundle
    return replace(bundle, graphs={**bundle.graphs, **graphs}) if graphs else bundle


def export_network(network: VAE) -> dict[str, bytes]:
    """Graphs `encoder`, pixels (N, P) to heads (N, 2D), and `decoder`, latents (N, D) to logits
    (N, P), checked on random images and latents. Raises `ExportError`."""
    config = network.config
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(CHECKED_ROWS, config.pixels, generator=generator)
    latents = torch.randn(CHECKED_ROWS, config.latent_size, generator=generator)
    return {
        "encoder": export_graph("encoder", network.encoder, pixels),
        "decoder": export_graph("decoder", network.decoder, latents),
    }


def export_detector(detector: Detector) -> bytes:
    """Graph `detector`, pixels (N, P) to its columns, checked on random images.

    Raises `ExportError`.
    """
    pixels = math.prod(detector.config.image_shape)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(CHECKED_ROWS, pixels, generator=generator)
    return export_graph("detector", detector, images)


def export_graph(name: str, module: nn.Module, rows: Tensor) -> bytes:
    """`module` as an ONNX graph that agrees with it on `rows`, float32, (N, …), N ≥ 3.

    The module takes one tensor and returns one, float32 on the CPU, and works in evaluation mode.
    The graph takes any number of rows. Raises `ExportError` if the exporter is not installed, if
    the module cannot be exported, or if the graph differs by more than `TOLERANCE`.
    """
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        raise ExportError(
            f"{' and '.join(missing)} not installed (pip install 'vae-service[onnx]')"
        )
    try:
        data = _export(module, rows[:2])
        check({name: data})
        graph = OnnxGraph(name, data)
        for part in (rows, rows[:1]):
            _compare(name, graph(part.numpy()), module, part)
    except (ExportError, BundleError) as error:
        raise ExportError(str(error)) from error
    except Exception as error:  # the exporter's and the runtime's own, with pages of text
        reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
        raise ExportError(f"the {name} cannot be exported: {reason}") from error
    return data


def _export(module: nn.Module, rows: Tensor) -> bytes:
    """The graph without what the exporter says of its origin.

    That is stack traces, with paths of this machine, and so another version on every machine.
    """
    with _silence():
        program = torch.onnx.export(
            module.eval(),
            (rows,),
            input_names=["rows"],
            output_names=["output"],
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - for mypy: only the older exporter returns None
    model: Any = program.model_proto
    graph = model.graph
    model.ir_version = IR_VERSION
    model.ClearField("metadata_props")
    for field in ("metadata_props", "value_info"):  # the types between the nodes are inferred
        graph.ClearField(field)
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        for field in ("metadata_props", "doc_string"):
            part.ClearField(field)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@torch.inference_mode()
def _compare(name: str, found: Any, module: nn.Module, rows: Tensor) -> None:
    expected = module(rows).numpy()
    if found.shape != expected.shape:
        raise ExportError(f"the {name} graph gives {found.shape}, torch {expected.shape}")
    if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        off = float(np.abs(found - expected).max())
        raise ExportError(
            f"the {name} graph differs from torch by {off:.2g}, more than {TOLERANCE:g}"
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's warnings, which are about packages that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
