"""One damaged body for one of the readers: the first byte says which."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import cache
from typing import Any, Final

import numpy as np

from benchmarks.reliability.mutation import LATENTS, SIDE, image_seeds, infer_seeds, latent_seeds
from service.api.open_inference.messages import LENGTH_HEADER, InferRequest, Signature, TensorSpec
from service.codecs import registry as media
from service.codecs.options import ImageOptions, LatentOptions
from service.errors import ServiceError

BOUNDARY: Final = "multipart/form-data; boundary=xyz"
IMAGE_TYPES: Final = ("", *(t for t in media.IMAGE_READERS if t != media.MULTIPART), BOUNDARY)
LATENT_TYPES: Final = ("", *media.LATENT_READERS)

LENGTH_SEPARATOR: Final = b"\n"
"""Ends the header's value before an infer request with binary tensors."""

MAX_PIXELS: Final = 1_000_000
MAX_IMAGES: Final = 64
MAX_DETAIL: Final = 1_000


class Inline(Executor):
    """Runs what it is given at once: coverage is measured in this thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@cache
def runner() -> asyncio.Runner:
    """One event loop for all inputs."""
    made = asyncio.Runner()
    atexit.register(made.close)
    return made


def read_images(body: bytes, content_type: str) -> None:
    wanted = ImageOptions(
        shape=(1, SIDE, SIDE),
        max_images=MAX_IMAGES,
        max_image_pixels=MAX_PIXELS,
        content_type=content_type,
    )
    pixels = runner().run(media.read_images(body, wanted, Inline()))
    assert pixels.shape[1:] == (SIDE * SIDE,)
    assert 1 <= len(pixels) <= MAX_IMAGES
    assert pixels.dtype == np.uint8 or (pixels.min() >= 0 and pixels.max() <= 1)


def read_latents(body: bytes, content_type: str) -> None:
    wanted = LatentOptions(size=LATENTS, max_images=MAX_IMAGES)
    z = runner().run(media.read_latents(body, content_type, wanted, Inline()))
    assert z.shape[1:] == (LATENTS,)
    assert 1 <= len(z) <= MAX_IMAGES
    assert np.isfinite(z).all()


def read_infer_request(body: bytes) -> None:
    length, found, rest = body.partition(LENGTH_SEPARATOR)
    text = length.decode("latin-1") if found and length.isdigit() else None
    offered = [TensorSpec("mu", "FP32", (-1, LATENTS)), TensorSpec("sigma", "FP32", (-1, LATENTS))]
    taken = TensorSpec("z" if b'"z"' in body else "images", "FP32", (-1, LATENTS))
    signature = Signature(taken, offered, ("alpha", "score"))
    request = InferRequest.parse(rest if text else body, text, signature)
    assert {output.spec.name for output in request.outputs} <= {"mu", "sigma"}
    assert request.input.array.dtype.kind in "fu"


def read_any(data: bytes) -> None:
    """Raises what a reader raises, but for a `ServiceError` that is an answer."""
    which, body = data[0] if data else 0, data[1:]
    try:
        if which < len(IMAGE_TYPES):
            read_images(body, IMAGE_TYPES[which])
        elif which < len(IMAGE_TYPES) + len(LATENT_TYPES):
            read_latents(body, LATENT_TYPES[which - len(IMAGE_TYPES)])
        else:
            read_infer_request(body)
    except ServiceError as error:
        if not (400 <= error.status < 500 and 0 < len(error.detail) < MAX_DETAIL):
            raise


def seeds() -> Iterator[bytes]:
    """Good inputs of every kind."""
    for seed in image_seeds():
        yield bytes([IMAGE_TYPES.index(seed.content_type)]) + seed.body
        yield b"\0" + seed.body
    for seed in latent_seeds():
        yield bytes([len(IMAGE_TYPES) + LATENT_TYPES.index(seed.content_type)]) + seed.body
    for seed in infer_seeds(latents=False) + infer_seeds(latents=True):
        length = dict(seed.headers).get(LENGTH_HEADER)
        start = b"" if length is None else length.encode() + LENGTH_SEPARATOR
        yield b"\xff" + start + seed.body
