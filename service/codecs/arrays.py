"""Bodies to arrays: a function a type. `service.codecs.registry` says which type has which."""

from __future__ import annotations

import binascii
import math
import struct
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from time import perf_counter, sleep
from typing import Any, Final, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from model.images.preprocessing import (
    FORMATS,
    ImageSizeError,
    ImageTooLargeError,
    MalformedImageError,
    image_to_array,
    open_image,
)
from service.codecs.json_numbers import (
    fields,
    items,
    kind,
    number_row,
    number_rows,
    parse_json,
    plain_images,
)
from service.codecs.responses import PAUSE_S
from service.errors import BadBodyError, DeadlineError, InvalidContentError, TooLargeError
from service.sampling import MAX_SEED, standard_normal

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""Images, (N, C·H·W): 0..255, or in [0, 1]."""

Latents = NDArray[np.float32]
"""(N, D)."""

Dtype = Literal["uint8", "float32"]
DTYPES: Final[dict[str, Any]] = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4")}

MAX_LATENT: Final = 1e6
"""Largest |z|. Millions of standard deviations away from anything, and still finite in float32."""

MAX_NPY_HEADER_BYTES: Final = 4096
"""A header of the types and shapes that are read here has 128 bytes."""

MAX_NPY_DIMENSIONS: Final = 32
"""More than any shape here has; numpy itself stops at 64."""

NPY_HEADERS: Final[dict[tuple[int, int], Any]] = {
    (1, 0): ("<H", npy_format.read_array_header_1_0),
    (2, 0): ("<I", npy_format.read_array_header_2_0),
    (3, 0): ("<I", npy_format.read_array_header_2_0),
}
"""How each version has its header's length, and what reads it; 3.0 differs in field names only,
which no type here has."""

FILE_FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "image/png": ("PNG",),
    "image/jpeg": ("JPEG",),
    "image/webp": ("WEBP",),
    "image/bmp": ("BMP",),
}
"""What a body may be that is said to be such a file."""

NPY_TYPES: Final = ("uint8", "float16", "float32", "float64")

REQUEST_PIXELS: Final = 10
"""Pixels that the files of one request may have together, in largest images: a bound on the time
that decoding takes, some seconds."""

TURN_S: Final = 0.0005
"""Of decoding, after which others get a turn. Pillow gives the interpreter away for each file and
has it back before they wake: without a pause the event loop waited 100 ms for it."""

IMAGES_PART: Final = b"images"
"""Name of the parts of a multipart body."""


@dataclass(kw_only=True, slots=True)
class ImagesWanted:
    """What the network takes, what the service allows, and what the caller said beside the body."""

    shape: tuple[int, int, int]  # C, H, W
    max_images: int
    max_image_pixels: int
    content_type: str = ""
    dtype: Dtype | None = None
    resize: bool = True
    invert: bool = False
    deadline: float = math.inf
    """On `time.perf_counter`'s clock; no further file is decoded after it."""

    @property
    def pixels(self) -> int:
        """C·H·W."""
        return math.prod(self.shape)

    @property
    def item_shapes(self) -> list[tuple[int, ...]]:
        """Shapes that the numbers of one image may have."""
        return item_shapes(self.shape)


@dataclass(frozen=True, kw_only=True)
class LatentsWanted:
    """What the decoder takes and what the service allows."""

    size: int  # D
    max_images: int


def read_json_images(body: bytes, wanted: ImagesWanted) -> Pixels:
    """`{"images": [I, …], "dtype": …}`, each I a base64 file or numbers."""
    plain = read_plain_json_images(body, wanted)
    return read_any_json_images(body, wanted) if plain is None else plain


def read_plain_json_images(body: bytes, wanted: ImagesWanted) -> Pixels | None:
    """The same if all images are numbers of one form and right; None means nothing."""
    plain = plain_images(body, wanted.shape, wanted.max_images)
    if plain is None:
        return None
    dtype, pixels = plain
    rows: Pixels = np.frombuffer(pixels, DTYPES[dtype]).reshape(-1, wanted.pixels)
    return rows


