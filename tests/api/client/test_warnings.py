"""What the service warns of, in both Python clients."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.client import AnomalyScores, Client, ImageWarning
from service.client.calls import each
from tests.api.client.helpers import Images, Use, near
from tests.processes import Server


@pytest.fixture
def dark(four: Images, tmp_path: Path) -> Path:
    """A digit as a 12-bit camera's software stores it: 12 bits in 16, which look black."""
    path = tmp_path / "dark.png"
    Image.fromarray((four[0, 0].astype(np.uint16) << 4) | 15).save(path)
    return path


METHODS = ("encode", "reconstruct", "anomaly_score", "anomaly_map", "anomaly_map_png")


@pytest.mark.parametrize("method", [*METHODS, "iter_scores"])
def test_every_method_with_images_warns(server: Server, use: Use, dark: Path, method: str) -> None:
    with pytest.warns(ImageWarning, match="bits=12") as caught:
        use(server.url, method, [dark])
    assert len(caught) == 1


@pytest.mark.parametrize("method", [*METHODS, "iter_scores"])
def test_nothing_is_warned_of_without_a_reason(
    server: Server, use: Use, paths: list[Path], method: str
) -> None:
    """A warning is an error in these tests."""
    use(server.url, method, paths)


def test_a_warning_is_where_the_method_was_called(server: Server, dark: Path) -> None:
    with Client(server.url) as client, pytest.warns(ImageWarning) as caught:
        client.encode(dark)
    assert [warning.filename for warning in caught] == [__file__]


def test_scores_have_the_warnings(server: Server, use: Use, dark: Path, paths: list[Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageWarning)
        (first,) = use(server.url, "anomaly_score", dark).warnings
        (second,) = use(server.url, "anomaly_score", [paths[0], dark]).warnings
        each_one = use(server.url, "iter_scores", [*paths[:3], dark], 2)
    text = first.removeprefix("images[0]: ")
    assert (first, second) == (f"images[0]: {text}", f"images[1]: {text}")
    assert [found.warnings for found in each_one] == [(), (), (), (text,)]
    assert use(server.url, "anomaly_score", paths).warnings == ()


def test_warnings_about_no_image_are_about_each() -> None:
    values = np.zeros(2, np.float32)
    texts = ("images[1]: dark", "there are more")
    scores = AnomalyScores(values, None, None, values, values, "mse", 0.1, None, texts)
    assert [found.warnings for found in each(scores)] == [
        ("there are more",),
        ("dark", "there are more"),
    ]


@pytest.mark.parametrize("method", METHODS)
def test_the_bits_of_a_camera_may_be_given(
    server: Server, use: Use, dark: Path, paths: list[Path], method: str
) -> None:
    found: Any = use(server.url, method, dark, bits=12)
    expected = use(server.url, method, paths[0])
    if method == "anomaly_map_png":
        assert found == expected
    elif method in ("encode", "anomaly_score"):
        assert found[0] == near(expected[0])
    else:
        assert found == near(expected)
    (scored,) = use(server.url, "iter_scores", [dark], bits=12)
    assert not scored.warnings
