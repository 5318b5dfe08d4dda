"""Training: it learns, it repeats itself, and it can be interrupted."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model.config import Head, VAEConfig
from model.training import train as module
from model.training.checkpoint import CheckpointError
from model.training.fit import Fit, evaluate_fit
from model.training.train import Step, Trained, TrainOptions, held_out_indices, train
from model.vae import VAE
from tests.unit.samples import assert_one_line

SMALL = VAEConfig(hidden_sizes=(12,), latent_size=3)
QUICK = TrainOptions(epochs=4, batch_size=32)
BATCHES = 4  # in an epoch, of the 120 images less those held out


@pytest.fixture(scope="module")
def few(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return digits[:120]


@pytest.fixture(scope="module")
def unbroken(few: NDArray[np.uint8]) -> Trained:
    """A training that nothing disturbed."""
    return train(SMALL, few, QUICK)


def weights(trained: Trained) -> dict[str, Tensor]:
    return trained.network.state_dict()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def last_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Those at the end of the last whole epoch, be they the best or not."""
    tensors = safetensors.torch.load_file(checkpoint)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("weights/")}


def interrupt_at(number: int) -> Callable[[Step], None]:
    """Ctrl-C after so many steps."""

    def on_step(step: Step) -> None:
        if step.step == number:
            raise KeyboardInterrupt

    return on_step


# It learns


def test_it_learns_real_digits(digits: NDArray[np.uint8]) -> None:
    steps: list[Step] = []
    options = TrainOptions(epochs=30, batch_size=64)
    trained = train(VAEConfig(), digits, options, on_step=steps.append)
    held_out = digits[trained.held_out] / 255
    mean_image = np.delete(digits, trained.held_out, axis=0).mean(axis=0) / 255
    of_the_mean = float(((held_out - mean_image) ** 2).mean())
    assert trained.finished
    assert trained.fit.mse < 0.5 * of_the_mean
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
    assert unbroken.fit == evaluate_fit(unbroken.network, flat[unbroken.held_out])
    rest = np.setdiff1d(np.arange(len(few)), unbroken.held_out)
    assert unbroken.pixel_variance == evaluate_fit(unbroken.network, flat[rest]).mse_sampled


def test_steps_are_counted(few: NDArray[np.uint8]) -> None:
    steps: list[Step] = []
    train(SMALL, few, QUICK, on_step=steps.append)
    assert [s.step for s in steps] == list(range(1, QUICK.epochs * BATCHES + 1))
    assert {s.steps for s in steps} == {QUICK.epochs * BATCHES}
    assert [s.epoch for s in steps] == [e for e in (1, 2, 3, 4) for _ in range(BATCHES)]
    assert all(math.isfinite(s.loss) and s.mse > 0 and s.kl >= 0 for s in steps)


def test_each_epoch_shuffles_and_draws_anew(few: NDArray[np.uint8]) -> None:
    steps: list[Step] = []
    still = replace(QUICK, learning_rate=1e-12)
    train(SMALL, few, still, on_step=steps.append)
    errors = np.array([step.mse for step in steps]).reshape(QUICK.epochs, BATCHES)
    assert len(np.unique(errors, axis=0)) == QUICK.epochs
    np.testing.assert_allclose(errors, errors.mean(), rtol=0.2)


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images_are_told(n: int, few: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=f"^{n} images"):
        train(SMALL, few[:n], QUICK)


def test_two_images_are_enough(few: NDArray[np.uint8]) -> None:
    assert train(SMALL, few[:2], QUICK).held_out.shape == (1,)


# It repeats itself


@pytest.mark.parametrize("head", ["log_variance", "relu"])
def test_the_same_seed_gives_the_same_weights(head: Head, few: NDArray[np.uint8]) -> None:
    first, second = (train(replace(SMALL, head=head), few, QUICK) for _ in range(2))
    assert same(weights(first), weights(second))
    assert (first.fit, first.epoch) == (second.fit, second.epoch)


def test_other_randomness_does_not_matter(few: NDArray[np.uint8], unbroken: Trained) -> None:
    def disturb(step: Step) -> None:
        torch.manual_seed(step.step)
        np.random.seed(step.step)

    assert same(weights(train(SMALL, few, QUICK, on_step=disturb)), weights(unbroken))


def test_another_seed_gives_other_weights(few: NDArray[np.uint8], unbroken: Trained) -> None:
    other = train(SMALL, few, replace(QUICK, seed=1))
    assert not same(weights(other), weights(unbroken))
    assert not np.array_equal(other.held_out, unbroken.held_out)