def read_any_json_images(body: bytes, wanted: ImagesWanted) -> Pixels:
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
    decoder = _FileDecoder(wanted)
    for index, item in enumerate(images):
        if isinstance(item, str):
            rows.append(decoder.decode(_base64(item, index), index))
        else:
            numbers = number_row(item, "images", index, wanted.item_shapes)
            rows.append(pixels_in_range(numbers[None], dtype, index)[0])
    if any(row.dtype == np.float32 for row in rows):
        return np.stack([unit_pixels(row) for row in rows])
    return np.stack([row.astype(np.uint8, copy=False) for row in rows])


def read_file_image(body: bytes, wanted: ImagesWanted) -> Pixels:
    """One image file."""
    named = wanted.content_type.partition(";")[0].strip().lower()
    return _FileDecoder(wanted).decode(body, formats=FILE_FORMATS.get(named, FORMATS))[None]


def read_multipart_images(body: bytes, wanted: ImagesWanted) -> Pixels:
    """A form whose parts named `images` are image files."""
    files = multipart_files(body, wanted.content_type, wanted.max_images)
    decoder = _FileDecoder(wanted)
    return np.stack([decoder.decode(data, index) for index, data in enumerate(files)])


def read_raw_images(body: bytes, wanted: ImagesWanted) -> Pixels:
    """C-order pixels, uint8 or little-endian float32; N follows from the length."""
    dtype = wanted.dtype or "uint8"
    rows = _raw_rows(body, wanted.pixels, dtype, f"images of {list(wanted.shape)} {dtype}")
    check_count(len(rows), wanted.max_images)
    return pixels_in_range(rows, dtype)


def read_npy_images(body: bytes, wanted: ImagesWanted) -> Pixels:
    """[N,H,W], [N,C,H,W], [N,C·H·W] or [H,W]."""
    array = read_npy(body)
    channels, height, width = wanted.shape
    if channels == 1 and array.shape == (height, width):
        array = array[None]
    shapes = wanted.item_shapes
    if array.ndim == 0 or array.shape[1:] not in shapes:
        expected = " or ".join(str(["N", *shape]).replace("'", "") for shape in shapes)
        raise InvalidContentError(
            f"the array has shape {list(array.shape)}, expected {expected}", ("body",)
        )
    check_count(len(array), wanted.max_images)
    dtype = "uint8" if array.dtype == np.uint8 else "float32"
    return pixels_in_range(array.reshape(len(array), -1), dtype)


def read_json_latents(body: bytes, wanted: LatentsWanted) -> Latents:
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


def read_raw_latents(body: bytes, wanted: LatentsWanted) -> Latents:
    """Little-endian float32, [N][D]."""
    rows = _raw_rows(body, wanted.size, "float32", f"latents of {wanted.size} float32")
    check_count(len(rows), wanted.max_images)
    return latents_in_range(rows)


def read_npy_latents(body: bytes, wanted: LatentsWanted) -> Latents:
    """[N,D] or [D]."""
    array = read_npy(body)
    if array.ndim not in (1, 2) or array.shape[-1] != wanted.size:
        raise InvalidContentError(
            f"the array has shape {list(array.shape)}, expected [N, {wanted.size}] or "
            f"[{wanted.size}]",
            ("body",),
        )
    rows = array.reshape(-1, wanted.size)
    check_count(len(rows), wanted.max_images)
    return latents_in_range(rows)


