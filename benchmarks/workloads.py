"""What is asked of the servers: a request, the images in it, and how many are sent at once."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.body_types import digits, png
from benchmarks.peers.common import BUNDLE, HOST, PIXELS, SCORE
from benchmarks.peers.environment import PeerError
from benchmarks.peers.sample import IMAGES, sample_images
from benchmarks.peers.table import Request, Server
from benchmarks.servers import ask

ONE: Final = "1 image, JSON"
MANY: Final = f"{IMAGES} images, JSON"
BULK: Final = "256 images, raw uint8"
BULK_IMAGES: Final = 256

CONNECTIONS: Final = (1, 8, 32, 128)
"""Of one-image requests."""

FEW: Final = (8, 32)
"""Of larger ones: a server is compared by which of the two suits it."""

RAW_IMAGES: Final = (
    (1, "1 image, raw uint8", (32,)),
    (64, "64 images, raw uint8", (8,)),
    (BULK_IMAGES, BULK, FEW),
    (1024, "1,024 images, raw uint8", (8,)),
)

TOLERANCE: Final = 1e-4
"""Of an answer, relative; and a tenth of it absolute, for numbers near zero."""

JSON: Final = "application/json"
RAW: Final = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A request that is sent again and again. `check` raises `ValueError` for a wrong answer."""

    name: str
    images: int
    connections: tuple[int, ...]
    request: Request
    check: Callable[[bytes], None] = lambda _: None

    def try_once(self, port: int) -> None:
        """Send it once. Raises `PeerError` unless the answer is right."""
        connection = HTTPConnection(HOST, port, timeout=30)
        try:
            status, answer = ask(connection, self.request)
        except HTTPException as error:
            raise PeerError(f"{self.name}: {type(error).__name__}") from error
        finally:
            connection.close()
        if status != 200:
            raise PeerError(f"{self.name} is answered with {status}: {answer[:200]!r}")
        try:
            self.check(answer)
        except (ValueError, KeyError, TypeError) as error:
            raise PeerError(f"{self.name} is answered wrongly: {error}") from error


def shared_workloads(server: Server) -> list[Workload]:
    """Those of all servers, which `benchmarks.servers` has checked. A fixed answer is to one."""
    images = sample_images()
    works = [
        Workload(name=ONE, images=1, connections=CONNECTIONS, request=server.request(images[:1])),
        Workload(name=MANY, images=IMAGES, connections=FEW, request=server.request(images)),
    ]
    return works[: 1 if server.fixed else 2]


Row = tuple[str, tuple[int, ...], str, str, bytes, str | None, NDArray[Any]]
"""Arguments of `_own`."""


def bulk_pixels() -> NDArray[np.uint8]:
    """The images of the raw works, (1024, 784)."""
    return np.concatenate([digits()] * 4).reshape(-1, PIXELS)


def own_workloads() -> list[Workload]:
    """Those of this service alone, each with the answer that the network gives without it."""
    from model.bundle.bundle import find_bundle, load_bundle
    from model.engine.engine import Engine

    engine = Engine(load_bundle(find_bundle(BUNDLE)), device="cpu", threads=1)
    pixels = bulk_pixels()
    some = pixels[:IMAGES]
    scores = engine.score(pixels, SCORE).score
    files = [png(image.reshape(28, 28)) for image in some]
    base64 = _dump([b64encode(file).decode() for file in files])
    floats = (some / 255).round(4).astype(np.float32)
    as_json = _dump(sample_images().tolist())
    encoded = engine.encode(floats)
    pictures = [engine.reconstruct(images).images for images in (floats, some)]
    posterior = np.stack(engine.encode(some), axis=1)  # (N, 2, D)
    encode, reconstruct, score = "/encode", "/reconstruct", "/anomaly-score"
    rows: list[Row] = [
        ("1 image, PNG", (1, 32), score, "image/png", files[0], "score", scores[:1]),
        ("64 images, JSON of PNG", (8,), score, JSON, base64, "score", scores[:IMAGES]),
        ("encode 64, JSON", (8,), encode, JSON, as_json, "mu", encoded.mu),
        ("encode 64, raw", (8,), encode, RAW, some.tobytes(), None, posterior),
        ("reconstruct 64, JSON", (8,), reconstruct, JSON, as_json, "images", pictures[0]),
        ("reconstruct 64, raw", (8,), reconstruct, RAW, some.tobytes(), None, pictures[1]),
    ]
    rows += [
        (name, at_once, score, RAW, pixels[:count].tobytes(), "score", scores[:count])
        for count, name, at_once in RAW_IMAGES
    ]
    return [_own(*row) for row in rows]


def _dump(images: list[Any]) -> bytes:
    return json.dumps({"images": images}, separators=(",", ":")).encode()


def _own(
    name: str,
    connections: tuple[int, ...],
    path: str,
    content_type: str,
    body: bytes,
    key: str | None,
    expected: NDArray[Any],
) -> Workload:
    """The answer is JSON with the numbers under a key, or is to be raw float32."""

    def check(answer: bytes) -> None:
        given = np.frombuffer(answer, "<f4") if key is None else np.array(json.loads(answer)[key])
        if given.size != expected.size:
            raise ValueError(f"{given.size} numbers, not {expected.size}")
        if not np.allclose(given.ravel(), expected.ravel(), TOLERANCE, TOLERANCE / 10):
            raise ValueError(f"{given.ravel()[:3]}, not {expected.ravel()[:3]}")

    headers = {"Content-Type": content_type} | ({} if key else {"Accept": RAW})
    return Workload(
        name=name,
        images=len(expected),
        connections=connections,
        request=(path, headers, body),
        check=check,
    )
