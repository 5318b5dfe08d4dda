"""Turns results into responses, with one function for each response type.

`service.codecs.registry` maps the types to these functions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from io import BytesIO
from time import sleep
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model.results import Floats
from service.codecs.offload import PAUSE_S
from service.codecs.options import Pixels
from service.request import RequestContext

PIECE_NUMBERS: Final = 16_384
"""Numbers in one piece of JSON. Writing them holds the GIL for about half a millisecond."""

PIECE_BYTES: Final = 1 << 20
"""Bytes in one piece of a binary response."""

START: Final = "http.response.start"

BODY: Final = "http.response.body"


class MapDrawing(NamedTuple):
    """How a PNG shows maps."""

    images: Pixels
    """The images, (N, C·H·W), that the maps are drawn over."""
    style: Literal["errors", "tint", "contour"]
    """`errors` is for squared errors; the others are for maps on the scale of clean images."""

    def of(self, part: slice) -> MapDrawing:
        """How some of the maps are shown."""
        return self._replace(images=self.images[part])


class Result(NamedTuple):
    """The result of a request, ready to be written as any response type.

    `fields` is the JSON object. `array` is written as .npy, raw bytes or, if `drawable`, PNG.
    """

    fields: Mapping[str, Any]
    array: Floats
    drawable: bool = False
    """Whether `array` is images in [0, 1] or, with `drawing`, maps: (N, C, H, W)."""
    uint8: bool = False
    """Whether images are written as uint8 in 0..255. Not for maps, which have no upper limit."""
    drawing: MapDrawing | None = None
    """For maps that are written as PNG."""
    scale: int = 1
    """Factor by which a PNG is enlarged."""
    max_png_pixels: int = 0
    warnings: Sequence[str] = ()
    """What the caller should know of how the request was read: a field of the JSON object, or a
    header."""


class ArrayResponse(Response):
    """A response in the type that the caller's `Accept` header negotiated.

    It builds its headers itself, as Starlette's general method takes three times as long.
    """

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Set `raw_headers`. `Response.__init__` calls this after it has set the body."""
        own = {"content-length": str(len(self.body)), "content-type": str(self.media_type)}
        self.raw_headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in (own | {"vary": "Accept"} | dict(headers or {})).items()
        ]


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    """A JSON object that may hold numpy arrays."""
    return Response(to_json(content), status, media_type="application/json")


def write_json(result: Result) -> Response:
    """Write the result's fields as JSON."""
    return ArrayResponse(to_json(result.fields), media_type="application/json")


class ChunkedResponse(Response):
    """A response that is sent in pieces, as copying tens of megabytes at once would block the event
    loop."""

    def __init__(self, pieces: list[bytes], media_type: str, headers: Mapping[str, str]) -> None:
        self.pieces = pieces
        length = {"content-length": str(sum(map(len, pieces)))}
        super().__init__(media_type=media_type, headers=length | dict(headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send the pieces. All of their bytes stay reserved until the last piece is sent."""
        context: RequestContext = scope["state"]["context"]
        context.release()
        context.reserve_answer(sum(map(len, self.pieces)))
        await send({"type": START, "status": self.status_code, "headers": self.raw_headers})
        for piece in self.pieces:
            await send({"type": BODY, "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": BODY, "body": b""})


def write_large_json(result: Result) -> ChunkedResponse:
    """As `write_json`, in pieces, to be run in a thread."""
    return ChunkedResponse(json_pieces(result.fields), "application/json", {"vary": "Accept"})


def write_large_npy(result: Result) -> ChunkedResponse:
    """As `write_npy`, in pieces, to be run in a thread."""
    array = np.ascontiguousarray(_output_array(result))
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return ChunkedResponse(
        [header.getvalue(), *byte_pieces(array)], "application/x-npy", {"vary": "Accept"}
    )


def write_large_raw(result: Result) -> ChunkedResponse:
    """As `write_raw`, in pieces, to be run in a thread."""
    array = _little_endian(result)
    return ChunkedResponse(byte_pieces(array), "application/octet-stream", _raw_headers(array))


def json_pieces(content: Any) -> list[bytes]:
    """JSON in pieces. Run it in a thread: it sleeps after each large piece, so that other threads
    get the GIL."""
    pieces = [b""]
    _append_json(content, pieces)
    return pieces


def byte_pieces(array: NDArray[Any]) -> list[bytes]:
    """An array's bytes in pieces. Run it in a thread, like `json_pieces`."""
    whole = array.reshape(-1).view(np.uint8)
    pieces = []
    for start in range(0, len(whole), PIECE_BYTES):
        pieces.append(whole[start : start + PIECE_BYTES].tobytes())
        sleep(PAUSE_S)
    return pieces


def write_npy(result: Result) -> Response:
    """Write the array as an .npy file."""
    file = BytesIO()
    np.save(file, _output_array(result), allow_pickle=False)
    return ArrayResponse(file.getvalue(), media_type="application/x-npy")


def write_raw(result: Result) -> Response:
    """Write the array as little-endian bytes in C order, with its shape and dtype in headers."""
    array = _little_endian(result)
    return ArrayResponse(
        array.tobytes(), headers=_raw_headers(array), media_type="application/octet-stream"
    )


def without_grey_channel(images: Floats) -> Floats:
    """Images (N, C, H, W) in the shape that clients get: (N, H, W) if C is 1."""
    return images[:, 0] if images.shape[1] == 1 else images


def _append_json(content: Any, pieces: list[bytes]) -> None:
    """Append `content`: large arrays as new pieces, everything else to the last piece."""
    if isinstance(content, np.ndarray) and content.size > PIECE_NUMBERS:
        rows = max(1, PIECE_NUMBERS * len(content) // content.size)
        for start in range(0, len(content), rows):
            piece = to_json(content[start : start + rows])
            pieces.append((b"," if start else b"[") + piece[1:-1])
            sleep(PAUSE_S)
        pieces.append(b"]")
    elif isinstance(content, Mapping) and content:
        for number, (name, value) in enumerate(content.items()):
            pieces[-1] += (b"," if number else b"{") + orjson.dumps(name) + b":"
            _append_json(value, pieces)
        pieces[-1] += b"}"
    elif isinstance(content, list) and content:
        for number, value in enumerate(content):
            pieces[-1] += b"," if number else b"["
            _append_json(value, pieces)
        pieces[-1] += b"]"
    else:
        pieces[-1] += to_json(content)


def to_json(content: Any) -> bytes:
    """JSON of an object that may hold numpy arrays."""
    # orjson writes contiguous arrays from their memory, and calls the function for others.
    return orjson.dumps(content, np.ascontiguousarray, orjson.OPT_SERIALIZE_NUMPY)


def _output_array(result: Result) -> NDArray[Any]:
    if not result.drawable:
        return result.array
    images = without_grey_channel(result.array)
    return to_uint8(images) if result.uint8 else images


def _little_endian(result: Result) -> NDArray[Any]:
    array = _output_array(result)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _raw_headers(array: NDArray[Any]) -> dict[str, str]:
    """Headers that give the shape and dtype of raw bytes."""
    return {
        "vary": "Accept",
        "x-tensor-shape": ",".join(map(str, array.shape)),
        "x-tensor-dtype": array.dtype.name,
    }


def to_uint8(images: Floats) -> NDArray[np.uint8]:
    """Pixels in [0, 1] as uint8 in 0..255."""
    pixels: NDArray[np.uint8] = np.rint(images * 255).astype(np.uint8)
    return pixels
