"""The Python client: against the running service, and against one that fails as a test wants it."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.client import (
    AnomalyScores,
    AsyncClient,
    Client,
    ClientError,
    Encoding,
    ImageScore,
    ProblemError,
    UnreachableError,
)
from tests.api.helpers import image_file, uint8_body
from tests.conftest import Server

Images = NDArray[np.uint8]
Use = Callable[..., Any]

SLACK_S = 2.0
"""How late a call may come back that had less time than that: this machine has other work."""


def use_sync(url: str, method: str, *arguments: Any, options: Any = None, **named: Any) -> Any:
    with Client(url, **(options or {})) as client:
        found = getattr(client, method)(*arguments, **named)
        return list(found) if method == "iter_scores" else found


def use_async(url: str, method: str, *arguments: Any, options: Any = None, **named: Any) -> Any:
    async def call() -> Any:
        async with AsyncClient(url, **(options or {})) as client:
            found = getattr(client, method)(*arguments, **named)
            if method == "iter_scores":
                return [score async for score in found]
            return await found

    return asyncio.run(call())


@pytest.fixture(params=[use_sync, use_async], ids=["sync", "async"])
def use(request: pytest.FixtureRequest) -> Use:
    """`use(url, "encode", images)`: one call by either client."""
    found: Use = request.param
    return found


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def paths(four: Images, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """`four` as files."""
    folder = tmp_path_factory.mktemp("digits")
    found = [folder / f"{i}.png" for i in range(len(four))]
    for path, image in zip(found, four, strict=True):
        path.write_bytes(image_file(image))
    return found


def ask(http: httpx.Client, url: str, body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = http.post(url, json=body).raise_for_status().json()
    return found


def near(expected: Any) -> Any:
    return pytest.approx(np.array(expected), rel=1e-5, abs=1e-5)


# Every method


INPUTS: dict[str, Callable[[Images, list[Path]], Any]] = {
    "uint8 (N, C, H, W)": lambda x, _: x,
    "uint8 (N, H, W)": lambda x, _: x[:, 0],
    "uint8 (N, C·H·W)": lambda x, _: x.reshape(4, -1),
    "float64": lambda x, _: x / 255,
    "float32": lambda x, _: x / np.float32(255),
    "a view": lambda x, _: np.repeat(x, 2, axis=0)[::2],
    "Fortran order": lambda x, _: np.asfortranarray(x),
    "a list of arrays": lambda x, _: list(x[:, 0]),
    "a tuple of arrays": lambda x, _: tuple(x),
    "PIL": lambda x, _: [Image.fromarray(image[0]) for image in x],
    "paths": lambda _, paths: paths,
    "names": lambda _, paths: [str(path) for path in paths],
    "PIL and paths": lambda x, paths: [Image.fromarray(x[0, 0]), *paths[1:3], str(paths[3])],
}


@pytest.mark.parametrize("kind", INPUTS)
def test_images_of_every_kind(
    server: Server, http: httpx.Client, use: Use, four: Images, paths: list[Path], kind: str
) -> None:
    images = INPUTS[kind](four, paths)
    expected = ask(http, "/encode", uint8_body(four))
    found = use(server.url, "encode", images)
    assert isinstance(found, Encoding)
    for values, name in zip(found, ("mu", "sigma"), strict=True):
        assert values.dtype == np.float32
        assert values.shape == (4, 10)
        assert values == near(expected[name])

    scores = use(server.url, "anomaly_score", images, alpha=0.05, score="mse")
    assert isinstance(scores, AnomalyScores)
    expected = ask(http, "/anomaly-score?alpha=0.05&score=mse&map=true", uint8_body(four))
    for name in ("score", "mse", "kl"):
        values = getattr(scores, name)
        assert values.dtype == np.float32
        assert values == near(expected[name])
    for name in ("p_value", "is_anomaly"):
        assert getattr(scores, name).tolist() == pytest.approx(expected[name], abs=2e-4)
    for name in ("threshold", "score_type", "alpha"):
        assert getattr(scores, name) == expected[name]
    drawn, again = (
        use(server.url, "anomaly_score", images, score="iwae", samples=4, seed=7) for _ in range(2)
    )
    assert drawn.score.tolist() == again.score.tolist()
    assert drawn.p_value is drawn.is_anomaly is drawn.threshold is None
    discovered = use(server.url, "anomaly_score", images, alpha=0.5, fdr=True)
    bounded = ask(http, "/anomaly-score?alpha=0.5&fdr=bh", uint8_body(four))
    assert discovered.is_anomaly.tolist() == bounded["is_anomaly"]

    error_map = use(server.url, "anomaly_map", images)
    assert error_map.shape == (4, 28, 28)
    assert error_map == near(expected["anomaly_map"])
    back = use(server.url, "reconstruct", images)
    assert back.dtype == np.float32
    assert back == near(ask(http, "/reconstruct", uint8_body(four))["images"])
    drawn = use(server.url, "reconstruct", images, sample=True, seed=7)
    query = "/reconstruct?sample=true&seed=7"
    assert drawn == near(ask(http, query, uint8_body(four))["images"])


def test_one_image_may_come_alone(server: Server, use: Use, four: Images) -> None:
    together = use(server.url, "encode", four).mu
    assert use(server.url, "encode", four[2, 0]).mu == near(together[2:3])


def test_latents_samples_and_the_model(server: Server, http: httpx.Client, use: Use) -> None:
    z = np.random.default_rng(5).standard_normal((3, 10))
    expected = ask(http, "/decode", {"z": z.astype(np.float32).tolist()})["images"]
    for latents in (z, z.astype(np.float32), z.tolist()):
        found = use(server.url, "decode", latents)
        assert found.dtype == np.float32
        assert found == near(expected)
    assert use(server.url, "decode", z[0]) == near(expected[:1])

    expected = ask(http, "/decode", {"n": 5, "seed": 11})["images"]
    assert use(server.url, "sample", 5, seed=11) == near(expected)
    assert use(server.url, "sample").shape == (1, 28, 28)
    assert use(server.url, "model") == http.get("/model").json()
    assert use(f"{server.url}/", "model") == http.get("/model").json()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"]
)
def test_pil_images_of_every_mode(server: Server, use: Use, four: Images, mode: str) -> None:
    grey = four[1, 0] // 128 * 255  # black and white are the same in all of them
    image = Image.fromarray(grey)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    assert image.mode == mode
    expected = use(server.url, "encode", grey).mu
    assert use(server.url, "encode", [image]).mu == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pil_images_without_a_white_are_refused(use: Use, four: Images, mode: str) -> None:
    """0..1, 0..255 or anything: guessing would make black or white of them, in silence."""
    with pytest.raises(TypeError, match=mode):
        use("http://127.0.0.1:1", "encode", [Image.fromarray(four[0, 0]).convert(mode)])


def test_a_pil_image_is_what_its_file_is(
    server: Server, use: Use, four: Images, tmp_path: Path
) -> None:
    """Opened by the caller or by the service: a camera that was held upright tells so by Exif."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(np.rot90(four[2, 0])).save(path, exif=exif)
    upright = use(server.url, "encode", four[2, 0]).mu
    assert use(server.url, "encode", [path]).mu == near(upright)
    with Image.open(path) as image:
        assert use(server.url, "encode", [image]).mu == near(upright)


