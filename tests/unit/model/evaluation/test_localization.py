"""Where the defects are, against definitions written out and known truths."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from model.config import VAEConfig
from model.engine.engine import Engine
from model.evaluation.figures import Localization
from model.evaluation.localization import count_maps, count_pixels, localization
from model.results import Floats
from tests.unit.samples import tiny_bundle

Masks = NDArray[np.bool_]


def figures(clean: Floats, maps: Floats, masks: Masks) -> Localization:
    normal = count_maps(clean, np.zeros(clean.shape, bool))
    found = localization(normal, count_maps(maps, masks), without_mask=0)
    assert found is not None
    return found


def squares(seed: int = 0) -> tuple[Floats, Floats, Masks]:
    """Noise, and noise with defects that are a little brighter: maps of clean and bad images."""
    generator = np.random.default_rng(seed)
    clean, maps = (generator.random((6, 12, 12), np.float32) * 0.8 for _ in range(2))
    masks = np.zeros((6, 12, 12), bool)
    for i, (size, top) in enumerate(zip((1, 2, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5), strict=True)):
        masks[i, top : top + size, top : top + size] = True
    masks[0, 9:11, 9:11] = True
    maps[masks] += 0.2
    return clean, maps, masks


def test_pixel_auroc_is_over_all_pixels_the_clean_images_included() -> None:
    clean, maps, masks = squares()
    truth = np.concatenate([np.zeros(clean.size), masks.ravel()])
    wanted = roc_auc_score(truth, np.concatenate([clean.ravel(), maps.ravel()]))
    assert figures(clean, maps, masks).pixel_auroc == pytest.approx(wanted, abs=1e-3)


def test_region_overlap_is_the_mean_over_regions_up_to_a_rate_of_0_3() -> None:
    clean, maps, masks = squares()
    regions = [masks[0] & (np.arange(12)[:, None] < 5), masks[0] & (np.arange(12)[:, None] > 5)]
    places = [0, 0, *range(1, 6)]
    regions += list(masks[1:])
    normal = np.concatenate([clean.ravel(), maps[~masks]])
    thresholds = np.unique(np.concatenate([[2.0], clean.ravel(), maps.ravel()]))[::-1]
    rates = np.array([(normal >= t).mean() for t in thresholds])
    overlaps = np.array(
        [
            np.mean([(maps[i][r] >= t).mean() for i, r in zip(places, regions, strict=True)])
            for t in thresholds
        ]
    )
    grid = np.linspace(0, 0.3, 30_001)
    wanted = np.trapezoid(np.interp(grid, rates, overlaps), grid) / 0.3
    found = figures(clean, maps, masks)
    assert found.regions == 7
    assert found.region_overlap == pytest.approx(wanted, abs=2e-3)


def test_a_large_region_counts_no_more_than_a_small_one() -> None:
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :5] = True
    masks[0, 9, 9] = True
    maps = np.where(np.arange(10)[:, None] < 5, 0.9, 0.1).astype(np.float32) * np.ones((1, 10, 10))
    maps[0, 9, 9] = 0
    clean = np.full((1, 10, 10), 0.5, np.float32)
    assert figures(clean, maps.astype(np.float32), masks).region_overlap == pytest.approx(0.5)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    masks = np.eye(4, dtype=bool)[None]
    clean = np.zeros((1, 4, 4), np.float32)
    assert figures(clean, clean, masks).regions == 1


def test_a_perfect_map_and_a_blind_one() -> None:
    clean, _, masks = squares()
    perfect = figures(0 * clean, masks.astype(np.float32), masks)
    assert (perfect.pixel_auroc, perfect.region_overlap) == pytest.approx((1, 1))
    assert (perfect.peak_in_defect.value, perfect.peak_in_defect.high) == (1, 1)
    blind = figures(0 * clean, 0 * clean, masks)
    assert blind.pixel_auroc == pytest.approx(0.5)
    assert blind.region_overlap == pytest.approx(0.15)  # the mean of the diagonal up to 0.3


def test_peaks_are_counted_and_chance_is_the_area() -> None:
    masks = np.zeros((4, 5, 5), bool)
    masks[:, :1] = True
    maps = np.zeros((4, 5, 5), np.float32)
    maps[0, 0, 3] = maps[1, 2, 2] = maps[2, 4, 4] = maps[3, 3, 3] = 1
    found = figures(maps, maps, masks)
    assert found.peak_in_defect.value == 0.25
    assert found.peak_in_defect.low < 0.01 < 0.25 < 0.8 < found.peak_in_defect.high < 0.81
    assert found.defect_share == pytest.approx(0.2)


def test_sets_add_up() -> None:
    clean, maps, masks = squares()
    parts = count_maps(maps[:2], masks[:2]) + count_maps(maps[2:], masks[2:])
    whole = figures(clean, maps, masks)
    normal = count_maps(clean, np.zeros(clean.shape, bool))
    summed = localization(normal, parts, without_mask=0)
    assert summed is not None
    assert summed.region_overlap == pytest.approx(whole.region_overlap)
    assert (summed.pixel_auroc, summed.peak_in_defect) == (whole.pixel_auroc, whole.peak_in_defect)


def test_the_map_is_the_mean_over_the_channels_of_what_the_service_answers() -> None:
    config = VAEConfig(
        architecture="conv", image_shape=(3, 16, 20), hidden_sizes=(4, 8), latent_size=3
    )
    engine = Engine(tiny_bundle(config=config), device="cpu")
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 20), dtype=np.uint8)
    masks = np.zeros((5, 16, 20), bool)
    masks[[0, 1, 3], 4:7, 5:9] = True
    maps = engine.score_map(images).anomaly_map.mean(axis=1)
    found, wanted = (
        count_pixels(engine, images, masks),
        count_maps(maps[[0, 1, 3]], masks[[0, 1, 3]]),
    )
    assert found.images == 3  # those with a mask
    np.testing.assert_array_equal(found.defect, wanted.defect)
    np.testing.assert_array_equal(found.normal, wanted.normal)
    assert count_pixels(engine, images).normal.sum() == 5 * 16 * 20


def test_without_a_mask_there_are_no_figures() -> None:
    clean, maps, masks = squares()
    normal = count_maps(clean, np.zeros(clean.shape, bool))
    assert localization(normal, count_maps(maps[:0], masks[:0]), without_mask=6) is None
