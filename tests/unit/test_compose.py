"""docker-compose.yml: `.env` cannot separate a container from its published port."""

from __future__ import annotations

import re
from pathlib import Path

COMPOSE = (Path(__file__).parents[2] / "docker-compose.yml").read_text(encoding="utf-8")


def test_the_service_listens_where_its_port_is_published() -> None:
    """`.env` has VAE_PORT for the port outside, and would set the one inside too."""
    (inside,) = re.findall(r'^ +- "127\.0\.0\.1:\$\{VAE_PORT:-8000\}:(\d+)"', COMPOSE, re.MULTILINE)
    environment = COMPOSE.split("environment: &environment\n")[1].split("\n\n")[0]
    assert re.search(rf"^ +VAE_PORT: {inside}$", environment, re.MULTILINE)
    assert re.search(r"^ +VAE_HOST: 0\.0\.0\.0\b", environment, re.MULTILINE)
