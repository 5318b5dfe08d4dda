"""Small networks, bundles and files, and ways to damage them."""

from __future__ import annotations

import gzip
import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from model.bundle.bundle import Bundle
from model.config import VAEConfig
from model.engine.engine import Engine
from model.scores.calibration import calibration_of
from model.scores.deterministic import ScoreStatistics
from model.vae import VAE

TINY = VAEConfig(image_shape=(1, 4, 5), hidden_sizes=(7,), latent_size=3)


def tiny_bundle(seed: int = 0, config: VAEConfig = TINY, **fields: Any) -> Bundle:
    """A network of a few hundred bytes whose weights follow from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = VAE(config).state_dict()
    return Bundle(**{"name": "tiny", "config": config, "weights": weights, **fields})


def some_statistics(latent_size: int = TINY.latent_size, seed: int = 0) -> ScoreStatistics:
    """What some training images could have left behind; the mixture has two components."""
    generator = torch.Generator().manual_seed(seed)
    roots = torch.randn(3, latent_size, latent_size, generator=generator).tril()
    roots.diagonal(dim1=1, dim2=2).abs_().add_(0.5)
    mean, *means = torch.randn(3, latent_size, generator=generator)
    return ScoreStatistics(
        latent_mean=mean,
        latent_precision=roots[0] @ roots[0].T,
        contrast=torch.tensor([0.1]),
        mixture_log_weights=torch.tensor([0.3, 0.7]).log(),
        mixture_means=torch.stack(means),
        mixture_roots=roots[1:].clone(),
        fused_median=torch.tensor([-1.0, 0.5, 4.0]),
        fused_tail=torch.tensor([0.25, 2.0, 3.0]),
    )


def whole_bundle(seed: int = 0, n: int = 7, **fields: Any) -> Bundle:
    """`tiny_bundle` with all that a bundle may have; calibrated on `n` images that never were."""
    statistics = some_statistics(seed=seed)
    plain = tiny_bundle(seed, **{"pixel_variance": 0.25, "statistics": statistics, **fields})
    numbers = np.random.default_rng(seed)
    scores = {
        name: numbers.standard_normal(n, np.float32) for name in Engine(plain, device="cpu").scores
    }
    made = calibration_of(scores, data_set="clean digits", date="2026-01-02")
    return replace(plain, calibration=made)


def idx_bytes(images: NDArray[np.uint8]) -> bytes:
    """(N, H, W) as an IDX file."""
    return struct.pack(">BBBB3I", 0, 0, 8, 3, *images.shape) + images.tobytes()


def write_idx(
    directory: Path, train: NDArray[np.uint8], test: NDArray[np.uint8] | None = None
) -> Path:
    """A directory as MNIST's: (N, 1, H, W) images in gzipped IDX files."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = {"train-images-idx3-ubyte.gz": train, "t10k-images-idx3-ubyte.gz": test}
    for name, images in parts.items():
        if images is not None:
            data = gzip.compress(idx_bytes(images[:, 0]), compresslevel=1, mtime=0)
            (directory / name).write_bytes(data)
    return directory


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def assert_one_line(error: BaseException, *words: object) -> None:
    """The message is one line and holds all the words."""
    message = str(error)
    assert len(message.splitlines()) == 1, message
    assert all(str(word) in message for word in words), message


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with some bytes changed, left out or put in, or cut short."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(changed) - 1)))
        match draw(st.sampled_from(["change", "change", "change", "remove", "insert", "cut"])):
            case "change" if changed:
                changed[place] ^= draw(st.integers(1, 255))
            case "remove":
                del changed[place : place + draw(st.integers(1, 16))]
            case "insert":
                changed[place:place] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del changed[place:]
    return bytes(changed)
