"""`python -m model evaluate`, as a user types it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.__main__ import main
from model.bundle.bundle import load_bundle
from model.bundle.latent_sample import LatentSample
from model.config import VAEConfig
from model.datasets.load import load_images, load_unseen
from model.evaluation.card import model_card
from model.evaluation.figures import Evaluation
from model.evaluation.report import picture_names
from model.images.copies import pixel_hashes
from model.training.calibrate import calibrated
from tests.unit.samples import tiny_bundle, write_idx

CONFIG = VAEConfig(hidden_sizes=(8,), latent_size=2)


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory, digits: NDArray[np.uint8]) -> Path:
    """Digits in IDX files, with labels beside those to test with."""
    directory = write_idx(tmp_path_factory.mktemp("data") / "digits", digits[:80], digits[80:130])
    write_labels(directory, np.arange(50, dtype=np.uint8) % 10)
    return directory


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory, digits: NDArray[np.uint8]) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "letters", 255 - digits[200:212])


@pytest.fixture
def bundle(tmp_path: Path, digits: NDArray[np.uint8]) -> Path:
    """A calibrated bundle, as a directory."""
    latents = LatentSample(mu=np.ones((3, CONFIG.latent_size), np.float32), data_set="digits")
    plain = tiny_bundle(config=CONFIG, pixel_variance=0.1, latents=latents)
    made = calibrated(plain, digits[300:360], data_set="held out", date="2026-01-02")
    made.save(tmp_path / "mine", model_card(made))
    return tmp_path / "mine"


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all else."""

    def make(directories: Sequence[Path], *_: object) -> None:
        for directory in directories:
            directory.mkdir(parents=True)

    monkeypatch.setattr("model.evaluation.plots.save_plots", make)


def write_labels(directory: Path, labels: NDArray[np.uint8], split: str = "t10k") -> None:
    header = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big")
    (directory / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


def write_images(directory: Path, images: NDArray[np.uint8]) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(directory / f"{i}.png")
    return directory


def evaluate(*arguments: str | Path) -> int:
    return main(["evaluate", *map(str, arguments)])


def evaluation_in(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "evaluation.json").read_text())
    return found


# What it writes


def test_it_writes_figures_report_and_pictures(
    bundle: Path, idx: Path, letters: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = tmp_path / "out", (bundle / "config.json").read_bytes()
    assert evaluate("--bundle", bundle, "--data", idx, "--anomalies", letters, "--out", out) == 0
    found = Evaluation.from_json(evaluation_in(out))
    assert {path.name for path in out.iterdir()} == {
        *("evaluation.json", "evaluation.md", "scores.csv", "plots")
    }
    pictures = {path.name for path in (out / "plots").iterdir()}
    assert pictures == {f"{name}.png" for name in picture_names(found)}
    assert "manifold.png" in pictures
    report = (out / "evaluation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(plots/(.+?)\)", report)) == pictures
    assert (found.clean.name, found.clean.n) == ("digits", 50)
    names = [anomalies.images.name for anomalies in found.anomalies]
    assert names == ["letters"]
    assert found.notes == ()
    printed, errors = capsys.readouterr()
    assert errors == ""
    for text in (
        "AUROC",
        "letters: 12 images",
        "PCA-10 error",
        f"{found.fit.mse:.5f}",
        "calibration halved",
        "digits",
    ):
        assert text in printed
    for text in (printed, report):
        assert "mirrored" not in text.lower()
    assert (bundle / "config.json").read_bytes() == before
    assert str(tmp_path) not in (out / "evaluation.json").read_text()


