"""The bundles that ship, checked on the images that they are for."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from model.bundle import PRETRAINED, find_bundle, load_bundle, pretrained_names
from model.engine import Engine, Scores
from model.training.card import model_card

every_bundle = pytest.mark.parametrize("name", pretrained_names())


@pytest.fixture(scope="module")
def scores(
    test_images: Callable[[str], NDArray[np.uint8]],
) -> Callable[[str, str], Scores]:
    """`scores("mnist", "fashion-mnist")`: what a bundle says of a data set's test images."""

    def score(bundle: str, data_set: str) -> Scores:
        images = test_images(data_set)
        engine = Engine(load_bundle(find_bundle(bundle)), device="cpu", threads=1)
        parts = [engine.score(part) for part in np.split(images, 50)]
        return Scores(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    return score


@every_bundle
def test_it_loads(name: str) -> None:
    bundle = load_bundle(find_bundle(name))
    assert bundle.name == name
    assert bundle.config.image_shape == (1, 28, 28)
    assert bundle.config.head == "log_variance"
    assert bundle.pixel_variance is not None


@every_bundle
def test_it_says_where_it_comes_from(name: str) -> None:
    provenance = load_bundle(find_bundle(name)).provenance
    assert provenance["data_set"] == name
    assert len(provenance["files_sha256"]) == 2
    assert all(
        re.fullmatch("[0-9a-f]{64}", digest) for digest in provenance["files_sha256"].values()
    )
    assert {"seed", "epochs", "threads", "versions"} <= set(provenance)


@every_bundle
def test_its_card_is_its_own(name: str) -> None:
    bundle = load_bundle(find_bundle(name))
    card = (PRETRAINED / name / "README.md").read_text(encoding="utf-8")
    assert bundle.version in card
    assert card == model_card(bundle)


def test_no_path_of_a_machine_is_told() -> None:
    absolute = re.compile(r"""(?<![\w.:/→])/(?:[\w.-]+/)+|\b[A-Za-z]:\\|file://|~/""")
    for path in PRETRAINED.rglob("*"):
        if path.suffix in {".json", ".md"}:
            assert not absolute.search(path.read_text(encoding="utf-8")), path


def test_only_formats_that_cannot_run_code() -> None:
    files = {path for path in PRETRAINED.rglob("*") if path.is_file()}
    assert {path.name for path in files} == {"config.json", "model.safetensors", "README.md"}
    for path in files:
        assert not path.read_bytes().startswith((b"\x80", b"PK"))  # pickle, torch's zip


def test_real_digits_are_reconstructed(scores: Callable[[str, str], Scores]) -> None:
    assert scores("mnist", "mnist").mse.mean() <= 0.0140


@every_bundle
def test_its_figures_are_true(name: str, scores: Callable[[str, str], Scores]) -> None:
    recorded = load_bundle(find_bundle(name)).metrics["test"]
    measured = scores(name, name)
    assert recorded["n"] == len(measured.mse)
    assert float(measured.mse.mean()) == pytest.approx(recorded["mse"], rel=1e-4)
    assert float(measured.kl.mean()) == pytest.approx(recorded["kl"], rel=1e-4)


def test_clothes_are_stranger_than_digits(scores: Callable[[str, str], Scores]) -> None:
    digits, clothes = scores("mnist", "mnist").score, scores("mnist", "fashion-mnist").score
    strange = np.repeat([0, 1], [len(digits), len(clothes)])
    assert roc_auc_score(strange, np.concatenate([digits, clothes])) >= 0.985
