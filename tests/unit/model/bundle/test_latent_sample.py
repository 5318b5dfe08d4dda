"""Posterior means that are kept in a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.bundle.bundle import load_bundle
from model.bundle.checks import BundleError
from model.bundle.latent_sample import LATENTS_FILE, MAX_CLASSES, MAX_LATENTS, LatentSample
from model.evaluation.card import model_card
from model.tensor_file import MAX_HEADER_BYTES
from tests.unit.model.bundle.helpers import (
    LATENTS,
    WHOLE,
    Saved,
    edit,
    refused,
    replace_latents,
    same_weights,
)
from tests.unit.samples import TINY, assert_one_line, damaged, tiny_bundle

Tensors = dict[str, NDArray[Any]]

N, D = LATENTS.mu.shape


def latents_of(directory: Path) -> LatentSample:
    found = load_bundle(directory).latents
    assert found is not None
    return found


def same(one: LatentSample, other: LatentSample) -> bool:
    labels = (
        one.labels is other.labels
        if one.labels is None or other.labels is None
        else np.array_equal(one.labels, other.labels) and one.labels.dtype == other.labels.dtype
    )
    return (
        labels
        and np.array_equal(one.mu, other.mu)
        and one.mu.dtype == other.mu.dtype
        and (one.data_set, one.classes) == (other.data_set, other.classes)
    )


@pytest.mark.parametrize(
    "latents",
    [
        LATENTS,
        replace(LATENTS, classes=None),
        replace(LATENTS, classes=None, labels=None),
        replace(LATENTS, classes=None, labels=np.array([-3, 0, 256, 2**40, -(2**63)])),
        LatentSample(mu=np.zeros((1, D), np.float32), data_set="one"),
        LatentSample(mu=np.zeros((MAX_LATENTS, D), np.float32), data_set="as many as there may be"),
        LatentSample(mu=np.zeros((D, N), np.float32).T, data_set="in Fortran's order"),
    ],
    ids=["all", "no classes", "no labels", "any labels", "one image", "most images", "transposed"],
)
def test_they_come_back_as_they_were_saved(latents: LatentSample, tmp_path: Path) -> None:
    replace(WHOLE, latents=latents).save(tmp_path, "card")
    assert same(latents_of(tmp_path), latents)
    assert load_bundle(tmp_path).version == WHOLE.version


def test_config_json_says_what_they_are(directory: Path) -> None:
    content = json.loads((directory / "config.json").read_text())["latents"]
    assert content.pop("sha256")
    assert content == {
        "n": N,
        "data_set": "digits, images trained on",
        "classes": ["zero", "one", "żółć"],
    }
    stored = safetensors.numpy.load((directory / LATENTS_FILE).read_bytes())
    assert {name: tensor.dtype for name, tensor in stored.items()} == {
        "mu": np.float32,
        "labels": np.uint8,
    }
    assert "- Posterior means kept: 5 images, digits, images trained on" in model_card(WHOLE)


def test_a_bundle_without_them_has_neither_file_nor_field(tmp_path: Path) -> None:
    """As those that were made before there were any: their config.json stays as it is."""
    tiny_bundle().save(tmp_path, "card")
    assert not (tmp_path / LATENTS_FILE).exists()
    assert "latents" not in json.loads((tmp_path / "config.json").read_text())
    bundle = load_bundle(tmp_path)
    assert bundle.latents is None
    assert "Posterior means" not in model_card(bundle)


def test_saved_without_them_it_keeps_none_of_an_earlier_one(directory: Path) -> None:
    replace(WHOLE, latents=None).save(directory, "card")
    assert not (directory / LATENTS_FILE).exists()
    assert load_bundle(directory).latents is None


def test_both_file_and_field_may_be_taken_out_by_hand(directory: Path) -> None:
    """As docs/your-own-images.md says."""
    path = directory / "config.json"
    content = json.loads(path.read_text())
    del content["latents"]
    path.write_text(json.dumps(content))
    (directory / LATENTS_FILE).unlink()
    assert load_bundle(directory).latents is None
    assert load_bundle(directory).version == WHOLE.version


def test_the_version_does_not_follow_them() -> None:
    other = replace(LATENTS, mu=LATENTS.mu + 1)
    for latents in (None, other):
        assert replace(WHOLE, latents=latents).version == WHOLE.version


def changed_mu(value: float) -> NDArray[np.float32]:
    mu = LATENTS.mu.copy()
    mu[3, 1] = value
    return mu


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mu": LATENTS.mu[:, :2]}, "mu has shape (5, 2), expected (5, 3)"),
        ({"mu": LATENTS.mu.ravel()}, "mu has shape (15,)"),
        ({"mu": LATENTS.mu.astype(np.float64)}, "mu is float64, expected float32"),
        ({"mu": changed_mu(np.nan)}, "NaN or infinity"),
        ({"mu": changed_mu(-np.inf)}, "NaN or infinity"),
        ({"mu": LATENTS.mu[:0], "labels": None, "classes": None}, "of 0 images"),
        (
            {"mu": np.zeros((3_001, D), np.float32), "labels": None, "classes": None},
            "of 3,001 images, expected 1..3,000",
        ),
        ({"labels": np.zeros(4, np.int64)}, "labels have shape (4,), expected (5,)"),
        ({"labels": np.zeros((5, 1), np.int64)}, "labels have shape (5, 1)"),
        ({"labels": None}, "classes, but no labels"),
        ({"labels": np.full(5, 3)}, "labels hold 3, but there are 3 classes"),
        ({"labels": np.array([0, 1, 2, -1, 0])}, "labels hold -1"),
        ({"classes": ()}, "0 classes"),
        ({"classes": tuple(map(str, range(MAX_CLASSES + 1)))}, "1,001 classes, expected 1..1,000"),
        ({"classes": ("a", " ", "b")}, "a class ' '"),
        ({"classes": ("a", "b", "c" * 101)}, "up to 100 characters"),
    ],
)
def test_what_would_not_load_is_not_saved(
    fields: dict[str, Any], reason: str, directory: Path
) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(BundleError) as raised:
        replace(WHOLE, latents=replace(LATENTS, **fields)).save(directory, "other card")
    assert_one_line(raised.value, reason)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


MU = LATENTS.mu
LABELS = np.zeros(N, np.uint8)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "holds nothing"),
        ({"labels": LABELS}, "holds 'labels': U8 (5,), expected mu"),
        ({"mu": MU, "labels": LABELS, "sigma": MU}, "'sigma'"),
        ({"mu": MU, "labels": LABELS.astype(np.float32)}, "'labels': F32"),
        ({"mu": MU, "labels": LABELS[:4]}, "'labels': U8 (4,)"),
        ({"mu": MU, "labels": LABELS[:, None]}, "'labels': U8 (5, 1)"),
        ({"mu": MU.astype(np.float64)}, "'mu': F64"),
        ({"mu": MU[:4]}, "'mu': F32 (4, 3), expected mu, F32 of shape (5, 3)"),
        ({"mu": MU[:, :2]}, "'mu': F32 (5, 2)"),
        ({"mu": MU.ravel()}, "'mu': F32 (15,)"),
        ({"mu": changed_mu(np.nan), "labels": LABELS}, "mu holds NaN or infinity"),
        ({"mu": changed_mu(np.inf), "labels": LABELS}, "mu holds NaN or infinity"),
        ({"mu": MU, "labels": LABELS + 3}, "labels hold 3, but there are 3 classes"),
        ({"mu": MU}, "classes, but no labels"),
    ],
)
def test_a_file_of_something_else_is_refused(
    tensors: Tensors, reason: str, directory: Path
) -> None:
    """Though its hash is right."""
    replace_latents(directory, safetensors.numpy.save(tensors))
    assert reason in refused(directory)


def test_nothing_is_read_past_a_wrong_header(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_latents(directory, safetensors.numpy.save({"mu": MU[:4]}))
    read: list[str] = []
    whole = Path.read_bytes

    def noting(path: Path) -> bytes:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", noting)
    assert LATENTS_FILE in refused(directory)
    assert LATENTS_FILE not in read


def test_too_large_a_file_is_refused(directory: Path) -> None:
    limit = N * (4 * D + 8) + MAX_HEADER_BYTES
    with (directory / LATENTS_FILE).open("r+b") as file:
        file.truncate(limit + 1)  # sparse
    assert f"{LATENTS_FILE} has {limit + 1:,} bytes > maximum {limit:,}" in refused(directory)


def test_as_many_as_config_json_says_and_no_more_than_the_limit(directory: Path) -> None:
    """A file that fits it would be read into memory at each start."""
    n = MAX_LATENTS + 1
    data = safetensors.numpy.save({"mu": np.zeros((n, D), np.float32)})
    replace_latents(directory, data, n=n)
    assert "of 3,001 images, expected 1..3,000" in refused(directory)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"n": 4}, "F32 of shape (4, 3)"),
        ({"n": 0}, "of 0 images"),
        ({"n": -1}, "of -1 images"),
        ({"n": 5.0}, "n 5.0"),
        ({"n": True}, "n True"),
        ({"n": None}, "n None"),
        ({"data_set": 1}, "the strings data_set and sha256"),
        ({"sha256": None}, "the strings data_set and sha256"),
        ({"sha256": "00"}, f"{LATENTS_FILE} is damaged"),
        ({"classes": "abc"}, "no list of strings"),
        ({"classes": ["a", "b", 3]}, "no list of strings"),
        ({"classes": {"a": 1}}, "no list of strings"),
        ({"classes": ["a"]}, "labels hold 2, but there are 1 classes"),
        ({"classes": []}, "0 classes"),
    ],
)
def test_a_wrong_record_is_refused(facts: dict[str, Any], reason: str, directory: Path) -> None:
    old = json.loads((directory / "config.json").read_text())["latents"]
    edit(directory, latents=old | facts)
    assert reason in refused(directory)


def test_classes_that_are_null_are_not_known(directory: Path) -> None:
    old = json.loads((directory / "config.json").read_text())["latents"]
    edit(directory, latents=old | {"classes": None})
    assert latents_of(directory).classes is None


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "changed": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "empty": lambda _: b"",
    "no tensors": lambda _: b"PK\x03\x04",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_damaged_file_is_refused(change: Callable[[bytes], bytes], directory: Path) -> None:
    path = directory / LATENTS_FILE
    path.write_bytes(change(path.read_bytes()))
    assert f"{LATENTS_FILE} is damaged" in refused(directory)


def test_a_missing_file_is_refused(directory: Path) -> None:
    (directory / LATENTS_FILE).unlink()
    assert LATENTS_FILE in refused(directory)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_with_a_right_hash_is_refused_or_a_sample(saved: Saved, data: st.DataObject) -> None:
    """As a file by someone who means harm would be."""
    fuzzed = saved.restored()
    replace_latents(fuzzed, data.draw(damaged(saved.contents[LATENTS_FILE])))
    try:
        latents = latents_of(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        latents.check(TINY)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(value=json_values)
@example(value=False)
def test_any_value_of_the_field_is_refused_or_means_none(saved: Saved, value: object) -> None:
    fuzzed = saved.restored()
    edit(fuzzed, latents=value)
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        assert value is None
        assert loaded.latents is None
        assert same_weights(loaded, WHOLE)
