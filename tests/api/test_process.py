"""The service as a process: real sockets, signals, settings, memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from benchmarks.reliability.harness import raw, service
from model.bundle.bundle import PRETRAINED
from model.engine.engine import Engine
from service.__main__ import main
from service.inference.health import EXIT_STATUS
from tests.api.helpers import HANG_S, WORK_ROUTES, image_file, png_pixels, problem, uint8_body
from tests.processes import Server, address, check_refused, metric, run_service, wait_until

MAX_RESIDENT_KB = 400_000

ON_LINUX = pytest.mark.skipif(
    not Path("/proc/self/limits").exists(), reason="processes are looked up in /proc"
)


def talk(server: Server, request: bytes) -> bytes:
    """Send bytes, and read until the service closes the connection."""
    with socket.create_connection(address(server), timeout=HANG_S) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    return answer


# Answers over real sockets


def test_all_routes_answer(server: Server, engine: Engine, four: NDArray[np.uint8]) -> None:
    with server.client() as client:
        encoded = client.post("/encode", json=uint8_body(four)).json()
        assert np.array(encoded["mu"]) == pytest.approx(engine.encode(four).mu, abs=1e-5)
        scored = client.post("/anomaly-score", content=image_file(four[0])).json()
        assert scored["score"] == pytest.approx(engine.score(four[:1]).score.tolist(), abs=1e-5)
        assert client.post("/reconstruct", json=uint8_body(four)).json()["mse"]
        assert client.post("/decode", json={"z": encoded["mu"]}).json()["images"]
        assert png_pixels(client.get("/sample?n=4&seed=7")).shape == (56, 56)
        for path in ("/model", "/livez", "/readyz", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200
        problem(client.get("/nope"), 404)


def test_concurrent_requests_are_not_mixed_up(
    server: Server, engine: Engine, digits: NDArray[np.uint8]
) -> None:
    def encode(i: int) -> bool:
        images = digits[i : i + 1 + i % 5]
        answer = client.post("/encode", json=uint8_body(images))
        return bool(
            np.array(answer.json()["mu"]) == pytest.approx(mu[i : i + len(images)], abs=1e-5)
        )

    mu = engine.encode(digits[:110]).mu
    with server.client() as client, ThreadPoolExecutor(16) as threads:
        assert all(threads.map(encode, range(100)))


def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(server: Server) -> None:
    request = (
        b"POST /encode HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n"
    )
    answer = talk(server, request)
    assert b" 413 " in answer.splitlines()[0]
    assert b"99,999,999" in answer


def test_a_chunked_body_that_grows_too_large_is_refused(server: Server) -> None:
    def body() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 1_048_576

    with server.client() as client:
        # The service may hang up on a caller who goes on sending.
        with suppress(httpx.WriteError, httpx.ReadError):
            problem(client.post("/encode", content=body()), 413, "33,554,432")
        assert client.get("/livez").status_code == 200


def test_a_client_that_disconnects_is_not_an_error(server: Server) -> None:
    with server.client() as client:
        before = metric(client, "vae_requests_total", status="500")
        with socket.create_connection(address(server), timeout=HANG_S) as connection:
            connection.sendall(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            time.sleep(0.1)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            assert metric(client, "vae_requests_total", status="500") == before
            time.sleep(0.05)
    assert "Traceback" not in server.log.read_text()


def test_memory_and_files_stay_bounded(server: Server, digits: NDArray[np.uint8]) -> None:
    process = Path("/proc") / str(server.process.pid)
    if not process.is_dir():
        pytest.skip("/proc is only on Linux")

    def ask(i: int) -> int:
        path = WORK_ROUTES[i % 4]
        body = {"n": 3} if path == "/decode" else uint8_body(digits[i : i + 3])
        with closing(HTTPConnection(*address(server), timeout=HANG_S)) as connection:
            connection.request("POST", path, json.dumps(body))
            return connection.getresponse().status

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(40))) == {200}
        files = len(list((process / "fd").iterdir()))
        assert set(threads.map(ask, range(200))) == {200}
    time.sleep(0.1)
    assert len(list((process / "fd").iterdir())) <= files + 8
    resident = re.search(r"VmRSS:\s+(\d+) kB", (process / "status").read_text())
    assert resident
    assert int(resident[1]) < MAX_RESIDENT_KB


@ON_LINUX
def test_connections_are_limited_by_open_files() -> None:
    limited = ("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh")
    with service(prefix=limited) as live, ExitStack() as idle:
        for _ in range(400):
            idle.enter_context(socket.create_connection((live.host, live.port), timeout=HANG_S))
        for _ in range(20):
            assert live.get("/livez").status == 200
        assert live.metric("vae_connections") == 128
        warnings = [line for line in live.said().splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    for word in ("VAE_MAX_CONNECTIONS", "10000", "256", "128"):
        assert word in warnings[0]


@ON_LINUX
def test_the_open_file_limit_is_raised_to_the_hard_limit() -> None:
    limited = ("sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh")
    with service(prefix=limited) as live:
        limits = Path(f"/proc/{live.pid}/limits").read_text()
    found = re.search(r"Max open files +(\S+) +(\S+)", limits)
    assert found
    assert found[1] == found[2] != "256"


# Stopping


@pytest.mark.slow
@ON_LINUX
def test_a_hung_process_exits_even_if_its_log_is_not_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b".")
    # Opened anew, for that one to wait where this one does not.
    full = ("sh", "-c", f'exec "$@" 2>/proc/{os.getpid()}/fd/{writer}', "sh")
    with service(
        *("--stall-timeout-s", "0.5"),
        quiet=True,
        module="benchmarks.reliability.sick_service",
        prefix=full,
        environment={"SICK_DIRECTORY": str(tmp_path)},
    ) as live:
        (tmp_path / str(live.pid)).write_text("hang everywhere")
        with suppress(OSError, HTTPException), live.caller(1) as caller:
            caller.ask(raw(1))
        assert live.process.wait(HANG_S) == EXIT_STATUS
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_answers_accepted_requests_first(
    start_server: Callable[..., Server], number: signal.Signals
) -> None:
    # Many small batches of convolutions: slow work.
    server = start_server("--bundle", "mnist-conv", "--max-batch-images", "1")
    n = 400
    with (
        server.client() as idle,
        server.client() as client,
        ThreadPoolExecutor(5) as threads,
    ):
        idle.get("/livez")  # an open connection with nothing to do must not hold it up
        asked = [threads.submit(client.get, f"/sample?n={n}&seed={i}") for i in range(5)]
        wait_until(lambda: metric(client, "vae_queue_images") > 4 * n)  # all five are in
        server.process.send_signal(number)
        answers = [task.result(HANG_S) for task in asked]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert png_pixels(answers[0]).shape == (20 * 28, 20 * 28)
    assert server.process.wait(HANG_S) == 0
    assert "Traceback" not in server.log.read_text()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(address(server))


def test_a_stop_before_it_listens_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is in memory, and uvicorn does not handle signals yet."""

    def run(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on, and nobody would stop it")

    monkeypatch.setattr(uvicorn.Server, "run", run)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["--port", "0"])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopped.value.code == 0


