"""The benchmark of false alarms on people's own images: what it draws, and its table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import false_alarms
from benchmarks.false_alarms import SEEDS, Case, cases, measure, summary, table
from benchmarks.machine import RESULTS
from model.training import train
from tests.unit.samples import write_idx


def test_means_and_deviations_are_over_the_seeds_of_a_case() -> None:
    few, many = Case(images="digits", n=30), Case(images="digits", n=30, copies=10)
    results = [
        {
            "case": asdict(case),
            "seed": seed,
            "calibrated_on": 30,
            "rates": {"0.05": rate, "0.01": 0.0},
            "warned": case is many,
        }
        for case, rates in ((few, (0.02, 0.04)), (many, (0.1, 0.1)))
        for seed, rate in enumerate(rates)
    ]
    lines = table(summary(results)).splitlines()
    assert lines[2] == "| 30 digits | 30 | 0.030 ± 0.010 | 0.000 ± 0.000 | 0 of 2 |"
    assert lines[3].startswith("| 30 digits, 10 copies of each | 30 | 0.100 ± 0.000 |")
    assert lines[3].endswith("| 2 of 2 |")


def test_photographs_are_measured_where_there_are_any(tmp_path: Path) -> None:
    assert not [case for case in cases(None) if case.images == "photographs"]
    assert {case.grouped for case in cases(tmp_path) if not case.n} == {True, False}


def test_a_network_is_trained_on_what_was_drawn_and_scores_the_rest(
    tmp_path: Path, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "MIN_STEPS", 30)
    monkeypatch.setattr(false_alarms, "PHOTO_SIZE", 16)
    write_idx(tmp_path / "data" / "mnist", digits[:200])
    for part in range(15):
        folder = tmp_path / "photos" / ("test-normal" if part % 3 else "train") / f"part-{part:02}"
        folder.mkdir(parents=True)
        for shot in range(2):
            pixels = np.random.default_rng(part).integers(0, 256, (9, 9), dtype=np.uint8) // 2
            image = Image.fromarray(pixels + np.uint8(8 * shot)).resize((40, 40))
            image.save(folder / f"{shot}.png")
    anomalous = tmp_path / "photos" / "test-anomalous" / "broken"
    anomalous.mkdir(parents=True)
    (anomalous / "0.png").write_bytes((folder / "0.png").read_bytes())
    of_digits = measure(
        Case(images="digits", n=12, copies=2), 0, tmp_path / "data", tmp_path / "photos"
    )
    assert of_digits["calibrated_on"] == 12
    assert not of_digits["warned"]
    grouped, plain = (
        measure(Case(images="photographs", grouped=grouped), 1, tmp_path, tmp_path / "photos")
        for grouped in (True, False)
    )
    assert grouped["calibrated_on"] == plain["calibrated_on"] == 24  # twelve parts of fifteen
    assert (grouped["warned"], plain["warned"]) == (False, True)


def test_the_rates_hold_wherever_parts_are_kept_together() -> None:
    """The figures that the documentation shows."""
    content = json.loads((RESULTS / "false_alarms.json").read_text(encoding="utf-8"))
    rows = summary(content["results"])
    assert content["rows"] == rows
    assert (RESULTS / "false_alarms.md").read_text(encoding="utf-8") == table(rows)
    assert [row["case"] for row in rows] == list(map(str, cases(Path("photos"))))
    *kept, ungrouped = rows
    for row in kept:
        assert row["seeds"] == SEEDS
        assert 0.03 <= row["mean"]["0.05"] <= 0.07
        assert row["warned"] == 0
    assert ungrouped["mean"]["0.05"] > 0.07
    assert ungrouped["warned"] == SEEDS
