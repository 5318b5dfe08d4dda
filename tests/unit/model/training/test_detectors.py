"""Which images a detector is fitted to, and which of them set which of its scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.features.detector import PARTS, Detector, DetectorConfig, Findings
from model.training import detectors as module
from model.training.backbone_weights import BackboneWeights
from model.training.detectors import MAX_FITTED, MAX_UNSEEN, thinned, with_detectors
from model.training.fit_detector import STEPS, Distances, ImageFeatures
from model.training.split import Split
from model.training.train import Trained, TrainOptions
from tests.unit.samples import TINY, tiny_bundle

N = 120
BACKBONE = BackboneWeights(tensors={"stem.bias": torch.zeros(32)}, origin={"name": "none"})


class Fit(NamedTuple):
    """The arguments of a call of `fit_detector`; images by their numbers."""

    config: DetectorConfig
    backbone: Mapping[str, Tensor]
    trained: list[int]
    unseen: list[int]
    seed: int
    steps: int


class Seen(NamedTuple):
    """An image, and the detector that saw it, by their numbers."""

    image: int
    detector: int


class Spy:
    """Stands in for the fitting, and notes which images it is given."""

    def __init__(self) -> None:
        self.extracted: list[int] = []
        self.fits: list[Fit] = []
        self.combined: dict[int, list[Seen]] = {}
        """Behind the scale of `combined`, by the number of its detector."""
        self.maps: dict[int, list[Seen]] = {}
        """Behind the scale of maps."""
        self.places: dict[int, list[Seen]] = {}
        """Behind the scales of places."""

    def extract(
        self,
        config: DetectorConfig,
        backbone: Mapping[str, Tensor],
        images: NDArray[np.uint8],
        on_images: Callable[[int, int], None],
    ) -> ImageFeatures:
        self.extracted = images[:, 0, 0, 0].tolist()
        on_images(len(images), len(images))
        numbers = images[:, :1, :1, :1]
        return ImageFeatures(features=numbers.astype(np.float16), bands=numbers[:, 0].astype("f4"))

    def fit_detector(
        self,
        config: DetectorConfig,
        backbone: Mapping[str, Tensor],
        trained: ImageFeatures,
        unseen: ImageFeatures,
        *,
        seed: int,
        steps: int,
        on_step: Callable[[int, int], None],
    ) -> Detector:
        fit = Fit(config, backbone, numbers_of(trained), numbers_of(unseen), seed, steps)
        self.fits.append(fit)
        on_step(1, steps)
        detector = Detector(config)
        detector.feature_mean.fill_(len(self.fits))  # its number, from 1
        return detector

    def distances(self, detector: Detector, images: ImageFeatures) -> Distances:
        seen = self.findings(detector, images).parts
        return Distances(seen, seen)

    def findings(self, detector: Detector, images: ImageFeatures) -> Findings:
        rows = [[float(number), number_of(detector), 0.0] for number in numbers_of(images)]
        return Findings(torch.tensor(rows), torch.empty(0), torch.empty(0))

    def set_place_scales(self, detector: Detector, unseen: Distances) -> None:
        assert torch.equal(unseen.places, unseen.cells)
        self.places[number_of(detector)] = seen_in(unseen.places)

    def set_map_scale(self, detector: Detector, found: Findings) -> None:
        self.maps[number_of(detector)] = seen_in(found.parts)

    def set_combined_scale(self, detector: Detector, parts: Tensor) -> None:
        assert parts.shape[1] == len(PARTS)
        self.combined[number_of(detector)] = seen_in(parts)


def seen_in(parts: Tensor) -> list[Seen]:
    return [Seen(int(image), int(number)) for image, number, _ in parts.tolist()]


def numbers_of(features: ImageFeatures) -> list[int]:
    assert (features.features.ravel() == features.bands.ravel()).all()
    return features.features.ravel().astype(int).tolist()


def number_of(detector: Detector) -> int:
    return int(detector.feature_mean[0, 0, 0])


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    for name in (
        *("extract", "fit_detector", "distances", "findings"),
        *("set_place_scales", "set_map_scale", "set_combined_scale"),
    ):
        monkeypatch.setattr(module, name, getattr(spy, name))
    return spy


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Each has its number for a value."""
    numbers = np.arange(N, dtype=np.uint8)[:, None, None, None]
    return numbers + np.zeros(TINY.image_shape, np.uint8)


def trained(split: Split, **options: Any) -> Trained:
    return Trained(
        network=tiny_bundle().network(),
        pixel_variance=0.1,
        options=TrainOptions(**{"steps": 100, **options}),
        step=100,
        history=((100, 1.0),),
        statistics=None,
        split=split,
        finished=True,
    )


def folds(n: int = 3) -> list[Split]:
    """Held out in turn; of the others, each fifth validates. One image is in none of them."""
    everything = np.random.default_rng(0).permutation(N)[1:]
    splits = []
    for held_out in np.array_split(everything, n):
        others = np.setdiff1d(everything, held_out)
        splits.append(Split(np.delete(others, np.s_[::5]), others[::5], np.sort(held_out)))
    return splits


