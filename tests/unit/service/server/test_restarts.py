"""When a process that has died is started again."""

from __future__ import annotations

import time

import pytest

from service.server.restarts import DELAYS_S, Restarts


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> Restarts:
    """With a clock that stands still."""
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    return Restarts()


def test_the_first_start_is_due_at_once(restarts: Restarts) -> None:
    assert restarts.wait_s == 0


def test_a_process_that_was_ready_is_replaced_at_once(restarts: Restarts) -> None:
    restarts.on_ready()
    restarts.on_exit(was_ready=True)
    assert restarts.wait_s == 0


def test_failing_starts_are_repeated_after_growing_delays(restarts: Restarts) -> None:
    waits_s = []
    for _ in range(len(DELAYS_S) + 1):
        restarts.on_exit(was_ready=False)
        waits_s.append(restarts.wait_s)
    assert waits_s == [*DELAYS_S[1:], DELAYS_S[-1], DELAYS_S[-1]]
    restarts.on_ready()
    restarts.on_exit(was_ready=True)
    assert restarts.wait_s == 0


def test_a_start_becomes_due(restarts: Restarts, monkeypatch: pytest.MonkeyPatch) -> None:
    restarts.on_exit(was_ready=False)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0 + DELAYS_S[1] / 2)
    assert restarts.wait_s == DELAYS_S[1] / 2
    monkeypatch.setattr(time, "monotonic", lambda: 101.0 + DELAYS_S[1])
    assert restarts.wait_s == 0
