"""The model card: a bundle's README.md, in words a user needs before trusting it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.bundle import Bundle

_RELU_NOTE = """
This network has the tutorial's `relu` head (μ ≥ 0, σ ≥ 0). Trained as that tutorial does it, such a
network collapses and reconstructs little more than the mean image: check the figures before use.
"""


def model_card(bundle: Bundle) -> str:
    """Markdown, from what the bundle itself holds."""
    config = bundle.config
    channels, height, width = config.image_shape
    parameters = sum(tensor.numel() for tensor in bundle.weights.values())
    lines = [
        f"# {bundle.name}",
        "",
        f"A Variational Autoencoder for {height}×{width} {'grey' if channels == 1 else 'RGB'} "
        f"images, latent size {config.latent_size}.",
        "",
        f"- Version: `{bundle.version}` (start of the sha256 of model.safetensors)",
        f"- Encoder: {' → '.join(map(str, config.encoder_sizes))}; "
        f"decoder: {' → '.join(map(str, config.decoder_sizes))}; {parameters:,} parameters",
        f"- Head: `{config.head}`",
        "- Pixels: uint8 / 255, in the polarity of the training images",
    ]
    if bundle.pixel_variance is not None:
        lines.append(
            f"- Likelihood: Gaussian, one variance for all pixels, σ² = {bundle.pixel_variance:.5f}"
        )
    if config.head == "relu":
        lines.append(_RELU_NOTE.rstrip())
    if bundle.metrics:
        lines += ["", "## Figures", "", *_figures(bundle.metrics)]
    lines += ["", "## Where it comes from", "", *_items(bundle.provenance)]
    lines += [
        "",
        "## Limits",
        "",
        "- It has seen images like its training images only. Anything else, it will still encode;",
        "  the reconstruction error tells how far off that was.",
        "- Its `score` is an error, not a probability. It has no calibration: `p_value` is null.",
        "",
    ]
    return "\n".join(lines)


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    rows = ["| images | n | MSE, z = μ | MSE, z drawn | KL, nats | −ELBO, nats |"]
    rows += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for split, fit in metrics.items():
        elbo = fit["negative_elbo"]
        rows.append(
            f"| {split.replace('_', ' ')} | {fit['n']:,} | {fit['mse']:.5f} | "
            f"{fit['mse_sampled']:.5f} | {fit['kl']:.2f} | "
            f"{'–' if elbo is None else format(elbo, '.1f')} |"
        )
    return rows


def _items(provenance: Mapping[str, Any]) -> list[str]:
    lines = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            lines.append(f"- {key.replace('_', ' ')}:")
            lines += [f"  - {name}: `{item}`" for name, item in value.items()]
        else:
            lines.append(f"- {key.replace('_', ' ')}: {value}")
    return lines
