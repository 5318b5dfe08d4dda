"""Bundles with a detector: as they are saved, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.bundle.bundle import Bundle, load_bundle
from model.bundle.checks import DETECTOR_PREFIX, BundleError, check_detector
from model.features.detector import DetectorConfig, StoredDetector
from model.scores.calibration import calibration_of
from model.scores.sampled import score_names
from tests.unit.model.bundle.helpers import (
    UNCALIBRATED_FILES,
    edit,
    refused,
    replace_weights,
    same_calibration,
    same_weights,
)
from tests.unit.model.features.detectors import GREY, detector_bundle
from tests.unit.samples import assert_one_line, tiny_bundle

NARROW = DetectorConfig(image_shape=(3, 32, 4), latent_size=2, hidden_size=8)
"""A grid of 16 × 2, whose tensors are few numbers."""


@cache
def narrow_bundle() -> Bundle:
    return detector_bundle(NARROW)


@pytest.fixture
def bundle() -> Bundle:
    return narrow_bundle()


@pytest.fixture
def tensors(bundle: Bundle) -> dict[str, Tensor]:
    assert bundle.detector is not None
    return dict(bundle.detector.tensors)


@pytest.fixture
def directory(bundle: Bundle, tmp_path: Path) -> Path:
    bundle.save(tmp_path / "bundle", "the card")
    return tmp_path / "bundle"


def with_tensors(bundle: Bundle, tensors: Mapping[str, Tensor]) -> Bundle:
    return replace(bundle, detector=StoredDetector(config=NARROW, tensors=tensors))


def config_of(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return content


# --- saved and loaded


@pytest.mark.parametrize("config", [NARROW, GREY], ids=["colour", "grey"])
def test_it_comes_back_as_it_was_saved(config: DetectorConfig, tmp_path: Path) -> None:
    saved = detector_bundle(config)
    saved.save(tmp_path, "the card")
    loaded = load_bundle(tmp_path)
    assert saved.detector is not None
    assert loaded.detector is not None
    assert loaded.detector.config == config
    assert loaded.detector.tensors.keys() == saved.detector.tensors.keys()
    for name, tensor in saved.detector.tensors.items():
        assert loaded.detector.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.detector.tensors[name], tensor), name
    assert loaded.version == saved.version
    assert same_weights(loaded, saved)
    assert loaded.statistics is not None
    assert {path.name for path in tmp_path.iterdir()} == UNCALIBRATED_FILES
    pixels = torch.rand(2, loaded.config.pixels)
    with torch.inference_mode():
        assert torch.equal(loaded.detector.module()(pixels), saved.detector.module()(pixels))


def test_saving_what_was_loaded_writes_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    load_bundle(directory).save(tmp_path / "again", "the card")
    for path in directory.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_the_calibration_has_the_detectors_scores(bundle: Bundle, tmp_path: Path) -> None:
    names = score_names(bundle.statistics, bundle.pixel_variance, detected=True)
    numbers = np.random.default_rng(0)
    scores = {name: numbers.standard_normal(9, np.float32) for name in names}
    made = calibration_of(scores, data_set="clean", date="2026-01-02")
    replace(bundle, calibration=made).save(tmp_path, "the card")
    loaded = load_bundle(tmp_path).calibration
    assert same_calibration(loaded, made)
    assert loaded is not None
    assert list(loaded.scores) == list(names)


def test_any_tensor_of_it_changes_the_version(bundle: Bundle, tensors: dict[str, Tensor]) -> None:
    versions = {bundle.version, replace(bundle, detector=None).version}
    for name, tensor in tensors.items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 1
        versions.add(with_tensors(bundle, tensors | {name: changed}).version)
    assert len(versions) == len(tensors) + 2


def test_a_bundle_without_one_says_nothing_of_it(bundle: Bundle, tmp_path: Path) -> None:
    plain = replace(bundle, detector=None)
    plain.save(tmp_path, "the card")
    assert "detector" not in config_of(tmp_path)
    names = safetensors.torch.load_file(tmp_path / "model.safetensors").keys()
    assert not [name for name in names if name.startswith(DETECTOR_PREFIX)]
    assert load_bundle(tmp_path).detector is None
    edit(tmp_path, detector=None)
    assert load_bundle(tmp_path).detector is None


# --- tensors that are not a detector's


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], object], tuple[str, ...]]] = {
    "missing": (lambda t: t.pop("residual_mean"), ("lacks", "detector.residual_mean")),
    "missing weights": (
        lambda t: t.pop("vae.encoder.2.bias"),
        ("lacks", "detector.vae.encoder.2.bias"),
    ),
    "missing block": (
        lambda t: t.pop("backbone.blocks.3.layers.0.weight"),
        ("lacks", "detector.backbone.blocks.3.layers.0.weight"),
    ),
    "unknown": (lambda t: t.update(more=torch.zeros(1)), ("unknown", "detector.more")),
    "another shape": (
        lambda t: t.update(place_scale=t["place_scale"][:, :-1]),
        ("detector.place_scale has shape (2, 15, 2)", "(2, 16, 2)"),
    ),
    "another rank": (
        lambda t: t.update(pooled_mean=t["pooled_mean"][None]),
        ("detector.pooled_mean has shape (1, 176)", "(176,)"),
    ),
    "no half precision": (
        lambda t: t.update(residual_roots=t["residual_roots"].float()),
        ("detector.residual_roots", "16"),
    ),
    "half precision": (
        lambda t: t.update(pooled_root=t["pooled_root"].half()),
        ("detector.pooled_root", "32"),
    ),
    "integers": (
        lambda t: t.update(cell_scale=t["cell_scale"].int() + 1),
        ("detector.cell_scale", "32"),
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_other_tensors_are_refused(
    kind: str, bundle: Bundle, tensors: dict[str, Tensor], directory: Path
) -> None:
    """When they are saved, and when they are read from a file with the right hash."""
    change, words = CHANGES[kind]
    change(tensors)
    before = config_of(directory)
    with pytest.raises(BundleError) as raised:
        with_tensors(bundle, tensors).save(directory, "the card")
    assert_one_line(raised.value, *words)
    assert config_of(directory) == before
    replace_weights(directory, with_tensors(bundle, tensors)._safetensors())
    line = refused(directory)
    assert all(word in line for word in words), line


def test_every_tensor_must_be_there_and_finite(tensors: dict[str, Tensor]) -> None:
    values = cycle([float("nan"), float("inf"), float("-inf")])
    for name, tensor in tensors.items():
        with pytest.raises(BundleError) as raised:
            check_detector({key: t for key, t in tensors.items() if key != name}, NARROW)
        assert_one_line(raised.value, f"detector.{name}")
        changed = tensor.clone()
        changed.view(-1)[-1] = next(values)
        with pytest.raises(BundleError) as raised:
            check_detector(tensors | {name: changed}, NARROW)
        assert_one_line(raised.value, f"detector.{name}", "NaN or infinity")
    check_detector(tensors, NARROW)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["residual_roots", "vae.log_variance", "stem"])
def test_numbers_that_are_none_are_refused_in_a_file(
    name: str, value: float, bundle: Bundle, tensors: dict[str, Tensor], directory: Path
) -> None:
    name = "backbone.stem.weight" if name == "stem" else name
    tensors[name] = torch.full_like(tensors[name], value)
    replace_weights(directory, with_tensors(bundle, tensors)._safetensors())
    assert f"detector.{name}" in refused(directory)


SCALES = {
    "feature_std": (1, 1, 5),
    "place_scale": (1, 3, 0),
    "cell_scale": (1, 7, 7),
    "map_scale": (2, 1),
    "combined_scale": (2, 1),
}


@pytest.mark.parametrize("value", [0.0, -0.5])
@pytest.mark.parametrize("name", SCALES)
def test_a_scale_that_is_none_is_refused(
    name: str, value: float, bundle: Bundle, tensors: dict[str, Tensor], directory: Path
) -> None:
    tensors[name] = tensors[name].clone()
    tensors[name][SCALES[name]] = value
    replace_weights(directory, with_tensors(bundle, tensors)._safetensors())
    line = refused(directory)
    assert f"detector.{name} holds {value:g}" in line


@pytest.mark.parametrize("name", ["place_scale", "cell_scale", "map_scale", "combined_scale"])
def test_a_mean_or_a_median_may_be_anything(
    name: str, bundle: Bundle, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    tensors[name] = tensors[name].clone()
    where = (0,) if name in ("place_scale", "cell_scale") else (slice(None), 0)
    tensors[name][where] = -3
    with_tensors(bundle, tensors).save(tmp_path, "the card")
    assert load_bundle(tmp_path).detector is not None


def test_every_truncation_is_refused(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 20):
        path.write_bytes(data[:length])
        assert "damaged" in refused(directory)
        replace_weights(directory, data[:length])
        refused(directory)


def test_a_changed_byte_is_refused(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert "sha256" in refused(directory)


def test_a_file_that_is_too_large_is_not_read(directory: Path) -> None:
    path = directory / "model.safetensors"
    with path.open("ab") as file:
        file.truncate(1 << 30)
    assert "maximum" in refused(directory)


# --- a config that is not a detector's


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, ("detector", "hidden_size", "latent_size")),
        (False, ("detector", "hidden_size", "latent_size")),
        ([2, 8], ("detector", "hidden_size", "latent_size")),
        ({"latent_size": 2, "hidden_size": 8, "image_shape": [3, 32, 4]}, ("detector",)),
        ({"latent_size": 0, "hidden_size": 8}, ("latent_size is 0", "4,096")),
        ({"latent_size": 2, "hidden_size": 10**9}, ("hidden_size is 1000000000", "4,096")),
        ({"latent_size": "2", "hidden_size": 8}, ("latent_size is '2'",)),
        ({"latent_size": 3, "hidden_size": 8}, ("shape",)),
        ({"latent_size": 2, "hidden_size": 4096}, ("shape",)),
        (None, ("model.safetensors", "maximum")),  # for a network alone
    ],
)
def test_another_config_is_refused(value: object, words: tuple[str, ...], directory: Path) -> None:
    edit(directory, detector=value)
    line = refused(directory)
    assert all(word in line for word in words), line


def test_a_config_without_its_tensors_is_refused(bundle: Bundle, directory: Path) -> None:
    replace_weights(directory, replace(bundle, detector=None)._safetensors())
    assert "lacks tensor" in refused(directory)


def test_one_for_images_of_another_shape_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """Also of one with the same tensors: 64×8 has the same grid as 32×4."""
    other = replace(NARROW, image_shape=(3, 64, 8))
    assert bundle.detector is not None
    wrong = replace(bundle, detector=StoredDetector(config=other, tensors=bundle.detector.tensors))
    with pytest.raises(BundleError) as raised:
        wrong.save(tmp_path / "bundle", "the card")
    assert_one_line(raised.value, "(3, 64, 8)", "(3, 32, 4)")
    assert not (tmp_path / "bundle").exists()


def test_older_bundles_have_none() -> None:
    assert tiny_bundle().detector is None
