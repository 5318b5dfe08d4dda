"""Large JPEG files are read alike by every command and by the service, as the bundle says."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.bundle.bundle import load_bundle
from model.commands.evaluation_inputs import read_inputs
from model.config import VAEConfig
from model.datasets.load import load_images
from model.evaluation.card import model_card
from model.images.copies import pixel_hashes
from model.images.preprocessing import SCALED, WHOLE, Preprocessing
from service.codecs.image_files import read_file_image
from service.codecs.options import ImageOptions
from tests.unit.model.commands.command_line import SHORT, line, run
from tests.unit.model.commands.photographs import folder_of
from tests.unit.samples import tiny_bundle

N = 24
SHAPE = (3, 12, 16)

each_preprocessing = pytest.mark.parametrize("preprocessing", [WHOLE, SCALED])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """More than eight times as large as the network's images, and no multiple of eight."""
    names = [f"{number:02}.jpg" for number in range(N)]
    folder = folder_of(tmp_path / "photographs", names, size=(259, 197), mode="RGB")
    one, other = (
        load_images(folder, "train", image_shape=SHAPE, preprocessing=preprocessing).images
        for preprocessing in (WHOLE, SCALED)
    )
    assert all((a != b).any() for a, b in zip(one, other, strict=True)), "one can tell which it was"
    return folder


@each_preprocessing
def test_training_and_serving_see_the_same_pixels(
    photographs: Path, preprocessing: Preprocessing
) -> None:
    data = load_images(photographs, "train", image_shape=SHAPE, preprocessing=preprocessing)
    assert data.folder is not None
    options = ImageOptions(
        shape=SHAPE, preprocessing=preprocessing, max_images=1, max_image_pixels=100_000
    )
    for image, file in zip(data.images, data.folder.images, strict=True):
        served = read_file_image(file.path.read_bytes(), options)
        assert np.array_equal(served, image.reshape(1, -1))


def test_a_new_network_is_trained_on_scaled_photographs(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    size = ["--size", "12x16", "--arch", "mlp"]
    assert run(capsys, "train", "--data", photographs, "--out", out, *SHORT, *size).status == 0
    bundle = load_bundle(out)
    assert bundle.preprocessing == SCALED
    assert bundle.trained_on is not None
    images = load_images(photographs, "train", image_shape=SHAPE, preprocessing=SCALED).images
    known = np.isin(pixel_hashes(images), bundle.trained_on).sum()
    assert known == len(bundle.trained_on) > N / 2


def bundle_that_knows(photographs: Path, preprocessing: Preprocessing, n: int, out: Path) -> Path:
    """A bundle that was trained on the first `n`, read by these rules."""
    data = load_images(photographs, "train", image_shape=SHAPE, preprocessing=preprocessing)
    made = tiny_bundle(
        config=VAEConfig(image_shape=SHAPE, hidden_sizes=(8,), latent_size=2),
        preprocessing=preprocessing,
        trained_on=np.sort(pixel_hashes(data.images[:n])),
    )
    made.save(out, model_card(made))
    return out


@each_preprocessing
@pytest.mark.parametrize("split", [[], ["--split", "train"]])
def test_calibrating_reads_them_as_the_bundle_says(
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    preprocessing: Preprocessing,
    split: list[str],
) -> None:
    bundle = bundle_that_knows(photographs, preprocessing, 5, tmp_path / "mine")
    result = run(capsys, "calibrate", "--bundle", bundle, "--data", photographs, *split)
    assert line(result, "left out 5 images that the network was trained on")
    assert load_bundle(bundle).preprocessing == preprocessing


@each_preprocessing
def test_anomalies_are_read_like_clean_images(
    photographs: Path, preprocessing: Preprocessing
) -> None:
    inputs = read_inputs(
        Console(file=StringIO()),
        SHAPE,
        preprocessing,
        data=photographs,
        anomalies=[photographs],
        masks=[],
        normal_label=None,
    )
    expected = load_images(photographs, "train", image_shape=SHAPE, preprocessing=preprocessing)
    for found in (inputs.clean, *inputs.anomalies):
        assert np.array_equal(found.images, expected.images)


def test_evaluating_reads_them_as_each_bundle_says(
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make_directories(directories: list[Path], *_: object) -> None:
        for directory in directories:
            directory.mkdir(parents=True)

    monkeypatch.setattr("model.evaluation.plots.save_plots", make_directories)
    whole = bundle_that_knows(photographs, WHOLE, 5, tmp_path / "whole")
    scaled = bundle_that_knows(photographs, SCALED, 7, tmp_path / "scaled")
    out = tmp_path / "out"
    usual: list[str | Path] = ["--data", photographs, "--anomalies", photographs, "--out", out]
    result = run(capsys, "evaluate", *usual, "--bundle", whole, scaled)
    assert result.status == 0, result.err
    for name, known in (("whole", 5), ("scaled", 7)):
        report = (out / name / "evaluation.md").read_text(encoding="utf-8")
        assert f"trained on {known} of these {N} images" in report
    assert "3×12×16" not in result.out, "there is one shape only"
