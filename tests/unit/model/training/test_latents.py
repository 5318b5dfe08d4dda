"""Posterior means drawn from a data set and kept in a bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import pytest

from model.bundle.latent_sample import MAX_LATENTS
from model.datasets.class_names import CLASS_NAMES, class_names
from model.datasets.download import DATA_SETS
from model.datasets.image_set import ImageSet
from model.engine.engine import Engine
from model.training import goodness_of_fit
from model.training.latents import with_latents
from tests.unit.samples import TINY, tiny_bundle

BUNDLE: Final = tiny_bundle()


def some_images(n: int) -> ImageSet:
    """Each with its own number as its label."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, *TINY.image_shape), dtype=np.uint8)
    return ImageSet(name="noise", images=pixels, files={}, labels=np.arange(n))


def test_few_images_are_all_kept() -> None:
    data, among = some_images(20), np.array([3, 4, 7, 19])
    bundle = with_latents(BUNDLE, data, among, "images trained on")
    latents = bundle.latents
    assert latents is not None
    assert latents.data_set == "noise, images trained on"
    assert latents.classes is None
    assert latents.labels is not None
    np.testing.assert_array_equal(latents.labels, among)
    expected = Engine(BUNDLE, device="cpu").encode(data.images[among]).mu
    np.testing.assert_allclose(latents.mu, expected, rtol=1e-5, atol=1e-6)
    latents.check(TINY)
    assert bundle.version == BUNDLE.version


def test_of_many_as_many_as_there_may_be_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """At random, in their order, each once, and the same ones each time; in any chunks."""
    data = some_images(2 * MAX_LATENTS + 100)
    among = np.arange(100, len(data.images))
    one = with_latents(BUNDLE, data, among, "images").latents
    monkeypatch.setattr(goodness_of_fit, "CHUNK_PIXELS", 7 * TINY.pixels)
    again = with_latents(BUNDLE, data, among, "images").latents
    assert one is not None
    assert again is not None
    assert one.labels is not None
    assert again.labels is not None
    assert len(one.mu) == MAX_LATENTS
    assert (np.diff(one.labels) > 0).all()
    assert one.labels.min() >= 100
    assert len(np.unique(np.diff(one.labels))) > 1, "not every second one"
    assert abs(one.labels.mean() - among.mean()) < 200
    np.testing.assert_array_equal(one.labels, again.labels)
    np.testing.assert_allclose(one.mu, again.mu, rtol=1e-5, atol=1e-6)
    expected = Engine(BUNDLE, device="cpu").encode(data.images[one.labels]).mu
    np.testing.assert_allclose(one.mu, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_classes_of_known_data_sets_are_named(name: str) -> None:
    """By any of their files, whatever they are called here."""
    for file in DATA_SETS[name].files:
        assert class_names({"a.gz": "00ff", "b.gz": file.sha256}) == CLASS_NAMES[name]
    train, *_ = DATA_SETS[name].files
    data = replace(some_images(5), files={"a.gz": train.sha256})
    named = with_latents(BUNDLE, data, np.arange(5), "images").latents
    assert named is not None
    assert named.classes == CLASS_NAMES[name]
    assert len(CLASS_NAMES[name]) == 10
    unlabelled = with_latents(BUNDLE, replace(data, labels=None), np.arange(5), "images").latents
    assert unlabelled is not None
    assert (unlabelled.labels, unlabelled.classes) == (None, None)


def test_classes_of_other_data_sets_are_not() -> None:
    assert class_names({}) is None
    assert class_names({"train-images-idx3-ubyte.gz": "00ff"}) is None
