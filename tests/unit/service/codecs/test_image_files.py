"""Image files become what the network needs."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.images.preprocessing import SCALED, WHOLE, Preprocessing
from service.errors import TooLargeError
from tests.unit.samples import encoded
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


def photograph(width: int, height: int, **options: Any) -> bytes:
    few = Image.fromarray(random_pixels(6, 6, 3))
    return encoded(few.resize((width, height), Image.Resampling.BICUBIC), "JPEG", **options)


@pytest.mark.parametrize(
    ("preprocessing", "progressive", "most"),
    [(WHOLE, False, 10), (SCALED, False, 20), (SCALED, True, 10)],
)
def test_scaled_photographs_count_half(
    preprocessing: Preprocessing, progressive: bool, most: int
) -> None:
    """Towards the limit on all pixels of a request, unless libjpeg has to read several scans."""
    file = b64encode(photograph(100, 80, progressive=progressive)).decode()
    options: dict[str, Any] = {
        "content_type": "application/json",
        "preprocessing": preprocessing,
        "max_images": 50,
        "max_image_pixels": 8_000,
    }
    assert len(read({"images": [file] * most}, COLOUR, **options)) == most
    counted = 8_000 * (most + 1) // (most // 10)
    with pytest.raises(TooLargeError, match=f"count as {counted:,} pixels > maximum 80,000"):
        read({"images": [file] * (most + 1)}, COLOUR, **options)
