"""`python -m model train` says what it read and what it chose, and chooses what suits."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from model.bundle.bundle import Bundle, load_bundle
from tests.unit.model.commands.command_line import QUICK, Result, line, lines, run
from tests.unit.model.commands.photographs import folder_of, picture, save
from tests.unit.samples import assert_one_line

NAMES = [f"{number:02}.png" for number in range(12)]


def trained(
    capsys: pytest.CaptureFixture[str], data: Path, out: Path, *flags: str
) -> tuple[Result, Bundle]:
    result = run(capsys, "train", "--data", data, "--out", out, *QUICK, *flags)
    assert (result.status, result.err) == (0, "")
    return result, load_bundle(out)


# What suits the images


def test_small_grey_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder_of(tmp_path / "grey", NAMES)
    (data / "notes.txt").write_text("no picture")
    result, bundle = trained(capsys, data, tmp_path / "out")
    assert lines(result)[:9] == [
        f"read 12 images from {data}",
        "formats   12 PNG",
        "sizes     28×28 (width×height)",
        "modes     12 grey",
        "used as   28×28 (width×height), grey",
        "left out  1 .txt file: not an image (notes.txt)",
        "without a detector, which finds far more defects in photographs: "
        "pip install 'vae-service[photographs]' adds it",
        "network: mlp (256, 64), latent size 10, for grey images of 28×28 (width×height)",
        "training: at most 20 steps of 16 images; calibrated on all 12 images, each scored by the "
        "one of 3 networks that was not trained on it",
    ]
    assert bundle.config.architecture == "mlp"
    assert bundle.config.image_shape == (1, 28, 28)


def test_colour_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{'ab'[number % 2]}/{number:02}.jpg" for number in range(12)]
    data = folder_of(tmp_path / "colour", names, size=(80, 60), mode="RGB")
    result, bundle = trained(capsys, data, tmp_path / "out")
    assert line(result, "subfolders") == "subfolders  a 6, b 6"
    assert line(result, "sizes") == "sizes       80×60 (width×height)"
    assert line(result, "network: ") == (
        "network: conv (64, 64, 128), latent size 32, for RGB images of 64×48 (width×height)"
    )
    assert bundle.config.architecture == "conv"
    assert bundle.config.image_shape == (3, 48, 64)
    assert bundle.config.latent_size == 32


def test_grey_pictures_saved_as_rgb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One channel, unless three are asked for; a single image with colour makes it three."""
    data = folder_of(tmp_path / "grey", NAMES)
    for path in data.iterdir():
        save(path, picture(int(path.stem)).convert("RGB"))
    result, bundle = trained(capsys, data, tmp_path / "1")
    assert line(result, "no image has any colour") == (
        "no image has any colour, so all are read as grey"
    )
    assert line(result, "modes") == "modes    12 RGB"
    assert bundle.config.image_shape == (1, 28, 28)
    small = ["--arch", "mlp", "--hidden", "8"]
    result, bundle = trained(capsys, data, tmp_path / "2", "--channels", "3", *small)
    assert "no image has any colour" not in result.out
    assert bundle.config.image_shape == (3, 28, 28)
    save(data / "00.png", picture(0, mode="RGB"))
    result, bundle = trained(capsys, data, tmp_path / "3", *small)
    assert "no image has any colour" not in result.out
    assert bundle.config.image_shape == (3, 28, 28)


