"""The running service against its own OpenAPI page: schemathesis, with all its checks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.processes import Server

CONFIG, HOOKS = "schemathesis.toml", "schemathesis_hooks.py"
COMMAND = Path(sys.executable).with_name("schemathesis")
EXAMPLES = 15
SEED = 1
TIMEOUT_S = 300
KEY = "a-key-for-schemathesis"  # as in the configuration
BEARING = f"Bearer {KEY}"

MAX_IMAGES = 400
"""What the page allows is tried at its limit too: 8,192 images, the default, take minutes of
that."""

MAX_LINE = 500
"""A failure is shown with the curl line that repeats it, bodies of kilobytes and all."""


@pytest.fixture
def limited(start_server: Callable[..., Server]) -> Server:
    """With an API key, so that requests without one are tried, too."""
    flags = ("--max-images-per-request", str(MAX_IMAGES), "--recent-images", "10")
    return start_server(*flags, "--api-keys", KEY)


def answered(server: Server) -> set[tuple[str, str]]:
    """Methods and routes that have answered 200."""
    metrics = httpx.get(f"{server.url}/metrics", headers={"Authorization": BEARING})
    families = text_string_to_metric_families(metrics.text)
    return {
        (sample.labels["method"], sample.labels["route"])
        for family in families
        for sample in family.samples
        if sample.name == "vae_requests_total" and sample.labels["status"] == "200" and sample.value
    }


@pytest.mark.slow
def test_the_service_does_what_its_page_says(limited: Server, tmp_path: Path) -> None:
    for name in (CONFIG, HOOKS):  # the hooks are looked for, and findings kept, where it runs
        shutil.copy(Path(__file__).with_name(name), tmp_path)
    page = f"{limited.url}/openapi.json"
    options = ["--checks", "all", "--seed", str(SEED), "--max-examples", str(EXAMPLES)]
    done = subprocess.run(  # noqa: S603 - our own command
        [COMMAND, "--config-file", CONFIG, "run", page, *options, "--no-color"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    shown = "\n".join(line[:MAX_LINE] for line in (done.stdout + done.stderr).splitlines())
    assert done.returncode == 0, shown
    operations = {
        (method.upper(), path)
        for path, methods in httpx.get(page).json()["paths"].items()
        for method in methods
    }
    assert len(operations) >= 18
    assert f"{len(operations)} selected / {len(operations)} total" in shown
    assert f"Tested: {len(operations)}" in shown
    assert operations <= answered(limited), "each has been in use, not only refused"
