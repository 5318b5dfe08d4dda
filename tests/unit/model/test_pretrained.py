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
from sklearn.neighbors import KNeighborsClassifier

from model.bundle.bundle import PRETRAINED, find_bundle, load_bundle, pretrained_names
from model.datasets.class_names import CLASS_NAMES
from model.engine.engine import Engine
from model.evaluation.card import model_card
from model.results import Scores
from model.scores.calibration import DTYPES, calibration_of
from model.training.split import split_indices

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
    ("fashion-mnist-conv", "upside down"): 0.88,
    ("mnist", "upside down"): 0.89,
    ("mnist-conv", "upside down"): 0.86,
    ("mnist", "mirrored"): 0.92,
    ("mnist-conv", "mirrored"): 0.90,
    ("fashion-mnist", "mirrored"): 0.67,
    ("fashion-mnist-conv", "mirrored"): 0.68,
}
"""How well the default score tells other images from clean ones, at least."""

TURNED: Final[Mapping[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]] = {
    "upside down": lambda images: images[:, :, ::-1],
    "mirrored": lambda images: images[:, :, :, ::-1],
}

Scored = Callable[[str, str], Scores]


def trained_on(bundle: str) -> str:
    return "fashion-mnist" if bundle.startswith("fashion") else "mnist"


@pytest.fixture(scope="module")
def scores(test_images: Callable[[str], NDArray[np.uint8]]) -> Scored:
    """`scores("mnist", "kmnist")`: what a bundle says of a data set's test images."""

    @cache
    def score(bundle: str, data_set: str) -> Scores:
        if data_set in TURNED:
            images = TURNED[data_set](test_images(trained_on(bundle)))
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


def test_no_path_of_a_machine_is_revealed() -> None:
    absolute = re.compile(r"""(?<![\w.:/→])/(?:[\w.-]+/)+|\b[A-Za-z]:\\|file://|~/""")
    for path in PRETRAINED.rglob("*"):
        if path.suffix in {".json", ".md"}:
            assert not absolute.search(path.read_text(encoding="utf-8")), path


def test_only_formats_that_cannot_run_code() -> None:
    files = {path for path in PRETRAINED.rglob("*") if path.is_file()}
    kinds = {path.name if path.suffix != ".png" else "*.png" for path in files}
    tensors = {"model.safetensors", "calibration.safetensors"}
    tensors |= {"trained_on.safetensors", "latents.safetensors"}
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
def test_anomalous_images_are_detected(name: str, strange: str, scores: Scored) -> None:
    clean, other = scores(name, trained_on(name)).score, scores(name, strange).score
    labels = np.repeat([0, 1], [len(clean), len(other)])
    assert roc_auc_score(labels, np.concatenate([clean, other])) >= AUROC[name, strange]


@every_bundle
def test_it_is_calibrated_on_the_images_held_out(
    name: str, training_images: Callable[[str], NDArray[np.uint8]]
) -> None:
    """The stored scores are theirs; on an exchangeable split, halves of them, the rate holds."""
    bundle = load_bundle(find_bundle(name))
    assert bundle.calibration is not None
    images = training_images(trained_on(name))
    split = split_indices(len(images), bundle.provenance["seed"])
    engine = Engine(bundle, device="cpu", threads=1)
    parts = np.array_split(images[split.held_out], 50)
    scores = np.concatenate([engine.score(part).score for part in parts])
    np.testing.assert_allclose(np.sort(scores), bundle.calibration.scores["fused"], atol=1e-4)
    # In the order of the data set, which was written down writer by writer.
    first, second = np.split(scores, 2)
    halves = calibration_of({"fused": first}, data_set="the first half", date="2026-01-01")
    p_values = halves.p_values("fused", second)
    assert np.mean(p_values <= 0.05) == pytest.approx(0.05, abs=0.012)
    assert np.mean(p_values <= 0.01) == pytest.approx(0.01, abs=0.006)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_half_precision_finds_as_much_and_has_its_own_calibration(
    name: str, dtype: str, test_images: Callable[[str], NDArray[np.uint8]]
) -> None:
    bundle = load_bundle(find_bundle(name))
    other = "fashion-mnist" if name == "mnist" else "mnist"
    found = []
    for engine in (Engine(bundle, device="cpu"), Engine(bundle, device="cpu", dtype=dtype)):
        clean, strange = (
            np.concatenate([engine.score(part).score for part in np.split(test_images(data), 20)])
            for data in (name, other)
        )
        assert engine.calibration is not None
        alarms = [(engine.calibration.p_values("fused", clean) <= a).mean() for a in (0.05, 0.01)]
        truth = np.repeat([0, 1], [len(clean), len(strange)])
        found.append((roc_auc_score(truth, np.concatenate([clean, strange])), *alarms))
    (auroc, *rates), (half_auroc, *half_rates) = found
    assert half_auroc == pytest.approx(auroc, abs=0.002)
    assert half_rates == pytest.approx(rates, abs=0.002)


