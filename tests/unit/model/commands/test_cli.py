"""`python -m model`, as a user types it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from model.__main__ import main
from model.bundle.bundle import PRETRAINED, load_bundle, pretrained_names
from model.commands import train as train_command
from model.config import VAEConfig
from model.engine.engine import Engine
from model.training.calibrate import all_scores
from model.training.card import model_card
from model.training.data import load_images
from model.training.train import split_indices
from model.vae import VAE
from tests.unit.samples import assert_one_line, encoded, write_idx

OPTIONS = {
    "train": {
        *("--data", "--out", "--name", "--overwrite", "--resume", "--recipe"),
        *("--arch", "--size", "--channels", "--latent-size", "--hidden", "--head"),
        *("--epochs", "--batch-size", "--learning-rate", "--augment"),
        *("--seed", "--threads", "--device"),
    },
    "calibrate": {"--bundle", "--data", "--out", "--overwrite", "--split"},
    "import": {"FILE", "--out", "--name", "--overwrite", "--head", "--image-shape"},
    "download": {"NAME", "--data"},
}
BUNDLE_FILES = {"README.md", "config.json", "model.safetensors", "calibration.safetensors"}
N_TRAIN, N_TEST, EPOCHS = 600, 100, 30
NETWORK = ["--hidden", "24", "12", "--latent-size", "4"]
LONG = [*NETWORK, "--epochs", str(EPOCHS), "--batch-size", "16", "--threads", "1"]
SHORT = [*NETWORK, "--epochs", "1", "--threads", "1"]
PATIENCE_S = 60


@dataclass(frozen=True)
class Ended:
    status: object
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Ended:
    """Run a command in this process."""
    try:
        status: object = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's own
        status = stop.code
    captured = capsys.readouterr()
    return Ended(status, captured.out, captured.err)


def told(ended: Ended) -> str:
    """What it said, without the breaks of lines that were too long."""
    return " ".join(ended.out.split())


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


@pytest.fixture(scope="module")
def digits(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In random order: scikit-learn's come writer by writer, and so are not exchangeable."""
    return digits[np.random.default_rng(0).permutation(len(digits))]


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory, digits: NDArray[np.uint8]) -> Path:
    """Digits in IDX files, to train on and to test with."""
    test = digits[N_TRAIN : N_TRAIN + N_TEST]
    return write_idx(tmp_path_factory.mktemp("data") / "digits", digits[:N_TRAIN], test)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, idx: Path) -> Path:
    """A bundle trained on them, without a break."""
    out = tmp_path_factory.mktemp("trained") / "mine"
    assert main(["train", "--data", str(idx), "--out", str(out), *LONG]) == 0
    return out


# What a training writes


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
    assert provenance["epochs"] == EPOCHS
    assert provenance["batch_size"] == 16
    assert provenance["seed"] == 0
    assert provenance["threads"] == 1
    assert provenance["skipped_files"] == 0
    assert 1 <= provenance["best_epoch"] <= EPOCHS
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


def test_it_tells_the_figures(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, "train", "--data", idx, "--out", tmp_path / "out", *SHORT)
    assert (ended.status, ended.err) == (0, "")
    bundle = load_bundle(tmp_path / "out")
    for name in ("held_out", "test"):
        assert f"{bundle.metrics[name]['mse']:.5f}" in ended.out
    for word in ("epoch 1/1", "loss", "MSE", "KL", bundle.version):
        assert word in ended.out


