"""This service beside others: the rounds in which each is started, measured and stopped.

`make bench` runs all of it, `make bench-quick` what is needed to see a change of this service. One
server at a time is alive, as some take a core even when idle. The order is the same in each round,
and ratios are of the same round: a machine that is slow for a while is slow for neighbours. A
server that fails is reported with the reason, and the others are measured still.

In the closed loop nothing is pinned to a core: the generator and all the processes of a server
share the machine as the kernel likes, the same for all. In the open loop, which is of single
processes, the generator keeps to one core and the server to the others: where they share one, the
generator is late by the kernel's time slices.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import goals, load, report
from benchmarks.machine import commit, hardware
from benchmarks.open_loop import SCHEDULES
from benchmarks.peers.environment import ROOT, PeerError
from benchmarks.peers.table import SERVERS
from benchmarks.servers import Running, install, running
from benchmarks.workloads import BULK, MANY, ONE, Workload, own_workloads, shared_workloads

SHARES: Final = (0.5, 0.8, 1.2)
"""Of capacity, that the open loop sends."""

CAPACITY_CONNECTIONS: Final = 32
"""Capacity is what the closed loop gets with so many."""

SCALING_CONNECTIONS: Final = 32
"""For two workers: the kernel spreads connections at random, and few of them unevenly."""

SCALED_WORKS: Final = (ONE, MANY, BULK)

ORDER: Final = (
    *(goals.ENGINE, goals.TWO_WORKERS, "ours", "null"),  # neighbours, where goals compare them
    *(name for name in SERVERS if name not in ("ours", "null")),
)

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done. Seconds are whole where wrk counts them."""

    servers: tuple[str, ...] = ORDER
    rounds: int = 3
    seconds: int = 2
    warm_s: int = 1
    idle_s: float = 6.0
    """Processor time comes in hundredths of a second, so this is measured to a sixth of a percent
    of a core."""
    idle: tuple[str, ...] = tuple(SERVERS)
    open_loop: tuple[str, ...] = ("ours", "null")
    shares: tuple[float, ...] = SHARES
    schedules: tuple[str, ...] = SCHEDULES
    quick: bool = False


QUICK: Final = Plan(
    servers=(goals.ENGINE, "ours", "null", "asgi"),
    rounds=1,
    seconds=1,
    idle=("ours",),
    open_loop=("ours",),
    shares=(0.8,),
    quick=True,
)


def measure_rounds(plan: Plan) -> Figures:
    """All of it; what `benchmarks.report` takes."""
    started = time.time()
    found: Figures = {
        "command": _command(plan),
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "commit": commit(),
        "hardware": hardware(),
        "versions": report.versions([name for name in plan.servers if name in SERVERS]),
        "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "partial": plan.servers != ORDER},
    }
    own = own_workloads()
    broken = _install(plan.servers)
    rounds: list[dict[str, Figures]] = []
    for number in range(plan.rounds):
        rounds.append({})
        for name in plan.servers:
            since = time.monotonic()
            if name in broken:
                figures: Figures = {"error": broken[name]}
            elif name == goals.ENGINE:
                figures = measure_engine(quick=plan.quick)
            else:
                figures = measure_server(name, plan, own)
            rounds[-1][name] = figures
            said = figures.get("error") or "done"
            _tell(
                f"round {number + 1} of {plan.rounds}, {time.monotonic() - since:.0f} s: "
                f"{report.title(name)}: {said}"
            )
    return found | {"took_s": round(time.time() - started), "rounds": rounds}


def _command(plan: Plan) -> str:
    """What gives the same again."""
    flags = " ".join(argument for argument in sys.argv[1:] if argument != "--quick")
    return f"make bench{'-quick' * plan.quick}" + (f" ARGS='{flags}'" if flags else "")


def _install(names: Sequence[str]) -> dict[str, str]:
    """Before the rounds, for pip would take a core from others. Why those failed that did."""
    broken = {}
    for name in names:
        if name in SERVERS:
            try:
                install(SERVERS[name])
            except PeerError as error:
                broken[name] = str(error)
    return broken


def measure_engine(*, quick: bool) -> Figures:
    """In a process of its own, on one core."""
    command = [sys.executable, "-m", "benchmarks.engine", *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603 - ours
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"error": said[-1] if said else f"it ended with status {done.returncode}"}
    found: Figures = json.loads(done.stdout)
    return found


