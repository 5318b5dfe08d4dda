"""Networks as ONNX graphs: what is exported, and when nothing is."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from google.protobuf.message import Message
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.bundle.bundle import Bundle
from model.config import VAEConfig
from model.engine.onnx_graph import OnnxGraph
from model.features.detector import StoredDetector
from model.training import onnx_export
from model.training.onnx_export import (
    CHECKED_ROWS,
    ExportError,
    export_detector,
    export_graph,
    export_network,
    with_graphs,
)
from model.vae import VAE
from tests.unit.model.engine.onnx_bundles import TINY_CONV, exported, uninstall
from tests.unit.model.features.detectors import (
    SHAPE,
    SMALL,
    as_pixels,
    detector_bundle,
    fitted,
    photographs,
)
from tests.unit.samples import tiny_bundle


@settings(deadline=None, max_examples=4, phases=[Phase.generate])  # an export takes seconds
@given(
    st.sampled_from([1, 3]), st.integers(16, 40), st.integers(16, 40),
    st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(1, 5), st.integers(0, 2**31),
)  # fmt: skip
def test_any_network_with_convolutions_is_as_by_torch(
    channels: int, height: int, width: int, hidden: list[int], latents: int, seed: int
) -> None:
    config = VAEConfig(
        architecture="conv", image_shape=(channels, height, width),
        hidden_sizes=tuple(hidden), latent_size=latents,
    )  # fmt: skip
    torch.manual_seed(seed)
    network = VAE(config).eval().requires_grad_(requires_grad=False)
    graphs = export_network(network)
    for name, part, size in (
        ("encoder", network.encoder, config.pixels),
        ("decoder", network.decoder, latents),
    ):
        graph = OnnxGraph(name, graphs[name])
        for n in (1, 2, 7):
            rows = torch.rand(n, size)
            with torch.inference_mode():
                expected = part(rows).numpy()
            np.testing.assert_allclose(graph(rows.numpy()), expected, rtol=1e-4, atol=1e-4)


def fields(message: Message) -> set[str]:
    """Names of all fields that are set, at any depth."""
    found = set()
    for field, value in message.ListFields():
        found.add(field.name)
        parts = [value] if isinstance(value, Message) else value if field.is_repeated else []
        for part in parts:
            found |= fields(part) if isinstance(part, Message) else set()
    return found


def test_nothing_of_the_machine_is_in_it_and_it_is_the_same_each_time() -> None:
    """The exporter writes stack traces into a graph, which is part of the bundle's version."""
    graphs = exported().graphs
    for name, data in graphs.items():
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model)
        assert not {"metadata_props", "doc_string"} & fields(model), name
        assert b"site-packages" not in data
    assert export_network(tiny_bundle(config=TINY_CONV).network()) == graphs


