"""Compares the working tree with another commit, to see whether a change costs speed.

::

    python -m benchmarks.against 36f2c30
    python -m benchmarks.against --history 8d2c344..36f2c30 --every 3
    python -m benchmarks.against main --photographs features

The commit, the working tree, FastAPI with a fixed answer and bare ASGI with a fixed answer take
turns: in every round each is started, measured and stopped once. The order is reversed from round
to round, as the machine's speed drifts. The server has one core and the load generator another.
Settings are as shipped, so the request log is on. Ratios compare figures of the same round, and are
1.0 or more where the working tree is at least as good. The last line is for the commit message.

With `--photographs`, both commits score photographs with a network that is made first, and no fixed
answers are measured. The commit has to be able to load its bundle.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Final

from benchmarks import load
from benchmarks.checkout import CheckoutError, checkout, commit_of, commits_between, prepare
from benchmarks.machine import pinned
from benchmarks.peers.common import HOST
from benchmarks.peers.environment import ROOT, PeerError
from benchmarks.peers.photographs import JPEG_1, JPEG_12, NETWORKS, PNG_256, make_network
from benchmarks.peers.table import SERVERS, Server
from benchmarks.peers.tree import SIGNALS
from benchmarks.report import spread
from benchmarks.servers import Check, ask, running
from benchmarks.workloads import (
    BULK,
    LONGER,
    MANY,
    ONE,
    PHOTOGRAPH_CONNECTIONS,
    PNG,
    Workload,
    check_with,
    own_workloads,
    photograph_workloads,
    shared_workloads,
)

ROUNDS: Final = 4
HISTORY_ROUNDS: Final = 2

SECONDS: Final = 1
"""Of one measurement in one round; wrk takes whole seconds."""

WARM_UP_S: Final = 0.3
"""For requests that do not count, those of the first measurement, before it."""

TREE: Final = "working tree"
FASTAPI: Final = "FastAPI"
ASGI: Final = "bare ASGI"

REQUESTS: Final = "requests/s"
P50: Final = "p50, ms"

Figures = Mapping[str, float]
"""A server's figures in one round, by `Row.key`."""

Rounds = Sequence[Mapping[str, Figures]]
"""Figures of each server by its name, a mapping for each round."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent in one measurement. `short` names it in the line for a commit message."""

    short: str
    workload: str
    connections: int
    p50: bool = False
    """Whether the median latency is reported too."""

    @property
    def title(self) -> str:
        """For the table."""
        plural = "s" if self.connections > 1 else ""
        return f"{self.workload}, {self.connections} connection{plural}"


LOADS: Final = (
    Load(short="JSON×1 c1", workload=ONE, connections=1, p50=True),
    Load(short="c32", workload=ONE, connections=32),
    Load(short="JSON×64", workload=MANY, connections=8),
    Load(short="raw×256", workload=BULK, connections=8),
    Load(short="PNG×1", workload=PNG, connections=8),
)

HISTORY_LOADS: Final = LOADS[:3]

PHOTOGRAPH_LOADS: Final = tuple(
    Load(
        short=f"{short} c{connections}",
        workload=workload,
        connections=connections,
        p50=connections == 1,
    )
    for short, workload in (("PNG", PNG_256), ("JPEG 1 MP", JPEG_1), ("JPEG 12 MP", JPEG_12))
    for connections in PHOTOGRAPH_CONNECTIONS
)
"""For `--photographs`, instead of `LOADS`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure that is compared, and whether less of it is better."""

    key: str
    title: str
    short: str
    digits: int = 0
    less_is_better: bool = False

    def ratio(self, figures: Figures, other: Figures) -> float:
        """1.0 or more where the first is at least as good."""
        over, under = (other, figures) if self.less_is_better else (figures, other)
        return over[self.key] / under[self.key]


