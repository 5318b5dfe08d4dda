"""The client's calls, without I/O: the requests to send, when to retry, and how to parse responses.

`Client` and `AsyncClient` share this code.
"""

from __future__ import annotations

import json
import random
import re
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, Final, Generic, NamedTuple, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from service.client.addresses import why_not_a_problem, why_unreachable
from service.client.images import (
    ImageLike,
    ImagesLike,
    Tensor,
    array_or_files,
    each_image,
    size_of_file,
    to_numbers,
)

Floats = NDArray[np.float32]
T = TypeVar("T")

NPY: Final = "application/x-npy"
JSON: Final = "application/json"
PNG: Final = "image/png"

WARNINGS: Final = "X-Warnings"
"""Header with the warnings of answers that are not JSON, as a JSON list."""

INDEX: Final = re.compile(r"images\[([0-9]+)\]: ")
"""What a warning about one image file starts with."""

RETRY_STATUSES: Final = frozenset({429, 503})
"""Statuses that ask the caller to try again later."""

BATCH_BYTES: Final = 16_000_000
"""Maximum size of all files in one body: half of what the service allows by default."""

MIN_PAUSE_S: Final = 0.1
MAX_PAUSE_S: Final = 5.0


class ClientError(Exception):
    """Base class of the errors that a failed call raises."""


class UnreachableError(ClientError):
    """There was no connection, or no response within the call's timeout."""


class ProblemError(ClientError):
    """The service refused the request. The attributes are those of its RFC 9457 problem."""

    def __init__(
        self, status: int, problem: Mapping[str, Any], retry_after_s: float | None
    ) -> None:
        self.status = status
        self.type = str(problem.get("type", "about:blank"))
        self.title = str(problem.get("title", ""))
        self.detail = str(problem.get("detail", ""))
        self.request_id = str(problem.get("request_id", ""))
        self.errors: list[dict[str, Any]] = problem.get("errors") or []
        self.retry_after_s = retry_after_s
        super().__init__(f"{status} {self.title}: {self.detail}")


class ImageWarning(UserWarning):
    """Something about an image file that could be a mistake, such as 12-bit values in 16 bits."""


class Encoding(NamedTuple):
    """Posteriors N(μ, diag σ²)."""

    mu: Floats  # (N, D)
    sigma: Floats  # (N, D)


class AnomalyScores(NamedTuple):
    """Scores of N images. `p_value`, `is_anomaly` and `threshold` are None if the score is not
    calibrated."""

    score: Floats  # (N,), higher is more anomalous
    p_value: NDArray[np.float64] | None  # (N,), share of clean images that score at least as high
    is_anomaly: NDArray[np.bool_] | None  # (N,)
    mse: Floats  # (N,)
    kl: Floats  # (N,), nats
    score_type: str
    alpha: float
    threshold: float | None
    warnings: tuple[str, ...] = ()
    """What could be a mistake about an image file. A text starts with its place: `images[3]: `."""


class ImageScore(NamedTuple):
    """The scores of one image, from `AnomalyScores`."""

    score: float
    p_value: float | None
    is_anomaly: bool | None
    mse: float
    kl: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """An HTTP request without the service's address."""

    method: str
    path: str
    accept: str
    params: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    content_type: str | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None

    def arguments(self, remaining_s: float) -> dict[str, Any]:
        """Arguments for httpx's `request`, when `remaining_s` seconds of the timeout remain."""
        headers = {"Accept": self.accept, "X-Request-Timeout": f"{remaining_s:.3f}"}
        if self.accept == NPY:
            headers["Accept-Encoding"] = "identity"  # floats hardly compress
        if self.content_type:
            headers["Content-Type"] = self.content_type
        return {
            "method": self.method,
            "url": self.path,
            "params": {name: value for name, value in self.params.items() if value is not None},
            "headers": headers,
            "content": self.content,
            "files": self.files,
            "timeout": remaining_s,
        }


@dataclass(frozen=True)
class Pause:
    """A wait before the next attempt."""

    seconds: float


Outcome = httpx.Response | httpx.TransportError | None
Steps = Generator[dict[str, Any] | Pause, Outcome, httpx.Response]


