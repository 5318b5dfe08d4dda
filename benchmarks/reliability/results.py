"""The stored figures of all scripts, and the table made from them.

`python -m benchmarks.reliability.results` rebuilds the table from the stored file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import RESULTS
from benchmarks.reliability.bombs import MAX_EXTRA_MIB
from benchmarks.reliability.checks import CHECKS, FAULTS, HOSTILE, SEEING, of_section
from benchmarks.reliability.fuzz import MAX_GROWTH_MIB
from benchmarks.reliability.harness import Promise, at_most, equals

NAME: Final = "reliability"

OVERLOAD: Final = "Overload and deadlines"
SOAK: Final = "Soak test"

SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    OVERLOAD: ("overload", "deadlines", "disconnects", "fairness", "slow_clients"),
    FAULTS: ("workers", "stops", "reload", "faults", "stall"),
    HOSTILE: ("fuzz", "readers", "bombs"),
    SEEING: (),
    SOAK: ("soak",),
}
"""Scripts in display order."""

CHECKED: Final = "checks"
"""The script whose promises belong to several sections, each to its own."""

ORDER: Final = (*(name for names in SECTIONS.values() for name in names), CHECKED)

Results = dict[str, Any]
"""By script: its command, date, commit, hardware, duration, promises and other figures."""


def read(directory: Path = RESULTS) -> Results:
    """The stored results, empty if there are none."""
    path = directory / f"{NAME}.json"
    results: Results = json.loads(path.read_text()) if path.exists() else {}
    return results


def write(results: Results, directory: Path = RESULTS) -> None:
    """Store the figures and the table."""
    text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    (directory / f"{NAME}.json").write_text(text)
    (directory / f"{NAME}.md").write_text(markdown(results))


def promises_of(name: str, figures: Mapping[str, Any]) -> list[Promise]:
    """The promises in a script's last line. The goals of `fuzz` and `bombs` are set here."""
    if "promises" in figures:
        return [Promise(**promise) for promise in figures["promises"]]
    if name == "fuzz":
        growth = figures["resident_mib_end"] - figures["resident_mib_start"]
        what = f"{figures['inputs']:,} damaged requests and garbage"
        wrong = len(figures["failures"])
        return [
            equals(
                f"{what}: missing answers, or answers other than 2xx, 4xx, 503 and 504", wrong, 0
            ),
            at_most(f"{what}: memory grows by", growth, MAX_GROWTH_MIB, " MiB"),
        ]
    if name == "bombs":
        what = (
            f"{figures['bombs']} files and headers that would expand to a large size: extra memory"
        )
        return [at_most(what, figures["worst_extra_mib"], MAX_EXTRA_MIB, " MiB")]
    raise KeyError(f"no promises are known for {name}")


def markdown(results: Results) -> str:
    """The complete document."""
    machines = sorted({_machine(run) for run in results.values()})
    dates = sorted({run["date"] for run in results.values()})
    commits = sorted({run["commit"] for run in results.values()})
    parts = [
        "# Reliability under load and faults",
        f"`make soak`, {' to '.join(dates[:1] + dates[1:][-1:])}, commit {', '.join(commits)}: "
        f"{'; '.join(machines)}.",
        table(results),
    ]
    return "\n\n".join(parts) + "\n"


def table(results: Results) -> str:
    """The table, with a row per promise."""
    rows: list[tuple[str, ...]] = [
        ("promise", "goal", "measured", "kept", "command"),
        ("---", "---:", "---:", "---", "---"),
    ]
    for section in SECTIONS:
        lines = list(_lines(section, results))
        if lines:
            rows.append((f"**{section}**", "", "", "", ""))
            rows += lines
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _lines(section: str, results: Results) -> Iterator[tuple[str, ...]]:
    for name in SECTIONS[section]:
        for number, promise in enumerate(results.get(name, {}).get("promises", ())):
            command = f"`{results[name]['command']}`" if number == 0 else "the same"
            yield _line(promise, command)
    checked = {promise["what"]: promise for promise in results.get(CHECKED, {}).get("promises", ())}
    for check in of_section(section):
        if check.what in checked:
            yield _line(checked[check.what], f"`{check.command}`")


def _line(promise: Mapping[str, Any], command: str) -> tuple[str, ...]:
    kept = "yes" if promise["reached"] else "**no**"
    cells = (promise["what"], promise["goal"], promise["measured"], kept, command)
    return tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in cells)


def _machine(run: Mapping[str, Any]) -> str:
    machine = run["hardware"]
    return (
        f"{machine['cores']} cores of an {machine['cpu']}, {machine['memory_GiB']} GiB, "
        f"{machine['system']}"
    )


def stored(
    name: str, figures: Mapping[str, Any], promises: Sequence[Promise], about: Mapping[str, Any]
) -> dict[str, Any]:
    """One script's part of the results."""
    others = {key: value for key, value in figures.items() if key != "promises"}
    return {**about, "promises": [asdict(promise) for promise in promises], "figures": others}


def main() -> int:
    """Rewrite the table from the stored results."""
    results = read()
    unknown = {check.what for check in CHECKS} ^ {
        promise["what"] for promise in results.get(CHECKED, {}).get("promises", ())
    }
    for what in sorted(unknown):
        print(f"no longer in the code, or not run yet: {what}", file=sys.stderr)
    write(results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
