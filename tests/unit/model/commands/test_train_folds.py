"""Calibration across folds: every image calibrates, by a network that has not seen it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.bundle import load_bundle
from model.engine.engine import Engine
from model.images.copies import pixel_hashes
from model.scores.calibration import DTYPES
from tests.unit.model.commands.command_line import (
    NETWORK,
    SHORT,
    STEPS,
    contents,
    line,
    lines,
    run,
)
from tests.unit.model.commands.photographs import folder_of
from tests.unit.samples import assert_one_line, write_idx

N = 168


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [f"{number:03}.png" for number in range(N)]
    return folder_of(tmp_path_factory.mktemp("photographs") / "data", names, size=(12, 10))


def test_every_image_calibrates(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """168 of them give p-values down to 1/169, for each score in each dtype."""
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", photographs, "--out", out, *SHORT)
    assert (result.status, result.err) == (0, "")
    assert line(result, "training: ") == (
        f"training: at most {STEPS} steps of 16 images; calibrated on all 168 images, each scored "
        "by the one of 3 networks that was not trained on it"
    )
    assert "too few for a false-alarm rate" not in result.out
    bundle = load_bundle(out)
    assert bundle.provenance["networks"] == 3
    assert bundle.provenance["images_held_out"] == N // 3
    assert bundle.metrics["held_out"]["n"] == N
    calibration = bundle.calibration
    assert calibration is not None
    assert (calibration.n, calibration.folds) == (N, 3)
    assert calibration.data_set == "data, across 3 folds"
    assert set(calibration.scores) == set(Engine(bundle, device="cpu", threads=1).scores)
    for dtype in DTYPES:
        of_dtype = calibration.of_dtype(dtype)
        assert of_dtype is not None
        for name in of_dtype.scores:
            p = of_dtype.p_values(name, np.array([1e9], np.float32))
            assert p == pytest.approx(1 / (N + 1)), (dtype, name)


def test_the_served_network_is_that_of_the_first_fold(
    tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its scores of the images that it held out are among those of the calibration."""
    data, out = tmp_path / "my.npz", tmp_path / "out"
    np.savez(data, images=digits[:60])
    assert run(capsys, "train", "--data", data, "--out", out, *SHORT).status == 0
    bundle = load_bundle(out)
    assert bundle.calibration is not None
    assert bundle.trained_on is not None
    is_unseen = ~np.isin(pixel_hashes(digits[:60]), bundle.trained_on)
    assert is_unseen.sum() == 20
    engine = Engine(bundle, device="cpu", threads=1)
    for name in ("fused", "mse", "kl", "latent_mahalanobis"):
        known = bundle.calibration.scores[name]
        distances = [
            np.abs(known - score).min() / np.ptp(known)
            for score in engine.score(digits[:60], name).score
        ]
        assert np.max(np.array(distances)[is_unseen]) < 1e-4, name
        assert np.median(np.array(distances)[~is_unseen]) > 1e-4, name


