"""Token buckets that processes share."""

from __future__ import annotations

import os
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access import rates
from service.access.keys import MAX_FILE_BYTES, digest_of
from service.access.rates import RECORDS, Buckets, Quota
from service.errors import RateLimitError

ALICE, BOB = digest_of("alice"), digest_of("bob")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def buckets(clock: Clock) -> Buckets:
    return Buckets(clock=clock)


def test_a_bucket_holds_a_second_s_worth_and_fills_at_its_rate(
    buckets: Buckets, clock: Clock
) -> None:
    assert all(buckets.take(ALICE, 1, 1000) for _ in range(1000))
    assert not buckets.take(ALICE, 1, 1000)
    clock.now += 0.01
    assert sum(buckets.take(ALICE, 1, 1000) for _ in range(20)) == 10
    clock.now += 60
    assert sum(buckets.take(ALICE, 1, 1000) for _ in range(2000)) == 1000


def test_keys_do_not_share_a_bucket(buckets: Buckets) -> None:
    assert buckets.take(ALICE, 10, 10)
    assert not buckets.take(ALICE, 1, 10)
    assert buckets.take(BOB, 10, 10)


def test_what_is_refused_takes_nothing(buckets: Buckets) -> None:
    assert buckets.take(ALICE, 6, 10)
    assert not buckets.take(ALICE, 5, 10)
    assert buckets.take(ALICE, 4, 10)


def test_more_than_a_bucket_holds_is_taken_out_of_a_full_one(
    buckets: Buckets, clock: Clock
) -> None:
    assert buckets.take(ALICE, 50, 10)
    assert buckets.until_full_s(ALICE) == pytest.approx(5)
    clock.now += 3.95
    assert not buckets.take(ALICE, 1, 10)
    clock.now += 0.2
    assert buckets.take(ALICE, 1, 10)
    assert not buckets.take(ALICE, 50, 10), "only a full one"
    clock.now += 1
    assert buckets.take(ALICE, 50, 10)


def test_what_was_not_used_comes_back(buckets: Buckets) -> None:
    assert buckets.take(ALICE, 10, 10)
    buckets.refund(ALICE, 10, 10)
    assert buckets.take(ALICE, 10, 10)
    assert not buckets.take(ALICE, 1, 10)


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 30)), max_size=60))
def test_never_more_than_the_rate(steps: list[tuple[float, int]]) -> None:
    clock, rate = Clock(), 10
    buckets = Buckets(clock=clock)
    began, taken, last = clock.now, 0, 0
    for pause, images in steps:
        clock.now += pause
        if buckets.take(ALICE, images, rate):
            taken, last = taken + images, images
    allowed = rate * (1 + clock.now - began)
    assert taken - max(0, last - rate) <= allowed + 1e-3


def test_a_full_table_forgets_full_buckets_only(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(rates, "RECORDS", 4)
    buckets = Buckets(clock=clock)
    assert buckets.take(ALICE, 100, 1)
    for n in range(20):
        assert buckets.take(digest_of(str(n)), 1, 1)
        clock.now += 1.5
    assert not buckets.take(ALICE, 1, 1)


def test_a_key_whose_record_was_taken_over_gets_another(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(rates, "RECORDS", 1)
    buckets = Buckets(clock=clock)
    for _ in range(3):
        for key in (ALICE, BOB):
            assert buckets.take(key, 1, 1)
            assert not buckets.take(key, 1, 1)
            clock.now += 2


def take_in_a_process(buckets: Buckets, barrier: Barrier, done: str) -> None:
    buckets._clock = lambda: 1.0
    barrier.wait(60)
    taken = sum(buckets.take(ALICE, 1, 30_000) for _ in range(20_000))
    Path(done).write_text(str(taken))


def test_processes_share_a_bucket_and_lose_no_image(tmp_path: Path) -> None:
    """Two at once: an image that one of them forgets would let another through."""
    spawn = get_context("spawn")
    buckets, barrier = Buckets(), spawn.Barrier(2)
    done = [tmp_path / str(n) for n in range(2)]
    workers = [
        spawn.Process(target=take_in_a_process, args=(buckets, barrier, str(path))) for path in done
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sum(int(path.read_text()) for path in done) == 30_000


def test_without_memory_files_a_file_without_a_name_will_do(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, tmp_path: Path
) -> None:
    def forbidden(_: str) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", forbidden)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    buckets = Buckets(clock=clock)
    assert list(tmp_path.iterdir()) == []
    assert buckets.take(ALICE, 10, 10)
    assert not buckets.take(ALICE, 1, 10)


def test_headers_are_those_of_the_draft(buckets: Buckets, clock: Clock) -> None:
    quota = Quota(buckets, ALICE, 100)

    def shown() -> dict[bytes, bytes]:
        return dict(quota.headers)

    assert shown()[b"ratelimit-policy"] == b'"images";q=100;w=1;qu="images"'
    assert shown()[b"ratelimit"] == b'"images";r=100;t=0'
    quota.take(30)
    assert shown()[b"ratelimit"] == b'"images";r=70;t=1'
    quota.take(70)
    assert shown()[b"ratelimit"] == b'"images";r=0;t=1'
    clock.now += 1
    quota.take(450)
    assert shown()[b"ratelimit"] == b'"images";r=0;t=5'


def test_a_refusal_says_how_many_and_when(buckets: Buckets, clock: Clock) -> None:
    quota = Quota(buckets, ALICE, 100)
    quota.check()
    quota.take(70)
    with pytest.raises(RateLimitError, match=r"31 images > 30 .* 100 per second") as refused:
        quota.take(31)
    assert refused.value.headers == {"Retry-After": "1"}
    quota.take(30)
    with pytest.raises(RateLimitError, match="1 images > 0"):
        quota.check()
    clock.now += 1
    quota.take(1000)
    with pytest.raises(RateLimitError) as refused:
        quota.check()
    assert refused.value.headers == {"Retry-After": "10"}
    clock.now += 9.995
    with pytest.raises(RateLimitError) as refused:
        quota.take(100)
    clock.now += int(refused.value.headers["Retry-After"])
    quota.take(100)


def test_there_is_room_for_all_keys_of_a_file() -> None:
    shortest = f"a {ALICE.hex()} rate=1\n"
    assert MAX_FILE_BYTES / len(shortest) < RECORDS
