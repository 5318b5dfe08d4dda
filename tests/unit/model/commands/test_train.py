"""`python -m model train`: what it writes and says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.bundle import load_bundle
from model.config import VAEConfig
from model.datasets.load import load_images
from model.engine.engine import Engine
from model.evaluation.card import model_card
from model.images.copies import pixel_hashes
from model.training.calibrate import all_scores
from model.training.split import split_indices
from tests.unit.model.commands.command_line import (
    BUNDLE_FILES,
    EPOCHS,
    N_TEST,
    N_TRAIN,
    SHORT,
    STEPS,
    files,
    line,
    output,
    run,
)
from tests.unit.samples import assert_one_line


def test_a_bundle_and_nothing_else(trained: Path) -> None:
    assert files(trained) == BUNDLE_FILES
    bundle = load_bundle(trained)
    assert bundle.name == "mine"
    assert bundle.config.hidden_sizes == (24, 12)
    assert bundle.config.latent_size == 4
    assert (trained / "README.md").read_text(encoding="utf-8") == model_card(bundle)
    assert bundle.version in model_card(bundle)


def test_its_figures_are_true(trained: Path, digits: NDArray[np.uint8]) -> None:
    bundle = load_bundle(trained)
    engine = Engine(bundle, device="cpu", threads=1)
    sets = {
        "held_out": digits[split_indices(N_TRAIN, seed=0).held_out],
        "test": digits[N_TRAIN : N_TRAIN + N_TEST],
    }
    assert set(bundle.metrics) == set(sets)
    for name, images in sets.items():
        scores, recorded = engine.score(images), bundle.metrics[name]
        assert recorded["n"] == len(images)
        assert float(scores.mse.mean()) == pytest.approx(recorded["mse"], rel=1e-4)
        assert float(scores.kl.mean()) == pytest.approx(recorded["kl"], rel=1e-4)
        assert recorded["mse"] < recorded["mse_sampled"] < 0.1
        assert isinstance(recorded["negative_elbo"], float)


def test_it_says_where_it_comes_from(trained: Path, idx: Path) -> None:
    provenance = load_bundle(trained).provenance
    assert provenance["data_set"] == "digits"
    assert set(provenance["files_sha256"]) == files(idx)
    assert provenance["images_held_out"] == N_TRAIN // 6
    assert provenance["images_validated_on"] == N_TRAIN // 20
    assert provenance["images_trained_on"] == N_TRAIN - N_TRAIN // 6 - N_TRAIN // 20
    assert provenance["augment"] == 0
    assert provenance["networks"] == 1
    assert provenance["epochs"] == EPOCHS
    assert provenance["steps"] == EPOCHS * -(-provenance["images_trained_on"] // 16)
    assert provenance["copies_left_out"] == 0
    assert provenance["finished"] is True
    assert provenance["batch_size"] == 16
    assert provenance["seed"] == 0
    assert provenance["threads"] == 1
    assert provenance["skipped_files"] == 0
    assert 1 <= provenance["best_step"] <= provenance["steps"]
    assert {"python", "torch", "numpy"} <= set(provenance["versions"])
    assert str(idx.parent) not in (trained / "config.json").read_text()


def test_it_is_calibrated_on_the_held_out_images_and_only_those(
    trained: Path, digits: NDArray[np.uint8]
) -> None:
    bundle = load_bundle(trained)
    held_out = digits[split_indices(N_TRAIN, seed=0).held_out]
    scores = all_scores(Engine(bundle, device="cpu", threads=1), held_out)
    calibration = bundle.calibration
    assert calibration is not None
    assert calibration.n == N_TRAIN // 6
    assert calibration.data_set == "digits, training images held out"
    assert calibration.date == datetime.now(UTC).date().isoformat()
    assert tuple(calibration.scores) == tuple(scores)
    for name, values in scores.items():
        np.testing.assert_allclose(calibration.scores[name], np.sort(values), rtol=1e-4, atol=1e-4)


def test_alpha_is_the_rate_of_false_alarms_on_digits_never_seen(
    trained: Path, digits: NDArray[np.uint8]
) -> None:
    """And strange images are found."""
    bundle = load_bundle(trained)
    engine = Engine(bundle, device="cpu", threads=1)
    assert bundle.calibration is not None
    clean, strange = digits[N_TRAIN:], 255 - digits[N_TRAIN : N_TRAIN + 100]
    for name in ("fused", "mse", "latent_mahalanobis"):
        p = bundle.calibration.p_values(name, engine.score(clean, name).score)
        for alpha in (0.05, 0.2):
            spread = 3 * (alpha * (1 - alpha) / bundle.calibration.n) ** 0.5
            assert np.mean(p <= alpha) == pytest.approx(alpha, abs=spread), name
    assert (bundle.calibration.p_values("fused", engine.score(strange).score) <= 0.05).all()


def test_it_keeps_posterior_means_of_images_trained_on(
    trained: Path, digits: NDArray[np.uint8]
) -> None:
    bundle = load_bundle(trained)
    images = digits[split_indices(N_TRAIN, seed=0).train]
    assert bundle.latents is not None
    assert bundle.latents.data_set == "digits, images trained on"
    assert (bundle.latents.labels, bundle.latents.classes) == (None, None)
    expected = Engine(bundle, device="cpu", threads=1).encode(images).mu
    np.testing.assert_allclose(bundle.latents.mu, expected, rtol=1e-4, atol=1e-4)


def test_labels_are_kept_with_them(
    tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of copies, which are left out, do not shift the others. The same run, the same file."""
    data, labels = tmp_path / "my.npz", np.arange(63)
    images = np.concatenate([digits[:3], digits[:60]])
    np.savez(data, images=images, labels=labels)
    files_of = []
    for name in ("one", "other"):
        assert run(capsys, "train", "--data", data, "--out", tmp_path / name, *SHORT).status == 0
        files_of.append((tmp_path / name / "latents.safetensors").read_bytes())
    assert files_of[0] == files_of[1]
    bundle = load_bundle(tmp_path / "one")
    assert bundle.latents is not None
    assert bundle.latents.labels is not None
    assert bundle.trained_on is not None
    assert bundle.latents.n == bundle.provenance["images_trained_on"]
    shown = images[bundle.latents.labels]
    assert np.isin(pixel_hashes(shown), bundle.trained_on).all(), "held out by the first fold"
    expected = Engine(bundle, device="cpu", threads=1).encode(shown).mu
    np.testing.assert_allclose(bundle.latents.mu, expected, rtol=1e-4, atol=1e-4)


