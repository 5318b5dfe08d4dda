"""The parts of the benchmarks that could be wrong unnoticed."""

from __future__ import annotations

import asyncio
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import chart, goals, load, open_loop, report
from benchmarks.engine import flops_an_image, images_per_s
from benchmarks.goals import TWO_WORKERS, at, each
from benchmarks.machine import hardware
from benchmarks.open_loop import Generator, percentile, times
from benchmarks.workloads import BULK, MANY, ONE

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
REQUEST = ("/score", {"Content-Type": "application/json"}, b'{"images": []}')

Answer = Callable[[int], bytes]
"""Gives the answer to the n-th request; an empty one closes the connection."""


@contextmanager
def server(answer: Answer) -> Iterator[int]:
    """A server in a thread that answers requests with the body of `REQUEST`. Yields its port."""
    count = 0

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            nonlocal count
            if not data.endswith(REQUEST[2]):
                return  # the body has not arrived yet
            count += 1
            data = answer(count)
            if data == b"nothing":
                return
            if data:
                self.transport.write(data)
            else:
                self.transport.close()

    loop = asyncio.new_event_loop()
    started = loop.run_until_complete(loop.create_server(Protocol, "127.0.0.1", 0, backlog=256))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield started.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        started.close()
        loop.run_until_complete(asyncio.sleep(0.01))  # for connections that this side closed
        loop.close()


def generator(port: int, connections: int = 8) -> Generator:
    return Generator(port, load.raw_http(port, REQUEST), connections=connections)


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1000, 0, -1)]
    assert percentile(values, 0.5) == 500
    assert percentile(values, 0.99) == 990
    assert percentile(values, 0.999) == 999
    assert percentile([7.0], 0.999) == 7
    assert math.isnan(percentile([], 0.5))


def test_schedules_have_the_requested_rate() -> None:
    assert times("even", 4, 1) == [0, 0.25, 0.5, 0.75]
    due = times("poisson", 1000, 20)
    assert len(due) == 20_000
    assert due == sorted(due) == times("poisson", 1000, 20)
    assert due[-1] == pytest.approx(20, rel=0.05)
    gaps = sorted(after - before for before, after in pairwise(due))
    assert gaps[len(gaps) // 2] == pytest.approx(math.log(2) / 1000, rel=0.05)


@pytest.mark.parametrize("connections", [1, 64])
def test_a_stall_counts_against_every_request_that_was_due_in_it(connections: int) -> None:
    def stall(number: int) -> bytes:
        if number == 50:
            time.sleep(0.2)
        return OK

    with server(stall) as port:
        sender = generator(port, connections)
        sender.run(times("even", 400, 0.75))
        sender.close()
    assert len(sender.latencies) == sender.good == 300
    waited = sum(latency > 0.1 for latency in sender.latencies)
    assert waited >= 35, "40 were due in its first half; a closed loop would have seen one"
    assert max(sender.latencies) >= 0.19


def test_other_answers_and_closed_connections_are_errors_without_latency() -> None:
    answers = [OK, FULL, b""]
    with server(lambda number: answers[number % 3]) as port:
        sender = generator(port)
        sender.run(times("even", 600, 0.1))
        sender.close()
    assert (sender.good, sender.failed) == (20, 40)
    assert sender.statuses == {"200": 20, "503": 20, open_loop.NEVER: 20}
    assert len(sender.latencies) == 20


def test_several_requests_are_sent_in_turn_and_runs_add_up() -> None:
    other = b"GET / HTTP/1.1\r\nX: " + REQUEST[2] + b"\r\n\r\n" + REQUEST[2]
    with server(lambda number: OK if number % 2 else FULL) as port:
        sender = Generator(port, load.raw_http(port, REQUEST), other, connections=1)
        for seconds in (0.1, 0.2):
            sender.run(times("even", 100, seconds))
        sender.close()
    assert sender.statuses == {"200": 15, "503": 15}


def test_requests_without_an_answer_count_with_the_time_they_were_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_loop, "DRAIN_S", 0.2)
    with server(lambda number: b"nothing" if number > 10 else OK) as port:
        figures = open_loop.measure(
            port, load.raw_http(port, REQUEST), rate=200, seconds=0.1, schedule="even"
        )
    assert (figures.requests, figures.errors) == (20, 10)
    assert figures.statuses == {"200": 10, open_loop.NEVER: 10}
    assert figures.p99_ms >= 200


