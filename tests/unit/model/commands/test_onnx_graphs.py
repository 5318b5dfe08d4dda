"""ONNX graphs of networks with convolutions: which commands make them, and which keep them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.bundle.bundle import load_bundle
from model.engine.engine import Engine
from model.training import calibrate as calibrate_module
from tests.unit.model.commands.command_line import BUNDLE_FILES, files, line, lines, run
from tests.unit.model.engine.onnx_bundles import uninstall

NETWORK = ["--arch", "conv", "--hidden", "4", "8", "--latent-size", "3", "--threads", "1"]
QUICK = [*NETWORK, "--steps", "5"]
GRAPHS = {"encoder.onnx", "decoder.onnx"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(path, images=random.integers(0, 256, (40, 16, 16), np.uint8))
    return path


@pytest.mark.parametrize("folds", ["1", "2"])
def test_training_exports_them(
    folds: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the network that serves calibrates by them, unless it is one of several."""
    runtimes = []
    whole = calibrate_module.all_scores

    def noting(engine: Engine, *arguments: object, **options: object) -> object:
        if engine.dtype == "float32":
            runtimes.append(engine.runtime.split()[0])
        return whole(engine, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate_module, "all_scores", noting)
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", images, "--out", out, *QUICK, "--folds", folds)
    assert (result.status, result.err) == (0, "")
    assert files(out) == BUNDLE_FILES | GRAPHS
    bundle = load_bundle(out)
    assert Engine(bundle, device="cpu").runtime.startswith("ONNX Runtime ")
    assert line(result, "wrote").endswith(f"version {bundle.version}")
    assert runtimes == (["ONNX"] if folds == "1" else ["torch", "torch"])


def test_training_without_the_exporter_says_what_to_install_and_goes_on(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uninstall(monkeypatch, ["onnxscript"])
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", images, "--out", out, *QUICK, "--folds", "1")
    assert (result.status, result.err) == (0, "")
    assert "onnxscript not installed (pip install 'vae-service[onnx]')" in line(result, "no ONNX")
    assert files(out) == BUNDLE_FILES
    assert Engine(load_bundle(out), device="cpu").runtime.startswith("torch ")


def test_a_fully_connected_network_has_no_graphs_and_no_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--arch", "mlp", "--hidden", "8", "--latent-size", "2", "--steps", "5"]
    result = run(capsys, "train", "--data", images, "--out", out, *flags, "--folds", "1")
    assert result.status == 0
    assert files(out) == BUNDLE_FILES
    assert not [text for text in lines(result) if "ONNX" in text]


def test_calibrating_again_keeps_them_and_the_version(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(capsys, "train", "--data", images, "--out", out, *QUICK, "--folds", "1")
    before = load_bundle(out)
    fresh = np.random.default_rng(1).integers(0, 256, (25, 16, 16), np.uint8)
    np.savez(tmp_path / "fresh.npz", images=fresh)
    result = run(capsys, "calibrate", "--bundle", out, "--data", tmp_path / "fresh.npz")
    assert (result.status, result.err) == (0, "")
    after = load_bundle(out)
    assert after.calibration is not None
    assert after.calibration.n == 25
    assert (after.version, after.graphs) == (before.version, before.graphs)
