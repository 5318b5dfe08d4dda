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
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
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


def with_graphs(
    bundle: Bundle, report: Callable[[str], object], images: NDArray[np.uint8] | None = None
) -> Bundle:
    """The bundle with graphs of its encoder and decoder, if its network has convolutions, and of
    its detector, if it has one.

    Fully connected networks are faster in C. The graphs are checked on random images, and on uint8
    `images`, (N, C, H, W), of the kind that the network is for. Without a graph torch computes the
    network or the detector, and `report` is called with a line that says why.
    """
    parts: dict[str, Callable[[], dict[str, bytes]]] = {}
    if bundle.config.architecture == "conv":
        parts["network"] = lambda: export_network(bundle.network(), images)
    if (stored := bundle.detector) is not None:
        parts["detector"] = lambda: {"detector": export_detector(stored.module(), images)}
    graphs: dict[str, bytes] = {}
    failed: dict[str, list[str]] = {}  # what has no graph, by the reason
    for part, export in parts.items():
        try:
            graphs |= export()
        except ExportError as error:
            failed.setdefault(str(error), []).append(part)
    for reason, without in failed.items():
        what = " and the ".join(without)
        report(f"no ONNX graphs of the {what}: {reason}; torch computes them, slower on a CPU")
    return replace(bundle, graphs={**bundle.graphs, **graphs}) if graphs else bundle


def exporter_versions() -> dict[str, str]:
    """Versions of the packages that exported and checked a graph, by name."""
    return {name: import_module(name).__version__ for name in PACKAGES}


def export_network(network: VAE, images: NDArray[np.uint8] | None = None) -> dict[str, bytes]:
    """Graphs `encoder`, pixels (N, P) to heads (N, 2D), and `decoder`, latents (N, D) to logits
    (N, P), checked on random images and latents, and on `images`. Raises `ExportError`."""
    config = network.config
    pixels = _rows(config.pixels, images)
    latents = torch.randn(
        CHECKED_ROWS, config.latent_size, generator=torch.Generator().manual_seed(0)
    )
    return {
        "encoder": export_graph("encoder", network.encoder, pixels),
        "decoder": export_graph("decoder", network.decoder, latents),
    }


def export_detector(detector: Detector, images: NDArray[np.uint8] | None = None) -> bytes:
    """Graph `detector`, pixels (N, P) to its columns, checked on random images and on `images`.

    Raises `ExportError`.
    """
    return export_graph("detector", detector, _rows(math.prod(detector.config.image_shape), images))


def _rows(pixels: int, images: NDArray[np.uint8] | None) -> Tensor:
    """Random images, and uint8 `images`, (N, C, H, W), as float32 rows in [0, 1]."""
    noise = torch.rand(CHECKED_ROWS, pixels, generator=torch.Generator().manual_seed(0))
    if images is None:
        return noise
    return torch.cat([noise, torch.from_numpy(images).flatten(1).float() / 255])


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
