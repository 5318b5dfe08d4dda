"""The Python clients against a service that fails as a test wants it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest

from service.client import AsyncClient, Client, ClientError, ProblemError, UnreachableError
from tests.api.client.helpers import Images, Use, free_port, near
from tests.processes import Server

SLACK_S = 2.0
"""How late a call may come back that had less time than that: this machine has other work."""


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


def array_answer() -> Step:
    """What /encode might say of one image."""
    file = BytesIO()
    np.save(file, np.zeros((1, 2, 10), np.float32))
    return Step(body=file.getvalue())


def test_a_503_is_retried_later(use: Use, start_fake: Callable[..., Fake]) -> None:
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


def test_a_permanent_503_gives_up_at_the_deadline(
    use: Use, start_fake: Callable[..., Fake]
) -> None:
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
def test_a_refusal_that_is_not_problem_json(
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


def test_no_service_there(use: Use) -> None:
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


def test_the_deadline_is_sent_to_the_service(use: Use, start_fake: Callable[..., Fake]) -> None:
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
