"""Puts load on a server: a closed loop by wrk, an open loop by `benchmarks.open_loop`.

In a closed loop each connection sends its next request when the last one is answered, which
measures how much a server can do. It flatters latencies, as a server that stalls gets fewer
requests (wrk adds the samples it believes it missed, which is a guess). In an open loop requests
are sent on time however the server answers.

Each generator runs in a process of its own, and reports the share of a core that it used.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.open_loop import CONNECTIONS
from benchmarks.peers.common import HOST
from benchmarks.peers.environment import ROOT
from benchmarks.peers.table import Request
from benchmarks.servers import Running
from benchmarks.workloads import Workload

SCRIPT: Final = Path(__file__).with_name("wrk.lua")

LATE_S: Final = 5
"""When wrk counts an answer as a timeout, which is an error. It still waits for the answer."""

GRACE_S: Final = 60.0
"""For a generator to end, beyond the seconds that it is to run."""


class LoadError(Exception):
    """A generator failed. One line says why."""


def wrk() -> str:
    """The path of wrk. Ends the program with a message if there is none."""
    if path := shutil.which("wrk"):
        return path
    raise SystemExit(
        "error: wrk is not installed, which generates the load: apt-get install wrk, or build it "
        "from github.com/wg/wrk"
    )


def wrk_version() -> str:
    """The version that wrk reports."""
    done = subprocess.run([wrk(), "-v"], capture_output=True, text=True, check=False)  # noqa: S603 - wrk
    words = done.stdout.split()
    return words[1] if len(words) > 1 else "unknown"


def closed_loop(port: int, request: Request, connections: int, seconds: int) -> dict[str, Any]:
    """Send the same request over `connections` connections. Returns what `summary` does.

    Raises `LoadError`.
    """
    path, headers, body = request
    with tempfile.NamedTemporaryFile(prefix="vae-body-") as file:
        file.write(body)
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={LATE_S}s"]
        command = [wrk(), *options, f"--script={SCRIPT}", f"http://{HOST}:{port}{path}"]
        command += ["--", file.name, *(f"{name}: {value}" for name, value in headers.items())]
        figures, cpu_s = _run(command, b"", seconds)
    return summary(figures, cpu_s)


def measure(live: Running, workload: Workload, connections: int, seconds: int) -> dict[str, Any]:
    """What `closed_loop` returns, and the server's processor time; `cpu` is in cores."""
    before = live.cpu_seconds()
    figures = closed_loop(live.port, workload.request, connections, seconds)
    cpu_s = live.cpu_seconds() - before
    images = figures["requests_per_s"] * figures["seconds"] * workload.images
    return figures | {
        "images_per_s": figures["requests_per_s"] * workload.images,
        "cpu": cpu_s / figures["seconds"],
        "cpu_s_per_1000_images": cpu_s / images * 1e3 if images else None,
    }


def summary(figures: dict[str, Any], cpu_s: float) -> dict[str, Any]:
    """wrk's figures. `generator_cpu` is in cores.

    `errors` counts failed connections, late answers, and answers other than 2xx and 3xx. The last
    do not count in `requests_per_s`.
    """
    kinds = ("connect", "read", "write", "timeout", "status")
    answered = figures["requests"] - figures["status"]
    return {
        "requests_per_s": answered / figures["seconds"],
        **{name: figures[name] for name in ("seconds", "requests", "p50_ms", "p99_ms", "p999_ms")},
        "errors": sum(figures[kind] for kind in kinds),
        "error_kinds": {kind: figures[kind] for kind in kinds if figures[kind]},
        "generator_cpu": cpu_s / figures["seconds"],
    }


def open_loop(
    port: int,
    request: Request,
    *,
    rate: float,
    seconds: float,
    schedule: str,
    connections: int = CONNECTIONS,
) -> dict[str, Any]:
    """Send the request `rate` times a second. Returns a `benchmarks.open_loop.Report` as a dict.

    Raises `LoadError`.
    """
    command = [sys.executable, "-m", "benchmarks.open_loop", "--port", str(port)]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--schedule", schedule]
    command += ["--connections", str(connections)]
    figures, _ = _run(command, raw_http(port, request), seconds)
    return figures


def raw_http(port: int, request: Request) -> bytes:
    """The bytes of the request on the wire."""
    path, headers, body = request
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _run(command: list[str], stdin: bytes, seconds: float) -> tuple[dict[str, Any], float]:
    """The last line that the command prints, which is JSON, and the processor seconds it used."""
    before = _children_cpu_s()
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            command, input=stdin, cwd=ROOT, capture_output=True, timeout=seconds + GRACE_S
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{Path(command[0]).name} did not end: {error}") from error
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        output = " | ".join(lines + done.stderr.decode(errors="replace").strip().splitlines())
        raise LoadError(f"{Path(command[0]).name}, status {done.returncode}: {output[-500:]}")
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures, _children_cpu_s() - before


def _children_cpu_s() -> float:
    """Processor time of all children that have ended; no other ends while a generator runs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
