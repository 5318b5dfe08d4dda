"""The speed goals of this service, and whether it reached them: ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.engine import BFLOAT16, FLOAT32, SCORES
from benchmarks.peers.table import SERVERS
from benchmarks.workloads import BULK, MANY, ONE

Round = Mapping[str, Any]
"""The figures of each server, and of `ENGINE` and `TWO_WORKERS`."""

ENGINE: Final = "engine"
TWO_WORKERS: Final = "ours-by-two"

FASTER_THAN: Final = {"triton": 4, "mlserver": 8, "litserve": 12, "bentoml": 20, "ray": 50}

SCHEDULE_NAMES: Final = {"poisson": "at random (Poisson)", "even": "evenly spaced"}

Value = Callable[[Round], float]
"""Takes a figure from a round. Raises `LookupError` or `ValueError` if it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A limit to reach, and a measured value for each round that has one."""

    number: int
    what: str
    limit: float
    at_most: bool = False
    unit: str = " ×"
    values: Sequence[float]
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the median is within the limit; None if nothing was measured."""
        if not self.values:
            return None
        median = statistics.median(self.values)
        return median <= self.limit if self.at_most else median >= self.limit


def each(rounds: Sequence[Round], value: Value) -> list[float]:
    """The value in each round that has it."""
    values = []
    for figures in rounds:
        try:
            values.append(value(figures))
        except (LookupError, TypeError, ValueError, ZeroDivisionError):
            continue  # a server failed, or answered nothing
    return values


def ratio(over: Value, under: Value) -> Value:
    """The ratio of two figures of a round."""
    return lambda figures: over(figures) / under(figures)


def at(*path: str) -> Value:
    """The figure at a path of keys."""

    def value(figures: Round) -> float:
        node: Any = figures
        for key in path:
            node = node[key]
        return float(node)

    return value


def closed(server: str, workload: str, connections: int, key: str = "requests_per_s") -> Value:
    """A figure of the closed loop."""
    return at(server, "workloads", workload, str(connections), key)


def best(server: str, workload: str, key: str = "images_per_s") -> Value:
    """The maximum over the numbers of connections."""
    return lambda figures: max(f[key] for f in figures[server]["workloads"][workload].values())


def best_peer(workload: str) -> Value:
    """The maximum over the peers, which are the servers with an environment of their own."""

    def value(figures: Round) -> float:
        peers = (name for name, server in SERVERS.items() if server.is_peer)
        return max(speed for name in peers for speed in each([figures], best(name, workload)))

    return value


def scaling_without_generator(workload: str, cores: int, connections: int = 32) -> Value:
    """The speedup of two workers over one, corrected for the cores that the load generator uses.

    Twice the ratio of two rates: requests per core-second that the generator leaves to two workers,
    which use two cores at most, and requests per core-second that one worker uses. It is right only
    on a machine that runs nothing else.
    """

    def value(figures: Round) -> float:
        one, two = (
            figures[name]["workloads"][workload][str(connections)] for name in ("ours", TWO_WORKERS)
        )
        left = min(2, cores - two["generator_cpu"])
        return float(2 * (two["requests_per_s"] / left) / (one["requests_per_s"] / one["cpu"]))

    return value


def best_batch(rounds: Sequence[Round], dtype: str, score: str, key: str = "images_per_s") -> str:
    """The batch size with the highest median over the rounds; empty if none was measured."""
    tried = [each_round.get(ENGINE, {}).get("dtypes", {}).get(dtype, {}) for each_round in rounds]
    sizes = {batch for scores in tried for batch in scores.get(score, {})}
    return max(
        sorted(sizes, key=int),
        key=lambda batch: statistics.median(
            each(rounds, at(ENGINE, "dtypes", dtype, score, batch, key))
        ),
        default="",
    )


def engine_speed(dtype: str, score: str, batch: str, key: str = "images_per_s") -> Value:
    """A figure of the network without a server."""
    return at(ENGINE, "dtypes", dtype, score, batch, key)


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """All goals, in their order."""
    rounds: Sequence[Round] = results["rounds"]
    cores = results["hardware"]["cores"]
    return [
        Goal(
            number=1,
            what=f"requests/s, {ONE}, 32 connections, against FastAPI with a fixed answer",
            limit=1.5,
            values=each(rounds, ratio(closed("ours", ONE, 32), closed("null", ONE, 32))),
        ),
        Goal(
            number=2,
            what=f"p50 latency, {ONE}, 1 connection, against FastAPI with a fixed answer",
            limit=1.5,
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
        *(_goal_of_workers(rounds, workload, cores) for workload in (ONE, MANY, BULK)),
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
            limit=2.0,
            at_most=True,
            unit=" s",
            values=each(rounds, at("ours", "ready_s")),
        ),
    ]


def _goal_of_bulk(rounds: Sequence[Round]) -> Goal:
    """The engine gets the same images in one call on one core; the service has what wrk leaves."""
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
    note = f"2048³ products on the same core: {statistics.median(bound):.2f} ×" if bound else ""
    return Goal(
        number=7,
        what=f"images/s of `Engine.score`, {score}, bfloat16 against float32, best batches",
        limit=2.5,
        values=each(rounds, ratio(speeds[BFLOAT16], speeds[FLOAT32])),
        note=note,
    )


def _goal_of_workers(rounds: Sequence[Round], workload: str, cores: int) -> Goal:
    plain = each(rounds, ratio(closed(TWO_WORKERS, workload, 32), closed("ours", workload, 32)))
    shares = each(rounds, closed(TWO_WORKERS, workload, 32, "generator_cpu"))
    used = [each(rounds, closed(name, workload, 32, "cpu")) for name in ("ours", TWO_WORKERS)]
    note = (
        f"uncorrected: {statistics.median(plain):.2f} ×; of {cores} cores the generator took "
        f"{statistics.median(shares):.2f}, two workers {statistics.median(used[1]):.2f}, and one "
        f"{statistics.median(used[0]):.2f}"
        if plain
        else ""
    )
    return Goal(
        number=8,
        what=f"two workers against one, {workload}, the generator's share set apart",
        limit=1.8,
        values=each(rounds, scaling_without_generator(workload, cores)),
        note=note,
    )


def _goal_of_tail(rounds: Sequence[Round], schedule: str) -> Goal:
    path = ("ours", "open_loop", schedule, "0.8")
    kept_up = each(rounds, at(*path, "kept_up"))
    slow = len(kept_up) - sum(kept_up)
    return Goal(
        number=9,
        what=f"p99 against p50 at 80 % of capacity, open loop, {SCHEDULE_NAMES[schedule]}",
        limit=3.0,
        at_most=True,
        values=each(rounds, ratio(at(*path, "p99_ms"), at(*path, "p50_ms"))),
        note=f"the generator was late in {slow:.0f} of {len(kept_up)} rounds" if slow else "",
    )