def read_npy(body: bytes) -> NDArray[Any]:
    """An .npy file of one of `NPY_TYPES`, without a copy where its byte order is this machine's.

    Never unpickles, and believes the header only as far as the body bears it out. Raises
    `BadBodyError` or `InvalidContentError`.
    """
    file = BytesIO(body)
    try:
        version = npy_format.read_magic(file)
        length_type, read_header = NPY_HEADERS[version]
        (length,) = struct.unpack_from(length_type, body, file.tell())
    except Exception as error:  # numpy's parser raises a dozen types for damaged headers
        raise BadBodyError("the body is not an .npy file, or its header is damaged") from error
    if length > MAX_NPY_HEADER_BYTES:  # numpy would look at its length once it had read it
        raise BadBodyError(
            f"the .npy header has {length:,} bytes > maximum {MAX_NPY_HEADER_BYTES:,}"
        )
    try:
        shape, fortran_order, dtype = read_header(file, MAX_NPY_HEADER_BYTES)
    except Exception as error:
        raise BadBodyError("the header of the .npy file is damaged") from error
    if dtype.name not in NPY_TYPES:
        raise InvalidContentError(
            f"the array is of {dtype.name}, expected {', '.join(NPY_TYPES)}", ("body",)
        )
    follow = len(body) - file.tell()
    sized = all(type(size) is int and size >= 0 for size in shape)
    if not sized or math.prod(shape) * dtype.itemsize != follow:
        text = ", ".join(map(str, shape))[:128]
        raise BadBodyError(
            f"the .npy header says shape ({text}) of {dtype.name}; {follow:,} bytes follow"
        )
    if not follow or len(shape) > MAX_NPY_DIMENSIONS:
        raise InvalidContentError(
            f"the array has shape {str(list(shape))[:128]}, expected 1 to {MAX_NPY_DIMENSIONS} "
            "sizes, each from 1",
            ("body",),
        )
    flat = np.frombuffer(body, dtype, offset=file.tell())
    array: NDArray[Any] = flat.reshape(shape, order="F" if fortran_order else "C")
    return array


def multipart_files(body: bytes, content_type: str, max_files: int) -> list[bytes]:
    """The contents of the parts named `images`, in their order.

    Raises `BadBodyError`, `InvalidContentError` or `TooLargeError`.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadBodyError(f"Content-Type {content_type[:128]!r} names no boundary")
    files: list[bytes] = []
    header: dict[str, bytes] = {}
    name, value, content = bytearray(), bytearray(), BytesIO()
    ended = False

    def end_header() -> None:
        header[name.decode("latin-1").lower()] = bytes(value)
        name.clear()
        value.clear()

    def end_headers() -> None:
        part = parse_options_header(header.get("content-disposition", b""))[1].get(b"name", b"")
        if part != IMAGES_PART:
            raise InvalidContentError(
                f"a part is named {part.decode('utf-8', 'replace')[:64]!r}, expected 'images'",
                ("body",),
            )

    def part_data(data: bytes, start: int, stop: int) -> None:
        content.write(data[start:stop])

    def end_part() -> None:
        nonlocal content
        files.append(content.getvalue())
        content = BytesIO()
        header.clear()
        if len(files) > max_files:
            raise TooLargeError(f"more images in one request than the maximum {max_files:,}")

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
                "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
                "on_header_end": end_header,
                "on_headers_finished": end_headers,
                "on_part_data": part_data,
                "on_part_end": end_part,
                "on_end": end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadBodyError(f"the body is not multipart/form-data: {error}") from error
    if not ended:
        raise BadBodyError("the multipart body is cut short: its closing boundary is missing")
    if not files:
        raise InvalidContentError("images is missing: the form has no part", ("body", "images"))
    return files


def item_shapes(image_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    """Shapes that the numbers of one image may have: [H,W] if grey, [C,H,W] or flat."""
    channels, height, width = image_shape
    grey: list[tuple[int, ...]] = [(height, width)] if channels == 1 else []
    return [*grey, image_shape, (math.prod(image_shape),)]


def check_count(n: int, max_images: int) -> None:
    """Raise `TooLargeError` for more images in one request than the limit."""
    if n > max_images:
        raise TooLargeError(f"{n:,} images in one request > maximum {max_images:,}")


def check_draws(n: int, draws: int, max_images: int) -> None:
    """Raise `TooLargeError` if the draws of a request's images are more than the limit."""
    if n * draws > max_images:
        raise TooLargeError(
            f"{n:,} images with {draws:,} samples each make {n * draws:,} > maximum {max_images:,}"
        )