def rows(loads: Sequence[Load]) -> Iterator[Row]:
    """The rows of the table, in their order."""
    for sent in loads:
        yield Row(
            key=f"{sent.title}: {REQUESTS}", title=f"{sent.title}: {REQUESTS}", short=sent.short
        )
        if sent.p50:
            title = f"{sent.title}: {P50}"
            yield Row(key=title, title=title, short="p50", digits=3, less_is_better=True)
    yield Row(key="ready_s", title="ready after, s", short="ready", digits=2, less_is_better=True)
    yield Row(key="memory", title="resident memory, MiB", short="memory", less_is_better=True)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server that takes part, the checkout it is run from, and its workloads by name."""

    name: str
    server: Server
    root: Path = ROOT
    workloads: Mapping[str, Workload]
    check: Check | None = None


def service(
    name: str,
    root: Path,
    workloads: Mapping[str, Workload],
    *,
    log: bool,
    bundle: Path | None = None,
) -> Contender:
    """The service as it stands in a checkout, with the network in the directory `bundle` if any."""
    flags: tuple[str, ...] = () if log else ("--log-level", "warning")
    check = None
    if bundle:
        flags += ("--bundle", str(bundle))
        check = check_with(list(workloads.values()))
    server = replace(SERVERS["ours"], name=name, flags=flags)
    return Contender(name=name, server=server, root=root, workloads=workloads, check=check)


def fixed(name: str, server: Server, names: Sequence[str] = (ONE,)) -> Contender:
    """A server that always gives the same answer, and the workloads that it is measured with."""
    workloads = {w.name: w for w in shared_workloads(replace(server, fixed=False))}
    return Contender(name=name, server=server, workloads={n: workloads[n] for n in names})


def service_workloads() -> dict[str, Workload]:
    """All workloads of the service, by name."""
    return {w.name: w for w in (*shared_workloads(SERVERS["ours"]), *own_workloads())}


def two_cores() -> tuple[int, int]:
    """A core for the server, and one for the load generator. Ends the program if there is only one.

    The first and the last, which are not two threads of one core by Linux's usual numbering.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit(
            f"error: two cores are needed, one for the server and one for the load generator; this "
            f"process may use core {cores[0]} only"
        )
    return cores[0], cores[-1]


def measure(contender: Contender, loads: Sequence[Load], core: int) -> dict[str, float]:
    """Start a server on a core, measure it, stop it. Raises `PeerError` or `LoadError`."""
    with running(
        contender.server, root=contender.root, cores={core}, check=contender.check
    ) as live:
        sent = [one for one in loads if one.workload in contender.workloads]
        for one in sent:
            contender.workloads[one.workload].try_once(live.port)
        _warm_up(contender.workloads[sent[0].workload], live.port)
        figures = {"ready_s": live.ready_s}
        for one in sent:
            workload = contender.workloads[one.workload]
            seconds = SECONDS * LONGER.get(one.workload, 1)
            result = load.closed_loop(live.port, workload.request, one.connections, seconds)
            if result["errors"]:
                raise load.LoadError(f"{contender.name}, {one.title}: {result['error_kinds']}")
            figures[f"{one.title}: {REQUESTS}"] = result["requests_per_s"]
            figures[f"{one.title}: {P50}"] = result["p50_ms"]
        return figures | {"memory": live.resident_bytes() / 2**20}


def _warm_up(workload: Workload, port: int) -> None:
    connection = HTTPConnection(HOST, port, timeout=30)
    until = time.monotonic() + WARM_UP_S
    while time.monotonic() < until:
        ask(connection, workload.request)
    connection.close()


def measure_rounds(
    contenders: Sequence[Contender], loads: Sequence[Load], rounds: int, core: int
) -> list[dict[str, Figures]]:
    """The figures of each round. The order of the contenders alternates."""
    results: list[dict[str, Figures]] = []
    for number in range(rounds):
        order = contenders if number % 2 == 0 else contenders[::-1]
        results.append({})
        for contender in order:
            started = time.monotonic()
            results[-1][contender.name] = measure(contender, loads, core)
            _report(
                f"round {number + 1} of {rounds}, {time.monotonic() - started:.0f} s: "
                f"{contender.name}"
            )
    return results


