"""Bundles that are cut short or damaged, by accident or on purpose."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.bundle.bundle import CALIBRATION_FILE, MAX_CALIBRATION_BYTES, load_bundle
from model.bundle.checks import BundleError
from model.tensor_file import MAX_HEADER_BYTES
from tests.unit.model.bundle.helpers import (
    FIELDS,
    WHOLE,
    Saved,
    each_file,
    edit,
    refused,
    replace_calibration,
    replace_weights,
    same_calibration,
    same_weights,
)
from tests.unit.samples import assert_one_line, damaged


def test_every_truncation_of_the_calibration_is_refused(directory: Path) -> None:
    path = directory / CALIBRATION_FILE
    data = path.read_bytes()
    for length in range(0, len(data), 41):
        path.write_bytes(data[:length])
        assert "damaged" in refused(directory)
        replace_calibration(directory, data[:length])
        assert "damaged" in refused(directory)


def test_every_truncation_of_the_weights_is_refused(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = path.read_bytes()
    for length in range(0, len(data), 41):
        path.write_bytes(data[:length])
        assert "damaged" in refused(directory)


def test_every_truncation_is_refused_even_with_a_right_hash(directory: Path) -> None:
    data = (directory / "model.safetensors").read_bytes()
    for length in range(0, len(data), 41):
        replace_weights(directory, data[:length])
        refused(directory)


def test_every_truncation_of_the_config_is_refused(directory: Path) -> None:
    path = directory / "config.json"
    data = path.read_bytes().rstrip()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(directory)


def test_a_pickle_is_not_even_tried(directory: Path, tmp_path: Path) -> None:
    torch.save(dict(WHOLE.weights), tmp_path / "weights.pt")
    replace_weights(directory, (tmp_path / "weights.pt").read_bytes())
    assert "damaged" in refused(directory)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("model.safetensors", MAX_HEADER_BYTES + 100_000),
        (CALIBRATION_FILE, MAX_CALIBRATION_BYTES + 1),
    ],
)
def test_too_large_a_file_is_refused_unread(
    name: str, size: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (directory / name).open("r+b") as file:
        file.truncate(size)  # sparse
    read: list[str] = []
    whole = Path.read_bytes

    def noting(path: Path) -> bytes:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", noting)
    assert f"{name} has {size:,} bytes > " in refused(directory)
    assert name not in read


def header_of(entries: object, length: int | None = None) -> bytes:
    """A safetensors file of a header and nothing else."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


WRONG_HEADERS: dict[str, tuple[bytes, str]] = {
    "of 2⁶³ bytes": (header_of({}, 2**63), "9,223,372,036,854,775,808 bytes > maximum 1,048,576"),
    "of 100 MB": (header_of({}, 100_000_000), "100,000,000 bytes > maximum 1,048,576"),
    "longer than the file": (header_of({}, 1_000), "ends within its header of 1,000 bytes"),
    "no object": (header_of([]), "no JSON object"),
    "no JSON": (struct.pack("<Q", 4) + b"\x80\x02}.", "not JSON"),
    "nested": (struct.pack("<Q", 100_000) + b"[" * 100_000, ""),
    "a shape of floats": (header_of({"a": {"dtype": "F32", "shape": [1.5]}}), "no dtype and shape"),
    "a shape below 0": (header_of({"a": {"dtype": "F32", "shape": [-1]}}), "no dtype and shape"),
    "a shape past all memory": (
        header_of(
            {
                name: {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}
                for name in WHOLE.weights
            }
        ),
        "has shape (1099511627776, 1099511627776), not",
    ),
    "no tensor": (header_of({"__metadata__": {}}), "lacks tensor"),
}


@pytest.mark.parametrize("kind", WRONG_HEADERS)
def test_weights_are_not_read_past_a_wrong_header(
    kind: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the hash is right: it is made by who made the file."""
    data, reason = WRONG_HEADERS[kind]
    replace_weights(directory, data)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(safetensors.torch, "load", lambda _: pytest.fail("it was parsed"))
    assert reason in refused(directory)


def test_a_calibration_is_not_read_past_a_wrong_header(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_calibration(directory, header_of({"mse": {"dtype": "F32", "shape": [2**40, 7]}}))
    monkeypatch.setattr(safetensors.numpy, "load", lambda _: pytest.fail("it was parsed"))
    assert "mse is F32, shape (1099511627776, 7)" in refused(directory)


@each_file
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_harmless(name: str, saved: Saved, data: st.DataObject) -> None:
    fuzzed = saved.restored()
    (fuzzed / name).write_bytes(data.draw(damaged(saved.contents[name])))
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        assert same_weights(loaded, WHOLE)
        assert loaded.config == WHOLE.config
        if loaded.calibration is not None:
            tables = replace(loaded.calibration, data_set="clean digits", date="2026-01-02")
            assert same_calibration(tables, WHOLE.calibration)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_with_a_right_hash_is_refused_or_a_network(
    saved: Saved, data: st.DataObject
) -> None:
    """As a file by someone who means harm would be."""
    fuzzed = saved.restored()
    replace_weights(fuzzed, data.draw(damaged(saved.contents["model.safetensors"])))
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        network = loaded.network()
        assert all(weight.isfinite().all() for weight in network.parameters())
        statistics = loaded.statistics.tensors() if loaded.statistics else {}
        assert all(tensor.isfinite().all() for tensor in statistics.values())


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_calibration_with_a_right_hash_is_refused_or_one(
    saved: Saved, data: st.DataObject
) -> None:
    fuzzed = saved.restored()
    replace_calibration(fuzzed, data.draw(damaged(saved.contents[CALIBRATION_FILE])))
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        assert loaded.calibration is not None
        assert WHOLE.calibration is not None
        assert set(loaded.calibration.scores) <= set(WHOLE.calibration.scores)
        for table in loaded.calibration.scores.values():
            assert np.array_equal(table, np.sort(table))
            assert np.isfinite(table).all()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(
    field=st.sampled_from(sorted(FIELDS)),
    value=json_values,
)
@example("format", float("inf"))
@example("name", "two\nlines")
def test_any_value_of_any_field_is_refused_or_harmless(
    saved: Saved, field: str, value: object
) -> None:
    fuzzed = saved.restored()
    edit(fuzzed, **{field: value})
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        assert same_weights(loaded, WHOLE)
