"""`vae evaluate`: kinds, masks, several bundles, labels, and what it says first."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from model.__main__ import main
from model.bundle.bundle import load_bundle
from model.commands.evaluation_inputs import read_inputs
from model.config import VAEConfig
from model.evaluation.card import model_card
from model.images.preprocessing import WHOLE
from model.training.calibrate import calibrated
from tests.unit.samples import tiny_bundle

CONFIG = VAEConfig(hidden_sizes=(8,), latent_size=2)


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else."""

    def make(directories: Sequence[Path], *_: object) -> None:
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr("model.evaluation.plots.save_plots", make)


def save_bundle(
    place: Path, digits: NDArray[np.uint8], config: VAEConfig = CONFIG, seed: int = 0
) -> Path:
    _, height, width = config.image_shape
    plain = tiny_bundle(seed, config=config, name=place.name)
    others = digits[300:360, :, :height, :width]
    made = calibrated(plain, others, data_set="held out", date="2026-01-02")
    made.save(place, model_card(made))
    return place


@pytest.fixture
def bundle(tmp_path: Path, digits: NDArray[np.uint8]) -> Path:
    return save_bundle(tmp_path / "mine", digits)


def write_images(directory: Path, images: NDArray[np.uint8]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(directory / f"{i:03}.png")
    return directory


@pytest.fixture
def clean(tmp_path: Path, digits: NDArray[np.uint8]) -> Path:
    return write_images(tmp_path / "clean", digits[:30])


@pytest.fixture
def bad(tmp_path: Path, digits: NDArray[np.uint8]) -> Path:
    """A test set: two kinds of anomalies, and normal images that are none."""
    write_images(tmp_path / "bad" / "light", 255 - digits[200:206])
    write_images(tmp_path / "bad" / "dark", digits[210:214] // 4)
    write_images(tmp_path / "bad" / "good", digits[220:222])
    return tmp_path / "bad"


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Of all light ones, which are named with an affix, of one dark one, and of no image."""
    mask = np.zeros((1, 1, 56, 56), np.uint8)
    mask[..., 20:30, 10:20] = 255
    for name in (*(f"light/{i:03}_mask.png" for i in range(6)), "dark/001.png", "dark/077.png"):
        path = tmp_path / "ground_truth" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask[0, 0]).save(path)
    return tmp_path / "ground_truth"


def evaluate(*arguments: str | Path) -> int:
    return main(["evaluate", *map(str, arguments)])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_subfolders_have_rows_and_masks_figures(
    bundle: Path,
    clean: Path,
    bad: Path,
    masks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    usual = ("--bundle", bundle, "--data", clean, "--anomalies", bad, "--out", out)
    assert evaluate(*usual, "--masks", masks) == 0
    printed = " ".join(capsys.readouterr().out.split())
    sets = read(out / "evaluation.json")["anomalies"]
    assert [
        (found["images"]["name"], found["images"]["n"], found["part_of"]) for found in sets
    ] == [
        *(("bad", 10, ""), ("dark", 4, "bad"), ("light", 6, "bad")),
    ]
    figures = [found["localization"] for found in sets]
    assert [(f["n"], f["without_mask"]) for f in figures[:3]] == [(7, 3), (1, 3), (6, 0)]
    assert figures[2]["defect_share"] == pytest.approx(25 / 784)
    for text in (
        "left out 2 normal images",
        "masks: 7 of 10 images of bad",
        "3 images have no mask: dark/000.png, dark/002.png, dark/003.png",
        "1 mask has no image: dark/077.png",
        "· light",
        "pixel AUROC",
    ):
        assert text in printed
    with (out / "scores.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == ["clean"] * 30 + ["bad"] * 10
    assert rows[30]["file"] == "dark/000.png"


def test_masks_that_fit_no_image_are_refused(
    bundle: Path, clean: Path, bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_images(tmp_path / "other" / "scratch", np.zeros((2, 1, 9, 9), np.uint8)).parent
    usual = ("--bundle", bundle, "--data", clean, "--anomalies", bad, "--out", tmp_path / "out")
    assert evaluate(*usual, "--masks", other) == 2
    error = capsys.readouterr().err
    assert "scratch/000.png" in error
    assert "dark/000.png" in error
    assert evaluate(*usual, "--masks", tmp_path / "nowhere") == 2
    assert "nowhere is not a directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_odd_masks_are_warned_of(
    bundle: Path, clean: Path, bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    write_images(masks / "light", np.full((6, 1, 28, 14), 255, np.uint8))
    write_images(masks / "dark", np.zeros((4, 1, 28, 28), np.uint8))
    usual = ("--bundle", bundle, "--data", clean, "--anomalies", bad, "--out", tmp_path / "out")
    assert evaluate(*usual, "--masks", masks) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: 6 masks have another aspect ratio than their images" in printed
    assert "mark 100% of the pixels as defects; are they inverted?" in printed
    assert "4 masks are empty, and count as none" in printed


def test_a_baseline_that_is_as_good_comes_first(
    bundle: Path, clean: Path, bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    usual = ("--bundle", bundle, "--data", clean, "--out", out)
    assert evaluate(*usual, "--anomalies", bad / "light") == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("On light, mean intensity alone is ")
    assert (out / "evaluation.md").read_text(encoding="utf-8").splitlines()[0] == first


def test_several_bundles_of_several_shapes_are_compared(
    bundle: Path,
    clean: Path,
    bad: Path,
    masks: Path,
    digits: NDArray[np.uint8],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = VAEConfig(image_shape=(1, 20, 16), hidden_sizes=(8,), latent_size=3)
    others = [
        save_bundle(tmp_path / "deeper" / "mine", digits, seed=1),
        save_bundle(tmp_path / "small", digits, config=small),
    ]
    out = tmp_path / "out"
    usual = ("--data", clean, "--anomalies", bad, "--masks", masks, "--out", out)
    assert evaluate("--bundle", bundle, *others, *usual, "--update-card") == 0
    printed = capsys.readouterr().out
    found = read(out / "comparison.json")
    assert [made["name"] for made in found["bundles"]] == ["mine", "mine-2", "small"]
    assert [made["latent_size"] for made in found["bundles"]] == [2, 2, 3]
    assert len(found["anomalies"]) == 3
    for place, name in ((bundle, "mine"), (others[0], "mine-2"), (others[1], "small")):
        single = read(out / name / "evaluation.json")
        assert load_bundle(place).metrics["evaluation"] == single
        made = next(made for made in found["bundles"] if made["name"] == name)
        assert made["version"] == single["version"]
        for row, anomalies in zip(found["anomalies"], single["anomalies"], strict=True):
            cell = row["cells"][found["bundles"].index(made)]
            assert cell["auroc"] == anomalies["detections"][0]["auroc"]
            assert row["name"] == anomalies["images"]["name"]
        assert (out / name / "scores.csv").exists()
    markdown = (out / "comparison.md").read_text(encoding="utf-8")
    assert "| anomalies | n | mine | mine-2 | small |" in markdown
    assert "★" in printed
    assert printed.count("read 30 images") == 1


def test_what_cannot_be_compared_is_refused(
    bundle: Path, clean: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_bundle(bundle.parent / "other", digits)
    assert evaluate("--bundle", bundle, bundle, "--data", clean) == 2
    assert "twice" in capsys.readouterr().err
    before = sorted(bundle.iterdir())
    usual = ("--bundle", bundle, other, "--data", clean)
    assert evaluate(*usual, "--out", bundle.parent) == 2
    assert "mine holds a bundle, not results" in capsys.readouterr().err
    assert sorted(bundle.iterdir()) == before


def test_clean_images_may_be_those_with_a_label(
    bundle: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = np.arange(40) % 4
    np.savez(tmp_path / "set.npz", images=digits[:40], labels=labels)
    out = tmp_path / "out"
    data = tmp_path / "set.npz"
    usual = ("--bundle", bundle, "--data", data, "--out", out, "--normal-label")
    assert evaluate(*usual, "1", "--anomalies", data) == 0
    found = read(out / "evaluation.json")
    assert found["clean"]["n"] == 10
    assert found["anomalies"][0]["images"]["n"] == 30  # the others of the same file
    printed = capsys.readouterr().out
    assert "clean: the 10 images with label 1; left out: the 30 with other labels" in printed
    assert "are ignored" not in printed
    assert evaluate(*usual, "9") == 2
    assert "no images with label 9" in capsys.readouterr().err


def test_the_pca_is_fitted_to_training_images_with_that_label(
    digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    labels = np.arange(40) % 4
    np.savez(
        tmp_path / "set.npz",
        x_train=digits[:40],
        y_train=labels,
        x_test=digits[40:60],
        y_test=labels[:20],
    )
    inputs = read_inputs(
        Console(file=StringIO()),
        (1, 28, 28),
        WHOLE,
        data=tmp_path / "set.npz",
        anomalies=[],
        masks=[],
        normal_label=1,
    )
    assert inputs.training is not None
    np.testing.assert_array_equal(inputs.training, digits[:40][labels == 1])
    np.testing.assert_array_equal(inputs.clean.images, digits[40:60][labels[:20] == 1])


def test_what_was_read_is_said_before_an_error_too(
    bundle: Path, clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ("--bundle", bundle, "--data", clean, "--out", tmp_path / "out")
    assert evaluate(*usual, "--anomalies", tmp_path / "missing") == 2
    printed, error = capsys.readouterr()
    assert "read 30 images" in printed
    assert "missing" in error
