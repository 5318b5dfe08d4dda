"""The client's calls without its sockets: what to send, when to repeat it, what an answer means.

Both clients of `service.client` are made of these.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Floats = NDArray[np.float32]
ImageLike = NDArray[Any] | Image.Image | str | Path
"""One image: (H, W) or (C, H, W) numbers, a PIL image, or the path of a file."""
ImagesLike = NDArray[Any] | Sequence[ImageLike]
"""Images: an array with a row for each, uint8 or floats in [0, 1], or a sequence of images."""
T = TypeVar("T")

NPY: Final = "application/x-npy"
JSON: Final = "application/json"

RETRIED: Final = frozenset({429, 503})
"""Statuses that say: later."""

PNG_MODES: Final = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
"""Modes of PIL images that PNG can hold; others become RGB."""

BATCH_BYTES: Final = 16_000_000
"""Files in one body together; half of what the service takes by default."""

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0


class ClientError(Exception):
    """Base of what this client raises for a call that failed."""


class UnreachableError(ClientError):
    """No answer: no connection, or none within the call's time."""


class ProblemError(ClientError):
    """The service refused. The fields are those of its RFC 9457 problem."""

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


class Encoding(NamedTuple):
    """Posteriors N(μ, diag σ²)."""

    mu: Floats  # (N, D)
    sigma: Floats  # (N, D)


class AnomalyScores(NamedTuple):
    """`p_value`, `is_anomaly` and `threshold` are None where the score was not calibrated."""

    score: Floats  # (N,), grows with strangeness
    p_value: NDArray[np.float64] | None  # (N,), share of clean images as strange or stranger
    is_anomaly: NDArray[np.bool_] | None  # (N,)
    mse: Floats  # (N,)
    kl: Floats  # (N,), nats
    score_type: str
    alpha: float
    threshold: float | None


class ImageScore(NamedTuple):
    """One image's part of `AnomalyScores`."""

    score: float
    p_value: float | None
    is_anomaly: bool | None
    mse: float
    kl: float


@dataclass(frozen=True)
class Call:
    """A request, apart from where it goes."""

    method: str
    path: str
    accept: str
    params: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    content_type: str | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None

    def arguments(self, left_s: float) -> dict[str, Any]:
        """For httpx's `request`, when `left_s` seconds are left."""
        headers = {"Accept": self.accept, "X-Request-Timeout": f"{left_s:.3f}"}
        if self.accept == NPY:
            headers["Accept-Encoding"] = "identity"  # float noise hardly shrinks
        if self.content_type:
            headers["Content-Type"] = self.content_type
        return {
            "method": self.method,
            "url": self.path,
            "params": {name: value for name, value in self.params.items() if value is not None},
            "headers": headers,
            "content": self.content,
            "files": self.files,
            "timeout": left_s,
        }


@dataclass(frozen=True)
class Pause:
    """Wait before the next attempt."""

    seconds: float


Outcome = httpx.Response | httpx.TransportError | None
Steps = Generator[dict[str, Any] | Pause, Outcome, httpx.Response]


def attempts(call: Call, timeout_s: float, max_attempts: int) -> Steps:
    """What to do for one call: yields requests to send and pauses to make, returns the answer.

    Knows nothing of sockets, so that both clients share it. Raises `ClientError`.
    """
    deadline = time.monotonic() + timeout_s
    last: ClientError = UnreachableError(f"{call.path}: no answer within {timeout_s:g} s")
    for attempt in range(1, max_attempts + 1):
        left_s = deadline - time.monotonic()
        if left_s <= 0.001:
            break
        outcome = yield call.arguments(left_s)
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
        pause_s *= random.uniform(0.5, 1)  # noqa: S311 - so that callers do not come back together
        if isinstance(outcome, httpx.Response):
            if outcome.status_code == 200:
                return outcome
            error: ClientError = _problem(outcome)
            if outcome.status_code not in RETRIED:
                raise error
            pause_s = getattr(error, "retry_after_s", None) or pause_s
        else:
            error = UnreachableError(f"{call.path}: {outcome or type(outcome).__name__}")
            error.__cause__ = outcome
            if isinstance(outcome, httpx.UnsupportedProtocol):
                raise error  # http:// is missing: it will not get better
        if attempt == max_attempts or time.monotonic() + pause_s >= deadline:
            raise error
        last = error
        yield Pause(pause_s)
    raise last


def _problem(answer: httpx.Response) -> ProblemError:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    return ProblemError(
        answer.status_code,
        problem if isinstance(problem, dict) else {},
        _retry_after_s(answer.headers.get("Retry-After", "")),
    )


def _retry_after_s(text: str) -> float | None:
    """Seconds, given as such or as a date (RFC 9110, section 10.2.3)."""
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _images_call(path: str, accept: str, images: ImagesLike, params: dict[str, Any]) -> Call:
    if not isinstance(images, np.ndarray):
        if isinstance(images, str | Path | Image.Image):
            raise TypeError(f"images is one {type(images).__name__}, expected a sequence of images")
        images = list(images)
        if not all(isinstance(image, np.ndarray) for image in images):
            files = [("images", (f"{i}", _file_bytes(image))) for i, image in enumerate(images)]
            return Call("POST", path, accept, params, files=files)
        if not images:
            raise ValueError("images is empty, expected at least one")
        images = np.stack([np.asarray(image) for image in images])
    if images.dtype == np.float64:
        images = images.astype(np.float32)  # what the network computes in: half the bytes
    content = _npy_bytes(images)
    return Call("POST", path, accept, params, content=content, content_type=NPY)


