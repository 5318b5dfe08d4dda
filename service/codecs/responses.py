"""Results to answers: a function a type. `service.codecs.registry` says which type has which."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from io import BytesIO
from time import sleep
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

if TYPE_CHECKING:  # its module loads torch
    from model.results import Floats
    from service.request import RequestContext
from service.codecs.offload import PAUSE_S

PIECE_NUMBERS: Final = 16_384
"""Written to JSON at once where others wait: about half a millisecond."""

PIECE_BYTES: Final = 1 << 20
"""Copied at once there."""

START: Final = "http.response.start"

BODY: Final = "http.response.body"


class Result(NamedTuple):
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


class ArrayResponse(Response):
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


def write_json(answer: Result) -> Response:
    """The fields, arrays written straight from their memory."""
    return ArrayResponse(_json(answer.fields), media_type="application/json")


class ChunkedResponse(Response):
    """An answer that is sent piece by piece: copies of tens of megabytes would hold others up."""

    def __init__(self, pieces: list[bytes], media_type: str, headers: Mapping[str, str]) -> None:
        self.pieces = pieces
        length = {"content-length": str(sum(map(len, pieces)))}
        super().__init__(media_type=media_type, headers=length | dict(headers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it. Until the last piece is taken, room is held for all of them."""
        context: RequestContext = scope["state"]["context"]
        context.release()
        context.reserve_answer(sum(map(len, self.pieces)))
        await send({"type": START, "status": self.status_code, "headers": self.raw_headers})
        for piece in self.pieces:
            await send({"type": BODY, "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": BODY, "body": b""})


def write_large_json(answer: Result) -> ChunkedResponse:
    """As `write_json`, for a thread."""
    return ChunkedResponse(json_pieces(answer.fields), "application/json", {"vary": "Accept"})


def write_large_npy(answer: Result) -> ChunkedResponse:
    """As `write_npy`, for a thread."""
    array = np.ascontiguousarray(_outgoing(answer))
    head = BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    return ChunkedResponse(
        [head.getvalue(), *byte_pieces(array)], "application/x-npy", {"vary": "Accept"}
    )


def write_large_raw(answer: Result) -> ChunkedResponse:
    """As `write_raw`, for a thread."""
    array = _little_endian(answer)
    return ChunkedResponse(byte_pieces(array), "application/octet-stream", _about(array))


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


def write_npy(answer: Result) -> Response:
    """The array as an .npy file."""
    file = BytesIO()
    np.save(file, _outgoing(answer), allow_pickle=False)
    return ArrayResponse(file.getvalue(), media_type="application/x-npy")


def write_raw(answer: Result) -> Response:
    """The array as C-order little-endian bytes, its shape and type in headers."""
    array = _little_endian(answer)
    return ArrayResponse(
        array.tobytes(), headers=_about(array), media_type="application/octet-stream"
    )


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


def _outgoing(answer: Result) -> NDArray[Any]:
    if not answer.drawable:
        return answer.array
    images = without_grey_channel(answer.array)
    return to_uint8(images) if answer.uint8 else images


def _little_endian(answer: Result) -> NDArray[Any]:
    array = _outgoing(answer)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _about(array: NDArray[Any]) -> dict[str, str]:
    """What raw bytes do not say."""
    return {
        "vary": "Accept",
        "x-tensor-shape": ",".join(map(str, array.shape)),
        "x-tensor-dtype": array.dtype.name,
    }


def to_uint8(images: Floats) -> NDArray[np.uint8]:
    """Pixels in [0, 1] as 0..255."""
    pixels: NDArray[np.uint8] = np.rint(images * 255).astype(np.uint8)
    return pixels
