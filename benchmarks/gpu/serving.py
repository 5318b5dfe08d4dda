"""The service on the device, loaded over HTTP with raw uint8 images; and FastAPI with a fixed
answer, for comparison, by the same clients."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import numpy as np

from benchmarks.gpu import closed_loop
from benchmarks.gpu.passes import pixels
from benchmarks.gpu.plan import Load, Plan
from benchmarks.load import raw_http
from benchmarks.peers.common import HOST
from benchmarks.peers.environment import PeerError
from benchmarks.peers.table import SERVERS, Request, Server
from benchmarks.servers import NoAnswerError, Running, ask, running
from benchmarks.workloads import RAW
from model.bundle.bundle import find_bundle, load_bundle
from model.engine.engine import Engine

TOLERANCE: Final = 1e-4
"""Absolute and relative, of a score. As `benchmarks.servers.check_scores` has no absolute one, it
would refuse a GPU's scores near zero."""

SERVER_FLAGS: Final = (
    *("--log-level", "warning"),
    # By default, one worker refuses the third request of 8,192 images that has to wait.
    *("--max-queue-images", str(1 << 20), "--max-queue-bytes", str(4 << 30)),
)

TRY_S: Final = 30.0
"""For one answer while the service starts: workers take connections before they are ready."""

SETTLE_CONNECTIONS: Final = 16
"""For each worker. All workers have started once as many connections have been answered, as the
kernel deals them out at random."""


def request_of(path: str, images: int) -> Request:
    """So many images as raw bytes, with raw scores as the answer."""
    return path, {"Content-Type": RAW, "Accept": RAW}, pixels(images).tobytes()


def measure_service(
    bundle: str, workers: int, device: str, plan: Plan, keep: Callable[..., None]
) -> None:
    """Start the service, put every load on it, and stop it. `keep` gets each figure at once."""
    flags = ("--device", device, "--bundle", bundle, "--workers", str(workers), *SERVER_FLAGS)
    server = replace(SERVERS["ours"], flags=flags)
    with running(server, check=_check_of(bundle)) as live:
        settled = _measure(
            live, Load(images=1, connections=SETTLE_CONNECTIONS * workers), plan, seconds=0.1
        )
        keep(
            ready_s=live.ready_s,
            all_ready_s=live.ready_s + settled["answered_after_s"],
            gpu_MiB=_nvidia_smi("memory.used"),
            loads=[],
        )
        loads = []
        for load in plan.loads(workers):
            loads.append(_measure(live, load, plan, seconds=plan.request_s))
            keep(loads=loads)
        keep(resident_MiB=live.resident_bytes() / 2**20)


def measure_fixed(plan: Plan, keep: Callable[..., None]) -> None:
    """FastAPI with a fixed answer, in one process: the same request, with a single image."""
    loads = []
    with running(SERVERS["null"]) as live:
        for load in plan.loads(1)[:2]:
            loads.append(_measure(live, load, plan, seconds=plan.request_s))
            keep(loads=loads)


def _measure(live: Running, load: Load, plan: Plan, *, seconds: float) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    figures = closed_loop.measure(
        live.port,
        raw_http(live.port, request_of(live.server.path, load.images)),
        connections=load.connections,
        processes=max(1, cores // 2),
        warm_s=plan.warm_s,
        seconds=seconds,
        server_cpu_s=live.cpu_seconds,
        sample=lambda: _nvidia_smi("utilization.gpu"),
    )
    gpu_percent = figures.pop("sampled")
    images_per_s = figures["requests_per_s"] * load.images
    return {
        "images": load.images,
        "images_per_s": images_per_s,
        "gpu_percent": gpu_percent,
        **figures,
    }


def _check_of(bundle: str) -> Callable[[Server, int, int], None]:
    """Compares the service's scores with the CPU's, computed here."""
    engine = Engine(load_bundle(find_bundle(bundle)), device="cpu")

    def check(server: Server, port: int, count: int) -> None:
        connection = HTTPConnection(HOST, port, timeout=TRY_S)
        try:
            status, answer = ask(connection, request_of(server.path, count))
        except (OSError, HTTPException) as error:
            raise NoAnswerError(f"the service does not answer: {error}") from error
        finally:
            connection.close()
        if status != 200:
            raise NoAnswerError(f"the service answers with {status}: {answer[:200]!r}")
        found, expected = np.frombuffer(answer, "<f4"), engine.score(pixels(count)).score
        if found.shape != expected.shape or not np.allclose(found, expected, TOLERANCE, TOLERANCE):
            raise PeerError(f"the service gives other scores: {found[:3]}, not {expected[:3]}")

    return check


def _nvidia_smi(what: str) -> float | None:
    """A number that nvidia-smi reports of the first GPU; None if it does not."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)  # noqa: S603 - fixed
        return float(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
