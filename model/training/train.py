"""Training. The same images, options, seed and thread count give the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import VAEConfig
from model.scores.deterministic import ScoreStatistics
from model.training.augment import jitter
from model.training.checkpoint import (
    Checkpoint,
    adam_tensors,
    load_checkpoint,
    restore_adam,
    save_checkpoint,
)
from model.training.goodness_of_fit import Fit, evaluate_fit
from model.training.loss import gaussian_loss, tutorial_loss
from model.training.statistics import score_statistics
from model.vae import VAE

HELD_OUT_SHARE: Final = 1 / 6
"""Share of the images, at most `MAX_HELD_OUT`, kept from training to calibrate on."""

MAX_HELD_OUT: Final = 10_000

VALIDATION_SHARE: Final = 1 / 20
"""Share of the images, at most `MAX_VALIDATION`, that are not trained on but select the best epoch.
Of MNIST's 60,000 images, 49,000 remain for training."""

MAX_VALIDATION: Final = 1_000

RATE_WARMUP: Final = 0.05
"""Share of the steps over which the learning rate rises, before it falls to 0 along a cosine."""

KL_WARMUP: Final = 0.1
"""Share of the steps over which the KL's weight rises from 0 to 1, so that no latent collapses
before the decoder can use it (Bowman et al. 2016)."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Training options. The defaults reach an MSE of 0.0125 on MNIST's test set."""

    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 2e-3
    augment: float = 0.0
    """The `size` of `model.training.augment.jitter`; 0 turns it off."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """Progress after one batch. The losses are that batch's."""

    step: int
    steps: int
    epoch: int
    loss: float
    mse: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The weights of the epoch with the lowest −ELBO on the validation images."""

    network: VAE
    pixel_variance: float | None
    """Maximum-likelihood σ² of the Gaussian likelihood; None for the tutorial's loss."""
    epoch: int
    """Number of epochs that these weights were trained for."""
    fit: Fit
    """On the held-out images."""
    statistics: ScoreStatistics | None
    """Statistics of the images trained on; None if there are too many latents."""
    split: Split
    """The images used for training, for validation and for neither."""
    finished: bool
    """False if training was interrupted."""


