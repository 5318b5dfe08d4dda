"""A data set in IDX files, and a small network trained on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.__main__ import main
from model.commands import training_images
from tests.unit.model.commands.command_line import LONG, N_TEST, N_TRAIN
from tests.unit.samples import encoded, write_idx


@pytest.fixture(scope="module")
def digits(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """In random order: scikit-learn's come writer by writer, and so are not exchangeable."""
    return digits[np.random.default_rng(0).permutation(len(digits))]


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory, digits: NDArray[np.uint8]) -> Path:
    """Digits in IDX files, to train on and to test with."""
    test = digits[N_TRAIN : N_TRAIN + N_TEST]
    return write_idx(tmp_path_factory.mktemp("data") / "digits", digits[:N_TRAIN], test)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, idx: Path) -> Path:
    """A bundle trained on them, without a break."""
    out = tmp_path_factory.mktemp("trained") / "mine"
    assert main(["train", "--data", str(idx), "--out", str(out), *LONG]) == 0
    return out


@pytest.fixture(autouse=True)
def detectors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `photographs`, so that networks of a few steps get no detector by default.

    Not in tests that are marked as `with_detectors`.
    """
    if request.node.get_closest_marker("with_detectors") is None:
        monkeypatch.setattr(training_images, "is_installed", lambda: False)


@pytest.fixture(scope="session")
def tiles() -> Path:
    """Photographs of magnetic tiles: `train`, `test-normal`, `test-anomalous` and `masks`."""
    directory = Path(__file__).parents[5] / "shared" / "photos" / "tiles"
    if not directory.is_dir():
        reason = f"the photographs are not at {directory}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return directory


@pytest.fixture
def mine(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained bundle, to be changed."""
    return shutil.copytree(trained, tmp_path / "mine")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of coloured files of many sizes, some deeper down, one of them broken."""
    folder = tmp_path / "pictures"
    (folder / "deeper").mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(24):
        small = noise.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((40 + 7 * number, 90 - number))
        kind = "JPEG" if number % 2 else "PNG"
        place = folder / "deeper" if number % 3 else folder
        (place / f"{number:02}.{kind.lower()}").write_bytes(encoded(image, kind))
    (folder / "broken[red].png").write_bytes(b"broken")
    (folder / "notes.txt").write_text("no picture")
    return folder
