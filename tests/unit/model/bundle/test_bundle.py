"""Bundles: saved, loaded, found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from model.bundle.bundle import FORMAT, Bundle, find_bundle, load_bundle, pretrained_names
from model.bundle.checks import BundleError
from model.config import VAEConfig
from model.evaluation.card import model_card
from model.images.preprocessing import SCALED, Preprocessing
from model.scores.deterministic import ScoreStatistics
from model.vae import VAE
from tests.unit.model.bundle.helpers import (
    BUNDLE_FILES,
    HASHES,
    UNCALIBRATED_FILES,
    WHOLE,
    edit,
    same_calibration,
    same_weights,
)
from tests.unit.samples import TINY, assert_one_line, some_statistics, tiny_bundle, whole_bundle

OTHERS = np.array([4], np.uint64)


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        VAEConfig(image_shape=(3, 2, 3), hidden_sizes=(), latent_size=1),
        VAEConfig(image_shape=(1, 3, 3), hidden_sizes=(4, 5, 6), latent_size=2, head="relu"),
    ],
)
@pytest.mark.parametrize("pixel_variance", [None, 0.25])
def test_it_comes_back_as_it_was_saved(
    config: VAEConfig, pixel_variance: float | None, tmp_path: Path
) -> None:
    saved = tiny_bundle(
        config=config,
        name="zażółć 数字",
        pixel_variance=pixel_variance,
        provenance=WHOLE.provenance,
        metrics=WHOLE.metrics,
    )
    saved.save(tmp_path / "deep" / "down", "the card")
    loaded = load_bundle(tmp_path / "deep" / "down")
    assert loaded.name == saved.name
    assert loaded.config == config
    assert loaded.pixel_variance == pixel_variance
    assert loaded.provenance == saved.provenance
    assert loaded.metrics == saved.metrics
    assert loaded.version == saved.version
    assert same_weights(loaded, saved)
    assert (loaded.statistics, loaded.calibration) == (None, None)
    assert files(tmp_path / "deep" / "down") == UNCALIBRATED_FILES
    assert (tmp_path / "deep" / "down" / "README.md").read_text() == "the card"


def test_statistics_and_calibration_come_back_as_they_were_saved(directory: Path) -> None:
    loaded = load_bundle(directory)
    assert WHOLE.statistics is not None
    assert loaded.statistics is not None
    saved = WHOLE.statistics.tensors()
    assert set(saved) == set(loaded.statistics.tensors())
    for name, tensor in loaded.statistics.tensors().items():
        assert torch.equal(tensor, saved[name])
    assert same_calibration(loaded.calibration, WHOLE.calibration)
    assert loaded.version == WHOLE.version
    assert same_weights(loaded, WHOLE)
    assert files(directory) == BUNDLE_FILES


@pytest.mark.parametrize("statistics", [None, some_statistics()], ids=["none", "some"])
@pytest.mark.parametrize("pixel_variance", [None, 0.25])
def test_the_calibration_of_any_scores_is_restored(
    statistics: ScoreStatistics | None, pixel_variance: float | None, tmp_path: Path
) -> None:
    saved = whole_bundle(statistics=statistics, pixel_variance=pixel_variance)
    saved.save(tmp_path, "")
    assert same_calibration(load_bundle(tmp_path).calibration, saved.calibration)


def test_a_bundle_of_format_1_still_loads(tmp_path: Path) -> None:
    """As written before there were statistics and calibrations."""
    weights = safetensors.torch.save(dict(WHOLE.weights))
    (tmp_path / "model.safetensors").write_bytes(weights)
    content = {
        "format": 1,
        "name": "old",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "config": {
            "architecture": "mlp",
            "image_shape": [1, 4, 5],
            "hidden_sizes": [7],
            "latent_size": 3,
            "head": "log_variance",
        },
        "preprocessing": {
            "pixels": "uint8 / 255",
            "alpha": "composited on black",
            "resize": "bicubic, anti-aliased, to the whole image shape",
        },
        "pixel_variance": 0.25,
        "provenance": {"data_set": "digits"},
        "metrics": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    loaded = load_bundle(tmp_path)
    assert same_weights(loaded, WHOLE)
    assert loaded.name == "old"
    assert loaded.preprocessing == Preprocessing()
    assert (loaded.statistics, loaded.calibration) == (None, None)
    loaded.save(tmp_path, "")  # and becomes one of today's
    again = load_bundle(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format"] == FORMAT == 2
    assert (again.version, again.calibration) == (loaded.version, None)


def test_the_preprocessing_comes_back(directory: Path) -> None:
    assert load_bundle(directory).preprocessing == Preprocessing()
    recorded = json.loads((directory / "config.json").read_text())["preprocessing"]
    replace(WHOLE, preprocessing=SCALED).save(directory, "")
    assert load_bundle(directory).preprocessing == SCALED
    now = json.loads((directory / "config.json").read_text())["preprocessing"]
    assert now == recorded | {"decoding": now["decoding"]}, "older versions refuse it, as they must"


def test_saved_without_calibration_it_keeps_none_of_an_earlier_one(directory: Path) -> None:
    replace(WHOLE, calibration=None, trained_on=None, latents=None).save(directory, "")
    assert files(directory) == UNCALIBRATED_FILES
    assert load_bundle(directory).calibration is None


def test_a_calibration_that_the_config_does_not_name_is_ignored(directory: Path) -> None:
    """As of a save cut short before the older file was removed."""
    edit(directory, calibration=None)
    assert load_bundle(directory).calibration is None


def test_the_network_has_the_weights_and_does_not_learn() -> None:
    network = WHOLE.network()
    assert isinstance(network, VAE)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, WHOLE.weights[name])


def test_the_version_follows_weights_and_statistics_alone(directory: Path) -> None:
    assert replace(WHOLE, name="other", metrics={"a": 1}).version == WHOLE.version
    assert replace(WHOLE, calibration=None).version == WHOLE.version
    assert whole_bundle(n=8).version == WHOLE.version
    backwards = dict(reversed(list(WHOLE.weights.items())))
    assert replace(WHOLE, weights=backwards).version == WHOLE.version
    changed = {name: tensor.clone() for name, tensor in WHOLE.weights.items()}
    changed["decoder.0.bias"][0] += 1e-6
    assert replace(WHOLE, weights=changed).version != WHOLE.version
    weights_file = (directory / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights_file).hexdigest().startswith(WHOLE.version)
    assert len(WHOLE.version) == 16


def test_each_of_the_statistics_is_part_of_the_version() -> None:
    """Same version, same scores: and scores depend on them."""
    tensors = some_statistics().tensors()
    versions = {replace(WHOLE, statistics=None).version, WHOLE.version}
    for name, tensor in tensors.items():
        changed = ScoreStatistics(**(tensors | {name: tensor + 1e-3}))
        versions.add(replace(WHOLE, statistics=changed).version)
    assert len(versions) == 2 + len(tensors)


def test_saving_again_gives_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    load_bundle(directory).save(tmp_path / "again", model_card(load_bundle(directory)))
    for path in directory.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


class Stop(BaseException):
    """The machine stops."""


@pytest.mark.parametrize("before", ["absent", "present"])
@pytest.mark.parametrize(
    ("other", "steps"),
    [
        *((tiny_bundle(seed=1), steps) for steps in range(6)),
        *((whole_bundle(seed=1), steps) for steps in range(8)),
        *((replace(WHOLE, trained_on=OTHERS, name="others"), steps) for steps in range(11)),
        *((replace(whole_bundle(n=9), name="anew"), steps) for steps in range(8)),
    ],
    ids=lambda value: value if isinstance(value, int) else value.name,
)
def test_a_save_cut_short_does_not_load_as_something_else(
    other: Bundle, steps: int, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in any of its writes or renamings: an older bundle is as it was, or nothing loads.

    The last `other` has the weights of the one before, calibrated anew.
    """
    if before == "present":
        WHOLE.save(tmp_path, model_card(WHOLE))
    left = steps
    write, rename = Path.write_bytes, Path.replace

    def cut_write(path: Path, data: bytes) -> int:
        nonlocal left
        if left == 0:
            write(path, data[: len(data) // 2])
            raise Stop
        left -= 1
        return write(path, data)

    def cut_replace(path: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise Stop
        left -= 1
        return rename(path, target)

    monkeypatch.setattr(Path, "write_bytes", cut_write)
    monkeypatch.setattr(Path, "replace", cut_replace)
    with pytest.raises(Stop):
        other.save(tmp_path, model_card(other))
    monkeypatch.undo()
    assert files(tmp_path) <= BUNDLE_FILES
    try:
        loaded = load_bundle(tmp_path)
    except BundleError:
        return
    assert (tmp_path / "README.md").read_text() == model_card(loaded)
    assert same_calibration(loaded.calibration, WHOLE.calibration)
    assert loaded.trained_on is not None
    assert np.array_equal(loaded.trained_on, HASHES)


@pytest.mark.parametrize(
    "fields",
    [
        {"metrics": {"mse": float("nan")}},
        {"weights": {name: tensor * float("nan") for name, tensor in WHOLE.weights.items()}},
        {"name": " "},
        {"statistics": some_statistics(latent_size=4)},
    ],
    ids=["metrics", "weights", "name", "statistics"],
)
def test_a_bundle_that_would_not_load_is_not_saved(directory: Path, fields: dict[str, Any]) -> None:
    """And what was there before is as it was: a training that failed does not cost it."""
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises((BundleError, ValueError)):
        replace(WHOLE, **fields).save(directory, "other card")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_a_shipped_name_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_bundle(find_bundle("mnist")).name == "mnist"
    assert {"mnist", "fashion-mnist"} <= set(pretrained_names())


def test_a_directory_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_bundle(find_bundle(str(directory))).version == WHOLE.version
    monkeypatch.chdir(directory.parent)
    assert load_bundle(find_bundle("bundle")).version == WHOLE.version


@pytest.mark.parametrize("name", ["minst", "", "../nowhere", "mnist/", "a\0b", "x" * 5_000])
def test_an_unknown_bundle_name_lists_the_shipped_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError) as raised:
        find_bundle(name)
    assert_one_line(raised.value, repr(name), *pretrained_names())