class Split(NamedTuple):
    """Sorted indices of three disjoint sets that together are all images."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    held_out: NDArray[np.int64]


def split_indices(n: int, seed: int) -> Split:
    """Split `n` ≥ 3 images at random. The same `n` and `seed` give the same split."""
    held_out = min(MAX_HELD_OUT, max(1, int(n * HELD_OUT_SHARE)))
    validation = min(MAX_VALIDATION, max(1, int(n * VALIDATION_SHARE)))
    order = np.random.default_rng(seed).permutation(n)
    parts = np.split(order, [held_out, held_out + validation])
    return Split(*(np.sort(part) for part in reversed(parts)))


def train(
    config: VAEConfig,
    images: NDArray[np.uint8],
    options: TrainOptions,
    *,
    device: torch.device | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    data_id: Mapping[str, Any] | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Trained:
    """Train on uint8 `images`, (N, C, H, W).

    After each epoch the state is saved to `checkpoint`. With `resume`, training continues from an
    existing checkpoint and ends with the same weights as without the interruption. `data_id`
    identifies the images, so that a checkpoint of other data is refused. Ctrl-C ends training with
    the best weights so far.

    Raises `ValueError` for fewer than 3 images or if the loss becomes infinite or NaN, and
    `CheckpointError` if the checkpoint cannot be used.
    """
    if len(images) < 3:
        raise ValueError(f"{len(images)} images are too few to train on: at least 3 are needed")
    run = _Run(config, images, options, device or torch.device("cpu"))
    identity = {"config": config.to_json(), **asdict(options), "data": data_id}
    if resume and checkpoint and checkpoint.exists():
        run.restore(load_checkpoint(checkpoint, identity))
    try:
        while run.epoch < options.epochs:
            run.train_epoch(on_step)
            if checkpoint:
                save_checkpoint(checkpoint, run.state(), identity)
    except KeyboardInterrupt:
        run.keep_if_best(interrupted=True)
        return run.result(finished=False)
    return run.result(finished=True)


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        config: VAEConfig,
        images: NDArray[np.uint8],
        options: TrainOptions,
        device: torch.device,
    ) -> None:
        self.options = options
        self.epoch = 0
        self.split = split_indices(len(images), options.seed)
        flat = torch.from_numpy(images.reshape(len(images), -1))
        self.pixels, self.validation, self.held_out = (
            flat[indices].to(device) for indices in self.split
        )
        torch.manual_seed(options.seed)
        self.network = VAE(config).to(device)
        self.loss = gaussian_loss if config.head == "log_variance" else tutorial_loss
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=options.learning_rate, fused=True
        )
        self.batches = math.ceil(len(self.pixels) / options.batch_size)
        self.steps = self.batches * options.epochs
        self.best: tuple[float, int, dict[str, Tensor]] | None = None

    def train_epoch(self, on_step: Callable[[Step], None]) -> None:
        # Seeding each epoch separately gives a resumed run the same random numbers.
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.pixels), generator=generator).to(self.pixels.device)
        for batch, chosen in enumerate(torch.split(order, self.options.batch_size)):
            step = self.epoch * self.batches + batch
            progress = (step + 0.5) / self.steps  # mid-step, so that no step has a rate of 0
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.learning_rate * _rate(progress)
            pixels = self.pixels[chosen].float() / 255  # (N, P)
            if size := self.options.augment:
                pixels = jitter(pixels, self.network.config.image_shape, size, generator)
            noise = torch.randn(len(pixels), self.network.config.latent_size, generator=generator)
            output = self.network(pixels, noise.to(pixels.device))
            loss = self.loss(pixels, output, beta=min(1.0, progress / KL_WARMUP))
            self.optimizer.zero_grad()
            loss.total.backward()  # type: ignore[no-untyped-call] # torch
            self.optimizer.step()
            on_step(
                Step(
                    step=step + 1,
                    steps=self.steps,
                    epoch=self.epoch + 1,
                    loss=loss.total.item(),
                    mse=loss.mse.item(),
                    kl=loss.kl.item(),
                )
            )
        self.epoch += 1
        self.keep_if_best()

    def keep_if_best(self, *, interrupted: bool = False) -> None:
        """Keep the current weights if they are the best so far on the validation images.

        Raises `ValueError` if the loss is not finite, except when `interrupted` with weights kept.
        """
        fit = evaluate_fit(self.network, self.validation)
        loss = fit.negative_elbo(self.pixels.shape[1], fit.mse_sampled)
        if not math.isfinite(loss):
            if interrupted and self.best is not None:
                return
            raise ValueError(
                f"training diverged in epoch {self.epoch}: the loss is {loss}; try a learning rate "
                f"below {self.options.learning_rate:g}"
            )
        if self.best is None or loss < self.best[0]:
            self.best = (loss, self.epoch, _copy(self.network.state_dict()))

    def state(self) -> Checkpoint:
        assert self.best is not None  # noqa: S101 - called after an epoch
        loss, epoch, weights = self.best
        return Checkpoint(
            epoch=self.epoch,
            weights=self.network.state_dict(),
            optimizer=adam_tensors(self.optimizer),
            best_epoch=epoch,
            best_loss=loss,
            best_weights=weights,
        )

    def restore(self, saved: Checkpoint) -> None:
        self.epoch = saved.epoch
        self.network.load_state_dict(dict(saved.weights))
        restore_adam(self.optimizer, saved.optimizer)
        self.best = (saved.best_loss, saved.best_epoch, dict(saved.best_weights))

    def result(self, *, finished: bool) -> Trained:
        assert self.best is not None  # noqa: S101 - an epoch or interrupt kept one
        _, epoch, weights = self.best
        self.network.load_state_dict(weights)
        gaussian = self.network.config.head == "log_variance"
        network, pixels = self.network.cpu(), self.pixels.cpu()
        return Trained(
            network=network,
            pixel_variance=evaluate_fit(network, pixels).mse_sampled if gaussian else None,
            epoch=epoch,
            fit=evaluate_fit(network, self.held_out.cpu()),
            statistics=score_statistics(network, pixels),
            split=self.split,
            finished=finished,
        )


def _rate(progress: float) -> float:
    """Learning rate as a share of its peak, when a share `progress` of the steps is done."""
    if progress < RATE_WARMUP:
        return progress / RATE_WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - RATE_WARMUP) / (1 - RATE_WARMUP)))


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
