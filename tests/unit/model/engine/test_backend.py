"""What `model.engine.backend` promises, of every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.config import VAEConfig
from model.engine.backend import Backend
from model.engine.cpu import CpuBackend
from model.features.detector import DetectorConfig
from model.training.onnx_export import with_graphs
from tests.unit.model.engine.host_accelerator import staged_backend
from tests.unit.model.engine.onnx_bundles import (
    detector_graph,
    exported,
    exported_detector,
    uninstall,
)
from tests.unit.model.features.detectors import detector_bundle

Run = Callable[[Backend, str, Any], tuple[NDArray[np.float32], ...]]

N, DRAWS = 5, 3
DETECTOR = "detector"
"""For images as small as the others, beside a tiny network with convolutions."""


@cache
def with_detector() -> Bundle:
    return detector_bundle(
        DetectorConfig(image_shape=(1, 28, 28), latent_size=2, hidden_size=8),
        config=VAEConfig(architecture="conv", hidden_sizes=(3, 4, 5), latent_size=3),
    )


@cache
def with_graphs_of_both() -> Bundle:
    bundle = with_detector()
    graphs = with_graphs(bundle, pytest.fail).graphs
    return replace(bundle, graphs={**graphs, "detector": detector_graph(bundle)})


def bundle_of(name: str) -> Bundle:
    return with_detector() if name == DETECTOR else load_bundle(find_bundle(name))


def onnx_backend(bundle: Bundle) -> Backend:
    """The CPU's, by ONNX Runtime."""
    whole = exported(bundle.name) if bundle.detector is None else with_graphs_of_both()
    backend = CpuBackend(whole, "float32")
    assert backend.runtime.startswith("ONNX Runtime ")
    return backend


BACKENDS: dict[str, Callable[[Bundle], Backend]] = {
    "cpu": lambda bundle: CpuBackend(bundle, "float32"),
    "onnx": onnx_backend,
    "staged": staged_backend,
}
CASES = [
    ("mnist", "cpu"),
    ("mnist", "staged"),
    ("mnist-conv", "cpu"),
    ("mnist-conv", "onnx"),
    ("mnist-conv", "staged"),
    (DETECTOR, "cpu"),
    (DETECTOR, "onnx"),
    (DETECTOR, "staged"),
]
"""Fully connected networks have no graphs."""
PASSES: dict[str, tuple[Any, ...]] = {
    "encode": (),
    "decode": (),
    "reconstruct": (),
    "score": ("fused",),
    "score_map": ("neg_elbo",),
    "reconstruct_drawn": (),
    "draw": (DRAWS,),
}

DETECTOR_PASSES = PASSES | {"score": ("combined",), "score_map": ("texture",)}

passes = pytest.mark.parametrize("name", PASSES)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A bundle's name and a backend's."""
    names: tuple[str, str] = request.param
    return names


@pytest.fixture(scope="module")
def bundle(case: tuple[str, str]) -> Bundle:
    return bundle_of(case[0])


@pytest.fixture(scope="module")
def backend(case: tuple[str, str], bundle: Bundle) -> Backend:
    return BACKENDS[case[1]](bundle)


def rows_for(name: str, bundle: Bundle, digits: NDArray[np.uint8]) -> NDArray[Any]:
    images = digits[:N].reshape(N, -1)
    d = bundle.config.latent_size
    width = {"decode": d, "reconstruct_drawn": d, "draw": DRAWS * d}.get(name)
    if width is None:
        return images
    noise = np.random.default_rng(0).standard_normal((N, width), np.float32)
    return noise if name == "decode" else np.hstack([images / np.float32(255), noise])


@pytest.fixture(scope="module")
def run(bundle: Bundle) -> Run:
    """Run a pass, with the arguments that this bundle's backends take."""
    arguments = PASSES if bundle.detector is None else DETECTOR_PASSES
    return lambda backend, name, rows: tuple(getattr(backend, name)(rows, *arguments[name]))


