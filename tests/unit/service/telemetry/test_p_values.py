"""p-values are counted in their buckets, each once, whoever counts them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from service.telemetry.p_values import MAX_LENGTH, MAX_PENDING, P_VALUE_BUCKETS, PValues


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def p_values(registry: CollectorRegistry) -> PValues:
    return PValues(registry)


@pytest.fixture
def _busy() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """By bound, and the `count` and `sum`."""
    (metric,) = registry.collect()
    return {
        sample.labels.get("le", sample.name.rpartition("_")[2]): sample.value
        for sample in metric.samples
    }


def test_each_bucket_has_those_up_to_its_bound(
    p_values: PValues, registry: CollectorRegistry
) -> None:
    values = np.array([*P_VALUE_BUCKETS, 0.0001, 0.05000001, 1.0])
    for part in np.split(values, [3, 4]):
        p_values.add(part)
    assert samples(registry)["count"] == 0, "not at once"
    for _ in range(2):
        p_values.count()
        found = samples(registry)
        assert found["count"] == found["+Inf"] == len(values)
        assert found["sum"] == pytest.approx(values.sum())
        for bound in P_VALUE_BUCKETS:
            assert found[str(float(bound))] == np.count_nonzero(values <= bound)


def test_what_waits_is_bounded(p_values: PValues, registry: CollectorRegistry) -> None:
    for added in range(1, 3 * MAX_PENDING):
        p_values.add(np.array([0.5]))
        assert added - samples(registry)["count"] <= MAX_PENDING
    p_values.count()
    before = samples(registry)["count"]
    p_values.add(np.full(MAX_LENGTH + 1, 0.5))
    assert samples(registry)["count"] - before == MAX_LENGTH + 1


@pytest.mark.usefixtures("_busy")
def test_threads_lose_none_and_count_none_twice(
    p_values: PValues, registry: CollectorRegistry
) -> None:
    def work() -> None:
        for i in range(3000):
            p_values.add(np.array([0.25, 0.75]))
            if i % 7 == 0:
                p_values.count()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p_values.count()
    found = samples(registry)
    assert found["count"] == 4 * 3000 * 2
    assert found["sum"] == 4 * 3000


def test_another_thread_may_take_the_rest(p_values: PValues, registry: CollectorRegistry) -> None:
    class Contended(deque[NDArray[np.float64]]):
        """Has another thread count after the first is taken."""

        taken = False

        def popleft(self) -> NDArray[np.float64]:
            first = super().popleft()
            if not self.taken:
                self.taken = True
                other = Thread(target=p_values.count)
                other.start()
                other.join()
            return first

    p_values._pending = Contended()
    for value in (0.25, 0.5, 0.75):
        p_values.add(np.array([value]))
    p_values.count()
    found = samples(registry)
    assert (found["count"], found["sum"]) == (3, 1.5)
