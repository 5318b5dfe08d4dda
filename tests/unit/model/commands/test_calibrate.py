"""`python -m model calibrate`."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.bundle.bundle import PRETRAINED, load_bundle
from model.config import VAEConfig
from model.datasets.load import load_images
from model.engine.engine import Engine
from model.evaluation.card import model_card
from model.images.copies import pixel_hashes, without_copies
from model.images.preprocessing import SCALED
from model.training.calibrate import all_scores
from model.vae import VAE
from tests.unit.model.commands.command_line import (
    N_TEST,
    N_TRAIN,
    SHORT,
    contents,
    files,
    line,
    output,
    run,
)
from tests.unit.model.commands.photographs import folder_of
from tests.unit.samples import assert_one_line, write_idx

UNRECORDED = "does not record which images it was trained on"

WARNING = "trained on these images"


def test_calibrate_changes_the_calibration_and_nothing_else(
    mine: Path, tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    before, old = contents(mine), load_bundle(mine)
    fresh = digits[N_TRAIN : N_TRAIN + 150]
    np.savez(tmp_path / "fresh.npz", images=fresh)
    result = run(capsys, "calibrate", "--bundle", mine, "--data", tmp_path / "fresh.npz")
    assert (result.status, result.err) == (0, "")
    bundle = load_bundle(mine)
    after = contents(mine)
    assert set(after) == set(before)
    assert after["model.safetensors"] == before["model.safetensors"]
    assert bundle.version == old.version
    assert (bundle.provenance, bundle.metrics) == (old.provenance, old.metrics)
    assert after["latents.safetensors"] == before["latents.safetensors"]
    assert "posterior means" not in result.out
    assert (mine / "README.md").read_text(encoding="utf-8") == model_card(bundle)
    calibration = bundle.calibration
    assert calibration is not None
    assert (calibration.n, calibration.data_set) == (150, "fresh")
    assert calibration.date == datetime.now(UTC).date().isoformat()
    scores = all_scores(Engine(bundle, device="cpu", threads=1), fresh)
    for name, values in scores.items():
        np.testing.assert_allclose(calibration.scores[name], np.sort(values), rtol=1e-4, atol=1e-4)
    assert "calibrated on 150 images of fresh" in output(result)
    for alpha in (0.05, 0.01):
        threshold = calibration.threshold("fused", alpha)
        assert line(result, f"at alpha {alpha:g}, ") == (
            f"at alpha {alpha:g}, an image with fused above {threshold:.4g} is an anomaly"
        )
    assert "warning" not in result.out


def test_without_out_it_goes_to_runs(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(capsys, "train", "--data", idx, *SHORT)
    assert (result.status, result.err) == (0, "")
    assert load_bundle(tmp_path / "runs" / "digits").name == "digits"


def test_one_that_ships_is_calibrated_elsewhere(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = PRETRAINED / "mnist"
    before = contents(shipped)
    for name in ("mnist", str(shipped)):
        result = run(capsys, "calibrate", "--bundle", name, "--data", idx)
        assert result.status == 2
        assert_one_line(ValueError(result.err.strip()), name, "--out")
    out = tmp_path / "ours"
    result = run(capsys, "calibrate", "--bundle", "mnist", "--data", idx, "--out", out)
    assert (result.status, result.err) == (0, "")
    again = run(capsys, "calibrate", "--bundle", "fashion-mnist", "--data", idx, "--out", out)
    assert again.status == 2
    assert_one_line(ValueError(again.err.strip()), out, "--overwrite")
    assert contents(shipped) == before
    bundle = load_bundle(out)
    assert bundle.version == load_bundle(shipped).version
    assert bundle.calibration is not None
    assert bundle.calibration.n == N_TEST
    card = (out / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"\((plots/[^)]+)\)", card)
    assert shown
    assert all((out / path).is_file() for path in shown)


def test_an_imported_bundle_has_no_calibration_until_it_gets_one(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    torch.save(VAE(VAEConfig(head="relu")).state_dict(), tmp_path / "vae.pt")
    assert run(capsys, "import", tmp_path / "vae.pt", "--out", out).status == 0
    imported = load_bundle(out)
    assert (imported.calibration, imported.statistics, imported.latents) == (None, None, None)
    assert "calibration.safetensors" not in files(out)
    result = run(capsys, "calibrate", "--bundle", out, "--data", idx)
    assert (result.status, result.err) == (0, "")
    assert "an image with mse_top5 above" in output(result)
    bundle = load_bundle(out)
    assert bundle.calibration is not None
    assert list(bundle.calibration.scores) == ["mse_top5", "mse", "kl"]
    assert (bundle.calibration.n, bundle.calibration.data_set) == (N_TEST, "digits")
    assert bundle.version == imported.version
    assert run(capsys, "import", tmp_path / "vae.pt", "--out", out, "--overwrite").status == 0
    assert load_bundle(out).calibration is None


def test_a_bundle_without_posterior_means_gets_those_of_the_clean_images(
    mine: Path, tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    """As one of an older version. Those that it has by then are kept the next time."""
    bundle = replace(load_bundle(mine), latents=None)
    bundle.save(mine, model_card(bundle))
    assert "latents.safetensors" not in files(mine)
    fresh = digits[N_TRAIN : N_TRAIN + 150]
    np.savez(tmp_path / "fresh.npz", images=fresh, labels=np.arange(150))
    result = run(capsys, "calibrate", "--bundle", mine, "--data", tmp_path / "fresh.npz")
    assert (result.status, result.err) == (0, "")
    assert line(result, "the bundle kept no ") == (
        "the bundle kept no posterior means of images: added those of 150 images of fresh"
    )
    latents = load_bundle(mine).latents
    assert latents is not None
    assert latents.data_set == "fresh, images calibrated on"
    assert latents.labels is not None
    np.testing.assert_array_equal(latents.labels, np.arange(150))
    expected = Engine(bundle, device="cpu", threads=1).encode(fresh).mu
    np.testing.assert_allclose(latents.mu, expected, rtol=1e-4, atol=1e-4)
    card = (mine / "README.md").read_text(encoding="utf-8")
    assert "- Posterior means kept: 150 images, fresh, images calibrated on" in card
    before = contents(mine)
    np.savez(tmp_path / "others.npz", images=digits[N_TRAIN + 150 : N_TRAIN + 250])
    result = run(capsys, "calibrate", "--bundle", mine, "--data", tmp_path / "others.npz")
    assert (result.status, result.err) == (0, "")
    assert "posterior means" not in result.out
    assert contents(mine)["latents.safetensors"] == before["latents.safetensors"]


def test_the_test_images_calibrate_where_there_are_any(
    mine: Path, idx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And of the others, those that the network was not trained on."""
    held_out = load_bundle(mine).provenance["images_held_out"]
    for split, n in (([], N_TEST), (["test"], N_TEST), (["train"], held_out)):
        flags = ["--split", *split] if split else []
        result = run(capsys, "calibrate", "--bundle", mine, "--data", idx, *flags)
        assert (result.status, result.err) == (0, "")
        left_out = f"left out {N_TRAIN - held_out} images that the network was trained on"
        assert (left_out in result.out) == (split == ["train"])
        assert WARNING not in result.out
        calibration = load_bundle(mine).calibration
        assert calibration is not None
        assert calibration.n == n


