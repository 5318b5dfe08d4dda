"""The model card says what the bundle holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.bundle.bundle import load_bundle
from model.config import VAEConfig
from model.evaluation.card import model_card
from model.evaluation.figures import CalibrationFacts
from model.scores.calibration import Calibration, calibration_of
from tests.unit.model.evaluation.evaluations import ALARMS, EVALUATION
from tests.unit.samples import tiny_bundle

FIT = {"n": 1234, "mse": 0.01234, "mse_sampled": 0.0156, "kl": 25.5, "negative_elbo": -512.25}


def calibration_on(n: int) -> Calibration:
    tables = {name: np.arange(n, dtype=np.float32) for name in ("mse", "mse_top5", "kl")}
    return calibration_of(tables, data_set="held-out digits", date="2026-01-02")


def test_it_names_each_network_s_training_set() -> None:
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


def test_one_of_anything_is_singular() -> None:
    config = VAEConfig(
        architecture="conv", image_shape=(1, 16, 16), hidden_sizes=(1, 4), latent_size=1
    )
    verdict = {"verdict": "good", "mean_image_mse": 0.1, "pca_mse": 0.1, "active_latents": 1}
    metrics = {"held_out": FIT | verdict}
    card = model_card(tiny_bundle(config=config, calibration=calibration_on(1), metrics=metrics))
    for part in (
        "→ 1 channel on a grid of 4×4",
        "- Calibration: 1 image, held-out digits",
        "how many of 1 calibration image score",
        "With this one, of 1 image, the rate",
        "; 1 latent is active.",
    ):
        assert part in card, part


def test_it_warns_of_the_relu_head() -> None:
    config = VAEConfig(image_shape=(3, 2, 2), hidden_sizes=(2,), latent_size=1, head="relu")
    assert "collapses" in model_card(tiny_bundle(config=config))
    assert "RGB" in model_card(tiny_bundle(config=config))
    assert "collapses" not in model_card(tiny_bundle())
    assert "Figures" not in model_card(tiny_bundle())


def test_it_says_what_a_convolutional_network_looks_like() -> None:
    config = VAEConfig(
        architecture="conv", image_shape=(3, 30, 50), hidden_sizes=(5, 6, 9), latent_size=4
    )
    card = model_card(tiny_bundle(config=config))
    # 30 × 50 pixels are 8 × 13 patches, padded to 8 × 14 so that they can be halved
    for part in (
        "patches of 4×4 pixels → 5 channels on a grid of 8×14 → 6 channels on a grid of 4×7 → "
        "9, fully connected → 8",
        "4 → 9, fully connected → 6 channels on a grid of 4×7 → 5 channels on a grid of 8×14",
    ):
        assert part in card
    assert "4500" not in card  # pixels, which are no width of a layer here


def test_it_says_what_it_was_calibrated_on() -> None:
    card = model_card(tiny_bundle(calibration=calibration_on(1_999)))
    assert (
        "- Calibration: 1,999 images, held-out digits, 2026-01-02; scores: `kl`, `mse`, `mse_top5`"
    ) in card.splitlines()
    limits = card[card.index("## Limits") :]
    for part in ("exchangeable", "1 + how many of 1,999", "1/(n + 1) = 0.0005", "P(`p_value` ≤ α)"):
        assert part in limits
    assert "null" not in card


def test_it_says_that_there_is_no_calibration() -> None:
    card = model_card(tiny_bundle())
    assert "Calibration: none, so `p_value` is null" in card
    assert "exchangeable" not in card
    assert "model calibrate" in card


def test_it_shows_the_evaluation(tmp_path: Path) -> None:
    calibration = calibration_on(50)
    alarms = replace(ALARMS, calibration=CalibrationFacts.of(calibration))
    evaluation = replace(EVALUATION, false_alarms=alarms, latent_size=2)
    metrics = {"held_out": FIT, "evaluation": evaluation.to_json()}
    bundle = tiny_bundle(calibration=calibration, metrics=metrics)
    card = model_card(bundle)
    assert len(re.findall(r"^!\[.+\]\(plots/\w+\.png\)$", card, re.MULTILINE)) == 8
    for part in ("| `fused` | 0.0474 | 0.0096 |", "### letters, 1,234 images", "baseline: PNG"):
        assert part in card
    figures = card[card.index("## Figures") : card.index("## Goodness of fit")]
    assert "evaluation" not in figures
    bundle.save(tmp_path, card)
    assert model_card(load_bundle(tmp_path)) == card
    assert json.loads((tmp_path / "config.json").read_text())["metrics"] == metrics


def test_false_alarms_of_another_calibration_are_not_shown() -> None:
    metrics = {"evaluation": EVALUATION.to_json()}
    for calibration in (None, calibration_on(50)):
        card = model_card(tiny_bundle(calibration=calibration, metrics=metrics))
        assert "calibrated anew" in card
        assert "0.0474" not in card
        assert "plots/p_values.png" not in card
        assert "plots/roc.png" in card
