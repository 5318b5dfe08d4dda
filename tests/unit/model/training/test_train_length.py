"""How many steps, in what batches, and when training ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from model.training import train as module
from model.training.goodness_of_fit import Fit
from model.training.split import split_indices
from model.training.train import MIN_STEPS, Step, Trained, TrainOptions, train
from tests.unit.model.training.small_training import (
    BATCHES,
    EPOCHS,
    QUICK,
    SMALL,
    known,
    last_weights,
    same,
    weights,
)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`judged(0.3, 0.1)`: what the validation images are off by at each look; then at the last."""

    def judge(*errors: float) -> None:
        left = [*errors]

        def fit(*_: object) -> Fit:
            return Fit(mse=0, mse_sampled=left.pop(0) if len(left) > 1 else left[0], kl=0)

        monkeypatch.setattr(module, "evaluate_fit", fit)

    return judge


# Chosen by the number of images


@pytest.mark.parametrize(
    ("n", "batch_size", "steps"),
    [
        (1, 16, 1_500),
        (100, 16, 1_500),
        (1_000, 16, 1_500),
        (1_024, 32, 1_500),
        (2_500, 64, 1_500),
        (3_200, 64, 1_500),
        (3_201, 64, 1_560),
        (4_096, 128, 1_920),
        (49_000, 128, 22_980),
    ],
)
def test_steps_and_batches_suit_the_images(n: int, batch_size: int, steps: int) -> None:
    options = TrainOptions().resolved(n)
    assert (options.batch_size, options.steps) == (batch_size, steps)


@given(st.integers(1, 100_000))
def test_more_images_never_mean_less_training(n: int) -> None:
    one, more = TrainOptions().resolved(n), TrainOptions().resolved(n + 1)
    assert one.steps is not None
    assert more.steps is not None
    assert one.batch_size is not None
    assert more.batch_size is not None
    assert MIN_STEPS <= one.steps <= more.steps
    assert 16 <= one.batch_size <= more.batch_size <= 128


@given(st.integers(1, 5_000), st.integers(1, 300), st.integers(1, 300))
def test_what_is_asked_for_is_done(n: int, batch_size: int, length: int) -> None:
    def found(options: TrainOptions) -> tuple[int | None, int | None]:
        return options.resolved(n).steps, options.resolved(n).batch_size

    batches = -(-n // batch_size)
    assert found(TrainOptions(steps=length, batch_size=batch_size)) == (length, batch_size)
    by_epochs = TrainOptions(epochs=length, batch_size=batch_size)
    assert found(by_epochs) == (length * batches, batch_size)
    assert found(TrainOptions(steps=length, epochs=7))[0] == length
    for options in (by_epochs, TrainOptions(), TrainOptions(seed=5, augment=0.1)):
        once = options.resolved(n)
        assert once == replace(options, steps=once.steps, batch_size=once.batch_size)
        assert replace(once, epochs=None).resolved(2 * n + 1) == replace(once, epochs=None)


def test_they_are_those_of_the_images_that_train(few: NDArray[np.uint8]) -> None:
    """80 of 120 images, in batches of 16: five steps are an epoch."""
    steps: list[Step] = []
    trained = train(SMALL, few, TrainOptions(epochs=2), on_step=steps.append)
    assert (trained.options.steps, trained.options.batch_size) == (10, 16)
    assert len(steps) == 10


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 11])
def test_training_ends_amid_an_epoch(steps: int, few: NDArray[np.uint8]) -> None:
    seen: list[Step] = []
    trained = train(SMALL, few, replace(QUICK, epochs=None, steps=steps), on_step=seen.append)
    assert [step.step for step in seen] == list(range(1, steps + 1))
    assert trained.step == steps
    assert trained.history[-1][0] == steps
    assert trained.finished


# Looks at the validation images


def test_looks_are_fifty_steps_apart_at_least(few: NDArray[np.uint8]) -> None:
    trained = train(SMALL, few, TrainOptions(steps=200, batch_size=32))  # of 3 in an epoch
    looks = [step for step, _ in trained.history]
    assert looks == [51, 102, 153, 200]


def test_a_long_epoch_has_one_look(few: NDArray[np.uint8]) -> None:
    trained = train(SMALL, few, TrainOptions(epochs=3, batch_size=1))  # of 80 steps
    assert [step for step, _ in trained.history] == [80, 160, 240]


