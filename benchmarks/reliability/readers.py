"""The body readers under atheris: over many runs, they raise no errors but their own."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

from benchmarks.peers.environment import ROOT
from benchmarks.reliability.harness import Figures, at_least, equals, run, told

RUNS: Final = 500_000
SHORT_RUNS: Final = 2_000

MOST_S: Final = 600
"""The fuzzer stops after this time, even if it has made fewer runs."""


def measure(*, short: bool) -> Figures:
    requested = SHORT_RUNS if short else RUNS
    flags = [f"-runs={requested}", f"-max_total_time={MOST_S}", "-seed=1"]
    done = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, "-m", "tests.fuzz.readers", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * MOST_S,
    )
    match = re.search(r"^Done (\d+) runs", done.stderr, re.MULTILINE)
    runs = int(match[1]) if match else 0
    return told(
        [
            at_least("runs of the readers under atheris", runs, min(requested, 100_000), "", 0),
            equals("exit status of these runs: 0 without a crash or a hang", done.returncode, 0),
        ],
        runs=runs,
        end=done.stderr[-500:] if done.returncode else "",
    )


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