def test_images_are_left_alone(few: NDArray[np.uint8]) -> None:
    copy = few.copy()
    train(SMALL, copy, replace(QUICK, epochs=1))
    assert np.array_equal(copy, few)


# What is held out


@settings(deadline=None)
@given(st.integers(2, 100_000), st.integers(0, 2**40))
def test_held_out_indices(n: int, seed: int) -> None:
    indices = held_out_indices(n, seed)
    assert len(indices) == min(10_000, max(1, n // 6)) < n
    assert indices.min() >= 0
    assert indices.max() < n
    assert (np.diff(indices) > 0).all()
    assert np.array_equal(indices, held_out_indices(n, seed))


def test_held_out_images_do_not_touch_the_weights(few: NDArray[np.uint8], tmp_path: Path) -> None:
    changed = few.copy()
    held_out = held_out_indices(len(few), QUICK.seed)
    changed[held_out] = 255 - changed[held_out]
    for name, images in (("one", few), ("other", changed)):
        trained = train(SMALL, images, QUICK, checkpoint=tmp_path / name)
        assert np.array_equal(trained.held_out, held_out)
    assert same(last_weights(tmp_path / "one"), last_weights(tmp_path / "other"))


def test_all_other_images_do(few: NDArray[np.uint8], tmp_path: Path) -> None:
    train(SMALL, few, QUICK, checkpoint=tmp_path / "one")
    held_out = set(held_out_indices(len(few), QUICK.seed).tolist())
    for index in (next(i for i in range(len(few)) if i not in held_out), len(few) - 1):
        assert index not in held_out
        changed = few.copy()
        changed[index] = 255 - changed[index]
        train(SMALL, changed, QUICK, checkpoint=tmp_path / "other")
        assert not same(last_weights(tmp_path / "one"), last_weights(tmp_path / "other"))


# It can be interrupted


@pytest.mark.parametrize(
    "steps",
    [[1], [BATCHES], [BATCHES + 1], [2 * BATCHES - 1], [4 * BATCHES], [2, 6, 7, 9, 13]],
    ids=str,
)
def test_a_resumed_training_ends_as_an_unbroken_one(
    steps: list[int], few: NDArray[np.uint8], unbroken: Trained, tmp_path: Path
) -> None:
    """Interrupted in the first epoch, at an end, in the last one, again and again."""
    checkpoint = tmp_path / "checkpoint.safetensors"

    def go_on(number: int) -> Trained:
        on_step = interrupt_at(number)
        return train(SMALL, few, QUICK, checkpoint=checkpoint, resume=True, on_step=on_step)

    for number in steps:
        assert not go_on(number).finished
        assert set(tmp_path.iterdir()) <= {checkpoint}
    trained = go_on(0)
    assert trained.finished
    assert same(weights(trained), weights(unbroken))
    assert (trained.epoch, trained.fit) == (unbroken.epoch, unbroken.fit)
    assert trained.pixel_variance == unbroken.pixel_variance


def test_resuming_does_not_repeat_whole_epochs(few: NDArray[np.uint8], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    train(SMALL, few, QUICK, checkpoint=checkpoint, on_step=interrupt_at(2 * BATCHES + 3))
    steps: list[Step] = []
    train(SMALL, few, QUICK, checkpoint=checkpoint, resume=True, on_step=steps.append)
    assert steps[0].step == 2 * BATCHES + 1
    steps.clear()
    train(SMALL, few, QUICK, checkpoint=checkpoint, resume=True, on_step=steps.append)
    assert steps == []  # all was done


def test_without_resume_it_starts_anew(
    few: NDArray[np.uint8], unbroken: Trained, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    train(SMALL, few, replace(QUICK, seed=9), checkpoint=checkpoint)
    assert same(weights(train(SMALL, few, QUICK, checkpoint=checkpoint)), weights(unbroken))


def test_resume_with_nothing_to_resume_starts_anew(
    few: NDArray[np.uint8], unbroken: Trained, tmp_path: Path
) -> None:
    trained = train(SMALL, few, QUICK, checkpoint=tmp_path / "checkpoint", resume=True)
    assert same(weights(trained), weights(unbroken))


@pytest.mark.parametrize("number", [1, BATCHES, 2 * BATCHES + 1])
def test_an_interruption_gives_a_usable_network(number: int, few: NDArray[np.uint8]) -> None:
    trained = train(SMALL, few, QUICK, on_step=interrupt_at(number))
    assert not trained.finished
    assert trained.pixel_variance is not None
    assert trained.fit.mse < 0.3
    assert trained.epoch <= number // BATCHES


def test_the_best_weights_are_kept(
    few: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged by the held-out images: here the second epoch of four is the best."""
    checkpoint, second = tmp_path / "checkpoint", tmp_path / "second"
    errors = iter([0.3, 0.1, 0.2, 0.4] + [0.5] * 9)

    def judged(*_: object) -> Fit:
        return Fit(mse=0, mse_sampled=next(errors), kl=0)

    def keep(step: Step) -> None:
        if step.step == 2 * BATCHES + 1:
            shutil.copy(checkpoint, second)

    monkeypatch.setattr(module, "evaluate_fit", judged)
    trained = train(SMALL, few, QUICK, checkpoint=checkpoint, on_step=keep)
    best = {f"weights/{name}": tensor for name, tensor in weights(trained).items()}
    assert trained.epoch == 2
    assert same(best, last_weights(second))
    assert not same(best, last_weights(checkpoint))


@pytest.mark.parametrize("number", [2 * BATCHES + 2, 3 * BATCHES + 1])
def test_an_interruption_keeps_the_best_weights_too(
    number: int, few: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint"
    errors = iter([0.1, 0.3, 0.2, 0.4] + [0.5] * 9)
    monkeypatch.setattr(
        module, "evaluate_fit", lambda *_: Fit(mse=0, mse_sampled=next(errors), kl=0)
    )
    first: dict[str, Tensor] = {}

    def on_step(step: Step) -> None:
        if step.step == BATCHES + 1:
            first.update(last_weights(checkpoint))
        interrupt_at(number)(step)

    trained = train(SMALL, few, QUICK, checkpoint=checkpoint, on_step=on_step)
    assert not trained.finished
    assert trained.epoch == 1
    assert same({f"weights/{name}": t for name, t in weights(trained).items()}, first)


def test_divergence_is_told(few: NDArray[np.uint8], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    options = replace(QUICK, learning_rate=1e10)
    with pytest.raises(ValueError, match="learning rate") as raised:
        train(SMALL, few, options, checkpoint=checkpoint)
    assert_one_line(raised.value, "1e+10")


def test_an_interruption_after_divergence_keeps_the_best_weights(
    few: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sees the loss turn to nan presses Ctrl-C."""
    errors = iter([0.1, math.nan] + [0.1] * 9)
    monkeypatch.setattr(
        module, "evaluate_fit", lambda *_: Fit(mse=0, mse_sampled=next(errors), kl=0)
    )
    trained = train(SMALL, few, QUICK, on_step=interrupt_at(BATCHES + 2))
    assert not trained.finished
    assert trained.epoch == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": replace(QUICK, epochs=5)}, "epochs"),
        ({"options": replace(QUICK, batch_size=16)}, "batch_size"),
        ({"options": replace(QUICK, learning_rate=0.1)}, "learning_rate"),
        ({"options": replace(QUICK, seed=1)}, "seed"),
        ({"config": replace(SMALL, latent_size=4)}, "config"),
        ({"data_id": {"other.npz": "ff"}}, "data"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    change: Mapping[str, object], named: str, few: NDArray[np.uint8], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    arguments = {"config": SMALL, "options": QUICK, "data_id": {"my.npz": "00"}}
    keep = {"images": few, "checkpoint": checkpoint, "resume": True}
    run: Callable[..., Trained] = train
    run(**arguments, **keep, on_step=interrupt_at(BATCHES + 1))
    before = checkpoint.read_bytes()
    with pytest.raises(CheckpointError, match=named):
        run(**{**arguments, **change}, **keep)
    assert checkpoint.read_bytes() == before


def test_a_damaged_checkpoint_is_refused(few: NDArray[np.uint8], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    train(SMALL, few, QUICK, checkpoint=checkpoint, on_step=interrupt_at(BATCHES + 1))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="checkpoint"):
        train(SMALL, few, QUICK, checkpoint=checkpoint, resume=True)


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
    train(SMALL, few, TrainOptions(epochs=25, batch_size=25, learning_rate=0.01))
    peak = int(np.argmax(rates))
    assert len(rates) == 100
    assert 2 <= peak <= 8
    assert rates[peak] == pytest.approx(0.01, rel=0.02)
    assert all(a < b for a, b in pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in pairwise(rates[peak:]))
    assert 0 <= rates[-1] < 0.0001