@passes
def test_results_are_the_same_numbers_in_the_same_shapes(
    name: str, backend: Backend, bundle: Bundle, run: Run, digits: NDArray[np.uint8]
) -> None:
    rows = rows_for(name, bundle, digits)
    expected = run(CpuBackend(bundle, "float32"), name, rows)
    for batch in (rows, [rows[:2], rows[2:]]):
        for one, other in zip(run(backend, name, batch), expected, strict=True):
            assert one.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3, strict=True)


@passes
@pytest.mark.parametrize("n", [1, N])
def test_results_belong_to_the_caller_and_inputs_are_left_alone(
    name: str, n: int, backend: Backend, bundle: Bundle, run: Run, digits: NDArray[np.uint8]
) -> None:
    whole = rows_for(name, bundle, digits)
    rows = whole[:n]
    before = rows.copy()
    results = run(backend, name, rows)
    copies = [result.copy() for result in results]
    run(backend, name, whole[-n:][::-1])
    for result, copy in zip(results, copies, strict=True):
        np.testing.assert_array_equal(result, copy)
        result[...] = 7
    for result, copy in zip(run(backend, name, rows), copies, strict=True):
        np.testing.assert_array_equal(result, copy)
    np.testing.assert_array_equal(rows, before)


@passes
def test_rows_of_another_width_are_refused_and_the_next_call_works(
    name: str, backend: Backend, bundle: Bundle, run: Run, digits: NDArray[np.uint8]
) -> None:
    rows = rows_for(name, bundle, digits)
    expected = run(backend, name, rows)
    with pytest.raises(ValueError, match="shape"):
        run(backend, name, rows[:, 1:])
    for one, other in zip(run(backend, name, rows), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["score", "score_map"])
@pytest.mark.parametrize("score", ["ssim", "iwae"])
def test_an_unknown_score_is_a_key_error(
    name: str, score: str, backend: Backend, digits: NDArray[np.uint8]
) -> None:
    with pytest.raises(KeyError, match=score):
        getattr(backend, name)(digits[:N], score)


def test_the_sizes_to_warm_up_include_one_and_the_largest(backend: Backend) -> None:
    sizes = backend.prepare(9)
    assert sorted(sizes) == sorted({1, 9, *sizes})
    assert max(sizes) == 9


def test_what_computes_it_is_said(backend: Backend) -> None:
    assert backend.runtime == "C" or backend.runtime.split()[-1][0].isdigit()


def test_a_detector_s_runtime_is_said_where_it_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_onnx, by_torch = f"ONNX Runtime {onnxruntime.__version__}", f"torch {torch.__version__}"
    conv, whole, mlp = with_detector(), with_graphs_of_both(), exported_detector()
    in_c = CpuBackend(replace(mlp, detector=None), "float32").runtime

    def runtime(bundle: Bundle, dtype: str = "float32") -> str:
        return CpuBackend(bundle, dtype).runtime

    assert runtime(whole) == by_onnx
    assert runtime(mlp) == f"{in_c}, its detector by {by_onnx}"
    assert runtime(mlp, "bfloat16") == f"{by_torch}, its detector by {by_onnx}"
    assert runtime(conv) == by_torch
    no_detector_graph = {name: whole.graphs[name] for name in ("encoder", "decoder")}
    assert runtime(replace(whole, graphs=no_detector_graph)) == (
        f"{by_onnx}, its detector by {by_torch}"
    )
    assert staged_backend(mlp).runtime == by_torch
    uninstall(monkeypatch, ["onnxruntime"])
    assert runtime(whole) == by_torch


def test_a_batch_with_a_detector_is_smaller_on_each_device() -> None:
    """An image takes a thousand times as long, and on a GPU memory for its layers."""
    bundle = with_detector()
    plain = replace(bundle, detector=None)
    makers: tuple[Callable[[Bundle], Backend], ...] = (BACKENDS["cpu"], BACKENDS["staged"])
    for make in makers:
        assert make(bundle).preferred_batch * 16 <= make(plain).preferred_batch


def test_a_gpu_records_the_largest_batch_first() -> None:
    """Smaller ones then find room in its memory."""
    bundle = load_bundle(find_bundle("mnist"))
    assert list(staged_backend(bundle).prepare(9)) == [9, 8, 4, 2, 1]
