"""Damaged requests and garbage, sent to the running service over real sockets.

`python -m benchmarks.reliability.fuzz --inputs 100000 --seed 1` starts the service and sends this
many inputs: damaged bodies of every type, on every route that takes a body, with odd queries and
headers, and bytes that are not HTTP. The service must answer each input in time with 2xx, 4xx, 503
or 504, stay alive, and not grow in memory. Input i of a seed is the same in each run. An input with
any other outcome is written to a file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from socket import SHUT_WR, create_connection, socket
from typing import Any, Final, NamedTuple

from benchmarks.reliability.harness import service
from benchmarks.reliability.mutation import (
    Seed,
    image_seeds,
    infer_seeds,
    latent_seeds,
    mutate,
    packed,
)
from benchmarks.reliability.running import Running

CONNECTIONS: Final = 4
WARM_UP_INPUTS: Final = 3_000
ANSWER_TIMEOUT_S: Final = 10
SILENCE_S: Final = 0.005
"""The service may wait for the rest of an incomplete request. After this time we stop sending, and
it must close the connection."""

STATUS: Final = re.compile(rb"^HTTP/1\.1 (\d{3}) ", re.MULTILINE)

MAX_FAILURES: Final = 20
MAX_GROWTH_MIB: Final = 50

IMAGE_ROUTES: Final = ("/encode", "/reconstruct", "/anomaly-score")
MODELS: Final = ("encode", "decode", "reconstruct", "anomaly-score")
QUERIES: Final = (
    *(b"", b"", b"", b"", b"", b"", b"?alpha=0.5", b"?alpha=nan", b"?alpha=1e-400", b"?alpha="),
    *(b"?sample=true&seed=7", b"?seed=-1", b"?seed=99999999999999999999", b"?sample=maybe"),
    *(b"?score=mse", b"?score=iwae&samples=2&seed=1", b"?score=%00", b"?samples=1000000"),
    *(b"?map=true", b"?map=true&scale=8", b"?scale=0", b"?scale=999999999", b"?fdr=bh", b"?fdr=x"),
    *(b"?dtype=uint8", b"?dtype=float32", b"?dtype=object", b"?resize=false", b"?invert=true"),
    *(b"?x=1", b"?%", b"?%ff=%fe", b"?a&b&&=", b"?alpha=0.1&alpha=0.2", b"?" + b"a=1&" * 500),
)
ACCEPTS: Final = (
    *(
        b"",
        b"",
        b"",
        b"",
        b"",
        b"",
        b"",
        b"",
        b"",
        b"*/*",
        b"image/png",
        b"application/x-npy",
        b"application/octet-stream",
    ),
    *(b"application/json;q=0", b"text/html", b";;;,,,q=", b"image/*;q=nan", b"\xff", b"a/b," * 500),
)
ODD_HEADERS: Final = (
    *(b"" for _ in range(30)),
    *(b"Content-Encoding: br\r\n", b"Content-Encoding: gzip\r\n"),
    *(b"X-Request-Timeout: 0.00001\r\n", b"X-Request-Timeout: nan\r\n", b"X-Request-ID: \xff\r\n"),
    *(b"X-Request-Timeout: -1\r\n", b"X-Request-ID: " + b"a" * 500 + b"\r\n", b"Expect: x\r\n"),
    *(b"Expect: 100-continue\r\n", b"Inference-Header-Content-Length: 99999999999\r\n"),
    *(b"Inference-Header-Content-Length: -1\r\n", b"traceparent: 00-0-0-0\r\n", b"a:\r\n"),
    *(b"Accept-Encoding: gzip, br;q=x\r\n", b"Connection: close\r\n", b"Cookie: a=\x01\r\n"),
)
TYPES: Final = (b"", b"text/plain", b"multipart/form-data", b"image/png; charset=\xff", b"a" * 300)

GARBAGE: Final = (
    *(b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"\0" * 64, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
    *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /livez HTTP/1.1\r\n"),
    *(b"POST /encode HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"GET  /  HTTP/1.1\r\n\r\n"),
    *(b"POST /encode HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",),
    *(b"POST /encode HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",),
    *(b"POST /encode HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf of it",),
    *(b"POST /encode HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",),
    *(b"POST /encode HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",),
    *(b"POST /encode HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",),
    *(b"POST /encode HTTP/1.1\r\nTransfer-Encoding: gzip, x\r\nContent-Length: 1\r\n\r\n{",),
    *(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 20, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n"),
    *(b"GET /livez HTTP/1.1\r\n" + b"a: b\r\n" * 5_000 + b"\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"),
    *(b"GET /livez HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",),
    *(
        b"POST /decode HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 7\r\n\r\n"
        b'{"n":1}',
        b"POST /decode HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n"
        b'{"n":1}\r\n0\r\nAuthorization: x\r\n\r\n',
        b"GET /livez HTTP/1.1\r\nX: " + b"a" * 300_000,
    ),
    *(
        b"GET http://[::1 HTTP/1.1\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\n\r\n",
    ),
    *(
        b"GET /%00%ff%2e%2e/ HTTP/1.1\r\nHost: \0\r\n\r\n",
        b"\xff" * 100,
        b"HEAD /metrics HTTP/1.0\r\n\r\n",
    ),
)


class Input(NamedTuple):
    """Bytes to send. Garbage needs no answer, but the service must close its connection."""

    data: bytes
    garbage: bool


class NotAnAnswerError(Exception):
    """The service did not send one complete, valid answer."""


@dataclass
class Result:
    """The outcome of a run or of a part of it."""

    statuses: Counter[str] = field(default_factory=Counter)
    worst_s: float = 0.0
    failures: list[str] = field(default_factory=list)


def routes() -> dict[str, list[Seed]]:
    """Valid bodies for each route that takes a body."""
    seeds = {path: image_seeds() for path in IMAGE_ROUTES}
    seeds["/decode"] = latent_seeds()
    for model in MODELS:
        seeds[f"/v2/models/{model}/infer"] = infer_seeds(latents=model == "decode")
    return seeds


@cache
def targets() -> tuple[list[tuple[str, list[Seed]]], list[bytes]]:
    """The routes with their valid bodies, and all valid bodies to splice with."""
    by_path = {path: [*seeds, packed(seeds[0])] for path, seeds in routes().items()}
    bodies = sorted({seed.body for seeds in by_path.values() for seed in seeds})
    return list(by_path.items()), bodies


def make_input(seed: int, index: int) -> Input:
    """Input number `index` of `seed`. It is the same each time."""
    numbers = random.Random(f"{seed} {index}")
    if numbers.random() < 0.05:
        data = numbers.choice(GARBAGE)
        return Input(mutate(numbers, data, list(GARBAGE)) if index % 2 else data, garbage=True)
    paths, bodies = targets()
    path, seeds = numbers.choice(paths)
    sent = numbers.choice(seeds)
    body = sent.body if numbers.random() < 0.05 else mutate(numbers, sent.body, bodies)
    if numbers.random() < 0.1:  # the damage is inside, so it is found after decompression
        sent, body = packed(sent), gzip.compress(body, 1, mtime=0)
    content_type = sent.content_type.encode()
    if numbers.random() < 0.1:
        content_type = numbers.choice(TYPES)
    lines = [
        b"POST " + path.encode() + numbers.choice(QUERIES) + b" HTTP/1.1\r\nHost: a\r\n",
        b"Content-Type: " + content_type + b"\r\n",
        b"Accept: " + accept + b"\r\n" if (accept := numbers.choice(ACCEPTS)) else b"",
        *(f"{name}: {value}\r\n".encode() for name, value in sent.headers),
        numbers.choice(ODD_HEADERS),
    ]
    if numbers.random() < 0.1:
        cut = len(body) // 3
        pieces = [part for part in (body[:cut], body[cut:]) if part]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in pieces)
        return Input(
            b"".join([*lines, b"Transfer-Encoding: chunked\r\n\r\n", chunks, b"0\r\n\r\n"]), False
        )
    return Input(b"".join([*lines, b"Content-Length: %d\r\n\r\n" % len(body), body]), False)


class Connection:
    """A connection that is kept open, and reopened when the service closes it."""

    def __init__(self, live: Running) -> None:
        self._live = live
        self._socket: socket | None = None

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, sent: Input) -> str:
        """Returns the status, or `closed` if garbage got no answer. Raises `NotAnAnswerError`."""
        if sent.garbage:
            return self._send_garbage(sent.data)
        kept = self._socket is not None
        try:
            return self._exchange(sent.data)
        except ConnectionError as error:
            self.close()
            if not kept:
                raise NotAnAnswerError(f"the connection was closed: {error}") from error
        try:  # the service may have closed it after the last answer, before this request
            return self._exchange(sent.data)
        except ConnectionError as error:
            self.close()
            raise NotAnAnswerError(f"the connection was closed: {error}") from error

    def _exchange(self, data: bytes) -> str:
        if self._socket is None:
            self._socket = create_connection((self._live.host, self._live.port), ANSWER_TIMEOUT_S)
        try:
            self._socket.sendall(data)
            status, rest, close = b"100", b"", False
            while status == b"100":
                status, rest, close = self._read_answer(self._socket, rest)
        except TimeoutError as error:
            self.close()
            raise NotAnAnswerError(f"no answer within {ANSWER_TIMEOUT_S} s") from error
        if rest:
            self.close()
            raise NotAnAnswerError(f"the answer is followed by {rest[:100]!r}")
        if close:
            self.close()
        return status.decode()

    def _read_answer(self, connection: socket, data: bytes) -> tuple[bytes, bytes, bool]:
        """Returns the status, the bytes after the answer, and whether it closes the connection."""
        while b"\r\n\r\n" not in data:
            data += _receive(connection)
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        status = lines[0].split(b" ")[1]
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        if status == b"100":
            return status, rest, False
        if headers.get(b"transfer-encoding") == b"chunked":
            while not rest.endswith(b"0\r\n\r\n"):
                rest += _receive(connection)
            return status, b"", headers.get(b"connection") == b"close"
        length = int(headers.get(b"content-length", b"0"))
        while len(rest) < length:
            rest += _receive(connection)
        return status, rest[length:], headers.get(b"connection") == b"close"

    def _send_garbage(self, data: bytes) -> str:
        """Returns the first forbidden status, or else the first one. The connection must end."""
        self.close()
        answers = b""
        where = self._live.host, self._live.port
        with create_connection(where, ANSWER_TIMEOUT_S) as plain, suppress(ConnectionError):
            plain.sendall(data)
            plain.settimeout(SILENCE_S)
            with suppress(TimeoutError):
                while chunk := plain.recv(1 << 20):
                    answers += chunk
            plain.settimeout(ANSWER_TIMEOUT_S)
            plain.shutdown(SHUT_WR)
            while chunk := plain.recv(1 << 20):
                answers += chunk
        if not answers:
            return "closed"
        statuses: list[str] = [status.decode() for status in STATUS.findall(answers)]
        if not answers.startswith(b"HTTP/1.1 ") or not statuses:
            raise NotAnAnswerError(f"the answer begins with {answers[:100]!r}")
        return next((s for s in statuses if not is_allowed(s, garbage=True)), statuses[0])


def _receive(connection: socket) -> bytes:
    data = connection.recv(1 << 20)
    if not data:
        raise ConnectionError("no complete answer")
    return data


def is_allowed(status: str, garbage: bool) -> bool:
    """Whether the service may answer with this status."""
    if status == "closed":
        return garbage
    return status[0] in "24" or status in ("503", "504") or (garbage and status in ("100", "101"))


def send_inputs(live: Running, seed: int, indices: range, result: Result, keep: Path) -> None:
    """Send one connection's share. Record failures in `result`, and their inputs below `keep`."""
    connection = Connection(live)
    for index in indices:
        sent = make_input(seed, index)
        begun = time.perf_counter()
        try:
            status = connection.send(sent)
            wrong = None if is_allowed(status, sent.garbage) else f"answered {status}"
        except (NotAnAnswerError, OSError) as error:
            status, wrong = "failed", str(error) or type(error).__name__
        result.worst_s = max(result.worst_s, time.perf_counter() - begun)
        result.statuses[status] += 1
        if wrong:
            path = keep / f"{seed}-{index}.bin"
            path.write_bytes(sent.data)
            result.failures.append(f"input {index} of seed {seed}: {wrong}; saved as {path}")
            if len(result.failures) >= MAX_FAILURES or not live.is_alive():
                break
    connection.close()