def test_the_open_loop_runs_in_a_process_that_reports_whether_it_kept_up() -> None:
    with server(lambda _: OK) as port:
        figures = load.open_loop(
            port, REQUEST, rate=100, seconds=0.2, schedule="poisson", connections=4
        )
    assert (figures["requests"], figures["errors"]) == (20, 0)
    assert figures["statuses"] == {"200": 20}
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"]
    assert figures["late_p99_ms"] <= figures["late_max_ms"]
    assert isinstance(figures["kept_up"], bool)
    assert 0 < figures["generator_cpu"] < 1.5


def test_without_wrk_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        SystemExit, match=r"^error: wrk is not installed.*apt-get install wrk[^\n]*$"
    ):
        load.wrk()


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_wrk_sends_the_body_and_only_good_answers_count_in_requests_per_s() -> None:
    with server(lambda number: OK if number % 4 else FULL) as port:
        figures = load.closed_loop(port, REQUEST, connections=2, seconds=1)
    good = figures["requests_per_s"] * figures["seconds"]
    assert figures["error_kinds"] == {"status": figures["errors"]}
    assert figures["errors"] == pytest.approx(figures["requests"] / 4, abs=2)
    assert good + figures["errors"] == pytest.approx(figures["requests"])
    assert 0 < figures["p50_ms"] <= figures["p99_ms"] <= figures["p999_ms"] < 1000
    assert 0 < figures["generator_cpu"] < 1.5


def test_flops_count_multiplications_and_additions() -> None:
    assert flops_an_image([(784, 256, 64, 20), (10, 64, 256, 784)]) == 872_192


def test_images_per_s_count_images_not_calls() -> None:
    assert 50 < images_per_s(lambda: time.sleep(0.01), 5, 0.1) <= 500


def closed_figures(
    requests_per_s: float, images: int = 1, p50_ms: float = 1.0, **changed: Any
) -> dict[str, Any]:
    figures = {
        "requests_per_s": requests_per_s,
        "images_per_s": requests_per_s * images,
        "seconds": 2.0,
        "requests": int(2 * requests_per_s),
        "p50_ms": p50_ms,
        "p99_ms": 3 * p50_ms,
        "p999_ms": 4 * p50_ms,
        "errors": 0,
        "cpu": 1.0,
        "cpu_s_per_1000_images": 0.1,
        "generator_cpu": 0.2,
    }
    return figures | changed


def one_image(requests_per_s: float, p50_ms: float = 1.0) -> dict[str, Any]:
    figures = closed_figures(requests_per_s, p50_ms=p50_ms)
    return {ONE: {str(count): figures for count in (1, 8, 32, 128)}}


def sent(rate: float, p99_ms: float) -> dict[str, Any]:
    figures = closed_figures(rate, p99_ms=p99_ms, rate=rate, answered_per_s=rate)
    return figures | {"late_p99_ms": 0.1, "late_max_ms": 0.4, "kept_up": p99_ms < 5}


def a_round(speed: float) -> dict[str, Any]:
    """With two peers: one is faster at 8 connections than at 32, the other fails."""
    life = {"ready_s": 1.5, "ready_MiB": 200.0, "used_MiB": 250.0, "idle_cpu": 0.001}
    many = {MANY: {"8": closed_figures(1000, 64), "32": closed_figures(900, 64)}}
    bulk = {BULK: {"8": closed_figures(400, 256), "32": closed_figures(400, 256)}}
    two = {ONE: {"32": closed_figures(1.7 * speed, cpu=1.7, generator_cpu=0.3)}}
    batches = {"128": {"images_per_s": 2e5, "of_product": 0.9}}
    batches |= {"256": {"images_per_s": 1e5, "of_product": 0.7}}
    return {
        "engine": {
            "flops_an_image": 872_192,
            "product_flops_per_s": {"float32": 1e11, "bfloat16": 3e11},
            "dtypes": {"float32": {"fused": batches, "mse": batches}},
            "bulk_images_per_s": 1e5,
        },
        TWO_WORKERS: {"workloads": two, **life},
        "ours": {
            "workloads": one_image(speed, 1.5) | many | bulk,
            "open_loop": {
                "capacity_per_s": speed,
                "poisson": {"0.8": sent(0.8 * speed, 4.0)},
                "even": {"0.8": sent(0.8 * speed, 6.0)},
            },
            **life,
        },
        "null": {"workloads": one_image(10_000), **life},
        "mlserver": {
            "workloads": {
                **one_image(1000),
                MANY: {
                    "8": closed_figures(200, 64),
                    "32": closed_figures(0, 64, errors=7, cpu_s_per_1000_images=None),
                },
            },
            **life,
        },
        "triton": {"error": "triton cannot be installed: no such version"},
    }


