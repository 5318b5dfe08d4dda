"""A small budget of `make fuzz` over sockets, and that it would notice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from socket import create_server
from typing import Final

import pytest

from benchmarks.reliability.fuzz import (
    MAX_GROWTH_MIB,
    Result,
    fuzz,
    is_allowed,
    make_input,
    routes,
    send_inputs,
)
from benchmarks.reliability.harness import service
from benchmarks.reliability.running import Running

INPUTS: Final = 6_000
WARM_UP: Final = 3_000


@pytest.mark.slow
def test_damaged_requests_and_garbage_are_answered(tmp_path: Path) -> None:
    with service() as live:
        found = fuzz(live, inputs=INPUTS, seed=1, keep=tmp_path, warm_up=WARM_UP)
    assert not found["failures"]
    assert found["inputs"] == INPUTS + WARM_UP
    assert 0 < found["resident_mib_end"] < found["resident_mib_start"] + MAX_GROWTH_MIB
    assert {"200", "400", "406", "413", "415", "422", "closed"} <= found["statuses"].keys()


def test_each_good_body_is_answered_200() -> None:
    """So that damage begins where the readers are, and not before."""
    with service() as live, live.client() as client:
        for path, seeds in routes().items():
            for seed in seeds:
                headers = {"Content-Type": seed.content_type, **dict(seed.headers)}
                answer = client.post(path, content=seed.body, headers=headers)
                assert answer.status_code == 200, (path, seed.content_type, answer.text)


def test_an_input_is_the_same_in_each_run() -> None:
    assert [make_input(1, i) for i in range(50)] == [make_input(1, i) for i in range(50)]
    assert make_input(1, 0) != make_input(2, 0)


@pytest.mark.parametrize(
    ("status", "of_a_request", "of_garbage"),
    [
        ("200", True, True),
        ("422", True, True),
        ("500", False, False),
        ("501", False, False),
        ("503", True, True),
        ("504", True, True),
        ("302", False, False),
        ("closed", False, True),
    ],
)
def test_allowed_statuses(status: str, of_a_request: bool, of_garbage: bool) -> None:
    assert is_allowed(status, garbage=False) is of_a_request
    assert is_allowed(status, garbage=True) is of_garbage


@contextmanager
def answering(answer: bytes) -> Iterator[Running]:
    """What answers everything so, and closes."""
    with closing(create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 20)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Running("127.0.0.1", listener.getsockname()[1], pid=1)
        listener.shutdown(2)
    thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 500 a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 200 a\r\ncontent-length: 9\r\n\r\nhalf", "closed"),
        (b"HTTP/1.1 200 a\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200", "is followed by"),
        (b"", "closed"),
    ],
)
def test_a_wrong_answer_is_a_finding(answer: bytes, reason: str, tmp_path: Path) -> None:
    index = next(i for i in range(100) if not make_input(1, i).garbage)
    result = Result()
    with answering(answer) as live:
        send_inputs(live, 1, range(index, index + 1), result, tmp_path)
    assert len(result.failures) == 1
    assert reason in result.failures[0]
    assert (tmp_path / f"1-{index}.bin").read_bytes() == make_input(1, index).data
