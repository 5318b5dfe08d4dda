"""Folders of TIFF and 16-bit files: training gets the pixels that the service reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.datasets.folder import scan
from model.datasets.load import load_images
from model.images.preprocessing import SCALED, WHOLE, Note, Preprocessing
from service.codecs.image_files import read_file_image
from service.codecs.options import ImageOptions
from tests.tiff_files import DEFLATE, LZW, PACKBITS, tiff_file
from tests.unit.samples import encoded

DEEP = np.random.default_rng(8).integers(0, 65_536, (40, 60, 4), dtype=np.uint16)
EIGHT = (DEEP >> 8).astype(np.uint8)

FILES: Mapping[str, bytes] = {
    "grey.tif": tiff_file(EIGHT[..., 0]),
    "deep.TIFF": tiff_file(DEEP[..., 0], order=">", compression=LZW, predictor=True),
    "colour.tif": tiff_file(DEEP[..., :3], compression=DEFLATE),
    "planes.tif": tiff_file(EIGHT[..., :3], planar=True, compression=DEFLATE),
    "alpha.tif": tiff_file(EIGHT, extra=[2], compression=PACKBITS),
    "big.tiff": tiff_file(EIGHT[..., 0], big=True, tile=(16, 16)),
    "pages.tif": tiff_file(EIGHT[..., 1], pages=4),
    "twelve.tif": tiff_file(DEEP[..., 0] >> 4, tags={281: [4_095]}),
    "dark.tif": tiff_file(DEEP[..., 0] >> 4),
    "turned.tif": tiff_file(EIGHT[..., 2], tags={274: [6]}),
    "deep.png": encoded(Image.fromarray(DEEP[..., 0])),
    "dark.png": encoded(Image.fromarray(DEEP[..., 0] >> 4)),
}


@pytest.mark.parametrize("preprocessing", [WHOLE, SCALED], ids=["whole", "scaled"])
@pytest.mark.parametrize("shape", [(1, 20, 24), (3, 28, 28)])
def test_training_and_service_read_the_same_pixels(
    tmp_path: Path, shape: tuple[int, int, int], preprocessing: Preprocessing
) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    found = load_images(tmp_path, "train", image_shape=shape, preprocessing=preprocessing)
    assert list(found.names) == sorted(FILES)
    for name, pixels in zip(found.names, found.images, strict=True):
        options = ImageOptions(
            shape=shape, max_images=1, max_image_pixels=10_000, preprocessing=preprocessing
        )
        served = read_file_image(FILES[name], options)
        assert np.array_equal(served[0], pixels.reshape(-1)), name
        assert found.folder is not None
        (file,) = (file for file in found.folder.images if file.name == name)
        assert len(file.notes) == len(options.warnings), name


def test_a_tiff_is_found_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "turned.tif").write_bytes(FILES["turned.tif"])
    (tmp_path / "named.png").write_bytes(FILES["pages.tif"])
    named, turned = scan(tmp_path).images
    assert (turned.format, turned.mode, turned.width, turned.height) == ("TIFF", "L", 40, 60)
    assert (named.format, named.notes) == ("TIFF", (Note.FIRST_PAGE,))


def test_a_tiff_that_is_not_read_is_left_out_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(encoded(Image.new("F", (5, 5)), "TIFF"))
    (tmp_path / "b.tif").write_bytes(tiff_file(EIGHT[..., 0], tags={50706: [1]}))
    (tmp_path / "c.tif").write_bytes(tiff_file(EIGHT[..., 0])[:-60])
    reasons = [item.reason for item in scan(tmp_path).left_out]
    assert "floating-point numbers of 32 bits" in reasons[0]
    assert "a raw photo" in reasons[1]
    assert "cut short" in reasons[2]