def pixels_in_range(rows: NDArray[Any], dtype: str, first: int = 0) -> Pixels:
    """(N, P) numbers as pixels of `dtype`, uint8 or float32.

    Raises `InvalidContentError` for the first pixel that is out of range or not finite; images are
    counted from `first`.
    """
    if rows.dtype == np.uint8:
        return rows
    limit = 255 if dtype == "uint8" else 1
    # NaN makes either comparison false.
    fits = rows.min() >= 0 and rows.max() <= limit
    if fits and dtype == "float32":
        return rows.astype(np.float32, copy=False)
    if fits:
        whole = rows.astype(np.uint8)
        if np.array_equal(whole, rows):
            return whole
    wrong = ~((rows >= 0) & (rows <= limit))
    if dtype == "uint8":
        wrong |= rows != np.floor(rows)
    index, pixel = np.argwhere(wrong)[0].tolist()
    hint = ""
    if dtype == "float32" and rows.min() >= 0 and 1 < rows.max() <= 255:
        hint = ". For 0..255 the dtype is uint8"
    kind = "a whole number in 0..255" if dtype == "uint8" else "a number in [0, 1]"
    raise InvalidContentError(
        f"images[{first + index}] has {rows[index, pixel]} at pixel {pixel}, expected {kind}{hint}",
        ("body", "images", first + index),
    )


def latents_in_range(rows: NDArray[Any]) -> Latents:
    """(N, D) numbers as float32. Raises `InvalidContentError` past ±`MAX_LATENT`."""
    rows = rows.astype(np.float64 if rows.dtype.kind == "f" else rows.dtype, copy=False)
    wrong = ~(np.abs(rows) <= MAX_LATENT)  # so that NaN is wrong too
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise InvalidContentError(
            f"z[{row}] has {rows[row, column]} at {column}, expected numbers within "
            f"±{MAX_LATENT:g}",
            ("body", "z", row, column),
        )
    return rows.astype(np.float32, copy=False)


def unit_pixels(pixels: Pixels) -> NDArray[np.float32]:
    """Pixels in [0, 1], whichever of the two ways they came."""
    if pixels.dtype == np.uint8:
        return np.divide(pixels, 255, dtype=np.float32)
    return pixels.astype(np.float32, copy=False)


def _raw_rows(body: bytes, width: int, dtype: Dtype, what: str) -> NDArray[Any]:
    size = width * DTYPES[dtype].itemsize
    if len(body) % size:
        raise InvalidContentError(
            f"the body has {len(body):,} bytes, no multiple of {size:,} ({what})", ("body",)
        )
    rows: NDArray[Any] = np.frombuffer(body, DTYPES[dtype]).reshape(-1, width)
    return rows


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


class _FileDecoder:
    """Decodes the image files of one request, within what one request may take."""

    def __init__(self, wanted: ImagesWanted) -> None:
        self._wanted = wanted
        self._pixels_left = REQUEST_PIXELS * wanted.max_image_pixels
        self._turn_began = math.inf

    def decode(
        self, data: bytes, index: int | None = None, formats: tuple[str, ...] = FORMATS
    ) -> NDArray[np.uint8]:
        """One file, (C·H·W,); `index` is its place if there may be several."""
        wanted = self._wanted
        where = "" if index is None else f"images[{index}]: "
        now = perf_counter()
        if now > wanted.deadline:
            raise DeadlineError("the images were not decoded within the request's time")
        if self._turn_began == math.inf:  # the first one, which may be on the event loop
            self._turn_began = now
        elif now > self._turn_began + TURN_S:
            sleep(PAUSE_S)
            self._turn_began = perf_counter()
        try:
            image = open_image(data, max_pixels=wanted.max_image_pixels, formats=formats)
            self._pixels_left -= image.width * image.height
            if self._pixels_left < 0:
                limit = REQUEST_PIXELS * wanted.max_image_pixels
                raise TooLargeError(
                    f"{where}with it the request's files have {limit - self._pixels_left:,} pixels "
                    f"> maximum {limit:,}"
                )
            return image_to_array(
                image, wanted.shape, resize=wanted.resize, invert=wanted.invert
            ).reshape(-1)
        except ImageTooLargeError as error:
            raise TooLargeError(f"{where}{error}") from error
        except ImageSizeError as error:
            loc = ("body",) if index is None else ("body", "images", index)
            raise InvalidContentError(f"{where}{error}", loc) from error
        except MalformedImageError as error:
            raise BadBodyError(f"{where}{error}") from error
