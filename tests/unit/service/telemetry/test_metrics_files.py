"""Metrics files of workers: right sums over slots and restarts, even when the disk fails."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.telemetry import metrics_files as shared_counts
from service.telemetry.metrics_files import FILE_BYTES, SharedCounts

HANG_S = 30

WORKER = """
import sys
from pathlib import Path
import numpy
from service.telemetry.metrics import Metrics
from service.telemetry.metrics_files import SharedCounts
SharedCounts(Path(sys.argv[1])).join(int(sys.argv[2]))
metrics = Metrics(bundle="mnist", version=sys.argv[3])
print("ready", flush=True)
for line in sys.stdin:
    answer = eval(line)
    print(repr(answer.decode() if isinstance(answer, bytes) else answer), flush=True)
"""


class Worker:
    """A process that counts, and does what it is told."""

    def __init__(self, counts: SharedCounts, place: int, version: str = "one") -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", WORKER, str(counts.directory), str(place), version],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def do(self, expression: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return eval(self.process.stdout.readline())  # noqa: S307 - repr of our own

    def lines(self) -> set[str]:
        return {line for line in self.do("metrics.render()").splitlines() if line[0] != "#"}

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        self.process.communicate(timeout=HANG_S)


@pytest.fixture
def counts(tmp_path: Path) -> SharedCounts:
    made = SharedCounts(tmp_path)
    made.fill(2)
    return made


@pytest.fixture
def one(counts: SharedCounts) -> Iterator[Worker]:
    worker = Worker(counts, 1)
    yield worker
    worker.end()


def test_each_shows_what_all_have_counted_and_those_that_died(
    counts: SharedCounts, one: Worker
) -> None:
    zero = Worker(counts, 0)
    for worker in (zero, one):
        worker.do("metrics.observe_request('GET', '/sample', 200, 0.5)")
        worker.do("metrics.count_scored(10, 1)")
        worker.do("metrics.p_values.add(numpy.array([0.04, 0.5]))")
        worker.do("metrics.watch_connections(lambda: 4)")
        worker.do("metrics.sample_process()")
        worker.do("metrics.infer.count_failure('encode', 0.5)")
        worker.do("metrics.infer.count_failure('encode', 1.5)")
    last = 'vae_infer_last_request_timestamp_seconds{model="encode"} '
    (ended,) = (line for line in zero.lines() if line.startswith(last))
    assert float(ended.removeprefix(last)) == pytest.approx(time.time(), abs=HANG_S)
    together = {
        'vae_requests_total{method="GET",route="/sample",status="200"} 2.0',
        'vae_request_duration_seconds_sum{route="/sample"} 1.0',
        'vae_request_duration_seconds_count{route="/sample"} 2.0',
        "vae_scored_images_total 20.0",
        "vae_anomalies_total 2.0",
        'vae_p_value_bucket{le="0.05"} 2.0',
        "vae_p_value_sum 1.08",
        "vae_p_value_count 4.0",
        'vae_infer_requests_total{model="encode",outcome="fail"} 4.0',
        'vae_infer_seconds_total{model="encode",stage="fail"} 4.0',
        "vae_connections 8.0",
        'vae_model_info{bundle="mnist",version="one"} 1.0',
    }
    assert together <= zero.lines()
    assert together <= one.lines()
    zero.kill()
    counts.forget(0)
    lasting = together - {"vae_connections 8.0"} | {"vae_connections 4.0"}
    assert lasting <= one.lines(), "counters stay, gauges go"
    zero = Worker(counts, 0)
    assert lasting <= zero.lines(), "with no connection of its own"
    zero.do("metrics.count_scored(10, 0)")
    assert "vae_scored_images_total 30.0" in one.lines()
    one.kill()
    counts.forget(1)
    assert any(line.startswith(last) for line in zero.lines()), "nobody who counted it is left"
    zero.end()


def test_a_model_that_no_worker_has_any_more_is_not_named(
    counts: SharedCounts, one: Worker
) -> None:
    zero = Worker(counts, 0)

    def versions() -> list[str]:
        return sorted(
            line.split("version=")[1] for line in zero.lines() if line.startswith("vae_model_info")
        )

    assert versions() == ['"one"} 1.0']
    zero.do("metrics.set_model('mnist', 'two')")
    assert versions() == ['"one"} 1.0', '"two"} 1.0'], "the other still has it"
    one.do("metrics.set_model('mnist', 'two')")
    assert versions() == ['"two"} 1.0']
    one.kill()
    counts.forget(1)
    fresh = Worker(counts, 1, version="three")
    assert versions() == ['"three"} 1.0', '"two"} 1.0']
    zero.do("metrics.set_model('mnist', 'three')")
    assert versions() == ['"three"} 1.0']
    fresh.end()
    zero.end()


def test_files_have_no_holes_and_do_not_grow(counts: SharedCounts, one: Worker) -> None:
    """A write into a hole ends the process when the disk is full."""
    statuses = [200, *range(400, 418), 422, 429, 499, 500, 503, 504]
    one.do(
        f"[metrics.observe_request(method, f'/v2/models/{{{{name}}}}/versions/{{i}}', status, 0.1)"
        f" for method in ('GET', 'POST') for i in range(20) for status in {statuses}]"
    )
    one.do(
        "[metrics.observe_request(method, 'none', status, 0.1) for status in (400, 404, 405, 499)"
        " for method in ('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'other')]"
    )
    one.do("[metrics.set_model('mnist', f'{i:012d}') for i in range(1000)]")
    files = sorted(counts.directory.iterdir())
    assert len(files) == 10
    for file in files:
        status = file.stat()
        assert status.st_size == FILE_BYTES
        assert status.st_blocks * 512 >= FILE_BYTES


def test_a_worker_without_its_files_counts_alone(counts: SharedCounts) -> None:
    for file in counts.directory.iterdir():
        file.unlink()
    counts.forget(0)
    alone = Worker(counts, 0)
    alone.do("metrics.count_scored(10, 0)")
    assert "vae_scored_images_total 10.0" in alone.lines()
    assert list(counts.directory.iterdir()) == []
    alone.end()


@pytest.mark.parametrize("directory_too", [False, True])
def test_files_that_go_later_leave_each_its_own(
    counts: SharedCounts, one: Worker, directory_too: bool
) -> None:
    one.do("metrics.count_scored(10, 0)")
    for file in counts.directory.iterdir():
        file.unlink()
    if directory_too:
        counts.directory.rmdir()
    one.do("metrics.count_scored(10, 0)")
    assert "vae_scored_images_total 20.0" in one.lines()


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    """Memory, and the temporary directory."""
    memory, temporary = tmp_path / "memory", tmp_path / "temporary"
    for path in (memory, temporary):
        path.mkdir()
    monkeypatch.setattr(shared_counts, "IN_MEMORY", memory)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return memory, temporary


def test_they_are_in_memory_and_gone_afterwards(places: tuple[Path, Path]) -> None:
    memory, temporary = places
    with shared_counts.shared_counts(3) as counts:
        assert counts is not None
        assert counts.directory.parent == memory
        assert len(list(counts.directory.iterdir())) == 15
        assert counts.directory.stat().st_mode & 0o077 == 0
    assert list(memory.iterdir()) == list(temporary.iterdir()) == []


def test_without_memory_they_are_in_the_temporary_directory(places: tuple[Path, Path]) -> None:
    memory, temporary = places
    memory.rmdir()
    with shared_counts.shared_counts(2) as counts:
        assert counts is not None
        assert counts.directory.parent == temporary
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("room", [0, 1, 5])
def test_a_full_one_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    places: tuple[Path, Path],
    room: int,
) -> None:
    write = Path.write_bytes

    def write_while_there_is_room(path: Path, data: bytes) -> int:
        nonlocal room
        if not room:
            write(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room -= 1
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_while_there_is_room)
    with caplog.at_level(logging.WARNING), shared_counts.shared_counts(2) as counts:
        assert counts is None
    (line,) = caplog.messages
    assert "each worker counts on its own" in line
    assert "No space left on device" in line
    assert [list(place.iterdir()) for place in places] == [[], []]


def test_nowhere_to_put_them_is_no_reason_to_stop(
    caplog: pytest.LogCaptureFixture, places: tuple[Path, Path]
) -> None:
    for place in places:
        place.rmdir()
    with caplog.at_level(logging.WARNING), shared_counts.shared_counts(2) as counts:
        assert counts is None
    assert len(caplog.messages) == 1
