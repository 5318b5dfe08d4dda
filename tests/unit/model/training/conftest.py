"""A few digits, and a training that nothing disturbed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.training.train import Trained, train
from tests.unit.model.training.small_training import QUICK, SMALL, look_each_epoch


@pytest.fixture(scope="module")
def few(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return digits[:120]


@pytest.fixture(scope="module")
def unbroken(few: NDArray[np.uint8]) -> Trained:
    """A training that nothing disturbed."""
    return train(SMALL, few, QUICK)


@pytest.fixture
def looks_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    look_each_epoch(monkeypatch)
