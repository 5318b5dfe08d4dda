"""What this service was meant to reach, and whether it did: ratios of figures of the same round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.engine import BFLOAT16, FLOAT32, SCORES
from benchmarks.peers.table import SERVERS
from benchmarks.workloads import BULK, MANY, ONE

Round = Mapping[str, Any]
"""Figures of each server, and of `ENGINE` and `TWO_WORKERS`."""

ENGINE: Final = "engine"
TWO_WORKERS: Final = "ours-by-two"

FASTER_THAN: Final = {"triton": 4, "mlserver": 8, "litserve": 12, "bentoml": 20, "ray": 50}

SCHEDULE_NAMES: Final = {"poisson": "at random (Poisson)", "even": "evenly spaced"}

Value = Callable[[Round], float]
"""A figure of a round. Raises `LookupError` or `ValueError` where it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """Something to reach, and what was measured: a value for each round that has one."""

    number: int
    what: str
    limit: float
    at_most: bool = False
    unit: str = " ×"
    values: Sequence[float]
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """By the median; None if it was not measured."""
        if not self.values:
            return None
        median = statistics.median(self.values)
        return median <= self.limit if self.at_most else median >= self.limit


def each(rounds: Sequence[Round], value: Value) -> list[float]:
    """A value of each round, of those that have it."""
    found = []
    for figures in rounds:
        try:
            found.append(value(figures))
        except (LookupError, TypeError, ValueError, ZeroDivisionError):
            continue  # a server failed, or answered nothing
    return found


def ratio(over: Value, under: Value) -> Value:
    """Of two figures of the same round."""
    return lambda figures: over(figures) / under(figures)


def at(*path: str) -> Value:
    """A figure by its place."""

    def value(figures: Round) -> float:
        found: Any = figures
        for key in path:
            found = found[key]
        return float(found)

    return value


def closed(server: str, work: str, connections: int, key: str = "requests_per_s") -> Value:
    """A figure of the closed loop."""
    return at(server, "works", work, str(connections), key)


def best(server: str, work: str, key: str = "images_per_s") -> Value:
    """The most, over the numbers of connections that were tried."""
    return lambda figures: max(f[key] for f in figures[server]["works"][work].values())


def best_peer(work: str) -> Value:
    """The most of all peers, those with an environment of their own."""

    def value(figures: Round) -> float:
        peers = (name for name, server in SERVERS.items() if server.is_peer)
        return max(found for name in peers for found in each([figures], best(name, work)))

    return value


def set_apart(work: str, cores: int, connections: int = 32) -> Value:
    """Two workers against one without what the load generator takes from the second.

    Requests per core-second that the generator left to two workers, who use two cores at most,
    against requests per core-second that one worker used, times two. So it asks for a machine that
    has nothing else to do.
    """

    def value(figures: Round) -> float:
        one, two = (
            figures[name]["works"][work][str(connections)] for name in ("ours", TWO_WORKERS)
        )
        left = min(2, cores - two["generator_cpu"])
        return float(2 * (two["requests_per_s"] / left) / (one["requests_per_s"] / one["cpu"]))

    return value


def best_batch(rounds: Sequence[Round], dtype: str, score: str, key: str = "images_per_s") -> str:
    """Of those that were tried, by medians over the rounds. Empty if there are none."""
    tried = [each_round.get(ENGINE, {}).get("dtypes", {}).get(dtype, {}) for each_round in rounds]
    sizes = {batch for found in tried for batch in found.get(score, {})}
    return max(
        sorted(sizes, key=int),
        key=lambda batch: statistics.median(
            each(rounds, at(ENGINE, "dtypes", dtype, score, batch, key))
        ),
        default="",
    )


