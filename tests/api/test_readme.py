"""The commands of README and docs/, run as printed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Server
from tests.docs import fenced_block, run_block, shell_block

TOUR = ("tour", "more", "body types", "scores", "open inference")
"""Shell blocks in the order in which they use each other's files."""


def run_up_to(marker: str, server: Server, folder: Path) -> list[Any]:
    """Run the blocks before `marker`, and give the JSON answers of that block."""
    for name in TOUR[: TOUR.index(marker)]:
        run_block(shell_block(name), server, folder)
    return json_answers(run_block(shell_block(marker), server, folder))


def json_answers(output: str) -> list[Any]:
    """Objects, one behind the other; what follows them is given as text."""
    decoder = json.JSONDecoder()
    answers = []
    while output.startswith("{"):
        answer, end = decoder.raw_decode(output)
        answers.append(answer)
        output = output[end:].lstrip()
    return [*answers, output] if output else answers


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_tour_works_as_printed(server: Server, tmp_path: Path) -> None:
    one, sheet, latent = run_up_to("tour", server, tmp_path)
    assert (round(one["p_value"][0], 2), one["is_anomaly"]) == (0.21, [False])
    assert (round(sheet["p_value"][0], 4), sheet["is_anomaly"]) == (0.0003, [True])
    assert len(latent["mu"][0]) == len(latent["sigma"][0]) == 10
    sizes = {path.name: size_of(path) for path in tmp_path.glob("*.png")}
    assert sizes == {
        "digit.png": (28, 28),
        "digits.png": (8 * 28 * 4, 8 * 28 * 4),
        "map.png": (28 * 8, 28 * 8),
    }
    printed = json.loads(fenced_block("first answer", "json"))
    assert list(one) == list(printed)
    for name, value in printed.items():
        assert one[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3))


def test_the_first_client_works_as_printed(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    script = fenced_block("first client", "python").replace("http://localhost:8000", server.url)
    exec(script, {})  # noqa: S102 - our own README
    assert capsys.readouterr().out.endswith("of 64 look unusual\n")


def test_more_examples_work_as_printed(server: Server, tmp_path: Path) -> None:
    again, model, ready, metrics = run_up_to("more", server, tmp_path)
    assert (round(again["p_value"][0], 2), again["is_anomaly"]) == (0.21, [False])
    assert model["id"] == "mnist"
    assert ready == {"status": "ok"}
    assert metrics.startswith("# HELP vae_requests_total")
    assert size_of(tmp_path / "back.png") == (28 * 8, 28 * 8)
    assert size_of(tmp_path / "walk.png") == (2 * 28 * 8, 2 * 28 * 8)


def test_every_body_type_works_as_printed(server: Server, tmp_path: Path) -> None:
    answers = run_up_to("body types", server, tmp_path)
    assert [len(answer["score"]) for answer in answers] == [64, 64, 2, 64]
    digits = np.load(tmp_path / "digits.npy")
    raw = np.fromfile(tmp_path / "digits.raw", np.uint8).reshape(digits.shape)
    assert (np.rint(digits * 255) == raw).all()
    assert np.load(tmp_path / "latents.npy").shape == (64, 2, 10)


def test_the_scores_are_as_printed(server: Server, tmp_path: Path) -> None:
    bounded, plain, drawn, mapped = run_up_to("scores", server, tmp_path)
    assert (bounded["fdr"], bounded["alpha"], len(bounded["p_value"])) == ("bh", 0.05, 64)
    assert plain["score"] == plain["mse"]
    assert (drawn["score_type"], drawn["p_value"]) == ("iwae", None)
    assert np.shape(mapped["anomaly_map"]) == (1, 28, 28)
    assert size_of(tmp_path / "map.png") == (28 * 8, 28 * 8)


def test_the_open_inference_protocol_works_as_printed(server: Server, tmp_path: Path) -> None:
    metadata, decoded = json_answers(run_block(shell_block("open inference"), server, tmp_path))
    assert metadata["name"] == "encode"
    assert decoded["outputs"][0]["shape"] == [1, 1, 28, 28]


def test_triton_s_client_works_as_printed(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    address = server.url.removeprefix("http://")
    script = fenced_block("tritonclient", "python").replace("localhost:8000", address)
    exec(script, {})  # noqa: S102 - our own docs
    verdicts, names, counts = capsys.readouterr().out.splitlines()
    assert verdicts.count("True") + verdicts.count("False") == 4
    assert json.loads(names.replace("'", '"')) == [
        "encode",
        "decode",
        "reconstruct",
        "anomaly-score",
    ]
    assert re.fullmatch(r"\d+ images in \d+ forward passes", counts)


def test_the_client_works_as_printed(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_block(shell_block("tour"), server, tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    script = fenced_block("client", "python").replace("http://localhost:8000", server.url)
    exec(script, names)  # noqa: S102 - our own docs
    assert names["halfway"].shape == (1, 28, 28)
    assert len(names["scores"]) == 2
    assert len(names["many"]) == 64
    assert capsys.readouterr().out.startswith("422 ")


def test_the_problem_reads_as_printed(server: Server, tmp_path: Path) -> None:
    printed = json.loads(fenced_block("problem answer", "json"))
    answer = json.loads(run_block(shell_block("problem"), server, tmp_path))
    assert answer["errors"][0]["msg"] == answer["detail"]
    answer["request_id"] = answer["errors"][0]["msg"] = "…"
    assert answer == printed
