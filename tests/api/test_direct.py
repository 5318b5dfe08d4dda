"""Requests that need no task: the same answers, and the same promises, as on the general way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from uvicorn.server import ServerState

from service.access.keys import digest_of
from service.api.plans import planners
from service.app import App, create_app
from service.http.direct import MAX_HEADS, DirectRequest
from service.server.connections import COLLECT_S, Connections
from service.server.http_protocol import HttpProtocol
from service.settings import Settings
from service.telemetry.request_log import RequestRecord, request_log
from tests.api.helpers import HANG_S, client_of, engine_of, hold, image_file, metric, uint8_body

pytestmark = pytest.mark.anyio

CHANGING = {"x-request-id", "server-timing", "ratelimit"}

Answer = tuple[int, dict[str, str], bytes]


class Served:
    """An app on a real socket, and which of its requests were direct."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.direct: list[DirectRequest] = []
        self.state = ServerState()
        self.connections = Connections(
            app.state.service.settings, app.state.service.metrics, app.state.budget
        )
        self._port = 0
        self._clients: list[Client] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Served]:
        begin = type(self.app.direct).begin

        def noted(*args: Any) -> DirectRequest | None:
            request = begin(self.app.direct, *args)
            if request is not None:
                self.direct.append(request)
            return request

        config = uvicorn.Config(self.app, log_config=None, access_log=False, lifespan="off")
        config.load()
        state = self.state
        protocol = partial(
            HttpProtocol,
            config=config,
            server_state=state,
            app_state={},
            connections=self.connections,
            refuse=self.app.refuse,
            direct=self.app.direct,
        )
        loop = asyncio.get_running_loop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.app.direct, "begin", noted)
            async with await loop.create_server(protocol, "127.0.0.1", 0) as server:
                self._port = server.sockets[0].getsockname()[1]
                try:
                    yield self
                finally:
                    for client in self._clients:
                        client.writer.close()
                    await until(lambda: not state.connections)

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self._port))
        self._clients.append(client)
        return client

    def forget_heads(self) -> None:
        """Plan requests as the engine is now."""
        self.app.direct.use(planners(self.app.state.service))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(HANG_S):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> Answer:
        async with asyncio.timeout(HANG_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()[:-1]
            headers = dict(line.split(": ", 1) for line in head[1:])
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def ask(self, request: bytes, *, in_two: bool = False) -> Answer:
        """Send a request, whole or with its body's last byte behind the rest."""
        self.writer.write(request[:-1] if in_two else request)
        if in_two:
            await self.writer.drain()
            await asyncio.sleep(0.01)
            self.writer.write(request[-1:])
        return await self.answer()


@pytest.fixture(scope="module")
def direct_app() -> App:
    return create_app(Settings(threads=1, request_timeout_s=HANG_S))


@pytest.fixture
async def served(direct_app: App) -> AsyncIterator[Served]:
    async with Served(direct_app).running() as served:
        served.forget_heads()
        yield served


def post(path: str, body: bytes, content_type: str, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {content_type}"] * bool(content_type)
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def score(digits: NDArray[np.uint8], n: int = 1, **headers: str) -> bytes:
    return post(
        "/anomaly-score", json.dumps(uint8_body(digits[:n])).encode(), "application/json", **headers
    )


def comparable(answer: Answer) -> tuple[int, dict[str, str | None], bytes]:
    """With the names of headers, in their order, and the values of those that stay."""
    status, headers, body = answer
    kept = {name: None if name in CHANGING else value for name, value in headers.items()}
    if status != 200:
        body = b"".join(body.partition(b'"request_id"')[:2])
    return status, kept, body


def body_of(kind: str, images: NDArray[np.uint8]) -> tuple[bytes, str]:
    rows = images.reshape(len(images), -1)
    floats = (rows / np.float32(255)).astype(np.float32)
    return {
        "uint8": (json.dumps(uint8_body(images)).encode(), "application/json; charset=utf-8"),
        "floats": (json.dumps({"images": floats.tolist()}).encode(), "application/json"),
        "undeclared": (json.dumps({"images": floats.tolist()}).encode(), ""),
        "raw": (rows.tobytes(), "application/octet-stream"),
        "png": (image_file(images[0]), "image/png"),
        "out of range": (b'{"images": [' + b"[" + b"2," * 783 + b"2]]}", "application/json"),
        "cut short": (json.dumps(uint8_body(images)).encode()[:-3], "application/json"),
        "text": (b"hello", "text/plain"),
    }[kind]


@pytest.mark.parametrize(
    "kind", ["uint8", "floats", "undeclared", "raw", "png", "out of range", "cut short", "text"]
)
@pytest.mark.parametrize("accept", ["", "*/*", "application/x-npy", "application/octet-stream"])
@pytest.mark.parametrize(
    "target",
    [
        *("/anomaly-score", "/anomaly-score?score=mse&alpha=0.3", "/anomaly-score?fdr=bh"),
        *("/anomaly-score?map=true", "/anomaly-score?nope=1", "/anomaly-score?score=iwae&seed=1"),
        *("/encode", "/encode?sample=true&seed=3", "/encode?invert=true", "/reconstruct"),
    ],
)
async def test_both_ways_give_the_same_answers(
    served: Served, digits: NDArray[np.uint8], kind: str, accept: str, target: str
) -> None:
    body, content_type = body_of(kind, digits[:2])
    headers = {"Accept": accept} if accept else {}
    request = post(target, body, content_type, **headers)
    client = await served.client()
    general = await client.ask(request)
    assert not served.direct
    whole = await client.ask(request)
    in_two = await client.ask(request, in_two=True)
    assert comparable(in_two) == comparable(whole) == comparable(general)
    is_usual = target in ("/encode", "/encode?invert=true", "/anomaly-score") or "mse" in target
    is_read_at_once = kind in ("uint8", "floats", "undeclared", "raw", "png")
    assert len(served.direct) == 2 * (is_usual and is_read_at_once)


@pytest.mark.parametrize("n", [1, 7, 40, 60])
@pytest.mark.parametrize("path", ["/anomaly-score", "/encode"])
async def test_however_many_images_there_are(
    served: Served, digits: NDArray[np.uint8], path: str, n: int
) -> None:
    """Answers that are long enough to be compressed take the general way."""
    request = post(path, digits[:n].tobytes(), "application/octet-stream", Accept_Encoding="gzip")
    client = await served.client()
    answers = [await client.ask(request) for _ in range(2)]
    assert len({repr(comparable(answer)) for answer in answers}) == 1
    assert len(served.direct) == (n <= 7 or (path, n) == ("/anomaly-score", 40))


@pytest.mark.parametrize("n", [1, 60, 300])
async def test_however_large_the_answer_is_if_it_is_not_to_be_compressed(
    served: Served, digits: NDArray[np.uint8], n: int
) -> None:
    images = np.resize(digits, (n, 784))
    request = post("/anomaly-score", images.tobytes(), "application/octet-stream")
    client = await served.client()
    answers = [await client.ask(request) for _ in range(2)]
    assert len({repr(comparable(answer)) for answer in answers}) == 1
    assert len(served.direct) == 1
    raw = post(
        "/encode", images.tobytes(), "application/octet-stream", Accept="application/octet-stream"
    )
    assert len({repr(comparable(await client.ask(raw))) for _ in range(2)}) == 1
    assert len(served.direct) == 2
    varies = "Accept" if n < 300 else "Accept, Accept-Encoding"
    assert answers[0][1]["vary"] == varies


async def test_requests_that_share_a_batch_get_their_own_answers(
    served: Served, digits: NDArray[np.uint8]
) -> None:
    clients = [await served.client() for _ in range(12)]
    requests = [score(digits[i:], 1 + i % 3) for i in range(len(clients))]
    alone = [comparable(await clients[0].ask(request)) for request in requests]
    await asyncio.gather(*(c.ask(r) for c, r in zip(clients, requests, strict=True)))
    served.direct.clear()
    together = await asyncio.gather(
        *(client.ask(request) for client, request in zip(clients, requests, strict=True))
    )
    assert [comparable(answer) for answer in together] == alone
    assert len(served.direct) == len(clients)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(["/anomaly-score", "/encode", "/livez"]), min_size=1, max_size=6))
