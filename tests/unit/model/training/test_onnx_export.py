"""Networks as ONNX graphs: what is exported, and when nothing is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from google.protobuf.message import Message
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.config import VAEConfig
from model.engine.onnx_graph import OnnxGraph
from model.training import onnx_export
from model.training.onnx_export import ExportError, export_graph, export_network, with_graphs
from model.vae import VAE
from tests.unit.model.engine.onnx_bundles import TINY_CONV, exported, uninstall
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
    assert line.startswith(f"no ONNX graphs: {package} not installed (pip install 'vae-service[on")
    assert len(line.splitlines()) == 1


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
