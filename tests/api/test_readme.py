"""The README's curl lines, run as printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import Server

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def shell_block(marker: str) -> str:
    """The ```sh block after an HTML comment that begins with `marker`."""
    match = re.search(rf"<!-- {marker}.*?-->\n```sh\n(.*?)```", README, re.DOTALL)
    assert match
    return match[1]


def run(script: str, server: Server, folder: Path) -> str:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = script.replace("localhost:8000", server.url.removeprefix("http://"))
    done = subprocess.run(  # noqa: S603 - our own README
        ["bash", "-euo", "pipefail", "-c", script.replace("curl ", "curl --silent --show-error ")],  # noqa: S607
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tour_works_as_printed(server: Server, tmp_path: Path) -> None:
    output = run(shell_block("tour"), server, tmp_path)
    decoder = json.JSONDecoder()
    answers = []
    while output.startswith("{"):
        answer, end = decoder.raw_decode(output)
        answers.append(answer)
        output = output[end:].lstrip()
    one, sheet, latent, again, model, ready = answers
    assert round(one["score"][0], 3) == 0.003
    assert round(sheet["score"][0], 2) == 0.04
    assert len(latent["mu"][0]) == len(latent["sigma"][0]) == 10
    assert again == one
    assert model["id"] == "mnist"
    assert ready == {"status": "ok"}
    assert output.startswith("# HELP vae_requests_total")
    sizes = {path.name: Image.open(path).size for path in tmp_path.glob("*.png")}
    assert sizes == {
        "digit.png": (28, 28),
        "digits.png": (8 * 28 * 4, 8 * 28 * 4),
        "back.png": (28 * 8, 28 * 8),
        "walk.png": (2 * 28 * 8, 2 * 28 * 8),
    }


def test_the_problem_reads_as_printed(server: Server, tmp_path: Path) -> None:
    match = re.search(r"<!-- problem -->.*?```json\n(.*?)```", README, re.DOTALL)
    assert match
    printed = json.loads(match[1])
    answer = json.loads(run(shell_block("problem"), server, tmp_path))
    assert answer["errors"][0]["msg"] == answer["detail"]
    answer["request_id"] = answer["errors"][0]["msg"] = "…"
    assert answer == printed
