"""Load on a server, and what it answers: a closed loop by wrk, an open one by our own generator.

In the closed loop each connection sends its next request when the last one is answered: it finds
out how much a server can do. Under it a server that stalls is asked less, so it flatters latencies
(wrk adds the samples it believes it missed, which is a guess). In the open loop
(`benchmarks.open_loop`) requests come whether the server is ready for them or not.

Both take a process of their own, and tell the share of a core it used.
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

SCRIPT: Final = Path(__file__).with_name("wrk.lua")

LATE_S: Final = 5
"""When wrk counts an answer as an error, a timeout. It still waits for it."""

GRACE_S: Final = 60.0
"""For a generator to end after what it was told to take."""


class LoadError(Exception):
    """A generator failed. One line says why."""


def wrk() -> str:
    """Where it is. Ends the program with a line if it is nowhere."""
    if found := shutil.which("wrk"):
        return found
    raise SystemExit("wrk is not installed; it makes the load: apt-get install wrk, or your own")


def wrk_version() -> str:
    """As it tells it."""
    done = subprocess.run([wrk(), "-v"], capture_output=True, text=True, check=False)  # noqa: S603 - wrk
    words = done.stdout.split()
    return words[1] if len(words) > 1 else "unknown"


def closed_loop(port: int, request: Request, connections: int, seconds: int) -> dict[str, Any]:
    """Send the same request over so many connections; see `summary` for what is returned.

    wrk takes whole seconds.
    """
    path, headers, body = request
    with tempfile.NamedTemporaryFile(prefix="vae-body-") as file:
        file.write(body)
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={LATE_S}s"]
        command = [wrk(), *options, f"--script={SCRIPT}", f"http://{HOST}:{port}{path}"]
        command += ["--", file.name, *(f"{name}: {value}" for name, value in headers.items())]
        found, cpu_s = _run(command, b"", seconds)
    return summary(found, cpu_s)


def summary(found: dict[str, Any], cpu_s: float) -> dict[str, Any]:
    """wrk's figures. `errors` are of connections, answers that are late, and answers that are not
    2xx or 3xx; these are no `requests_per_s`. `generator_cpu` is in cores.
    """
    kinds = ("connect", "read", "write", "timeout", "status")
    answered = found["requests"] - found["status"]
    return {
        "requests_per_s": answered / found["seconds"],
        **{name: found[name] for name in ("seconds", "requests", "p50_ms", "p99_ms", "p999_ms")},
        "errors": sum(found[kind] for kind in kinds),
        "error_kinds": {kind: found[kind] for kind in kinds if found[kind]},
        "generator_cpu": cpu_s / found["seconds"],
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
    """Send the request `rate` times a second; see `benchmarks.open_loop.Report`."""
    command = [sys.executable, "-m", "benchmarks.open_loop", "--port", str(port)]
    command += ["--rate", str(rate), "--seconds", str(seconds), "--schedule", schedule]
    command += ["--connections", str(connections)]
    found, _ = _run(command, raw_http(port, request), seconds)
    return found


def raw_http(port: int, request: Request) -> bytes:
    """The request as it goes over the wire."""
    path, headers, body = request
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _run(command: list[str], given: bytes, seconds: float) -> tuple[dict[str, Any], float]:
    """The last line that it prints, which is JSON, and the processor seconds that it took."""
    before = _children_cpu_s()
    try:
        done = subprocess.run(  # noqa: S603 - our own commands
            command, input=given, cwd=ROOT, capture_output=True, timeout=seconds + GRACE_S
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"{Path(command[0]).name} does not end: {error}") from error
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        said = " | ".join(lines + done.stderr.decode(errors="replace").strip().splitlines())
        raise LoadError(f"{Path(command[0]).name}, status {done.returncode}: {said[-500:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found, _children_cpu_s() - before


def _children_cpu_s() -> float:
    """Of children that have ended: while a generator runs, no other child does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
