"""Networks with convolutions by ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from model.bundle.bundle import Bundle
from model.bundle.checks import BundleError
from model.engine import forward as forward_module
from model.engine import onnx_graph as graph_module
from model.engine.engine import Engine
from model.engine.forward import ModuleForward, OnnxForward, choose_forward
from model.engine.onnx_graph import MAX_ROWS, OnnxGraph, import_runtime
from tests.unit.model.engine.onnx_bundles import TINY_CONV, exported, uninstall
from tests.unit.samples import assert_one_line, tiny_bundle


@pytest.fixture
def bundle() -> Bundle:
    return exported()


@pytest.fixture
def forward(bundle: Bundle) -> OnnxForward:
    chosen = choose_forward(bundle.network(), bundle.graphs)
    assert isinstance(chosen, OnnxForward)
    return chosen


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def some_images(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, *TINY_CONV.image_shape), np.uint8)


@pytest.mark.parametrize("n", [1, 2, MAX_ROWS, MAX_ROWS + 1, 2 * MAX_ROWS + 5])
def test_any_batch_is_as_by_torch(n: int, forward: OnnxForward, bundle: Bundle) -> None:
    images = some_images(n)
    by_torch = ModuleForward(bundle.network())
    for found, expected in zip(forward(images), by_torch(images), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, strict=True)
    latents = np.random.default_rng(n).standard_normal((n, TINY_CONV.latent_size), np.float32)
    np.testing.assert_allclose(
        forward.decode(latents), by_torch.decode(latents), rtol=1e-4, atol=1e-4, strict=True
    )


@pytest.mark.parametrize("name", ["fused", "mse", "neg_elbo"])
def test_p_values_are_those_of_torch_to_a_rank(name: str, digits: NDArray[np.uint8]) -> None:
    """Whichever of the two computed the calibration: its scores differ in rounding."""
    bundle = exported("mnist-conv")
    by_onnx, by_torch = (
        Engine(bundle, device="cpu"),
        Engine(replace(bundle, graphs={}), device="cpu"),
    )
    calibration = by_torch.calibration
    assert calibration is not None
    ranks = [
        calibration.p_values(name, engine.score(digits[:300], name).score) * (calibration.n + 1)
        for engine in (by_onnx, by_torch)
    ]
    assert np.abs(ranks[0] - ranks[1]).max() <= 2.001


def test_as_many_threads_as_torch_has_and_none_that_spins(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = import_runtime()
    assert runtime is not None
    made: list[tuple[int, str]] = []
    plain = runtime.InferenceSession

    def noting(data: bytes, options: object, **rest: object) -> object:
        spinning = options.get_session_config_entry("session.intra_op.allow_spinning")  # type: ignore[attr-defined]
        made.append((options.intra_op_num_threads, spinning))  # type: ignore[attr-defined]
        return plain(data, options, **rest)

    monkeypatch.setattr(runtime, "InferenceSession", noting)
    graph = OnnxGraph("decoder", bundle.graphs["decoder"])
    rows = np.zeros((1, TINY_CONV.latent_size), np.float32)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            graph(rows)
    finally:
        torch.set_num_threads(before)
    assert made == [(1, "0"), (2, "0")]


def test_the_way_follows_network_type_graphs_and_what_is_installed(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = bundle.network()
    assert choose_forward(network, bundle.graphs).runtime.startswith("ONNX Runtime ")
    assert isinstance(choose_forward(network), ModuleForward)
    assert isinstance(choose_forward(network, {"encoder": b"", "more": b""}), ModuleForward)
    assert isinstance(choose_forward(bundle.network().bfloat16(), bundle.graphs), ModuleForward)
    mlp = tiny_bundle().network()
    assert isinstance(choose_forward(mlp, bundle.graphs), forward_module.MlpForward)
    uninstall(monkeypatch, ["onnxruntime"])
    assert choose_forward(network, bundle.graphs).runtime.startswith("torch ")


def test_without_the_runtime_a_bundle_with_graphs_gives_the_same_scores(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = some_images(3)
    expected = Engine(bundle, device="cpu").score(images, "mse")
    uninstall(monkeypatch, ["onnxruntime"])
    engine = Engine(bundle, device="cpu")
    assert (engine.device, engine.runtime.split()[0]) == ("cpu", "torch")
    for found, other in zip(engine.score(images, "mse"), expected, strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-4)
    assert engine.bundle.version == bundle.version


@pytest.mark.parametrize(
    ("graphs", "words"),
    [
        (lambda g: g | {"encoder": b""}, ("encoder graph cannot be read by ONNX Runtime",)),
        (lambda g: g | {"decoder": g["decoder"][:-100]}, ("decoder graph cannot be read",)),
        (lambda g: g | {"encoder": g["decoder"]}, ("encoder graph takes and gives rows", "288")),
        (lambda g: g | {"decoder": g["encoder"]}, ("decoder graph takes and gives rows", "288")),
    ],
    ids=["empty", "cut", "encoder", "decoder"],
)
def test_graphs_that_are_not_the_networks_are_one_line(
    graphs: object, words: tuple[str, ...], bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever made the bundle can give any bytes their hash."""
    wrong = replace(bundle, graphs=graphs(dict(bundle.graphs)))  # type: ignore[operator]
    with pytest.raises(BundleError) as raised:
        Engine(wrong, device="cpu")
    assert_one_line(raised.value, *words)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["relative", "absolute", "above"])