def test_images_that_were_trained_on_and_duplicates_are_left_out(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder under other names, and among others in an .npz file."""
    out = tmp_path / "out"
    size = ["--size", "12x12", "--arch", "mlp", "--name", "mine"]
    assert run(capsys, "train", "--data", pictures, "--out", out, *SHORT, *size).status == 0
    before = load_bundle(out)
    held_out = before.provenance["images_held_out"]
    assert before.trained_on is not None
    moved = pictures.rename(tmp_path / "moved")
    (moved / "00.png").rename(moved / "renamed.png")
    shutil.copy(moved / "renamed.png", moved / "again.png")
    result = run(capsys, "calibrate", "--bundle", out, "--data", moved)
    assert (result.status, result.err) == (0, "")
    assert line(result, "read ") == f"read 25 images from {moved}"
    assert line(result, "left out 1 ") == "left out 1 duplicate, the same pixel by pixel"
    known = line(result, f"left out {24 - held_out} images that the network was trained on (")
    assert known.endswith(f" and {24 - held_out - 3} more)")
    named = known.partition("(")[2].partition(" and ")[0].split(", ")
    assert all((moved / name).is_file() for name in named)
    assert line(result, "wrote ") == f"wrote {out}, calibrated on {held_out} images of moved"
    calibration = load_bundle(out).calibration
    assert calibration is not None
    assert (calibration.n, calibration.data_set, calibration.folds) == (held_out, "moved", 0)
    images = load_images(moved, "train", image_shape=(3, 12, 12), preprocessing=SCALED).images
    images = images[without_copies(pixel_hashes(images))]
    unseen = images[~np.isin(pixel_hashes(images), before.trained_on)]
    scores = all_scores(Engine(before, device="cpu", threads=1), unseen)
    for name, values in scores.items():
        np.testing.assert_allclose(calibration.scores[name], np.sort(values), rtol=1e-4, atol=1e-4)

    fresh = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    both = np.concatenate([fresh, images.transpose(0, 2, 3, 1)])
    np.savez(tmp_path / "both.npz", images=both)
    result = run(capsys, "calibrate", "--bundle", out, "--data", tmp_path / "both.npz")
    assert f"calibrated on {held_out + 2} images of both" in result.out


def test_only_images_that_were_trained_on_are_refused(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    size = ["--size", "12x12", "--arch", "mlp"]
    assert run(capsys, "train", "--data", pictures, "--out", out, *SHORT, *size).status == 0
    bundle, before = load_bundle(out), contents(out)
    data = load_images(pictures, "train", image_shape=(3, 12, 12), preprocessing=SCALED)
    assert data.folder is not None
    assert bundle.trained_on is not None
    for image, pixels in zip(data.folder.images, pixel_hashes(data.images), strict=True):
        if pixels not in bundle.trained_on:
            image.path.unlink()
    result = run(capsys, "calibrate", "--bundle", out, "--data", pictures)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "trained on every image of pictures")
    assert contents(out) == before


def test_a_bundle_that_does_not_record_its_images_is_warned_of(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As those of older versions; then the whole set of images can be known again by its files."""
    out, older = tmp_path / "out", tmp_path / "older"
    size = ["--size", "12x12", "--arch", "mlp"]
    assert run(capsys, "train", "--data", pictures, "--out", out, *SHORT, *size).status == 0
    assert UNRECORDED not in run(capsys, "calibrate", "--bundle", out, "--data", pictures).out
    bundle = replace(load_bundle(out), trained_on=None)
    bundle.save(older, model_card(bundle))
    calibrate = ["calibrate", "--bundle", str(older), "--data", str(pictures)]
    result = run(capsys, *calibrate)
    assert (result.status, result.err) == (0, "")
    assert UNRECORDED in line(result, "warning: this bundle")
    assert WARNING in result.out
    assert "calibrated on 24 images of pictures" in result.out
    (pictures / "00.png").unlink()
    result = run(capsys, *calibrate)
    assert UNRECORDED in result.out
    assert WARNING not in result.out


def test_one_label_calibrates(
    mine: Path, tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "my.npz"
    np.savez(data, x_test=digits[N_TRAIN:][:120], y_test=np.arange(120) % 4)
    calibrate = ["calibrate", "--bundle", str(mine), "--data", str(data)]
    assert line(run(capsys, *calibrate), "labels").startswith("labels  4 (0 to 3), ignored")
    result = run(capsys, *calibrate, "--normal-label", "3")
    assert (result.status, result.err) == (0, "")
    assert line(result, "labels") == "labels  3 alone"
    assert "calibrated on 30 images of my" in result.out
    before = contents(mine)
    result = run(capsys, *calibrate, "--normal-label", "4")
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "label 4", "0, 1, 2, 3")
    assert contents(mine) == before


def test_a_root_with_a_test_set_is_refused_with_its_normal_images(
    mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["train/good/0.png", "test/good/1.png", "test/good/2.png", "test/crack/3.png"]
    root = folder_of(tmp_path / "bottle", names)
    before = contents(mine)
    result = run(capsys, "calibrate", "--bundle", mine, "--data", root)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "test set", f"--data {root / 'test' / 'good'}")
    assert contents(mine) == before
    meant = run(capsys, "calibrate", "--bundle", mine, "--data", root / "test" / "good")
    assert "calibrated on 2 images of good" in meant.out


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, {"0.05": "19", "0.01": "99"}),
        (18, {"0.05": "19", "0.01": "99"}),
        (19, {"0.01": "99"}),
        (98, {"0.01": "99"}),
        (99, {}),
    ],
)
def test_too_few_images_for_a_rate_are_warned_of(
    n: int,
    expected: dict[str, str],
    mine: Path,
    tmp_path: Path,
    digits: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.savez(tmp_path / "few.npz", images=digits[N_TRAIN : N_TRAIN + n])
    result = run(capsys, "calibrate", "--bundle", mine, "--data", tmp_path / "few.npz")
    assert (result.status, result.err) == (0, "")
    warnings = re.findall(
        r"warning: calibrated on (\d+) images?, too few for a false-alarm rate of ([\d.]+), which "
        r"needs (\d+)",
        output(result),
    )
    assert warnings == [(str(n), alpha, least) for alpha, least in expected.items()]
    assert ("on 1 image," in output(result)) == (n == 1)
    assert "on 1 images" not in output(result)
    thresholds = re.findall(r"at alpha ([\d.]+),", output(result))
    assert thresholds == [alpha for alpha in ("0.05", "0.01") if alpha not in expected]


GOOD = np.zeros((5, 28, 28), np.uint8)

BAD_ARRAYS: dict[str, dict[str, NDArray[Any]]] = {
    "wrong shape": {"images": np.zeros((5, 8, 8), np.uint8)},
    "wrong shape of the test images": {"x_train": GOOD, "x_test": np.zeros((5, 8, 8), np.uint8)},
    "NaN": {"images": np.where(GOOD, 1.0, np.nan)},
    "NaN in the test images": {"x_train": GOOD, "x_test": np.where(GOOD, 1.0, np.nan)},
    "NaN in a corner": {"images": np.where(np.arange(28) == 27, np.nan, GOOD + 0.5)},
    "infinity": {"images": np.where(GOOD, 1.0, np.inf)},
    "no images": {"images": GOOD[:0]},
    "nothing": {},
    "other names": {"pixels": GOOD},
}


@pytest.mark.parametrize("arrays", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_cannot_calibrate(
    arrays: dict[str, NDArray[Any]], mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(mine)
    np.savez(tmp_path / "bad.npz", **arrays)  # type: ignore[arg-type]
    result = run(capsys, "calibrate", "--bundle", mine, "--data", tmp_path / "bad.npz")
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", tmp_path / "bad.npz")
    assert contents(mine) == before


@pytest.mark.parametrize("kind", ["absent", "empty folder", "broken images", "empty", "no .npz"])
def test_files_that_cannot_calibrate(
    kind: str, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(mine)
    data = tmp_path / "data.npz" if kind in {"empty", "no .npz"} else tmp_path / "data"
    if kind in {"empty folder", "broken images"}:
        data.mkdir()
    if kind == "broken images":
        (data / "a.png").write_bytes(b"broken")
    if kind in {"empty", "no .npz"}:
        data.write_bytes(b"" if kind == "empty" else b"no archive")
    result = run(capsys, "calibrate", "--bundle", mine, "--data", data)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", data)
    assert contents(mine) == before


def test_broken_test_images_do_not_become_training_images_unsaid(
    mine: Path, tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_idx(tmp_path / "data", digits[:30], digits[:30])
    (data / "t10k-images-idx3-ubyte.gz").write_bytes(b"broken")
    before = contents(mine)
    result = run(capsys, "calibrate", "--bundle", mine, "--data", data)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", "t10k")
    assert contents(mine) == before
