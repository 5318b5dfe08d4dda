"""The detector in an engine: by torch, by ONNX Runtime, and on a GPU's backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from model.bundle.bundle import Bundle
from model.bundle.checks import BundleError
from model.engine import onnx_graph as graph_module
from model.engine.engine import Engine
from model.engine.forward import choose_detector
from model.engine.onnx_graph import OnnxGraph
from model.features.detector import PARTS
from model.scores.detected import CPU_ROWS, DETECTED_SCORES
from tests.unit.model.engine.onnx_bundles import exported_detector, uninstall
from tests.unit.model.features.detectors import (
    SHAPE,
    as_pixels,
    detector_bundle,
    fitted,
    photographs,
)
from tests.unit.samples import assert_one_line, tiny_bundle, whole_bundle

N = 9
each_score = pytest.mark.parametrize("name", DETECTED_SCORES)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    images = photographs(N, seed=7)
    images[3], images[5] = 0, 255
    return images


@pytest.fixture(scope="module")
def by_torch() -> Engine:
    return Engine(detector_bundle(), device="cpu")


@pytest.fixture(scope="module")
def by_onnx() -> Engine:
    return Engine(exported_detector(), device="cpu")


@pytest.fixture(scope="module", params=["torch", "onnx"])
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.getfixturevalue(f"by_{request.param}")
    return chosen


@each_score
def test_scores_are_the_detectors(name: str, engine: Engine, images: NDArray[np.uint8]) -> None:
    detector = fitted().detector
    found = engine.score(images, name)
    with torch.inference_mode():
        parts = detector.split(detector(as_pixels(images))).parts
        expected = detector.combined(parts) if name == "combined" else parts[:, PARTS.index(name)]
    np.testing.assert_allclose(found.score, expected, rtol=1e-4, atol=1e-4)
    assert found.score.dtype == np.float32
    plain = engine.score(images, "mse")
    np.testing.assert_allclose(found.mse, plain.mse, rtol=1e-5)
    np.testing.assert_allclose(found.kl, plain.kl, rtol=1e-5)


@each_score
def test_onnx_agrees_with_torch(
    name: str, by_onnx: Engine, by_torch: Engine, images: NDArray[np.uint8]
) -> None:
    for method in ("score", "score_map"):
        for one, other in zip(
            getattr(by_onnx, method)(images, name),
            getattr(by_torch, method)(images, name),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, strict=True)


def test_the_graph_is_what_computes_it(
    images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few images at a time."""
    sizes: list[int] = []
    whole = graph_module.OnnxGraph._run

    def noting(self: OnnxGraph, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        sizes.append(len(rows))
        return whole(self, rows)

    monkeypatch.setattr(graph_module.OnnxGraph, "_run", noting)
    engine = Engine(exported_detector(), device="cpu")
    engine.score(images)
    assert sizes == [CPU_ROWS, CPU_ROWS, N - 2 * CPU_ROWS]
    sizes.clear()
    engine.score_map(images[:2], "texture")  # the scores and the map from one pass
    assert sizes == [2]
    sizes.clear()
    engine.score(images, "fused")
    engine.score_map(images, "fused")
    engine.encode(images)
    assert not sizes


def test_without_the_runtime_torch_computes_it(
    by_torch: Engine, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = exported_detector()
    uninstall(monkeypatch, ["onnxruntime"])
    assert choose_detector(bundle) is None
    engine = Engine(bundle, device="cpu")
    for name in DETECTED_SCORES:
        np.testing.assert_array_equal(
            engine.score(images, name).score, by_torch.score(images, name).score
        )
    assert engine.bundle.version == bundle.version


def test_the_way_follows_detector_graph_and_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = exported_detector()
    assert choose_detector(bundle) is not None
    assert choose_detector(detector_bundle()) is None
    assert choose_detector(replace(bundle, detector=None)) is None
    assert choose_detector(tiny_bundle()) is None
    uninstall(monkeypatch, ["onnxruntime"])
    assert choose_detector(bundle) is None


def test_graphs_that_are_not_the_detectors_are_one_line() -> None:
    """Whoever made the bundle can give any bytes their hash."""
    bundle = exported_detector()
    cases: list[tuple[bytes, tuple[str, ...]]] = [
        (b"", ("detector graph cannot be read by ONNX Runtime",)),
        (bundle.graphs["detector"][:-1000], ("detector graph cannot be read",)),
        (other_graph(), ("detector graph takes and gives rows", "3456")),
    ]
    for data, words in cases:
        with pytest.raises(BundleError) as raised:
            Engine(replace(bundle, graphs={"detector": data}), device="cpu")
        assert_one_line(raised.value, *words)


def other_graph() -> bytes:
    """Of a network that takes and gives rows of two numbers."""
    rows, output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")
    )
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [rows], [output])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    data: bytes = model.SerializeToString()
    return data


@each_score
def test_batches_of_any_size(name: str, engine: Engine, images: NDArray[np.uint8]) -> None:
    whole = engine.score_map(images, name)
    flat = images.reshape(N, -1)
    for batch, rows in (
        ([flat[:1]], slice(0, 1)),
        ([flat[:1], flat[1:6], flat[6:]], slice(None)),
        (
            [
                flat[4:],
            ],
            slice(4, None),
        ),
        (flat[::-1], slice(None, None, -1)),
        (np.asfortranarray(flat), slice(None)),
        (flat / np.float32(255), slice(None)),
    ):
        for one, of_whole in zip(engine.score_map(batch, name), whole, strict=True):
            np.testing.assert_allclose(one, of_whole[rows], rtol=1e-3, atol=1e-3, strict=True)


