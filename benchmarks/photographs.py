"""Photographs: this service compared with others, from an image file to its score.

`make bench-photographs` runs it, and so does `make bench`. Each server is measured with each of the
networks of `benchmarks.peers.photographs`, by turns as in `benchmarks.serving`. The weights are the
same everywhere; how files are decoded, and what computes the network, is up to the server.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks import load, report
from benchmarks.goals import closed, ratio
from benchmarks.machine import RESULTS, commit, hardware, tell, warn_if_busy
from benchmarks.peers.environment import PeerError
from benchmarks.peers.photographs import JPEG_12, NETWORKS, make_network, photographs
from benchmarks.peers.table import SERVERS, Server
from benchmarks.report import Column, Results
from benchmarks.servers import install_all, running
from benchmarks.workloads import LONGER, PHOTOGRAPH_CONNECTIONS, check_with, photograph_workloads

NAME: Final = "photographs"

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is measured. Seconds are integers, as wrk takes them."""

    servers: tuple[str, ...] = tuple(name for name, s in SERVERS.items() if s.photograph_body)
    rounds: int = 2
    seconds: int = 1
    warm_s: int = 2
    """The first passes of torch are slow, and a server may answer ten a second."""


QUICK: Final = Plan(servers=("ours", "plain"), rounds=1)


def measure_rounds(plan: Plan) -> Figures:
    """Measure everything. Returns what `markdown` takes."""
    started = time.time()
    results: Figures = {
        "command": _command(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(started)),
        "commit": commit(),
        "hardware": hardware(),
        "versions": {"pillow": version("pillow"), **report.versions(plan.servers)},
        "plan": {"rounds": plan.rounds, "seconds": plan.seconds},
        "bytes": {photograph.name: len(photograph.data) for photograph in photographs()},
    }
    broken = install_all(plan.servers)
    rounds: list[Figures] = [{} for _ in range(plan.rounds)]
    with tempfile.TemporaryDirectory(prefix="vae-networks-") as scratch:
        networks = {}
        for name in NETWORKS:
            networks[name] = make_network(name, Path(scratch))
            tell(f"made the network {name}")
        results["networks"] = {name: _facts(path) for name, path in networks.items()}
        for number, figures in enumerate(rounds, 1):
            for network, directory in networks.items():
                figures[network] = {}
                for name in plan.servers:
                    since = time.monotonic()
                    measured = (
                        {"error": broken[name]}
                        if name in broken
                        else measure_server(SERVERS[name], directory, plan)
                    )
                    figures[network][name] = measured
                    tell(
                        f"round {number} of {plan.rounds}, {time.monotonic() - since:.0f} s: "
                        f"{network}, {report.title(name)}: {measured.get('error', 'done')}"
                    )
    return results | {"took_s": round(time.time() - started), "rounds": rounds}


def _command() -> str:
    """The command that repeats this measurement, whatever target has run it."""
    flags = " ".join(sys.argv[1:])
    return "make bench-photographs" + (f" ARGS='{flags}'" if flags else "")


def _facts(directory: Path) -> dict[str, Any]:
    """What the text says of a network: as this service runs it."""
    from model.bundle.bundle import load_bundle
    from model.engine.engine import Engine

    engine = Engine(load_bundle(directory), device="cpu", threads=1)
    backbone = engine.bundle.provenance.get("backbone", {})
    return {
        "image_shape": engine.bundle.config.image_shape,
        "score": engine.scores[0],
        "runtime": engine.runtime,
        "backbone": backbone.get("name"),
    }


def measure_server(server: Server, directory: Path, plan: Plan) -> Figures:
    """Start a server with the network in a directory, measure and stop it.

    Figures from before a failure are kept beside `error`.
    """
    figures: Figures = {"workloads": {}}
    workloads = photograph_workloads(server, directory)
    flags = ("--bundle", str(directory))
    try:
        with running(server, flags=flags, check=check_with(workloads)) as live:
            figures["ready_s"] = live.ready_s
            figures["ready_MiB"] = live.resident_bytes() / 2**20
            first = workloads[0]
            load.closed_loop(live.port, first.request, first.connections[-1], plan.warm_s)
            for workload in workloads:
                seconds = plan.seconds * LONGER.get(workload.name, 1)
                figures["workloads"][workload.name] = {
                    str(connections): load.measure(live, workload, connections, seconds)
                    for connections in workload.connections
                }
            figures["used_MiB"] = live.resident_bytes() / 2**20
    except (PeerError, load.LoadError, OSError) as error:
        figures["error"] = str(error)
    return figures


