"""Where the time of one request goes: a row for each stage, which add up to what the client waits.

::

    python -m benchmarks.profile >benchmarks/results/profile.md

The requests are direct ones (`service.http.direct`), except for the first of each kind. The service
runs in a process of its own, started by the same `serve` as `python -m service`. This
process sends requests one at a time over one connection. A stage ends where one part of the service
calls the next: each such call notes the time, which costs 0.1 µs. Both processes read the same
clock (CLOCK_MONOTONIC). Figures are medians over the requests, so their sum differs a little from
the median of the totals.
"""

from __future__ import annotations

import argparse
import inspect
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from benchmarks.machine import commit, cpu_model
from benchmarks.peers.common import HOST
from benchmarks.peers.environment import last_lines
from benchmarks.peers.sample import IMAGES, sample_images
from benchmarks.peers.table import SERVERS, Request
from benchmarks.workloads import BULK, MANY, ONE, own_workloads
from service.settings import Settings

REQUESTS: Final = 2000
WARM_UP: Final = 300
"""Requests at first that do not count; as many as `--requests` where those are fewer."""

START_S: Final = 60.0
"""From the start of the service until it takes requests."""

ANSWER_S: Final = 30.0
"""For one answer, and for the service to stop."""

BACKLOG: Final = 16

STAGES: Final = (
    ("sent", "the client writes, and the kernel wakes the service"),
    ("parsed", "the socket is read, the head recognized and the body collected"),
    ("pixels", "bytes to pixels"),
    ("queued", "context, authorization, and into the queue, until the batch begins"),
    ("computed", "network, score and p-values"),
    ("resumed", "back to the request"),
    ("answered", "verdict, answer and headers are written, and the kernel wakes the client"),
)
"""The mark that ends each stage, in the order of a request. The first stage begins, and the last
one ends, by the client's clock."""

END: Final = "end"
"""The mark that ends a request in the service."""


class ProfileError(Exception):
    """The service cannot be profiled. One line says why."""


class Marks:
    """The times at which each request passed the marks in `STAGES`."""

    def __init__(self) -> None:
        self.of_each: list[dict[str, float]] = []
        self._current: dict[str, float] = {}

    def first(self, name: str) -> None:
        """Note the time unless it is noted: a large body arrives in several pieces."""
        self._current.setdefault(name, perf_counter())

    def last(self, name: str) -> None:
        """Note the time, replacing an earlier one: a large request runs in several batches."""
        if name == END:
            self.of_each.append(self._current)
            self._current = {}
        else:
            self._current[name] = perf_counter()

    def around(self, owner: Any, name: str, before: str = "", after: str = "") -> None:
        """Set a mark whenever `owner.name` is called, and another when it returns."""
        inner = getattr(owner, name)

        def marked(*args: Any, **options: Any) -> Any:
            if before:
                self.first(before)
            result = inner(*args, **options)
            if after:
                self.last(after)
            return result

        async def marked_coroutine(*args: Any, **options: Any) -> Any:
            if before:
                self.first(before)
            result = await inner(*args, **options)
            if after:
                self.last(after)
            return result

        setattr(owner, name, marked_coroutine if inspect.iscoroutinefunction(inner) else marked)


def instrument(marks: Marks) -> None:
    """Set marks where one part of the service calls the next."""
    from service.http import direct
    from service.http.direct import DirectRequest, DirectRequests
    from service.http.lifecycle import RequestLifecycle
    from service.inference.admission import Inference
    from service.server.http_protocol import HttpProtocol

    marks.around(HttpProtocol, "data_received", before="sent")
    marks.around(DirectRequests, "begin", before="parsed")
    marks.around(direct, "new_id", before="pixels")  # what comes after the pixels are read
    marks.around(Inference, "_score_with_p_values", before="queued", after="computed")
    marks.around(DirectRequest, "on_result", before="resumed")
    marks.around(RequestLifecycle, "end", after=END)


def serve_marked(
    settings: Settings, listener: socket.socket, pipe: Connection, log_path: str
) -> None:
    """The service's process: says when it is ready, and sends all marks when it has stopped."""
    from service.server.server import serve
    from service.telemetry.request_log import set_up_logging

    with open(log_path, "wb") as log:  # noqa: PTH123 - for its descriptor
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    marks = Marks()
    instrument(marks)
    set_up_logging(settings.log_level, settings.log_format)
    try:
        serve(settings, listener, lambda: pipe.send(None))
    finally:
        pipe.send(marks.of_each)


@dataclass(frozen=True)
class Service:
    """The service that is profiled. `stop` returns the marks of all requests, in their order."""

    port: int
    stop: Callable[[], Sequence[Mapping[str, float]]]


