"""Training: it learns, it is reproducible, and each image has one purpose."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import Head, VAEConfig
from model.training import train as module
from model.training.augment import jitter
from model.training.goodness_of_fit import evaluate_fit
from model.training.split import Split, split_indices
from model.training.statistics import score_statistics
from model.training.train import Step, Trained, TrainOptions, train
from model.vae import VAE
from tests.unit.model.training.small_training import (
    BATCHES,
    CONV,
    EPOCHS,
    QUICK,
    SMALL,
    known,
    last_weights,
    same,
    weights,
)

# It learns


def test_it_learns_real_digits(digits: NDArray[np.uint8]) -> None:
    steps: list[Step] = []
    options = TrainOptions(epochs=30, batch_size=64)
    trained = train(VAEConfig(), digits, options, on_step=steps.append)
    held_out = digits[trained.split.held_out] / 255
    mean_image = digits[trained.split.train].mean(axis=0) / 255
    of_the_mean = float(((held_out - mean_image) ** 2).mean())
    assert trained.finished
    flat = torch.from_numpy(digits[trained.split.held_out].reshape(-1, 784))
    assert evaluate_fit(trained.network, flat).mse < 0.5 * of_the_mean
    assert np.mean([s.loss for s in steps[-20:]]) < np.mean([s.loss for s in steps[:20]]) - 500
    assert np.mean([s.mse for s in steps[-20:]]) < 0.5 * of_the_mean


def test_the_relu_head_learns_by_the_tutorials_loss(few: NDArray[np.uint8]) -> None:
    steps: list[Step] = []
    trained = train(replace(SMALL, head="relu"), few, QUICK, on_step=steps.append)
    assert trained.pixel_variance is None
    assert steps[-1].mse < steps[0].mse
    late = steps[-1]
    assert late.loss == pytest.approx(late.mse + late.kl / 784, rel=1e-4)


def test_one_batch_for_one_epoch_learns_too(few: NDArray[np.uint8]) -> None:
    options = TrainOptions(epochs=1, batch_size=1000, seed=5)
    torch.manual_seed(5)
    fresh = VAE(SMALL).state_dict()
    assert not same(weights(train(SMALL, few, options)), fresh)


def test_the_figures_are_those_of_the_weights(unbroken: Trained, few: NDArray[np.uint8]) -> None:
    flat = torch.from_numpy(few.reshape(len(few), -1))
    train_images, validation, _ = (flat[indices] for indices in unbroken.split)
    fit = evaluate_fit(unbroken.network, validation)
    assert unbroken.pixel_variance == fit.mse_sampled
    steps, loss = unbroken.history[-1]
    assert steps == unbroken.step == EPOCHS * BATCHES
    assert loss == pytest.approx(fit.negative_elbo(784, fit.mse_sampled))
    expected = score_statistics(unbroken.network, train_images, validation)
    assert expected is not None
    assert same(known(unbroken), expected.tensors())
    assert unbroken.options == QUICK.resolved(len(train_images))


def test_steps_are_counted(few: NDArray[np.uint8]) -> None:
    steps: list[Step] = []
    train(SMALL, few, QUICK, on_step=steps.append)
    assert [s.step for s in steps] == list(range(1, EPOCHS * BATCHES + 1))
    assert {s.steps for s in steps} == {EPOCHS * BATCHES}
    assert all(math.isfinite(s.loss) and s.mse > 0 and s.kl >= 0 for s in steps)


def test_each_epoch_shuffles_and_draws_anew(few: NDArray[np.uint8]) -> None:
    steps: list[Step] = []
    still = replace(QUICK, learning_rate=1e-12)
    train(SMALL, few, still, on_step=steps.append)
    errors = np.array([step.mse for step in steps]).reshape(EPOCHS, BATCHES)
    assert len(np.unique(errors, axis=0)) == EPOCHS
    np.testing.assert_allclose(errors, errors.mean(), rtol=0.2)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_images_are_reported(n: int, few: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=rf"^{n} images? "):
        train(SMALL, few[:n], QUICK)


def test_three_images_are_enough(few: NDArray[np.uint8]) -> None:
    trained = train(SMALL, few[:3], QUICK)
    assert [len(indices) for indices in trained.split] == [1, 1, 1]
    assert all(tensor.isfinite().all() for tensor in known(trained).values())


# It repeats itself


@pytest.mark.parametrize("head", ["log_variance", "relu"])
def test_the_same_seed_gives_the_same_weights(head: Head, few: NDArray[np.uint8]) -> None:
    first, second = (train(replace(SMALL, head=head), few, QUICK) for _ in range(2))
    assert same(weights(first), weights(second))
    assert (first.history, first.step) == (second.history, second.step)


def test_other_randomness_does_not_matter(few: NDArray[np.uint8], unbroken: Trained) -> None:
    def disturb(step: Step) -> None:
        torch.manual_seed(step.step)
        np.random.seed(step.step)

    assert same(weights(train(SMALL, few, QUICK, on_step=disturb)), weights(unbroken))


def test_another_seed_gives_other_weights(few: NDArray[np.uint8], unbroken: Trained) -> None:
    other = train(SMALL, few, replace(QUICK, seed=1))
    assert not same(weights(other), weights(unbroken))
    assert not np.array_equal(other.split.held_out, unbroken.split.held_out)


def test_images_are_left_alone(few: NDArray[np.uint8]) -> None:
    copy = few.copy()
    train(SMALL, copy, replace(QUICK, epochs=1))
    assert np.array_equal(copy, few)


def test_convolutions_learn_and_repeat_themselves_too(few: NDArray[np.uint8]) -> None:
    steps: list[Step] = []
    first, second = (train(CONV, few, QUICK, on_step=steps.append) for _ in range(2))
    assert same(weights(first), weights(second))
    assert steps[-1].loss < steps[0].loss


# What each image is for


def inverted(images: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    changed = images.copy()
    changed[indices] = 255 - changed[indices]
    return changed


def test_held_out_images_touch_nothing_that_is_learnt(
    few: NDArray[np.uint8], tmp_path: Path, looks_each_epoch: None
) -> None:
    """Neither the weights, nor which are kept, nor the statistics: p-values rest on it."""
    held_out = split_indices(len(few), QUICK.seed).held_out
    options = replace(QUICK, epochs=10, learning_rate=0.2)
    one, other = (
        train(SMALL, images, options, checkpoint=tmp_path / name)
        for name, images in (("one", few), ("other", inverted(few, held_out)))
    )
    assert np.array_equal(one.split.held_out, held_out)
    assert np.array_equal(other.split.held_out, held_out)
    assert same(last_weights(tmp_path / "one"), last_weights(tmp_path / "other"))
    assert same(weights(one), weights(other))
    assert one.history == other.history
    assert one.step == other.step < one.history[-1][0]  # at such a rate there was a choice
    assert same(known(one), known(other))
    assert one.pixel_variance == other.pixel_variance


def test_validation_images_choose_and_measure_and_no_more(
    few: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The weights of each step owe nothing to them; the scale of the scores is theirs."""
    split = split_indices(len(few), QUICK.seed)
    one, other = (
        train(SMALL, images, QUICK, checkpoint=tmp_path / name)
        for name, images in (("one", few), ("other", inverted(few, split.validation)))
    )
    assert same(last_weights(tmp_path / "one"), last_weights(tmp_path / "other"))
    assert one.history != other.history
    assert one.pixel_variance != other.pixel_variance
    moved = {name for name in known(one) if not torch.equal(known(one)[name], known(other)[name])}
    assert moved == {"latent_mean", "latent_precision", "fused_median", "fused_tail"}


