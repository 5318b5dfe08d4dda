"""Two bundles of the same shape that replace each other under load.

Each answer names its version, and its scores must be those of that bundle and no other. Then the
weights of one are cut short: the other one goes on, and the service says why.
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
"""Longest wait for all workers to have changed."""

LOOKS: Final = 12
"""New connections that must all see the new version: any worker may accept one."""

TOLERANCE: Final = 1e-4

RELOAD: Final = ("/model/reload", {"Content-Length": "0"}, b"")


class Expected:
    """The scores of both bundles, by version."""

    def __init__(self) -> None:
        images = np.frombuffer(pixels(), np.uint8)[: max(COUNTS) * PIXELS].reshape(-1, PIXELS)
        self.versions: dict[str, str] = {}
        """By name."""
        self.scores: dict[str, NDArray[Any]] = {}
        for name in BUNDLES:
            engine = Engine(load_bundle(find_bundle(name)), device="cpu", threads=1)
            self.versions[name] = engine.bundle.version
            self.scores[engine.bundle.version] = engine.score(images, engine.scores[0]).score

    def check(self, seen: Counter[str], answer: Answer) -> str | None:
        """What is wrong with an answer."""
        if answer.status != 200:
            return f"{answer.status} {answer.body[:200]!r}"
        version = answer.headers.get("x-model-version", "none")
        seen[version] += 1
        right = self.scores.get(version)
        given = np.array(json.loads(answer.body)["score"])
        if right is None:
            return f"its version is {version}"
        if not np.allclose(given, right[: len(given)], rtol=TOLERANCE, atol=TOLERANCE):
            return f"scores {given[:3]} are not those of {version}, {right[:3]}"
        return None


def put(name: str, place: Path) -> None:
    """Put a bundle's files where the service looks, atomically."""
    new = place.with_name("new")
    shutil.copytree(PRETRAINED / name, new)
    if place.exists():
        place.rename(place.with_name("old"))
    new.rename(place)
    shutil.rmtree(place.with_name("old"), ignore_errors=True)


def ask_for_it(live: Service, *, by_signal: bool) -> str:
    """Request a reload; the answer."""
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
    """`times` reloads, by signal and by request in turn, and then one of a broken bundle."""
    put(BUNDLES[0], place)
    seen: Counter[str] = Counter()
    found: Figures = {"changed_s": [], "answers_to_reload": []}
    with service("--workers", str(workers), "--bundle", str(place)) as live:
        requests = [raw(count) for count in COUNTS]
        check = partial(expected.check, seen)
        with Crowd(live.port, *requests, clients=CLIENTS, check=check) as crowd:
            for number in range(times):
                time.sleep(LOAD_S)
                name = BUNDLES[(number + 1) % 2]
                put(name, place)
                found["answers_to_reload"].append(ask_for_it(live, by_signal=number % 2 == 0))
                change = partial(all_have, live, expected.versions[name])
                changed_s = wait_for(change, RELOAD_S)
                found["changed_s"].append(changed_s)
                tell(f"{workers} workers, reload {number + 1}: {name} after {changed_s} s")
            version = live.get("/model").headers["x-model-version"]
            weights = place / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-1000])
            with live.caller() as caller:
                answer = caller.ask(RELOAD)
            said = len(live.said())
            live.process.send_signal(signal.SIGHUP)
            found["log_says_why"] = (
                wait_for(lambda: "model.safetensors" in live.said()[said:], 5.0) is not None
            )
            time.sleep(LOAD_S)
            found["old_one_serves"] = all_have(live, version)
            found["alive"] = live.is_alive()
        found["broken_status"] = answer.status
        found["broken_detail"] = answer.body.decode(errors="replace")[:300]
    return found | {
        "failures": [failure.what for failure in crowd.failures][:20],
        "failed": len(crowd.failures),
        "answered": len(crowd.answers),
        "seen": dict(seen),
    }


def _promises(workers: int, times: int, found: Figures) -> list[Promise]:
    by = f"{times} reloads under load, {workers} worker{'s' * (workers > 1)}"
    changed = [seconds for seconds in found["changed_s"] if seconds is not None]
    why = found["log_says_why"] and "model.safetensors" in found["broken_detail"]
    refused = found["broken_status"] // 100 == 4 or found["broken_status"] == 503
    return [
        equals(f"{by}: failed requests, or with scores of another version", found["failed"], 0),
        equals(f"{by}: all workers changed", len(changed), times),
        equals(f"{by}: versions seen", len(found["seen"]), 2),
        Promise(
            what=f"a broken bundle, {workers} worker{'s' * (workers > 1)}: the old one serves on",
            goal="True",
            measured=str(found["old_one_serves"] and found["alive"]),
            reached=found["old_one_serves"] and found["alive"],
        ),
        Promise(
            what="a broken bundle: answer and log say why",
            goal="4xx or 503, with the file's name",
            measured=f"{found['broken_status']}, {'with' if why else 'without'} the file's name",
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
            found = reload_under_load(workers, times, expected, Path(scratch, "bundle"))
            promises += _promises(workers, times, found)
            figures[f"{workers} workers"] = found
    return told(promises, **figures)


if __name__ == "__main__":
    sys.exit(run(measure, __doc__))
