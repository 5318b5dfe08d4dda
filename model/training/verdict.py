"""How good a trained network is, in words: beside the mean image and a PCA, and what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.datasets.folder import numbered
from model.engine.engine import Engine
from model.training.calibrate import score_in_parts
from model.training.detectors import thinned
from model.training.goodness_of_fit import ACTIVE_VARIANCE, Fit, chunks, evaluate_fit
from model.training.pasted import with_defects
from model.training.pca import PCA_COMPONENTS, PcaError
from model.training.train import Trained, TrainOptions

STILL_FALLING: Final = 0.03
"""A loss is still falling if the last quarter of the steps brought this share of all it fell."""

LEARNT: Final = 0.98
"""A network has learnt something if its error is below this share of the mean image's."""

STEADY_RATE: Final = 5e-3
"""Above this learning rate, the rate is the first suspect."""


ALPHA: Final = 0.05
"""The false-alarm rate at which a detector is judged."""

MAX_PASTED: Final = 64
"""Images that defects are pasted into, and images that they come from, at most."""

FOUND_WORDS: Final = ((0.6, "good"), (0.3, "fair"), (0.0, "weak"))
"""Words for the share of the pasted defects that is found. The smallest are barely visible."""

NO_ERROR: Final = 1e-9
"""Errors up to this are those of rounding, and no other is a share of them."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Errors on images that the networks were not trained on, and how the training ended."""

    fit: Fit
    negative_elbo: float | None
    """Nats an image; None without a pixel variance."""
    n: int
    """Number of those images."""
    mean_image: float
    """MSE of the mean of the training images."""
    pca: float
    """MSE of a PCA of the training images with `PCA_COMPONENTS` components."""
    active: int
    """Latent dimensions of the first network that tell images apart."""
    latent_size: int
    options: TrainOptions
    is_falling: bool
    """Whether the validation loss was still falling at the last step, or may have been."""
    finished: bool
    """False if training was interrupted."""
    can_resume: bool = True
    """Whether an interrupted training left a checkpoint."""
    ends_best: bool = False
    """Whether the best weights are from the last tenth of the steps: more steps may help."""

    @property
    def figures(self) -> str:
        """The comparison, in one line."""
        return (
            f"held-out images: MSE {self.fit.mse:.5f}, "
            f"{_percent(self.fit.mse, self.mean_image)} of the mean image's {self.mean_image:.5f} "
            f"and {_percent(self.fit.mse, self.pca)} of PCA-{PCA_COMPONENTS}'s {self.pca:.5f}; "
            f"{self.active} of {numbered(self.latent_size, 'latent')} active"
        )

    @property
    def judgement(self) -> str:
        """A word, the reason, and the option that helps."""
        learnt = self.fit.mse < LEARNT * self.mean_image
        longer = f"train longer, with --steps {2 * (self.options.steps or 0)}"
        falling = "still falling"
        if not self.finished:
            longer, falling = "--resume continues the training", "stopped early"
            if not self.can_resume:
                longer = "train again, and let it run longer"
        rate = self.options.learning_rate
        if not learnt and rate > STEADY_RATE:
            return (
                "useless: the network is no better than the mean image, as its learning rate of "
                f"{rate:g} is too high; --learning-rate {TrainOptions().learning_rate:g} is usual"
            )
        if self.active == 0:
            return f"collapsed: no latent tells one image from another; {longer}"
        if not learnt:
            if self.is_falling:
                return f"{falling}, and no better than the mean image yet: {longer}"
            return (
                "useless: no better than the mean image on images that it was not trained on; it "
                "needs more images, or images that are more alike"
            )
        if self.is_falling:
            return f"{falling}: {longer}"
        if self.fit.mse > self.pca:
            weak = f"weak: a PCA with {PCA_COMPONENTS} components has smaller errors"
            latents = f"more latents: --latent-size {2 * self.latent_size}"
            if self.ends_best:
                return f"{weak}; {longer}, or with {latents}"
            return f"{weak}; more images help most, then {latents}"
        return "good: better than the mean image and the PCA on images not trained on"


