"""What the Dockerfile and docker-compose.yml say is what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from service.settings import Settings
from tests.conftest import Server

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def test_every_setting_named_exists() -> None:
    known = {f"VAE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"\bVAE_[A-Z_]+", DOCKERFILE + COMPOSE)) - known == set()


def test_container_check_and_command_work(server: Server) -> None:
    """HEALTHCHECK's command, against a running service and against none."""
    commands = [json.loads(text) for text in re.findall(r"CMD (\[.*\])", DOCKERFILE)]
    assert commands == [["python", "-m", "service.healthcheck"], ["python", "-m", "service"]]
    port = server.url.rsplit(":", 1)[1]
    for number, status in ((port, 0), ("1", 1)):
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, *commands[0][1:]],
            env={"VAE_PORT": number},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == status, done.stderr
        assert len(done.stderr.splitlines()) == status


def test_container_pins_the_same_torch() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = set(re.findall(r"torch==[\d.]+", DOCKERFILE + "\n".join(project["dependencies"])))
    assert len(pins) == 1
    assert pins.pop() in (ROOT / "constraints.txt").read_text().split()