def test_a_graph_reads_no_file(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """ONNX has weights in files of their own, at any path that whoever made the bundle chose."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for directory in (tmp_path, tmp_path / "here"):
        (directory / "secret").write_bytes(np.ones(4, np.float32).tobytes())
    path = {"relative": "secret", "absolute": str(tmp_path / "secret"), "above": "../secret"}[where]
    weights = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", path), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    rows, output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")
    )
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [rows], [output], [weights])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(BundleError) as raised:
        OnnxGraph("encoder", model.SerializeToString())
    assert_one_line(raised.value, "encoder graph cannot be read by ONNX Runtime")
    assert capfd.readouterr() == ("", "")


def test_a_graph_without_the_runtime_is_an_error(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninstall(monkeypatch, ["onnxruntime"])
    with pytest.raises(RuntimeError, match="onnxruntime is not installed"):
        OnnxGraph("encoder", bundle.graphs["encoder"])


def test_it_is_imported_for_graphs_alone() -> None:
    code = """
import sys
from model.bundle.bundle import find_bundle, load_bundle
from model.engine.engine import Engine
for name in ("mnist", "mnist-conv"):
    Engine(load_bundle(find_bundle(name)), device="cpu")
print([name for name in sys.modules if name.split(".")[0] in ("onnx", "onnxruntime")])
"""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.usefixtures("_two_threads")
def test_a_forked_process_makes_its_own(bundle: Bundle) -> None:
    """Though its parent, unlike the fork server, has the runtime and threads of it."""
    latents = np.ones((8, TINY_CONV.latent_size), np.float32)
    expected = OnnxGraph("decoder", bundle.graphs["decoder"])(latents)
    code = """
import os, sys
import numpy as np, torch
from model.engine.onnx_graph import OnnxGraph
torch.set_num_threads(2)
data = sys.stdin.buffer.read()
latents = np.ones((8, 2), np.float32)
ours = OnnxGraph("decoder", data)
expected = ours(latents)
if os.fork() == 0:
    np.testing.assert_array_equal(OnnxGraph("decoder", data)(latents), expected)
    print(float(expected.sum()), flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code],
        input=bundle.graphs["decoder"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(expected.sum()), rel=1e-5)


def test_the_largest_pass_is_bounded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = OnnxGraph("decoder", bundle.graphs["decoder"])
    sizes: list[int] = []
    whole = graph_module.OnnxGraph._run

    def noting(self: OnnxGraph, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(rows))
        return whole(self, rows)

    monkeypatch.setattr(graph_module.OnnxGraph, "_run", noting)
    assert len(graph(np.zeros((70, TINY_CONV.latent_size), np.float32))) == 70
    assert sizes == [32, 32, 6]
