"""What each body type costs: the same 256 images sent to /anomaly-score in every type, in one run.

Scored by `mse`, the cheapest score, so that reading the body is as large a part as it can be.

`make bench-body-types` runs it. The types take turns within each round, so a noisy machine affects
all of them alike. Figures are medians over the rounds, and ratios compare figures of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import time
from base64 import b64encode
from collections.abc import Callable
from http.client import HTTPConnection
from importlib.metadata import version
from io import BytesIO
from typing import Final

import numpy as np

from benchmarks.machine import RESULTS, cpu_model
from benchmarks.peers.sample import DIGITS, digits, png
from benchmarks.peers.table import SERVERS
from benchmarks.servers import running

ROUNDS: Final = 40
WARM_UP: Final = 5

Body = tuple[str, str, bytes]
"""Path, Content-Type, bytes."""


def bodies() -> dict[str, Body]:
    """The same images as a body of each type."""
    pixels = digits()
    floats = (pixels / 255).astype(np.float32)
    files = [png(image) for image in pixels]
    npy = BytesIO()
    np.save(npy, pixels)
    boundary = "boundary-of-the-benchmark"
    parts = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="images"; filename="%d"\r\n\r\n%s\r\n'
        % (boundary.encode(), i, file)
        for i, file in enumerate(files)
    )
    path, raw = "/anomaly-score?score=mse", "application/octet-stream"
    as_json = "application/json"
    return {
        "raw uint8": (path, raw, pixels.tobytes()),
        "npy uint8": (path, "application/x-npy", npy.getvalue()),
        "raw float32": (f"{path}&dtype=float32", raw, floats.tobytes()),
        "JSON uint8": (path, as_json, dump({"images": pixels.tolist(), "dtype": "uint8"})),
        "JSON floats": (path, as_json, dump({"images": floats.round(4).tolist()})),
        "JSON base64 PNG": (
            path,
            as_json,
            dump({"images": [b64encode(file).decode() for file in files]}),
        ),
        "multipart PNG": (
            path,
            f"multipart/form-data; boundary={boundary}",
            parts + b"--%s--\r\n" % boundary.encode(),
        ),
    }


def dump(value: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, separators=(",", ":")).encode()


def ask(connection: HTTPConnection, body: Body) -> tuple[list[float], float]:
    """Send one body. Returns the scores, and the milliseconds of the forward pass."""
    path, content_type, data = body
    connection.request("POST", path, data, {"Content-Type": content_type})
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise SystemExit(f"{content_type}: {response.status} {text[:300]!r}")
    scores: list[float] = json.loads(text)["score"]
    network = re.search(r"infer;dur=([\d.]+)", response.headers["Server-Timing"])
    return scores, float(network[1]) if network else 0.0


def measure(sent: dict[str, Body], port: int) -> dict[str, dict[str, float]]:
    """The figures of each type. A request's time is from its first byte sent to the last received.

    `rest` is that time without the forward pass. Ends the program if a type gives other scores.
    """
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    expected, _ = ask(connection, sent["raw uint8"])
    for name, body in sent.items():
        if not np.allclose(ask(connection, body)[0], expected, atol=1e-4):
            raise SystemExit(f"{name}: the scores differ from those of raw uint8")
    seconds: dict[str, list[float]] = {name: [] for name in sent}
    network: dict[str, list[float]] = {name: [] for name in sent}
    for number in range(WARM_UP + ROUNDS):
        for name, body in sent.items():
            started = time.perf_counter()
            _, network_ms = ask(connection, body)
            took_s = time.perf_counter() - started
            if number >= WARM_UP:
                network[name].append(network_ms)
                seconds[name].append(took_s)
    connection.close()
    total = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    inside = {name: statistics.median(times) for name, times in network.items()}
    rest = {name: total[name] - inside[name] for name in sent}
    return {
        name: {
            "body_kB": len(sent[name][2]) / 1000,
            "us_per_image": total[name] * 1e3 / DIGITS,
            "network_us_per_image": inside[name] * 1e3 / DIGITS,
            "rest_us_per_image": rest[name] * 1e3 / DIGITS,
            "times_raw_uint8": total[name] / total["raw uint8"],
            "rest_times_raw_uint8": rest[name] / rest["raw uint8"],
        }
        for name in sent
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as a Markdown table."""
    columns: dict[str, Callable[[dict[str, float]], str]] = {
        "body, kB": lambda r: f"{r['body_kB']:,.0f}",
        "µs an image": lambda r: f"{r['us_per_image']:.1f}",
        "in the network": lambda r: f"{r['network_us_per_image']:.1f}",
        "elsewhere": lambda r: f"{r['rest_us_per_image']:.1f}",
        "× raw uint8": lambda r: f"{r['times_raw_uint8']:.1f}",
        "elsewhere × raw uint8": lambda r: f"{r['rest_times_raw_uint8']:.1f}",
    }
    rows = ["| 256 images as | " + " | ".join(columns) + " |"]
    rows.append("| --- " + "| ---: " * len(columns) + "|")
    for name, result in results.items():
        rows.append(f"| {name} | " + " | ".join(f(result) for f in columns.values()) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure every body type; print the table, and write it to benchmarks/results/."""
    argparse.ArgumentParser(
        prog="python -m benchmarks.body_types", description=__doc__
    ).parse_args()
    with running(SERVERS["ours"]) as service:
        startup = {"ready_s": service.ready_s, "resident_MiB": service.resident_bytes() / 2**20}
        results = measure(bodies(), service.port)
    report = {
        "command": "make bench-body-types",
        "images": DIGITS,
        "rounds": ROUNDS,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("vae-service", "torch", "fastapi", "uvicorn")
        },
        "startup": startup,
        "results": results,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "body_types.json").write_text(json.dumps(report, indent=2) + "\n")
    (RESULTS / "body_types.md").write_text(table(results))
    print(table(results))
    print(f"ready in {startup['ready_s']:.2f} s with {startup['resident_MiB']:.0f} MiB resident")


if __name__ == "__main__":
    main()
