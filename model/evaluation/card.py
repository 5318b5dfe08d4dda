"""The model card, a bundle's README.md: what a user needs to know before trusting it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from model.bundle.bundle import Bundle
from model.bundle.graph_files import file_name
from model.config import PATCH, VAEConfig
from model.datasets.folder import numbered
from model.evaluation.figures import CalibrationFacts, Evaluation
from model.evaluation.report import sections
from model.features.backbone import FEATURES
from model.features.detector import DetectorConfig
from model.scores.calibration import COMMON_ALPHAS, DEFAULT_DRAWS, Calibration
from model.scores.detected import DETECTED_SCORES

EVALUATION: Final = "evaluation"
"""Key of a bundle's metrics with its evaluation. The other keys are data splits."""

_RELU_NOTE = """
This network has the tutorial's `relu` head (μ ≥ 0, σ ≥ 0). Trained as in the tutorial, such a
network collapses and reconstructs little more than the mean image: check the figures before use.
"""

_CALIBRATE = """Calibrate on your own clean
  images: `python -m model calibrate --bundle DIR --data DIR`."""


def _hashed(bundle: Bundle) -> str:
    """What the version is a hash of."""
    if not bundle.graphs:
        return "the sha256 of model.safetensors"
    names = sorted(["model.safetensors", *map(file_name, bundle.graphs)])
    return f"what `sha256sum {' '.join(names)} | sha256sum` prints"


def model_card(bundle: Bundle) -> str:
    """Write the card as Markdown, from the bundle's contents alone."""
    config = bundle.config
    channels, height, width = config.image_shape
    parameters = sum(tensor.numel() for tensor in bundle.weights.values())
    lines = [
        f"# {bundle.name}",
        "",
        f"A Variational Autoencoder for {height}×{width} {'grey' if channels == 1 else 'RGB'} "
        f"images, with latent size {config.latent_size}.",
        "",
        f"- Version: `{bundle.version}` (start of {_hashed(bundle)})",
        *_network(config),
        *([] if bundle.detector is None else _detector(bundle.detector.config)),
        f"- {parameters:,} parameters",
        f"- Head: `{config.head}`",
        "- Pixels: uint8 / 255, with the polarity of the training images",
    ]
    if bundle.pixel_variance is not None:
        lines.append(
            f"- Likelihood: Gaussian, one variance for all pixels, σ² = {bundle.pixel_variance:.5f}"
        )
    lines.append(_calibration(bundle.calibration))
    if (latents := bundle.latents) is not None:
        lines.append(f"- Posterior means kept: {numbered(latents.n, 'image')}, {latents.data_set}")
    if config.head == "relu":
        lines.append(_RELU_NOTE.rstrip())
    splits = {name: fit for name, fit in bundle.metrics.items() if name != EVALUATION}
    if splits:
        lines += ["", "## Figures", "", *_figures(splits), *_verdict(splits)]
    if EVALUATION in bundle.metrics:
        lines += ["", *_evaluation(bundle)]
    else:
        lines.append("")
    lines += ["## Provenance", "", *_items(bundle.provenance)]
    lines += ["", "## Limits", "", *_limits(bundle.calibration), ""]
    return "\n".join(lines)


def _network(config: VAEConfig) -> list[str]:
    if config.architecture == "mlp":
        return [
            f"- Encoder: fully connected, {' → '.join(map(str, config.encoder_sizes))}",
            f"- Decoder: fully connected, {' → '.join(map(str, config.decoder_sizes))}",
        ]
    *maps, dense = config.hidden_sizes
    rows, columns = config.grid
    halvings = len(maps) - 1
    steps = [
        f"{numbered(channels, 'channel')} on a grid of "
        f"{rows << (halvings - i)}×{columns << (halvings - i)}"
        for i, channels in enumerate(maps)
    ]
    return [
        f"- Encoder: convolutional, patches of {PATCH}×{PATCH} pixels → {' → '.join(steps)} → "
        f"{dense}, fully connected → {2 * config.latent_size}",
        f"- Decoder: convolutional, {config.latent_size} → {dense}, fully connected → "
        f"{' → '.join(reversed(steps))} → patches of {PATCH}×{PATCH} pixels",
    ]


def _detector(config: DetectorConfig) -> list[str]:
    height, width = config.input_sides
    rows, columns = config.grid
    return [
        "- Detector: the first eleven blocks of an EfficientNet-Lite0, frozen, on images of "
        f"{width}×{height} (width×height); a VAE over the {FEATURES} features of each of "
        f"{rows}×{columns} places, latent size {config.latent_size}; and texture. Its scores: "
        f"{', '.join(f'`{name}`' for name in DETECTED_SCORES)}",
    ]