def attempts(call: Call, address: str, timeout_s: float, max_attempts: int) -> Steps:
    """The attempts of one call to the service at `address`, as a generator: yields the arguments of
    requests to send, and pauses to make, and returns the response.

    It does no I/O, so that both clients can use it. Raises `ClientError`.
    """
    deadline = time.monotonic() + timeout_s
    where = f"{address}{call.path}"
    last: ClientError = UnreachableError(f"{where}: no response within {timeout_s:g} s")
    for attempt in range(1, max_attempts + 1):
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0.001:
            break
        outcome = yield call.arguments(remaining_s)
        pause_s = min(MAX_PAUSE_S, MIN_PAUSE_S * 2 ** (attempt - 1))
        pause_s *= random.uniform(0.5, 1)  # noqa: S311 - jitter, so that callers spread out
        if isinstance(outcome, httpx.Response):
            if outcome.status_code == 200:
                return outcome
            error: ClientError = _problem(outcome, where)
            if outcome.status_code not in RETRY_STATUSES:
                raise error
            pause_s = getattr(error, "retry_after_s", None) or pause_s
        else:
            assert outcome is not None  # noqa: S101 - None answers a pause
            error = UnreachableError(why_unreachable(address, call.path, outcome))
            error.__cause__ = outcome
        if attempt == max_attempts or time.monotonic() + pause_s >= deadline:
            raise error
        last = error
        yield Pause(pause_s)
    raise last


def _problem(response: httpx.Response, where: str) -> ProblemError:
    status = response.status_code
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not problem.get("detail"):
        problem = {
            "title": httpx.codes.get_reason_phrase(status),
            "detail": why_not_a_problem(where, status, response.headers),
        }
    return ProblemError(
        status,
        problem,
        _retry_after_s(response.headers.get("Retry-After", "")),
    )


def _retry_after_s(text: str) -> float | None:
    """The seconds to wait, given as a number or a date (RFC 9110, section 10.2.3)."""
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _images_call(path: str, accept: str, images: ImagesLike, params: dict[str, Any]) -> Call:
    found = array_or_files(images)
    if isinstance(found, list):
        files = [("images", (f"{i}", data)) for i, data in enumerate(found)]
        return Call("POST", path, accept, params, files=files)
    if found.dtype == np.float64:
        found = found.astype(np.float32)  # half the bytes, and the network uses float32 anyway
    return Call("POST", path, accept, params, content=_npy_bytes(found), content_type=NPY)


def _flag(value: bool) -> str | None:
    """The value of a query parameter. False, the service's default, is not sent."""
    return "true" if value else None


