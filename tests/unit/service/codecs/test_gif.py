"""GIFs: frames hold the images, in order, for ever."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from service.codecs.gif import FRAME_MS, check_frames, write_gif
from service.codecs.responses import Result
from service.errors import InvalidContentError


def write(images: NDArray[np.uint8], scale: int = 1) -> Image.Image:
    """Images, (N, C, H, W), as an open GIF."""
    result = Result(
        {}, (images / 255).astype(np.float32), drawable=True, scale=scale, max_png_pixels=10**6
    )
    response = write_gif(result)
    assert response.media_type == "image/gif"
    return Image.open(BytesIO(bytes(response.body)), formats=["GIF"])


def frames(gif: Image.Image) -> list[NDArray[np.uint8]]:
    """Each frame, (H, W, 3)."""
    return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]


@pytest.mark.parametrize("scale", [1, 3])
def test_grey_levels_are_kept(scale: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 9, 7), dtype=np.uint8)
    gif = write(images, scale)
    assert gif.size == (7 * scale, 9 * scale)
    assert gif.info["loop"] == 0, "for ever"
    found = frames(gif)
    assert len(found) == 5
    for frame, image in zip(found, images, strict=True):
        enlarged = image[0].repeat(scale, axis=0).repeat(scale, axis=1)
        assert (frame == enlarged[..., None]).all()
    for index in range(5):
        gif.seek(index)
        assert gif.info["duration"] == FRAME_MS


def test_frames_that_differ_little_are_right_too() -> None:
    """Of these, only what has changed is stored."""
    images = np.zeros((4, 1, 8, 8), np.uint8)
    for index in range(4):
        images[index, 0, index, : 2 * index] = 100 + index
    for frame, image in zip(frames(write(images)), images, strict=True):
        assert (frame == image[0][..., None]).all()


def test_few_colours_are_kept_in_each_frame() -> None:
    palette = np.random.default_rng(1).integers(0, 256, (3, 16, 3), dtype=np.uint8)
    places = np.random.default_rng(2).integers(0, 16, (3, 8, 8))
    images = np.stack([palette[i][places[i]] for i in range(3)]).transpose(0, 3, 1, 2)
    found = frames(write(images, 2))
    for frame, image in zip(found, images, strict=True):
        assert (frame[::2, ::2] == image.transpose(1, 2, 0)).all()


def test_many_colours_are_nearly_kept() -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp, (64, 1)).T, np.full((64, 64), 128)])
    images = np.stack([image, image[:, ::-1]]).astype(np.uint8)
    for frame, expected in zip(frames(write(images)), images, strict=True):
        error = np.abs(frame.astype(int) - expected.transpose(1, 2, 0))
        assert error.mean() < 8


def test_one_image_is_a_still() -> None:
    gif = write(np.full((1, 1, 4, 4), 9, np.uint8))
    assert getattr(gif, "n_frames", 1) == 1
    assert "loop" not in gif.info
    assert (frames(gif)[0] == 9).all()


def test_an_image_like_the_one_before_is_shown_longer() -> None:
    images = np.zeros((4, 1, 4, 4), np.uint8)
    images[3] = 200
    gif = write(images)
    durations = []
    for index in range(getattr(gif, "n_frames", 1)):
        gif.seek(index)
        durations.append(gif.info["duration"])
    assert durations == [3 * FRAME_MS, FRAME_MS]


def test_the_pixels_of_all_frames_are_limited() -> None:
    check_frames(4, (5, 10), 2, 800)
    with pytest.raises(InvalidContentError, match=r"4 images at scale 2 make 800 pixels > .* 799"):
        check_frames(4, (5, 10), 2, 799)
    check_frames(1, (1, 65_535), 1, 10**6)
    with pytest.raises(InvalidContentError, match=r"65536 × 1.*65,535 of a GIF"):
        check_frames(1, (1, 65_536), 1, 10**6)
