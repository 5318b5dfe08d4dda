"""Posterior means of some images, computed by a trained network and kept in its bundle."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import torch

from model.bundle.bundle import Bundle
from model.bundle.latent_sample import MAX_LATENTS, LatentSample
from model.datasets.class_names import class_names
from model.datasets.image_set import ImageSet
from model.images.copies import Indices
from model.training.goodness_of_fit import chunks

SEED: Final = 0
"""Of the draw. Every n-th image would miss whole parts where shots of a part follow each other."""


@torch.inference_mode()
def with_latents(bundle: Bundle, data: ImageSet, among: Indices, which: str) -> Bundle:
    """`bundle` with the posterior means of at most `MAX_LATENTS` of the images `among` those of
    `data`, in their order, and with their labels if there are any.

    `which` says in words what images these are. The same images give the same sample.
    """
    chosen = among
    if len(among) > MAX_LATENTS:
        drawn = np.random.default_rng(SEED).choice(len(among), MAX_LATENTS, replace=False)
        chosen = among[np.sort(drawn)]
    flat = torch.from_numpy(data.images[chosen].reshape(len(chosen), -1))
    network = bundle.network()
    means = [network.encode(chunk.float() / 255).mean for chunk in chunks(flat)]
    labels = None if data.labels is None else data.labels[chosen]
    latents = LatentSample(
        mu=torch.cat(means).numpy(),
        data_set=f"{data.name}, {which}",
        labels=labels,
        classes=None if labels is None else class_names(data.files),
    )
    return replace(bundle, latents=latents)