def measure_server(name: str, plan: Plan, own: Sequence[Workload]) -> Figures:
    """One server's life. What was measured before it failed is kept beside the `error`."""
    workers = ("--workers", "2") if name == goals.TWO_WORKERS else ()
    server = SERVERS["ours" if workers else name]
    works = shared_workloads(server)
    if name == "ours":
        works = [*own, *reversed(works)]  # what is compared comes last: nearest to the next server
    elif workers:
        many = (SCALING_CONNECTIONS,)
        works = [replace(w, connections=many) for w in (*works, *own) if w.name in SCALED_WORKS]
    figures: Figures = {"works": {}}
    try:
        with running(server, flags=workers) as live:
            _measure_live(name, live, plan, works, figures)
    except (PeerError, load.LoadError, OSError) as error:
        figures["error"] = str(error)
    return figures


def _measure_live(
    name: str, live: Running, plan: Plan, works: Sequence[Workload], figures: Figures
) -> None:
    one = next(work for work in works if work.name == ONE)
    figures["ready_s"] = live.ready_s
    figures["ready_MiB"] = live.resident_bytes() / 2**20
    load.closed_loop(live.port, one.request, CAPACITY_CONNECTIONS, plan.warm_s)
    if name in plan.idle:
        figures["idle_cpu"] = _idle(live, plan.idle_s)
    if name in plan.open_loop:
        figures["open_loop"] = _open_loop(live, plan, one)
    for work in works:
        work.try_once(live.port)
        found = figures["works"].setdefault(work.name, {})
        for connections in work.connections:
            found[str(connections)] = _closed_loop(live, work, connections, plan.seconds)
    figures["used_MiB"] = live.resident_bytes() / 2**20


def _closed_loop(live: Running, work: Workload, connections: int, seconds: int) -> Figures:
    """wrk's figures, and those of the server; `cpu` is in cores."""
    before = live.cpu_seconds()
    found = load.closed_loop(live.port, work.request, connections, seconds)
    cpu_s = live.cpu_seconds() - before
    answered = found["requests_per_s"] * found["seconds"]
    return found | {
        "images_per_s": found["requests_per_s"] * work.images,
        "cpu": cpu_s / found["seconds"],
        "cpu_s_per_1000_images": cpu_s / (answered * work.images) * 1e3 if answered else None,
    }


def _open_loop(live: Running, plan: Plan, work: Workload) -> Figures:
    """At shares of a capacity that is measured just before, with the same cores."""
    with _apart(live.pid):
        closed = load.closed_loop(live.port, work.request, CAPACITY_CONNECTIONS, plan.seconds)
        capacity = closed["requests_per_s"]
        found: Figures = {"capacity_per_s": capacity}
        for schedule in plan.schedules:
            found[schedule] = {
                str(share): load.open_loop(
                    live.port,
                    work.request,
                    rate=share * capacity,
                    seconds=plan.seconds,
                    schedule=schedule,
                )
                for share in plan.shares
            }
    return found


@contextmanager
def _apart(pid: int) -> Iterator[None]:
    """Keep a process from the last core, and what is started meanwhile on it, if there are two."""
    cores = os.sched_getaffinity(0)
    last = {max(cores)}
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    for thread in threads:
        os.sched_setaffinity(thread, cores - last or cores)
    os.sched_setaffinity(0, last)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        for thread in threads:
            with suppress(OSError):  # it may have ended
                os.sched_setaffinity(thread, cores)


def _idle(live: Running, seconds: float) -> float:
    """Cores that it takes with nothing to do, a second after the last request."""
    time.sleep(1)
    before, started = live.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (live.cpu_seconds() - before) / (time.perf_counter() - started)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print the tables, and unless it is quick write them beside the figures."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="this service and fixed answers, once")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--seconds", type=int, help="of a measurement")
    parser.add_argument("--servers", help="some only, as ours,null,triton; nothing is written then")
    given = parser.parse_args()
    load.wrk()
    plan = QUICK if given.quick else Plan()
    changed: dict[str, Any] = {
        key: value for key in ("rounds", "seconds") if (value := getattr(given, key))
    }
    if given.servers:
        changed["servers"] = tuple(given.servers.split(","))
        if unknown := set(changed["servers"]) - set(Plan().servers):
            parser.error(f"no such server: {', '.join(unknown)}; there are {Plan().servers}")
    if os.getloadavg()[0] > 1:
        _tell("others use this machine: the figures will be less than they could be")
    results = measure_rounds(replace(plan, **changed))
    if not (given.quick or given.servers):
        report.write(results)
    print(report.markdown(results))


if __name__ == "__main__":
    main()