@contextmanager
def running(serve: Callable[..., None] = serve_marked) -> Iterator[Service]:
    """Run the service in a process of its own, which is ended in any case.

    Raises `ProfileError` with the end of its log if it does not get ready, or does not stop.
    """
    spawn = get_context("spawn")
    pipe, child_end = spawn.Pipe()
    settings = Settings(device="cpu", threads=1)
    with (
        tempfile.TemporaryDirectory(prefix="vae-profile-") as scratch,
        socket.create_server((HOST, 0), backlog=BACKLOG) as listener,
    ):
        log = Path(scratch, "log.txt")
        process = spawn.Process(target=serve, args=(settings, listener, child_end, str(log)))
        process.start()
        try:
            child_end.close()  # so that the end of the process is the end of the pipe
            _receive(pipe, START_S, log, "does not start")

            def stop() -> Sequence[Mapping[str, float]]:
                process.terminate()
                marks: Sequence[Mapping[str, float]] = _receive(pipe, ANSWER_S, log, "did not stop")
                return marks

            yield Service(listener.getsockname()[1], stop)
        finally:
            _end(process)


def _receive(pipe: Connection, timeout_s: float, log: Path, what: str) -> Any:
    """What the service says next."""
    try:
        if pipe.poll(timeout_s):
            return pipe.recv()
        reason = f"no word within {timeout_s:.0f} s"
    except (EOFError, OSError):
        reason = "its process ended"
    text = log.read_text(errors="replace") if log.exists() else ""
    raise ProfileError(f"the service {what}, {reason}: {last_lines(text, 2)}")


def _end(process: BaseProcess) -> None:
    process.terminate()
    process.join(ANSWER_S)
    if process.is_alive():
        process.kill()
        process.join()


def times_of(request: Request, port: int, count: int) -> list[tuple[float, float]]:
    """When each of `count` requests was begun, and when its answer was there.

    Raises `ProfileError` if one is not answered with 200.
    """
    path, headers, data = request
    connection = HTTPConnection(HOST, port, timeout=ANSWER_S)
    times = []
    try:
        for _ in range(count):
            began = perf_counter()
            connection.request("POST", path, data, dict(headers))
            response = connection.getresponse()
            text = response.read()
            times.append((began, perf_counter()))
            if response.status != 200:
                raise ProfileError(f"{path} is answered with {response.status}: {text[:200]!r}")
    except (OSError, HTTPException) as error:
        raise ProfileError(f"{path} is not answered: {type(error).__name__} {error}") from error
    finally:
        connection.close()
    return times


def stages(
    times: Sequence[tuple[float, float]], marks: Sequence[Mapping[str, float]]
) -> list[float]:
    """Median µs of each stage, and of the total. Raises `ProfileError` if a mark is missing."""
    rows = []
    for (began, answered), marked in zip(times, marks, strict=True):
        if missing := [name for name, _ in STAGES[:-1] if name not in marked]:
            raise ProfileError(
                f"a request passed no mark named {', '.join(missing)}: the service no longer makes "
                "the calls that benchmarks.profile.instrument marks"
            )
        at = [began, *(marked[name] for name, _ in STAGES[:-1]), answered]
        rows.append([*(later - sooner for sooner, later in pairwise(at)), answered - began])
    return [statistics.median(column) * 1e6 for column in zip(*rows, strict=True)]


def measure(requests: int) -> dict[str, list[float]]:
    """`stages` of each workload, of `requests` requests after those that warm up."""
    ours = SERVERS["ours"]
    workloads = {
        ONE: ours.request(sample_images()[:1]),
        MANY: ours.request(sample_images()[:IMAGES]),
        BULK: next(workload for workload in own_workloads() if workload.name == BULK).request,
    }
    count = requests + min(WARM_UP, requests)
    with running() as service:
        times = {
            name: times_of(request, service.port, count) for name, request in workloads.items()
        }
        marks = service.stop()
    if len(marks) != count * len(workloads):
        raise ProfileError(f"{count * len(workloads)} requests were sent, {len(marks)} were marked")
    return {
        name: stages(
            times[name][-requests:], marks[number * count : (number + 1) * count][-requests:]
        )
        for number, name in enumerate(workloads)
    }


def table(figures: Mapping[str, Sequence[float]]) -> str:
    """Markdown, with a column for each workload."""
    lines = [
        f"| µs, one connection | {' | '.join(figures)} |",
        "| --- " + "| ---: " * len(figures) + "|",
    ]
    for row, name in enumerate([*(what for _, what in STAGES), "**total, as the client sees it**"]):
        cells = " | ".join(f"{column[row]:.1f}" for column in figures.values())
        lines.append(f"| {name} | {cells} |")
    sums = " | ".join(f"{sum(column[:-1]):.1f}" for column in figures.values())
    return "\n".join([*lines, f"| sum of the rows | {sums} |"]) + "\n"


def markdown(figures: Mapping[str, Sequence[float]], requests: int) -> str:
    """All of benchmarks/results/profile.md."""
    return (
        "# Where the time of one request goes\n\n"
        f"`python -m benchmarks.profile`, commit {commit()}, {cpu_model()}: µs, medians of "
        f"{requests:,} requests,\n"
        "one after another over one connection of Python's http.client.\n\n"
        f"{table(figures)}"
    )


def main() -> int:
    """Profile the service, and print benchmarks/results/profile.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=main.__doc__)
    parser.add_argument(
        "--requests", type=int, default=REQUESTS, help=f"of each workload; {REQUESTS} by default"
    )
    requests = parser.parse_args().requests
    if requests < 1:
        parser.error(f"--requests is {requests}: at least 1 is needed")
    try:
        print(markdown(measure(requests), requests), end="")
    except ProfileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
