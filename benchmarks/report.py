"""The results of `benchmarks.serving` as tables, a chart and a JSON file.

`python -m benchmarks.report` makes the tables and the chart again from the JSON file.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from benchmarks.engine import BFLOAT16
from benchmarks.goals import ENGINE, SCHEDULE_NAMES, TWO_WORKERS, Goal, Value, at, each, goals
from benchmarks.load import wrk_version
from benchmarks.machine import RESULTS
from benchmarks.peers.table import SERVERS
from benchmarks.workloads import CONNECTIONS, FEW, MANY, ONE

NAME: Final = "serving"

OTHER_TITLES: Final = {
    TWO_WORKERS: "this service, 2 workers",
    ENGINE: "the network without a server",
}
"""Of what is measured and is no entry of `SERVERS`."""

LATENCIES: Final = (("p50 ms", "p50_ms", 2), ("p99 ms", "p99_ms", 2), ("p99.9 ms", "p999_ms", 2))
"""Columns: heading, figure, digits."""

Results = Mapping[str, Any]


def versions(names: Iterable[str]) -> dict[str, Any]:
    """The versions of what is measured, and of what measures it."""
    ours = {name: version(name) for name in ("torch", "numpy", "uvloop", "httptools")}
    return {
        "python": platform.python_version(),
        "wrk": wrk_version(),
        **ours,
        "servers": {name: SERVERS[name].versions for name in names},
    }


def write(results: Results) -> None:
    """Write the JSON file, the tables and the chart to benchmarks/results/."""
    from benchmarks.chart import draw

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{NAME}.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / f"{NAME}.md").write_text(markdown(results))
    draw(results, RESULTS / f"{NAME}.png")


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The median of the values, and (min–max) if there are several."""
    if not values:
        return "–"
    median = f"{statistics.median(values):,.{digits}f}{unit}"
    if len(values) == 1:
        return median
    return f"{median} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def markdown(results: Results) -> str:
    """All tables, as Markdown. Figures are medians over the rounds, with (min–max)."""
    plan = results["plan"]
    rounds: Sequence[Results] = results["rounds"]
    parts = [
        "# How fast it answers, compared with others",
        introduction(results),
        _goals_table([g for g in goals(results) if g.values or not plan["partial"]]),
        *failures(rounds),
        f"## {ONE}",
        "The last number in a column's heading is the number of connections.",
        _one_table(rounds),
        f"## {MANY}",
        _many_table(rounds),
        "## Memory, start and idle load",
        lives_table(rounds),
        "## This service, each workload",
        _workloads_table(rounds, "ours"),
    ]
    if any(TWO_WORKERS in figures for figures in rounds):
        parts += ["## With two workers", _workloads_table(rounds, TWO_WORKERS)]
    parts += [
        "## Open loop",
        "One-image JSON, sent at fixed rates however the server answers; latencies count from the "
        "time at which a request was due.",
        _open_table(rounds),
        "## The network without a server",
        "`Engine.score` of uint8 images in a loop on one core: images/s, and its FLOP/s against a "
        "2048³ product of the same type on the same core.",
        _engine_table(rounds),
        "## Versions",
        versions_list(results["versions"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def introduction(results: Results) -> str:
    """What was measured, when, where and for how long."""
    machine, plan = results["hardware"], results["plan"]
    units = ", ".join(machine["vector_units"])
    return (
        f"`{results['command']}`, {results['date']}, commit {results['commit']}: "
        f"{machine['cores']} cores of an {machine['cpu']} ({units}), {machine['memory_GiB']} GiB, "
        f"{machine['system']}, load before {machine['load_before']}. {plan['rounds']} "
        f"round{'s' * (plan['rounds'] > 1)}, {plan['seconds']} s a measurement. Medians, with "
        "(min–max) over the rounds; ratios are of figures of the same round."
    )


WORDS: Final = frozenset({"", "what", "reached", "requests come"})
"""Headings of columns without numbers."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---" if heading in WORDS else "---:" for heading in header]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _goals_table(shown: Sequence[Goal]) -> str:
    reached = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        (
            f"{goal.number}. {goal.what}",
            f"{'≤' if goal.at_most else '≥'} {goal.limit:g}{goal.unit}",
            spread(goal.values, 2, goal.unit),
            reached[goal.reached],
            goal.note,
        )
        for goal in shown
    ]
    return table(("what", "goal", "measured", "reached", ""), rows)


def failures(rounds: Sequence[Results]) -> list[str]:
    """A line for each server and reason."""
    failed: dict[tuple[str, str], list[str]] = {}
    for number, figures in enumerate(rounds, 1):
        for name, measured in figures.items():
            if "error" in measured:
                failed.setdefault((name, measured["error"]), []).append(str(number))
    return [
        f"**{title(name)} failed** in round {', '.join(numbers)}: {reason}"
        for (name, reason), numbers in failed.items()
    ]


def title(name: str) -> str:
    """How the tables name a server."""
    return SERVERS[name].title if name in SERVERS else OTHER_TITLES[name]


def servers(rounds: Sequence[Results]) -> list[str]:
    """Those in the results."""
    return [name for name in SERVERS if any(name in figures for figures in rounds)]


def cell(rounds: Sequence[Results], value: Value, digits: int) -> str:
    """A value in all rounds that have it, as in `spread`."""
    return spread(each(rounds, value), digits)


def _one_table(rounds: Sequence[Results]) -> str:
    columns = [
        *((f"requests/s, {count}", str(count), "requests_per_s", 0) for count in CONNECTIONS),
        ("p50 ms, 1", "1", "p50_ms", 2),
        ("p50 ms, 32", "32", "p50_ms", 2),
        ("p99 ms, 32", "32", "p99_ms", 2),
        ("p99.9 ms, 32", "32", "p999_ms", 2),
        ("CPU s per 1,000, 32", "32", "cpu_s_per_1000_images", 3),
    ]
    return servers_table(rounds, ONE, servers(rounds), columns)


def _many_table(rounds: Sequence[Results]) -> str:
    columns = [
        (f"{what}, {count}", str(count), key, digits)
        for what, key, digits in (
            ("images/s", "images_per_s", 0),
            ("p50 ms", "p50_ms", 1),
            ("p99 ms", "p99_ms", 1),
            ("p99.9 ms", "p999_ms", 1),
            ("CPU s per 1,000", "cpu_s_per_1000_images", 3),
        )
        for count in FEW
    ]
    names = [name for name in servers(rounds) if not SERVERS[name].fixed]
    return servers_table(rounds, MANY, names, columns)


Column = tuple[str, str, str, int]
"""Heading, number of connections, figure, digits."""


def servers_table(
    rounds: Sequence[Results], workload: str, names: Iterable[str], columns: Sequence[Column]
) -> str:
    """A row for each server, with errors in the last column."""
    rows = [
        [title(name)]
        + [
            cell(rounds, at(name, "workloads", workload, connections, key), digits)
            for _, connections, key, digits in columns
        ]
        + [_errors(rounds, name, workload)]
        for name in names
    ]
    return table(["", *(column[0] for column in columns), "errors"], rows)


def _errors(rounds: Sequence[Results], server: str, workload: str) -> str:
    """Errors of requests, over all rounds and numbers of connections."""
    measured = [
        figures
        for each_round in rounds
        for figures in each_round.get(server, {}).get("workloads", {}).get(workload, {}).values()
    ]
    errors, requests = (sum(f[key] for f in measured) for key in ("errors", "requests"))
    if not measured:
        return "–"
    return f"{errors:,} of {requests:,}" if errors else "0"


LIVES: Final = (
    ("ready after, s", "ready_s", 1, 2),
    ("MiB when ready", "ready_MiB", 1, 0),
    ("MiB after work", "used_MiB", 1, 0),
    ("% of a core, idle", "idle_cpu", 100, 2),
)
"""Columns of `lives_table`: heading, figure, factor, digits."""


def lives_table(
    rounds: Sequence[Results], columns: Sequence[tuple[str, str, int, int]] = LIVES
) -> str:
    """What a server takes, other than time for its answers."""
    names = [*servers(rounds), *([TWO_WORKERS] if TWO_WORKERS in rounds[0] else [])]
    rows = [
        [title(name)]
        + [
            spread([factor * value for value in each(rounds, at(name, key))], digits)
            for _, key, factor, digits in columns
        ]
        for name in names
    ]
    return table(["", *(column[0] for column in columns)], rows)


def _workloads_table(rounds: Sequence[Results], server: str) -> str:
    columns = (
        ("requests/s", "requests_per_s", 0),
        ("images/s", "images_per_s", 0),
        *LATENCIES,
        ("CPU s per 1,000 images", "cpu_s_per_1000_images", 4),
        ("server's cores", "cpu", 2),
        ("generator's cores", "generator_cpu", 2),
        ("errors", "errors", 0),
    )
    workloads: dict[str, Results] = {ONE: {}, MANY: {}}  # these first
    for figures in rounds:
        workloads |= figures.get(server, {}).get("workloads", {})
    rows = [
        [workload, connections]
        + [
            cell(rounds, at(server, "workloads", workload, connections, key), digits)
            for _, key, digits in columns
        ]
        for workload in workloads
        for connections in sorted(workloads[workload], key=int)
    ]
    return table(["", "connections", *(column[0] for column in columns)], rows)


def _open_table(rounds: Sequence[Results]) -> str:
    columns = (
        ("sent/s", "rate", 0),
        ("answered/s", "answered_per_s", 0),
        *LATENCIES,
        ("errors", "errors", 0),
        ("generator's cores", "generator_cpu", 2),
        ("its p99 lateness, ms", "late_p99_ms", 2),
        ("its max lateness, ms", "late_max_ms", 2),
        ("kept up", "kept_up", 0),
    )
    rows = []
    for name in servers(rounds):
        for schedule in SCHEDULE_NAMES:
            shares: dict[str, Any] = {}
            for figures in rounds:
                shares |= figures.get(name, {}).get("open_loop", {}).get(schedule, {})
            for share in shares:
                row = [title(name), SCHEDULE_NAMES[schedule], f"{100 * float(share):.0f} %"]
                place = (name, "open_loop", schedule, share)
                row += [cell(rounds, at(*place, key), digits) for _, key, digits in columns[:-1]]
                kept_up = each(rounds, at(*place, "kept_up"))
                rows.append([*row, f"{sum(kept_up):.0f} of {len(kept_up)}"])
    header = ("", "requests come", "share of capacity", *(column[0] for column in columns))
    return table(header, rows)


def _engine_table(rounds: Sequence[Results]) -> str:
    engine = next((r[ENGINE] for r in rounds if "dtypes" in r.get(ENGINE, {})), None)
    if not engine:
        return "Not measured."
    kinds = [(dtype, score) for dtype, scores in engine["dtypes"].items() for score in scores]
    header = ["batch"]
    for dtype, score in kinds:
        header += [f"{score}, {dtype}, images/s", "of the product"]
    rows = []
    for batch in engine["dtypes"][kinds[0][0]][kinds[0][1]]:
        row = [batch]
        for kind in kinds:
            place = (ENGINE, "dtypes", *kind, batch)
            row.append(cell(rounds, at(*place, "images_per_s"), 0))
            row.append(cell(rounds, at(*place, "of_product"), 2))
        rows.append(row)
    peaks = [
        f"{dtype} {spread([v / 1e9 for v in each(rounds, at(*_PRODUCT, dtype))], 0)} GFLOP/s"
        for dtype in engine["product_flops_per_s"]
    ]
    text = table(header, rows) + f"\n\nThe products: {', '.join(peaks)}."
    return text if BFLOAT16 in engine["dtypes"] else text + " bfloat16: not measured."


_PRODUCT: Final = (ENGINE, "product_flops_per_s")


def versions_list(versions: Results) -> str:
    """The versions of `versions`, as Markdown."""
    own = ", ".join(f"{name} {value}" for name, value in versions.items() if name != "servers")
    lines = [f"{own}."]
    for name, packages in versions["servers"].items():
        listed = ", ".join(f"{package} {value}" for package, value in packages.items())
        lines.append(f"- {title(name)}: {listed}")
    return "\n".join([lines[0], "", *lines[1:]])


def main(argv: Sequence[str] | None = None) -> None:
    """Make the tables and the chart again from benchmarks/results/serving.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=main.__doc__)
    parser.parse_args(argv)
    write(json.loads((RESULTS / f"{NAME}.json").read_text()))


if __name__ == "__main__":
    main()
