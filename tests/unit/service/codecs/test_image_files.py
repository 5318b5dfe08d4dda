"""Image files become what the network needs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.unit.service.codecs.bodies import COLOUR, file_of, random_pixels, read


def test_a_file_is_converted_to_what_the_network_needs() -> None:
    colour = random_pixels(4, 5, 3)
    grey = random_pixels(4, 5)
    assert (read(file_of(colour), COLOUR) == colour.transpose(2, 0, 1).reshape(1, -1)).all()
    assert (read(file_of(grey)) == grey.reshape(1, -1)).all()
    assert (read(file_of(grey), COLOUR) == np.tile(grey.reshape(1, -1), 3)).all()
    luma = np.asarray(Image.fromarray(colour).convert("L"))
    assert (read(file_of(colour)) == luma.reshape(1, -1)).all()
    assert (read(file_of(grey), invert=True) == 255 - grey.reshape(1, -1)).all()
