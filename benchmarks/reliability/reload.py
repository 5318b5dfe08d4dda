"""Two bundles of the same shape that replace each other under load.

Each answer names its version, and its scores must be those of this bundle and no other. Then the
weights file is truncated: the service must keep the network that it has loaded, and say why.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.common import PIXELS
from benchmarks.reliability.caller import Answer
from benchmarks.reliability.crowd import Crowd
from benchmarks.reliability.harness import (
    Figures,
    Promise,
    Service,
    equals,
    pixels,
    raw,
    run,
    service,
    tell,
    told,
    wait_for,
)
from model.bundle.bundle import PRETRAINED, find_bundle, load_bundle
from model.engine.engine import Engine

BUNDLES: Final = ("mnist", "fashion-mnist")

COUNTS: Final = (1, 64, 256)
"""Images per request: alone, in a batch, and in several batches."""

CLIENTS: Final = 6

LOAD_S: Final = 0.3
"""Pause between two reloads."""

RELOAD_S: Final = 20.0
"""Longest wait until all workers have the new bundle."""

LOOKS: Final = 12
"""New connections that must all see the new version. Any worker may accept each of them."""

TOLERANCE: Final = 1e-4

RELOAD: Final = ("/model/reload", {"Content-Length": "0"}, b"")


class Expected:
    """The scores of both bundles, by version."""

    def __init__(self) -> None:
        images = np.frombuffer(pixels(), np.uint8)[: max(COUNTS) * PIXELS].reshape(-1, PIXELS)
        self.versions: dict[str, str] = {}
        """By name of the bundle."""
        self.scores: dict[str, NDArray[Any]] = {}
        for name in BUNDLES:
            engine = Engine(load_bundle(find_bundle(name)), device="cpu", threads=1)
            self.versions[name] = engine.bundle.version
            self.scores[engine.bundle.version] = engine.score(images, engine.scores[0]).score

    def check(self, seen: Counter[str], answer: Answer) -> str | None:
        """Returns what is wrong with an answer, or None."""
        if answer.status != 200:
            return f"{answer.status} {answer.body[:200]!r}"
        version = answer.headers.get("x-model-version", "none")
        seen[version] += 1
        right = self.scores.get(version)
        scores = np.array(json.loads(answer.body)["score"])
        if right is None:
            return f"unknown version {version}"
        if not np.allclose(scores, right[: len(scores)], rtol=TOLERANCE, atol=TOLERANCE):
            return f"scores {scores[:3]} are not those of {version}, {right[:3]}"
        return None


def put(name: str, place: Path) -> None:
    """Replace the bundle at `place`. A partial bundle is never there."""
    new = place.with_name("new")
    shutil.copytree(PRETRAINED / name, new)
    if place.exists():
        place.rename(place.with_name("old"))
    new.rename(place)
    shutil.rmtree(place.with_name("old"), ignore_errors=True)


def ask_for_it(live: Service, *, by_signal: bool) -> str:
    """Request a reload. Returns the status, and the body if the reload failed."""
    if by_signal:
        live.process.send_signal(signal.SIGHUP)
        return "200"
    with live.caller() as caller:
        answer = caller.ask(RELOAD)
    return str(answer.status) if answer.status == 200 else f"{answer.status} {answer.body!r}"


def all_have(live: Service, version: str) -> bool:
    """Whether every new connection sees this version."""
    with suppress(OSError, HTTPException):
        seen = {live.get("/model").headers.get("x-model-version") for _ in range(LOOKS)}
        return seen == {version}
    return False


def reload_under_load(workers: int, times: int, expected: Expected, place: Path) -> Figures:
    """Reload `times` times, by signal and by request in turn, then once with a broken bundle."""
    put(BUNDLES[0], place)
    seen: Counter[str] = Counter()
    figures: Figures = {"changed_s": [], "answers_to_reload": []}
    with service("--workers", str(workers), "--bundle", str(place)) as live:
        requests = [raw(count) for count in COUNTS]
        check = partial(expected.check, seen)
        with Crowd(live.port, *requests, clients=CLIENTS, check=check) as crowd:
            for number in range(times):
                time.sleep(LOAD_S)
                name = BUNDLES[(number + 1) % 2]
                put(name, place)
                figures["answers_to_reload"].append(ask_for_it(live, by_signal=number % 2 == 0))
                change = partial(all_have, live, expected.versions[name])
                changed_s = wait_for(change, RELOAD_S)
                figures["changed_s"].append(changed_s)
                tell(f"{workers} workers, reload {number + 1}: {name} after {changed_s} s")
            version = live.get("/model").headers["x-model-version"]
            weights = place / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1000])
            with live.caller() as caller:
                answer = caller.ask(RELOAD)
            logged = len(live.said())
            live.process.send_signal(signal.SIGHUP)
            figures["log_says_why"] = (
                wait_for(lambda: "model.safetensors" in live.said()[logged:], 5.0) is not None
            )
            time.sleep(LOAD_S)
            figures["old_one_serves"] = all_have(live, version)
            figures["alive"] = live.is_alive()
        figures["broken_status"] = answer.status
        figures["broken_detail"] = answer.body.decode(errors="replace")[:300]
    return figures | {
        "failures": [failure.what for failure in crowd.failures][:20],
        "failed": len(crowd.failures),
        "answered": len(crowd.answers),
        "seen": dict(seen),
    }


def _promises(workers: int, times: int, figures: Figures) -> list[Promise]:
    by = f"{times} reloads under load, {workers} worker{'s' * (workers > 1)}"
    changed = [seconds for seconds in figures["changed_s"] if seconds is not None]
    why = figures["log_says_why"] and "model.safetensors" in figures["broken_detail"]
    refused = figures["broken_status"] // 100 == 4 or figures["broken_status"] == 503
    return [
        equals(
            f"{by}: requests that failed or got scores of another version", figures["failed"], 0
        ),
        equals(f"{by}: all workers changed", len(changed), times),
        equals(f"{by}: versions seen", len(figures["seen"]), 2),
        Promise(
            what=f"a broken bundle, {workers} worker{'s' * (workers > 1)}: the old bundle "
            "stays in service",
            goal="True",
            measured=str(figures["old_one_serves"] and figures["alive"]),
            reached=figures["old_one_serves"] and figures["alive"],
        ),
        Promise(
            what="a broken bundle: answer and log say why",
            goal="4xx or 503, with the file's name",
            measured=f"{figures['broken_status']}, {'with' if why else 'without'} the file's name",
            reached=why and refused,
        ),
    ]


def measure(*, short: bool) -> Figures:
    times = 2 if short else 10
    expected = Expected()
    promises: list[Promise] = []
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="vae-reload-") as scratch:
        for workers in (1, 2):
            outcome = reload_under_load(workers, times, expected, Path(scratch, "bundle"))
            promises += _promises(workers, times, outcome)
            figures[f"{workers} workers"] = outcome
    return told(promises, **figures)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