def _npy_bytes(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(response: httpx.Response) -> Floats:
    array: Floats = np.load(BytesIO(response.content), allow_pickle=False)
    return array


def _png(response: httpx.Response) -> bytes:
    if (found := response.headers.get("Content-Type")) != PNG:
        raise ValueError(f"its type is {found}, not {PNG}")
    return response.content


def _encoding(response: httpx.Response) -> Encoding:
    array = _array(response)  # (N, 2, D)
    return Encoding(array[:, 0], array[:, 1])


def _scores(response: httpx.Response) -> AnomalyScores:
    value = response.json()
    p_value, is_anomaly = value["p_value"], value["is_anomaly"]
    return AnomalyScores(
        score=np.array(value["score"], np.float32),
        p_value=None if p_value is None else np.array(p_value, np.float64),
        is_anomaly=None if is_anomaly is None else np.array(is_anomaly, np.bool_),
        mse=np.array(value["mse"], np.float32),
        kl=np.array(value["kl"], np.float32),
        score_type=value["score_type"],
        alpha=value["alpha"],
        threshold=value["threshold"],
        warnings=tuple(map(str, value.get("warnings") or ())),
    )


def each(scores: AnomalyScores) -> Iterator[ImageScore]:
    """The scores of each image, with the warnings about it. Those that name no image are about
    all."""
    indexed = [(INDEX.match(text), text) for text in scores.warnings]
    for i in range(len(scores.score)):
        yield ImageScore(
            score=float(scores.score[i]),
            p_value=None if scores.p_value is None else float(scores.p_value[i]),
            is_anomaly=None if scores.is_anomaly is None else bool(scores.is_anomaly[i]),
            mse=float(scores.mse[i]),
            kl=float(scores.kl[i]),
            warnings=tuple(
                text[found.end() :] if found else text
                for found, text in indexed
                if found is None or int(found[1]) == i
            ),
        )


def _model(response: httpx.Response) -> dict[str, Any]:
    value: dict[str, Any] = response.json()
    return value


@dataclass(frozen=True)
class Request(Generic[T]):
    """A call, and the function that parses its response."""

    call: Call
    parse: Callable[[httpx.Response], T]

    def result(self, response: httpx.Response, address: str) -> T:
        """The parsed response of the service at `address`. Raises `ClientError` if it cannot be
        parsed.

        What the service warns of is an `ImageWarning` where the client's method is called, two
        frames above.
        """
        try:
            value = self.parse(response)
            texts = _warnings(response, value)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ClientError(
                f"{address}{self.call.path}: the response cannot be parsed ({error}); is this the "
                "service's address?"
            ) from error
        for text in texts:
            warnings.warn(text, ImageWarning, stacklevel=4)
        return value


def _warnings(response: httpx.Response, value: object) -> tuple[str, ...]:
    if isinstance(value, AnomalyScores):
        return value.warnings
    found = json.loads(response.headers.get(WARNINGS, "[]"))
    if not isinstance(found, list):
        raise TypeError(f"{WARNINGS} is not a list")
    return tuple(map(str, found))


def encode_call(images: ImagesLike, invert: bool, bits: int | None) -> Request[Encoding]:
    """The posterior of each image."""
    params = {"invert": _flag(invert), "bits": bits}
    return Request(_images_call("/encode", NPY, images, params), _encoding)


def decode_call(z: NDArray[Any] | Tensor) -> Request[Floats]:
    """The image decoded from each latent, (N, D)."""
    content = _npy_bytes(to_numbers(z))
    return Request(Call("POST", "/decode", NPY, content=content, content_type=NPY), _array)


def reconstruct_call(
    images: ImagesLike,
    sample: bool,
    seed: int | None,
    invert: bool,
    bits: int | None,
) -> Request[Floats]:
    """Each image encoded and decoded again."""
    params = {"sample": _flag(sample), "seed": seed, "invert": _flag(invert), "bits": bits}
    return Request(_images_call("/reconstruct", NPY, images, params), _array)


def anomaly_score_call(
    images: ImagesLike,
    alpha: float | None,
    score: str | None,
    fdr: bool,
    samples: int | None,
    seed: int | None,
    invert: bool,
    bits: int | None,
) -> Request[AnomalyScores]:
    """Anomaly scores of each image. None stands for the service's default."""
    params = {
        "alpha": alpha,
        "score": score,
        "fdr": "bh" if fdr else None,
        "samples": samples,
        "seed": seed,
        "invert": _flag(invert),
        "bits": bits,
    }
    return Request(_images_call("/anomaly-score", JSON, images, params), _scores)


def anomaly_map_call(
    images: ImagesLike, score: str | None, invert: bool, bits: int | None
) -> Request[Floats]:
    """The map of a score; None stands for the default one."""
    params = {"map": "true", "score": score, "invert": _flag(invert), "bits": bits}
    return Request(_images_call("/anomaly-score", NPY, images, params), _array)


def anomaly_map_png_call(
    images: ImagesLike, score: str | None, scale: int, invert: bool, bits: int | None
) -> Request[bytes]:
    """The map drawn over the image, as a PNG with pixels `scale` times as large."""
    params = {
        "map": "true",
        "score": score,
        "scale": scale,
        "invert": _flag(invert),
        "bits": bits,
    }
    return Request(_images_call("/anomaly-score", PNG, images, params), _png)


def sample_call(n: int, seed: int | None, temperature: float) -> Request[Floats]:
    """`n` new images."""
    # The service's default is not sent: older services do not know the parameter.
    params = {"n": n, "seed": seed, "temperature": None if temperature == 1 else temperature}
    return Request(Call("GET", "/sample", NPY, params), _array)


def describe_call() -> Request[dict[str, Any]]:
    """The bundle that the service has in memory."""
    return Request(Call("GET", "/model", JSON), _model)


def batches(images: ImagesLike, size: int) -> Iterator[list[ImageLike]]:
    """Split a collection into batches of `size` images, without reading ahead.

    Batches with large files are shorter, so that a body stays under `BATCH_BYTES`. Raises
    `ValueError` if `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"batch is {size}, expected at least 1")
    batch: list[ImageLike] = []
    batch_bytes = 0
    for image in each_image(images):
        file_bytes = size_of_file(image)
        if batch and batch_bytes + file_bytes > BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
        batch.append(image)
        batch_bytes += file_bytes
        if len(batch) == size:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
