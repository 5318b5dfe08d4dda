"""The bundles that ship, checked on the images that they are for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from model.bundle import PRETRAINED, find_bundle, load_bundle, pretrained_names
from model.engine import Engine, Scores
from model.training.card import model_card

every_bundle = pytest.mark.parametrize("name", pretrained_names())

TEST_MSE: Final[Mapping[str, float]] = {
    "mnist": 0.0120,
    "fashion-mnist": 0.0120,
    "mnist-conv": 0.0040,
    "fashion-mnist-conv": 0.0080,
}
"""What the reconstruction of test images may be off by, at z = μ."""

AUROC: Final[Mapping[tuple[str, str], float]] = {
    ("mnist", "fashion-mnist"): 0.995,
    ("mnist", "kmnist"): 0.998,
    ("mnist-conv", "fashion-mnist"): 0.9998,
    ("mnist-conv", "kmnist"): 0.9998,
    ("fashion-mnist", "mnist"): 0.997,
    ("fashion-mnist", "kmnist"): 0.998,
    ("fashion-mnist", "upside down"): 0.88,
    ("fashion-mnist-conv", "mnist"): 0.998,
    ("fashion-mnist-conv", "kmnist"): 0.999,
}
"""How well the default score tells other images from clean ones, at least."""

Scored = Callable[[str, str], Scores]


def trained_on(bundle: str) -> str:
    return "fashion-mnist" if bundle.startswith("fashion") else "mnist"


@pytest.fixture(scope="module")
def scores(test_images: Callable[[str], NDArray[np.uint8]]) -> Scored:
    """`scores("mnist", "kmnist")`: what a bundle says of a data set's test images."""

    @cache
    def score(bundle: str, data_set: str) -> Scores:
        if data_set == "upside down":
            images = test_images(trained_on(bundle))[:, :, ::-1]
        else:
            images = test_images(data_set)
        engine = Engine(load_bundle(find_bundle(bundle)), device="cpu", threads=1)
        parts = [engine.score(part) for part in np.split(images, 50)]
        return Scores(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    return score


def test_those_that_are_promised() -> None:
    assert set(pretrained_names()) == {*TEST_MSE, "mnist-2d"}


@every_bundle
def test_it_loads(name: str) -> None:
    bundle = load_bundle(find_bundle(name))
    assert bundle.name == name
    assert bundle.config.image_shape == (1, 28, 28)
    assert bundle.config.head == "log_variance"
    assert bundle.config.latent_size == (2 if name == "mnist-2d" else 32 if "conv" in name else 10)
    assert bundle.pixel_variance is not None
    assert bundle.statistics is not None
    assert sum(tensor.numel() for tensor in bundle.weights.values()) < 1_000_000


@every_bundle
def test_it_says_where_it_comes_from(name: str) -> None:
    provenance = load_bundle(find_bundle(name)).provenance
    assert provenance["data_set"] == trained_on(name)
    assert len(provenance["files_sha256"]) == 2
    assert all(
        re.fullmatch("[0-9a-f]{64}", digest) for digest in provenance["files_sha256"].values()
    )
    assert {"seed", "epochs", "threads", "versions"} <= set(provenance)


@every_bundle
def test_its_card_is_its_own_and_shows_the_plots(name: str) -> None:
    bundle = load_bundle(find_bundle(name))
    card = (PRETRAINED / name / "README.md").read_text(encoding="utf-8")
    assert bundle.version in card
    assert card == model_card(bundle)
    shown = set(re.findall(r"!\[[^]]+\]\((plots/[^)]+\.png)\)", card))
    there = {f"plots/{path.name}" for path in (PRETRAINED / name / "plots").iterdir()}
    assert shown == there
    assert len(there) >= 7


def test_no_path_of_a_machine_is_told() -> None:
    absolute = re.compile(r"""(?<![\w.:/→])/(?:[\w.-]+/)+|\b[A-Za-z]:\\|file://|~/""")
    for path in PRETRAINED.rglob("*"):
        if path.suffix in {".json", ".md"}:
            assert not absolute.search(path.read_text(encoding="utf-8")), path


def test_only_formats_that_cannot_run_code() -> None:
    files = {path for path in PRETRAINED.rglob("*") if path.is_file()}
    kinds = {path.name if path.suffix != ".png" else "*.png" for path in files}
    tensors = {"model.safetensors", "calibration.safetensors"}
    assert kinds == {"config.json", "README.md", "*.png", *tensors}
    for path in files:
        pickles = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
        assert not path.read_bytes().startswith((*pickles, b"PK"))  # the last is torch's zip


@every_bundle
def test_its_figures_are_true(name: str, scores: Scored) -> None:
    recorded = load_bundle(find_bundle(name)).metrics["test"]
    measured = scores(name, trained_on(name))
    assert recorded["n"] == len(measured.mse)
    assert float(measured.mse.mean()) == pytest.approx(recorded["mse"], rel=1e-4)
    assert float(measured.kl.mean()) == pytest.approx(recorded["kl"], rel=1e-4)


@pytest.mark.parametrize("name", TEST_MSE)
def test_real_images_are_reconstructed(name: str, scores: Scored) -> None:
    assert scores(name, trained_on(name)).mse.mean() <= TEST_MSE[name]


@pytest.mark.parametrize(("name", "strange"), AUROC)
def test_strange_images_are_told_apart(name: str, strange: str, scores: Scored) -> None:
    clean, other = scores(name, trained_on(name)).score, scores(name, strange).score
    labels = np.repeat([0, 1], [len(clean), len(other)])
    assert roc_auc_score(labels, np.concatenate([clean, other])) >= AUROC[name, strange]


@every_bundle
@pytest.mark.parametrize(("alpha", "margin"), [(0.05, 0.006), (0.01, 0.003)])
def test_false_alarms_on_an_exchangeable_split(name: str, alpha: float, margin: float) -> None:
    """Calibrated on one half of the images held out, measured on the other."""
    calibration = load_bundle(find_bundle(name)).calibration
    assert calibration is not None
    table = calibration.scores["fused"]
    shuffled = np.random.default_rng(0).permutation(table)
    known, new = np.sort(shuffled[:5_000]), shuffled[5_000:]
    p_values = (1 + 5_000 - np.searchsorted(known, new)) / 5_001
    assert np.mean(p_values <= alpha) == pytest.approx(alpha, abs=margin)