def test_mixed_sizes_and_what_is_stretched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The median aspect ratio is kept; one that differs by more than 2:1 is named."""
    data = folder_of(tmp_path / "mixed", NAMES, size=(200, 150))
    save(data / "square.png", picture(20, (90, 90)))
    save(data / "tall.png", picture(21, (50, 100)))
    result, bundle = trained(capsys, data, tmp_path / "out", "--arch", "mlp")
    assert bundle.config.image_shape == (1, 48, 64)
    assert line(result, "sizes").endswith("12 of 200×150, 1 of 90×90, 1 of 50×100 (width×height)")
    warning = line(result, "warning: 1 image is stretched")
    assert "by more than 2:1 to fit 64×48 (width×height), the worst by 2.7:1 (tall.png)" in warning
    assert "square.png" not in warning


@pytest.mark.parametrize(
    ("size", "shape"),
    [("64", (1, 64, 48)), ("48x64", (1, 48, 64)), ("20X30", (1, 20, 30)), ("8×9", (1, 8, 9))],
)
def test_a_size_is_the_longer_side_or_both(
    size: str,
    shape: tuple[int, int, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = folder_of(tmp_path / "tall", NAMES, size=(30, 40))
    flags = ["--size", size, "--arch", "mlp", "--hidden", "8"]
    _, bundle = trained(capsys, data, tmp_path / "out", *flags)
    assert bundle.config.image_shape == shape


@pytest.mark.parametrize("size", ["0", "-28", "2049", "48x", "x", "48x64x3", "48x0", "big", "6.4"])
def test_a_wrong_size(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder_of(tmp_path / "grey", NAMES)
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", f"--size={size}")
    assert (result.status, result.out) == (2, "")
    assert_one_line(ValueError(result.err.strip()), f"error: --size is {size},", "48x64", "2,048")
    assert not (tmp_path / "out").exists()


def test_a_size_for_what_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "nowhere"
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", "--size", "64")
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), data, "does not exist")


# Data sets that hold more than normal images


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        (["test/good/00.png", "test/crack/00.png", "ground_truth/crack/00_mask.png"], "test set"),
        (["defective/00.png"], "defects"),
    ],
)
def test_a_root_with_a_test_set_is_refused_with_what_was_meant(
    others: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "my bottles", tmp_path / "out"
    folder_of(root, [f"train/good/{name}" for name in NAMES])
    folder_of(root, others, first_seed=50)
    result = run(capsys, "train", "--data", root, "--out", out, *QUICK)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", root, reason)
    assert not out.exists()
    option, meant = shlex.split(result.err)[-2:]
    assert (option, meant) == ("--data", str(root / "train" / "good"))
    _, bundle = trained(capsys, Path(meant), out)
    assert bundle.calibration is not None
    assert bundle.calibration.n == len(NAMES)


def test_masks_beside_the_images_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of(tmp_path / "data", NAMES, mode="RGB")
    folder_of(data, [name.replace(".", "_mask.") for name in NAMES], first_seed=50)
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *QUICK)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", data, "12 masks", "00_mask.png")
    assert not (tmp_path / "out").exists()


# Labels


def test_labels_are_ignored_and_said_so_or_chosen_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the test images as well."""
    noise = np.random.default_rng(0)
    train, test = (noise.integers(0, 256, (n, 6, 9), dtype=np.uint8) for n in (30, 20))
    labels = np.arange(30) % 3, np.arange(20) % 5
    data = tmp_path / "my.npz"
    np.savez(data, x_train=train, x_test=test, y_train=labels[0], y_test=labels[1])
    result, bundle = trained(capsys, data, tmp_path / "all")
    assert line(result, "read ") == "read 30 images from my.npz, array x_train"
    assert line(result, "labels") == (
        "labels  3 (0 to 2), ignored; --normal-label N takes the images of one"
    )
    assert bundle.metrics["held_out"]["n"] == 30
    assert bundle.metrics["test"]["n"] == 20
    assert "label" not in bundle.provenance
    result, bundle = trained(capsys, data, tmp_path / "one", "--normal-label", "1")
    assert line(result, "read ").startswith("read 10 images ")
    assert line(result, "labels") == "labels  1 alone"
    assert bundle.metrics["held_out"]["n"] == 10
    assert bundle.metrics["test"]["n"] == 4
    assert bundle.provenance["label"] == 1
    flags = ["--normal-label", "7", "--out", str(tmp_path / "none")]
    refused = run(capsys, "train", "--data", data, *flags)
    assert refused.status == 2
    assert_one_line(ValueError(refused.err.strip()), "label 7", "0, 1, 2")
    assert not (tmp_path / "none").exists()
