"""The version on disk, without loading the bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.bundle.bundle import load_bundle
from model.bundle.card_files import stored_version
from tests.unit.samples import tiny_bundle


def test_graphs_are_part_of_it(tmp_path: Path) -> None:
    found = set()
    for graphs in ({}, {"encoder": b"one"}, {"encoder": b"one", "decoder": b"two"}):
        bundle = replace(tiny_bundle(), graphs=graphs)
        bundle.save(tmp_path, "")
        assert stored_version(tmp_path) == bundle.version == load_bundle(tmp_path).version
        found.add(bundle.version)
    assert len(found) == 3


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weights_sha256": 7}',
        '{"weights_sha256": "a", "graphs": [1]}',
        "[" * 10**5,
    ],
)
def test_there_is_none_in_a_damaged_file(tmp_path: Path, content: str) -> None:
    assert stored_version(tmp_path) is None
    (tmp_path / "config.json").write_text(content)
    assert stored_version(tmp_path) is None
