"""Where the time of one request goes: a row a stage, which add up to what the caller waits.

`python -m benchmarks.profile` serves in this process, from a thread, and asks from another process,
one request at a time over one connection. What marks the stages are the calls between the service's
own parts: each notes the time as it begins or ends, 0.1 µs a mark. Both processes have one clock
(CLOCK_MONOTONIC). Medians over the requests, so that the sum of the rows may differ from the total
by a little.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any, Final

import uvicorn

from benchmarks.peers.common import HOST
from benchmarks.peers.sample import sample_images
from benchmarks.peers.table import SERVERS, Request
from benchmarks.workloads import BULK, own_workloads
from service.api import images as routes
from service.app import create_app
from service.codecs import registry as media
from service.http.lifecycle import RequestLifecycle
from service.inference.admission import Inference
from service.inference.batching import MicroBatcher
from service.server.http_protocol import Protocol
from service.settings import Settings

REQUESTS: Final = 2000
WARM_UP: Final = 300

STAGES: Final = (
    ("sent", "the caller writes, and the kernel wakes the service"),
    ("parsed", "uvicorn reads the socket, parses HTTP, and begins a task"),
    ("begun", "context, route and query"),
    ("body", "the body's bytes"),
    ("pixels", "bytes to pixels"),
    ("queued", "into the queue, and the batch begins"),
    ("computed", "network, score and p-values"),
    ("resumed", "back to the request"),
    ("answered", "verdict, answer and headers, written; the kernel wakes the caller, who reads"),
)
"""What each mark ends, in the order of a request; the first begins and the last ends by the
caller's clock."""

END: Final = "end"
"""Of a request's marks."""


class Marks:
    """Times of the request that is being served, by the names in `STAGES`."""

    def __init__(self) -> None:
        self.of_each: list[dict[str, float]] = []
        self._now: dict[str, float] = {}

    def begin(self, name: str) -> None:
        """Note the time, if it is the first so far: a large body comes in several pieces."""
        self._now.setdefault(name, perf_counter())

    def end(self, name: str) -> None:
        """Note the time: the last counts, as a large request is computed in several batches."""
        if name == END:
            self.of_each.append(self._now)
            self._now = {}
        else:
            self._now[name] = perf_counter()

    def around(self, owner: Any, name: str, before: str = "", after: str = "") -> None:
        """Mark as `owner.name` is called, and as it returns."""
        inner = getattr(owner, name)

        def marked(*args: Any, **options: Any) -> Any:
            if before:
                self.begin(before)
            result = inner(*args, **options)
            if after:
                self.end(after)
            return result

        async def marked_later(*args: Any, **options: Any) -> Any:
            if before:
                self.begin(before)
            result = await inner(*args, **options)
            if after:
                self.end(after)
            return result

        setattr(owner, name, marked_later if asyncio.iscoroutinefunction(inner) else marked)


def instrument(marks: Marks) -> None:
    """Put the marks where one part calls the next."""
    marks.around(Protocol, "data_received", before="sent")
    marks.around(RequestLifecycle, "serve", before="parsed")
    marks.around(routes, "read_body", before="begun", after="body")
    marks.around(media, "read_images", after="pixels")
    marks.around(Inference, "_score_and_compare", before="queued", after="computed")
    marks.around(MicroBatcher, "submit", after="resumed")
    marks.around(RequestLifecycle, "_end", after=END)


def ask(request: Request, port: int, told: Connection) -> None:
    """Send a request again and again, and tell when each was begun and answered."""
    path, headers, data = request
    connection = HTTPConnection(HOST, port)
    times = []
    for _ in range(WARM_UP + REQUESTS):
        began = perf_counter()
        connection.request("POST", path, data, dict(headers))
        answer = connection.getresponse()
        answer.read()
        times.append((began, perf_counter()))
        if answer.status != 200:
            raise SystemExit(f"{path} is answered with {answer.status}")
    told.send(times)


def times_of(request: Request, port: int) -> Sequence[tuple[float, float]]:
    """When the caller, in a process of its own, began each request and had its answer."""
    spawn = get_context("spawn")
    told, theirs = spawn.Pipe(duplex=False)
    caller = spawn.Process(target=ask, args=(request, port, theirs))
    caller.start()
    theirs.close()
    times: Sequence[tuple[float, float]] = told.recv()
    caller.join()
    return times


def stages(
    times: Sequence[tuple[float, float]], marks: Sequence[Mapping[str, float]]
) -> list[float]:
    """Median µs of each stage, and of the whole."""
    rows = []
    for (began, answered), marked in zip(times, marks, strict=True):
        at = [began, *(marked[name] for name, _ in STAGES[:-1]), answered]
        rows.append([*(later - sooner for sooner, later in pairwise(at)), answered - began])
    return [statistics.median(column) * 1e6 for column in zip(*rows[WARM_UP:], strict=True)]


def table(found: Mapping[str, Sequence[float]]) -> str:
    """A column a request."""
    lines = [
        f"| µs, one connection | {' | '.join(found)} |",
        "| --- " + "| ---: " * len(found) + "|",
    ]
    names = [what for _, what in STAGES]
    for row, name in enumerate([*names, "**as the caller sees it**"]):
        lines.append(f"| {name} | {' | '.join(f'{of[row]:.1f}' for of in found.values())} |")
    sums = " | ".join(f"{sum(of[:-1]):.1f}" for of in found.values())
    return "\n".join([*lines, f"| the rows' sum | {sums} |"]) + "\n"


def main() -> None:
    """Serve, ask, and print the table."""
    images = sample_images()
    works = {
        "1 image, JSON": SERVERS["ours"].request(images[:1]),
        "64 images, JSON": SERVERS["ours"].request(images),
        BULK: next(work for work in own_workloads() if work.name == BULK).request,
    }
    marks = Marks()
    instrument(marks)
    app = create_app(Settings(device="cpu", threads=1, log_level="warning"))
    # As `service.server.server` has it, but in a thread.
    config = uvicorn.Config(
        app, host=HOST, port=0, log_config=None, access_log=False, server_header=False,
        http=Protocol, ws="none",
    )  # fmt: skip
    server = uvicorn.Server(config)
    served = threading.Thread(target=server.run)
    served.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    found = {}
    try:
        for name, request in works.items():
            marks.of_each.clear()
            times = times_of(request, port)
            found[name] = stages(times, marks.of_each)
    finally:
        server.should_exit = True
        served.join()
    print(table(found))


if __name__ == "__main__":
    main()
