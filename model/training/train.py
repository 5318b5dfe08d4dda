"""Training. The same images, options, seed and thread count give the same weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import VAEConfig
from model.datasets.folder import numbered
from model.features.detector import StoredDetector
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
from model.training.split import Split, split_indices
from model.training.statistics import score_statistics
from model.vae import VAE

RATE_WARMUP: Final = 0.05
"""Share of the steps over which the learning rate rises, before it falls to 0 along a cosine."""

KL_WARMUP: Final = 0.1
"""Share of the steps over which the KL's weight rises from 0 to 1, so that no latent collapses
before the decoder can use it (Bowman et al. 2016)."""


MIN_STEPS: Final = 1_500
"""Steps of a training that is not told how many: few images need as many as some thousand do."""

USUAL_EPOCHS: Final = 60
"""Passes over many images in the largest batches, where they are more steps than `MIN_STEPS`."""

BATCH_SIZES: Final = (16, 128)
"""Smallest and largest batch that is chosen by the number of images."""

BATCHES: Final = 32
"""Batches in an epoch, within `BATCH_SIZES`."""

CHECK_STEPS: Final = 50
"""Steps between two looks at the validation images, and so between two checkpoints, at least. An
epoch of more steps has one look."""

PATIENCE: Final = 1 / 4
"""Training ends when this share of its steps has not improved the validation images, as then the
network learns the training images by heart."""

MIN_VAIN_LOOKS: Final = 3
"""It does not end before this number of looks were in vain. An epoch of many images is a large
share of the steps, and one alone may be worse by chance."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Training options. The defaults reach an MSE of 0.0125 on MNIST's test set."""

    steps: int | None = None
    """None: `epochs`, or by the number of images."""
    epochs: int | None = None
    batch_size: int | None = None
    """None: by the number of images."""
    learning_rate: float = 2e-3
    augment: float = 0.0
    """The `size` of `model.training.augment.jitter`; 0 turns it off."""
    seed: int = 0
    stop_after: int | None = None
    """End after this number of steps, and keep those weights. None: the validation images decide,
    which weights to keep and whether to end early."""

    def resolved(self, n: int) -> TrainOptions:
        """These options for `n` training images, with `steps` and `batch_size` chosen."""
        smallest, largest = BATCH_SIZES
        power_of_two = 1 << max(0, (n // BATCHES).bit_length() - 1)
        batch_size = self.batch_size or min(largest, max(smallest, power_of_two))
        per_epoch = math.ceil(n / batch_size)
        if self.steps is not None:
            steps = self.steps
        elif self.epochs is not None:
            steps = self.epochs * per_epoch
        else:
            steps = max(MIN_STEPS, USUAL_EPOCHS * math.ceil(n / largest))
        return replace(self, batch_size=batch_size, steps=steps)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Progress after one batch. The losses are that batch's."""

    step: int
    steps: int
    loss: float
    mse: float
    kl: float


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The weights with the lowest −ELBO on the validation images."""

    network: VAE
    pixel_variance: float | None
    """σ² of the Gaussian likelihood, of maximum likelihood for the validation images; None for the
    tutorial's loss."""
    options: TrainOptions
    """As resolved for the number of images."""
    step: int
    """Number of steps that these weights were trained for."""
    history: tuple[tuple[int, float], ...]
    """After how many steps the validation images had which −ELBO, in nats an image."""
    statistics: ScoreStatistics | None
    """None if there are too many latents."""
    split: Split
    finished: bool
    """False if training was interrupted."""
    detector: StoredDetector | None = None
    """See `model.training.detectors`."""

    def negative_elbo(self, fit: Fit) -> float | None:
        """−ELBO of images with this fit, in nats an image; None without a pixel variance."""
        if self.pixel_variance is None:
            return None
        return fit.negative_elbo(self.network.config.pixels, self.pixel_variance)


def train(
    config: VAEConfig,
    images: NDArray[np.uint8],
    options: TrainOptions,
    split: Split | None = None,
    *,
    device: torch.device | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    data_id: Mapping[str, Any] | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Trained:
    """Train on uint8 `images`, (N, C, H, W), those of `split.train`.

    Without a `split`, that of `split_indices` is taken.

    Whenever the validation images were looked at, the state is saved to `checkpoint`. With
    `resume`, training continues from an existing checkpoint and ends with the same weights as
    without the interruption. `data_id` identifies the images, so that a checkpoint of other data is
    refused, as is one of another `split`. Ctrl-C ends training with the best weights so far.

    Raises `ValueError` if the loss becomes infinite or NaN, and `CheckpointError` if the checkpoint
    cannot be used.
    """
    split = split or split_indices(len(images), options.seed)
    options = options.resolved(len(split.train))
    run = _Run(config, images, options, split, device or torch.device("cpu"))
    data = {f"data: {name}": value for name, value in (data_id or {}).items()}
    identity = {"config": config.to_json(), **asdict(options), **data}
    if checkpoint:  # images trained on before must not calibrate now
        identity["split"] = {name: len(indices) for name, indices in split._asdict().items()}
        identity["split"]["sha256"] = _sha256(images, *split)
    if resume and checkpoint and checkpoint.exists():
        run.restore(load_checkpoint(checkpoint, identity))
    try:
        while not run.is_over():
            run.train_epoch(on_step)
            if run.looks():
                run.look()
                if checkpoint:
                    save_checkpoint(checkpoint, run.state(), identity)
    except KeyboardInterrupt:
        run.look(interrupted=True)  # the steps since the last one may be the best
        return run.result(finished=False)
    return run.result(finished=True)


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        config: VAEConfig,
        images: NDArray[np.uint8],
        options: TrainOptions,
        split: Split,
        device: torch.device,
    ) -> None:
        assert options.steps is not None  # noqa: S101 - they are resolved
        assert options.batch_size is not None  # noqa: S101
        self.options = options
        self.epoch = 0
        self.step = 0
        self.split = split
        flat = torch.from_numpy(images.reshape(len(images), -1))
        self.pixels, self.validation = (
            flat[indices].to(device) for indices in (split.train, split.validation)
        )
        torch.manual_seed(options.seed)
        self.network = VAE(config).to(device)
        self.loss = gaussian_loss if config.head == "log_variance" else tutorial_loss
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=options.learning_rate, fused=True
        )
        self.batch_size, self.steps = options.batch_size, options.steps
        self.end = min(self.steps, options.stop_after or self.steps)
        self.best: tuple[float, int, dict[str, Tensor]] | None = None
        self.history: list[tuple[int, float]] = []

    def is_over(self) -> bool:
        """Whether all steps are done, or those of `PATIENCE` were in vain."""
        if self.step >= self.end or self.options.stop_after is not None:
            return self.step >= self.end
        best = self.best[1] if self.best else 0
        looks_in_vain = sum(step > best for step, _ in self.history)
        waited = self.step - best > max(CHECK_STEPS, PATIENCE * self.steps)
        return waited and looks_in_vain >= MIN_VAIN_LOOKS

    def looks(self) -> bool:
        """Whether it is time to look at the validation images, after a whole epoch."""
        since = self.step - (self.history[-1][0] if self.history else 0)
        return since >= CHECK_STEPS or self.step >= self.end

    def train_epoch(self, on_step: Callable[[Step], None]) -> None:
        """One pass over the images, or the rest of the steps."""
        # Seeding each epoch separately gives a resumed run the same random numbers.
        generator = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.pixels), generator=generator).to(self.pixels.device)
        for chosen in torch.split(order, self.batch_size)[: self.end - self.step]:
            progress = (self.step + 0.5) / self.steps  # mid-step, so that no step has a rate of 0
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
            self.step += 1
            on_step(
                Step(
                    step=self.step,
                    steps=self.steps,
                    loss=loss.total.item(),
                    mse=loss.mse.item(),
                    kl=loss.kl.item(),
                )
            )
        self.epoch += 1

    def look(self, *, interrupted: bool = False) -> None:
        """Keep the current weights if they are the best so far on the validation images.

        With `stop_after` the last weights are kept.

        Raises `ValueError` if the loss is not finite, except when `interrupted` with weights kept.
        """
        fit = evaluate_fit(self.network, self.validation)
        loss = fit.negative_elbo(self.pixels.shape[1], fit.mse_sampled)
        if not math.isfinite(loss):
            if interrupted and self.best is not None:
                return
            raise ValueError(
                f"training diverged after {numbered(self.step, 'step')}: the loss is {loss}; try a "
                f"learning rate below {self.options.learning_rate:g}"
            )
        self.history.append((self.step, loss))
        if self.best is None or loss < self.best[0] or self.options.stop_after is not None:
            self.best = (loss, self.step, _copy(self.network.state_dict()))

    def state(self) -> Checkpoint:
        """What a later run needs to continue."""
        assert self.best is not None  # noqa: S101 - called after a look
        loss, step, weights = self.best
        return Checkpoint(
            epoch=self.epoch,
            step=self.step,
            history=tuple(self.history),
            weights=self.network.state_dict(),
            optimizer=adam_tensors(self.optimizer),
            best_step=step,
            best_loss=loss,
            best_weights=weights,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Continue from a saved state."""
        self.epoch, self.step, self.history = saved.epoch, saved.step, list(saved.history)
        self.network.load_state_dict(dict(saved.weights))
        restore_adam(self.optimizer, saved.optimizer)
        self.best = (saved.best_loss, saved.best_step, dict(saved.best_weights))

    def result(self, *, finished: bool) -> Trained:
        """The best weights, and the statistics of the validation images with them."""
        assert self.best is not None  # noqa: S101 - a look or an interrupt kept one
        _, step, weights = self.best
        self.network.load_state_dict(weights)
        gaussian = self.network.config.head == "log_variance"
        network, validation = self.network.cpu(), self.validation.cpu()
        return Trained(
            network=network,
            pixel_variance=evaluate_fit(network, validation).mse_sampled if gaussian else None,
            options=self.options,
            step=step,
            history=tuple(self.history),
            statistics=score_statistics(network, self.pixels.cpu(), validation),
            split=self.split,
            finished=finished,
        )


def _rate(progress: float) -> float:
    """Learning rate as a share of its peak, when a share `progress` of the steps is done."""
    if progress < RATE_WARMUP:
        return progress / RATE_WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - RATE_WARMUP) / (1 - RATE_WARMUP)))


def _sha256(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
