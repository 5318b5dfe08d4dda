"""−log p(x) of dynamically binarised MNIST, for the Bernoulli variant of the shipped network.

    python -m benchmarks.likelihood --data data/mnist    writes results/likelihood.json

The figure that the literature reports for generative models. Each time an image is seen, its
pixels are sampled as black or white with their grey value as the probability (Salakhutdinov and
Murray 2008), and the decoder's output is such a probability. −log p(x) is estimated by the IWAE
bound with 5,000 samples (Burda, Grosse and Salakhutdinov 2016); training ends by optimizing the
same bound with few samples. None of this is served, as a Bernoulli likelihood prefers simple images
to normal ones.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from benchmarks.machine import RESULTS, cpu_model
from model.commands.common import today
from model.config import VAEConfig
from model.datasets.load import Split, load_images
from model.vae import VAE

SAMPLES: Final = 5_000
TEST_IMAGES: Final = 10_000
CHUNK: Final = 20
"""Images in one pass of the test; with `SAMPLES` decoded images for each, 300 MB."""

STAGES: Final = ((1, 100), (5, 40), (20, 12))
"""Training: samples of the bound, and the epochs with as many."""

BATCH: Final = 128
RATE: Final = 2e-3


def log_weights(network: VAE, pixels: Tensor, samples: int) -> Tensor:
    """log p(x|z) + log p(z) − log q(z|x) in nats of K samples z ~ q(z|x): (N, P) to (N, K)."""
    posterior = network.encode(pixels)
    noise = torch.randn(samples, *posterior.mean.shape)
    z = posterior.mean + posterior.std * noise  # (K, N, D)
    # From logits, as the log of a sigmoid that has saturated at 0 or 1 is not finite.
    logits = network.logits(z.flatten(0, 1)).view(samples, *pixels.shape)  # (K, N, P)
    # The log of a Bernoulli probability: x·l − log(1 + exp l) for logits l.
    likelihood = torch.einsum("knp,np->kn", logits, pixels) - softplus(logits).sum(dim=2)
    prior = -0.5 * z.square().sum(dim=2)
    proposal = -0.5 * noise.square().sum(dim=2) - posterior.std.log().sum(dim=1)
    return (likelihood + prior - proposal).T  # (N, K)


def bound(weights: Tensor) -> Tensor:
    """The IWAE upper bound of −log p(x): (N, K) to (N,)."""
    return math.log(weights.shape[1]) - weights.logsumexp(dim=1)


def train(images: Tensor, seed: int) -> VAE:
    """Train on `images`, uint8 (N, P)."""
    torch.manual_seed(seed)
    network = VAE(VAEConfig())
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    for stage, (samples, epochs) in enumerate(STAGES):
        for epoch in range(epochs):
            started, total = time.perf_counter(), 0.0
            peak = RATE / 2**stage
            for group in optimizer.param_groups:
                group["lr"] = peak * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            for chosen in torch.split(torch.randperm(len(images)), BATCH):
                pixels = torch.bernoulli(images[chosen].float() / 255)
                loss = bound(log_weights(network, pixels, samples)).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call] # torch
                optimizer.step()
                total += loss.item() * len(chosen)
            seconds = time.perf_counter() - started
            print(
                f"{samples} samples, epoch {epoch + 1}/{epochs}: {total / len(images):.2f} nats, "
                f"{seconds:.1f} s",
                flush=True,
            )
    return network


@torch.inference_mode()
def evaluate(network: VAE, images: Tensor, seed: int) -> dict[str, Any]:
    """The bound with `SAMPLES` samples, and its standard error over the images."""
    torch.manual_seed(seed)
    bounds = [
        bound(log_weights(network, torch.bernoulli(part.float() / 255), SAMPLES))
        for part in torch.split(images[:TEST_IMAGES], CHUNK)
    ]
    values = torch.cat(bounds).double()
    return {
        "nats": values.mean().item(),
        "standard_error": values.std().item() / math.sqrt(len(values)),
        "images": len(values),
    }


def _flat(data: Path, split: Split) -> Tensor:
    images = load_images(data, split, image_shape=(1, 28, 28)).images
    return torch.from_numpy(images.reshape(len(images), -1))


def main() -> None:
    """Train, evaluate, and write benchmarks/results/likelihood.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.likelihood", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images, test = _flat(arguments.data, "train"), _flat(arguments.data, "test")
    seeds = {}
    for seed in arguments.seeds:
        seeds[seed] = evaluate(train(images, seed), test, seed)
        print(f"seed {seed}: {seeds[seed]['nats']:.2f} nats", flush=True)
    report = {
        "command": "python -m benchmarks.likelihood --data data/mnist",
        "date": today(),
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "samples": SAMPLES,
        "stages": STAGES,
        "seeds": seeds,
        "mean_nats": float(np.mean([figures["nats"] for figures in seeds.values()])),
    }
    (RESULTS / "likelihood.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