@pytest.mark.parametrize(
    ("n", "flags", "folds", "n_calibration"),
    [
        (3, [], 3, 3),
        (12, [], 12, 12),
        (30, [], 20, 30),
        (160, [], 10, 160),
        (160, ["--arch", "conv", "--hidden", "4", "4", "8"], 6, 160),
        (160, ["--folds", "2"], 2, 160),
        (160, ["--folds", "1"], 1, 26),
        (1_000, [], 10, 1_000),
        (1_001, [], 1, 166),
    ],
)
def test_how_many_folds(
    n: int,
    flags: list[str],
    folds: int,
    n_calibration: int,
    tmp_path: Path,
    digits: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = [] if "--arch" in flags else ["--hidden", "8"]
    options = [*small, "--latent-size", "2", "--steps", "2", "--threads", "1", *flags]
    data, out = write_idx(tmp_path / "data", digits[:n]), tmp_path / "out"
    result = run(capsys, "train", "--data", data, "--out", out, *options)
    assert (result.status, result.err) == (0, "")
    said = line(result, "training: ")
    bundle = load_bundle(out)
    assert bundle.provenance["networks"] == folds
    assert bundle.calibration is not None
    assert bundle.calibration.n == bundle.metrics["held_out"]["n"] == n_calibration
    if folds == 1:
        assert said.endswith(f"calibrated on {n_calibration} images held out")
    else:
        assert f"on all {n:,} images, each scored by the one of {folds} networks that" in said


@pytest.mark.parametrize(
    ("n", "flags", "words"),
    [
        (2, [], ["2 different images", "3 is the minimum"]),
        (12, ["--folds", "13"], ["--folds is 13, but there are only 12 images"]),
        (12, ["--folds", "5", "--group", "folder"], ["--folds is 5, but there are only 4 groups"]),
        (3, ["--folds", "2"], ["--folds is 2, too few for 3 images: use --folds 3"]),
        (9, ["--folds", "2", "--group", "folder"], ["too few for 3 groups: use --folds 3"]),
        (6, ["--group", "folder"], ["2 groups cannot be split", "3 groups is the minimum"]),
        (6, ["--group", "folder", "--folds", "1"], ["2 groups", "3 groups is the minimum"]),
    ],
)
def test_too_few_images_or_groups(
    n: int,
    flags: list[str],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Three images in each subfolder."""
    data = folder_of(tmp_path / "data", [f"{i // 3}/{i}.png" for i in range(n)])
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *NETWORK, *flags)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folds", ["1", "3"])
def test_the_same_command_gives_the_same_bundle(
    folds: str, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte, but the date; and the seed makes a difference."""
    options = [*SHORT, "--folds", folds]
    same = [tmp_path / "one" / "mine", tmp_path / "other" / "mine"]
    for out in same:
        run(capsys, "train", "--data", photographs, "--out", out, *options, "--seed", "7")
    one, other = map(contents, same)
    dates = {json.loads(files["config.json"])["provenance"]["date"] for files in (one, other)}
    if len(dates) == 1:
        assert one == other
    assert one["model.safetensors"] == other["model.safetensors"]
    assert one["trained_on.safetensors"] == other["trained_on.safetensors"]
    run(capsys, "train", "--data", photographs, "--out", tmp_path / "mine", *options, "--seed", "8")
    third = contents(tmp_path / "mine")
    assert third["model.safetensors"] != one["model.safetensors"]
    assert third["trained_on.safetensors"] != one["trained_on.safetensors"]


# The last line


VERDICTS = ("good", "weak", "still falling", "collapsed", "useless")


@pytest.mark.parametrize(
    ("flags", "word", "option"),
    [
        (["--steps", "20"], "still falling", "--steps 40"),
        (["--steps", "60", "--learning-rate", "1"], "useless: ", "--learning-rate 0.002"),
        (["--epochs", "2", "--batch-size", "60"], "", "--steps "),
    ],
)
def test_the_last_line_judges_and_names_the_option_that_helps(
    flags: list[str],
    word: str,
    option: str,
    tmp_path: Path,
    digits: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = tmp_path / "my.npz", tmp_path / "out"
    np.savez(data, images=digits[:120])
    common = ["--folds", "3", "--threads", "1"]
    result = run(capsys, "train", "--data", data, "--out", out, *common, *flags)
    assert (result.status, result.err) == (0, "")
    metrics = load_bundle(out).metrics["held_out"]
    last = lines(result)[-1]
    assert last == metrics["verdict"]
    assert word in last
    assert last.startswith(VERDICTS)
    assert option in last
    figures = line(result, "held-out images: ")
    assert f"MSE {metrics['mse']:.5f}, " in figures
    assert f"of the mean image's {metrics['mean_image_mse']:.5f} " in figures
    assert f"of PCA-10's {metrics['pca_mse']:.5f}; " in figures
    assert figures.endswith(f"{metrics['active_latents']} of 10 latents active")


def test_an_early_end_is_said(
    tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    """A large network soon knows twenty digits by heart."""
    data, out = tmp_path / "my.npz", tmp_path / "out"
    np.savez(data, images=digits[:24])
    options = ["--folds", "1", "--threads", "1", "--steps", "1000"]
    result = run(capsys, "train", "--data", data, "--out", out, *options)
    best = load_bundle(out).provenance["best_step"]
    assert best < 750
    assert line(result, "training ended early") == (
        "training ended early, as the validation images no longer improved: the weights after "
        f"{best} steps are kept"
    )
    whole = run(capsys, "train", "--data", data, "--out", out, *SHORT, "--overwrite")
    assert "training ended early" not in whole.out