def test_each_look_leaves_a_checkpoint(few: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    found = set()

    def on_step(step: Step) -> None:
        if path.exists():
            found.add(last_step(path))

    trained = train(
        SMALL, few, TrainOptions(steps=160, batch_size=32), checkpoint=path, on_step=on_step
    )
    assert found == {51, 102, 153}
    assert last_step(path) == 160
    assert trained.history[-1][0] == 160


def last_step(path: Path) -> int:
    """The steps done when the checkpoint was saved."""
    with safe_open(path, "np") as file:
        step: int = json.loads(file.metadata()["state"])["step"]
        return step


# Early stop


@pytest.mark.usefixtures("looks_each_epoch")
def test_it_ends_when_the_validation_images_no_longer_improve(
    few: NDArray[np.uint8],
    tmp_path: Path,
    judged: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A quarter of 40 epochs without improvement: the eleventh after the best ends it."""
    monkeypatch.setattr(module, "PATIENCE", 1 / 4)
    judged(0.3, 0.2, 0.1, 0.4)
    options = replace(QUICK, epochs=40)
    checkpoint = tmp_path / "checkpoint"
    best: dict[str, Tensor] = {}

    def on_step(step: Step) -> None:
        if step.step == 3 * BATCHES + 1:
            best.update(last_weights(checkpoint))

    trained = train(SMALL, few, options, checkpoint=checkpoint, on_step=on_step)
    assert trained.finished
    assert trained.step == 3 * BATCHES
    assert [step for step, _ in trained.history] == [BATCHES * e for e in range(1, 15)]
    kept = {f"weights/{name}": tensor for name, tensor in weights(trained).items()}
    assert same(kept, best)
    assert not same(kept, last_weights(checkpoint))


@pytest.mark.usefixtures("looks_each_epoch")
def test_it_goes_on_as_long_as_they_improve(
    few: NDArray[np.uint8], judged: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and then is enough."""
    monkeypatch.setattr(module, "PATIENCE", 1 / 4)
    judged(*(0.9 - 0.01 * epoch + (0.5 if epoch % 9 else 0) for epoch in range(40)), 1)
    trained = train(SMALL, few, replace(QUICK, epochs=40))
    assert trained.history[-1][0] == 40 * BATCHES
    assert trained.step == 37 * BATCHES


def test_short_trainings_have_no_early_stop(
    few: NDArray[np.uint8], judged: Callable[..., None]
) -> None:
    """Noise alone makes a look the worse of two."""
    judged(0.1, 0.2)
    trained = train(SMALL, few, TrainOptions(steps=100, batch_size=32))
    assert [step for step, _ in trained.history] == [51, 100]
    assert trained.step == 51


def test_a_network_that_learns_by_heart_is_stopped(few: NDArray[np.uint8]) -> None:
    """20 digits, for real: later weights are worse on the others."""
    split = split_indices(len(few), 0)
    split = split._replace(train=split.train[:20])
    steps: list[Step] = []
    config, options = replace(SMALL, hidden_sizes=(64,)), TrainOptions(steps=1_500)
    trained = train(config, few, options, split, on_step=steps.append)
    looks, losses = zip(*trained.history, strict=True)
    assert trained.step == looks[int(np.argmin(losses))]
    assert trained.step + 375 < steps[-1].step <= trained.step + 377  # two steps are an epoch
    assert losses[-1] > min(losses)


# Ends where it is told to


def test_with_stop_after_the_last_weights_are_kept(
    few: NDArray[np.uint8], judged: Callable[..., None]
) -> None:
    """Even if earlier ones were better, or none got better for long."""
    judged(0.1, 0.2, 0.3, 0.4)
    options = TrainOptions(steps=1_000, batch_size=32, stop_after=400)
    trained = train(SMALL, few, options)
    assert trained.finished
    assert trained.step == trained.history[-1][0] == 400


@pytest.mark.usefixtures("looks_each_epoch")
@pytest.mark.parametrize("stop_after", [1, BATCHES, 2 * BATCHES + 1])
def test_stop_after_keeps_the_schedule_of_the_whole(
    stop_after: int, few: NDArray[np.uint8]
) -> None:
    """The learning rate is that of the training that is cut short, so the weights are too."""
    seen: list[Step] = []
    short = train(SMALL, few, replace(QUICK, stop_after=stop_after), on_step=seen.append)
    whole: list[Step] = []
    train(SMALL, few, QUICK, on_step=whole.append)
    assert seen == whole[:stop_after]
    assert short.step == stop_after
    assert {step.steps for step in seen} == {EPOCHS * BATCHES}


def test_stop_after_the_end_changes_nothing(few: NDArray[np.uint8], unbroken: Trained) -> None:
    trained = train(SMALL, few, replace(QUICK, stop_after=10_000))
    assert same(weights(trained), weights(unbroken))
    assert same(known(trained), known(unbroken))


def test_an_interruption_in_the_first_step_leaves_a_network(few: NDArray[np.uint8]) -> None:
    """In the very first step: there was no look yet."""

    def interrupt(_: Step) -> None:
        raise KeyboardInterrupt

    trained = train(SMALL, few, QUICK, on_step=interrupt)
    assert (trained.finished, trained.step) == (False, 1)
    assert [step for step, _ in trained.history] == [1]


def test_history_has_one_entry_for_each_look_after_a_resume(
    few: NDArray[np.uint8], tmp_path: Path
) -> None:
    def interrupt(step: Step) -> None:
        if step.step == 130:
            raise KeyboardInterrupt

    options = TrainOptions(steps=200, batch_size=32)
    path = tmp_path / "checkpoint"
    broken = train(SMALL, few, options, checkpoint=path, on_step=interrupt)
    assert [step for step, _ in broken.history] == [51, 102, 130]
    resumed = train(SMALL, few, options, checkpoint=path, resume=True)
    assert all(one < two for (one, _), (two, _) in pairwise(resumed.history))
    assert resumed.history == train(SMALL, few, options).history
