"""Networks across folds: alike, comparable, and each judged by images that it has not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.engine.engine import Engine
from model.scores.calibration import DTYPES
from model.scores.deterministic import MAX_DENSITY_LATENTS
from model.training.calibrate import all_scores, calibration_by_dtype, scores_by_dtype
from model.training.cross_fit import (
    as_bundle,
    cross_scores,
    fold_splits,
    on_common_scale,
    train_folds,
)
from model.training.split import Split
from model.training.statistics import fused_parts, mean_contrast
from model.training.train import Step, Trained, TrainOptions, train
from tests.unit.model.training.small_training import SMALL, known, same, weights

FOLDS = 4
OPTIONS = TrainOptions(steps=120, batch_size=16)


@pytest.fixture(scope="module")
def splits(few: NDArray[np.uint8]) -> list[Split]:
    return fold_splits(np.arange(len(few)), FOLDS, 0)


@pytest.fixture(scope="module")
def first(few: NDArray[np.uint8], splits: list[Split]) -> Trained:
    return train(SMALL, few, OPTIONS, splits[0])


@pytest.fixture(scope="module")
def folds(first: Trained, few: NDArray[np.uint8], splits: list[Split]) -> list[Trained]:
    return train_folds(first, few, splits[1:])


@pytest.fixture(scope="module")
def aligned(folds: list[Trained], few: NDArray[np.uint8]) -> list[Trained]:
    return on_common_scale(folds, few)


# Splits


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=3, max_size=40), st.data(), st.integers(0, 2**32 - 1))
def test_each_image_is_held_out_once_and_its_group_with_it(
    sizes: list[int], data: st.DataObject, seed: int
) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    number = data.draw(st.integers(min(3, len(sizes)), len(sizes)))
    splits = fold_splits(groups, number, seed)
    assert len(splits) == number
    held_out = np.concatenate([split.held_out for split in splits])
    assert np.array_equal(np.sort(held_out), np.arange(len(groups)))
    for split in splits:
        assert np.array_equal(np.sort(np.concatenate(split)), np.arange(len(groups)))
        assert all(len(part) and (np.diff(part) > 0).all() for part in split)
        assert sum(len(np.unique(groups[part])) for part in split) == len(sizes)


@pytest.mark.parametrize(
    ("groups", "folds", "counted"),
    [
        ([0, 0, 0], 1, "1 group .* 1 fold"),
        ([0, 0, 1, 1], 2, "2 groups .* 2 folds"),
        ([0, 1, 2], 2, "3 groups .* 2 folds"),
        ([0, 0, 0, 1, 2, 3], 2, "4 groups .* 2 folds"),
    ],
)
def test_each_fold_must_leave_two_groups(groups: list[int], folds: int, counted: str) -> None:
    """One to train, and one to choose the weights. In the last, three make up for a larger one."""
    reason = f"{len(groups)} images in {counted}: 2 groups"
    with pytest.raises(ValueError, match=reason):
        fold_splits(np.array(groups), folds, 0)


# Training


def test_all_are_trained_alike_and_on_their_own_images(
    first: Trained, folds: list[Trained], few: NDArray[np.uint8], splits: list[Split]
) -> None:
    assert len(folds) == FOLDS
    assert folds[0] is first
    for fold, split in zip(folds, splits, strict=True):
        assert fold.split is split
        assert fold.step == first.step
        assert fold.finished
    options = replace(first.options, stop_after=first.step)
    assert same(weights(folds[2]), weights(train(SMALL, few, options, splits[2])))
    assert not same(weights(folds[1]), weights(folds[2]))


def test_they_stop_where_the_first_was_best(
    first: Trained, few: NDArray[np.uint8], splits: list[Split]
) -> None:
    """And not where their own few validation images would have them stop."""
    best = replace(first, step=67)
    steps: list[tuple[int, Step]] = []
    folds = train_folds(
        best, few, splits[1:3], on_step=lambda number, step: steps.append((number, step))
    )
    assert [fold.step for fold in folds] == [67, 67, 67]
    expected = [(number, step) for number in (0, 1) for step in range(1, 68)]
    assert [(number, step.step) for number, step in steps] == expected
    assert {step.steps for _, step in steps} == {120}  # whose learning rate they follow


def test_held_out_images_touch_nothing_of_their_network(
    first: Trained, folds: list[Trained], few: NDArray[np.uint8], splits: list[Split]
) -> None:
    changed = few.copy()
    changed[splits[1].held_out] = 255 - changed[splits[1].held_out]
    again = train_folds(first, changed, splits[1:2])[1]
    assert same(weights(again), weights(folds[1]))
    assert same(known(again), known(folds[1]))
    assert again.pixel_variance == folds[1].pixel_variance


@pytest.mark.parametrize(("number", "complete"), [(0, 1), (1, 2), (2, 3)])
def test_ctrl_c_keeps_the_networks_that_are_complete(
    number: int,
    complete: int,
    first: Trained,
    folds: list[Trained],
    few: NDArray[np.uint8],
    splits: list[Split],
) -> None:
    def interrupt(fold: int, step: Step) -> None:
        if (fold, step.step) == (number, 60):
            raise KeyboardInterrupt

    kept = train_folds(first, few, splits[1:], on_step=interrupt)
    assert len(kept) == complete
    assert all(fold.finished for fold in kept)
    assert same(weights(kept[-1]), weights(folds[complete - 1]))


# One scale


def test_the_scale_is_one_and_that_of_all_images(
    aligned: list[Trained], folds: list[Trained], few: NDArray[np.uint8]
) -> None:
    """Each by the network that has not seen it: their median is 0."""
    for name in ("contrast", "fused_median", "fused_tail"):
        first, *others = (known(fold)[name] for fold in aligned)
        assert all(torch.equal(first, other) for other in others)
    flat = torch.from_numpy(few.reshape(len(few), -1))
    contrast = mean_contrast(flat)
    torch.testing.assert_close(known(aligned[0])["contrast"], contrast)
    parts = []
    for fold in aligned:
        assert fold.statistics is not None
        mixture = fold.statistics.mixture
        parts.append(fused_parts(fold.network, flat[fold.split.held_out], contrast, mixture))
    values = np.concatenate(parts)
    assert values.shape == (len(few), 3)
    median = known(aligned[0])["fused_median"].numpy()
    np.testing.assert_allclose(np.median(values, axis=0), median, rtol=1e-4)
    assert np.array_equal(known(aligned[0])["fused_median"], known(aligned[1])["fused_median"])
    assert not same(known(folds[0]), known(aligned[0]))


def test_densities_of_trained_images_have_one_median(
    aligned: list[Trained], few: NDArray[np.uint8]
) -> None:
    """The latents of two trainings have spaces of their own, and so other units of density."""
    flat = torch.from_numpy(few.reshape(len(few), -1))

    def middle(fold: Trained) -> float:
        assert fold.statistics is not None
        latents = fold.network.encode(flat[fold.split.train].float() / 255).mean
        return float(fold.statistics.mixture.log_density(latents).double().quantile(0.5))

    with torch.inference_mode():
        medians = [middle(fold) for fold in aligned]
    np.testing.assert_allclose(medians, medians[0], atol=1e-4)


def test_the_first_network_s_density_stays(aligned: list[Trained], folds: list[Trained]) -> None:
    """It is the one that is served."""
    before, after = known(folds[0]), known(aligned[0])
    for name in before.keys() - {"contrast", "fused_median", "fused_tail"}:
        assert torch.equal(before[name], after[name])
    assert same(weights(folds[0]), weights(aligned[0]))


def test_a_network_in_other_units_has_the_same_scores(
    folds: list[Trained], few: NDArray[np.uint8]
) -> None:
    """Latents twice as long have a density that is 2^-D of it, and mean nothing else."""
    twice = folds[1]
    assert twice.statistics is not None
    shift = SMALL.latent_size * np.log(2)
    denser = twice.statistics.mixture_log_weights - shift
    other = replace(twice, statistics=replace(twice.statistics, mixture_log_weights=denser))
    one, two = (on_common_scale([folds[0], fold], few)[1] for fold in (twice, other))
    for name, tensor in known(one).items():
        torch.testing.assert_close(known(two)[name], tensor, rtol=1e-4, atol=1e-4)


# Scores


def test_each_image_is_scored_by_the_network_that_has_not_seen_it(
    aligned: list[Trained], few: NDArray[np.uint8]
) -> None:
    """Row by row in the order of the folds."""
    scores = cross_scores(aligned, few)
    assert list(scores) == list(DTYPES)
    order = np.concatenate([fold.split.held_out for fold in aligned])
    by_network = [all_scores(Engine(as_bundle(fold), device="cpu"), few) for fold in aligned]
    whose = np.repeat(np.arange(FOLDS), [len(fold.split.held_out) for fold in aligned])
    for name in ("fused", "mse", "latent_density", "latent_mahalanobis"):
        expected = [by_network[fold][name][image] for fold, image in zip(whose, order, strict=True)]
        np.testing.assert_allclose(scores["float32"][name], expected, rtol=1e-3, atol=1e-3)
    for dtype in DTYPES:
        assert scores[dtype].keys() == scores["float32"].keys()
        assert all(len(values) == len(few) for values in scores[dtype].values())
    assert not np.array_equal(scores["bfloat16"]["mse"], scores["float32"]["mse"])


def test_scores_of_unseen_images_look_alike_in_all_folds(
    aligned: list[Trained], few: NDArray[np.uint8]
) -> None:
    """Without a common scale, one fold's clean images would be the others' anomalies."""
    parts = [
        scores_by_dtype(as_bundle(fold), few[fold.split.held_out])["float32"] for fold in aligned
    ]
    medians = [np.median(part["fused"]) for part in parts]
    spread = np.std(np.concatenate([part["fused"] for part in parts]))
    assert np.ptp(medians) < spread


def test_the_calibration_of_all_images_serves_the_first_network(
    aligned: list[Trained], few: NDArray[np.uint8]
) -> None:
    scores = cross_scores(aligned, few)
    made = calibration_by_dtype(scores, data_set="mine", date="2026-01-03", folds=FOLDS)
    assert (made.n, made.folds) == (len(few), FOLDS)
    half = made.of_dtype("float16")
    assert half is not None
    assert half.folds == FOLDS
    np.testing.assert_array_equal(half.scores["mse"], np.sort(scores["float16"]["mse"]))
    engine = Engine(replace(as_bundle(aligned[0]), calibration=made), device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (8, 1, 28, 28), dtype=np.uint8)
    p_values = made.p_values("fused", engine.score(noise, "fused").score)
    assert p_values.tolist() == [1 / (len(few) + 1)] * 8


def test_networks_without_statistics_have_no_scale_to_share(few: NDArray[np.uint8]) -> None:
    """More latents than a density is fitted for, and the tutorial's head: no likelihood."""
    config = replace(SMALL, latent_size=MAX_DENSITY_LATENTS + 1, head="relu")
    images = few[:12]
    splits = fold_splits(np.arange(12), 2, 0)
    first = train(config, images, TrainOptions(steps=2), splits[0])
    assert (first.statistics, first.pixel_variance) == (None, None)
    folds = on_common_scale(train_folds(first, images, splits[1:]), images)
    assert len(folds) == 2
    scores = cross_scores(folds, images)["float32"]
    assert {"mse", "kl"} <= scores.keys()
    assert not {"fused", "iwae", "latent_density"} & scores.keys()
    assert len(scores["mse"]) == 12


def test_three_images_are_enough(few: NDArray[np.uint8]) -> None:
    images = few[:3]
    splits = fold_splits(np.arange(3), 3, 0)
    first = train(SMALL, images, TrainOptions(steps=3), splits[0])
    folds = on_common_scale(train_folds(first, images, splits[1:]), images)
    scores = cross_scores(folds, images)["float32"]
    assert all(values.shape == (3,) and np.isfinite(values).all() for values in scores.values())
