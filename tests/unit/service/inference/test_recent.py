"""Thumbnails of scored images: the newest, numbered, small, and copies."""

from __future__ import annotations

from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray

from service.inference.recent import MAX_SIDE, RecentImages

SHAPE = (1, 2, 3)


def batch(*values: int) -> NDArray[np.uint8]:
    """An image of each value, (N, P)."""
    return np.repeat(np.array(values, np.uint8)[:, None], 6, axis=1)


def add(recent: RecentImages, *parts: NDArray[np.uint8]) -> None:
    score = np.concatenate([part[:, 0] for part in parts]).astype(np.float32)
    recent.add("mse", parts, SHAPE, score, score.astype(np.float64) / 100)


def values(recent: RecentImages, after: int = 0) -> list[tuple[int, int]]:
    """Ids, and the images' values, which are their scores, too."""
    found = recent.after(after)
    for image in found:
        assert image.pixels.shape == (2, 3)
        assert image.score == image.pixels[0, 0]
        assert image.p_value == pytest.approx(image.score / 100)
        assert image.score_type == "mse"
    return [(image.id, int(image.score)) for image in found]


def test_the_newest_are_kept_and_all_are_numbered() -> None:
    recent = RecentImages(4)
    assert values(recent) == []
    add(recent, batch(10, 11), batch(12))
    assert values(recent) == [(1, 10), (2, 11), (3, 12)]
    add(recent, batch(13, 14))
    assert values(recent) == [(2, 11), (3, 12), (4, 13), (5, 14)]
    assert values(recent, after=3) == [(4, 13), (5, 14)]
    assert values(recent, after=5) == []
    add(recent, batch(20, 21, 22), batch(23), batch(24, 25, 26))
    assert values(recent) == [(9, 23), (10, 24), (11, 25), (12, 26)]
    times = [image.time for image in recent.after(0)]
    assert times == sorted(times)


def test_without_calibration_there_is_no_p_value() -> None:
    recent = RecentImages(2)
    recent.add("mse", [batch(7)], SHAPE, np.array([7], np.float32), None)
    (found,) = recent.after(0)
    assert found.p_value is None


def test_thumbnails_are_copies() -> None:
    recent, images = RecentImages(2), batch(1, 2)
    add(recent, images)
    images[:] = 0
    assert values(recent) == [(1, 1), (2, 2)]


def test_floats_are_made_bytes() -> None:
    recent = RecentImages(1)
    pixels = np.array([[0, 0.25, 0.5, 0.75, 1, 0.1]], np.float32)
    recent.add("mse", [pixels], SHAPE, np.zeros(1, np.float32), None)
    (found,) = recent.after(0)
    assert found.pixels.dtype == np.uint8
    assert found.pixels.ravel().tolist() == [0, 64, 128, 191, 255, 26]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(64, 64, (64, 64)), (65, 40, (33, 20)), (256, 128, (64, 32)), (1, 1000, (1, 63))],
)
def test_large_images_are_averaged(
    channels: int, height: int, width: int, expected: tuple[int, int]
) -> None:
    shape = (channels, height, width)
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    recent = RecentImages(2)
    recent.add("mse", [images.reshape(2, -1)], shape, np.zeros(2, np.float32), None)
    for found, image in zip(recent.after(0), images, strict=True):
        assert max(found.pixels.shape[:2]) <= MAX_SIDE
        assert found.pixels.shape == (expected if channels == 1 else (*expected, 3))
        assert abs(float(found.pixels.mean()) - float(image.mean())) < 3
    first = images[0].transpose(1, 2, 0)
    factor = -(-max(height, width) // MAX_SIDE)
    corner = first[:factor, :factor].mean(axis=(0, 1))
    assert np.abs(recent.after(0)[0].pixels.reshape(*expected, channels)[0, 0] - corner).max() <= 1


def test_threads_number_each_image_once() -> None:
    recent = RecentImages(1000)

    def work() -> None:
        for i in range(200):
            add(recent, batch(i % 256))

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [number for number, _ in values(recent)] == list(range(1, 801))