def test_the_seed_decides_the_version(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = []
    for number, seed in enumerate(["7", "7", "8"]):
        out = tmp_path / str(number)
        assert run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--seed", seed).status == 0
        versions.append(load_bundle(out).version)
    assert versions[0] == versions[1] != versions[2]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of coloured files of many sizes, some deeper down, one of them broken."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(24):
        small = noise.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((40 + 7 * number, 90 - number))
        kind = "JPEG" if number % 2 else "PNG"
        place = folder / "deeper" if number % 3 else folder
        (place / f"{number:02}.{kind.lower()}").write_bytes(encoded(image, kind))
    (folder / "broken[red].png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_of_pictures(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    size = ["--channels", "3", "--size", "12", "--name", "colours"]
    ended = run(capsys, "train", "--data", pictures, "--out", out, *SHORT, *size)
    assert ended.status == 0
    assert "broken[red].png" in ended.out
    assert "1 files skipped, 24 read" in ended.out
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
    size = ["--arch", "conv", "--size", "64", "--channels", "3", "--epochs", "2"]
    ended = run(capsys, "train", "--data", pictures, "--out", out, *size, "--threads", "1")
    assert (ended.status, ended.err) == (0, "")
    assert "skipped broken[red].png" in ended.out
    assert "1 files skipped, 24 read" in ended.out
    assert "too few for a false-alarm rate of 0.05, which needs 19" in told(ended)
    bundle = load_bundle(out)
    assert bundle.config == VAEConfig(
        architecture="conv", image_shape=(3, 64, 64), hidden_sizes=(64, 64, 128)
    )
    assert bundle.provenance["images_held_out"] == 4
    assert bundle.calibration is not None
    assert bundle.calibration.n == 4
    images = load_images(pictures, "train", image_shape=(3, 64, 64)).images
    engine = Engine(bundle, device="cpu", threads=1)
    assert engine.scores[0] == "fused"
    scores = engine.score_map(images)
    assert np.isfinite(scores.score).all()
    assert scores.error_map.shape == (24, 3, 64, 64)
    p = bundle.calibration.p_values("fused", scores.score)
    assert p.min() >= 1 / 5
    held_out = split_indices(24, seed=0).held_out
    assert set(p[held_out].round(6)) == {0.4, 0.6, 0.8, 1.0}  # each has itself, and those above


def test_two_pictures_are_too_few(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(path for path in pictures.rglob("*") if path.is_file())[2:]:
        path.unlink()
    ended = run(capsys, "train", "--data", pictures, "--out", tmp_path / "out", *SHORT)
    assert ended.status == 2
    assert_one_line(ValueError(ended.err.strip()), "error: ", "at least 3")


@pytest.mark.parametrize("size", ["15", "257"])
def test_a_size_that_convolutions_do_not_take(
    size: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--out", str(tmp_path / "out"), "--arch", "conv", "--size", size]
    ended = run(capsys, "train", "--data", pictures, *flags)
    assert ended.status == 2
    assert_one_line(ValueError(ended.err.strip()), "error: ", size, "16 to 256")
    assert not (tmp_path / "out").exists()


def test_an_npz_gives_the_image_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 9, 3), dtype=np.uint8)
    np.savez(tmp_path / "my.npz", images=images)
    ended = run(capsys, "train", "--data", tmp_path / "my.npz", "--out", tmp_path / "o", *SHORT)
    assert ended.status == 0
    assert load_bundle(tmp_path / "o").config.image_shape == (3, 6, 9)


def test_the_relu_head(idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    ended = run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--head", "relu")
    assert ended.status == 0
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
        ended = run(capsys, "train", "--data", idx, "--out", out, *SHORT, "--augment", augment)
        assert ended.status == 0
        bundle = load_bundle(out)
        assert bundle.provenance["augment"] == float(augment)
        versions.append(bundle.version)
    assert versions[0] != versions[1]


# Recipes

RECIPE_FILES = sorted(train_command.RECIPES.glob("*.toml"))
FEW = ["--epochs", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory, digits: NDArray[np.uint8]) -> Path:
    return write_idx(tmp_path_factory.mktemp("data") / "thirty", digits[:30])


def test_there_is_a_recipe_for_every_bundle_that_ships() -> None:
    names = {path.stem for path in RECIPE_FILES}
    assert set(pretrained_names()) <= names
    assert {"mnist", "fashion-mnist"} <= names


@pytest.mark.parametrize("path", RECIPE_FILES, ids=lambda path: path.stem)
def test_every_recipe_has_known_options_and_trains(
    path: Path, thirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    flags = {option.removeprefix("--").replace("-", "_") for option in OPTIONS["train"]}
    assert recipe
    assert set(recipe) <= flags - {"data", "out", "name", "recipe", "overwrite", "resume"}
    for name, (least, most) in train_command.LIMITS.items():
        assert least <= recipe.get(name, least) <= most
    out = tmp_path / "out"
    ended = run(capsys, "train", "--recipe", path.stem, "--data", thirty, "--out", out, *FEW)
    assert (ended.status, ended.err) == (0, "")
    bundle = load_bundle(out)
    known = {**bundle.provenance, **bundle.config.to_json(), "arch": bundle.config.architecture}
    assert known["epochs"] == 1  # the flag wins
    for name, value in recipe.items():
        assert name == "epochs" or known[name] == value
    assert f"--recipe {path.stem} " in path.read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize(
    "flags",
    [
        ["--recipe", "mnist", "--augment", "0", "--latent-size", "3"],
        ["--augment", "0", "--latent-size", "3", "--recipe", "mnist"],
        ["--augment", "0", "--recipe", "mnist", "--latent-size", "3"],
        ["--augment=0", "--recipe=mnist", "--latent-size=3"],
    ],
    ids=" ".join,
)
def test_flags_win_over_the_recipe_wherever_they_stand(
    flags: list[str], thirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even one that says what the default is."""
    recipe = tomllib.loads((train_command.RECIPES / "mnist.toml").read_text())
    assert recipe["augment"] > 0
    data = ["--data", str(thirty)]
    for number, arguments in enumerate(([*data, *flags], [*flags, *data])):
        out = tmp_path / str(number)
        assert run(capsys, "train", *arguments, "--out", out, *FEW).status == 0
        bundle = load_bundle(out)
        assert bundle.provenance["augment"] == 0
        assert bundle.config.latent_size == 3


def test_a_recipe_does_not_stay_for_the_next_command(
    thirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, recipe in (("one", ["--recipe", "mnist-2d"]), ("other", [])):
        out = tmp_path / name
        assert run(capsys, "train", "--data", thirty, "--out", out, *FEW, *recipe).status == 0
    assert load_bundle(tmp_path / "one").config.latent_size == 2
    assert load_bundle(tmp_path / "other").config.latent_size == 10


def test_the_threads_are_as_many_as_asked_for(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    try:
        command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
        assert run(capsys, *command, "--threads", "2").status == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert load_bundle(tmp_path / "out").provenance["threads"] == 2


def test_the_environment_may_name_the_data(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VAE_DATA_DIR", str(tmp_path / "nowhere"))
    out = tmp_path / "out"
    assert "nowhere" in run(capsys, "train", "--out", out, *SHORT).err
    monkeypatch.setenv("VAE_DATA_DIR", str(idx))
    assert run(capsys, "train", "--out", out, *SHORT).status == 0
    assert load_bundle(out).provenance["data_set"] == "digits"
    monkeypatch.delenv("VAE_DATA_DIR")
    ended = run(capsys, "train", "--out", tmp_path / "other", *SHORT)
    assert ended.status == 2
    assert "--data" in ended.err


def test_a_name_is_looked_for_in_the_environments_directory(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAE_DATA_DIR", str(idx.parent))
    assert run(capsys, "train", "--data", "digits", "--out", "out", *SHORT).status == 0
    ended = run(capsys, "calibrate", "--bundle", "out", "--data", "digits")
    assert (ended.status, ended.err) == (0, "")
    assert "calibrated on 100 images of digits" in told(ended)


# What it refuses


def test_an_older_bundle_is_not_overwritten_unasked(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
    assert run(capsys, *command).status == 0
    version = load_bundle(tmp_path / "out").version
    for more in ([], ["--resume"]):
        ended = run(capsys, *command, "--seed", "1", *more)
        assert ended.status == 2
        assert "--overwrite" in ended.err
        assert len(ended.err.splitlines()) == 1
        assert load_bundle(tmp_path / "out").version == version
    assert run(capsys, *command, "--seed", "1", "--overwrite").status == 0
    assert load_bundle(tmp_path / "out").version != version


@pytest.mark.parametrize(
    "content",
    [None, {}, {"a.png": b"broken"}, {"train-images-idx3-ubyte": b"broken"}, {"a.txt": b"text"}],
    ids=["absent", "empty", "broken image", "broken IDX", "text"],
)
def test_data_that_cannot_be_used(
    content: dict[str, bytes] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    if content is not None:
        data.mkdir()
        for name, text in content.items():
            (data / name).write_bytes(text)
    ended = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *SHORT)
    assert ended.status == 2
    assert ended.err.startswith("error: ")
    assert str(data) in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--epochs", "0"),
        ("--epochs", "-1"),
        ("--batch-size", "0"),
        ("--learning-rate", "0"),
        ("--learning-rate", "-0.1"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "inf"),
        ("--learning-rate", "1e10"),
        ("--latent-size", "0"),
        ("--hidden", "0"),
        ("--threads", "0"),
        ("--threads", "-1"),
        ("--seed", "-1"),
        ("--size", "0"),
        ("--size", "-28"),
        ("--size", "14"),
        ("--channels", "3"),
        ("--augment", "-0.1"),
        ("--augment", "0.51"),
        ("--augment", "nan"),
        ("--device", "gpu"),
        ("--device", "cuda:99"),
        ("--name", " "),
    ],
)
def test_a_wrong_value_is_one_line_and_costs_nothing(
    option: str, value: str, idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and the bundle that was to be overwritten is still there."""
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
    assert run(capsys, *command).status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    ended = run(capsys, *command, "--overwrite", option, value)
    assert ended.status == 2
    assert "epoch 1" not in ended.out
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("seed", [2**32, 10**13, 2**63, 10**30])
def test_a_large_seed_is_used_or_refused_in_words(
    seed: int, idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--data", str(idx), "--out", str(tmp_path / "out"), *SHORT]
    ended = run(capsys, *command, "--seed", str(seed))
    assert ended.status == 0 or "seed" in ended.err


def test_an_output_directory_with_an_odd_name(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets mean something to the library that prints."""
    out = tmp_path / "a[red]b[/]c"
    ended = run(capsys, "train", "--data", idx, "--out", out, *SHORT)
    assert ended.status == 0
    assert out.name in ended.out.replace("\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train"],
        ["train", "--out", "x", "--data", "y", "--head", "tanh"],
        ["train", "--out", "x", "--data", "y", "--arch", "transformer"],
        ["train", "--out", "x", "--data", "y", "--recipe", "minst"],
        ["train", "--out", "x", "--recipe", "mnist"],
        ["calibrate", "--bundle", "x"],
        ["calibrate", "--data", "x"],
        ["calibrate", "--bundle", "x", "--data", "y", "--split", "valid"],
        ["train", "--out", "x", "--data", "y", "--epochs", "many"],
        ["import"],
        ["download", "minst", "--data", "x"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("VAE_DATA_DIR", raising=False)
    ended = run(capsys, *arguments)
    assert ended.status == 2
    assert "error: " in ended.err
    assert "Traceback" not in ended.err


# Calibration


@pytest.fixture
def mine(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained bundle, to be changed."""
    return shutil.copytree(trained, tmp_path / "mine")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


WARNING = "trained on these images"


def test_calibrate_changes_the_calibration_and_nothing_else(
    mine: Path, tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    before, old = contents(mine), load_bundle(mine)
    fresh = digits[N_TRAIN : N_TRAIN + 150]
    np.savez(tmp_path / "fresh.npz", images=fresh)
    ended = run(capsys, "calibrate", "--bundle", mine, "--data", tmp_path / "fresh.npz")
    assert (ended.status, ended.err) == (0, "")
    bundle = load_bundle(mine)
    after = contents(mine)
    assert set(after) == set(before)
    assert after["model.safetensors"] == before["model.safetensors"]
    assert bundle.version == old.version
    assert (bundle.provenance, bundle.metrics) == (old.provenance, old.metrics)
    assert (mine / "README.md").read_text(encoding="utf-8") == model_card(bundle)
    calibration = bundle.calibration
    assert calibration is not None
    assert (calibration.n, calibration.data_set) == (150, "fresh")
    assert calibration.date == datetime.now(UTC).date().isoformat()
    scores = all_scores(Engine(bundle, device="cpu", threads=1), fresh)
    for name, values in scores.items():
        np.testing.assert_allclose(calibration.scores[name], np.sort(values), rtol=1e-4, atol=1e-4)
    assert "calibrated on 150 images of fresh" in told(ended)
    for alpha in (0.05, 0.01):
        threshold = calibration.threshold("fused", alpha)
        assert f"at alpha {alpha:g}, fused is an anomaly above {threshold:.4g}" in told(ended)
    assert "warning" not in ended.out


def test_without_out_it_goes_to_runs(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run(capsys, "train", "--data", idx, *SHORT)
    assert (ended.status, ended.err) == (0, "")
    assert load_bundle(tmp_path / "runs" / "digits").name == "digits"


def test_one_that_ships_is_calibrated_elsewhere(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = PRETRAINED / "mnist"
    before = contents(shipped)
    for name in ("mnist", str(shipped)):
        ended = run(capsys, "calibrate", "--bundle", name, "--data", idx)
        assert ended.status == 2
        assert_one_line(ValueError(ended.err.strip()), name, "--out")
    out = tmp_path / "ours"
    ended = run(capsys, "calibrate", "--bundle", "mnist", "--data", idx, "--out", out)
    assert (ended.status, ended.err) == (0, "")
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
    assert (imported.calibration, imported.statistics) == (None, None)
    assert "calibration.safetensors" not in files(out)
    ended = run(capsys, "calibrate", "--bundle", out, "--data", idx)
    assert (ended.status, ended.err) == (0, "")
    assert "mse_top5 is an anomaly above" in told(ended)
    bundle = load_bundle(out)
    assert bundle.calibration is not None
    assert list(bundle.calibration.scores) == ["mse_top5", "mse", "kl"]
    assert (bundle.calibration.n, bundle.calibration.data_set) == (N_TEST, "digits")
    assert bundle.version == imported.version
    assert run(capsys, "import", tmp_path / "vae.pt", "--out", out, "--overwrite").status == 0
    assert load_bundle(out).calibration is None


def test_the_test_images_calibrate_where_there_are_any(
    mine: Path, idx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though of the same data set, the network was not trained on them; on the others it was."""
    for split, n, warned in (
        ([], N_TEST, False),
        (["test"], N_TEST, False),
        (["train"], 600, True),
    ):
        flags = ["--split", *split] if split else []
        ended = run(capsys, "calibrate", "--bundle", mine, "--data", idx, *flags)
        assert (ended.status, ended.err) == (0, "")
        assert (WARNING in told(ended)) == warned
        calibration = load_bundle(mine).calibration
        assert calibration is not None
        assert calibration.n == n


def test_images_that_were_trained_on_are_known_again(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder and in an .npz file; other images of the same kind are not taken for them."""
    noise = np.random.default_rng(0)
    train_images, test = noise.integers(0, 256, (2, 30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "both.npz", x_train=train_images, x_test=test)
    np.savez(tmp_path / "other.npz", x_train=test)
    for data, size in ((pictures, ["--size", "12"]), (tmp_path / "both.npz", [])):
        out = tmp_path / f"out {data.stem}"
        assert run(capsys, "train", "--data", data, "--out", out, *SHORT, *size).status == 0
    calibrate = ["calibrate", "--bundle", str(tmp_path / "out pictures"), "--data"]
    assert WARNING in told(run(capsys, *calibrate, pictures))
    assert "1 files skipped, 24 read" in run(capsys, *calibrate, pictures).out
    (pictures / "00.png").unlink()
    assert WARNING not in told(run(capsys, *calibrate, pictures))
    calibrate = ["calibrate", "--bundle", str(tmp_path / "out both"), "--data"]
    assert WARNING not in told(run(capsys, *calibrate, tmp_path / "both.npz"))
    assert WARNING in told(run(capsys, *calibrate, tmp_path / "both.npz", "--split", "train"))
    assert WARNING not in told(run(capsys, *calibrate, tmp_path / "other.npz"))


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
    ended = run(capsys, "calibrate", "--bundle", mine, "--data", tmp_path / "few.npz")
    assert (ended.status, ended.err) == (0, "")
    warnings = re.findall(
        r"warning: calibrated on (\d+) images, too few for a false-alarm rate of ([\d.]+), which "
        r"needs (\d+)",
        told(ended),
    )
    assert warnings == [(str(n), alpha, least) for alpha, least in expected.items()]
    thresholds = re.findall(r"at alpha ([\d.]+),", told(ended))
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
    ended = run(capsys, "calibrate", "--bundle", mine, "--data", tmp_path / "bad.npz")
    assert ended.status == 2
    assert_one_line(ValueError(ended.err.strip()), "error: ", tmp_path / "bad.npz")
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
    ended = run(capsys, "calibrate", "--bundle", mine, "--data", data)
    assert ended.status == 2
    assert_one_line(ValueError(ended.err.strip()), "error: ", data)
    assert contents(mine) == before


def test_broken_test_images_do_not_become_training_images_unsaid(
    mine: Path, tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_idx(tmp_path / "data", digits[:30], digits[:30])
    (data / "t10k-images-idx3-ubyte.gz").write_bytes(b"broken")
    before = contents(mine)
    ended = run(capsys, "calibrate", "--bundle", mine, "--data", data)
    assert ended.status == 2
    assert_one_line(ValueError(ended.err.strip()), "error: ", "t10k")
    assert contents(mine) == before


@pytest.mark.parametrize("name", ["nowhere", "minst", ""])
def test_an_unknown_bundle_is_told(
    name: str, idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tmp_path / name) if name == "nowhere" else name
    ended = run(capsys, "calibrate", "--bundle", bundle, "--data", idx)
    assert ended.status == 2
    assert_one_line(ValueError(ended.err.strip()), "error: ", repr(bundle), "fashion-mnist")


def test_a_damaged_bundle_is_told_and_left_alone(
    mine: Path, idx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "model.safetensors").write_bytes(b"damaged")
    before = contents(mine)
    ended = run(capsys, "calibrate", "--bundle", mine, "--data", idx)
    assert ended.status == 2
    assert_one_line(ValueError(ended.err.strip()), "error: ", mine, "damaged")
    assert contents(mine) == before


@pytest.mark.parametrize(
    "command", [["download", "mnist"], ["calibrate", "--bundle", "x", "--data", "y"]]
)
def test_an_unknown_option_shows_the_usage_of_the_command(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run(capsys, *command, "--fly")
    assert ended.status == 2
    assert ended.err.startswith(f"usage: python -m model {command[0]} ")
    assert ended.err.endswith("error: unrecognized arguments: --fly\n")


# Its help


@pytest.mark.parametrize("command", OPTIONS)
def test_help_describes_every_option(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ended = run(capsys, command, "--help")
    assert ended.status == 0
    _, *entries = re.split(r"\n  (?=\S)", ended.out)
    described = {}
    for entry in entries:
        flags, _, text = entry.split("\n\n")[0].replace("\n", "  ").partition("  ")
        described[flags.split()[0].strip(",")] = text.strip()
    names = {name.split(",")[0] for name in described}
    assert OPTIONS[command] <= names
    assert all(described.values())


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run(capsys, "--help")
    assert ended.status == 0
    assert all(re.search(rf"^    {command} +\w", ended.out, re.M) for command in OPTIONS)


# Ctrl-C, in a process of its own


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "model", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_ctrl_c_keeps_what_was_learnt_and_resume_ends_it(
    idx: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    command = ["train", "--data", str(idx), "--out", str(out), *LONG]
    process = start(*command)
    deadline = time.monotonic() + PATIENCE_S
    while not (out / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--resume" in output
    assert files(out) == BUNDLE_FILES | {"checkpoint.safetensors"}
    early = load_bundle(out)
    assert early.metrics["test"]["mse"] < 0.3

    assert run(capsys, *command).status == 2  # as there is a bundle
    other = run(capsys, *command, "--resume", "--seed", "1")
    assert other.status == 2
    assert "seed" in other.err
    assert load_bundle(out).version == early.version

    images = np.full((N_TRAIN, 1, 28, 28), 7, np.uint8)
    other = run(
        capsys, "train", "--data", write_idx(tmp_path / "x", images), *command[3:], "--resume"
    )
    assert other.status == 2
    assert "data" in other.err
    assert load_bundle(out).version == early.version

    assert run(capsys, *command, "--resume").status == 0
    assert files(out) == BUNDLE_FILES
    assert load_bundle(out).version == load_bundle(trained).version != early.version


def test_ctrl_c_before_the_first_step_is_quiet(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it reads the data: nothing is written and no traceback shown."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.commands.train.load_images", interrupted)
    ended = run(capsys, "train", "--data", idx, "--out", tmp_path / "out", *SHORT)
    assert ended.status == 130
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
