"""A whole bundle on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.evaluation.card import model_card
from tests.unit.model.bundle.helpers import WHOLE, Saved


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A saved bundle."""
    WHOLE.save(tmp_path / "bundle", model_card(WHOLE))
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    directory = tmp_path_factory.mktemp("fuzzed") / "bundle"
    WHOLE.save(directory, model_card(WHOLE))
    return Saved(directory, {path.name: path.read_bytes() for path in directory.iterdir()})