def _calibration(calibration: Calibration | None) -> str:
    if calibration is None:
        return "- Calibration: none, so `p_value` is null"
    return (
        f"- Calibration: {numbered(calibration.n, 'image')}, {calibration.data_set}, "
        f"{calibration.date}; "
        f"scores: {', '.join(f'`{name}`' for name in sorted(calibration.scores))}"
    )


def _guarantee(calibration: Calibration) -> list[str]:
    """What is known of the false-alarm rate."""
    alpha, n, folds = COMMON_ALPHAS[0], calibration.n, calibration.folds
    spread = 1.96 * math.sqrt(alpha * (1 - alpha) / n)
    off = f"{numbered(n, 'image')}, the rate may be off by {spread:.2g}"
    if folds:
        return [
            f"- The calibration images were divided into {folds} folds. For each, a network was",
            "  trained in the same way on the other folds, and scored the images of the fold. This",
            "  bundle holds the network of the first fold. For a clean image that is exchangeable",
            "  with the calibration images, P(`p_value` ≤ α) is near α if the training is stable.",
            "  There is no bound for every training. If all the networks scored each new image, 2α",
            "  would be one, up to a term that vanishes with n (Vovk 2015; Barber et al. 2021,",
            f"  theorem 4). With {off} at α = {alpha:g} (95 %).",
        ]
    return [
        "- For a clean image that is exchangeable with the calibration images,",
        "  P(`p_value` ≤ α) ≤ α, whatever the network and the score. This holds on average over",
        f"  calibration sets. With this one, of {off}",
        f"  at α = {alpha:g} (95 %).",
    ]


def _figures(splits: Mapping[str, Any]) -> list[str]:
    rows = ["| images | n | MSE, z = μ | MSE, z sampled | KL, nats | −ELBO, nats |"]
    rows += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for split, fit in splits.items():
        elbo = fit["negative_elbo"]
        rows.append(
            f"| {split.replace('_', ' ')} | {fit['n']:,} | {fit['mse']:.5f} | "
            f"{fit['mse_sampled']:.5f} | {fit['kl']:.2f} | "
            f"{'–' if elbo is None else format(elbo, '.1f')} |"
        )
    return rows


def _verdict(splits: Mapping[str, Any]) -> list[str]:
    """The verdict of the training, with what it rests on; older bundles have none."""
    fit = splits.get("held_out", {})
    if "verdict" not in fit:
        return []
    return [
        "",
        f"Verdict of the training: {fit['verdict']}. On the held-out images, the mean image has an "
        f"MSE of {fit['mean_image_mse']:.5f} and a PCA with ten components {fit['pca_mse']:.5f}; "
        f"{numbered(fit['active_latents'], 'latent is', 'latents are')} active.",
    ]


def _evaluation(bundle: Bundle) -> list[str]:
    try:
        evaluation = Evaluation.from_json(bundle.metrics[EVALUATION])
    except (KeyError, TypeError):
        return ["", "It was evaluated by a version whose figures this one cannot show."]
    alarms = evaluation.false_alarms
    measured = alarms and alarms.calibration
    current = bundle.calibration and CalibrationFacts.of(bundle.calibration)
    return sections(evaluation, alarms_are_current=measured == current)


def _items(provenance: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            lines.append(f"- {key.replace('_', ' ')}:")
            lines += [f"  - {name}: `{item}`" for name, item in value.items()]
        else:
            lines.append(f"- {key.replace('_', ' ')}: {value}")
    return lines


def _limits(calibration: Calibration | None) -> list[str]:
    lines = [
        "- It has only seen images like its training images. It encodes any other image too; the",
        "  reconstruction error shows how badly.",
        "- A `score` is not a probability. Larger is more anomalous. Scores with different names,",
        "  or from different bundles, are not comparable.",
    ]
    if calibration is None:
        return [
            *lines,
            "- It has no calibration, so `p_value` is null and no false-alarm rate is promised.",
            f"  {_CALIBRATE}",
        ]
    n = calibration.n
    return [
        *lines,
        f"- `p_value` is (1 + how many of {numbered(n, 'calibration image')} score at least as "
        f"high) / {n + 1:,}.",
        "  It is not the probability that the image is normal.",
        *_guarantee(calibration),
        "- Images from elsewhere (another camera, other writers, other preprocessing) are not",
        f"  exchangeable with them and may cause far more false alarms. {_CALIBRATE}",
        f"- No `p_value` is below 1/(n + 1) = {1 / (n + 1):.2g}: a smaller α never flags an image.",
        f"- Scores that average over draws of z are calibrated at {DEFAULT_DRAWS} draws per image.",
    ]
