"""Recipes, flags and the environment: which option wins."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.bundle.bundle import load_bundle, pretrained_names
from model.commands import train_options
from tests.unit.model.commands.command_line import OPTIONS, SHORT, output, run
from tests.unit.samples import write_idx

RECIPE_FILES = sorted(train_options.RECIPES.glob("*.toml"))

FEW = ["--epochs", "1", "--folds", "3", "--threads", "1"]


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
    for name, (least, most) in train_options.LIMITS.items():
        assert least <= recipe.get(name, least) <= most
    out = tmp_path / "out"
    result = run(capsys, "train", "--recipe", path.stem, "--data", thirty, "--out", out, *FEW)
    assert (result.status, result.err) == (0, "")
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
    recipe = tomllib.loads((train_options.RECIPES / "mnist.toml").read_text())
    assert recipe["augment"] > 0
    data = ["--data", str(thirty)]
    for number, arguments in enumerate(([*data, *flags], [*flags, *data])):
        out = tmp_path / str(number)
        assert run(capsys, "train", *arguments, "--out", out, *FEW).status == 0
        bundle = load_bundle(out)
        assert bundle.provenance["augment"] == 0
        assert bundle.config.latent_size == 3


def test_steps_replace_a_recipe_s_epochs(
    thirty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    recipe = ["--recipe", "mnist-2d", "--steps", "7", "--folds", "3"]
    assert run(capsys, "train", "--data", thirty, "--out", out, *recipe).status == 0
    provenance = load_bundle(out).provenance
    assert provenance["steps"] == 7
    assert "epochs" not in provenance


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
        assert run(capsys, *command, "--threads", "2", "--folds", "1").status == 0
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
    result = run(capsys, "train", "--out", tmp_path / "other", *SHORT)
    assert result.status == 2
    assert "--data" in result.err


def test_a_name_is_looked_for_in_the_environments_directory(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VAE_DATA_DIR", str(idx.parent))
    assert run(capsys, "train", "--data", "digits", "--out", "out", *SHORT).status == 0
    result = run(capsys, "calibrate", "--bundle", "out", "--data", "digits")
    assert (result.status, result.err) == (0, "")
    assert "calibrated on 100 images of digits" in output(result)