def test_it_tells_the_figures(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, "train", "--data", idx, "--out", tmp_path / "out", *SHORT)
    assert (result.status, result.err) == (0, "")
    bundle = load_bundle(tmp_path / "out")
    for name in ("held_out", "test"):
        assert f"{bundle.metrics[name]['mse']:.5f}" in result.out
    for word in (f"step {STEPS}/{STEPS}", "loss", "MSE", "KL", bundle.version):
        assert word in result.out


def test_the_seed_decides_the_version(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = []
    for number, seed in enumerate(["7", "7", "8"]):
        out = tmp_path / str(number)
        assert run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--seed", seed).status == 0
        versions.append(load_bundle(out).version)
    assert versions[0] == versions[1] != versions[2]


def test_a_folder_of_pictures(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    size = ["--channels", "3", "--size", "12x12", "--name", "colours"]
    result = run(capsys, "train", "--data", pictures, "--out", out, *SHORT, *size)
    assert result.status == 0
    assert "broken[red].png" in result.out
    assert line(result, "read ") == f"read 24 images from {pictures}"
    bundle = load_bundle(tmp_path / "out")
    assert bundle.name == "colours"
    assert bundle.config.image_shape == (3, 12, 12)
    assert bundle.provenance["skipped_files"] == 1
    assert set(bundle.metrics) == {"held_out"}


def test_convolutions_for_a_folder_of_pictures(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From files of any size to scores with p-values."""
    out = tmp_path / "out"
    size = ["--arch", "conv", "--size", "64x64", "--channels", "3", "--epochs", "2"]
    held = ["--folds", "1", "--threads", "1"]
    result = run(capsys, "train", "--data", pictures, "--out", out, *size, *held)
    assert (result.status, result.err) == (0, "")
    assert "not an image, or damaged (broken[red].png)" in line(result, "left out    1 .png file")
    assert "too few for a false-alarm rate of 0.05, which needs 19" in output(result)
    bundle = load_bundle(out)
    assert bundle.config == VAEConfig(
        architecture="conv",
        image_shape=(3, 64, 64),
        hidden_sizes=(64, 64, 128),
        latent_size=32,
    )
    assert bundle.provenance["images_held_out"] == 4
    assert bundle.calibration is not None
    assert bundle.calibration.n == 4
    images = load_images(pictures, "train", image_shape=(3, 64, 64)).images
    engine = Engine(bundle, device="cpu", threads=1)
    assert engine.scores[0] == "fused"
    scores = engine.score_map(images)
    assert np.isfinite(scores.score).all()
    assert scores.anomaly_map.shape == (24, 3, 64, 64)
    p = bundle.calibration.p_values("fused", scores.score)
    assert p.min() >= 1 / 5
    held_out = split_indices(24, seed=0).held_out
    assert set(p[held_out].round(6)) == {0.4, 0.6, 0.8, 1.0}  # each has itself, and those above


def test_two_pictures_are_too_few(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(path for path in pictures.rglob("*") if path.is_file())[2:]:
        path.unlink()
    result = run(capsys, "train", "--data", pictures, "--out", tmp_path / "out", *SHORT)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", "2 different", "3 is the minimum")


@pytest.mark.parametrize("size", ["15", "257"])
def test_a_size_that_convolutions_do_not_take(
    size: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--out", str(tmp_path / "out"), "--arch", "conv", "--size", size]
    result = run(capsys, "train", "--data", pictures, *flags)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", size, "16 to 256")
    assert not (tmp_path / "out").exists()


def test_an_npz_gives_the_image_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "my.npz", images=images)
    result = run(capsys, "train", "--data", tmp_path / "my.npz", "--out", tmp_path / "o", *SHORT)
    assert result.status == 0
    assert load_bundle(tmp_path / "o").config.image_shape == (3, 6, 9)


def test_the_relu_head(idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--head", "relu")
    assert result.status == 0
    bundle = load_bundle(out)
    assert bundle.config.head == "relu"
    assert bundle.pixel_variance is None
    assert bundle.metrics["test"]["negative_elbo"] is None


def test_augmentation_is_used_and_recorded(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = []
    for number, augment in enumerate(["0", "0.1"]):
        out = tmp_path / str(number)
        result = run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--augment", augment)
        assert result.status == 0
        bundle = load_bundle(out)
        assert bundle.provenance["augment"] == float(augment)
        versions.append(bundle.version)
    assert versions[0] != versions[1]
