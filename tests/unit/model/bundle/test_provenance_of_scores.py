"""Which images trained a bundle, and across how many folds it was calibrated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.bundle.bundle import CALIBRATION_FILE, TRAINED_ON_FILE, load_bundle
from model.bundle.checks import BundleError
from tests.unit.model.bundle.helpers import (
    HASHES,
    WHOLE,
    Saved,
    edit,
    refused,
    replace_trained_on,
    same_calibration,
)
from tests.unit.samples import damaged, tiny_bundle


def test_the_hashes_come_back_as_they_were_saved(directory: Path) -> None:
    loaded = load_bundle(directory)
    assert loaded.trained_on is not None
    assert loaded.trained_on.dtype == np.uint64
    np.testing.assert_array_equal(loaded.trained_on, HASHES)
    assert json.loads((directory / "config.json").read_text())["trained_on"]["n"] == 3


def test_a_bundle_of_no_known_images_has_no_such_file(tmp_path: Path) -> None:
    tiny_bundle().save(tmp_path, "card")
    assert not (tmp_path / TRAINED_ON_FILE).exists()
    assert load_bundle(tmp_path).trained_on is None


def test_no_images_are_another_thing_than_unknown_ones(tmp_path: Path) -> None:
    tiny_bundle(trained_on=HASHES[:0]).save(tmp_path, "card")
    loaded = load_bundle(tmp_path).trained_on
    assert loaded is not None
    assert loaded.shape == (0,)


def test_saved_without_hashes_it_keeps_none_of_an_earlier_one(directory: Path) -> None:
    replace(WHOLE, trained_on=None).save(directory, "card")
    assert not (directory / TRAINED_ON_FILE).exists()
    assert load_bundle(directory).trained_on is None


@pytest.mark.parametrize("card", ["", "card"])
def test_the_card_is_replaced_even_by_an_empty_one(card: str, directory: Path) -> None:
    WHOLE.save(directory, card)
    assert (directory / "README.md").read_text() == card


def test_an_older_bundle_has_neither(directory: Path) -> None:
    path = directory / "config.json"
    content = json.loads(path.read_text())
    del content["trained_on"], content["calibration"]["folds"]
    path.write_text(json.dumps(content))
    (directory / TRAINED_ON_FILE).unlink()
    loaded = load_bundle(directory)
    assert loaded.trained_on is None
    assert loaded.calibration is not None
    assert loaded.calibration.folds == 0
    assert same_calibration(loaded.calibration, WHOLE.calibration)


@pytest.mark.parametrize("folds", [0, 1, 10, 1_000])
def test_the_folds_come_back(folds: int, tmp_path: Path) -> None:
    assert WHOLE.calibration is not None
    calibration = replace(WHOLE.calibration, folds=folds)
    replace(WHOLE, calibration=calibration).save(tmp_path, "card")
    assert same_calibration(load_bundle(tmp_path).calibration, calibration)


@pytest.mark.parametrize("folds", [-1, 1.0, "10", None, True])
def test_a_wrong_number_of_folds_is_reported(folds: object, directory: Path) -> None:
    facts = json.loads((directory / "config.json").read_text())["calibration"]
    edit(directory, calibration=facts | {"folds": folds})
    assert f"{folds!r} folds" in refused(directory)


Tables = dict[str, NDArray[np.generic]]


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"pixels": HASHES.astype(np.int64)},
        {"pixels": HASHES[None]},
        {"pixels": np.array(7, np.uint64)},
        {"files": HASHES},
        {"pixels": HASHES, "files": HASHES},
    ],
    ids=lambda tables: " ".join(f"{n} {t.dtype} {t.ndim}" for n, t in tables.items()) or "none",
)
def test_hashes_of_another_kind_are_refused(tables: Tables, directory: Path) -> None:
    replace_trained_on(directory, safetensors.numpy.save(tables))
    assert TRAINED_ON_FILE in refused(directory)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "changed": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "empty": lambda _: b"",
    "no tensors": lambda _: b"PK\x03\x04",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_damaged_hashes_are_refused(change: Callable[[bytes], bytes], directory: Path) -> None:
    """Forgotten images would calibrate a network that knows them."""
    path = directory / TRAINED_ON_FILE
    path.write_bytes(change(path.read_bytes()))
    assert f"{TRAINED_ON_FILE} is damaged" in refused(directory)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_is_refused(saved: Saved, data: st.DataObject) -> None:
    directory = saved.restored()
    before = saved.contents[TRAINED_ON_FILE]
    (directory / TRAINED_ON_FILE).write_bytes(data.draw(damaged(before)))
    try:
        loaded = load_bundle(directory)
    except BundleError:
        return
    assert (directory / TRAINED_ON_FILE).read_bytes() == before
    assert loaded.trained_on is not None
    assert np.array_equal(loaded.trained_on, HASHES)


def test_hashes_of_another_bundle_are_refused(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    replace(WHOLE, trained_on=HASHES[:2]).save(other, "card")
    (other / TRAINED_ON_FILE).replace(directory / TRAINED_ON_FILE)
    assert TRAINED_ON_FILE in refused(directory)
    assert (directory / CALIBRATION_FILE).exists()


def test_the_version_is_that_of_the_weights_alone() -> None:
    assert replace(WHOLE, trained_on=None).version == WHOLE.version
