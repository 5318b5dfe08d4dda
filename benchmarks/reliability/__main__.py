"""Run all scripts, or only the named ones, and merge their figures into the stored results.

`make soak` runs all of them. `python -m benchmarks.reliability overload stops` runs two. With
`--short`, each takes seconds, and nothing is stored unless `--write` is given.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any, Final

from benchmarks.machine import commit, hardware
from benchmarks.peers.environment import ROOT
from benchmarks.reliability.harness import Promise, equals
from benchmarks.reliability.results import ORDER, promises_of, read, stored, write

ARGUMENTS: Final[dict[str, tuple[list[str], list[str]]]] = {
    "fuzz": (["--inputs", "100000"], ["--inputs", "3000"]),
    "bombs": ([], ["--times", "2"]),
}
"""Scripts that have no flag `--short`: their arguments for a long run and for a short one."""

MOST_S: Final = 3600.0
"""A script that takes longer is considered hung."""


def run_one(name: str, *, short: bool) -> dict[str, Any]:
    """Run one script. A failure to measure counts as a broken promise."""
    arguments = ARGUMENTS.get(name, ([], ["--short"]))[short]
    about: dict[str, Any] = {
        "command": " ".join(["python", "-m", f"benchmarks.reliability.{name}", *arguments]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "hardware": hardware(),
    }
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own scripts
        [sys.executable, "-m", f"benchmarks.reliability.{name}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=MOST_S,
    )
    about["took_s"] = round(time.monotonic() - began)
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines()
    figures: dict[str, Any] = {}
    promises: list[Promise] = []
    if lines and lines[-1].startswith("{"):
        figures = json.loads(lines[-1])
        promises = promises_of(name, figures)
    if not promises or (done.returncode and all(promise.reached for promise in promises)):
        promises.append(
            equals(f"{name}: the measurement completes", f"status {done.returncode}", "0")
        )
    return stored(name, figures, promises, about)


def main() -> int:
    """Run the chosen scripts. Returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ORDER))
    parser.add_argument("--short", action="store_true", help="seconds each, as in `make test-all`")
    parser.add_argument("--write", action="store_true", help="store figures of short runs, too")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(ORDER):
        parser.error(f"no such script: {', '.join(sorted(unknown))}; available: {', '.join(ORDER)}")
    broken = []
    for name in arguments.names or ORDER:
        print(f"--- {name}", flush=True)
        outcome = run_one(name, short=arguments.short)
        broken += [f"{name}: {p['what']}" for p in outcome["promises"] if not p["reached"]]
        if arguments.write or not arguments.short:
            results = read()  # reread each time, to keep what another run has stored meanwhile
            results[name] = outcome
            write({key: results[key] for key in ORDER if key in results})
    for line in broken:
        print(f"BROKEN  {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
