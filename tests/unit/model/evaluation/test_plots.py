"""The plots of an evaluation: present, complete, small, and for any images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.bundle.bundle import Bundle
from model.config import VAEConfig
from model.datasets.load import ImageSet
from model.engine.engine import Engine
from model.evaluation.curves import histograms, latent_scatter, p_values, roc
from model.evaluation.evaluate import evaluate
from model.evaluation.figures import Evaluation
from model.evaluation.image_grids import manifold, reconstructions, samples, traversals
from model.evaluation.observations import Observations, observe
from model.evaluation.plots import save_plots
from model.evaluation.report import PICTURES, picture_names
from model.training.calibrate import calibrated
from tests.unit.samples import tiny_bundle

Found = tuple[Observations, Evaluation]


def found(bundle: Bundle, clean: NDArray[np.uint8], name: str = "odd", labels: Any = None) -> Found:
    """What is observed of some images, and of the first few of them as anomalies."""
    anomalies = ImageSet(name=name, images=255 - clean[:5], files={})
    data = ImageSet(name="clean", images=clean, files={})
    engine = Engine(bundle, device="cpu")
    observations = observe(engine, data, [anomalies], training=None, labels=labels)
    return observations, evaluate(observations, date="2026-01-01")


@pytest.fixture(scope="module")
def plane(digits: NDArray[np.uint8]) -> Found:
    """Of a latent space of two dimensions, calibrated, with labels."""
    config = VAEConfig(hidden_sizes=(8,), latent_size=2)
    bundle = calibrated(
        tiny_bundle(config=config), digits[100:200], data_set="others", date="2026-01-01"
    )
    return found(bundle, digits[:60], labels=np.arange(60, dtype=np.uint8) % 10)


@pytest.fixture(scope="module")
def colours() -> Found:
    """Of few RGB images that are not square, without calibration or labels."""
    images = np.random.default_rng(0).integers(0, 255, (12, 3, 20, 17), dtype=np.uint8)
    config = VAEConfig(
        architecture="conv", image_shape=(3, 20, 17), hidden_sizes=(4, 4, 8), latent_size=3
    )
    return found(tiny_bundle(config=config), images, name="_odd $ 日本")


@pytest.mark.parametrize("case", ["plane", "colours"])
def test_every_picture_is_written_and_readable(
    case: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    observations, evaluation = request.getfixturevalue(case)
    save_plots([tmp_path], observations, evaluation)
    names = picture_names(evaluation)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png" for name in names}
    assert set(PICTURES) - set(names) == (set() if case == "plane" else {"p_values", "manifold"})
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert min(pixels.shape) > 100, path
        assert pixels.std() > 5, path


def test_older_pictures_go(colours: Found, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    for name in ("manifold.png", "roc.png", "mine.png"):
        (first / name).write_bytes(b"old")
    save_plots([first, second], *colours)
    assert not (first / "manifold.png").exists()
    assert (first / "mine.png").read_bytes() == b"old"
    for path in second.iterdir():
        assert path.read_bytes() == (first / path.name).read_bytes()


def test_the_roc_has_a_line_for_each_set(plane: Found) -> None:
    figure = roc(*plane)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.split(",")[0] for label in labels] == ["odd", "chance"]
    for axes in figure.axes:
        assert axes.get_xlabel() == "false-positive rate"
        assert axes.get_ylabel() == "true-positive rate"


def test_the_histograms_hold_all_images(plane: Found) -> None:
    for axes in histograms(*plane).axes:
        heights = [bar.get_height() for bars in axes.containers for bar in bars]
        assert sum(heights) == pytest.approx(200)  # per cent, of two sets


def test_p_values_lie_where_they_are(plane: Found) -> None:
    observations, evaluation = plane
    axes = p_values(*plane).axes[0]
    line = next(line for line in axes.lines if line.get_label() == "mse_top5")
    x, share = (np.asarray(values) for values in line.get_data())
    alarms = evaluation.false_alarms
    assert alarms is not None
    rate = alarms.rates[0]
    below = share[x <= rate.alpha]
    assert (below[-1] if len(below) else 0) == pytest.approx(rate.rate)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "100: others" in axes.get_title()
    bundle = replace(observations.engine.bundle, calibration=None)
    without = replace(observations, engine=Engine(bundle, device="cpu"))
    with pytest.raises(ValueError, match="calibration"):
        p_values(without, evaluation)


def test_reconstructions_stand_under_their_images(plane: Found) -> None:
    observations, _ = plane
    axes = reconstructions(*plane).axes[0]
    canvas = np.asarray(axes.images[0].get_array())
    clean = observations.clean.images
    np.testing.assert_allclose(canvas[:28, :28], clean[0, 0] / 255, rtol=1e-6)
    np.testing.assert_allclose(canvas[:28, -28:], clean[-1, 0] / 255, rtol=1e-6)
    rebuilt = observations.engine.reconstruct(clean[:1]).images[0, 0]
    np.testing.assert_allclose(canvas[30:58, :28], rebuilt, atol=1e-6)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["clean", "odd"]


def test_traversals_go_through_the_dimensions_of_largest_kl(digits: NDArray[np.uint8]) -> None:
    bundle = tiny_bundle(config=VAEConfig(hidden_sizes=(8,), latent_size=12))
    observations, evaluation = found(bundle, digits[:20])
    axes = traversals(observations, evaluation).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    mu, sigma = observations.encoding
    kl = 0.5 * (mu**2 + sigma**2 - np.log(sigma**2) - 1).mean(axis=0)
    assert [int(name.split(",")[0][1:]) for name in names] == list(np.argsort(-kl)[:10])
    canvas = np.asarray(axes.images[0].get_array())
    z = mu[:1].copy()
    z[0, np.argmax(kl)] = -3
    wanted = observations.engine.decode(z).images[0, 0]
    np.testing.assert_allclose(canvas[:28, :28], wanted, atol=1e-5)
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert (ticks[0], ticks[6], ticks[-1]) == ("−3", "0", "3")


def test_the_manifold_is_of_two_dimensions_only(plane: Found, colours: Found) -> None:
    observations, _ = plane
    axes = manifold(*plane).axes[0]
    canvas = np.asarray(axes.images[0].get_array())
    corner = np.array([[-1.95996, 1.95996]], np.float32)  # the quantiles at 1/40 and 39/40
    wanted = observations.engine.decode(corner).images[0, 0]
    np.testing.assert_allclose(canvas[:28, :28], wanted, atol=1e-5)
    with pytest.raises(ValueError, match="latent size is 3"):
        manifold(*colours)


def test_the_scatter_says_what_its_axes_are(plane: Found, digits: NDArray[np.uint8]) -> None:
    axes = latent_scatter(*plane).axes[0]
    assert axes.get_xlabel() == "first dimension of μ"
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == list("0123456789")
    for size, label in ((1, "μ"), (4, "first principal component of μ")):
        bundle = tiny_bundle(config=VAEConfig(hidden_sizes=(8,), latent_size=size))
        axes = latent_scatter(*found(bundle, digits[:20])).axes[0]
        assert axes.get_xlabel().startswith(label)
        assert axes.get_legend() is None


def test_the_scatter_is_of_principal_components(digits: NDArray[np.uint8]) -> None:
    bundle = tiny_bundle(config=VAEConfig(hidden_sizes=(8,), latent_size=4))
    observations, evaluation = found(bundle, digits[:30])
    axes = latent_scatter(observations, evaluation).axes[0]
    points = np.asarray(axes.collections[0].get_offsets())
    variances = np.sort(np.linalg.eigvalsh(np.cov(observations.encoding.mu.T)))[::-1]
    assert points.var(axis=0, ddof=1) == pytest.approx(variances[:2], rel=1e-3)
    assert f"{variances[0] / variances.sum():.0%}" in axes.get_xlabel()


def test_samples_come_from_the_prior(plane: Found) -> None:
    canvas = np.asarray(samples(*plane).axes[0].images[0].get_array())
    tiles = [canvas[i : i + 28, j : j + 28] for i in (0, 30) for j in (0, 30)]
    assert all(0 <= tile.min() <= tile.max() <= 1 for tile in tiles)
    assert not np.allclose(tiles[0], tiles[1])