def send_all(live: Running, seed: int, inputs: range, keep: Path) -> Result:
    """Send all inputs over several connections at once."""
    results = [Result() for _ in range(CONNECTIONS)]
    threads = [
        threading.Thread(
            target=send_inputs, args=(live, seed, inputs[part::CONNECTIONS], result, keep)
        )
        for part, result in enumerate(results)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = Result()
    for result in results:
        total.statuses += result.statuses
        total.worst_s = max(total.worst_s, result.worst_s)
        total.failures += result.failures
    return total


def answers_well(live: Running) -> bool:
    """Whether the service is alive and still answers correctly."""
    body = json.dumps({"z": [[0.0] * 10]}).encode()
    request = b"POST /decode HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    if not live.is_alive():
        return False
    connection = create_connection((live.host, live.port), ANSWER_TIMEOUT_S)
    with connection:
        connection.sendall(request + body)
        data = b""
        while not data.endswith(b"}"):
            data += _receive(connection)
    head, _, text = data.partition(b"\r\n\r\n")
    image = json.loads(text)["images"][0]
    return head.startswith(b"HTTP/1.1 200 ") and len(image) == 28 and 0 < max(map(max, image)) <= 1


def fuzz(
    live: Running, *, inputs: int, seed: int, keep: Path, warm_up: int = WARM_UP_INPUTS
) -> dict[str, Any]:
    """Send `warm_up` inputs, then `inputs` more, and return the figures."""
    before = send_all(live, seed, range(warm_up), keep)
    start_mib = live.resident_mib()
    begun = time.perf_counter()
    after = send_all(live, seed, range(warm_up, warm_up + inputs), keep)
    seconds = time.perf_counter() - begun
    failures = before.failures + after.failures
    if not answers_well(live):
        failures.append("at the end the service is dead or answers wrongly")
    end_mib = live.resident_mib() if live.is_alive() else 0.0
    if end_mib - start_mib > MAX_GROWTH_MIB:
        failures.append(f"memory grew from {start_mib:.0f} MiB to {end_mib:.0f} MiB")
    statuses = before.statuses + after.statuses
    return {
        "inputs": statuses.total(),
        "seed": seed,
        "statuses": dict(sorted(statuses.items())),
        "inputs_per_s": round(after.statuses.total() / seconds),
        "resident_mib_start": round(start_mib, 1),
        "resident_mib_end": round(end_mib, 1),
        "worst_s": round(max(before.worst_s, after.worst_s), 3),
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="directory for inputs that fail")
    arguments = parser.parse_args()
    keep = arguments.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    with service() as live:
        figures = fuzz(live, inputs=arguments.inputs, seed=arguments.seed, keep=keep)
    for failure in figures["failures"]:
        print(failure)
    print(json.dumps(figures))
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