def test_nothing_is_printed_or_warned() -> None:
    """In a process of its own: the exporter logs to the stderr that there was at its import."""
    code = """
import warnings
import logging
from tests.unit.model.engine.onnx_bundles import TINY_CONV
from tests.unit.samples import tiny_bundle
from model.training.onnx_export import with_graphs
warnings.simplefilter("always")
with_graphs(tiny_bundle(config=TINY_CONV), print)
assert logging.getLogger("torch.onnx").level == logging.NOTSET
"""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("package", onnx_export.PACKAGES)
def test_without_a_package_there_is_a_line_and_the_bundle_as_it_was(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninstall(monkeypatch, [package])
    lines: list[str] = []
    plain = tiny_bundle(config=TINY_CONV)
    assert with_graphs(plain, lines.append) is plain
    (line,) = lines
    assert line.startswith(
        f"no ONNX graphs of the network: {package} not installed (pip install 'vae-service[onnx]')"
    )
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("package", onnx_export.PACKAGES)
def test_without_a_package_one_line_is_of_all_that_has_no_graph(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninstall(monkeypatch, [package])
    lines: list[str] = []
    plain = with_both()
    assert with_graphs(plain, lines.append) is plain
    (line,) = lines
    assert line.startswith(f"no ONNX graphs of the network and the detector: {package} not inst")


def with_both() -> Bundle:
    """A network with convolutions, and a detector."""
    return detector_bundle(
        config=VAEConfig(architecture="conv", image_shape=SHAPE, hidden_sizes=(3, 4), latent_size=3)
    )


def test_the_versions_of_the_exporter_are_known() -> None:
    assert onnx_export.exporter_versions() == {
        name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")
    }


@pytest.mark.parametrize("fails", ["encoder", "decoder", "detector"])
def test_what_fails_does_not_cost_the_other_graphs(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder is of no use without its decoder."""

    def export(name: str, module: nn.Module, rows: Tensor) -> bytes:
        if name == fails:
            raise ExportError(f"the {name} is odd")
        return name.encode()

    monkeypatch.setattr(onnx_export, "export_graph", export)
    lines: list[str] = []
    bundle = with_graphs(with_both(), lines.append)
    if fails == "detector":
        assert bundle.graphs == {"encoder": b"encoder", "decoder": b"decoder"}
    else:
        assert bundle.graphs == {"detector": b"detector"}
    part = "detector" if fails == "detector" else "network"
    assert lines == [
        f"no ONNX graphs of the {part}: the {fails} is odd; torch computes them, slower on a CPU"
    ]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_graphs_are_checked_on_images_of_ones_own(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside random ones, which no network has been trained on."""
    checked: dict[str, Tensor] = {}

    def export(name: str, module: nn.Module, rows: Tensor) -> bytes:
        checked[name] = rows
        return b""

    monkeypatch.setattr(onnx_export, "export_graph", export)
    images = photographs(n, SHAPE)
    with_graphs(with_both(), pytest.fail, images)
    for name in ("encoder", "detector"):
        assert torch.equal(checked[name][CHECKED_ROWS:], as_pixels(images))
        assert checked[name].shape == (CHECKED_ROWS + n, 3 * 48 * 24)
    with_graphs(with_both(), pytest.fail)
    assert len(checked["encoder"]) == len(checked["detector"]) == CHECKED_ROWS


def test_a_detectors_graph_is_the_detector() -> None:
    """On images, on black and white ones, and on a defect."""
    detector, *_, unseen = fitted()
    graph = OnnxGraph("detector", export_detector(detector, unseen[:2]))
    images = np.concatenate([unseen[2:7], 0 * unseen[:1], 0 * unseen[:1] + 255])
    images[3, :, 10:30] = 255 - images[3, :, 10:30]
    for rows in (as_pixels(images), as_pixels(images[:1])):
        with torch.inference_mode():
            expected = detector(rows).numpy()
        assert expected.shape == (len(rows), detector.config.columns)
        np.testing.assert_allclose(graph(rows.numpy()), expected, rtol=1e-3, atol=1e-3)


class OddOnWhite(nn.Module):
    """Computes something else for white images whenever it is not exported."""

    def forward(self, rows: Tensor) -> Tensor:
        is_white = rows.mean(dim=1, keepdim=True) > 0.99
        return rows if torch.compiler.is_compiling() else rows + is_white


def test_a_difference_on_images_of_ones_own_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random images would not have shown it."""
    bundle = detector_bundle()
    odd = OddOnWhite()
    monkeypatch.setattr(odd, "config", SMALL, raising=False)
    monkeypatch.setattr(StoredDetector, "module", lambda _: odd)
    assert set(with_graphs(bundle, pytest.fail).graphs) == {"detector"}
    lines: list[str] = []
    white = np.full((1, *SHAPE), 255, np.uint8)
    assert with_graphs(bundle, lines.append, white) is bundle
    (line,) = lines
    assert "the detector graph differs from torch by 1" in line


def test_a_fully_connected_network_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it was exported"))
    plain = tiny_bundle()
    assert with_graphs(plain, pytest.fail) is plain


class Odd(nn.Module):
    """Computes something else whenever it is not exported."""

    def __init__(self, off: float) -> None:
        super().__init__()
        self.off = off

    def forward(self, rows: Tensor) -> Tensor:
        return rows if torch.compiler.is_compiling() else rows + self.off


@pytest.mark.parametrize("off", [1e-2, float("nan")])
def test_a_graph_that_differs_is_not_one(off: float) -> None:
    with pytest.raises(ExportError, match=r"the odd graph differs from torch by .*, more than"):
        export_graph("odd", Odd(off), torch.rand(4, 3))


def test_a_graph_that_differs_by_rounding_is() -> None:
    assert export_graph("odd", Odd(1e-6), torch.rand(4, 3))


class Stubborn(nn.Module):
    """Cannot be exported."""

    def forward(self, rows: Tensor) -> Tensor:
        sys.intern("not a tensor's doing")
        return rows if float(rows.sum()) > 0 else -rows


def test_what_cannot_be_exported_is_one_line() -> None:
    with pytest.raises(ExportError) as raised:
        export_graph("stubborn", Stubborn(), torch.rand(4, 3))
    assert str(raised.value).startswith("the stubborn cannot be exported: ")
    assert len(str(raised.value).splitlines()) == 1


def test_other_graphs_of_the_bundle_stay() -> None:
    bundle = with_graphs(tiny_bundle(config=TINY_CONV, graphs={"features": b"x"}), pytest.fail)
    assert set(bundle.graphs) == {"features", "encoder", "decoder"}