def test_a_port_in_use_is_refused(server: Server) -> None:
    port = address(server)[1]
    done = run_service("--port", str(port))
    assert done.returncode not in (0, -signal.SIGKILL)
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1
    assert str(port) in errors[0]
    assert "Traceback" not in done.stderr


# Wrong settings: exit 2 and one line that names the setting and the value


@pytest.fixture
def _never_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrongly taken fails, instead of serving for ever."""
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_: pytest.fail("it was taken"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)


@pytest.mark.usefixtures("_never_served")
@pytest.mark.parametrize(
    ("flags", "mentioned"),
    [
        (["--port", "x"], ["port", "VAE_PORT", "'x'"]),
        (["--port", "99999"], ["port", "99999", "65535"]),
        (["--port", "-1"], ["port", "-1"]),
        (["--host", ""], ["host"]),
        (["--threads", "0"], ["threads", "0", "1"]),
        (["--workers", "0"], ["workers", "'0'"]),
        (["--dtype", "int8"], ["dtype", "'int8'", "bfloat16"]),
        (["--max-batch-images", "0"], ["max_batch_images", "'0'"]),
        (["--max-body-bytes", "1.5"], ["max_body_bytes", "1.5"]),
        (["--request-timeout-s", "0"], ["request_timeout_s", "'0'"]),
        (["--request-timeout-s", "nan"], ["request_timeout_s", "nan"]),
        (["--shutdown-timeout-s", "x"], ["shutdown_timeout_s", "'x'"]),
        (["--log-level", "loud"], ["log_level", "'loud'", "'info'"]),
        (["--port", "x", "--threads", "0"], ["port", "'x'", "threads", "'0'"]),
        (["--bundle", "nope"], ["bundle", "'nope'", "mnist", "fashion-mnist"]),
        (["--bundle", "/no/such/directory"], ["bundle", "/no/such/directory"]),
        (["--bundle", ""], ["bundle"]),
        (["--device", "tpu"], ["device", "'tpu'", "cpu", "cuda"]),
        (["--device", "cuda:99"], ["device", "'cuda:99'", "CUDA"]),
        (
            ["--max-images-per-request", "9", "--max-queue-images", "8"],
            ["max_images_per_request", "9", "max_queue_images", "8"],
        ),
    ],
)
def test_a_wrong_setting_gives_one_clear_line(
    capsys: pytest.CaptureFixture[str], flags: list[str], mentioned: list[str]
) -> None:
    check_refused(main(flags), capsys.readouterr().err, *mentioned)


@pytest.mark.usefixtures("_never_served")
@pytest.mark.parametrize(("name", "value"), [("VAE_PORT", "abc"), ("VAE_THREADS", "many")])
def test_a_wrong_environment_variable_gives_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    check_refused(main([]), capsys.readouterr().err, name, repr(value))


@pytest.mark.usefixtures("_never_served")
def test_a_damaged_bundle_gives_one_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(name: str) -> None:
        check_refused(main(["--bundle", str(tmp_path)]), capsys.readouterr().err, name)

    refused("config.json")  # an empty directory
    shutil.copytree(PRETRAINED / "mnist", tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    refused("model.safetensors")
    weights.write_bytes(whole[:-1] + b"x")
    refused("model.safetensors")
    weights.unlink()
    refused("model.safetensors")
    (tmp_path / "config.json").write_text("{")
    refused(str(tmp_path))


def test_the_process_prints_only_that_line() -> None:
    done = run_service(VAE_BUNDLE="nope")
    check_refused(done.returncode, done.stderr, "'nope'")
    assert not done.stdout


@pytest.mark.usefixtures("_never_served")
@pytest.mark.parametrize("flags", [["--no-such-flag", "1"], ["--port"], ["serve"]])
def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        sys.exit(main(flags))
    assert refused.value.code == 2
    assert flags[0] in capsys.readouterr().err.splitlines()[-1]


# What importing does: nothing


def python(code: str, **environment: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "module", ["service.settings", "service.codecs.registry", "service.inference.batching"]
)
def test_http_needs_no_torch(module: str) -> None:
    assert python(f"import sys, {module}; print('torch' in sys.modules)") == "False\n"


def test_importing_the_app_does_nothing() -> None:
    code = """
import os, threading, torch
before = threading.active_count(), torch.get_num_threads(), len(os.listdir("/proc/self/fd"))
import service.app, service.__main__
after = threading.active_count(), torch.get_num_threads(), len(os.listdir("/proc/self/fd"))
print(before == after)
"""
    assert python(code, VAE_PORT="garbage", VAE_BUNDLE="nope", VAE_THREADS="7") == "True\n"
