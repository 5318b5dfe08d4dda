"""`python -m service.client`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.api.client.helpers import Images, ask, free_port
from tests.api.helpers import uint8_body
from tests.processes import Server


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "service.client", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_table(server: Server, http: httpx.Client, four: Images, paths: list[Path]) -> None:
    done = run("score", *paths, "--url", server.url)
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["file", "score", "p-value", "anomaly", "mse", "kl"]
    expected = ask(http, "/anomaly-score", uint8_body(four))
    for i, (path, line) in enumerate(zip(paths, lines, strict=True)):
        name, score, p_value, anomaly, mse, kl = line.split()
        assert name == str(path)
        assert float(p_value) == pytest.approx(expected["p_value"][i], abs=1e-4)
        assert anomaly == ("yes" if expected["is_anomaly"][i] else "no")
        for text, key in ((score, "score"), (mse, "mse"), (kl, "kl")):
            assert float(text) == pytest.approx(expected[key][i], abs=0.006, rel=0.01)


def test_json_lines_and_files_that_are_not_images(
    server: Server, http: httpx.Client, four: Images, paths: list[Path], tmp_path: Path
) -> None:
    """A broken file among them spoils no other's line."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:50])
    missing = tmp_path / "missing.png"
    files = [paths[0], broken, paths[1], missing, tmp_path, paths[2]]
    done = run("score", *files, "--json", "--url", server.url)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    expected = ask(http, "/anomaly-score", uint8_body(four))
    assert [line["file"] for line in lines] == [str(path) for path in paths[:3]]
    for i, line in enumerate(lines):
        assert set(line) == {"file", "score", "p_value", "is_anomaly", "mse", "kl"}
        for key in ("score", "mse", "kl"):
            assert line[key] == pytest.approx(expected[key][i], rel=1e-5)
    told = done.stderr.splitlines()
    assert len(told) == 3
    for line, path in zip(told, (broken, missing, tmp_path), strict=True):
        assert str(path) in line
    assert "400" in told[0]
    assert "Traceback" not in done.stderr


def test_a_table_when_the_service_is_down(paths: list[Path]) -> None:
    done = run("score", *paths, "--url", f"http://127.0.0.1:{free_port()}")
    assert (done.returncode, done.stdout) == (1, "")
    (told,) = done.stderr.splitlines()  # once, not for each file
    assert "is the service running there?" in told
    assert told.endswith("; 4 images were not scored")


@pytest.mark.parametrize("arguments", [[], ["score"], ["nonsense"], ["score", "--nonsense", "a"]])
def test_a_wrong_command(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: python -m service.client" in done.stderr


def test_it_loads_neither_torch_nor_fastapi() -> None:
    code = "import service.client, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert {"service", "httpx", "numpy"} <= loaded
    assert not loaded & {"torch", "fastapi", "starlette", "pydantic", "uvicorn", "model"}
