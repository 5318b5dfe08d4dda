"""Fitting a detector: what is learned, from however few images, and on which scale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.features.backbone import BackboneError
from model.features.detector import Detector, DetectorConfig
from model.features.texture import BANDS, GRID
from model.training.fit_detector import (
    CHUNK,
    FULL_COLOUR,
    ImageFeatures,
    extract,
    findings,
    fit_detector,
    set_combined_scale,
    set_map_scale,
)
from tests.unit.model.features.detectors import (
    GREY,
    SMALL,
    as_pixels,
    fitted,
    photographs,
    random_backbone,
    stored,
)
from tests.unit.samples import assert_one_line

QUICK = DetectorConfig(image_shape=(1, 20, 60), latent_size=2, hidden_size=8)


def quickly(trained: ImageFeatures, unseen: ImageFeatures, steps: int = 5) -> Detector:
    return fit_detector(QUICK, random_backbone(), trained, unseen, steps=steps)


@pytest.fixture(scope="module")
def some() -> ImageFeatures:
    return extract(QUICK, random_backbone(), photographs(60, QUICK.image_shape, seed=3))


def test_features_are_the_detectors_own() -> None:
    """In half precision, as there are many. Progress is reported after each part."""
    detector = fitted(GREY).detector
    images = photographs(2 * CHUNK + 3, GREY.image_shape, seed=3)
    done: list[tuple[int, int]] = []
    made = extract(GREY, random_backbone(), images, lambda *counts: done.append(counts))
    h, w = GREY.grid
    n = len(images)
    assert done == [(CHUNK, n), (2 * CHUNK, n), (n, n)]
    assert len(made) == len(images)
    assert made.features.dtype == np.float16
    assert made.bands.dtype == np.float32
    assert made.features.shape == (len(images), h, w, 176)
    assert made.bands.shape == (len(images), GRID * GRID, BANDS)
    with torch.inference_mode():
        expected = detector.features(as_pixels(images)), detector.bands(as_pixels(images))
    np.testing.assert_allclose(made.features, expected[0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(made.bands, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("factor", "said"), [(1e6, "e+0"), (1e38, "nan")])
def test_features_that_half_precision_does_not_hold_are_refused(factor: float, said: str) -> None:
    """Of weights that are finite all the same. No covariance could be computed from them."""
    backbone = {name: tensor.clone() for name, tensor in random_backbone().items()}
    for name in ("blocks.10.layers.4.weight", "blocks.10.layers.4.bias"):
        backbone[name] *= factor
    images = photographs(CHUNK + 1, QUICK.image_shape)
    with pytest.raises(BackboneError) as raised:
        extract(QUICK, backbone, images)
    assert_one_line(raised.value, said, "65,504")


def test_some_of_the_features(some: ImageFeatures) -> None:
    for indices in (np.array([3, 0, 3]), np.array([], np.int64), np.arange(60)):
        taken = some.take(indices)
        assert len(taken) == len(indices)
        np.testing.assert_array_equal(taken.features, some.features[indices])
        np.testing.assert_array_equal(taken.bands, some.bands[indices])


def test_scores_from_stored_features_are_those_from_pixels() -> None:
    """Calibration takes the first and a service the second. They differ by half precision."""
    detector, _, _, unseen, images = fitted()
    with torch.inference_mode():
        expected = detector.split(detector(as_pixels(images)))
    for one, other in zip(findings(detector, unseen), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


def test_training_lowers_the_negative_elbo(some: ImageFeatures) -> None:
    def loss(detector: Detector) -> float:
        places = torch.from_numpy(some.features[40:]).float()
        x = ((places - detector.feature_mean) / detector.feature_std).flatten(0, 2)
        where = detector.vae.positions.repeat(20, 1)
        noise = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            return float(detector.vae.negative_elbo(x, where, noise).mean())

    trained, unseen = some.take(np.arange(30)), some.take(np.arange(30, 40))
    losses = [loss(quickly(trained, unseen, steps)) for steps in (1, 20, 100)]
    assert losses[0] > losses[1] + 0.5
    assert losses[1] > losses[2] + 0.5


def test_each_step_is_reported(some: ImageFeatures) -> None:
    steps: list[tuple[int, int]] = []
    part = some.take(np.arange(4))
    note = lambda *counts: steps.append(counts)  # noqa: E731
    fit_detector(QUICK, random_backbone(), part, part, steps=3, on_step=note)
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_the_backbone_stays_as_it_is_and_nothing_is_left_to_train(some: ImageFeatures) -> None:
    backbone = {name: tensor.clone() for name, tensor in random_backbone().items()}
    detector = quickly(some.take(np.arange(8)), some.take(np.arange(8, 12)))
    state = detector.backbone.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.items())
    assert all(torch.equal(tensor, random_backbone()[name]) for name, tensor in backbone.items())
    assert not detector.training
    assert not any(parameter.requires_grad for parameter in detector.parameters())


def finite(detector: Detector) -> bool:
    images = photographs(3, QUICK.image_shape, seed=9)
    images[1], images[2] = 0, 255
    with torch.inference_mode():
        columns = detector(as_pixels(images))
    return all(tensor.isfinite().all() for tensor in detector.state_dict().values()) and bool(
        columns.isfinite().all()
    )


def positive_scales(detector: Detector) -> bool:
    """As a bundle demands of them."""
    return all(
        bool((scale > 0).all())
        for scale in (
            detector.feature_std,
            detector.place_scale[1],
            detector.cell_scale[1],
            detector.map_scale[:, 1],
            detector.combined_scale[:, 1],
        )
    )


@pytest.mark.parametrize(("trained", "unseen"), [(1, 1), (2, 2), (5, 1), (5, 3), (30, 10)])
def test_few_images_are_enough(trained: int, unseen: int, some: ImageFeatures) -> None:
    detector = quickly(some.take(np.arange(trained)), some.take(np.arange(30, 30 + unseen)))
    assert finite(detector)
    assert positive_scales(detector)


KINDS: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "the same": lambda images: images[:1].repeat(len(images), axis=0),
    "black": lambda images: 0 * images,
    "white": lambda images: 0 * images + 255,
    "flat": lambda images: images[:, :, :1, :1] + 0 * images,
    "two": lambda images: images[np.arange(len(images)) % 2],
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_hardly_vary_are_no_failure(kind: str) -> None:
    made = extract(
        QUICK, random_backbone(), KINDS[kind](photographs(12, QUICK.image_shape, seed=3))
    )
    detector = quickly(made, made)
    assert finite(detector)
    assert positive_scales(detector)


def test_images_that_were_trained_on_look_more_normal_than_others(some: ImageFeatures) -> None:
    """That is why the scales are those of others."""
    trained, unseen = some.take(np.arange(30)), some.take(np.arange(30, 60))
    detector = quickly(trained, unseen)
    own, other = (findings(detector, part).parts.mean(dim=0) for part in (trained, unseen))
    assert (own < other).all()
    swapped = quickly(trained, trained)
    assert (findings(swapped, unseen).parts[:, 0].mean() > other[0]).all()


@pytest.mark.parametrize("imagenet", [False, True])
def test_a_defect_raises_features_in_images_that_were_not_trained_on(imagenet: bool) -> None:
    detector, backbone, _, unseen, images = fitted(SMALL, imagenet=imagenet)
    damaged = images.copy()
    damaged[:, :, 20:30, 8:18] = 255 - damaged[:, :, 20:30, 8:18].mean(axis=1, keepdims=True)
    damaged[:, :, 20:30, 8:18:2] = 0
    before = findings(detector, unseen).parts[:, 0]
    after = findings(detector, extract(SMALL, backbone, damaged)).parts[:, 0]
    assert (after > before).all()
    assert after.min() > before.median()


def test_maps_go_onto_the_scale_of_any_images(some: ImageFeatures) -> None:
    detector = quickly(some.take(np.arange(20)), some.take(np.arange(20, 30)))
    others = some.take(np.arange(30, 60))
    before = detector.map_scale.clone()
    found = findings(detector, others)
    set_map_scale(detector, found)
    maps = [*found[1:], detector.mixed_map(found)]
    for grid_map, scale in zip(maps, detector.map_scale, strict=True):
        scaled = (grid_map - scale[0]) / scale[1]
        assert np.median(scaled) == pytest.approx(0, abs=1e-3)
        assert np.quantile(scaled, FULL_COLOUR) == pytest.approx(1, abs=1e-3)
    assert not torch.allclose(detector.map_scale, before)
    again = detector.map_scale.clone()
    set_map_scale(detector, found)
    assert torch.equal(detector.map_scale, again)


def test_combined_is_in_standard_deviations_of_the_upper_tail() -> None:
    """For normal scores of whatever mean and spread, and whatever their lower tail."""
    detector = Detector(QUICK)
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(50_000, 3, generator=generator)
    values = normal * torch.tensor([1.0, 20.0, 0.01]) + torch.tensor([0.0, -7.0, 5.0])
    values[:, 1] = torch.where(values[:, 1] < -7, -1e3, values[:, 1])
    set_combined_scale(detector, values)
    expected = torch.tensor([[0.0, 1.0], [-7.0, 20.0], [5.0, 0.01]])
    torch.testing.assert_close(detector.combined_scale, expected, rtol=0.05, atol=0.5)
    on_scale = detector.combined(values)
    assert float((on_scale > 2.13).float().mean()) == pytest.approx(0.05, abs=0.01)  # 3 · 1.67 %


def test_scores_that_do_not_vary_have_a_scale() -> None:
    detector = Detector(QUICK)
    set_combined_scale(detector, torch.ones(5, 3))
    assert (detector.combined_scale[:, 1] > 0).all()
    assert detector.combined_scale.isfinite().all()


def test_a_bundle_takes_what_was_fitted(some: ImageFeatures) -> None:
    detector = quickly(some.take(np.arange(8)), some.take(np.arange(8, 12)))
    module = stored(detector).module()
    pixels = as_pixels(photographs(2, QUICK.image_shape))
    with torch.inference_mode():
        assert torch.equal(module(pixels), detector(pixels))