def ratios(rounds: Rounds, row: Row, name: str, other: str) -> list[float]:
    """A row's ratio in each round in which both servers have the figure."""
    return [
        row.ratio(figures[name], figures[other])
        for figures in rounds
        if row.key in figures.get(name, {}) and row.key in figures.get(other, {})
    ]


def table(rounds: Rounds, loads: Sequence[Load], ref: str) -> str:
    """The comparison as Markdown."""
    heads = ("", ref, TREE, f"{TREE} against {ref}", f"against {FASTAPI}", f"against {ASGI}")
    lines = [f"| {' | '.join(heads)} |", "| --- " + "| ---: " * 5 + "|"]
    for row in rows(loads):
        cells = [
            spread(
                [figures[name][row.key] for figures in rounds if row.key in figures[name]],
                row.digits,
            )
            for name in (ref, TREE)
        ]
        fixed_answers = (FASTAPI, ASGI) if row.key.startswith(ONE) else ()
        cells.append(spread(ratios(rounds, row, TREE, ref), 2))
        cells += [spread(ratios(rounds, row, TREE, name), 2) for name in fixed_answers]
        cells += [""] * (5 - len(cells))
        lines.append(f"| {row.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def line(rounds: Rounds, loads: Sequence[Load], ref: str, *, log: bool) -> str:
    """The comparison in one line, for a commit message."""
    parts = [f"{row.short} {spread(ratios(rounds, row, TREE, ref), 2)}" for row in rows(loads)]
    at_32 = next(row for row in rows(LOADS) if row.short == "c32")
    fixed_answers = [
        f"{name} × {spread(found, 2)}"
        for name in (FASTAPI, ASGI)
        if (found := ratios(rounds, at_32, TREE, name))
    ]
    log_off = "" if log else ", request log off"
    compared = [", ".join(part) for part in (parts, fixed_answers) if part]
    return f"against {ref}{log_off}: {'; '.join(compared)}"


def compare(ref: str, rounds: int, core: int, *, log: bool) -> str:
    """Measure the working tree against a ref. Returns the table and the line."""
    name = commit_of(ref)
    workloads = service_workloads()
    prepare(ROOT)
    with checkout(ref) as root:
        contenders = (
            service(name, root, workloads, log=log),
            service(TREE, ROOT, workloads, log=log),
            fixed(FASTAPI, SERVERS["null"]),
            fixed(ASGI, SERVERS["asgi"]),
        )
        results = measure_rounds(contenders, LOADS, rounds, core)
    return _comparison(results, LOADS, name, log=log)


def compare_photographs(network: str, ref: str, rounds: int, core: int, *, log: bool) -> str:
    """The same with photographs, and one of `benchmarks.peers.photographs.NETWORKS`."""
    name = f"{commit_of(ref)}, {network}"
    prepare(ROOT)
    with tempfile.TemporaryDirectory(prefix="vae-network-") as scratch, checkout(ref) as root:
        bundle = make_network(network, Path(scratch))
        workloads = {w.name: w for w in photograph_workloads(SERVERS["ours"], bundle)}
        contenders = [
            service(label, place, workloads, log=log, bundle=bundle)
            for label, place in ((name, root), (TREE, ROOT))
        ]
        results = measure_rounds(contenders, PHOTOGRAPH_LOADS, rounds, core)
    return _comparison(results, PHOTOGRAPH_LOADS, name, log=log)


def _comparison(rounds: Rounds, loads: Sequence[Load], ref: str, *, log: bool) -> str:
    return (
        f"Medians and (min–max) of {len(rounds)} round{'s' * (len(rounds) > 1)}. A ratio of 1.0 or "
        "more means that the working tree is at least as good.\n\n"
        f"{table(rounds, loads, ref)}\n{line(rounds, loads, ref, log=log)}\n"
    )


def history(span: str, every: int, rounds: int, core: int, *, log: bool) -> str:
    """Measure every n-th commit of `A..B`, and the last one. Returns a table of them.

    Each commit takes turns with FastAPI, so ratios to it compare neighbours in time. The row of a
    commit that cannot be measured gives the reason.
    """
    workloads = service_workloads()
    commits = commits_between(span)
    chosen = [*commits[:-1:every], commits[-1]]
    fastapi = fixed(FASTAPI, SERVERS["null"], [one.workload for one in HISTORY_LOADS])
    results: dict[str, Rounds | str] = {}
    for number, (name, subject) in enumerate(chosen, 1):
        _report(f"commit {number} of {len(chosen)}: {name} {subject}")
        try:
            with checkout(name) as root:
                contenders = (fastapi, service(name, root, workloads, log=log))
                results[name] = measure_rounds(contenders, HISTORY_LOADS, rounds, core)
        except (CheckoutError, PeerError, load.LoadError) as error:
            results[name] = str(error)
    return history_table(chosen, results)


def history_table(commits: Sequence[tuple[str, str]], results: Mapping[str, Rounds | str]) -> str:
    """A row for each commit: requests/s against FastAPI, and that ratio against the first row's."""
    compared = [row for row in rows(HISTORY_LOADS) if row.title.endswith(REQUESTS)]
    heads = [
        f"{one.title}, × {other}" for one in HISTORY_LOADS for other in (FASTAPI, commits[0][0])
    ]
    lines = [f"| commit | {' | '.join(heads)} | |", "| --- " + "| ---: " * len(heads) + "| --- |"]
    first: dict[str, float] = {}
    for name, plain_subject in commits:
        subject, measured = plain_subject.replace("|", "\\|"), results[name]
        if isinstance(measured, str):
            lines.append(
                f"| {name} " + "| – " * len(heads) + f"| {subject}; not measured: {measured} |"
            )
            continue
        cells = []
        for row in compared:
            values = ratios(measured, row, name, FASTAPI)
            middle = median(values)
            cells += [spread(values, 2), f"{middle / first.setdefault(row.key, middle):.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {subject} |")
    return "\n".join(lines) + "\n"


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Have a signal that ends the program clean up first: servers are stopped, worktrees removed.

    A second signal meanwhile is ignored.
    """

    def leave(number: int, _: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the working tree against a commit, or a range of commits against FastAPI."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("ref", nargs="?", help="the commit, tag or branch to compare with")
    what.add_argument("--history", metavar="A..B", help="measure these commits, A too")
    parser.add_argument(
        "--every", type=_positive, default=1, metavar="N", help="with --history: each N-th commit"
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        help=f"{ROUNDS} by default, {HISTORY_ROUNDS} for each commit of a history",
    )
    parser.add_argument(
        "--photographs",
        choices=NETWORKS,
        help="score photographs with such a network, instead of digits; not with --history",
    )
    parser.add_argument("--no-log", action="store_true", help="with the request log off")
    given = parser.parse_args(argv)
    if given.history and given.photographs:
        parser.error("--photographs compares with one commit, not with a --history")
    load.wrk()
    server_core, load_core = two_cores()
    log = not given.no_log
    rounds = given.rounds or (HISTORY_ROUNDS if given.history else ROUNDS)
    try:
        with cleaning_up(), pinned({load_core}):
            if given.history:
                text = history(given.history, given.every, rounds, server_core, log=log)
            elif given.photographs:
                text = compare_photographs(
                    given.photographs, given.ref, rounds, server_core, log=log
                )
            else:
                text = compare(given.ref, rounds, server_core, log=log)
            print(text, end="")
    except (CheckoutError, PeerError, load.LoadError) as error:
        _report(f"error: {error}")
        return 1
    return 0


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