def some_results() -> dict[str, Any]:
    return {
        "command": "make bench",
        "date": "2030-01-01",
        "commit": "0123456789ab",
        "hardware": hardware() | {"cores": 2},
        "versions": {"python": "3.11.7", "servers": {"null": {"fastapi": "0.1"}}},
        "plan": {"rounds": 3, "seconds": 2, "partial": False},
        "rounds": [a_round(speed) for speed in (9000.0, 15_000.0, 12_000.0)],
    }


def test_ratios_are_of_the_same_round_and_rounds_without_a_figure_are_left_out() -> None:
    rounds: list[dict[str, Any]] = [
        {"ours": {"x": 2}, "null": {"x": 1}},
        {"ours": {"x": 9}, "null": {"error": "it fell over"}},
        {"ours": {"x": 9}, "null": {"x": 0}},
        {"ours": {"x": 30}, "null": {"x": 10}},
    ]
    assert each(rounds, goals.ratio(at("ours", "x"), at("null", "x"))) == [2, 3]


def test_goals_are_judged_by_medians() -> None:
    all_goals = goals.goals(some_results())
    by_number = {goal.number: goal for goal in reversed(all_goals)}  # the first of each number
    assert sorted(by_number) == list(range(1, 12))
    assert by_number[1].values == [0.9, 1.5, 1.2]
    assert by_number[1].reached is False
    assert by_number[2].values == [1.5] * 3
    assert by_number[2].reached
    assert by_number[3].reached is None, "Triton failed"
    assert by_number[4].values == [5.0] * 3
    assert by_number[4].reached
    assert list(by_number[5].values) == pytest.approx([1.024] * 3), "against the batch sent"
    assert by_number[6].values == [0.9] * 3
    assert by_number[7].reached is None
    assert by_number[7].note == "2048³ products on the same core: 3.00 ×"
    assert list(by_number[8].values) == pytest.approx([2.0] * 3), "2 × 1.7 / (2 - 0.3)"
    assert by_number[9].values == [4.0] * 3
    assert list(by_number[10].values) == pytest.approx([0.1] * 3)
    evenly = all_goals[-3]
    assert (evenly.number, evenly.reached) == (9, False)
    assert evenly.note == "the generator was late in 3 of 3 rounds"


def test_a_figure_is_shown_with_its_spread() -> None:
    assert report.spread([3.0, 1.0, 2.0], 1, " ×") == "2.0 × (1.0–3.0)"
    assert report.spread([1234.5], 0) == "1,234"
    assert report.spread([]) == "–"


def test_the_report_names_a_peer_that_failed() -> None:
    text = report.markdown(some_results())
    assert "**Triton failed** in round 1, 2, 3: triton cannot be installed: no such version" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert "| ≥ 1.5 × | 1.20 × (0.90–1.50) | **no** |" in text
    assert any("against Triton" in row and "not measured" in row for row in rows)
    assert any(row.startswith("| Triton | – |") for row in rows)
    assert any(row.startswith("| MLServer |") and "21 of 1,200" in row for row in rows)
    for table in text.split("\n\n"):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_the_report_writes_figures_tables_and_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    report.write(some_results())
    report.main([])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "serving.json",
        "serving.md",
        "serving.png",
    ]
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")


def test_a_chart_can_be_drawn_if_every_server_failed(tmp_path: Path) -> None:
    nothing = some_results() | {"rounds": [{"ours": {"error": "no"}, "null": {"error": "no"}}]}
    chart.draw(nothing, tmp_path / "chart.png")
    assert "not measured" in report.markdown(nothing)
