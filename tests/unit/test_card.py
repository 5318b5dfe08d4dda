"""The model card says what the bundle holds."""

from __future__ import annotations

from model.config import VAEConfig
from model.training.card import model_card
from tests.unit.samples import tiny_bundle

FIT = {"n": 1234, "mse": 0.01234, "mse_sampled": 0.0156, "kl": 25.5, "negative_elbo": -512.25}


def test_it_names_what_was_trained_on_what() -> None:
    bundle = tiny_bundle(
        name="my digits",
        pixel_variance=0.125,
        provenance={"data_set": "digits", "files_sha256": {"a.gz": "00ff"}, "seed": 7},
        metrics={"held_out": FIT, "test": FIT | {"negative_elbo": None}},
    )
    card = model_card(bundle)
    parameters = 20 * 7 + 7 + 7 * 6 + 6 + 3 * 7 + 7 + 7 * 20 + 20
    for text in (
        "# my digits",
        bundle.version,
        "4×5 grey",
        "20 → 7 → 6",
        "3 → 7 → 20",
        f"{parameters} parameters",
        "σ² = 0.12500",
        "| held out | 1,234 | 0.01234 | 0.01560 | 25.50 | -512.2 |",
        "| test | 1,234 | 0.01234 | 0.01560 | 25.50 | – |",
        "digits",
        "a.gz: `00ff`",
        "seed: 7",
    ):
        assert text in card


def test_it_warns_of_the_relu_head() -> None:
    config = VAEConfig(image_shape=(3, 2, 2), hidden_sizes=(2,), latent_size=1, head="relu")
    assert "collapses" in model_card(tiny_bundle(config=config))
    assert "RGB" in model_card(tiny_bundle(config=config))
    assert "collapses" not in model_card(tiny_bundle())
    assert "Figures" not in model_card(tiny_bundle())
