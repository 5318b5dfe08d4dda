"""What a training came to: measured on images held out, and judged in words."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from model.config import VAEConfig
from model.scores.calibration import Calibration, Floats
from model.training import verdict as verdict_module
from model.training.cross_fit import fold_splits, train_folds
from model.training.goodness_of_fit import Fit, evaluate_fit
from model.training.pca import PcaError
from model.training.split import Split
from model.training.train import Trained, TrainOptions, train
from model.training.verdict import Verdict, as_metrics, judge, judge_detector
from tests.unit.model.training.small_training import SMALL
from tests.unit.samples import TINY, tiny_bundle

GOOD: dict[str, Any] = {
    "fit": Fit(mse=0.01, mse_sampled=0.012, kl=7.0),
    "negative_elbo": -500.0,
    "n": 120,
    "mean_image": 0.05,
    "pca": 0.02,
    "active": 7,
    "latent_size": 10,
    "options": TrainOptions(steps=1_500, batch_size=16),
    "is_falling": False,
    "finished": True,
}


def verdict(**fields: Any) -> Verdict:
    return Verdict(**(GOOD | fields))


NO_BETTER = Fit(mse=0.0495, mse_sampled=0.06, kl=1.0)  # 99 % of the mean image's error
FAST = TrainOptions(steps=1_500, learning_rate=1)


# Constructed


@pytest.mark.parametrize(
    ("fields", "word", "parts"),
    [
        ({}, "good", []),
        ({"active": 1, "pca": 0.0101}, "good", []),
        ({"pca": 0.009}, "weak", ["PCA", "--latent-size 20", "more images"]),
        ({"pca": 0.009, "ends_best": True}, "weak", ["PCA", "--steps 3000", "--latent-size 20"]),
        ({"is_falling": True}, "still falling", ["--steps 3000"]),
        ({"is_falling": True, "pca": 0.009}, "still falling", ["--steps 3000"]),
        ({"active": 0}, "collapsed", ["no latent", "--steps 3000"]),
        ({"active": 0, "fit": NO_BETTER}, "collapsed", ["--steps 3000"]),
        ({"fit": NO_BETTER}, "useless", ["mean image", "more images"]),
        (
            {"fit": NO_BETTER, "is_falling": True},
            "still falling, and no better than the mean image yet",
            ["train longer", "--steps 3000"],
        ),
        ({"fit": NO_BETTER, "options": FAST}, "useless", ["rate of 1 ", "--learning-rate 0.002"]),
        ({"fit": NO_BETTER, "options": FAST, "active": 0}, "useless", ["--learning-rate 0.002"]),
        ({"options": FAST}, "good", []),
        ({"is_falling": True, "finished": False}, "stopped early", ["--resume"]),
        ({"active": 0, "finished": False}, "collapsed", ["--resume"]),
        (
            {"is_falling": True, "finished": False, "can_resume": False},
            "stopped early",
            ["train again"],
        ),
        ({"active": 0, "finished": False, "can_resume": False}, "collapsed", ["train again"]),
        (
            {"fit": NO_BETTER, "is_falling": True, "finished": False},
            "stopped early, and no better than the mean image yet",
            ["--resume"],
        ),
    ],
)
def test_the_judgement_names_the_reason_and_what_helps(
    fields: dict[str, Any], word: str, parts: list[str]
) -> None:
    line = verdict(**fields).judgement
    assert re.match(rf"{word}:", line), line
    assert len(line.splitlines()) == 1
    assert all(part in line for part in parts), line
    options = re.findall(r"--[a-z-]+", line)
    expected = [part.split()[0] for part in parts if part.startswith("--")]
    assert options == expected  # and nothing else is advised


def test_the_figures_are_one_line() -> None:
    line = verdict().figures
    assert line == (
        "held-out images: MSE 0.01000, 20 % of the mean image's 0.05000 and 50 % of PCA-10's "
        "0.02000; 7 of 10 latents active"
    )
    assert "–" in verdict(mean_image=0.0).figures
    assert "–" in verdict(pca=1e-14).figures  # rounding errors


def test_metrics_are_plain_figures() -> None:
    assert as_metrics(verdict()) == {
        "n": 120,
        "mse": 0.01,
        "mse_sampled": 0.012,
        "kl": 7.0,
        "negative_elbo": -500.0,
        "mean_image_mse": 0.05,
        "pca_mse": 0.02,
        "active_latents": 7,
        "verdict": verdict().judgement,
    }
    assert as_metrics(verdict(negative_elbo=None))["negative_elbo"] is None


# Measured


def untrained(split: Split, **fields: Any) -> Trained:
    """A network of random weights, as a training that ended after 100 of 100 steps."""
    network = tiny_bundle(seed=3).network()
    known: dict[str, Any] = {
        "network": network,
        "pixel_variance": 0.1,
        "options": TrainOptions(steps=100, batch_size=16),
        "step": 100,
        "history": ((50, 10.0), (100, 9.99)),
        "statistics": None,
        "split": split,
        "finished": True,
    }
    return Trained(**(known | fields))


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    shape = (90, *TINY.image_shape)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def thirds(n: int = 90) -> list[Split]:
    """Held out in parts of different sizes."""
    everything = np.arange(n)
    held_out = np.split(everything, [10, 40])
    return [
        Split(rest[5:], rest[:5], part)
        for part in held_out
        for rest in (np.setdiff1d(everything, part),)
    ]


def flat(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    return images.reshape(len(images), -1) / 255


def test_the_errors_are_those_of_images_held_out(images: NDArray[np.uint8]) -> None:
    split = thirds()[0]
    found = judge([untrained(split)], images)
    held_out, trained = images[split.held_out], images[split.train]
    fit = evaluate_fit(
        untrained(split).network, torch.from_numpy(held_out.reshape(len(held_out), -1))
    )
    assert found.n == 10
    assert found.fit.mse == pytest.approx(fit.mse)
    assert found.fit.kl == pytest.approx(fit.kl)
    assert found.negative_elbo == pytest.approx(fit.negative_elbo(TINY.pixels, 0.1))
    mean = np.square(flat(held_out) - flat(trained).mean(axis=0)).mean()
    assert found.mean_image == pytest.approx(mean)
    assert found.pca == pytest.approx(PcaError(trained)(held_out).mean())
    assert found.latent_size == TINY.latent_size


def test_across_folds_each_image_counts_once(images: NDArray[np.uint8]) -> None:
    splits = thirds()
    found = judge([untrained(split) for split in splits], images)
    each = [judge([untrained(split)], images) for split in splits]
    assert found.n == 90
    for name in ("mean_image", "pca", "negative_elbo"):
        expected = np.average([getattr(one, name) for one in each], weights=[10, 30, 50])
        assert getattr(found, name) == pytest.approx(expected)
    expected = np.average([one.fit.mse for one in each], weights=[10, 30, 50])
    assert found.fit.mse == pytest.approx(expected)
    assert (found.active, found.options) == (each[0].active, each[0].options)


def test_without_a_pixel_variance_there_is_no_elbo(images: NDArray[np.uint8]) -> None:
    folds = [untrained(split, pixel_variance=None) for split in thirds()]
    found = judge(folds, images)
    assert found.negative_elbo is None
    assert found.fit.mse > 0


def test_active_latents_are_those_that_vary_over_unseen_images(images: NDArray[np.uint8]) -> None:
    split = thirds()[1]
    trained = untrained(split)
    *_, last = (m for m in trained.network.encoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.weight[:3] = 0  # the means
        last.weight[1] = torch.arange(7.0)
    assert judge([trained], images).active == 1
    alike = images.copy()
    unseen = np.concatenate([split.validation, split.held_out])
    alike[unseen] = alike[unseen[0]]
    assert judge([trained], alike).active == 0


@pytest.mark.parametrize(
    ("fields", "falling"),
    [
        ({}, True),  # the second half brought all
        ({"history": ((100, 9.0),)}, True),  # too short to tell
        ({"history": ((25, 10.0), (50, 2.0), (75, 1.1), (100, 1.0))}, False),
        ({"history": ((25, 10.0), (50, 2.0), (75, 1.5), (100, 1.0))}, True),
        ({"history": ((25, 10.0), (50, 2.0), (75, 1.0), (100, 1.1)), "step": 75}, False),
        ({"history": ((25, 10.0), (90, 5.0)), "step": 90}, False),  # ended early
        ({"history": ((25, 10.0), (50, 5.0)), "step": 50, "finished": False}, True),
        ({"history": ((0, 10.0),), "step": 0, "finished": False}, True),
    ],
)
def test_whether_it_was_still_falling(
    fields: dict[str, Any], falling: bool, images: NDArray[np.uint8]
) -> None:
    assert judge([untrained(thirds()[0], **fields)], images).is_falling is falling


# Detectors


class FakeEngine:
    """Scores an image by the share of its pixels that differ from 100, as a detector would."""

    scores = ("changed", "other")

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        self.scored: list[NDArray[np.uint8]] = []

    def score(self, images: NDArray[np.uint8], name: str) -> Floats:
        assert name == "changed"
        self.scored.append(images)
        share: Floats = (images != 100).mean(axis=(1, 2, 3), dtype=np.float32)
        return share


Judged = tuple[str, FakeEngine]


def judge_by(
    monkeypatch: pytest.MonkeyPatch,
    calibration_scores: list[float],
    images: NDArray[np.uint8],
    split: Split,
) -> Judged:
    """What is said of a detector with these calibration scores, and what it scored."""
    table = np.array(sorted(calibration_scores), np.float32)
    calibration = Calibration(scores={"changed": table}, data_set="x", date="2026-01-02")
    engine = FakeEngine(calibration)
    monkeypatch.setattr(verdict_module, "Engine", lambda bundle, device: engine)
    monkeypatch.setattr(
        verdict_module, "score_in_parts", lambda engine, images, name: engine.score(images, name)
    )
    return judge_detector(tiny_bundle(), untrained(split), images), engine


def numbered_images(n: int = 300) -> NDArray[np.uint8]:
    """Grey images of 20×20, each of the value 100, but for its number in the first pixels."""
    images = np.full((n, 1, 20, 20), 100, np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(n) // 100, np.arange(n) % 100
    return images


SPLIT = Split(np.arange(100, 300), np.arange(95, 100), np.arange(95))


def paste_into(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """A defect in this share of the images, and nothing in the others."""

    def paste(images: NDArray[np.uint8], sources: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pasted = images.copy()
        pasted[: round(share * len(images)), :, 5:15] = 0
        return pasted

    monkeypatch.setattr(verdict_module, "with_defects", paste)


@pytest.mark.parametrize(
    ("share", "word", "percent"),
    [
        (0, "weak", 0), (0.25, "weak", 25), (0.3125, "fair", 31), (0.5, "fair", 50),
        (0.625, "good", 62), (1, "good", 100),
    ],
)  # fmt: skip
def test_the_word_follows_the_share_of_pasted_defects_that_is_found(
    share: float, word: str, percent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    paste_into(monkeypatch, share)
    line, _ = judge_by(monkeypatch, [0.1] * 40, numbered_images(), SPLIT)
    assert line == (
        f"{word}: of defects pasted into 64 held-out images, {percent} % are found at alpha 0.05"
    )


def test_a_defect_counts_as_found_at_alpha_and_not_below(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 59 calibration images score higher: a p-value of 3/60, just 0.05."""
    paste_into(monkeypatch, 1)
    line, _ = judge_by(monkeypatch, [0.9, 0.9] + [0.1] * 57, numbered_images(), SPLIT)
    assert line.startswith("good: ")
    line, _ = judge_by(monkeypatch, [0.9, 0.9, 0.9] + [0.1] * 56, numbered_images(), SPLIT)
    assert line.startswith("weak: ")