def test_all_other_images_do(few: NDArray[np.uint8], tmp_path: Path) -> None:
    train(SMALL, few, QUICK, checkpoint=tmp_path / "one")
    indices = split_indices(len(few), QUICK.seed).train
    for index in (indices[:1], indices[-1:]):
        train(SMALL, inverted(few, index), QUICK, checkpoint=tmp_path / "other")
        assert not same(last_weights(tmp_path / "one"), last_weights(tmp_path / "other"))


def test_a_split_of_one_s_own_is_followed(few: NDArray[np.uint8]) -> None:
    split = Split(np.arange(0, 90), np.arange(90, 100), np.arange(100, 110))
    changed = few.copy()
    changed[110:] = 0  # in none of the three
    one, other = (train(SMALL, images, QUICK, split) for images in (few, changed))
    assert one.split is split
    assert same(weights(one), weights(other))
    assert same(known(one), known(other))
    assert not same(weights(one), weights(train(SMALL, inverted(few, split.train), QUICK, split)))


# Augmentation


def test_augmentation_changes_what_is_learnt_and_repeats_itself(
    few: NDArray[np.uint8], unbroken: Trained
) -> None:
    options = replace(QUICK, augment=0.1)
    first, second = (train(SMALL, few, options) for _ in range(2))
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(unbroken))


def test_images_are_augmented_anew_in_each_step(
    few: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Tensor, Tensor, float]] = []

    def noted(
        pixels: Tensor, shape: tuple[int, int, int], size: float, generator: torch.Generator
    ) -> Tensor:
        before = pixels.clone()
        result = jitter(pixels, shape, size, generator)
        assert shape == SMALL.image_shape
        calls.append((before, result, size))
        return result

    monkeypatch.setattr(module, "jitter", noted)
    train(SMALL, few[:14], replace(QUICK, augment=0.25, batch_size=100))
    assert len(calls) == EPOCHS
    assert {size for *_, size in calls} == {0.25}
    first, *others = (before[before.sum(dim=1).argsort()] for before, *_ in calls)
    assert all(torch.equal(first, other) for other in others)  # the images themselves stay
    moved = [after.sum(dim=1).sort().values for _, after, _ in calls]
    assert not torch.equal(moved[0], moved[1])
    train(SMALL, few[:14], QUICK)
    assert len(calls) == EPOCHS


@pytest.mark.parametrize("batch_size", [1, 79])
def test_a_batch_of_one_may_be_augmented(batch_size: int, few: NDArray[np.uint8]) -> None:
    """80 images in batches of 79 leave one."""
    options = TrainOptions(epochs=4, batch_size=batch_size, augment=0.1)
    assert train(SMALL, few, options).finished


# Its schedule


def test_the_learning_rate_rises_and_falls(
    few: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    whole_step = torch.optim.Adam.step

    def step(optimizer: torch.optim.Adam) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        whole_step(optimizer)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train(SMALL, few, TrainOptions(steps=100, batch_size=24, learning_rate=0.01))
    peak = int(np.argmax(rates))
    assert len(rates) == 100
    assert 2 <= peak <= 8
    assert rates[peak] == pytest.approx(0.01, rel=0.02)
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[peak:]))
    assert 0 <= rates[-1] < 0.0001
