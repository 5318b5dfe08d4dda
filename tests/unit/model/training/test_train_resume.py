"""Training that is interrupted, resumed, or diverges."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from model.training import train as module
from model.training.checkpoint import CheckpointError
from model.training.goodness_of_fit import Fit
from model.training.split import Split, split_indices
from model.training.train import Step, Trained, train
from tests.unit.model.training.small_training import (
    BATCHES,
    CONV,
    QUICK,
    SMALL,
    known,
    last_weights,
    look_each_epoch,
    same,
    weights,
)
from tests.unit.samples import assert_one_line


def interrupt_at(number: int) -> Callable[[Step], None]:
    """Ctrl-C after so many steps."""

    def on_step(step: Step) -> None:
        if step.step == number:
            raise KeyboardInterrupt

    return on_step


@pytest.fixture(autouse=True)
def _looks(looks_each_epoch: None) -> None:
    """And so a checkpoint after each."""


@pytest.fixture(scope="module")
def unbroken(few: NDArray[np.uint8]) -> Trained:
    """A training that nothing disturbed."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        look_each_epoch(monkeypatch)
        return train(SMALL, few, QUICK)


# It can be interrupted


@pytest.mark.parametrize(
    "steps",
    [[1], [BATCHES], [BATCHES + 1], [2 * BATCHES - 1], [4 * BATCHES], [2, 4, 5, 7, 10]],
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
    assert (trained.step, trained.history) == (unbroken.step, unbroken.history)
    assert trained.pixel_variance == unbroken.pixel_variance


def test_a_resumed_training_augments_as_an_unbroken_one(
    few: NDArray[np.uint8], tmp_path: Path
) -> None:
    options = replace(QUICK, augment=0.1)
    whole = train(CONV, few, options)
    keep = {"checkpoint": tmp_path / "checkpoint", "resume": True}
    run: Callable[..., Trained] = train
    run(CONV, few, options, **keep, on_step=interrupt_at(2 * BATCHES + 1))
    resumed = run(CONV, few, options, **keep)
    assert same(weights(resumed), weights(whole))
    assert same(known(resumed), known(whole))


def test_resuming_does_not_repeat_whole_epochs(few: NDArray[np.uint8], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    train(SMALL, few, QUICK, checkpoint=checkpoint, on_step=interrupt_at(2 * BATCHES + 2))
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
    assert 0 < trained.pixel_variance < 0.3
    assert trained.step <= number
    assert trained.history[-1][0] == number


def test_the_best_weights_are_kept(
    few: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judged by the validation images: here the second epoch of four is the best."""
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
    assert trained.step == 2 * BATCHES
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
    assert trained.step == BATCHES
    assert same({f"weights/{name}": t for name, t in weights(trained).items()}, first)


def test_divergence_is_reported(few: NDArray[np.uint8], tmp_path: Path) -> None:
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
    assert trained.step == BATCHES


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"options": replace(QUICK, epochs=5)}, "epochs"),
        ({"options": replace(QUICK, batch_size=16)}, "batch_size"),
        ({"options": replace(QUICK, learning_rate=0.1)}, "learning_rate"),
        ({"options": replace(QUICK, seed=1)}, "seed"),
        ({"options": replace(QUICK, augment=0.1)}, "augment"),
        ({"config": replace(SMALL, latent_size=4)}, "config"),
        ({"data_id": {"other.npz": "ff"}}, "data"),
        ({"split": split_indices(120, 7)}, "split"),
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


def test_images_that_were_trained_on_cannot_calibrate_after_a_resume(
    few: NDArray[np.uint8], tmp_path: Path
) -> None:
    """As with another --group or --normal-label: as many images of the same files."""
    checkpoint = tmp_path / "checkpoint"
    split = split_indices(len(few), 0)
    other = Split(split.train, split.held_out, split.validation)
    assert [len(part) for part in split] == [len(part) for part in other]
    train(SMALL, few, QUICK, split, checkpoint=checkpoint, on_step=interrupt_at(BATCHES + 1))
    for images, parts in ((few, other), (few[::-1].copy(), split)):
        with pytest.raises(CheckpointError, match="split"):
            train(SMALL, images, QUICK, parts, checkpoint=checkpoint, resume=True)
    assert train(SMALL, few, QUICK, split, checkpoint=checkpoint, resume=True).finished


def test_a_damaged_checkpoint_is_refused(few: NDArray[np.uint8], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    train(SMALL, few, QUICK, checkpoint=checkpoint, on_step=interrupt_at(BATCHES + 1))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="checkpoint"):
        train(SMALL, few, QUICK, checkpoint=checkpoint, resume=True)
