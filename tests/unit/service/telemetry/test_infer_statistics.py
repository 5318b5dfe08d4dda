"""Counts of infer requests: right, and cheap while requests are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, metrics

from service.telemetry.infer_statistics import FAIL, SUCCESS, InferStatistics, InferTimes, totals_of

TIMES = InferTimes(1.0, 0.1, 0.2, 0.3, 0.4)


def test_requests_of_a_turn_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    later: list[Callable[[], None]] = []
    statistics = InferStatistics(registry, later.append)
    looked_up: list[tuple[Any, ...]] = []
    labels = metrics.MetricWrapperBase.labels

    def note(self: Any, *values: Any) -> Any:
        looked_up.append(values)
        return labels(self, *values)

    monkeypatch.setattr(metrics.MetricWrapperBase, "labels", note)
    for turn in range(1, 3):
        for _ in range(50):
            statistics.count_failure("encode", 0.25)
            statistics.count_success("encode", 2, TIMES)
            statistics.count_failure("decode", 0.5)
        assert len(later) == turn, "one flush for a turn"
        later[-1]()
        encode, decode = (totals_of(name, registry.collect()) for name in ("encode", "decode"))
        assert encode.requests == {FAIL: 50 * turn, SUCCESS: 50 * turn}
        assert decode.requests == {FAIL: 50 * turn}
        assert (encode.seconds[FAIL], decode.seconds[FAIL]) == (12.5 * turn, 25.0 * turn)
        assert encode.images == 100 * turn
        assert encode.last_request > 0
        assert decode.last_request > 0
        if turn == 1:
            first = len(looked_up)
    assert len(looked_up) == first, "series are kept"


def test_without_an_event_loop_each_is_counted_at_once() -> None:
    registry = CollectorRegistry()
    statistics = InferStatistics(registry, lambda flush: flush())
    statistics.count_failure("encode", 0.25)
    statistics.count_success("encode", 2, TIMES)
    assert totals_of("encode", registry.collect()).requests == {FAIL: 1, SUCCESS: 1}