def test_it_puts_them_into_the_card(
    bundle: Path, idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    latents = (bundle / "latents.safetensors").read_bytes()
    assert evaluate("--bundle", bundle, "--data", idx, "--out", out, "--update-card") == 0
    assert (bundle / "latents.safetensors").read_bytes() == latents
    names = [anomalies["images"]["name"] for anomalies in evaluation_in(out)["anomalies"]]
    assert names == ["upside down", "mirrored"]
    found = load_bundle(bundle)
    assert found.metrics["evaluation"] == evaluation_in(out)
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert card == model_card(found)
    for name in re.findall(r"\]\(plots/(.+?)\)", card):
        assert (bundle / "plots" / name).read_bytes() == (out / "plots" / name).read_bytes()
    assert "p_values.png" in card
    assert main(["calibrate", "--bundle", str(bundle), "--data", str(idx)]) == 0
    assert "calibrated anew" in (bundle / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_plots")
def test_it_writes_to_a_place_of_the_bundle_s_name(
    bundle: Path, letters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate("--bundle", bundle, "--data", letters) == 0
    assert (tmp_path / "runs" / "evaluate" / "mine" / "evaluation.md").exists()


# What it warns of


@pytest.mark.usefixtures("no_plots")
def test_broken_files_are_named_and_counted(
    bundle: Path,
    letters: Path,
    digits: NDArray[np.uint8],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clean = write_images(tmp_path / "clean", digits[:12])
    (clean / "broken.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert evaluate("--bundle", bundle, "--data", clean, "--anomalies", letters, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "read 12 images" in printed
    assert "broken.png" in printed
    clean_facts = evaluation_in(out)["clean"]
    assert (clean_facts["n"], clean_facts["skipped"]) == (12, 1)


@pytest.mark.usefixtures("no_plots")
def test_it_counts_the_images_that_the_network_was_trained_on(
    digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    clean = write_images(tmp_path / "clean", digits[:12])
    images = load_images(clean, "train", image_shape=(1, 28, 28)).images
    seen = np.sort(pixel_hashes(np.concatenate([images[:5], digits[100:110]])))
    made = tiny_bundle(config=CONFIG, trained_on=seen)
    made.save(tmp_path / "mine", model_card(made))
    out = tmp_path / "out"
    assert evaluate("--bundle", tmp_path / "mine", "--data", clean, "--out", out) == 0
    (note,) = evaluation_in(out)["notes"]
    assert "trained on 5 of these 12 images" in note


@pytest.mark.usefixtures("no_plots")
def test_it_says_so_of_images_that_the_network_knows(
    idx: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = write_images(tmp_path / "clean", digits[:12])
    images = load_images(clean, "train", image_shape=(1, 28, 28))
    plain = tiny_bundle(config=CONFIG, provenance={"files_sha256": dict(images.files)})
    made = calibrated(plain, images.images, data_set="clean", date="2026-01-02")
    made.save(tmp_path / "mine", model_card(made))
    out = tmp_path / "out"
    assert evaluate("--bundle", tmp_path / "mine", "--data", clean, "--out", out) == 0
    printed = capsys.readouterr().out
    trained, calibrated_on = evaluation_in(out)["notes"]
    assert "trained on" in trained
    assert "calibration" in calibrated_on
    assert printed.count("warning:") == 2
    assert (out / "evaluation.md").read_text(encoding="utf-8").count("> **Note:**") == 2


@pytest.mark.usefixtures("no_plots")
def test_without_calibration(idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tiny_bundle(config=CONFIG)
    made.save(tmp_path / "mine", model_card(made))
    out = tmp_path / "out"
    assert evaluate("--bundle", tmp_path / "mine", "--data", idx, "--out", out) == 0
    assert evaluation_in(out)["false_alarms"] is None
    assert "no calibration" in capsys.readouterr().out


@pytest.mark.usefixtures("no_plots")
def test_colour_images_of_few_pixels(
    digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = VAEConfig(
        architecture="conv", image_shape=(3, 16, 20), hidden_sizes=(4, 8), latent_size=3
    )
    made = tiny_bundle(config=config)
    made.save(tmp_path / "mine", model_card(made))
    clean = write_images(tmp_path / "clean", np.repeat(digits[:12], 3, axis=1))
    out = tmp_path / "out"
    arguments = ("--data", clean, "--anomalies", clean, clean, "--out", out, "--update-card")
    assert evaluate("--bundle", tmp_path / "mine", *arguments) == 0
    names = [found["images"]["name"] for found in evaluation_in(out)["anomalies"]]
    assert names == ["clean", "clean (2)"]
    assert "patches of 4×4" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")


# What it refuses


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line that it says."""
    assert evaluate(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    return error


def test_bad_input_is_named_in_one_line(
    bundle: Path,
    idx: Path,
    digits: NDArray[np.uint8],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usual = ("--bundle", bundle, "--out", tmp_path / "out")
    other = write_idx(tmp_path / "other", digits[:9, :, :20, :20], digits[:9, :, :20, :20])
    error = refused(capsys, *usual, "--data", idx, "--anomalies", other)
    for word in ("other", "(1, 20, 20)", "(1, 28, 28)"):
        assert word in error
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in refused(capsys, *usual, "--data", empty)
    assert "empty" in refused(capsys, *usual, "--data", idx, "--anomalies", empty)
    assert "missing" in refused(capsys, *usual, "--data", tmp_path / "missing")
    few = write_images(tmp_path / "few", digits[:3])
    assert "few holds 3 images" in refused(capsys, *usual, "--data", few)
    assert "nowhere" in refused(capsys, "--bundle", "nowhere", "--data", idx)
    assert not (tmp_path / "out").exists()


def test_broken_test_images_do_not_become_training_images(
    bundle: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_idx(tmp_path / "data", digits[:20])
    (data / "t10k-images-idx3-ubyte").write_bytes(b"broken")
    assert "t10k" in refused(capsys, "--bundle", bundle, "--data", data)


def test_labels_of_other_images(
    bundle: Path, digits: NDArray[np.uint8], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_idx(tmp_path / "data", digits[:20], digits[:20])
    write_labels(data, np.zeros(19, np.uint8))
    error = refused(capsys, "--bundle", bundle, "--data", data)
    assert "20 test images" in error
    assert "19 labels" in error


def test_the_other_commands_do_without_the_extra(bundle: Path, idx: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('matplotlib', 'sklearn', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from model.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["--bundle", str(bundle), "--data", str(idx)]

    def run(command: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", code, command, *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False)  # noqa: S603

    ended = run("evaluate")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install 'vae-service[evaluate]'" in ended.stderr
    assert run("calibrate").returncode == 0


# Images not trained on


def test_test_images_are_taken_where_there_are_some(
    idx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    def loaded(path: Path) -> tuple[int, str]:
        data, split = load_unseen(path, image_shape=(1, 28, 28))
        return len(data.images), split

    assert loaded(idx) == (50, "test")
    assert loaded(write_images(tmp_path / "folder", digits[:7])) == (7, "train")
    assert loaded(write_idx(tmp_path / "idx", digits[:6])) == (6, "train")
    np.savez(tmp_path / "both.npz", images=digits[:5], x_test=digits[:4])
    assert loaded(tmp_path / "both.npz") == (4, "test")
    np.savez(tmp_path / "one.npz", images=digits[:5])
    assert loaded(tmp_path / "one.npz") == (5, "train")