# What goes wrong


def test_a_problem_s_fields_are_the_exception_s(
    server: Server, http: httpx.Client, use: Use, four: Images
) -> None:
    spoilt = (four / 255).astype(np.float64)
    spoilt[3, 0, 0, 0] = 7
    with pytest.raises(ProblemError) as caught:
        use(server.url, "encode", spoilt)
    error = caught.value
    assert isinstance(error, ClientError)
    file = BytesIO()
    np.save(file, spoilt)
    problem = http.post("/encode", content=file.getvalue()).json()
    assert error.status == problem["status"] == 422
    assert (error.title, error.detail) == (problem["title"], problem["detail"])
    assert error.errors == problem["errors"]
    assert "images[3]" in error.detail
    assert len(error.request_id) == len(problem["request_id"])
    assert error.retry_after_s is None
    for part in ("422", error.title, error.detail):
        assert part in str(error)


@pytest.mark.parametrize(
    ("method", "arguments", "options", "status"),
    [
        ("encode", [np.zeros((2, 27, 28))], {}, 422),
        ("encode", [np.zeros((2, 28, 28), np.int64)], {}, 422),
        ("encode", [np.zeros((9_000, 28, 28), np.uint8)], {}, 413),
        ("anomaly_score", [np.zeros((1, 28, 28))], {"alpha": 2.0}, 422),
        ("anomaly_score", [np.zeros((1, 28, 28))], {"score": "nope"}, 422),
        ("decode", [np.full((1, 10), np.nan)], {}, 422),
        ("sample", [9_000], {}, 413),
        ("sample", [1], {"seed": -1}, 422),
    ],
)
def test_what_the_service_refuses(
    server: Server, use: Use, method: str, arguments: Any, options: Any, status: int
) -> None:
    with pytest.raises(ProblemError) as caught:
        use(server.url, method, *arguments, **options)
    assert caught.value.status == status