def _file_bytes(image: ImageLike) -> bytes:
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    file = BytesIO()
    if isinstance(image, np.ndarray):
        raise TypeError("arrays and image files do not go into one call")
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"an image is a {type(image).__name__}, expected an array, PIL image or path"
        )
    if image.mode.startswith(("I", "F")) and image.mode not in PNG_MODES:
        raise TypeError(f"a PIL image has mode {image.mode!r}: what is black in it is not known")
    image = ImageOps.exif_transpose(image)  # PNG would lose which way is up
    if image.mode not in PNG_MODES:
        image = image.convert("RGB")
    image.save(file, "PNG")
    return file.getvalue()


def _flag(value: bool) -> str | None:
    """A query parameter; False is the service's default."""
    return "true" if value else None


def _npy_bytes(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(answer: httpx.Response) -> Floats:
    array: Floats = np.load(BytesIO(answer.content), allow_pickle=False)
    return array


def _encoding(answer: httpx.Response) -> Encoding:
    array = _array(answer)  # (N, 2, D)
    return Encoding(array[:, 0], array[:, 1])


def _scores(answer: httpx.Response) -> AnomalyScores:
    value = answer.json()
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
    )


def each(scores: AnomalyScores) -> Iterator[ImageScore]:
    """The scores image by image."""
    for i in range(len(scores.score)):
        yield ImageScore(
            score=float(scores.score[i]),
            p_value=None if scores.p_value is None else float(scores.p_value[i]),
            is_anomaly=None if scores.is_anomaly is None else bool(scores.is_anomaly[i]),
            mse=float(scores.mse[i]),
            kl=float(scores.kl[i]),
        )


def _model(answer: httpx.Response) -> dict[str, Any]:
    value: dict[str, Any] = answer.json()
    return value


@dataclass(frozen=True)
class Request(Generic[T]):
    """A call, and what makes a result of its answer."""

    call: Call
    parse: Callable[[httpx.Response], T]

    def result(self, answer: httpx.Response) -> T:
        """What the answer says. Raises `ClientError` if that makes no sense."""
        try:
            return self.parse(answer)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ClientError(f"{self.call.path}: the answer makes no sense: {error}") from error


def encode_call(images: ImagesLike, invert: bool) -> Request[Encoding]:
    """The posterior of each image."""
    return Request(_images_call("/encode", NPY, images, {"invert": _flag(invert)}), _encoding)


def decode_call(z: NDArray[Any]) -> Request[Floats]:
    """The image of each latent, (N, D)."""
    content = _npy_bytes(np.asarray(z, np.float32))
    return Request(Call("POST", "/decode", NPY, content=content, content_type=NPY), _array)


def reconstruct_call(
    images: ImagesLike,
    sample: bool,
    seed: int | None,
    invert: bool,
) -> Request[Floats]:
    """Each image encoded and decoded again."""
    params = {"sample": _flag(sample), "seed": seed, "invert": _flag(invert)}
    return Request(_images_call("/reconstruct", NPY, images, params), _array)


def anomaly_score_call(
    images: ImagesLike,
    alpha: float | None,
    score: str | None,
    fdr: bool,
    samples: int | None,
    seed: int | None,
    invert: bool,
) -> Request[AnomalyScores]:
    """How strange each image is. None leaves a choice to the service."""
    params = {
        "alpha": alpha,
        "score": score,
        "fdr": "bh" if fdr else None,
        "samples": samples,
        "seed": seed,
        "invert": _flag(invert),
    }
    return Request(_images_call("/anomaly-score", JSON, images, params), _scores)


def anomaly_map_call(images: ImagesLike, invert: bool) -> Request[Floats]:
    """The squared error of each pixel."""
    return Request(
        _images_call("/anomaly-score", NPY, images, {"map": "true", "invert": _flag(invert)}),
        _array,
    )


def sample_call(n: int, seed: int | None) -> Request[Floats]:
    """`n` new images."""
    return Request(Call("GET", "/sample", NPY, {"n": n, "seed": seed}), _array)


def describe_call() -> Request[dict[str, Any]]:
    """What the service has in memory."""
    return Request(Call("GET", "/model", JSON), _model)


def batches(images: Iterable[ImageLike], size: int) -> Iterator[list[ImageLike]]:
    """A collection in parts of `size`, taken from it only when they are asked for.

    Parts with large files are shorter, so that a body stays under `BATCH_BYTES`.
    """
    if size < 1:
        raise ValueError(f"batch is {size}, expected at least 1")
    part: list[ImageLike] = []
    total = 0
    for image in images:
        weight = Path(image).stat().st_size if isinstance(image, str | Path) else 0
        if part and total + weight > BATCH_BYTES:
            yield part
            part, total = [], 0
        part.append(image)
        total += weight
        if len(part) == size:
            yield part
            part, total = [], 0
    if part:
        yield part
