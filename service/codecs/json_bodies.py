"""Readers for JSON bodies: images as numbers or base64 files, latents, and draws from the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.codecs.arrays import (
    check_count,
    inverted,
    latents_in_range,
    pixels_in_range,
    unit_pixels,
)
from service.codecs.base64_files import decode_base64
from service.codecs.image_files import FileDecoder
from service.codecs.json_numbers import (
    fields,
    items,
    number_row,
    number_rows,
    parse_json,
    plain_images,
    type_name,
)
from service.codecs.options import DTYPES, ImageOptions, LatentOptions, Latents, Pixels
from service.errors import InvalidContentError
from service.sampling import MAX_SEED, standard_normal


def read_json_images(body: bytes, options: ImageOptions) -> Pixels:
    """Images from `{"images": [I, …], "dtype": …}`, each I numbers or an image file in base64."""
    plain = read_plain_json_images(body, options)
    return read_any_json_images(body, options) if plain is None else plain


def read_plain_json_images(body: bytes, options: ImageOptions) -> Pixels | None:
    """The fast path, for valid bodies whose images are all numbers of one shape.

    None does not mean that the body is invalid: `read_any_json_images` decides.
    """
    plain = plain_images(body, options.shape, options.max_images)
    if plain is None:
        return None
    dtype, pixels = plain
    rows: Pixels = np.frombuffer(pixels, DTYPES[dtype]).reshape(-1, options.pixels)
    return inverted(rows) if options.invert else rows


def read_any_json_images(body: bytes, options: ImageOptions) -> Pixels:
    """The general path: reads any mix of numbers and files, and explains errors.

    Raises `BadBodyError`, `InvalidContentError` or `TooLargeError`.
    """
    document = fields(parse_json(body), ("images", "dtype"), query_names=options.query_names)
    dtype = document.get("dtype", "float32")
    if dtype not in DTYPES:
        raise InvalidContentError(
            f"dtype is {str(dtype)[:64]!r}, expected 'float32' (pixels in [0, 1]) or 'uint8' "
            "(0..255)",
            ("body", "dtype"),
        )
    images = items(document, "images")
    check_count(len(images), options.max_images)
    if not any(isinstance(item, str) for item in images):
        numbers = number_rows(images, "images", options.item_shapes, body.count(b"["))
        pixels = pixels_in_range(numbers, dtype)
        return inverted(pixels) if options.invert else pixels
    rows: list[Pixels] = []
    decoder = FileDecoder(options)
    for index, item in enumerate(images):
        if isinstance(item, str):
            rows.append(decoder.decode(decode_base64(item, index), index))
        else:
            numbers = number_row(item, "images", index, options.item_shapes)
            pixels = pixels_in_range(numbers[None], dtype, index)
            rows.append((inverted(pixels) if options.invert else pixels)[0])
    if any(row.dtype == np.float32 for row in rows):
        return np.stack([unit_pixels(row) for row in rows])
    return np.stack([row.astype(np.uint8, copy=False) for row in rows])


def read_json_latents(body: bytes, options: LatentOptions) -> Latents:
    """Latents from `{"z": [[D numbers], …]}`, or drawn from the prior for `{"n": 16, "seed": 7}`.

    Raises `BadBodyError`, `InvalidContentError` or `TooLargeError`.
    """
    document = fields(parse_json(body), ("z", "n", "seed"), query_names=options.query_names)
    if "z" in document:
        if len(document) > 1:
            field = "z" if "n" in document else "seed"
            raise InvalidContentError("z cannot be combined with n or seed", ("body", field))
        z = items(document, "z")
        check_count(len(z), options.max_images)
        return latents_in_range(number_rows(z, "z", [(options.size,)], body.count(b"[")))
    if not document:
        raise InvalidContentError(
            "z is missing: send z, or n to draw latents from the prior", ("body", "z")
        )
    n = _whole_number(document, "n", 1, math.inf)
    seed = None if document.get("seed") is None else _whole_number(document, "seed", 0, MAX_SEED)
    check_count(n, options.max_images)
    return standard_normal((n, options.size), seed)


def _whole_number(document: Mapping[str, Any], name: str, minimum: int, maximum: float) -> int:
    """A field that is a whole number. 16.0 is one too: JSON does not tell it from 16."""
    value: Any = document.get(name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or value != value // 1 or not minimum <= value <= maximum:
        shown = f"{value:.17g}" if number else type_name(value) if name in document else "missing"
        limits = f"of at least {minimum}" if maximum == math.inf else f"in {minimum}..{maximum:,}"
        raise InvalidContentError(
            f"{name} is {shown}, expected a whole number {limits}", ("body", name)
        )
    return int(value)
