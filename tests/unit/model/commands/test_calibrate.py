"""`python -m model calibrate`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.bundle.bundle import PRETRAINED, load_bundle
from model.config import VAEConfig
from model.engine.engine import Engine
from model.training.calibrate import all_scores
from model.training.card import model_card
from model.vae import VAE
from tests.unit.model.commands.command_line import (
    N_TEST,
    N_TRAIN,
    SHORT,
    contents,
    files,
    output,
    run,
)
from tests.unit.samples import assert_one_line, write_idx

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
        assert f"at alpha {alpha:g}, fused is an anomaly above {threshold:.4g}" in output(result)
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
    assert (imported.calibration, imported.statistics) == (None, None)
    assert "calibration.safetensors" not in files(out)
    result = run(capsys, "calibrate", "--bundle", out, "--data", idx)
    assert (result.status, result.err) == (0, "")
    assert "mse_top5 is an anomaly above" in output(result)
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
        result = run(capsys, "calibrate", "--bundle", mine, "--data", idx, *flags)
        assert (result.status, result.err) == (0, "")
        assert (WARNING in output(result)) == warned
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
    assert WARNING in output(run(capsys, *calibrate, pictures))
    assert "1 files skipped, 24 read" in run(capsys, *calibrate, pictures).out
    (pictures / "00.png").unlink()
    assert WARNING not in output(run(capsys, *calibrate, pictures))
    calibrate = ["calibrate", "--bundle", str(tmp_path / "out both"), "--data"]
    assert WARNING not in output(run(capsys, *calibrate, tmp_path / "both.npz"))
    assert WARNING in output(run(capsys, *calibrate, tmp_path / "both.npz", "--split", "train"))
    assert WARNING not in output(run(capsys, *calibrate, tmp_path / "other.npz"))


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
        r"warning: calibrated on (\d+) images, too few for a false-alarm rate of ([\d.]+), which "
        r"needs (\d+)",
        output(result),
    )
    assert warnings == [(str(n), alpha, least) for alpha, least in expected.items()]
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
