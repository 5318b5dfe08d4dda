"""The images that were scored last, reduced to thumbnails. In the memory of this process alone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import count
from secrets import token_hex
from threading import Lock
from time import time
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.results import Floats
from service.inference.jobs import Rows

MAX_SIDE: Final = 64
"""Of a thumbnail, in pixels: enough to recognize an image by."""


class RecentImage(NamedTuple):
    """A scored image. It stands alone: the bundle may be another one by now."""

    id: int
    time: float
    """Seconds since 1970."""
    score_type: str
    score: np.float32
    p_value: np.float64 | None
    pixels: NDArray[np.uint8]  # (H, W) or (H, W, 3), at most `MAX_SIDE` a side


class RecentImages:
    """The newest `capacity` images. Threads may add and read at the same time."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.process = token_hex(8)
        """Tells processes apart, as each counts from 1. Not the pid: in a container a restarted
        service has the same again."""
        self._images: deque[RecentImage] = deque(maxlen=capacity)
        self._next_id = 1
        self._lock = Lock()

    def add(
        self,
        score_type: str,
        parts: Sequence[Rows],
        image_shape: tuple[int, int, int],
        score: Floats,
        p_value: NDArray[np.float64] | None,
    ) -> None:
        """Keep the last images of a batch, which comes in arrays whose rows are C·H·W pixels.

        `image_shape` is (C, H, W); `score` and `p_value` are (N,). Each image of the batch gets a
        number, kept or not.
        """
        kept = min(len(score), self.capacity)
        thumbnails = [_thumbnail(pixels, image_shape) for pixels in _last(parts, kept)]
        now = time()
        with self._lock:
            self._next_id += len(score)
            self._images.extend(
                RecentImage(
                    number,
                    now,
                    score_type,
                    score[at],
                    None if p_value is None else p_value[at],
                    thumbnail,
                )
                for number, at, thumbnail in zip(
                    count(self._next_id - kept), range(-kept, 0), thumbnails, strict=False
                )
            )

    def after(self, number: int) -> list[RecentImage]:
        """Those with an id above `number`, the newest last."""
        with self._lock:
            return [image for image in self._images if image.id > number]


def _last(parts: Sequence[Rows], n: int) -> list[Rows]:
    """The last `n` rows of several arrays, in order."""
    rows: list[Rows] = []
    for part in reversed(parts):
        rows[:0] = part[max(0, len(part) - (n - len(rows))) :]
        if len(rows) == n:
            break
    return rows


def _thumbnail(pixels: Rows, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A copy of one image, reduced by a whole number, in the form that Pillow takes."""
    channels, height, width = image_shape
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    image = pixels.reshape(image_shape)[0]
    if channels > 1:
        image = pixels.reshape(image_shape).transpose(1, 2, 0)
    factor = math.ceil(max(height, width) / MAX_SIDE)
    if factor == 1:
        return np.array(image)
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).reduce(factor))