def write(results: Results) -> None:
    """Write the figures and the tables to benchmarks/results/."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{NAME}.md").write_text(markdown(results))


def markdown(results: Results) -> str:
    """All tables, as Markdown. Figures are medians over the rounds, with (min–max)."""
    parts = [
        "# How fast photographs are scored, compared with others",
        f"{report.introduction(results)} The JPEG file of 12 megapixels is sent for "
        f"{LONGER[JPEG_12]} times as long.",
        HOW,
    ]
    for network, facts in results["networks"].items():
        rounds = [figures[network] for figures in results["rounds"]]
        parts += [f"## {network}", _network_text(facts), *report.failures(rounds)]
        parts += [
            "Requests/s of this service, as a multiple of those of the others. The last number in "
            "a column's heading is the number of connections.",
            _ratios(rounds, list(results["bytes"])),
        ]
        for photograph, size in results["bytes"].items():
            parts += [
                f"### {photograph}: {network}",
                f"The file has {size / 1000:,.0f} kB.",
                report.servers_table(rounds, photograph, report.servers(rounds), COLUMNS),
            ]
        parts += [f"### Start and memory: {network}", report.lives_table(rounds, LIVES)]
    parts += ["## Versions", report.versions_list(results["versions"])]
    return "\n\n".join(parts) + "\n"


HOW: Final = (
    "A request has one image file, and the answer its score. All servers have the same weights and "
    "one thread for the network. The others are written in the straightforward way: Pillow decodes "
    "a file at its full size and resizes it, and torch runs the network. FastAPI and BentoML get "
    "files as forms, LitServe and MLServer as base64 in JSON, Ray Serve as request bodies, and "
    "Triton as binary tensors. This service gets them as request bodies too, and has libjpeg scale "
    "large JPEG files down while it decodes them. The photographs are generated.\n\n"
    "A p99 of fewer than 100 requests is the slowest of them. Requests that are unanswered when a "
    "measurement ends do not count, which at 12 megapixels may cost a slow server that answers in "
    "batches a tenth of its requests/s."
)


def _network_text(facts: Results) -> str:
    _, height, width = facts["image_shape"]
    kind = "A convolutional network"
    if facts["backbone"]:
        kind += f" beside a detector (its backbone: {facts['backbone']})"
    score = f"The score is `{facts['score']}`"
    if not facts["backbone"]:
        score += ", and `mse` in FastAPI of an afternoon"
    return (
        f"{kind}. Images are resized to {width}×{height} pixels. {score}. In this service, "
        f"{facts['runtime']} runs the network."
    )


COLUMNS: Final[Sequence[Column]] = [
    (f"{what}, {connections}", str(connections), key, digits)
    for what, key, digits in (
        ("requests/s", "requests_per_s", 1),
        ("p50 ms", "p50_ms", 1),
        ("p99 ms", "p99_ms", 1),
        ("CPU s per 1,000", "cpu_s_per_1000_images", 1),
    )
    for connections in PHOTOGRAPH_CONNECTIONS
]

LIVES: Final = report.LIVES[:-1]
"""Without the load while idle, which is no different from that of `benchmarks.serving`."""


def _ratios(rounds: Sequence[Results], files: Sequence[str]) -> str:
    """A row for each of the other servers."""
    columns = [(name, connections) for name in files for connections in PHOTOGRAPH_CONNECTIONS]
    rows = [
        [report.title(other)]
        + [
            report.cell(
                rounds,
                ratio(closed("ours", name, connections), closed(other, name, connections)),
                2,
            )
            for name, connections in columns
        ]
        for other in report.servers(rounds)
        if other != "ours"
    ]
    return report.table(["", *(f"{name}, {connections}" for name, connections in columns)], rows)


def _chosen(text: str) -> tuple[str, ...]:
    """Servers by their names, in the order of the plan. Raises `ValueError` for unknown ones.

    Names that only `benchmarks.serving` knows are left out, so that `make bench` can pass both the
    same.
    """
    names = set(text.split(","))
    if unknown := names - {*SERVERS, *report.OTHER_TITLES}:
        raise ValueError(
            f"no such server: {', '.join(sorted(unknown))}; there are {Plan().servers}"
        )
    return tuple(name for name in Plan().servers if name in names)


def main() -> None:
    """Measure all servers and print the tables; a full run writes them to benchmarks/results/."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photographs", description=main.__doc__
    )
    parser.add_argument(
        "--quick", action="store_true", help="this service and FastAPI, once; nothing is written"
    )
    parser.add_argument("--rounds", type=int, help="how often each server is measured")
    parser.add_argument("--seconds", type=int, help="of each measurement")
    parser.add_argument(
        "--servers", help="only these, as in ours,plain,triton; nothing is written then"
    )
    given = parser.parse_args()
    load.wrk()
    plan = QUICK if given.quick else Plan()
    changed: dict[str, Any] = {
        key: value for key in ("rounds", "seconds") if (value := getattr(given, key))
    }
    if given.servers:
        try:
            changed["servers"] = _chosen(given.servers)
        except ValueError as error:
            parser.error(str(error))
    plan = replace(plan, **changed)
    if not plan.servers:
        return
    warn_if_busy()
    results = measure_rounds(plan)
    if not (given.quick or given.servers):
        write(results)
    print(markdown(results))


if __name__ == "__main__":
    main()
