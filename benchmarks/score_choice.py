"""Why `fused` is the default score: candidates compared on anomalies made from clean images.

    python -m benchmarks.score_choice --data data      writes results/score_choice.{json,md}

No other data set, no label and no test image is used. The anomalies are validation images, which
the network was not trained on, that are cut, mixed, bent or blurred; the clean images are other
validation images. A candidate's figure is its mean AUROC over the kinds of change and the bundles.
By it, errors relative to contrast are far better than `mse_top5`, and the latent part makes no
difference. That part was added for rotated images and one-class tasks, while looking at their
results; likewise, candidates were thought of with the usual pairs of data sets in mind. So the
figures of `fused` on these are slightly optimistic. The left-out tasks of `benchmarks.quality` were
not looked at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.machine import RESULTS
from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.datasets.load import load_images
from model.scores.deterministic import (
    fused,
    latent_density,
    latent_mahalanobis,
    mean_squared_error,
    negative_elbo,
    relative_errors,
    worst_pixels,
)
from model.training.split import split_indices

Images = NDArray[np.uint8]
Features = Mapping[str, NDArray[np.float64]]
"""By name, a value for each image."""

BUNDLES: Final = {
    "mnist": "mnist",
    "mnist-conv": "mnist",
    "fashion-mnist": "fashion-mnist",
    "fashion-mnist-conv": "fashion-mnist",
}
"""Each bundle, and the data set it was trained on."""

NAMED: Final = ("log mse", "log mse_top5", "kl", "‖μ‖", "Σ log σ", "latent_mahalanobis")
"""The features that the literature combines."""


RELATIVE: Final = ("relative whole", "relative worst")


def strange_images(clean: Images, seed: int = 0) -> dict[str, Images]:
    """Every image changed in each of several ways: (N, 28, 28) to the same shape, by kind."""
    rng = np.random.default_rng(seed)
    n, height, width = clean.shape
    other = clean[rng.permutation(n)]
    half, quarter = height // 2, width // 2
    made = {
        "a patch of another image": clean.copy(),
        "the mean of two images": ((clean.astype(int) + other) // 2).astype(np.uint8),
        "the brighter of two images": np.maximum(clean, other),
        "quarters swapped": np.roll(clean, (half, quarter), axis=(1, 2)),
        "the lower half of another": np.concatenate([clean[:, :half], other[:, half:]], axis=1),
        "noise": np.clip(clean + rng.normal(0, 25, clean.shape), 0, 255).astype(np.uint8),
        "blurred": ndimage.gaussian_filter(clean, (0, 1.5, 1.5)),
        "inverted": 255 - clean,
        "thinned": ndimage.grey_erosion(clean, size=(1, 2, 2)),
        "bent": np.empty_like(clean),
        "moved by 4 pixels": np.roll(clean, (4, -4), axis=(1, 2)),
    }
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    for i in range(n):
        rows, columns = rng.integers(8, 18, 2)
        to, origin = (
            (rng.integers(0, height - rows), rng.integers(0, width - columns)) for _ in range(2)
        )
        patch = other[i, origin[0] : origin[0] + rows, origin[1] : origin[1] + columns]
        made["a patch of another image"][i, to[0] : to[0] + rows, to[1] : to[1] + columns] = patch
        bend = ndimage.gaussian_filter(rng.normal(size=places.shape), (0, 2.5, 2.5))
        made["bent"][i] = ndimage.map_coordinates(
            clean[i], places + 4 * bend / np.abs(bend).max(), order=1
        )
    return made


@torch.inference_mode()
def features(bundle: Bundle, images: Images) -> Features:
    """The features that candidates are made of."""
    assert bundle.statistics is not None and bundle.pixel_variance is not None  # noqa: S101, PT018
    network = bundle.network()
    by_name: dict[str, list[Tensor]] = {}
    for part in np.array_split(images.reshape(len(images), -1), max(1, len(images) // 1000)):
        pixels = torch.from_numpy(part).float() / 255
        output = network(pixels)
        whole, worst = relative_errors(pixels, output, bundle.statistics.contrast).T
        values = {
            "log mse": mean_squared_error(pixels, output).log(),
            "log mse_top5": worst_pixels(pixels, output).log(),
            "kl": output.posterior.kl(),
            "‖μ‖": output.posterior.mean.norm(dim=1),
            "Σ log σ": output.posterior.log_variance.sum(dim=1) / 2,
            "latent_mahalanobis": latent_mahalanobis(bundle.statistics)(pixels, output),
            "neg_elbo": negative_elbo(bundle.pixel_variance)(pixels, output),
            "relative whole": whole,
            "relative worst": worst,
            "latent_density": latent_density(bundle.statistics)(pixels, output),
            "fused": fused(bundle.statistics)(pixels, output),
        }
        for name, value in values.items():
            by_name.setdefault(name, []).append(value)
    return {name: torch.cat(parts).double().numpy() for name, parts in by_name.items()}


def candidates(trained: Features) -> dict[str, Callable[[Features], NDArray[np.float64]]]:
    """Scores by name, fitted to the features of the training images where they need it."""

    def smallest_p_value(*names: str) -> Callable[[Features], NDArray[np.float64]]:
        median, tail = (
            np.array([np.quantile(trained[name], q) for name in names]) for q in (0.5, 0.99)
        )
        return lambda f: ((_columns(f, names) - median) / (tail - median)).max(axis=1)

    def whitened(*names: str) -> Callable[[Features], NDArray[np.float64]]:
        known = _columns(trained, names)
        centre, precision = known.mean(axis=0), np.linalg.pinv(np.cov(known.T))
        return lambda f: np.einsum(
            "ni,ij,nj->n", _columns(f, names) - centre, precision, _columns(f, names) - centre
        )

    alone = (
        *("log mse", "log mse_top5", "neg_elbo", "kl"),
        *("latent_density", "latent_mahalanobis"),
    )
    single = {name.removeprefix("log "): (lambda f, name=name: f[name]) for name in alone}
    return single | {
        "smallest p of the six named": smallest_p_value(*NAMED),
        "Mahalanobis of the six named": whitened(*NAMED),
        "smallest p of mse, mse_top5": smallest_p_value("log mse", "log mse_top5"),
        "relative whole": lambda f: f["relative whole"],
        "relative worst": lambda f: f["relative worst"],
        "smallest p of these two": smallest_p_value("relative whole", "relative worst"),
        "… and of latent_mahalanobis": smallest_p_value(*RELATIVE, "latent_mahalanobis"),
        "… and of latent_density": smallest_p_value(*RELATIVE, "latent_density"),
        "**fused**: the same, that at half weight": lambda f: f["fused"],
    }


def _columns(values: Features, names: tuple[str, ...]) -> NDArray[np.float64]:
    return np.stack([values[name] for name in names], axis=1)


def measure(name: str, data: Path) -> dict[str, dict[str, float]]:
    """AUROC of each candidate for each kind of change."""
    bundle = load_bundle(find_bundle(name))
    images = load_images(data / BUNDLES[name], "train", image_shape=(1, 28, 28)).images[:, 0]
    split = split_indices(len(images), bundle.provenance["seed"])
    validation = images[split.validation]
    clean, spoilt = np.array_split(validation, 2)
    clean_features = features(bundle, clean)
    changed = {kind: features(bundle, made) for kind, made in strange_images(spoilt).items()}
    scores = candidates(features(bundle, images[split.train]))
    return {
        candidate: {
            kind: float(
                roc_auc_score(
                    np.repeat([0, 1], [len(clean), len(spoilt)]),
                    np.concatenate([score(clean_features), score(strange)]),
                )
            )
            for kind, strange in changed.items()
        }
        for candidate, score in scores.items()
    }


def main() -> None:
    """Measure the candidates, and write benchmarks/results/score_choice.json and .md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.score_choice", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    auroc = {name: measure(name, arguments.data) for name in BUNDLES}
    report: dict[str, Any] = {
        "command": "python -m benchmarks.score_choice --data data",
        "auroc": auroc,
    }
    (RESULTS / "score_choice.json").write_text(json.dumps(report, indent=1, ensure_ascii=False))
    names = list(auroc[next(iter(BUNDLES))])
    lines = [
        "# The default score, chosen on anomalies made from clean images",
        "",
        "Mean AUROC over eleven kinds of change of validation images: no other data set, no label, "
        "no test image. `python -m benchmarks.score_choice --data data`",
        "",
        f"| candidate | {' | '.join(BUNDLES)} | mean |",
        f"| --- |{' ---: |' * (len(BUNDLES) + 1)}",
    ]
    for name in names:
        means = [mean(auroc[bundle][name].values()) for bundle in BUNDLES]
        cells = [f"{value:.4f}" for value in (*means, mean(means))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / "score_choice.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
