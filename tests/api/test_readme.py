"""The README's curl lines, run as printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Server

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def shell_block(marker: str) -> str:
    """The ```sh block after an HTML comment that begins with `marker`."""
    match = re.search(rf"<!-- {marker}.*?-->\n```sh\n(.*?)```", README, re.DOTALL)
    assert match
    return match[1]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


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
    assert (round(one["p_value"][0], 2), one["is_anomaly"]) == (0.21, [False])
    assert (round(sheet["p_value"][0], 4), sheet["is_anomaly"]) == (0.0003, [True])
    assert len(latent["mu"][0]) == len(latent["sigma"][0]) == 10
    assert again == one
    assert model["id"] == "mnist"
    assert ready == {"status": "ok"}
    assert output.startswith("# HELP vae_requests_total")
    sizes = {path.name: size_of(path) for path in tmp_path.glob("*.png")}
    assert sizes == {
        "digit.png": (28, 28),
        "digits.png": (8 * 28 * 4, 8 * 28 * 4),
        "back.png": (28 * 8, 28 * 8),
        "walk.png": (2 * 28 * 8, 2 * 28 * 8),
    }


def test_every_door_opens_as_printed(server: Server, tmp_path: Path) -> None:
    run(shell_block("tour"), server, tmp_path)
    output = run(shell_block("doors"), server, tmp_path)
    assert "error" not in output
    assert output.count('"score_type"') == 4
    digits = np.load(tmp_path / "digits.npy")
    raw = np.fromfile(tmp_path / "digits.raw", np.uint8).reshape(digits.shape)
    assert (np.rint(digits * 255) == raw).all()
    assert np.load(tmp_path / "latents.npy").shape == (64, 2, 10)
    assert size_of(tmp_path / "map.png") == (28 * 8, 28 * 8)


def test_the_scores_are_as_printed(server: Server, tmp_path: Path) -> None:
    run(shell_block("tour"), server, tmp_path)
    run(shell_block("doors"), server, tmp_path)
    output = run(shell_block("scores"), server, tmp_path)
    answers = [json.loads(part) for part in re.findall(r"{.*?}(?={|\s*$)", output, re.DOTALL)]
    bounded, plain, drawn, mapped = answers
    assert (bounded["fdr"], bounded["alpha"], len(bounded["p_value"])) == ("bh", 0.05, 64)
    assert plain["score"] == plain["mse"]
    assert (drawn["score_type"], drawn["p_value"]) == ("iwae", None)
    assert np.shape(mapped["anomaly_map"]) == (1, 28, 28)
    assert size_of(tmp_path / "map.png") == (28 * 8, 28 * 8)


def test_the_client_works_as_printed(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(shell_block("tour"), server, tmp_path)
    match = re.search(r"<!-- client.*?-->\n```python\n(.*?)```", README, re.DOTALL)
    assert match
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(match[1].replace("http://localhost:8000", server.url), names)  # noqa: S102 - our own README
    assert names["halfway"].shape == (1, 28, 28)
    assert len(names["scores"]) == 2
    assert len(names["many"]) == 64
    assert capsys.readouterr().out.startswith("422 ")


def test_the_problem_reads_as_printed(server: Server, tmp_path: Path) -> None:
    match = re.search(r"<!-- problem -->.*?```json\n(.*?)```", README, re.DOTALL)
    assert match
    printed = json.loads(match[1])
    answer = json.loads(run(shell_block("problem"), server, tmp_path))
    assert answer["errors"][0]["msg"] == answer["detail"]
    answer["request_id"] = answer["errors"][0]["msg"] = "…"
    assert answer == printed
