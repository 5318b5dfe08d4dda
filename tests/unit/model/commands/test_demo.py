"""`vae demo photos`: what it writes and says, and that its next commands run."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.bundle.bundle import load_bundle
from model.datasets.load import load_images
from model.datasets.rendered.defects import KINDS
from model.datasets.rendered.files import SUMS
from model.engine.engine import Engine
from tests.unit.model.commands.command_line import line, lines, run

SMALL = ["--parts", "5"]

BRIEF = ["--size", "32", "--steps", "60", "--folds", "1", "--threads", "1"]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_it_says_what_was_written_and_what_to_run_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(capsys, "demo", "photos", *SMALL)
    assert (result.status, result.err) == (0, "")
    assert lines(result) == [
        "wrote demo-photos: rendered images, not photographs: 25 of normal parts to train on, "
        "5 of other normal parts, 5 with defects",
        "train: vae train --data demo-photos/train --group folder --out runs/demo",
        "evaluate: vae evaluate --bundle runs/demo --data demo-photos/test-normal "
        "--anomalies demo-photos/test-anomalous --masks demo-photos/masks",
    ]
    out = tmp_path / "demo-photos"
    assert {path.name for path in out.iterdir()} == {
        *("README.md", SUMS, "train", "test-normal", "test-anomalous", "masks")
    }
    assert {path.name for path in (out / "masks").iterdir()} == set(KINDS)
    readme = (out / "README.md").read_text()
    assert "not photographs" in readme
    assert "Apache-2.0" in readme
    for of_parts in ("5 normal parts", "1 other normal part,"):
        assert of_parts in readme
    assert "vae demo photos --parts 5 --seed 0" in readme


def test_the_seed_decides_every_byte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("one", "7"), ("two", "7"), ("three", "8")):
        out = str(tmp_path / name)
        assert run(capsys, "demo", "photos", *SMALL, "--seed", seed, "--out", out).status == 0
    one, two, three = (tree(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert not {data for name, data in one.items() if name.endswith(".jpg")} & {*three.values()}


def test_an_existing_folder_is_refused_before_anything_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("model.commands.demo.photographs", None)
    (tmp_path / "notes.txt").write_text("mine")
    result = run(capsys, "demo", "photos", "--out", tmp_path)
    assert result.status == 2
    assert result.err == (
        f"error: {tmp_path} already holds files; --overwrite replaces those that this command "
        "wrote\n"
    )
    assert tree(tmp_path) == {"notes.txt": b"mine"}


def test_overwrite_replaces_its_own_files_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    assert run(capsys, "demo", "photos", "--parts", "6", "--out", out).status == 0
    (out / "train" / "mine.jpg").write_bytes(b"mine")
    assert run(capsys, "demo", "photos", *SMALL, "--out", out, "--overwrite").status == 0
    assert run(capsys, "demo", "photos", *SMALL, "--out", fresh).status == 0
    assert tree(out) == {**tree(fresh), "train/mine.jpg": b"mine"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--parts", "4"], "--parts is 4, expected 5 to 300"),
        (["--parts", "301"], "--parts is 301, expected 5 to 300"),
        (["--seed", "-1"], "--seed is -1, expected 0 to 4,294,967,295"),
    ],
)
def test_limits(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result = run(capsys, "demo", "photos", "--out", out, *options)
    assert (result.status, result.err) == (2, f"error: {said}\n")
    assert not out.exists()


@pytest.mark.slow
def test_the_commands_that_it_names_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = run(capsys, "demo", "photos", "--parts", "10", "--out", "my photos")
    _, *train = shlex.split(line(made, "train: ").removeprefix("train: "))
    _, *evaluate = shlex.split(line(made, "evaluate: ").removeprefix("evaluate: "))
    trained = run(capsys, *train, *BRIEF)
    assert (trained.status, trained.err) == (0, "")
    assert "look almost the same" not in trained.out
    judged = run(capsys, *evaluate)
    assert judged.status == 0
    out = tmp_path / "runs" / "evaluate" / "demo"
    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    names = [each["images"]["name"] for each in evaluation["anomalies"]]
    assert {"test-anomalous", *KINDS} <= {name.split("/")[-1] for name in names}
    rows = list(csv.DictReader((out / "scores.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 10 + 2 * len(KINDS)
    assert "Where the defects are" in (out / "evaluation.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.with_detectors
def test_the_map_of_its_detector_shows_the_most_obvious_defects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained by the command that it names, but for the length of the training. The first file of
    each kind has its most obvious defect. A mask covers 1.6 % of an image at most."""
    monkeypatch.chdir(tmp_path)
    made = run(capsys, "demo", "photos", "--parts", "12")
    _, *train = shlex.split(line(made, "train: ").removeprefix("train: "))
    trained = run(capsys, *train, "--folds", "1", "--steps", "400", "--threads", "1")
    assert (trained.status, trained.err) == (0, "")
    assert "EfficientNet-Lite0" in line(trained, "detector: ")
    bundle = load_bundle(Path("runs/demo"))
    engine = Engine(bundle, device="cpu", threads=1)
    assert engine.scores[0] == "combined"
    _, height, width = bundle.config.image_shape
    hits = []
    for kind in KINDS:
        data = load_images(
            Path("demo-photos/test-anomalous") / kind,
            "train",
            image_shape=bundle.config.image_shape,
            preprocessing=bundle.preprocessing,
            anomalous=True,
        )
        (mask_file,) = Path("demo-photos/masks", kind).glob(f"{Path(data.names[0]).stem}*")
        mask = np.asarray(Image.open(mask_file).convert("L").resize((width, height))) > 127
        assert 0 < mask.mean() < 0.02
        found = engine.score_map(data.images[:1]).anomaly_map[0, 0]
        hits.append(bool(mask[np.unravel_index(found.argmax(), found.shape)]) and found.max() > 1)
    assert sum(hits) >= len(KINDS) - 1
