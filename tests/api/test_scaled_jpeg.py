"""A service reads photographs by the rules that its bundle records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.config import VAEConfig
from model.images.preprocessing import SCALED, WHOLE, Preprocessing, image_to_array, open_image
from service.app import create_app
from service.settings import Settings
from tests.api.helpers import client_of
from tests.api.image_makers import file_of, seen
from tests.unit.samples import tiny_bundle

pytestmark = pytest.mark.anyio

SHAPE = (3, 12, 16)


@pytest.mark.parametrize("preprocessing", [WHOLE, SCALED])
@pytest.mark.parametrize("size", [(203, 150), (1003, 750)])
async def test_files_are_read_as_the_bundle_says(
    tmp_path: Path, size: tuple[int, int], preprocessing: Preprocessing
) -> None:
    """In each type of body, on the event loop and in a thread: the pixels are those of training."""
    few = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    photograph = Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)
    file = file_of(photograph, "JPEG", quality=90)

    def pixels(rules: Preprocessing) -> bytes:
        image = open_image(file, max_pixels=10**6)
        return image_to_array(image, SHAPE, preprocessing=rules).tobytes()

    assert pixels(WHOLE) != pixels(SCALED)
    config = VAEConfig(image_shape=SHAPE, hidden_sizes=(8,), latent_size=2)
    tiny_bundle(config=config, preprocessing=preprocessing).save(tmp_path, "")
    app = create_app(Settings(bundle=str(tmp_path), threads=1))
    headers = {"Content-Type": "application/octet-stream"}
    async with client_of(app) as client:
        found = await seen(client, file)
        answer = await client.post("/encode", content=pixels(preprocessing), headers=headers)
    assert answer.json()["mu"] == found.tolist()
