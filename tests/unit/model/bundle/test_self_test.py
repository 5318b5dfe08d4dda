"""A network's self-test."""

from __future__ import annotations

import pytest

from model.bundle.bundle import find_bundle, load_bundle, pretrained_names
from model.bundle.self_test import SelfTest, probe_images, run_self_test
from model.engine.engine import Engine
from model.scores.calibration import DTYPES


@pytest.mark.parametrize("name", pretrained_names())
def test_bundles_that_ship_record_what_their_network_gives(name: str) -> None:
    bundle = load_bundle(find_bundle(name))
    found = run_self_test(bundle.network(), bundle.config)
    assert bundle.self_test is not None
    assert bundle.self_test.agrees(found, "float32")
    assert 0.005 < found.mse < 0.1, "a ring is something that it can draw, more or less"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_engine_agrees_in_each_type(dtype: str) -> None:
    engine = Engine(load_bundle(find_bundle("mnist")), device="cpu", threads=1, dtype=dtype)
    scores = engine.score(engine.probe, "mse")
    assert engine.is_right(scores)
    assert not engine.is_right(scores._replace(mse=scores.mse * 1.1))
    assert not engine.is_right(scores._replace(kl=scores.kl * 0.9))


def test_other_weights_are_noticed() -> None:
    mnist, fashion = (load_bundle(find_bundle(name)) for name in ("mnist", "fashion-mnist"))
    assert mnist.self_test is not None
    assert not mnist.self_test.agrees(run_self_test(fashion.network(), mnist.config), "bfloat16")


def test_no_number_is_no_agreement() -> None:
    recorded = SelfTest(0.01, 30.0)
    assert not recorded.agrees(SelfTest(float("nan"), 30.0), "float32")
    assert recorded.agrees(SelfTest(0.010001, 30.001), "float32")
    assert SelfTest(0.07, 0.0).agrees(SelfTest(0.07, 1e-6), "float32"), "of a collapsed network"


def test_the_probe_is_bytes_in_the_network_s_shape() -> None:
    config = load_bundle(find_bundle("mnist")).config
    images = probe_images(config)
    assert images.shape == (1, config.pixels)
    assert images.dtype == "uint8"
    assert {int(images.min()), int(images.max())} <= set(range(256))
    assert images.max() > 200