def engine_speed(dtype: str, score: str, batch: str, key: str = "images_per_s") -> Value:
    """Of the network without a server."""
    return at(ENGINE, "dtypes", dtype, score, batch, key)


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """All of them, in their order."""
    rounds: Sequence[Round] = results["rounds"]
    cores = results["hardware"]["cores"]
    return [
        Goal(
            number=1,
            what=f"requests/s, {ONE}, 32 connections, against FastAPI with a fixed answer",
            limit=1.0,
            values=each(rounds, ratio(closed("ours", ONE, 32), closed("null", ONE, 32))),
        ),
        Goal(
            number=2,
            what=f"p50 latency, {ONE}, 1 connection, against FastAPI with a fixed answer",
            limit=2.0,
            at_most=True,
            values=each(
                rounds, ratio(closed("ours", ONE, 1, "p50_ms"), closed("null", ONE, 1, "p50_ms"))
            ),
        ),
        *(
            Goal(
                number=3,
                what=f"requests/s, {ONE}, 32 connections, against {SERVERS[peer].title}",
                limit=limit,
                values=each(rounds, ratio(closed("ours", ONE, 32), closed(peer, ONE, 32))),
            )
            for peer, limit in FASTER_THAN.items()
        ),
        Goal(
            number=4,
            what=f"images/s, {MANY}, against the best peer, each at the best of 8 and 32",
            limit=5.0,
            values=each(rounds, ratio(best("ours", MANY), best_peer(MANY))),
        ),
        _goal_of_bulk(rounds),
        *(_goal_of_flops(rounds, score) for score in SCORES),
        *(_goal_of_bfloat16(rounds, score) for score in SCORES),
        *(_goal_of_workers(rounds, work, cores) for work in (ONE, MANY, BULK)),
        *(_goal_of_tail(rounds, schedule) for schedule in SCHEDULE_NAMES),
        Goal(
            number=10,
            what="a core's share taken while idle",
            limit=0.5,
            at_most=True,
            unit=" %",
            values=[100 * share for share in each(rounds, at("ours", "idle_cpu"))],
        ),
        Goal(
            number=11,
            what="from start to the first right answer",
            limit=2.5,
            at_most=True,
            unit=" s",
            values=each(rounds, at("ours", "ready_s")),
        ),
    ]


def _goal_of_bulk(rounds: Sequence[Round]) -> Goal:
    """The very same images in one call, on one core; the service has what wrk leaves of two."""
    return Goal(
        number=5,
        what=f"images/s, {BULK}, 8 connections, against `Engine.score` of them in a loop",
        limit=0.85,
        values=each(
            rounds, ratio(closed("ours", BULK, 8, "images_per_s"), at(ENGINE, "bulk_images_per_s"))
        ),
    )


def _goal_of_flops(rounds: Sequence[Round], score: str) -> Goal:
    batch = best_batch(rounds, FLOAT32, score, "of_product")
    return Goal(
        number=6,
        what=f"FLOP/s of `Engine.score`, {score}, one core, against a 2048³ product, float32",
        limit=0.9,
        values=each(rounds, engine_speed(FLOAT32, score, batch, "of_product")),
        note=f"at batch {batch}" if batch else "",
    )


def _goal_of_bfloat16(rounds: Sequence[Round], score: str) -> Goal:
    batches = {dtype: best_batch(rounds, dtype, score) for dtype in (FLOAT32, BFLOAT16)}
    speeds = {dtype: engine_speed(dtype, score, batches[dtype]) for dtype in batches}
    products = {dtype: at(ENGINE, "product_flops_per_s", dtype) for dtype in batches}
    bound = each(rounds, ratio(products[BFLOAT16], products[FLOAT32]))
    told = f"2048³ products on the same core: {statistics.median(bound):.2f} ×" if bound else ""
    return Goal(
        number=7,
        what=f"images/s of `Engine.score`, {score}, bfloat16 against float32, best batches",
        limit=2.5,
        values=each(rounds, ratio(speeds[BFLOAT16], speeds[FLOAT32])),
        note=told,
    )


def _goal_of_workers(rounds: Sequence[Round], work: str, cores: int) -> Goal:
    plain = each(rounds, ratio(closed(TWO_WORKERS, work, 32), closed("ours", work, 32)))
    shares = each(rounds, closed(TWO_WORKERS, work, 32, "generator_cpu"))
    used = [each(rounds, closed(name, work, 32, "cpu")) for name in ("ours", TWO_WORKERS)]
    told = (
        f"plainly {statistics.median(plain):.2f} ×; of {cores} cores the generator took "
        f"{statistics.median(shares):.2f}, two workers {statistics.median(used[1]):.2f}, and one "
        f"{statistics.median(used[0]):.2f}"
        if plain
        else ""
    )
    return Goal(
        number=8,
        what=f"two workers against one, {work}, the generator's share set apart",
        limit=1.8,
        values=each(rounds, set_apart(work, cores)),
        note=told,
    )


def _goal_of_tail(rounds: Sequence[Round], schedule: str) -> Goal:
    place = ("ours", "open_loop", schedule, "0.8")
    kept_up = each(rounds, at(*place, "kept_up"))
    slow = len(kept_up) - sum(kept_up)
    return Goal(
        number=9,
        what=f"p99 against p50 at 80 % of capacity, open loop, {SCHEDULE_NAMES[schedule]}",
        limit=5.0,
        at_most=True,
        values=each(rounds, ratio(at(*place, "p99_ms"), at(*place, "p50_ms"))),
        note=f"the generator was late in {slow:.0f} of {len(kept_up)} rounds" if slow else "",
    )
