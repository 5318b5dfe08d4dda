"""Results to answers: a function a type. `service.codecs.registry` says which type has which."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from io import BytesIO
from time import sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import InvalidContentError

if TYPE_CHECKING:  # its module loads torch
    from model.engine.engine import Floats
    from service.http.lifecycle import RequestContext

CIVIDIS: Final = (
    (0, 32, 77), (0, 52, 110), (60, 77, 107), (96, 103, 112),
    (124, 123, 120), (155, 146, 119), (188, 170, 108), (223, 196, 85), (255, 234, 70),
)  # fmt: skip
"""Nine evenly spaced colours of cividis, made to look alike with and without colour blindness
(Nuñez, Anderton and Renslow 2018), as matplotlib has them."""


PIECE_NUMBERS: Final = 16_384
"""Written to JSON at once where others wait: about half a millisecond."""

PIECE_BYTES: Final = 1 << 20
"""Copied at once there."""

PAUSE_S: Final = 0.0002
"""After each piece: only giving the interpreter away would have it back before others wake."""

START: Final = "http.response.start"
BODY: Final = "http.response.body"


class Answer(NamedTuple):
    """A result in all the forms it can be asked for.

    `fields` is the JSON object; `array` goes out as .npy or raw, and has a picture if `drawable`.
    """

    fields: Mapping[str, Any]
    array: Floats
    drawable: bool = False
    """Whether `array` is images in [0, 1], (N, C, H, W)."""
    uint8: bool = False
    """Whether a drawable array goes out as 0..255."""
    backdrop: Floats | None = None
    """For a map of errors: the images, (N, C, H, W), that it is drawn over."""
    scale: int = 1
    max_png_pixels: int = 0


class Negotiated(Response):
    """An answer in the type that the caller's `Accept` asked for.

    Its headers are put together here: what Starlette does for any response takes three times as
    long.
    """

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Called by `Response.__init__`, when the body is there."""
        own = {"content-length": str(len(self.body)), "content-type": str(self.media_type)}
        self.raw_headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in (own | {"vary": "Accept"} | dict(headers or {})).items()
        ]


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    """An object as JSON, arrays written straight from their memory."""
    return Response(_json(content), status, media_type="application/json")


def write_json(answer: Answer) -> Response:
    """The fields, arrays written straight from their memory."""
    return Negotiated(_json(answer.fields), media_type="application/json")


