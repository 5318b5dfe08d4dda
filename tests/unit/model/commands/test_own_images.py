"""docs/your-own-images.md, followed on real photographs of parts with defects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.bundle.bundle import load_bundle
from tests.unit.model.commands.command_line import run

BRIEF = ["--size", "32", "--steps", "60", "--threads", "1"]


@pytest.mark.slow
def test_from_a_folder_to_a_judgement(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, normal = tmp_path / "tiles", tiles / "train"
    refused = run(capsys, "train", "--data", tiles, "--out", out, *BRIEF)
    assert refused.status == 2
    assert f"--data {normal}" in refused.err
    assert not out.exists()
    plain = run(capsys, "train", "--data", normal, "--out", out, *BRIEF)
    assert plain.status == 0
    assert "--group folder keeps them together" in plain.out
    command = ["train", "--data", str(normal), "--out", str(out), *BRIEF, "--group", "folder"]
    grouped = run(capsys, *command, "--overwrite")
    assert grouped.status == 0
    assert "look almost the same" not in grouped.out
    calibration = load_bundle(out).calibration
    assert calibration is not None
    assert calibration.n > 700
    judged = tmp_path / "judged"
    anomalies = ["--anomalies", str(tiles / "test-anomalous"), "--masks", str(tiles / "masks")]
    clean = ["--data", str(tiles / "test-normal")]
    result = run(capsys, "evaluate", "--bundle", out, *clean, *anomalies, "--out", str(judged))
    assert result.status == 0
    report = [line for line in result.out.splitlines() if not line.endswith(" so far")]
    assert report[0].startswith("On test-anomalous, ")  # after lines of progress, if it took long
    evaluation = json.loads((judged / "evaluation.json").read_text(encoding="utf-8"))
    kinds = [each["images"]["name"] for each in evaluation["anomalies"]]
    assert kinds[0] == "test-anomalous"
    assert {"blowhole", "break", "crack", "fray", "uneven"} <= {k.split("/")[-1] for k in kinds}
    assert len((judged / "scores.csv").read_text().splitlines()) > 193 + 392
    assert (judged / "plots" / "mistakes.png").exists()


@pytest.mark.slow
def test_168_colour_photographs_have_active_latents(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the defaults, but for the number of networks. They had none of 32."""
    data = tmp_path / "photographs"
    data.mkdir()
    tints = np.random.default_rng(0).uniform(0.6, 1, (168, 3))
    paths = sorted((tiles / "train").rglob("*.jpg"))[: 4 * len(tints) : 4]
    for number, (path, tint) in enumerate(zip(paths, tints, strict=True)):
        grey = np.asarray(Image.open(path).convert("RGB"))
        Image.fromarray((grey * tint).astype(np.uint8)).save(data / f"{number:03}.png")
    command = ["train", "--data", str(data), "--out", str(tmp_path / "out"), "--threads", "1"]
    result = run(capsys, *command, "--folds", "1")
    assert (result.status, result.err) == (0, "")
    bundle = load_bundle(tmp_path / "out")
    assert bundle.config.architecture == "conv"
    assert bundle.config.image_shape == (3, 64, 64)
    assert bundle.metrics["held_out"]["active_latents"] >= 8
    assert bundle.metrics["held_out"]["mse"] < 0.5 * bundle.metrics["held_out"]["mean_image_mse"]
