"""The short version of each script. Counts and statuses must be right even on a busy machine.

Ratios of latencies and the like are for `make soak`: the words of those are given to `kept`, and
where something can be said of them in seconds on any machine, it is said here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.reliability import (
    deadlines,
    disconnects,
    fairness,
    faults,
    overload,
    reload,
    slow_clients,
    soak,
    stall,
    stops,
    workers,
)
from benchmarks.reliability.harness import Figures, broken

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (Path("/proc/self/stat").exists() and hasattr(os, "sched_setaffinity")),
        reason="processes are pinned and looked up as Linux has it",
    ),
]


def kept(figures: Figures, *loose: str) -> bool:
    """Whether all promises are, but for those that have one of the loose words."""
    left = [
        promise for promise in broken(figures) if not any(word in promise["what"] for word in loose)
    ]
    assert not left, figures
    return bool(figures["promises"])


def test_overload() -> None:
    found = overload.measure(short=True)
    assert kept(found, "goodput", "p99", "median")
    assert found["statuses"]["503"] > found["statuses"]["200"] > 0
    assert found["refusals"] > 20
    assert found["refusal_p50_ms"] < 100
    assert found["after_ms"] < 100


def test_deadlines() -> None:
    found = deadlines.measure(short=True)
    assert kept(found, "past the deadline")
    assert found["least_ms"] > -5
    assert found["late_max_ms"] < 1000


def test_disconnects() -> None:
    assert kept(disconnects.measure(short=True), "empty queue")


def test_fairness() -> None:
    found = fairness.measure(short=True)
    assert kept(found, "relative to unloaded")
    for name in fairness.STREAMS:
        assert found[name]["large_requests"] > 0
        assert found[name]["one_image_requests"] > 10
        assert found[name]["beside_p50_ms"] < 50


def test_slow_clients() -> None:
    assert kept(slow_clients.measure(short=True), "p99 of others")


def test_workers() -> None:
    found = workers.measure(short=True)
    assert kept(found, "until another worker answers")
    assert found["answered"] > 100
    assert all(kill["ready_s"] < workers.WAIT_S for kill in found["kills"])


def test_stops() -> None:
    found = stops.measure(short=True)
    assert kept(found, "SIGTERM to /readyz", "second signal")
    assert found["answered_after_the_signal"] > 0
    assert max(found["second_signal_s"].values()) < 5


def test_reload() -> None:
    found = reload.measure(short=True)
    assert kept(found)
    for of_workers in ("1 workers", "2 workers"):
        assert min(found[of_workers]["seen"].values()) > 10


def test_faults() -> None:
    assert kept(faults.measure(short=True))


def test_stall() -> None:
    assert kept(stall.measure(short=True))


def test_soak() -> None:
    found = soak.measure(short=True)
    assert kept(found, "p50", "p99")
    assert found["requests"] > 100
    assert found["left"] > 5