def judge(folds: Sequence[Trained], images: NDArray[np.uint8]) -> Verdict:
    """Judge the networks of uint8 `images`, (N, C, H, W), each by the images that it held out.

    The baselines are fitted to the images that each network was trained on.
    """
    flat = torch.from_numpy(images.reshape(len(images), -1))
    sizes = [len(fold.split.held_out) for fold in folds]
    rows = []
    for fold in folds:
        trained, held_out = images[fold.split.train], images[fold.split.held_out]
        fit = evaluate_fit(fold.network, flat[fold.split.held_out])
        elbo = fold.negative_elbo(fit)
        mean = trained.mean(axis=0) / 255
        offset = np.mean([np.square(image / 255 - mean).mean() for image in held_out])
        pca = PcaError(trained)(held_out).mean()
        rows.append(
            [fit.mse, fit.mse_sampled, fit.kl, np.nan if elbo is None else elbo, offset, pca]
        )
    mse, sampled, kl, elbo, mean_image, pca = np.average(rows, axis=0, weights=sizes).tolist()
    first = folds[0]
    return Verdict(
        fit=Fit(mse=mse, mse_sampled=sampled, kl=kl),
        negative_elbo=None if np.isnan(elbo) else elbo,
        n=sum(sizes),
        mean_image=mean_image,
        pca=pca,
        active=_active(first, flat),
        latent_size=first.network.config.latent_size,
        options=first.options,
        is_falling=_is_falling(first),
        finished=first.finished,
        ends_best=first.step >= 0.9 * (first.options.steps or 0),
    )


def judge_detector(bundle: Bundle, trained: Trained, images: NDArray[np.uint8]) -> str:
    """How many pasted defects a calibrated bundle's default score finds: a sentence.

    They are pasted into those of uint8 `images`, (N, C, H, W), that the network held out, and come
    from those that it was trained on.
    """
    engine = Engine(bundle, device="cpu")
    assert engine.calibration is not None  # noqa: S101 - for mypy: it was just calibrated
    n, needed = engine.calibration.n, math.ceil(1 / ALPHA - 1)
    if n < needed:
        return (
            f"too few images to judge the detector: at alpha {ALPHA:g} no image is ever an anomaly "
            f"with {n} calibration images, and {needed} is the minimum"
        )
    held_out, sources = (
        images[thinned(part, MAX_PASTED)] for part in (trained.split.held_out, trained.split.train)
    )
    pasted = with_defects(held_out, sources)
    name = engine.scores[0]
    p_values = engine.calibration.p_values(name, score_in_parts(engine, pasted, name))
    found = float(np.mean(p_values <= ALPHA))
    word = next(word for share, word in FOUND_WORDS if found >= share)
    return (
        f"{word}: of defects pasted into {numbered(len(pasted), 'held-out image')}, "
        f"{100 * found:.0f} % are found at alpha {ALPHA:g}"
    )


@torch.inference_mode()
def _active(trained: Trained, flat: torch.Tensor) -> int:
    """Latents that vary over the images that `trained` has not been trained on."""
    unseen = np.concatenate([trained.split.validation, trained.split.held_out])
    means = torch.cat(
        [trained.network.encode(chunk.float() / 255).mean for chunk in chunks(flat[unseen])]
    )
    return int((means.var(dim=0, correction=0) > ACTIVE_VARIANCE).sum())


def _is_falling(trained: Trained) -> bool:
    """Whether the last quarter of a training's steps brought much, and its end the most."""
    if not trained.finished:
        return True
    steps, losses = zip(*trained.history, strict=True)
    end = trained.options.steps or steps[-1]
    if trained.step < steps[-1] or steps[-1] < end:
        return False  # it ended early, or was at its best before the end
    if len(losses) == 1:
        return True  # too short to tell
    before = [loss for step, loss in trained.history if step <= 0.75 * end] or [losses[0]]
    fallen: float = losses[0] - losses[-1]
    return bool(before[-1] - losses[-1] > STILL_FALLING * fallen) if fallen > 0 else True


def _percent(value: float, of: float) -> str:
    return f"{100 * value / of:.0f} %" if of > NO_ERROR else "–"


def as_metrics(verdict: Verdict) -> dict[str, Any]:
    """The figures as a bundle's metrics have them."""
    return {
        "n": verdict.n,
        "mse": verdict.fit.mse,
        "mse_sampled": verdict.fit.mse_sampled,
        "kl": verdict.fit.kl,
        "negative_elbo": verdict.negative_elbo,
        "mean_image_mse": verdict.mean_image,
        "pca_mse": verdict.pca,
        "active_latents": verdict.active,
        "verdict": verdict.judgement,
    }