def test_what_is_no_image_is_refused_before_it_is_sent(
    use: Use, four: Images, tmp_path: Path
) -> None:
    """Nothing listens at this address."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TypeError, match="sequence"):
        use(url, "encode", "digit.png")
    with pytest.raises(TypeError, match="sequence"):
        use(url, "encode", Image.fromarray(four[0, 0]))
    with pytest.raises(TypeError, match="arrays and image files"):
        use(url, "encode", [Image.fromarray(four[0, 0]), four[0]])
    with pytest.raises(FileNotFoundError):
        use(url, "encode", [tmp_path / "none.png"])


# A service that fails as the test wants it


@dataclass
class Step:
    """One answer. `hangs_s` is how long it takes, `drips_s` the pause before each byte of it."""

    status: int = 200
    body: bytes = b'{"id": "fake"}'
    headers: dict[str, str] = field(default_factory=dict)
    closes: bool = False
    hangs_s: float = 0.0
    drips_s: float = 0.0


FULL = Step(503, b'{"title": "Service Unavailable", "status": 503, "detail": "full"}')


@dataclass
class Fake:
    """Answers by `script`, whose last step is for all that follow; keeps what it was asked."""

    script: list[Step]
    times: list[float] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0
    url: str = ""


@pytest.fixture
def start_fake() -> Iterator[Callable[..., Fake]]:
    servers: list[ThreadingHTTPServer] = []

    def start(*script: Step, port: int = 0) -> Fake:
        fake = Fake(list(script))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                fake.connections += 1
                super().setup()

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                fake.times.append(time.monotonic())
                fake.headers.append(self.headers)
                fake.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                step = fake.script.pop(0) if len(fake.script) > 1 else fake.script[0]
                time.sleep(step.hangs_s)
                if step.closes:
                    self.close_connection = True
                    return
                self.send_response(step.status)
                for name, value in step.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(step.body)))
                self.end_headers()
                for i in range(len(step.body)) if step.drips_s else ():
                    time.sleep(step.drips_s)
                    self.wfile.write(step.body[i : i + 1])
                if not step.drips_s:
                    self.wfile.write(step.body)

            do_GET = do_POST  # noqa: N815 - http.server's names

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that has gone is what some of the tests are about."""

        server = Quiet(("127.0.0.1", port), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        fake.url = f"http://127.0.0.1:{server.server_port}"
        return fake

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def array_answer() -> Step:
    """What /encode might say of one image."""
    file = BytesIO()
    np.save(file, np.zeros((1, 2, 10), np.float32))
    return Step(body=file.getvalue())


def test_no_room_now_is_asked_again_later(use: Use, start_fake: Callable[..., Fake]) -> None:
    later = Step(503, headers={"Retry-After": "1"})
    fake = start_fake(later, array_answer())
    image = np.zeros((1, 28, 28), np.uint8)
    assert use(fake.url, "encode", image).mu.shape == (1, 10)
    first, second = fake.times
    assert second - first >= 1.0, "as long as it was asked to"
    assert len(set(fake.bodies)) == 1
    assert fake.bodies[0].startswith(b"\x93NUMPY"), "arrays travel as .npy"


def test_pauses_grow_without_a_retry_after(use: Use, start_fake: Callable[..., Fake]) -> None:
    fake = start_fake(FULL, FULL, Step(429), Step())
    assert use(fake.url, "model") == {"id": "fake"}
    pauses = np.diff(fake.times)
    assert len(pauses) == 3
    assert (pauses >= [0.05, 0.1, 0.2]).all(), "half of 0.1, 0.2, 0.4 at least"


def test_no_room_for_ever(use: Use, start_fake: Callable[..., Fake]) -> None:
    fake = start_fake(FULL)
    started = time.monotonic()
    with pytest.raises(ClientError) as caught:
        use(fake.url, "model", options={"timeout_s": 0.5, "max_attempts": 100})
    if not isinstance(caught.value, UnreachableError):  # the last attempt's time may be too short
        assert str(caught.value) == "503 Service Unavailable: full"
    assert time.monotonic() - started < 0.5 + SLACK_S
    assert len(fake.times) > 2
    sent = [float(headers["X-Request-Timeout"]) for headers in fake.headers]
    assert all(0 < left <= 0.5 for left in sent), "none was sent past the deadline"
    assert sent == sorted(sent, reverse=True), "each says how much is left"
    assert sent[0] > 0.3


def test_attempts_are_bounded(use: Use, start_fake: Callable[..., Fake]) -> None:
    for attempts in (1, 3):
        fake = start_fake(FULL)
        with pytest.raises(ProblemError):
            use(fake.url, "model", options={"max_attempts": attempts})
        assert len(fake.times) == attempts


def test_a_retry_after_past_the_deadline_is_not_waited_for(
    use: Use, start_fake: Callable[..., Fake]
) -> None:
    fake = start_fake(Step(503, headers={"Retry-After": "60"}))
    started = time.monotonic()
    with pytest.raises(ProblemError) as caught:
        use(fake.url, "model", options={"timeout_s": 20})
    assert time.monotonic() - started < SLACK_S
    assert caught.value.retry_after_s == 60
    assert len(fake.times) == 1


def test_a_retry_after_may_be_a_date(use: Use, start_fake: Callable[..., Fake]) -> None:
    """RFC 9110, section 10.2.3. This one is far off, and so past the deadline."""
    fake = start_fake(Step(503, headers={"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}))
    with pytest.raises(ProblemError):
        use(fake.url, "model", options={"timeout_s": 20})
    assert len(fake.times) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 405, 406, 408, 413, 415, 422, 500, 504])
def test_other_refusals_are_final(use: Use, start_fake: Callable[..., Fake], status: int) -> None:
    fake = start_fake(Step(status, b'{"detail": "no"}'), Step())
    with pytest.raises(ProblemError, match="no") as caught:
        use(fake.url, "model")
    assert caught.value.status == status
    assert len(fake.times) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"text"', b"\xff", b'{"errors": null}'])
def test_a_refusal_that_is_no_problem_json(
    use: Use, start_fake: Callable[..., Fake], body: bytes
) -> None:
    """A proxy's, say."""
    fake = start_fake(Step(502, body))
    with pytest.raises(ProblemError, match="502") as caught:
        use(fake.url, "model")
    assert caught.value.errors == []


@pytest.mark.parametrize("method", ["model", "encode", "anomaly_score"])
def test_an_answer_that_makes_no_sense(
    use: Use, start_fake: Callable[..., Fake], method: str
) -> None:
    """Another server's 200: one kind of exception for all that a call can fail by."""
    fake = start_fake(Step(200, b"<html>Welcome</html>"))
    arguments = [] if method == "model" else [np.zeros((1, 28, 28), np.uint8)]
    with pytest.raises(ClientError):
        use(fake.url, method, *arguments)


def test_a_connection_that_breaks_is_made_again(use: Use, start_fake: Callable[..., Fake]) -> None:
    fake = start_fake(Step(closes=True), Step(closes=True), Step())
    assert use(fake.url, "model") == {"id": "fake"}
    assert len(fake.times) == 3


def test_a_service_that_is_still_starting(use: Use, start_fake: Callable[..., Fake]) -> None:
    port = free_port()
    timer = threading.Timer(0.2, lambda: start_fake(Step(), port=port))
    timer.start()
    assert use(f"http://127.0.0.1:{port}", "model") == {"id": "fake"}
    timer.join()


def test_nobody_there(use: Use) -> None:
    started = time.monotonic()
    with pytest.raises(UnreachableError, match="/model") as caught:
        use(f"http://127.0.0.1:{free_port()}", "model", options={"timeout_s": 0.5})
    assert time.monotonic() - started < 0.5 + SLACK_S
    assert isinstance(caught.value, ClientError)
    assert isinstance(caught.value.__cause__, httpx.TransportError)


@pytest.mark.parametrize("step", [Step(hangs_s=30), Step(drips_s=0.25)], ids=["silent", "dripping"])
def test_an_answer_that_takes_too_long(
    use: Use, start_fake: Callable[..., Fake], step: Step
) -> None:
    """Whether nothing comes or a byte now and then: `timeout_s` bounds the whole call."""
    fake = start_fake(step)
    started = time.monotonic()
    with pytest.raises(UnreachableError):
        use(fake.url, "model", options={"timeout_s": 0.4})
    assert time.monotonic() - started < 0.4 + SLACK_S
    assert len(fake.times) == 1, "not repeated past the deadline"


def test_the_service_is_told_the_deadline(use: Use, start_fake: Callable[..., Fake]) -> None:
    fake = start_fake(Step())
    use(fake.url, "model", options={"timeout_s": 7})
    assert 6 < float(fake.headers[0]["X-Request-Timeout"]) <= 7


def test_a_deadline_that_the_service_cannot_meet(server: Server, use: Use) -> None:
    images = np.zeros((8_000, 28, 28), np.uint8)
    with pytest.raises(ClientError) as caught:
        use(server.url, "encode", images, options={"timeout_s": 0.005})
    error = caught.value
    late = isinstance(error, ProblemError) and error.status in {408, 504}
    assert late or isinstance(error, UnreachableError)


def test_connections_are_kept(start_fake: Callable[..., Fake]) -> None:
    fake = start_fake(Step())
    with Client(fake.url) as client:
        for _ in range(5):
            client.model()
    assert (len(fake.times), fake.connections) == (5, 1)

    async def many() -> None:
        async with AsyncClient(fake.url, max_connections=2) as client:
            await asyncio.gather(*(client.model() for _ in range(20)))

    asyncio.run(many())
    assert len(fake.times) == 25
    assert fake.connections <= 1 + 2


def test_threads_may_share_a_client(server: Server, four: Images) -> None:
    found: dict[int, Any] = {}
    with Client(server.url) as client:
        expected = client.encode(four).mu

        def work(i: int) -> None:
            found[i] = client.encode(four[i % 4, 0]).mu

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, mu in found.items():
        assert mu == near(expected[i % 4 : i % 4 + 1])
    assert len(found) == 8


# Large collections


def counted(images: Images, taken: list[int]) -> Iterator[Images]:
    for i, image in enumerate(images):
        taken.append(i)
        yield image


N, BATCH = 1_000, 96


def test_a_large_collection_is_taken_a_batch_at_a_time(server: Server, digits: Images) -> None:
    images = digits[:N]
    taken: list[int] = []
    with Client(server.url) as client:
        expected = client.anomaly_score(images)
        scores = client.iter_scores(counted(images, taken), BATCH)
        assert not taken, "nothing before it is asked for"
        for i, score in enumerate(scores):
            assert len(taken) - i <= BATCH, "one batch ahead at most"
            check_score(score, expected, i)
    assert i + 1 == len(taken) == N


def test_a_large_collection_asynchronously(server: Server, digits: Images) -> None:
    images = digits[:N]
    taken: list[int] = []

    async def stream() -> int:
        async with AsyncClient(server.url) as client:
            expected = await client.anomaly_score(images)
            i = 0
            async for score in client.iter_scores(counted(images, taken), BATCH):
                assert len(taken) - i <= BATCH
                check_score(score, expected, i)
                i += 1
            return i

    assert asyncio.run(stream()) == len(taken) == N


def check_score(score: ImageScore, expected: AnomalyScores, i: int) -> None:
    assert isinstance(score, ImageScore)
    assert score.score == pytest.approx(expected.score[i], rel=1e-5)
    assert score.mse == pytest.approx(expected.mse[i], rel=1e-5)
    assert score.kl == pytest.approx(expected.kl[i], rel=1e-5)
    assert expected.p_value is not None
    assert expected.is_anomaly is not None
    assert score.p_value == pytest.approx(expected.p_value[i], abs=2e-4)
    assert score.is_anomaly == expected.is_anomaly[i]


def test_the_first_scores_come_before_the_last_images(server: Server, digits: Images) -> None:
    def endless() -> Iterator[Images]:
        while True:
            yield digits[0]

    with Client(server.url) as client:
        scores = client.iter_scores(endless(), 10)
        assert len({next(scores) for _ in range(25)}) == 1


def test_collections_of_any_length_and_kind(
    server: Server, use: Use, digits: Images, paths: list[Path]
) -> None:
    expected = use(server.url, "anomaly_score", digits[:7]).score
    for batch in (1, 6, 7, 8, 256):
        for images in (digits[:7], list(digits[:7, 0]), iter(digits[:7])):
            found = use(server.url, "iter_scores", images, batch)
            assert np.array([score.score for score in found]) == near(expected)
    assert use(server.url, "iter_scores", []) == []
    found = use(server.url, "iter_scores", paths, 3)
    assert np.array([score.score for score in found]) == near(expected[:4])


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(server: Server, use: Use, four: Images, batch: int) -> None:
    """Not taken for the end of the collection."""
    with pytest.raises(ValueError, match=str(batch)):
        use(server.url, "iter_scores", four, batch)


def test_a_progress_bar(
    server: Server, use: Use, digits: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    found = use(server.url, "iter_scores", digits[:30], 10, progress=True)
    assert len(found) == 30
    shown = "".join(capsys.readouterr())
    assert "scored" in shown
    assert "100%" in shown
    assert len(use(server.url, "iter_scores", iter(digits[:30]), 10, progress=True)) == 30
    use(server.url, "iter_scores", digits[:3])
    assert "scored" not in "".join(capsys.readouterr()).partition("100%")[2]


def test_a_collection_that_fails_midway(server: Server, use: Use, digits: Images) -> None:
    """What was scored has been given out; the error is the service's own."""
    spoilt = [*digits[:20], np.zeros((3, 3), np.uint8)]
    with pytest.raises((ProblemError, ValueError)):
        use(server.url, "iter_scores", spoilt, 20)
    with Client(server.url) as client:
        scores = client.iter_scores(spoilt, 20)
        assert len([next(scores) for _ in range(20)]) == 20
        with pytest.raises(ProblemError, match="422"):
            next(scores)


# The command line


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "service.client", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_table(server: Server, http: httpx.Client, four: Images, paths: list[Path]) -> None:
    done = run("score", *paths, "--url", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["file", "score", "p-value", "anomaly", "mse", "kl"]
    expected = ask(http, "/anomaly-score", uint8_body(four))
    for i, (path, line) in enumerate(zip(paths, lines, strict=True)):
        name, score, p_value, anomaly, mse, kl = line.split()
        assert name == str(path)
        assert float(p_value) == pytest.approx(expected["p_value"][i], abs=1e-4)
        assert anomaly == ("yes" if expected["is_anomaly"][i] else "no")
        for text, key in ((score, "score"), (mse, "mse"), (kl, "kl")):
            assert float(text) == pytest.approx(expected[key][i], abs=0.006, rel=0.01)


def test_json_lines_and_files_that_are_none(
    server: Server, http: httpx.Client, four: Images, paths: list[Path], tmp_path: Path
) -> None:
    """A broken file among them spoils no other's line."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:50])
    missing = tmp_path / "missing.png"
    files = [paths[0], broken, paths[1], missing, tmp_path, paths[2]]
    done = run("score", *files, "--json", "--url", server.url)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    expected = ask(http, "/anomaly-score", uint8_body(four))
    assert [line["file"] for line in lines] == [str(path) for path in paths[:3]]
    for i, line in enumerate(lines):
        assert set(line) == {"file", "score", "p_value", "is_anomaly", "mse", "kl"}
        for key in ("score", "mse", "kl"):
            assert line[key] == pytest.approx(expected[key][i], rel=1e-5)
    told = done.stderr.splitlines()
    assert len(told) == 3
    for line, path in zip(told, (broken, missing, tmp_path), strict=True):
        assert str(path) in line
    assert "400" in told[0]
    assert "Traceback" not in done.stderr


def test_a_table_with_nobody_there(paths: list[Path]) -> None:
    done = run("score", *paths, "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, "told once, not for each file"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["score"], ["nonsense"], ["score", "--nonsense", "a"]])
def test_a_wrong_command(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: python -m service.client" in done.stderr


def test_it_loads_neither_torch_nor_fastapi() -> None:
    code = "import service.client, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert {"service", "httpx", "numpy"} <= loaded
    assert not loaded & {"torch", "fastapi", "starlette", "pydantic", "uvicorn", "model"}
