"""The CSV of scores."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.config import VAEConfig
from model.datasets.folder import Folder, ImageFile
from model.datasets.load import ImageSet
from model.engine.engine import Engine
from model.evaluation.observations import Observations, observe
from model.evaluation.score_table import write_scores
from model.training.calibrate import calibrated
from tests.unit.samples import tiny_bundle

NAMES = ("crack/a,b.png", "dent/\udcff.png", "dent/x.png")


@pytest.fixture(scope="module")
def observed(digits: NDArray[np.uint8]) -> Observations:
    plain = tiny_bundle(config=VAEConfig(hidden_sizes=(16,), latent_size=3), pixel_variance=0.1)
    bundle = calibrated(plain, digits[300:420], data_set="held out", date="2026-01-02")
    files = [
        ImageFile(path=Path(name), name=name, format="PNG", mode="L", width=28, height=28)
        for name in NAMES
    ]
    folder = Folder(path=Path("bad"), images=tuple(files), left_out=())
    bad = ImageSet(name="bad", images=255 - digits[:3], files={}, folder=folder)
    clean = ImageSet(name="digits", images=digits[200:210], files={})
    return observe(Engine(bundle, device="cpu"), clean, [bad], training=None)


def rows(path: Path, observations: Observations) -> list[dict[str, str]]:
    write_scores(path, observations)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_has_a_row_for_each_image_and_each_once(observed: Observations, tmp_path: Path) -> None:
    found = rows(tmp_path / "scores.csv", observed)
    assert [(row["set"], row["file"], row["is_anomaly"]) for row in found] == [
        *(("digits", str(i), "0") for i in range(10)),
        ("bad", "crack/a,b.png", "1"),
        ("bad", "dent/\\udcff.png", "1"),
        ("bad", "dent/x.png", "1"),
    ]


def test_it_has_every_score_the_p_value_and_the_verdict(
    observed: Observations, tmp_path: Path
) -> None:
    found = rows(tmp_path / "scores.csv", observed)
    for seen, part in ((observed.clean, found[:10]), (observed.anomalies[0], found[10:])):
        wanted = {name: values.tolist() for name, values in seen.scores.items()}
        wanted |= {name: values.tolist() for name, values in seen.baselines.items()}
        for name, values in wanted.items():
            assert [float(row[name]) for row in part] == pytest.approx(values, rel=1e-5)
        p_values = observed.p_values(seen)
        assert p_values is not None
        assert [float(row["p_value"]) for row in part] == pytest.approx(list(p_values), rel=1e-5)
        verdicts = ["anomaly" if p <= 0.05 else "normal" for p in p_values]
        assert [row["verdict"] for row in part] == verdicts
    assert {row["verdict"] for row in found} == {"anomaly", "normal"}


def test_without_calibration_there_is_no_verdict(observed: Observations, tmp_path: Path) -> None:
    engine = Engine(replace(observed.engine.bundle, calibration=None), device="cpu")
    found = rows(tmp_path / "scores.csv", replace(observed, engine=engine))
    assert {(row["p_value"], row["verdict"]) for row in found} == {("", "")}
    assert len(found) == 13
