"""Bundles that load and whose network does not work, and what readiness asks of one that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from model.bundle.bundle import Bundle
from model.bundle.checks import BundleError
from model.engine.engine import Engine
from model.features.detector import PARTS, StoredDetector
from model.scores.detected import DETECTED_SCORES
from service.inference.admission import Inference
from service.inference.batching import MicroBatcher
from service.inference.loading import load_engine
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.unit.model.bundle.helpers import edit
from tests.unit.model.engine.onnx_bundles import exported_detector
from tests.unit.model.features.detectors import detector_bundle
from tests.unit.samples import assert_one_line
from tests.unit.service.inference.batches import HANG_S, run

CHANGES: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "features": lambda tensors: tensors["place_scale"][0].add_(0.5),
    "pooled_distance": lambda tensors: tensors["pooled_root"].mul_(1.02),
    "texture": lambda tensors: tensors["cell_scale"][0].add_(0.5),
}
"""How a detector differs from the one whose graph there is, by the part that it changes."""


def changed(bundle: Bundle, part: str) -> Bundle:
    """With a detector of which one part gives other numbers."""
    assert bundle.detector is not None
    tensors = {name: tensor.clone() for name, tensor in bundle.detector.tensors.items()}
    CHANGES[part](tensors)
    return replace(bundle, detector=StoredDetector(config=bundle.detector.config, tensors=tensors))


def load(directory: Path) -> Engine:
    return load_engine(Settings(bundle=str(directory), threads=1))


def refused(directory: Path, *words: str) -> None:
    with pytest.raises(BundleError) as raised:
        load(directory)
    assert_one_line(raised.value, directory, "cannot be used", *words)


@pytest.mark.parametrize("make", [detector_bundle, exported_detector], ids=["torch", "onnx"])
def test_a_detector_that_works_is_loaded(make: Callable[[], Bundle], tmp_path: Path) -> None:
    make().save(tmp_path, "")
    engine = load(tmp_path)
    assert engine.bundle.self_test is not None
    for name in DETECTED_SCORES:
        assert engine.is_right(engine.score(engine.probe, name), name)


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "older"])
@pytest.mark.parametrize("part", PARTS)
def test_the_graph_of_another_detector_is_refused(
    part: str, recorded: bool, tmp_path: Path
) -> None:
    """Of the same widths, with the right hash, and whichever of its parts is another."""
    bundle = changed(exported_detector(), part)
    bundle.save(tmp_path, "")
    if not recorded:
        assert bundle.computed_self_test().detector is not None
        edit(tmp_path, known=bundle.computed_self_test()._replace(detector=None).to_json())
    refused(tmp_path, "known image", "differs from the bundle's record")


def test_a_graph_without_numbers_is_refused(tmp_path: Path) -> None:
    with_graph(np.nan).save(tmp_path, "")
    refused(tmp_path, "known image", "combined nan")


def test_a_graph_that_fails_is_refused(tmp_path: Path) -> None:
    """In one line: the runtime's exceptions are neither `BundleError` nor of one base class."""
    with_graph(0, rows=3).save(tmp_path, "")
    refused(tmp_path, "a forward pass failed", "Reshape")


def test_a_bundle_without_a_record_of_its_detector_is_loaded(tmp_path: Path) -> None:
    """As those are that were made before there was one."""
    bundle = exported_detector()
    bundle.save(tmp_path, "")
    known = bundle.computed_self_test()._replace(detector=None).to_json()
    edit(tmp_path, known=known)
    engine = load(tmp_path)
    assert engine.bundle.self_test is not None
    assert engine.bundle.self_test.detector is None
    assert engine.bundle.version == bundle.version
    scores = engine.score(engine.probe)
    assert engine.is_right(scores)
    assert not engine.is_right(scores._replace(score=scores.score * 1.01))


@pytest.mark.parametrize(
    ("field", "factor", "ready"),
    [
        ("score", 1.0, True),
        ("score", 1.01, False),
        ("score", np.nan, False),
        ("mse", 1.01, False),
        ("kl", 2.0, False),
    ],
)
def test_readiness_asks_for_the_default_score(
    field: str,
    factor: float,
    ready: bool,
    make_batcher: Callable[..., MicroBatcher],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine(detector_bundle(), device="cpu", threads=1)
    inference = Inference(engine, make_batcher(), Metrics(bundle="tiny", version="0"))
    score, names = engine.score, []

    def other(images: Any, name: str | None = None) -> Any:
        names.append(name)
        scores = score(images, name)
        return scores._replace(**{field: getattr(scores, field) * np.float32(factor)})

    monkeypatch.setattr(engine, "score", other)

    async def main() -> None:
        assert await inference.probe(perf_counter() + HANG_S) == ready

    run(main())
    assert names == ["combined"]


def with_graph(value: float, rows: int | None = None) -> Bundle:
    """A bundle whose detector's graph gives `value`, and fails but for so many rows."""
    bundle = detector_bundle()
    assert bundle.detector is not None
    width = bundle.detector.config.columns
    weights: NDArray[np.float32] = np.full((bundle.config.pixels, width), value, np.float32)
    constants: dict[str, NDArray[Any]] = {
        "weights": weights,
        "shape": np.array([rows or -1, width], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["y"]),
    ]
    given, found = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", columns])
        for name, columns in (("x", bundle.config.pixels), ("y", width))
    )
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [given], [found], initializers)
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 18)])
    return replace(bundle, graphs={"detector": model.SerializeToString()})
