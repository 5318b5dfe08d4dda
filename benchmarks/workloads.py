"""What is sent to the servers: a request, its number of images, and over how many connections."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.common import BUNDLE, HOST, PIXELS, SCORE
from benchmarks.peers.environment import PeerError
from benchmarks.peers.photographs import JPEG_12, expected_scores, photographs
from benchmarks.peers.sample import IMAGES, digits, png, sample_images
from benchmarks.peers.table import Request, Server
from benchmarks.servers import Check, NoAnswerError, ask

ONE: Final = "1 image, JSON"
MANY: Final = f"{IMAGES} images, JSON"
PNG: Final = "1 image, PNG"
BULK: Final = "256 images, raw uint8"
BULK_IMAGES: Final = 256

CONNECTIONS: Final = (1, 8, 32, 128)
"""How many send one-image requests at once."""

FEW: Final = (8, 32)
"""For larger requests: servers are compared by whichever of the two suits each."""

PHOTOGRAPH_CONNECTIONS: Final = (1, 4)
"""Twice the cores of a small machine. With more, the batches of a server that takes a fifth of a
second for each photograph would be as long as a measurement."""

LONGER: Final = {JPEG_12: 4}
"""Workloads that are sent for several times as long: a server may answer five a second."""

PHOTOGRAPH_TOLERANCE: Final = 1e-3
"""The same as `TOLERANCE`, absolutely too: torch and ONNX Runtime add up in another order."""

RAW_IMAGES: Final = (
    (1, "1 image, raw uint8", (32,)),
    (64, "64 images, raw uint8", (8,)),
    (BULK_IMAGES, BULK, FEW),
    (1024, "1,024 images, raw uint8", (8,)),
)

TOLERANCE: Final = 1e-4
"""Relative, of a number in an answer; a tenth of it is allowed absolutely, for those near zero."""

JSON: Final = "application/json"
RAW: Final = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A request that is sent repeatedly. `check` raises `ValueError` for a wrong answer."""

    name: str
    images: int
    connections: tuple[int, ...]
    request: Request
    check: Callable[[bytes], None] = lambda _: None

    def try_once(self, port: int) -> None:
        """Send it once. Raises `PeerError` unless the answer is right, and `NoAnswerError` where
        there is none yet."""
        connection = HTTPConnection(HOST, port, timeout=30)
        try:
            status, answer = ask(connection, self.request)
        except (OSError, HTTPException) as error:
            raise NoAnswerError(f"{self.name}: {type(error).__name__}") from error
        finally:
            connection.close()
        if status != 200:
            raise NoAnswerError(f"{self.name} is answered with {status}: {answer[:200]!r}")
        try:
            self.check(answer)
        except (ValueError, KeyError, TypeError) as error:
            raise PeerError(f"{self.name} is answered wrongly: {error}") from error


def shared_workloads(server: Server) -> list[Workload]:
    """The workloads that all servers take; one with a fixed answer gets one image only.

    `benchmarks.servers.check_scores` has checked the answers.
    """
    images = sample_images()
    workloads = [
        Workload(name=ONE, images=1, connections=CONNECTIONS, request=server.request(images[:1])),
        Workload(name=MANY, images=IMAGES, connections=FEW, request=server.request(images)),
    ]
    return workloads[: 1 if server.fixed else 2]


def photograph_workloads(server: Server, directory: Path) -> list[Workload]:
    """A photograph of each kind, for a server with the network in a directory."""

    def checked(expected: float) -> Callable[[bytes], None]:
        def check(answer: bytes) -> None:
            scores = server.scores(answer)
            tolerance = PHOTOGRAPH_TOLERANCE
            if not np.allclose(scores, [expected], rtol=tolerance, atol=tolerance):
                raise ValueError(f"{scores[:3]}, not {expected}")

        return check

    scores = expected_scores(directory, server.score, scales_jpeg=server.scales_jpeg)
    return [
        Workload(
            name=photograph.name,
            images=1,
            connections=PHOTOGRAPH_CONNECTIONS,
            request=server.photograph_request(photograph),
            check=checked(expected),
        )
        for photograph, expected in zip(photographs(), scores, strict=True)
    ]


def check_with(workloads: Sequence[Workload]) -> Check:
    """For `benchmarks.servers.running`: sends the workloads instead of the sample images."""

    def check(_server: Server, port: int, count: int) -> None:
        for workload in workloads[:count]:
            workload.try_once(port)

    return check


Row = tuple[str, tuple[int, ...], str, str, bytes, str | None, NDArray[Any]]
"""The arguments of `_own`."""


def bulk_pixels() -> NDArray[np.uint8]:
    """The images of the raw workloads, (1024, 784)."""
    return np.concatenate([digits()] * 4).reshape(-1, PIXELS)


def own_workloads() -> list[Workload]:
    """The workloads of this service alone, checked against what the engine returns without it."""
    from model.bundle.bundle import find_bundle, load_bundle
    from model.engine.engine import Engine

    engine = Engine(load_bundle(find_bundle(BUNDLE)), device="cpu", threads=1)
    pixels = bulk_pixels()
    first = pixels[:IMAGES]
    scores = engine.score(pixels, SCORE).score
    files = [png(image.reshape(28, 28)) for image in first]
    base64 = _dump([b64encode(file).decode() for file in files])
    floats = (first / 255).round(4).astype(np.float32)
    as_json = _dump(sample_images().tolist())
    encoded = engine.encode(floats)
    pictures = [engine.reconstruct(images).images for images in (floats, first)]
    posterior = np.stack(engine.encode(first), axis=1)  # (N, 2, D)
    encode, reconstruct, score = "/encode", "/reconstruct", "/anomaly-score"
    rows: list[Row] = [
        (PNG, (1, 32), score, "image/png", files[0], "score", scores[:1]),
        ("64 images, JSON of PNG", (8,), score, JSON, base64, "score", scores[:IMAGES]),
        ("encode 64, JSON", (8,), encode, JSON, as_json, "mu", encoded.mu),
        ("encode 64, raw", (8,), encode, RAW, first.tobytes(), None, posterior),
        ("reconstruct 64, JSON", (8,), reconstruct, JSON, as_json, "images", pictures[0]),
        ("reconstruct 64, raw", (8,), reconstruct, RAW, first.tobytes(), None, pictures[1]),
    ]
    rows += [
        (name, connections, score, RAW, pixels[:count].tobytes(), "score", scores[:count])
        for count, name, connections in RAW_IMAGES
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
    """A workload whose answer is JSON with the numbers under `key`, or raw float32 without one."""

    def check(answer: bytes) -> None:
        numbers = np.frombuffer(answer, "<f4") if key is None else np.array(json.loads(answer)[key])
        if numbers.size != expected.size:
            raise ValueError(f"{numbers.size} numbers, not {expected.size}")
        if not np.allclose(numbers.ravel(), expected.ravel(), TOLERANCE, TOLERANCE / 10):
            raise ValueError(f"{numbers.ravel()[:3]}, not {expected.ravel()[:3]}")

    headers = {"Content-Type": content_type} | ({} if key else {"Accept": RAW})
    return Workload(
        name=name,
        images=len(expected),
        connections=connections,
        request=(path, headers, body),
        check=check,
    )