@each_score
def test_the_score_beside_a_map_is_the_score(
    name: str, engine: Engine, images: NDArray[np.uint8]
) -> None:
    alone, mapped = engine.score(images, name), engine.score_map(images, name)
    for field in ("score", "mse", "kl"):
        np.testing.assert_allclose(
            getattr(mapped, field), getattr(alone, field), rtol=1e-5, atol=1e-6
        )


@each_score
def test_a_map_is_the_detectors_in_each_channel(
    name: str, engine: Engine, images: NDArray[np.uint8]
) -> None:
    detector = fitted().detector
    found = engine.score_map(images, name).anomaly_map
    with torch.inference_mode():
        expected = detector.map_of(name, detector.split(detector(as_pixels(images))))
    assert found.shape == (N, *SHAPE)
    for channel in range(SHAPE[0]):
        np.testing.assert_allclose(found[:, channel], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["fused", "mse"])
def test_the_maps_of_other_scores_are_squared_errors(
    name: str, engine: Engine, images: NDArray[np.uint8]
) -> None:
    decoded = engine.reconstruct(images).images
    found = engine.score_map(images, name).anomaly_map
    np.testing.assert_allclose(found, (images / 255 - decoded) ** 2, rtol=1e-4, atol=1e-5)
    assert name not in engine.scaled_maps


def test_the_scores_on_offer(by_torch: Engine) -> None:
    assert by_torch.scores[: len(DETECTED_SCORES)] == DETECTED_SCORES
    assert by_torch.scaled_maps == DETECTED_SCORES
    plain = Engine(replace(by_torch.bundle, detector=None), device="cpu")
    assert plain.scores == by_torch.scores[len(DETECTED_SCORES) :]
    assert plain.scaled_maps == ()


def test_combined_is_the_default(by_torch: Engine, images: NDArray[np.uint8]) -> None:
    for method in ("score", "score_map"):
        default, named = (getattr(by_torch, method)(images, name) for name in (None, "combined"))
        for one, other in zip(default, named, strict=True):
            np.testing.assert_array_equal(one, other)


def test_all_scores_of_the_network_are_as_without_one(
    by_torch: Engine, images: NDArray[np.uint8]
) -> None:
    plain = Engine(replace(by_torch.bundle, detector=None), device="cpu")
    for name in set(plain.scores) - set(plain.sampled_scores):
        for one, other in zip(by_torch.score(images, name), plain.score(images, name), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", ["score", "score_map"])
@pytest.mark.parametrize("name", ["ssim", "iwae", "Combined", "features "])
def test_an_unknown_score_is_a_key_error(
    name: str, method: str, engine: Engine, images: NDArray[np.uint8]
) -> None:
    with pytest.raises(KeyError, match=name):
        getattr(engine, method)(images, name)
    assert len(engine.score(images).score) == N


@pytest.mark.parametrize("method", ["score", "score_map"])
@pytest.mark.parametrize("name", DETECTED_SCORES)
@pytest.mark.parametrize("make", [tiny_bundle, whole_bundle])
def test_without_a_detector_its_scores_are_key_errors(
    name: str, method: str, make: Callable[[], Bundle]
) -> None:
    engine = Engine(make(), device="cpu")
    with pytest.raises(KeyError, match=name):
        getattr(engine, method)(np.zeros((2, 20), np.uint8), name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_leaves_the_detector_alone(
    dtype: str, by_torch: Engine, images: NDArray[np.uint8]
) -> None:
    """Only the network's products are rounded."""
    half = Engine(by_torch.bundle, device="cpu", dtype=dtype)
    for name in ("combined", *PARTS):
        one, other = half.score_map(images, name), by_torch.score_map(images, name)
        np.testing.assert_array_equal(one.score, other.score)
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
    fused = half.score(images, "fused").score
    assert not np.array_equal(fused, by_torch.score(images, "fused").score)


def test_it_warms_up_and_hands_every_pass_to_a_thread(by_torch: Engine) -> None:
    """A pass takes longer than an event loop may wait."""
    by_torch.warm_up(2)
    assert by_torch.quick_images == 0
    assert by_torch.best_batch < Engine(tiny_bundle(), device="cpu").best_batch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@each_score
def test_the_known_image_has_known_scores(name: str, dtype: str, engine: Engine) -> None:
    """Of a detector that gives other ones, or none, it is noticed, in half precision too."""
    used = Engine(engine.bundle, device="cpu", dtype=dtype)
    scores = used.score(used.probe, name)
    assert used.is_right(scores, name)
    for wrong in (scores.score * 1.01, scores.score * 0.99, scores.score * np.nan):
        assert not used.is_right(scores._replace(score=wrong), name)
    assert engine.bundle.detector is not None
    broken = replace(engine.bundle.detector, tensors=shifted(engine.bundle))
    other = Engine(replace(engine.bundle, detector=broken, graphs={}), device="cpu")
    assert not used.is_right(other.score(used.probe, name), name)


def shifted(bundle: Bundle) -> dict[str, Tensor]:
    """The tensors of its detector with all scales a little wider."""
    assert bundle.detector is not None
    wider = {name: bundle.detector.tensors[name].clone() for name in bundle.detector.tensors}
    for name in ("place_scale", "pooled_root", "cell_scale"):
        wider[name] *= 1.02
    return wider
