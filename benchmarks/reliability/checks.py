"""Promises that need no load. Tests verify them, and this script runs those tests by name."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.peers.environment import ROOT
from benchmarks.reliability.harness import Figures, Promise, run, told

FAULTS: Final = "Faults"
HOSTILE: Final = "Hostile input and access"
SEEING: Final = "Observability"


@dataclass(frozen=True)
class Check:
    """A promise, and the pytest ids of the tests that fail if it is broken."""

    section: str
    what: str
    tests: tuple[str, ...]

    @property
    def command(self) -> str:
        return f"python -m pytest {' '.join(self.tests)}"


CHECKS: Final = (
    Check(
        FAULTS,
        "when a batch fails, only the request that caused it gets 500",
        (
            "tests/unit/service/inference/test_batching.py::test_a_failure_is_its_own_request_s_only",
            "tests/api/test_overload.py::test_a_request_that_breaks_its_batch_breaks_only_itself",
        ),
    ),
    Check(
        FAULTS,
        "when GPU memory runs out, batches are halved from then on",
        (
            "tests/unit/model/engine/test_cuda.py::test_memory_that_runs_out_halves_the_batches",
            "tests/unit/model/engine/test_cuda.py::test_memory_that_runs_out_halves_drawn_passes_too",
        ),
    ),
    Check(
        FAULTS,
        "ready means the right answer to a known image",
        ("tests/api/test_health.py", "tests/unit/model/bundle/test_self_test.py"),
    ),
    Check(
        FAULTS,
        "connections waiting when the listening socket closes are served, also in a TLS handshake",
        ("tests/unit/service/server/test_listeners.py",),
    ),
    Check(
        HOSTILE,
        "endless heads, lines, trailers and bodies, and answers that nobody reads, are cut off",
        ("tests/api/test_hostile_http.py",),
    ),
    Check(
        HOSTILE,
        "no body gets a 500 (hypothesis)",
        ("tests/property/test_hostile_bodies.py",),
    ),
    Check(
        HOSTILE,
        "every route behaves as its OpenAPI description says (schemathesis)",
        ("tests/api/test_schemathesis.py",),
    ),
    Check(
        HOSTILE,
        "API keys are hashed, reread and compared in constant time; rates count images per second",
        ("tests/unit/service/access/test_keys.py", "tests/unit/service/access/test_rates.py"),
    ),
    Check(
        HOSTILE,
        "access: scopes, 401, 403 and 429; without keys, loopback only",
        ("tests/api/test_access.py", "tests/unit/test_compose.py"),
    ),
    Check(
        HOSTILE,
        "TLS from files, no obsolete versions; slow handshakes and shutdowns hold nothing up",
        ("tests/api/test_tls.py",),
    ),
    Check(
        HOSTILE,
        "CORS off unless set, security headers on pages",
        ("tests/api/test_pages.py",),
    ),
    Check(
        HOSTILE,
        "no stack trace, path or library version in an answer, no image or key in a log",
        ("tests/api/test_leaks.py",),
    ),
    Check(
        HOSTILE,
        "a pinned version with a known vulnerability fails the audit that `make lint` runs",
        ("tests/unit/test_audit.py",),
    ),
    Check(
        HOSTILE,
        "weights: safetensors only; header and shapes are checked before the data is read",
        (
            "tests/unit/model/bundle/test_bundle_damage.py::test_a_pickle_is_not_even_tried",
            "tests/unit/model/bundle/test_bundle_damage.py::test_too_large_a_file_is_refused_unread",
            "tests/unit/model/bundle/test_bundle_damage.py::test_weights_are_not_read_past_a_wrong_header",
            "tests/unit/model/bundle/test_bundle_damage.py::test_damage_with_a_right_hash_is_refused_or_a_network",
        ),
    ),
    Check(
        HOSTILE,
        "`import` of a .pt refuses everything but tensors",
        (
            "tests/unit/model/training/test_import_checkpoint.py::test_a_malicious_pickle_is_refused_and_not_run",
            "tests/unit/model/training/test_import_checkpoint.py::test_the_traps_would_spring",
            "tests/unit/model/training/test_import_checkpoint.py::test_a_tensor_larger_than_the_file_is_refused",
        ),
    ),
    Check(
        SEEING,
        "one log line per request, as text or JSON, with its trace; no images, no keys",
        (
            "tests/unit/service/telemetry/test_request_log.py",
            "tests/unit/service/telemetry/test_log_writer.py",
            "tests/unit/service/telemetry/test_trace_context.py",
            "tests/api/test_seeing.py",
        ),
    ),
    Check(
        SEEING,
        "metrics match the table, are bounded, and add up over workers and their restarts",
        (
            "tests/unit/service/telemetry/test_metrics.py",
            "tests/unit/service/telemetry/test_metrics_files.py",
            "tests/api/test_workers.py::test_metrics_add_up_over_workers_and_their_restarts",
        ),
    ),
)


def of_section(section: str) -> Iterator[Check]:
    return (check for check in CHECKS if check.section == section)


def kept(check: Check) -> Promise:
    """Run the tests that verify a promise."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *check.tests]
    done = subprocess.run(  # noqa: S603 - our own tests
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    last_line = (done.stdout.strip().splitlines() or ["no output"])[-1]
    match = re.search(r"\d+ (passed|failed|error).*?(?= in )", last_line)
    outcome = match[0] if match else last_line[:80]
    return Promise(
        what=check.what,
        goal="all pass",
        measured=outcome,
        reached=done.returncode == 0 and "passed" in outcome,
    )


def measure(*, short: bool) -> Figures:
    """The tests have no short version: `make test-all` runs them anyway."""
    return told([kept(check) for check in CHECKS])


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