def test_pipelined_requests_are_answered_in_order(direct_app: App, targets: Sequence[str]) -> None:
    body = bytes(784)

    async def main() -> None:
        async with Served(direct_app).running() as served:
            client = await served.client()
            for path in ("/anomaly-score", "/encode"):
                for _ in range(2):
                    await client.ask(post(path, body, "application/octet-stream"))
            for target in targets:
                if target == "/livez":
                    client.writer.write(b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
                else:
                    client.writer.write(post(target, body, "application/octet-stream"))
                await asyncio.sleep(0)
            for target in targets:
                status, _, text = await client.answer()
                first = next(iter(json.loads(text)))
                assert (status, first) == (200, "status" if target == "/livez" else "model")
                assert (b'"sigma"' in text) == (target == "/encode")

    asyncio.run(main())


async def test_what_arrives_during_a_direct_request_waits_for_its_answer(
    served: Served, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    served.forget_heads()
    held = hold(monkeypatch, served.app, "encode")
    client = await served.client()
    request = post("/encode", digits[:1].tobytes(), "application/octet-stream")
    held.let_go(1)
    await client.ask(request)
    client.writer.write(request)
    await held.begun()
    client.writer.write(request[:50])
    await asyncio.sleep(0.02)
    client.writer.write(request[50:] + b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n")
    await asyncio.sleep(0.02)
    held.let_go()
    assert [json.loads((await client.answer())[2]).keys() >= {"mu"} for _ in range(3)] == [
        True,
        True,
        False,
    ]
    assert served.direct


async def directly_held(
    served: Served, monkeypatch: pytest.MonkeyPatch, request: bytes
) -> tuple[Any, Client]:
    """A direct request whose forward pass waits."""
    held = hold(monkeypatch, served.app, "encode")
    served.forget_heads()
    client = await served.client()
    held.let_go(1)
    assert (await client.ask(request))[0] == 200
    held._begun.clear()
    client.writer.write(request)
    await held.begun()
    assert len(served.direct) == 1
    return held, client


async def test_a_client_that_leaves_is_counted_and_leaves_nothing_behind(
    served: Served, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = post("/encode", digits[:2].tobytes(), "application/octet-stream")
    held, client = await directly_held(served, monkeypatch, request)
    waiting = await served.client()
    waiting.writer.write(request)
    await until(lambda: len(served.direct) == 2)
    async with client_of(served.app) as seen:
        before = await metric(seen, "vae_disconnects_total")
        for each in (client, waiting):
            each.writer.close()
        await until(lambda: all(request.left for request in served.direct))
        assert await metric(seen, "vae_disconnects_total") == before + 2
    held.let_go()
    await until(lambda: not served.app.state.budget.reserved)
    assert held.batches == [2, 2], "what waited was not begun"


async def test_a_deadline_is_an_answer(
    served: Served, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = post(
        "/encode", digits[:2].tobytes(), "application/octet-stream", X_Request_Timeout="0.2"
    )
    held, client = await directly_held(served, monkeypatch, request)
    status, headers, body = await client.answer()
    assert status == 504
    problem = json.loads(body)
    assert problem["detail"] == "no answer within the request's 0.2 s"
    assert problem["request_id"] == headers["x-request-id"] == served.direct[0].request_id
    held.let_go()
    assert (await client.ask(request))[0] == 200, "the connection goes on"


async def test_a_pass_that_fails_is_an_answer(
    served: Served, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await served.client()
    assert (await client.ask(score(digits)))[0] == 200

    def fail(*_: object, **__: object) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(engine_of(served.app), "score", fail)
    status, headers, body = await client.ask(score(digits))
    assert (status, len(served.direct)) == (500, 1)
    assert json.loads(body)["request_id"] == headers["x-request-id"]
    monkeypatch.undo()
    assert (await client.ask(score(digits)))[0] == 200
    assert not served.app.state.budget.reserved


async def test_both_ways_are_counted_alike(served: Served, digits: NDArray[np.uint8]) -> None:
    counted = ("vae_requests_total", "vae_scored_images_total", "vae_queue_wait_seconds_count")
    labels = {"vae_requests_total": {"route": "/anomaly-score", "method": "POST", "status": "200"}}
    seconds = ("vae_request_duration_seconds_count", {"route": "/anomaly-score"})
    client = await served.client()
    async with client_of(served.app) as seen:
        for in_two in (False, False, True):
            names = [(name, labels.get(name, {})) for name in counted] + [seconds]
            before = [await metric(seen, name, **of) for name, of in names]
            await client.ask(score(digits, 3), in_two=in_two)
            after = [await metric(seen, name, **of) for name, of in names]
            assert [b - a for a, b in zip(before, after, strict=True)] == [1, 3, 1, 1]
    assert len(served.direct) == 2


async def test_no_answer_lets_a_stopping_service_s_connection_go_on(
    served: Served, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = post("/encode", digits[:2].tobytes(), "application/octet-stream")
    held, client = await directly_held(served, monkeypatch, request)
    served.connections.close_after_answers()
    held.let_go()
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert await client.reader.read() == b""


async def test_heads_are_bounded(served: Served, digits: NDArray[np.uint8]) -> None:
    client = await served.client()
    for i in range(MAX_HEADS + 40):
        client.writer.write(score(digits, User_Agent=str(i)))
        assert (await client.answer())[0] == 200
    assert 0 < len(served.app.direct._heads) <= MAX_HEADS
    served.forget_heads()
    await client.ask(score(digits, User_Agent="x" * 2000))
    await client.ask(score(digits, Traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01"))
    await client.ask(score(digits, X_Request_ID="mine"))
    assert not served.app.direct._heads


KEYS = "keys.txt"


def app_with_keys(directory: Path, *lines: str) -> App:
    file = directory / KEYS
    file.write_text("\n".join(lines))
    return create_app(Settings(threads=1, api_keys_file=str(file)))


async def test_keys_are_checked_each_time(
    digits: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.access.keys.CHECK_INTERVAL_S", 0.0)
    lines = [f"one {digest_of('a' * 40).hex()} rate=3", f"two {digest_of('b' * 40).hex()}"]
    app = app_with_keys(tmp_path, *lines)
    async with Served(app).running() as served:
        client = await served.client()
        limited = score(digits, Authorization=f"Bearer {'a' * 40}")
        answers = [await client.ask(limited) for _ in range(4)]
        assert [status for status, _, _ in answers] == [200, 200, 200, 429]
        assert [a[1]["ratelimit"].split(";")[1] for a in answers] == ["r=2", "r=1", "r=0", "r=0"]
        assert len(served.direct) == 2
        assert list(answers[2][1]) == list(answers[0][1])
        free = score(digits, Authorization=f"Bearer {'b' * 40}")
        assert [(await client.ask(free))[0] for _ in range(3)] == [200] * 3
        assert len(served.direct) == 4
        (tmp_path / KEYS).write_text(lines[0])
        assert (await client.ask(free))[0] == 401
        assert (await client.ask(score(digits)))[0] == 401


async def test_a_body_may_arrive_in_any_pieces(served: Served, digits: NDArray[np.uint8]) -> None:
    request = score(digits, 12)  # larger than one read
    client = await served.client()
    expected = comparable(await client.ask(request))
    rng = np.random.default_rng(0)
    for _ in range(10):
        cuts = sorted(rng.integers(1, len(request), 3).tolist())
        for start, stop in pairwise([0, *cuts, len(request)]):
            client.writer.write(request[start:stop])
            await client.writer.drain()
            await asyncio.sleep(0.002)
        assert comparable(await client.answer()) == expected
    assert len(served.direct) >= 8, "a head in pieces is the parser's"


async def test_a_body_that_does_not_come_is_the_parser_s(
    served: Served, digits: NDArray[np.uint8]
) -> None:
    """A slow one is answered, one that ends is counted, and neither holds any memory."""
    request = score(digits, 2)
    slow, gone = await served.client(), await served.client()
    expected = comparable(await slow.ask(request))
    for client in (slow, gone):
        client.writer.write(request[:-9])
    await until(lambda: served.app.state.budget.reserved > len(request))
    await asyncio.sleep(3 * COLLECT_S)
    slow.writer.write(request[-9:])
    assert comparable(await slow.answer()) == expected
    gone.writer.write(b"x")
    async with client_of(served.app) as seen:
        before = await metric(seen, "vae_disconnects_total")
        gone.writer.close()
        third = await served.client()
        third.writer.write(request[:-1])
        await third.writer.drain()
        await asyncio.sleep(0.02)
        third.writer.close()
        await until(lambda: not served.app.state.budget.reserved)
        await until(lambda: len(served.connections._all) == 1)
        await asyncio.sleep(0.02)
        assert await metric(seen, "vae_disconnects_total") == before + 2
    assert not served.direct


async def test_bytes_behind_a_body_are_the_next_request(
    served: Served, digits: NDArray[np.uint8]
) -> None:
    request = score(digits)
    client = await served.client()
    expected = comparable(await client.ask(request))
    client.writer.write(request + request[:300])
    await client.writer.drain()
    await asyncio.sleep(0.02)
    client.writer.write(request[300:] + request)
    assert [comparable(await client.answer()) for _ in range(3)] == [expected] * 3


@pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n", b"\n\n"])
async def test_only_what_the_parser_would_read_the_same_way_is_known(
    served: Served, digits: NDArray[np.uint8], before: bytes
) -> None:
    request = before + score(digits)
    client = await served.client()
    for _ in range(3):
        assert (await client.ask(request))[0] == 200
    known = [] if before else [request.split(b'{"im')[0]]
    assert list(served.app.direct._heads) == known


async def test_a_deadline_that_has_passed_costs_nothing(
    served: Served, digits: NDArray[np.uint8]
) -> None:
    """It would hold its bytes for ever, and its neighbours in the batch would fail with it."""
    passed = score(digits, X_Request_Timeout="1e-9")
    clients = [await served.client() for _ in range(5)]
    for _ in range(3):
        assert (await clients[0].ask(passed))[0] == 504
    assert not served.app.state.budget.reserved
    usual = score(digits)
    await clients[0].ask(usual)
    for client in clients:
        client.writer.write(usual)
    clients[2].writer.write(passed)
    assert [(await client.answer())[0] for client in clients] == [200] * 5
    assert (await clients[2].answer())[0] == 504
    assert not served.app.state.budget.reserved


async def test_a_reader_that_fails_is_an_answer(
    served: Served, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await served.client()
    await client.ask(score(digits))
    (known,) = served.app.direct._heads.values()
    assert known.plan

    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    broken = known._replace(plan=known.plan._replace(read=fail))
    monkeypatch.setitem(served.app.direct._heads, next(iter(served.app.direct._heads)), broken)
    assert (await client.ask(score(digits)))[0] == 200
    assert not served.direct
    assert not served.app.state.budget.reserved


async def test_a_body_that_arrives_while_another_network_is_loaded(
    served: Served, digits: NDArray[np.uint8]
) -> None:
    client = await served.client()
    request = score(digits)
    await client.ask(request)
    client.writer.write(request[:-1])
    await until(lambda: served.app.state.budget.reserved > 0)
    served.forget_heads()  # as a reload does
    client.writer.write(request[-1:])
    assert (await client.answer())[0] == 200
    assert not served.direct, "what followed from the old head is not used"


async def test_a_stop_while_a_body_arrives_waits_for_it(
    served: Served, digits: NDArray[np.uint8]
) -> None:
    client = await served.client()
    request = score(digits)
    await client.ask(request)
    client.writer.write(request[:-1])
    await until(lambda: served.app.state.budget.reserved > 0)
    (connection,) = served.connections._all
    served.connections.close_after_answers()
    assert isinstance(connection, HttpProtocol)
    connection.shutdown()
    client.writer.write(request[-1:])
    status, headers, _ = await client.answer()
    assert (status, headers["connection"]) == (200, "close")


async def test_time_counts_from_the_end_of_the_head(
    served: Served, digits: NDArray[np.uint8]
) -> None:
    client = await served.client()
    request = score(digits)
    await client.ask(request)
    name, of = "vae_request_duration_seconds_sum", {"route": "/anomaly-score"}
    async with client_of(served.app) as seen:
        before = await metric(seen, name, **of)
        client.writer.write(request[:-1])
        await asyncio.sleep(0.1)
        client.writer.write(request[-1:])
        assert (await client.answer())[0] == 200
        assert await metric(seen, name, **of) - before >= 0.1
    assert served.direct


async def test_both_ways_are_logged_alike(
    served: Served, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[RequestRecord] = []
    monkeypatch.setattr(request_log, "add", logged.append)
    client = await served.client()
    for _ in range(2):
        _, headers, _ = await client.ask(score(digits, 3))
        assert logged[-1].request_id == headers["x-request-id"]
    assert len(served.direct) == 1
    general, direct = (
        record._replace(time=0, request_id="", seconds=0, queue_s=0, infer_s=0) for record in logged
    )
    assert direct == general
    assert (direct.status, direct.images, direct.route) == (200, 3, "/anomaly-score")
    assert all(record.infer_s > 0 and record.seconds > 0 for record in logged)


async def test_strangers_teach_it_nothing(digits: NDArray[np.uint8], tmp_path: Path) -> None:
    app = app_with_keys(tmp_path, f"one {digest_of('a' * 40).hex()}")
    async with Served(app).running() as served:
        client = await served.client()
        for request in (score(digits), score(digits, Authorization=f"Bearer {'x' * 40}")):
            assert (await client.ask(request))[0] == 401
        assert not app.direct._heads
        assert (await client.ask(score(digits, Authorization=f"Bearer {'a' * 40}")))[0] == 200
        assert len(app.direct._heads) == 1
        assert "a" * 40 not in repr(app.direct._heads), "keys are not kept"


async def test_a_request_past_its_deadline_is_not_charged(
    digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    app = app_with_keys(tmp_path, f"one {digest_of('a' * 40).hex()} rate=10")
    async with Served(app).running() as served:
        client = await served.client()
        request = score(digits, Authorization=f"Bearer {'a' * 40}", X_Request_Timeout="1e-9")
        for _ in range(3):
            _, headers, _ = await client.ask(request)
            assert "r=10" in headers["ratelimit"]


async def test_a_service_that_sends_more_headers_sends_them_in_order(
    served: Served, digits: NDArray[np.uint8]
) -> None:
    more = [(b"date", b"today"), (b"server", b"ours")]
    served.state.default_headers = more
    client = await served.client()
    general, direct = [(await client.ask(score(digits)))[1] for _ in range(2)]
    assert list(direct) == list(general)
    assert list(direct)[:2] == ["date", "server"]
    assert served.direct
