"""JSON bodies: numbers, and files in base64."""

from __future__ import annotations

from base64 import b64encode

import numpy as np
import pytest

from service.codecs.options import ImageOptions
from service.errors import InvalidContentError
from tests.unit.service.codecs.bodies import COLOUR, GREY, file_of, random_pixels, read


@pytest.mark.parametrize("wanted", [GREY, COLOUR])
def test_numbers_come_out_as_they_went_in(wanted: ImageOptions) -> None:
    channels, height, width = wanted.shape
    pixels = random_pixels(3, channels, height, width)
    flat = pixels.reshape(3, -1)
    for nested in (pixels, flat):
        found = read({"images": nested.tolist(), "dtype": "uint8"}, wanted)
        assert found.dtype == np.uint8
        assert (found == flat).all()
        found = read({"images": (nested / 255).tolist()}, wanted)
        assert found.dtype == np.float32
        assert found == pytest.approx(flat / 255, abs=1e-6)
        assert found.flags.c_contiguous


def test_a_colour_network_takes_no_plane() -> None:
    plane = random_pixels(4, 5).tolist()
    assert read({"images": [plane], "dtype": "uint8"}).shape == (1, 20)
    with pytest.raises(InvalidContentError, match=r"images\[0\].*\[3, 4, 5\] or \[60\]"):
        read({"images": [plane], "dtype": "uint8"}, COLOUR)


def test_files_and_numbers_share_a_body() -> None:
    grey = random_pixels(4, 5)
    text = b64encode(file_of(grey)).decode()
    found = read({"images": [text, grey.tolist(), grey.reshape(-1).tolist()], "dtype": "uint8"})
    assert found.dtype == np.uint8
    assert (found == grey.reshape(-1)).all()
    found = read({"images": [(grey / 255).tolist(), text]})
    assert found.dtype == np.float32
    assert found == pytest.approx(np.tile(grey.reshape(-1) / 255, (2, 1)), abs=1e-6)


def test_numbers_of_0_to_255_get_a_hint() -> None:
    with pytest.raises(InvalidContentError, match="dtype to uint8"):
        read({"images": [[0, 128, 255, *[0] * 17]]})