class InPieces(Response):
    """An answer that is sent piece by piece: copies of tens of megabytes would hold others up."""

    def __init__(self, pieces: list[bytes], media_type: str, headers: Mapping[str, str]) -> None:
        self.pieces = pieces
        length = {"content-length": str(sum(map(len, pieces)))}
        super().__init__(media_type=media_type, headers=length | dict(headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it. Until the last piece is taken, room is held for all of them."""
        context: RequestContext = scope["state"]["context"]
        context.release()
        context.hold_answer(sum(map(len, self.pieces)))
        await send({"type": START, "status": self.status_code, "headers": self.raw_headers})
        for piece in self.pieces:
            await send({"type": BODY, "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": BODY, "body": b""})


def write_large_json(answer: Answer) -> InPieces:
    """As `write_json`, for a thread."""
    return InPieces(json_pieces(answer.fields), "application/json", {"vary": "Accept"})


def write_large_npy(answer: Answer) -> InPieces:
    """As `write_npy`, for a thread."""
    array = np.ascontiguousarray(_outgoing(answer))
    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return InPieces([head.getvalue(), *byte_pieces(array)], "application/x-npy", {"vary": "Accept"})


def write_large_raw(answer: Answer) -> InPieces:
    """As `write_raw`, for a thread."""
    array = _little_endian(answer)
    return InPieces(byte_pieces(array), "application/octet-stream", _about(array))


def json_pieces(content: Any) -> list[bytes]:
    """JSON in pieces, for a thread: after each large one others have the interpreter."""
    pieces = [b""]
    _add_json(content, pieces)
    return pieces


def byte_pieces(array: NDArray[Any]) -> list[bytes]:
    """An array's bytes in pieces; as `json_pieces`."""
    whole = array.reshape(-1).view(np.uint8)
    pieces = []
    for start in range(0, len(whole), PIECE_BYTES):
        pieces.append(whole[start : start + PIECE_BYTES].tobytes())
        sleep(PAUSE_S)
    return pieces


def write_npy(answer: Answer) -> Response:
    """The array as an .npy file."""
    file = BytesIO()
    np.save(file, _outgoing(answer), allow_pickle=False)
    return Negotiated(file.getvalue(), media_type="application/x-npy")


def write_raw(answer: Answer) -> Response:
    """The array as C-order little-endian bytes, its shape and type in headers."""
    array = _little_endian(answer)
    return Negotiated(array.tobytes(), headers=_about(array), media_type="application/octet-stream")


def write_png(answer: Answer) -> Response:
    """Images as one PNG: a near-square grid, row by row, each pixel `scale` × `scale`.

    A map of errors is drawn over its images. Raises `InvalidContentError` past `max_png_pixels`.
    """
    n, _, height, width = answer.array.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    size = (columns * width * answer.scale, rows * height * answer.scale)
    if size[0] * size[1] > answer.max_png_pixels:
        raise InvalidContentError(
            f"{n} images at scale {answer.scale} make {size[0]} × {size[1]} pixels > maximum "
            f"{answer.max_png_pixels:,}",
            ("query", "scale"),
        )
    images = answer.array
    if answer.backdrop is not None:
        images = draw_map(images, answer.backdrop)
    channels = images.shape[1]
    grid = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    grid[:n] = _to_uint8(images)
    pixels = (
        grid.reshape(rows, columns, channels, height, width)
        .transpose(0, 3, 1, 4, 2)  # rows, H, columns, W, C
        .reshape(rows * height, columns * width, channels)
    )
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    if answer.scale > 1:
        image = image.resize(size, Image.Resampling.NEAREST)
    file = BytesIO()
    image.save(file, "PNG")
    return Negotiated(file.getvalue(), media_type="image/png")


def draw_map(squared_errors: Floats, images: Floats) -> Floats:
    """Errors drawn over their images, both (N, C, H, W) in [0, 1]; (N, 3, H, W).

    The colour, and how much it covers the image, follow |x − x̂|: the same error looks the same in
    every answer.
    """
    error = np.sqrt(squared_errors.mean(axis=1))  # (N, H, W), 0..1
    steps = np.linspace(0, 1, len(CIVIDIS))
    colour = np.stack(
        [np.interp(error, steps, channel) / 255 for channel in np.transpose(CIVIDIS)], axis=1
    )  # (N, 3, H, W)
    cover = np.minimum(1, 2 * error)[:, None]
    drawn: Floats = ((1 - cover) * images + cover * colour).astype(np.float32)
    return drawn


def without_grey_channel(images: Floats) -> Floats:
    """(N, C, H, W) as clients see it: (N, H, W) when C is 1."""
    return images[:, 0] if images.shape[1] == 1 else images


def _add_json(content: Any, pieces: list[bytes]) -> None:
    """Large arrays as pieces of their own, and the rest to the piece before it."""
    if isinstance(content, np.ndarray) and content.size > PIECE_NUMBERS:
        rows = max(1, PIECE_NUMBERS * len(content) // content.size)
        for start in range(0, len(content), rows):
            piece = _json(content[start : start + rows])
            pieces.append((b"," if start else b"[") + piece[1:-1])
            sleep(PAUSE_S)
        pieces.append(b"]")
    elif isinstance(content, Mapping) and content:
        for number, (name, value) in enumerate(content.items()):
            pieces[-1] += (b"," if number else b"{") + orjson.dumps(name) + b":"
            _add_json(value, pieces)
        pieces[-1] += b"}"
    elif isinstance(content, list) and content:
        for number, value in enumerate(content):
            pieces[-1] += b"," if number else b"["
            _add_json(value, pieces)
        pieces[-1] += b"]"
    else:
        pieces[-1] += _json(content)


def _json(content: Any) -> bytes:
    # orjson writes arrays that lie in one piece, and asks for the others.
    return orjson.dumps(content, np.ascontiguousarray, orjson.OPT_SERIALIZE_NUMPY)


def _outgoing(answer: Answer) -> NDArray[Any]:
    if not answer.drawable:
        return answer.array
    images = without_grey_channel(answer.array)
    return _to_uint8(images) if answer.uint8 else images


def _little_endian(answer: Answer) -> NDArray[Any]:
    array = _outgoing(answer)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _about(array: NDArray[Any]) -> dict[str, str]:
    """What raw bytes do not say."""
    return {
        "vary": "Accept",
        "x-tensor-shape": ",".join(map(str, array.shape)),
        "x-tensor-dtype": array.dtype.name,
    }


def _to_uint8(images: Floats) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(images * 255).astype(np.uint8)
    return pixels