@every_bundle
def test_each_number_type_has_tables_of_all_scores(name: str) -> None:
    calibration = load_bundle(find_bundle(name)).calibration
    assert calibration is not None
    for dtype in DTYPES[1:]:
        half = calibration.of_dtype(dtype)
        assert half is not None
        assert half.scores.keys() == calibration.scores.keys()
        assert half.n == calibration.n
        for score, table in half.scores.items():
            assert not np.array_equal(table, calibration.scores[score])


NEIGHBOURS: Final[Mapping[str, float]] = {
    "mnist": 0.92,
    "mnist-conv": 0.90,
    "mnist-2d": 0.80,
    "fashion-mnist": 0.78,
    "fashion-mnist-conv": 0.76,
}
"""Share of the posterior means whose neighbours among the others have their label, at least."""


@every_bundle
def test_it_keeps_posterior_means_with_their_labels(name: str) -> None:
    """Those of each class lie together: means and labels are of the same images."""
    latents = load_bundle(find_bundle(name)).latents
    assert latents is not None
    assert latents.n == 3_000
    assert latents.data_set == f"{trained_on(name)}, images trained on"
    assert latents.classes == CLASS_NAMES[trained_on(name)]
    assert latents.labels is not None
    assert np.bincount(latents.labels, minlength=10).min() > 200
    halves = np.arange(latents.n) % 2 == 0
    found = KNeighborsClassifier(5).fit(latents.mu[halves], latents.labels[halves])
    assert found.score(latents.mu[~halves], latents.labels[~halves]) >= NEIGHBOURS[name]


@every_bundle
def test_its_posterior_means_are_of_its_own_network(name: str) -> None:
    """Decoded and encoded again, they come back nearly, and the images are usual ones."""
    bundle = load_bundle(find_bundle(name))
    assert bundle.latents is not None
    mu = bundle.latents.mu[:500]
    engine = Engine(bundle, device="cpu", threads=1)
    images = engine.decode(mu).images
    again = engine.encode(images.astype(np.float32)).mu
    assert np.square(again - mu).mean() < 0.05 * mu.var()
    assert engine.calibration is not None
    p_values = engine.calibration.p_values("mse", engine.score(images, "mse").score)
    assert np.mean(p_values <= 0.05) < 0.05


@every_bundle
def test_its_posterior_means_are_those_of_images_trained_on(
    name: str, training_images: Callable[[str], NDArray[np.uint8]]
) -> None:
    bundle = load_bundle(find_bundle(name))
    assert bundle.latents is not None
    images = training_images(trained_on(name))
    trained = split_indices(len(images), bundle.provenance["seed"]).train
    drawn = np.random.default_rng(0).choice(len(trained), 3_000, replace=False)
    engine = Engine(bundle, device="cpu", threads=1)
    parts = np.array_split(images[trained[np.sort(drawn)]], 20)
    mu = np.concatenate([engine.encode(part).mu for part in parts])
    np.testing.assert_allclose(bundle.latents.mu, mu, atol=1e-4)
