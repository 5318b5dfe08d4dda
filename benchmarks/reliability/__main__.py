"""Run all scripts, or those named (`make soak`), and merge their figures into the stored results.

`python -m benchmarks.reliability overload stops` runs two, `--short` what takes seconds of each, in
which case nothing is written unless `--write` is said.
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
"""Arguments of scripts without `--short`: for a long run and a short one."""

MOST_S: Final = 3600.0
"""A script that takes longer is considered hung."""


def run_one(name: str, *, short: bool) -> dict[str, Any]:
    """Run one script. A script that fails keeps no promise."""
    given = ARGUMENTS.get(name, ([], ["--short"]))[short]
    about: dict[str, Any] = {
        "command": " ".join(["python", "-m", f"benchmarks.reliability.{name}", *given]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
        "hardware": hardware(),
    }
    began = time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own scripts
        [sys.executable, "-m", f"benchmarks.reliability.{name}", *given],
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
        promises.append(equals(f"{name}: it can be measured", f"status {done.returncode}", "0"))
    return stored(name, figures, promises, about)


def main() -> int:
    """Returns 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ORDER))
    parser.add_argument("--short", action="store_true", help="seconds each, as in `make test`")
    parser.add_argument("--write", action="store_true", help="write figures of short runs too")
    given = parser.parse_args()
    if unknown := set(given.names) - set(ORDER):
        parser.error(f"no such script: {', '.join(sorted(unknown))}; there are {', '.join(ORDER)}")
    broken = []
    for name in given.names or ORDER:
        print(f"--- {name}", flush=True)
        found = run_one(name, short=given.short)
        broken += [f"{name}: {p['what']}" for p in found["promises"] if not p["reached"]]
        if given.write or not given.short:
            results = read()  # reread each time, to keep what another run has written meanwhile
            results[name] = found
            write({key: results[key] for key in ORDER if key in results})
    for line in broken:
        print(f"BROKEN  {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
