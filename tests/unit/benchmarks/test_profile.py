"""The profile's stages, and that it ends with a message whatever fails."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import profile
from benchmarks.machine import RESULTS
from benchmarks.peers.environment import ROOT
from benchmarks.peers.table import Request
from benchmarks.profile import STAGES, Marks, ProfileError, running, stages, times_of
from benchmarks.servers import free_port
from service.settings import Settings

NAMES = [name for name, _ in STAGES[:-1]]


def marked(*times: float) -> dict[str, float]:
    return dict(zip(NAMES, times, strict=True))


def test_stages_are_between_marks_and_add_up_to_the_total() -> None:
    microseconds = [10, 11, 13, 16, 20, 25]
    marks = [marked(*(us * 1e-6 for us in microseconds))] * 3
    figures = stages([(0.0, 31e-6)] * 3, marks)
    assert figures == pytest.approx([10, 1, 2, 3, 4, 5, 6, 31])


def test_a_mark_that_the_service_no_longer_passes_is_named() -> None:
    marks = marked(*range(1, 7))
    del marks["pixels"]
    with pytest.raises(ProfileError, match="no mark named pixels"):
        stages([(0.0, 9.0)], [marks])


def test_marks_are_set_around_functions_and_coroutines() -> None:
    async def later() -> str:
        return "b"

    owner = SimpleNamespace(now=lambda: "a", later=later, end=lambda: None)
    marks = Marks()
    marks.around(owner, "now", before="first", after="last")
    marks.around(owner, "later", after="later")
    marks.around(owner, "end", after=profile.END)
    assert owner.now() + owner.now() + asyncio.run(owner.later()) == "aab"
    owner.end()
    owner.now()
    owner.end()
    two_calls, one_call = marks.of_each
    assert two_calls["first"] < two_calls["last"] < two_calls["later"] < one_call["first"]
    assert set(one_call) == {"first", "last"}


def breaks(settings: Settings, listener: socket.socket, pipe: Connection, log_path: str) -> None:
    Path(log_path).write_text("error: no network of that name\n")
    raise SystemExit(2)


def test_a_service_that_does_not_start_ends_the_profile() -> None:
    match = "does not start, its process ended: error: no network of that name"
    with pytest.raises(ProfileError, match=match), running(breaks):
        pass


def refuses(settings: Settings, listener: socket.socket, pipe: Connection, log_path: str) -> None:
    pipe.send(None)
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull")


def test_another_answer_or_none_ends_the_profile() -> None:
    request: Request = ("/anomaly-score", {}, b"{}")
    refused = "/anomaly-score is answered with 503: b'full'"
    with pytest.raises(ProfileError, match=refused), running(refuses) as service:
        times_of(request, service.port, 3)
    with pytest.raises(ProfileError, match="is not answered: ConnectionRefusedError"):
        times_of(request, free_port(), 3)


def test_the_profile_runs_and_its_stages_add_up() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.profile", "--requests", "40"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    *rows, totals, sums = cells_of(done.stdout)
    assert len(rows) == len(STAGES)
    for column in range(1, 4):
        times = [float(row[column]) for row in rows]
        total, shown_sum = float(totals[column]), float(sums[column])
        assert min(times) > 0, "else a stage ends before it begins"
        assert shown_sum == pytest.approx(sum(times), abs=0.5)
        assert shown_sum == pytest.approx(total, rel=0.4), "medians add up but for noise"


def test_the_committed_profile_has_the_stages_of_the_code() -> None:
    names = [row[0] for row in cells_of((RESULTS / "profile.md").read_text())]
    figures = {"one": [1.0] * 8}
    assert names == [row[0] for row in cells_of(profile.markdown(figures, 10))]


def cells_of(text: str) -> list[list[str]]:
    """The table's rows without its heading."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
