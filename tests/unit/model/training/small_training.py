"""A small network and quick options to train it with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.config import VAEConfig
from model.training import train as module
from model.training.train import Trained, TrainOptions

SMALL = VAEConfig(hidden_sizes=(12,), latent_size=3)
CONV = VAEConfig(architecture="conv", hidden_sizes=(4, 4, 8), latent_size=3)
EPOCHS, BATCHES = 4, 3  # of the 80 images that are left of 120
QUICK = TrainOptions(epochs=EPOCHS, batch_size=32)


def look_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the validation images after each epoch, however few its steps, and never give up."""
    monkeypatch.setattr(module, "CHECK_STEPS", 1)
    monkeypatch.setattr(module, "PATIENCE", 1)


def weights(trained: Trained) -> dict[str, Tensor]:
    return trained.network.state_dict()


def known(trained: Trained) -> dict[str, Tensor]:
    """The statistics of the images trained on."""
    assert trained.statistics is not None
    return trained.statistics.tensors()


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def last_weights(checkpoint: Path) -> dict[str, Tensor]:
    """Those at the end of the last whole epoch, be they the best or not."""
    tensors = safetensors.torch.load_file(checkpoint)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("weights/")}
