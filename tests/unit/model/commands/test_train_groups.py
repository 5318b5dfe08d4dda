"""What breaks the false-alarm rate, caught by `python -m model train`: copies and near-copies."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.bundle import load_bundle
from model.datasets.load import load_images
from model.engine.engine import Engine
from model.images.copies import pixel_hashes
from tests.unit.model.commands.command_line import QUICK, SHORT, line, run
from tests.unit.model.commands.photographs import folder_of, folder_of_arrays, shots
from tests.unit.samples import assert_one_line

PARTS, PER_PART = 24, 4


def warnings(out: str) -> list[str]:
    return [text for text in out.splitlines() if text.startswith("warning: ")]


def near_copy_warnings(out: str) -> list[str]:
    return [text for text in warnings(out) if "look almost the same" in text]


# Copies


def test_copies_are_left_out_and_counted(
    tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of_arrays(tmp_path / "data", digits[:20], copies=10)
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *SHORT)
    assert (result.status, result.err) == (0, "")
    assert line(result, "left out") == (
        "left out 180 duplicates, the same pixel by pixel: 20 different images remain"
    )
    bundle = load_bundle(tmp_path / "out")
    assert bundle.provenance["copies_left_out"] == 180
    assert bundle.metrics["held_out"]["n"] == 20
    assert bundle.calibration is not None
    assert bundle.calibration.n == 20
    assert bundle.trained_on is not None
    known = set(pixel_hashes(digits[:20]))
    assert set(bundle.trained_on) < known
    assert len(bundle.trained_on) == 20 - bundle.provenance["images_held_out"]


@pytest.mark.parametrize("images", [1, 2])
def test_copies_do_not_make_up_for_too_few_images(
    images: int, tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of_arrays(tmp_path / "data", digits[:images], copies=10)
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *SHORT)
    assert result.status == 2
    noun = "image" if images == 1 else "images"
    assert_one_line(ValueError(result.err.strip()), data, f"{images} different {noun}", "minimum")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--epochs", "150"]], ids=["defaults", "150 epochs"])
def test_ten_copies_of_twenty_digits_keep_the_false_alarm_rate(
    options: list[str],
    tmp_path: Path,
    training_images: Callable[[str], NDArray[np.uint8]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At alpha .05, at most .07 on average over seeds, on 2,000 other digits."""
    images = training_images("mnist")
    rates = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(images))
        data = folder_of_arrays(tmp_path / f"data{seed}", images[order[:20]], copies=10)
        flags = ["--out", str(tmp_path / str(seed)), "--threads", "1", *options]
        assert run(capsys, "train", "--data", data, *flags, "--seed", str(seed)).status == 0
        bundle = load_bundle(tmp_path / str(seed))
        assert bundle.calibration is not None
        fresh = images[order[20:2_020]]
        scores = Engine(bundle, device="cpu", threads=1).score(fresh, "fused").score
        rates.append(float(np.mean(bundle.calibration.p_values("fused", scores) <= 0.05)))
    assert 0 < np.mean(rates) <= 0.07, rates


# Groups


@pytest.mark.parametrize(
    ("name", "by"),
    [("{part:02}/{shot}.png", "folder"), ("part{part:02}_{shot}.png", r"part(\d+)_")],
)
def test_a_group_stays_together(
    name: str, by: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The network that is served knows all images of a part, or none."""
    data = shots(tmp_path / "data", name, PARTS, PER_PART)
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", data, "--out", out, *SHORT, "--group", by)
    assert (result.status, result.err) == (0, "")
    assert line(result, "kept together: ").endswith(f", {PARTS} groups")
    assert near_copy_warnings(result.out) == []
    bundle = load_bundle(out)
    assert bundle.provenance["grouped_by"] == by
    images = load_images(data, "train", image_shape=bundle.config.image_shape)
    assert bundle.trained_on is not None
    is_known = np.isin(pixel_hashes(images.images), bundle.trained_on)
    parts: dict[str, set[bool]] = {}
    for image, known in zip(images.names, is_known, strict=True):
        parts.setdefault(re.findall(r"\d+", image)[0], set()).add(bool(known))
    assert sorted(map(sorted, parts.values())) == [[False]] * 8 + [[True]] * 16


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("part(", ["'part('", "no regular expression"]),
        (r"(\d+)x", ["does not match 12 of 12 images", "00.png"]),
        ("folder", ["--group folder needs subfolders"]),
        ("0", ["does not match 1 of 12 images: 11.png"]),
        ("[.]?", ["1 group ", "3 groups is the minimum"]),
        ("^.", ["2 groups ", "3 groups is the minimum"]),
    ],
)
def test_groups_that_cannot_be_made(
    by: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of(tmp_path / "data", [f"{number:02}.png" for number in range(12)])
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", "--group", by)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "error: ", *words)
    assert not (tmp_path / "out").exists()


def test_arrays_have_no_names_to_group_by(
    idx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(capsys, "train", "--data", idx, "--out", tmp_path / "out", "--group", "folder")
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "--group is for folders of image files")


# Near-copies


@pytest.mark.parametrize(
    "name", ["{part:02}/{shot}.png", "part{part:02}_shot{shot}.png", "a-{shot} no {part}.png"]
)
def test_near_copies_are_warned_of_with_the_option_that_separates_them(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it can be pasted into a shell."""
    data = shots(tmp_path / "data", name, PARTS, PER_PART)
    command = ["train", "--data", str(data), "--out", str(tmp_path / "out"), *SHORT]
    result = run(capsys, *command)
    assert (result.status, result.err) == (0, "")
    (warning,) = near_copy_warnings(result.out)
    found = re.search(
        r"warning: (\d+) of 96 calibration images .* such as (.*\.png) and (.*\.png)\. ", warning
    )
    assert found
    assert 0.8 * 96 <= int(found[1]) <= 96
    one, other = (re.sub(r"shot\d|-\d|/\d", "", found[i]) for i in (2, 3))
    assert one == other
    assert found[2] != found[3]
    option = shlex.split(warning.partition("more false alarms than alpha: ")[2])[:2]
    assert option[0] == "--group"
    assert (option[1] == "folder") == ("/" in name)
    grouped = run(capsys, *command, "--overwrite", *option)
    assert (grouped.status, grouped.err) == (0, "")
    assert near_copy_warnings(grouped.out) == []
    assert line(grouped, "kept together: ").endswith(f", {PARTS} groups")


def test_near_copies_that_no_name_tells_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shots(tmp_path / "data", "{number}.png", PARTS, PER_PART)
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *SHORT)
    (warning,) = near_copy_warnings(result.out)
    assert "no pattern in the file names" in warning
    assert "--group folder" in warning