def test_a_detector_sees_what_its_network_saw(spy: Spy, images: NDArray[np.uint8]) -> None:
    """It is fitted to the images that the network was trained on, and scaled by those that chose
    its weights: never by those that it held out, which calibrate it."""
    splits = folds()
    made = with_detectors([trained(split) for split in splits], images, BACKBONE)
    for fit, split in zip(spy.fits, splits, strict=True):
        assert fit.trained == split.train.tolist()
        assert fit.unseen == split.validation.tolist()
        assert not {*fit.trained, *fit.unseen} & {*split.held_out.tolist()}
        assert fit.config == DetectorConfig(image_shape=TINY.image_shape)
        assert fit.backbone is BACKBONE.tensors
    for number, network in enumerate(made, 1):
        assert network.detector is not None
        assert network.detector.config == spy.fits[0].config
        assert (network.detector.tensors["feature_mean"] == number).all()


def test_maps_and_combined_have_one_scale_by_all_images_held_out(
    spy: Spy, images: NDArray[np.uint8]
) -> None:
    """Each seen by the detector that was not fitted to it."""
    splits = folds()
    with_detectors([trained(split) for split in splits], images, BACKBONE)
    expected = [
        (int(image), number) for number, split in enumerate(splits, 1) for image in split.held_out
    ]
    assert spy.combined == spy.maps == dict.fromkeys((1, 2, 3), expected)


def test_the_scale_of_a_place_comes_from_the_images_that_other_networks_hold_out(
    spy: Spy, images: NDArray[np.uint8]
) -> None:
    """A detector's own ones calibrate it, so they do not set its scale as well."""
    splits = folds()
    with_detectors([trained(split) for split in splits], images, BACKBONE)
    for number in (1, 2, 3):
        assert spy.places[number] == [
            (int(image), other)
            for other, split in enumerate(splits, 1)
            for image in split.held_out
            if other != number
        ]


def test_a_network_alone_leaves_the_images_held_out_to_its_calibration(
    spy: Spy, images: NDArray[np.uint8]
) -> None:
    split = folds()[0]
    with_detectors([trained(split)], images, BACKBONE)
    (fit,) = spy.fits
    assert (fit.trained, fit.unseen) == (split.train.tolist(), split.validation.tolist())
    assert not spy.places  # those of `fit_detector`
    assert not spy.combined
    assert spy.maps == {1: [(int(image), 1) for image in split.held_out]}


def test_features_are_computed_once_and_of_the_images_that_are_needed(
    spy: Spy, images: NDArray[np.uint8]
) -> None:
    splits = folds()
    with_detectors([trained(split) for split in splits], images, BACKBONE)
    assert spy.extracted == sorted(set().union(*(np.concatenate(split) for split in splits)))
    assert len(spy.extracted) == N - 1


@pytest.mark.parametrize("alone", [False, True])
def test_of_many_images_some_are_enough(
    alone: bool, spy: Spy, images: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evenly spaced, so that all parts are among them."""
    assert (MAX_FITTED, MAX_UNSEEN) == (2_000, 500)
    monkeypatch.setattr(module, "MAX_FITTED", 20)
    monkeypatch.setattr(module, "MAX_UNSEEN", 7)
    splits = folds()[: 1 if alone else 3]
    with_detectors([trained(split) for split in splits], images, BACKBONE)
    for fit, split in zip(spy.fits, splits, strict=True):
        assert fit.trained == thinned(split.train, 20).tolist()
        assert fit.unseen == thinned(split.validation, 7).tolist()
        assert (len(fit.trained), len(fit.unseen)) == (20, 7)
    assert [seen.image for seen in spy.maps[1]] == [
        number for split in splits for number in thinned(split.held_out, 7)
    ]


@pytest.mark.parametrize("limit", [1, 2, 7, 10, 99])
def test_thinned_indices_are_evenly_spaced(limit: int) -> None:
    indices = np.arange(100, 110)
    found = thinned(indices, limit)
    assert len(found) == min(limit, 10)
    assert len(set(found.tolist())) == len(found)
    assert set(found) <= set(indices)
    assert found[0] == 100
    if limit > 1:
        assert found[-1] == 109
        assert np.ptp(np.diff(found)) <= 1


@pytest.mark.parametrize(
    ("steps", "expected"), [(100, 100), (STEPS - 1, STEPS - 1), (STEPS + 1, STEPS), (None, STEPS)]
)
def test_no_more_steps_than_the_network_may_take(
    steps: int | None, expected: int, spy: Spy, images: NDArray[np.uint8]
) -> None:
    options = [trained(split, steps=steps, seed=seed) for seed, split in enumerate(folds())]
    with_detectors(options, images, BACKBONE)
    assert [(fit.steps, fit.seed) for fit in spy.fits] == [(expected, seed) for seed in range(3)]


def test_progress_is_reported(spy: Spy, images: NDArray[np.uint8]) -> None:
    seen: list[tuple[int, int]] = []
    steps: list[tuple[int, int, int]] = []
    with_detectors(
        [trained(split) for split in folds()],
        images,
        BACKBONE,
        on_images=lambda *counts: seen.append(counts),
        on_step=lambda *counts: steps.append(counts),
    )
    assert seen == [(N - 1, N - 1)]
    assert steps == [(0, 1, 100), (1, 1, 100), (2, 1, 100)]


def test_the_networks_stay_as_they_are(spy: Spy, images: NDArray[np.uint8]) -> None:
    before = [trained(split) for split in folds()]
    after = with_detectors(before, images, BACKBONE)
    assert all(network.detector is None for network in before)
    assert [replace(network, detector=None) for network in after] == before
