"""A whole bundle on disk, and ways to change it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from model.bundle.bundle import CALIBRATION_FILE, TRAINED_ON_FILE, Bundle, load_bundle
from model.bundle.checks import BundleError
from model.bundle.latent_sample import LATENTS_FILE, LatentSample
from model.scores.calibration import Calibration
from tests.unit.samples import TINY, assert_one_line, whole_bundle

UNCALIBRATED_FILES = {"README.md", "config.json", "model.safetensors"}
BUNDLE_FILES = UNCALIBRATED_FILES | {CALIBRATION_FILE, TRAINED_ON_FILE, LATENTS_FILE}

FIELDS = {
    *("format", "name", "weights_sha256", "config", "calibration"),
    *("preprocessing", "pixel_variance", "provenance", "metrics"),
}
"""Without `known`, `trained_on` and `latents`, which bundles of older versions have not."""

HASHES = np.array([3, 2**40, 2**64 - 1], np.uint64)

LATENTS = LatentSample(
    mu=np.random.default_rng(0).standard_normal((5, TINY.latent_size), np.float32),
    data_set="digits, images trained on",
    labels=np.array([2, 0, 1, 1, 0], np.int64),
    classes=("zero", "one", "żółć"),
)

WHOLE = whole_bundle(
    trained_on=HASHES,
    latents=LATENTS,
    provenance={"data_set": "digits", "seed": 7, "files_sha256": {"a.gz": "00ff"}},
    metrics={"test": {"n": 3, "mse": 0.5, "mse_sampled": 0.6, "kl": 1.5, "negative_elbo": None}},
)

each_file = pytest.mark.parametrize("name", sorted(BUNDLE_FILES - {"README.md"}))


def refused(directory: Path) -> str:
    """The line with which `directory` is refused."""
    with pytest.raises(BundleError) as raised:
        load_bundle(directory)
    assert_one_line(raised.value, directory)
    return str(raised.value)


def edit(directory: Path, **fields: Any) -> None:
    """Change fields of config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def replace_weights(directory: Path, data: bytes) -> None:
    """Other bytes for model.safetensors, with their hash in config.json."""
    (directory / "model.safetensors").write_bytes(data)
    edit(directory, weights_sha256=hashlib.sha256(data).hexdigest())


def replace_calibration(directory: Path, data: bytes) -> None:
    """Other bytes for calibration.safetensors, with their hash in config.json."""
    (directory / CALIBRATION_FILE).write_bytes(data)
    facts = json.loads((directory / "config.json").read_text())["calibration"]
    edit(directory, calibration=facts | {"sha256": hashlib.sha256(data).hexdigest()})


def replace_trained_on(directory: Path, data: bytes) -> None:
    """Other bytes for trained_on.safetensors, with their hash in config.json."""
    (directory / TRAINED_ON_FILE).write_bytes(data)
    edit(directory, trained_on={"n": 3, "sha256": hashlib.sha256(data).hexdigest()})


def replace_latents(directory: Path, data: bytes, **facts: Any) -> None:
    """Other bytes for latents.safetensors, with their hash and other `facts` in config.json."""
    (directory / LATENTS_FILE).write_bytes(data)
    old = json.loads((directory / "config.json").read_text())["latents"]
    edit(directory, latents=old | {"sha256": hashlib.sha256(data).hexdigest()} | facts)


def same_calibration(one: Calibration | None, other: Calibration | None) -> bool:
    assert one is not None
    assert other is not None
    return (
        (one.data_set, one.date, one.folds) == (other.data_set, other.date, other.folds)
        and list(one.scores) == list(other.scores)
        and all(np.array_equal(table, other.scores[name]) for name, table in one.scores.items())
    )


def same_weights(one: Bundle, other: Bundle) -> bool:
    return set(one.weights) == set(other.weights) and all(
        torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items()
    )


class Saved(NamedTuple):
    """One directory for all examples of a property, and what was in it."""

    directory: Path
    contents: dict[str, bytes]

    def restored(self) -> Path:
        for name, data in self.contents.items():
            (self.directory / name).write_bytes(data)
        return self.directory