def test_near_copies_that_are_in_groups_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A subfolder for each shot, and none for the part."""
    data = shots(tmp_path / "data", "{number}/0.png", PARTS, PER_PART)
    command = ["train", "--data", str(data), "--out", str(tmp_path / "out"), *SHORT]
    result = run(capsys, *command, "--group", "folder")
    (warning,) = near_copy_warnings(result.out)
    assert warning.endswith("--group folder puts them into different groups")


@pytest.mark.parametrize(("name", "warned"), [("test-anomalous", True), ("good", False)])
def test_the_name_of_the_folder_itself_is_warned_of(
    name: str,
    warned: bool,
    tmp_path: Path,
    digits: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = folder_of_arrays(tmp_path / name, digits[:20])
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *SHORT)
    assert (result.status, result.err) == (0, "")
    assert any(f"what is in {name} is normal" in text for text in warnings(result.out)) == warned


def test_of_many_images_those_that_were_compared_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if 16 of 96 images were the first 5,000 of 30,000."""
    monkeypatch.setattr("model.datasets.near_copies.MAX_COMPARED", 16)
    monkeypatch.setattr("model.commands.training_images.MAX_COMPARED", 16)
    data = shots(tmp_path / "data", "{part:02}/{shot}.png", PARTS, PER_PART)
    result = run(capsys, "train", "--data", data, "--out", tmp_path / "out", *SHORT)
    (warning,) = near_copy_warnings(result.out)
    assert re.match(r"warning: \d+ of 16 calibration images", warning)


def test_near_copies_in_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shots(tmp_path / "data", "{part:02}-{shot}.png", PARTS, PER_PART)
    images = load_images(folder, "train", image_shape=(1, 28, 28)).images
    np.savez(tmp_path / "my.npz", images=images)
    result = run(capsys, "train", "--data", tmp_path / "my.npz", "--out", tmp_path / "o", *SHORT)
    (warning,) = near_copy_warnings(result.out)
    assert "--group" not in warning
    assert warning.endswith("keep one of each")


def test_digits_are_no_near_copies(
    tmp_path: Path, digits: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    """Though all of one class are alike."""
    np.savez(tmp_path / "my.npz", images=digits)
    result = run(capsys, "train", "--data", tmp_path / "my.npz", "--out", tmp_path / "o", *SHORT)
    assert (result.status, result.err) == (0, "")
    assert near_copy_warnings(result.out) == []


@pytest.mark.slow
def test_shots_of_real_parts(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Magnetic tiles, a subfolder each, at up to six exposures."""
    size = ["--size", "32", "--arch", "mlp"]
    command = ["train", "--data", str(tiles / "train"), *size, *QUICK]
    result = run(capsys, *command, "--out", tmp_path / "one")
    assert (result.status, result.err) == (0, "")
    assert line(result, "read ") == f"read 759 images from {tiles / 'train'}"
    (warning,) = near_copy_warnings(result.out)
    assert warning.endswith(": --group folder keeps them together")
    grouped = run(capsys, *command, "--group", "folder", "--out", tmp_path / "other")
    assert (grouped.status, grouped.err) == (0, "")
    assert near_copy_warnings(grouped.out) == []
    assert line(grouped, "kept together: ") == "kept together: each subfolder, 138 groups"
