"""`python -m service` by its environment: what each process reads, warns of and refuses."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from tests.processes import (
    POLL_S,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Server,
    check_refused,
    run_service,
    start_and_fail,
)
from tests.service_links import LINKS

NO_BUNDLE = {"VAE_BUNDLE": "/nonexistent"}
"""Ends a service after all settings have been read."""

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 and others need Linux")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("VAE_")]:
        monkeypatch.delenv(name)


@contextmanager
def service_of(environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """The address of `python -m service`, without a flag, once it answers."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], env=os.environ | environment, stderr=stderr
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while "running on http" not in (said := log.read_text()):
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(POLL_S)
        yield said.split("running on ")[1].split()[0]
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def loopback_address() -> str:
    """One of 127.0.0.0/8 that nobody else listens on."""
    return f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(2, 254)}"


def warned(log: Path) -> list[str]:
    return [line.split(" WARNING ")[1] for line in log.read_text().splitlines() if "WARN" in line]


def module(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", name, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )


# Service links


@ON_LINUX
@pytest.mark.parametrize("workers", ["1", "2"])
def test_in_a_pod_with_service_links_it_serves_on_the_default_port(
    workers: str, tmp_path: Path
) -> None:
    log, host = tmp_path / "log", loopback_address()
    environment = LINKS | {"VAE_HOST": host, "VAE_WORKERS": workers}
    with service_of(environment, log) as url:
        assert url == f"http://{host}:8000"
        assert httpx.get(f"{url}/livez").status_code == 200
        check = module("service.healthcheck", **environment)
        assert (check.returncode, check.stderr) == (0, "")
    (said,) = warned(log)
    for word in ("VAE_PORT", "tcp://10.0.0.1:8000", "Kubernetes", "enableServiceLinks: false"):
        assert word in said


def test_a_flag_is_the_port_whatever_the_link(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    assert httpx.get(f"{start_server().url}/livez").status_code == 200


@pytest.mark.parametrize("value", ["tcp://vae:8000", "http://10.0.0.1:8000"])
def test_an_address_that_is_no_link_is_refused_with_the_way_out(value: str) -> None:
    for done in (
        module("service", VAE_PORT=value),
        module("service", "--port", value),
        module("vae", "serve", VAE_PORT=value),
    ):
        check_refused(done.returncode, done.stderr, value, "VAE_PORT", "enableServiceLinks: false")


def test_a_link_as_a_flag_is_refused() -> None:
    """`args: ["--port", "$(VAE_PORT)"]`."""
    done = module("service", "--port", LINKS["VAE_PORT"])
    check_refused(done.returncode, done.stderr, LINKS["VAE_PORT"], "enableServiceLinks: false")


# Values


def test_empty_variables_are_unset(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of `${VAE_THREADS}` in a compose file, or of a chart's value that nobody gave."""
    for name in ("HOST", "THREADS", "BUNDLE", "LOG_LEVEL", "TLS_CERT_FILE", "CORS_ORIGINS"):
        monkeypatch.setenv(f"VAE_{name}", "")
    server = start_server()
    with server.client() as client:
        assert client.get("/readyz").status_code == 200
    assert warned(server.log) == []


def test_empty_keys_do_not_open_a_service_to_others() -> None:
    done = run_service(VAE_HOST="0.0.0.0", VAE_API_KEYS="")  # noqa: S104 - is refused
    assert done.returncode == 2
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: VAE_API_KEYS is empty")
    assert error.startswith("error: host (VAE_HOST) is 0.0.0.0")


@pytest.mark.parametrize("value", ["null", "NULL"])
def test_null_is_unset_as_a_flag_and_as_a_variable(value: str) -> None:
    nullable = ("threads", "max_batch_images", "cors_origins", "trusted_proxies")
    flags = [word for name in nullable for word in (f"--{name.replace('_', '-')}", value)]
    variables = {f"VAE_{name.upper()}": value for name in nullable}
    for done in (run_service(*flags, **NO_BUNDLE), run_service(**NO_BUNDLE, **variables)):
        check_refused(done.returncode, done.stderr, "/nonexistent")


def test_null_where_there_is_a_default_is_refused_as_what_it_is() -> None:
    for done in (module("service", "--workers", "null"), module("service", VAE_WORKERS="null")):
        check_refused(done.returncode, done.stderr, "workers (VAE_WORKERS) is 'null'", "no null")


def test_words_may_be_in_capitals(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAE_LOG_LEVEL", "INFO")
    monkeypatch.setenv("VAE_DTYPE", "Float32")
    monkeypatch.setenv("VAE_DEVICE", "CPU")
    server = start_server("--log-format", "JSON")
    assert '"level":"info"' in server.log.read_text().replace(" ", "")


def test_a_flag_that_is_a_switch_needs_no_value() -> None:
    for words in (["--allow-anonymous"], ["--allow-anonymous", "true"]):
        done = run_service("--host", "0.0.0.0", *words, **NO_BUNDLE)  # noqa: S104 - is refused
        check_refused(done.returncode, done.stderr, "/nonexistent")
    done = run_service("--allow-anonymous", "false", "--host", "0.0.0.0")  # noqa: S104
    check_refused(done.returncode, done.stderr, "VAE_ALLOW_ANONYMOUS")


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("VAE_WORKERS", "2 cores", "it should be a whole number, without a unit"),
        ("VAE_THREADS", "none", "it should be a whole number, without a unit, or null for unset"),
        ("VAE_REQUEST_TIMEOUT_S", "30s", "it should be a number, with a point and without a unit"),
        ("VAE_ALPHA", "0,05", "it should be a number, with a point and without a unit"),
        ("VAE_ALLOW_ANONYMOUS", "enabled", "it should be true or false"),
        ("VAE_CORS_ORIGINS", '["https://a.org"]', "several are separated by commas"),
        ("VAE_HOST", "http://localhost", "a name or an address, without a scheme or a port"),
        ("VAE_HOST", "localhost:8000", "a name or an address, without a scheme or a port"),
    ],
)
def test_a_wrong_value_is_refused_in_words_that_people_know(
    variable: str, value: str, reason: str
) -> None:
    done = run_service(**{variable: value})
    check_refused(done.returncode, done.stderr, variable, repr(value), reason)


# Names


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        (["--prot", "9000"], "--port"),
        (["--log_level=INFO"], "--log-level"),
        (["--api-key-file", "keys"], "--api-keys-file"),
    ],
)
def test_a_misspelt_flag_gets_the_nearest_known(flags: list[str], meant: str) -> None:
    done = module("vae", "serve", *flags)
    check_refused(done.returncode, done.stderr, f"is not a flag; did you mean {meant}?")


