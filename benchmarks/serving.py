"""This service compared with others: in each round every server is started, measured and stopped.

`make bench` runs all of it, `make bench-quick` only this service and the fixed answers. One server
runs at a time, as some use a core even when idle. The order is the same in each round, and ratios
are of figures of the same round: a machine that is slow for a while is slow for neighbours. A
server that fails is reported with the reason, and the others are still measured.

In the closed loop nothing is pinned: the kernel spreads the generator and all processes of a server
over the cores, alike for all servers. In the open loop, where servers have a single process, the
generator has one core and the server the others: where they share one, the generator sends late by
the kernel's time slices.
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
from benchmarks.machine import commit, hardware, pinned, tell, warn_if_busy
from benchmarks.open_loop import SCHEDULES
from benchmarks.peers.environment import ROOT, PeerError
from benchmarks.peers.table import SERVERS
from benchmarks.servers import Running, install_all, running
from benchmarks.workloads import BULK, MANY, ONE, Workload, own_workloads, shared_workloads

SHARES: Final = (0.5, 0.8, 1.2)
"""Of capacity, sent by the open loop."""

CAPACITY_CONNECTIONS: Final = 32
"""Capacity is the closed loop's requests/s with these."""

SCALING_CONNECTIONS: Final = 32
"""For two workers: the kernel assigns connections at random, so a few are spread unevenly."""

SCALED_WORKLOADS: Final = (ONE, MANY, BULK)

ORDER: Final = (
    *(goals.ENGINE, goals.TWO_WORKERS, "ours", "null"),  # neighbours, where goals compare them
    *(name for name in SERVERS if name not in ("ours", "null")),
)

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. Seconds are integers where wrk measures."""

    servers: tuple[str, ...] = ORDER
    rounds: int = 3
    seconds: int = 2
    warm_s: int = 1
    idle_s: float = 6.0
    """Processor time is counted in hundredths of a second, so the resolution is a sixth of a
    percent of a core."""
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
    """Measure everything. Returns what `benchmarks.report` takes."""
    started = time.time()
    results: Figures = {
        "command": _command(plan),
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "commit": commit(),
        "hardware": hardware(),
        "versions": report.versions([name for name in plan.servers if name in SERVERS]),
        "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "partial": plan.servers != ORDER},
    }
    own = own_workloads()
    broken = install_all(name for name in plan.servers if name in SERVERS)
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
            outcome = figures.get("error") or "done"
            tell(
                f"round {number + 1} of {plan.rounds}, {time.monotonic() - since:.0f} s: "
                f"{report.title(name)}: {outcome}"
            )
    return results | {"took_s": round(time.time() - started), "rounds": rounds}


def _command(plan: Plan) -> str:
    """The command that repeats this measurement."""
    flags = " ".join(argument for argument in sys.argv[1:] if argument != "--quick")
    return f"make bench{'-quick' * plan.quick}" + (f" ARGS='{flags}'" if flags else "")


def measure_engine(*, quick: bool) -> Figures:
    """Run `benchmarks.engine` in a process of its own, on one core."""
    command = [sys.executable, "-m", "benchmarks.engine", *(["--quick"] if quick else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # noqa: S603 - ours
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"error": lines[-1] if lines else f"it ended with status {done.returncode}"}
    figures: Figures = json.loads(done.stdout)
    return figures


def measure_server(name: str, plan: Plan, own: Sequence[Workload]) -> Figures:
    """Start, measure and stop a server. Figures from before a failure are kept beside `error`."""
    workers = ("--workers", "2") if name == goals.TWO_WORKERS else ()
    server = SERVERS["ours" if workers else name]
    workloads = shared_workloads(server)
    if name == "ours":
        # What is compared comes last: nearest in time to the next server.
        workloads = [*own, *reversed(workloads)]
    elif workers:
        many = (SCALING_CONNECTIONS,)
        scaled = [w for w in (*workloads, *own) if w.name in SCALED_WORKLOADS]
        workloads = [replace(w, connections=many) for w in scaled]
    figures: Figures = {"workloads": {}}
    try:
        with running(server, flags=workers) as live:
            _measure_live(name, live, plan, workloads, figures)
    except (PeerError, load.LoadError, OSError) as error:
        figures["error"] = str(error)
    return figures


def _measure_live(
    name: str, live: Running, plan: Plan, workloads: Sequence[Workload], figures: Figures
) -> None:
    one = next(workload for workload in workloads if workload.name == ONE)
    figures["ready_s"] = live.ready_s
    figures["ready_MiB"] = live.resident_bytes() / 2**20
    load.closed_loop(live.port, one.request, CAPACITY_CONNECTIONS, plan.warm_s)
    if name in plan.idle:
        figures["idle_cpu"] = _idle(live, plan.idle_s)
    if name in plan.open_loop:
        figures["open_loop"] = _open_loop(live, plan, one)
    for workload in workloads:
        workload.try_once(live.port)
        by_connections = figures["workloads"].setdefault(workload.name, {})
        for connections in workload.connections:
            measured = load.measure(live, workload, connections, plan.seconds)
            by_connections[str(connections)] = measured
    figures["used_MiB"] = live.resident_bytes() / 2**20


def _open_loop(live: Running, plan: Plan, workload: Workload) -> Figures:
    """Send at shares of the capacity, which is measured just before on the same cores."""
    with _apart(live.pid):
        closed = load.closed_loop(live.port, workload.request, CAPACITY_CONNECTIONS, plan.seconds)
        capacity = closed["requests_per_s"]
        figures: Figures = {"capacity_per_s": capacity}
        for schedule in plan.schedules:
            figures[schedule] = {
                str(share): load.open_loop(
                    live.port,
                    workload.request,
                    rate=share * capacity,
                    seconds=plan.seconds,
                    schedule=schedule,
                )
                for share in plan.shares
            }
    return figures


@contextmanager
def _apart(pid: int) -> Iterator[None]:
    """Give the last core to what is started meanwhile, and the others to a process.

    With a single core they share it.
    """
    cores = os.sched_getaffinity(0)
    last = {max(cores)}
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    for thread in threads:
        os.sched_setaffinity(thread, cores - last or cores)
    try:
        with pinned(last):
            yield
    finally:
        for thread in threads:
            with suppress(OSError):  # it may have ended
                os.sched_setaffinity(thread, cores)


def _idle(live: Running, seconds: float) -> float:
    """Cores that the server uses with nothing to do, from a second after the last request."""
    time.sleep(1)
    before, started = live.cpu_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (live.cpu_seconds() - before) / (time.perf_counter() - started)


def main() -> None:
    """Measure all servers and print the tables; a full run writes benchmarks/results/serving.*."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="this service and fixed answers, once")
    parser.add_argument("--rounds", type=int, help="how often each server is measured")
    parser.add_argument("--seconds", type=int, help="of each measurement")
    parser.add_argument(
        "--servers", help="only these, as in ours,null,triton; nothing is written then"
    )
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
    warn_if_busy()
    results = measure_rounds(replace(plan, **changed))
    if not (given.quick or given.servers):
        report.write(results)
    print(report.markdown(results))


if __name__ == "__main__":
    main()
