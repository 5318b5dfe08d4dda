"""JSON bodies: images as numbers or base64 files, latents, and draws from the prior."""

from __future__ import annotations

import binascii
import math
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.codecs.arrays import check_count, latents_in_range, pixels_in_range, unit_pixels
from service.codecs.image_files import FileDecoder
from service.codecs.json_numbers import (
    fields,
    items,
    kind,
    number_row,
    number_rows,
    parse_json,
    plain_images,
)
from service.codecs.options import DTYPES, ImageOptions, LatentOptions, Latents, Pixels
from service.errors import InvalidContentError
from service.sampling import MAX_SEED, standard_normal


def read_json_images(body: bytes, wanted: ImageOptions) -> Pixels:
    """`{"images": [I, …], "dtype": …}`, each I a base64 file or numbers."""
    plain = read_plain_json_images(body, wanted)
    return read_any_json_images(body, wanted) if plain is None else plain


def read_plain_json_images(body: bytes, wanted: ImageOptions) -> Pixels | None:
    """The same if all images are numbers of one form and right; None means nothing."""
    plain = plain_images(body, wanted.shape, wanted.max_images)
    if plain is None:
        return None
    dtype, pixels = plain
    rows: Pixels = np.frombuffer(pixels, DTYPES[dtype]).reshape(-1, wanted.pixels)
    return rows


def read_any_json_images(body: bytes, wanted: ImageOptions) -> Pixels:
    """The same for all forms of images together, and with the reason if something is wrong."""
    found = fields(parse_json(body), ("images", "dtype"))
    dtype = found.get("dtype", "float32")
    if dtype not in DTYPES:
        raise InvalidContentError(
            f"dtype is {str(dtype)[:64]!r}, expected 'float32' (pixels in [0, 1]) or 'uint8' "
            "(0..255)",
            ("body", "dtype"),
        )
    images = items(found, "images")
    check_count(len(images), wanted.max_images)
    if not any(isinstance(item, str) for item in images):
        numbers = number_rows(images, "images", wanted.item_shapes, body.count(b"["))
        return pixels_in_range(numbers, dtype)
    rows: list[Pixels] = []
    decoder = FileDecoder(wanted)
    for index, item in enumerate(images):
        if isinstance(item, str):
            rows.append(decoder.decode(_base64(item, index), index))
        else:
            numbers = number_row(item, "images", index, wanted.item_shapes)
            rows.append(pixels_in_range(numbers[None], dtype, index)[0])
    if any(row.dtype == np.float32 for row in rows):
        return np.stack([unit_pixels(row) for row in rows])
    return np.stack([row.astype(np.uint8, copy=False) for row in rows])


def read_json_latents(body: bytes, wanted: LatentOptions) -> Latents:
    """`{"z": [[D numbers], …]}`, or `{"n": 16, "seed": 7}` for draws from the prior."""
    found = fields(parse_json(body), ("z", "n", "seed"))
    if "z" in found:
        if len(found) > 1:
            at = "z" if "n" in found else "seed"
            raise InvalidContentError("z goes with neither n nor seed", ("body", at))
        z = items(found, "z")
        check_count(len(z), wanted.max_images)
        return latents_in_range(number_rows(z, "z", [(wanted.size,)], body.count(b"[")))
    if not found:
        raise InvalidContentError("z is missing; n, for draws, would do too", ("body", "z"))
    n = _whole(found, "n", 1, math.inf)
    seed = None if found.get("seed") is None else _whole(found, "seed", 0, MAX_SEED)
    check_count(n, wanted.max_images)
    return standard_normal((n, wanted.size), seed)


def _whole(found: Mapping[str, Any], name: str, least: int, most: float) -> int:
    """A field that is a whole number; to JSON, 16.0 is one."""
    value: Any = found.get(name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value != value // 1 or not least <= value <= most:
        shown = f"{value:.17g}" if number else kind(value) if name in found else "missing"
        upto = f" to {most:,}" if most < math.inf else ""
        raise InvalidContentError(
            f"{name} is {shown}, expected a whole number from {least}{upto}", ("body", name)
        )
    return int(value)


def _base64(text: str, index: int) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidContentError(
            f"images[{index}] is a text that is not base64: {error}", ("body", "images", index)
        ) from error