@pytest.mark.parametrize(("n", "few"), [(1, True), (18, True), (19, False)])
def test_few_calibration_images_are_no_fault_of_the_detector(
    n: int, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paste_into(monkeypatch, 1)
    line, engine = judge_by(monkeypatch, [0.1] * n, numbered_images(), SPLIT)
    if few:
        assert line.startswith("too few images to judge the detector: ")
        assert f"with {n} calibration images, and 19 is the minimum" in line
        assert engine.scored == []
    else:
        assert line.startswith("good: ")


def test_defects_are_pasted_into_images_held_out_and_come_from_trained_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """64 of each, evenly spaced: the first ones might show a few parts only."""
    given: list[NDArray[np.uint8]] = []

    def paste(images: NDArray[np.uint8], sources: NDArray[np.uint8]) -> NDArray[np.uint8]:
        given.extend([images, sources])
        return images

    monkeypatch.setattr(verdict_module, "with_defects", paste)
    judge_by(monkeypatch, [0.1] * 40, numbered_images(), SPLIT)
    for found, expected in zip(given, (SPLIT.held_out, SPLIT.train), strict=True):
        numbers = found[:, 0, 0, 0].astype(int) * 100 + found[:, 0, 0, 1]
        assert len(numbers) == len(set(numbers)) == 64
        assert set(numbers) <= set(expected)
        assert (numbers[0], numbers[-1]) == (expected[0], expected[-1])
        assert np.diff(numbers).max() <= np.ceil(len(expected) / 63)


def test_pasted_defects_are_found_by_what_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real defects. All change some pixels of a flat image, as its sources differ."""
    images = numbered_images()
    images[100:] = np.random.default_rng(0).integers(101, 256, images[100:].shape, np.uint8)
    line, engine = judge_by(monkeypatch, [0.006] * 40, images, SPLIT)
    assert line.startswith("good: of defects pasted into 64 held-out images, 100 % ")
    assert len(engine.scored[0]) == 64
    line, _ = judge_by(monkeypatch, [0.9] * 40, images, SPLIT)
    assert line.startswith("weak: of defects pasted into 64 held-out images, 0 % ")


# Trained for real


@pytest.fixture(scope="module")
def many(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return digits[:600]


def judged(images: NDArray[np.uint8], config: VAEConfig = SMALL, **options: Any) -> Verdict:
    return judge([train(config, images, TrainOptions(**options))], images)


def test_a_rate_too_high_is_useless(many: NDArray[np.uint8]) -> None:
    """`--learning-rate 1` on digits."""
    found = judged(many, VAEConfig(), steps=150, learning_rate=1)
    assert found.judgement.startswith("useless: ")
    assert "--learning-rate 0.002" in found.judgement


def test_the_tutorial_s_head_collapses(many: NDArray[np.uint8]) -> None:
    found = judged(many, replace(VAEConfig(), head="relu"), steps=300)
    assert found.active == 0
    assert found.judgement.startswith("collapsed: ")


def test_a_short_training_is_still_falling(many: NDArray[np.uint8]) -> None:
    found = judged(many, VAEConfig(), steps=200)
    assert "still falling" in found.judgement
    assert "--steps 400" in found.judgement


def test_a_network_of_two_latents_is_weak(many: NDArray[np.uint8]) -> None:
    found = judged(many, VAEConfig(hidden_sizes=(64,), latent_size=2))
    assert found.judgement.startswith("weak: ")
    assert "--latent-size 4" in found.judgement


def test_noise_cannot_be_learnt() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 1, 12, 12), dtype=np.uint8)
    found = judged(noise, replace(SMALL, image_shape=(1, 12, 12)), steps=600)
    assert re.match("useless|collapsed", found.judgement)


def test_a_good_network_is_good(digits: NDArray[np.uint8]) -> None:
    found = judged(digits, VAEConfig())
    assert found.judgement.startswith("good: ")
    assert found.fit.mse < found.pca < found.mean_image
    assert found.active >= 5


def test_an_interrupted_training_is_told_to_resume(many: NDArray[np.uint8]) -> None:
    def interrupt(step: Any) -> None:
        if step.step == 60:
            raise KeyboardInterrupt

    trained = train(VAEConfig(), many, TrainOptions(), on_step=interrupt)
    line = judge([trained], many).judgement
    assert "--resume" in line
    assert "--steps" not in line


def test_three_images_are_judged_too(many: NDArray[np.uint8]) -> None:
    images = many[:3]
    splits = fold_splits(np.arange(3), 3, 0)
    first = train(SMALL, images, TrainOptions(steps=5), splits[0])
    found = judge(train_folds(first, images, splits[1:]), images)
    assert found.n == 3
    assert np.isfinite([found.fit.mse, found.mean_image, found.pca]).all()
    assert found.judgement
