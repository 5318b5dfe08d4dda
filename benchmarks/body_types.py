"""What a body type costs: 256 images to /anomaly-score in each, side by side in one run.

By the plainest score: the others are the network's business, not the body's.

`make bench-body-types` runs it. Rounds of the types are interleaved, so that a noisy machine is
noisy for all of them; figures are medians over the rounds, and ratios are of the same run.
"""

from __future__ import annotations

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

import numpy as np
from PIL import Image

from benchmarks.machine import RESULTS, cpu_model
from benchmarks.peers.table import SERVERS
from benchmarks.servers import running

IMAGES = 256
ROUNDS = 40
WARM_UP = 5

Body = tuple[str, str, bytes]
"""Path, Content-Type, bytes."""


def bodies() -> dict[str, Body]:
    """The same images as each type. Drawn by the service itself, so that they are like digits."""
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


def digits() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """256 images as the decoder draws them."""
    from model.bundle.bundle import find_bundle, load_bundle
    from model.engine.engine import Engine

    engine = Engine(load_bundle(find_bundle("mnist")), device="cpu", threads=1)
    z = np.random.default_rng(0).standard_normal((IMAGES, 10), dtype=np.float32)
    drawn: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = np.rint(
        engine.decode(z).images[:, 0] * 255
    ).astype(np.uint8)
    return drawn


def png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """One image as a file."""
    file = BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def dump(value: object) -> bytes:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":")).encode()


def ask(connection: HTTPConnection, body: Body) -> tuple[list[float], float]:
    """Send one body; the scores, and the milliseconds that the network took."""
    path, content_type, data = body
    connection.request("POST", path, data, {"Content-Type": content_type})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{content_type}: {answer.status} {text[:300]!r}")
    scores: list[float] = json.loads(text)["score"]
    network = re.search(r"infer;dur=([\d.]+)", answer.headers["Server-Timing"])
    return scores, float(network[1]) if network else 0.0


def measure(sent: dict[str, Body], port: int) -> dict[str, dict[str, float]]:
    """What a request of each type takes, from its first byte sent to its answer's last."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    expected, _ = ask(connection, sent["raw uint8"])
    for name, body in sent.items():
        if not np.allclose(ask(connection, body)[0], expected, atol=1e-4):
            raise SystemExit(f"{name} gives other scores")
    seconds: dict[str, list[float]] = {name: [] for name in sent}
    network: dict[str, list[float]] = {name: [] for name in sent}
    for number in range(WARM_UP + ROUNDS):
        for name, body in sent.items():
            started = time.perf_counter()
            _, network_ms = ask(connection, body)
            if number >= WARM_UP:
                network[name].append(network_ms)
                seconds[name].append(time.perf_counter() - started)
    connection.close()
    total = {name: statistics.median(times) * 1e3 for name, times in seconds.items()}
    inside = {name: statistics.median(times) for name, times in network.items()}
    door = {name: total[name] - inside[name] for name in sent}
    return {
        name: {
            "body_kB": len(sent[name][2]) / 1000,
            "us_per_image": total[name] * 1e3 / IMAGES,
            "network_us_per_image": inside[name] * 1e3 / IMAGES,
            "door_us_per_image": door[name] * 1e3 / IMAGES,
            "times_raw_uint8": total[name] / total["raw uint8"],
            "door_times_raw_uint8": door[name] / door["raw uint8"],
        }
        for name in sent
    }


def table(results: dict[str, dict[str, float]]) -> str:
    """As Markdown."""
    columns: dict[str, Callable[[dict[str, float]], str]] = {
        "body, kB": lambda r: f"{r['body_kB']:,.0f}",
        "µs an image": lambda r: f"{r['us_per_image']:.1f}",
        "of it the network": lambda r: f"{r['network_us_per_image']:.1f}",
        "the rest": lambda r: f"{r['door_us_per_image']:.1f}",
        "× raw uint8": lambda r: f"{r['times_raw_uint8']:.1f}",
        "the rest × raw uint8": lambda r: f"{r['door_times_raw_uint8']:.1f}",
    }
    rows = ["| 256 images as | " + " | ".join(columns) + " |"]
    rows.append("| --- " + "| ---: " * len(columns) + "|")
    for name, result in results.items():
        rows.append(f"| {name} | " + " | ".join(f(result) for f in columns.values()) + " |")
    return "\n".join(rows) + "\n"


def main() -> None:
    """Measure, print the table, and write it beside the figures."""
    with running(SERVERS["ours"]) as live:
        startup = {"ready_s": live.ready_s, "resident_MiB": live.resident_bytes() / 2**20}
        results = measure(bodies(), live.port)
    report = {
        "command": "make bench-body-types",
        "images": IMAGES,
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