def test_a_flag_that_is_like_no_other_gets_the_usage() -> None:
    done = module("service", "--xyzzy")
    assert done.returncode == 2
    assert done.stderr.endswith("error: unrecognized arguments: --xyzzy\n")


def test_a_misspelt_variable_is_a_warning_and_no_more(
    start_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAE_PROT", "9000")
    monkeypatch.setenv("VAE_DATA_DIR", "/data")
    server = start_server()
    (said,) = warned(server.log)
    assert said == "VAE_PROT is not a setting and has no effect; did you mean VAE_PORT?"


def test_a_misspelt_variable_is_named_beside_the_error_that_it_causes() -> None:
    done = run_service("--host", "0.0.0.0", VAE_API_KEY_FILE="api-keys")  # noqa: S104
    assert done.returncode == 2
    warning, error = done.stderr.splitlines()
    assert warning.startswith("warning: VAE_API_KEY_FILE is not a setting")
    assert warning.endswith("did you mean VAE_API_KEYS_FILE?")
    assert error.startswith("error: host (VAE_HOST) is 0.0.0.0")
    done = run_service(VAE_PROT="9000", VAE_WORKERS="x")
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["warning", "error"]


# Commands


@pytest.mark.parametrize(
    "words", [["service", "--version"], ["vae", "serve", "--version"], ["vae", "--version"]]
)
def test_the_version(words: list[str]) -> None:
    done = module(*words, VAE_PORT="not read")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f" {version('vae-service')}\n")
    assert done.stdout.startswith("vae")


def test_the_health_check_explains_itself_and_asks_nobody() -> None:
    done = module("service.healthcheck", "--help", VAE_PORT="not read")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m service.healthcheck")
    for word in ("VAE_HOST", "VAE_PORT", "exit status 0"):
        assert word in done.stdout


def test_the_health_check_names_the_setting_that_cannot_be_used() -> None:
    done = module("service.healthcheck", VAE_PORT="x")
    assert done.returncode == 1
    (reason,) = done.stderr.splitlines()
    assert reason.startswith("port (VAE_PORT) is 'x': ")


# Key files


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_key_file_made_in_powershell_works(
    encoding: str, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    made = module("service.keys", "alice")
    file = tmp_path / "api-keys"
    file.write_bytes(made.stdout.replace("\n", "\r\n").encode(encoding))
    server = start_server("--api-keys-file", str(file))
    key = {"Authorization": f"Bearer {made.stderr.split()[-1]}"}
    assert httpx.get(f"{server.url}/model", headers=key).status_code == 200
    assert httpx.get(f"{server.url}/model").status_code == 401


def test_a_key_file_in_two_encodings_is_named_for_what_it_is(tmp_path: Path) -> None:
    """As PowerShell's `>>` leaves one that was made elsewhere."""
    lines = [module("service.keys", name).stdout for name in ("alice", "bob")]
    file = tmp_path / "api-keys"
    file.write_bytes(lines[0].encode() + lines[1].encode("utf-16-le"))
    reason = start_and_fail("--api-keys-file", str(file))
    for word in ("line 2", "UTF-16", "PowerShell", "save the whole file as UTF-8"):
        assert word in reason
