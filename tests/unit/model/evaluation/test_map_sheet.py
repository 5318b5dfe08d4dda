"""The picture of the maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from model.config import VAEConfig
from model.datasets.folder import Folder, ImageFile
from model.datasets.load import ImageSet
from model.engine.engine import Engine
from model.evaluation.evaluate import evaluate
from model.evaluation.figures import Evaluation
from model.evaluation.image_tiles import tiles_of
from model.evaluation.map_sheet import MAX_ANOMALIES, MAX_CLEAN, OUTLINE, maps, scaled_maps
from model.evaluation.observations import Observations, observe
from model.evaluation.report import picture_names
from model.results import ScoreMaps
from tests.unit.model.features.detectors import DEFECT, calibrated_bundle, clean, defective
from tests.unit.samples import tiny_bundle

Pair = tuple[Axes, Axes]

KINDS = {"scratch": 11, "dent": 4, "good": 1}
"""The last have no defect, so they score lowest."""


def in_folder(images: NDArray[np.uint8]) -> ImageSet:
    names = [f"{kind}/{i}.png" for kind, n in KINDS.items() for i in range(n)]
    files = [
        ImageFile(path=Path("bad") / name, name=name, format="PNG", mode="L", width=96, height=32)
        for name in names
    ]
    folder = Folder(path=Path("bad"), images=tuple(files), left_out=())
    return ImageSet(name="bad", images=images, files={}, folder=folder)


@pytest.fixture(scope="module")
def photographs() -> Observations:
    """By a detector; only the first half of the anomalies has masks."""
    bad = np.concatenate([defective(sum(KINDS.values()) - 1), clean(1, seed=8)])
    masks = np.zeros((len(bad), *bad.shape[2:]), bool)
    masks[: len(bad) // 2, *DEFECT] = True
    data = ImageSet(name="clean", images=clean(9, seed=7), files={})
    engine = Engine(calibrated_bundle(), device="cpu")
    return observe(engine, data, [in_folder(bad)], training=None, masks=[masks])


@pytest.fixture(scope="module")
def digits_by_pixels(digits: NDArray[np.uint8]) -> Observations:
    bundle = tiny_bundle(config=VAEConfig(hidden_sizes=(16,), latent_size=3))
    data = ImageSet(name="digits", images=digits[:30], files={})
    odd = ImageSet(name="odd", images=255 - digits[40:42], files={})
    return observe(Engine(bundle, device="cpu"), data, [odd], training=None)


def pairs(observed: Observations) -> tuple[list[Pair], list[Pair]]:
    """The axes of the anomalies and of the clean images: without and with the map."""
    figure = maps(observed, evaluate(observed, date="2026-01-01"))
    parts = [[axes for axes in part.axes if axes.images] for part in figure.subfigs]
    anomalies, of_clean = ([*zip(a[::2], a[1::2], strict=True)] for a in parts)
    return anomalies, of_clean


def array(panel: Axes, layer: int = 0) -> NDArray[Any]:
    return np.asarray(panel.images[layer].get_array())


def test_the_highest_of_each_kind_come_in_turn(photographs: Observations) -> None:
    anomalies, _ = pairs(photographs)
    shown = [plain.get_title().split("\n")[:2] for plain, _ in anomalies]
    bad = photographs.anomalies[0]
    by_kind: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for i in np.argsort(-bad.default):
        kind, name = bad.names[i].split("/")
        by_kind[kind].append(name)
    assert len(shown) == MAX_ANOMALIES
    for kind, n in {**KINDS, "scratch": MAX_ANOMALIES - KINDS["dent"] - KINDS["good"]}.items():
        assert [name for of, name in shown if of == kind] == by_kind[kind][:n]
    assert {kind for kind, _ in shown[: len(KINDS)]} == set(KINDS)


def test_each_image_stands_beside_itself_with_the_map_of_its_score(
    photographs: Observations,
) -> None:
    """On the detector's own scale, from 0 to 1."""
    bad = photographs.anomalies[0]
    for plain, drawn_over in pairs(photographs)[0]:
        i = bad.names.index("/".join(plain.get_title().split("\n")[:2]))
        np.testing.assert_array_equal(array(plain), bad.images[i, 0])
        np.testing.assert_array_equal(array(drawn_over), bad.images[i, 0])
        expected = photographs.engine.score_map(bad.images[i : i + 1]).anomaly_map[0, 0]
        np.testing.assert_allclose(array(drawn_over, 1), expected, rtol=1e-4, atol=1e-4)
        assert drawn_over.images[1].get_clim() == (0, 1)
        assert drawn_over.get_title() == f"up to {expected.max():.1f}"
        assert not plain.collections


def test_masks_are_outlined_on_the_map(photographs: Observations) -> None:
    bad = photographs.anomalies[0]
    assert bad.masks is not None
    anomalies, of_clean = pairs(photographs)
    outlined = 0
    for plain, drawn_over in anomalies:
        i = bad.names.index("/".join(plain.get_title().split("\n")[:2]))
        assert bool(drawn_over.collections) == bool(bad.masks[i].any())
        outlined += bool(drawn_over.collections)
    assert 0 < outlined < len(anomalies)
    assert not any(panel.collections for pair in of_clean for panel in pair)
    for lines in (lines for _, drawn_over in anomalies for lines in drawn_over.collections):
        assert to_hex(np.asarray(lines.get_edgecolor())[0]) == OUTLINE


def test_clean_images_are_shown_from_the_lowest_score_to_the_highest(
    photographs: Observations,
) -> None:
    _, of_clean = pairs(photographs)
    order = np.argsort(photographs.clean.default)
    shown = [int(plain.get_title().split("\n")[1]) for plain, _ in of_clean]
    assert len(shown) == MAX_CLEAN
    assert shown == [order[0], order[4], order[8]]


def test_a_map_of_errors_gets_its_scale_from_the_clean_images(
    digits_by_pixels: Observations,
) -> None:
    engine, data = digits_by_pixels.engine, digits_by_pixels.clean
    assert engine.scaled_maps == ()
    values = scaled_maps(engine, data, tiles_of(digits_by_pixels, data))
    assert values.shape == (30, 28, 28)
    assert np.median(values) == pytest.approx(0, abs=1e-4)
    assert np.quantile(values, 0.999) == pytest.approx(1, abs=1e-3)
    errors = np.sqrt(engine.score_map(data.images).anomaly_map[:, 0])
    assert np.corrcoef(values.ravel(), errors.ravel())[0, 1] == pytest.approx(1, abs=1e-4)
    for _, drawn_over in pairs(digits_by_pixels)[0]:
        assert array(drawn_over, 1).max() > 1  # they are inverted


def test_errors_that_are_the_same_everywhere_do_no_harm(
    digits_by_pixels: Observations, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, data = digits_by_pixels.engine, digits_by_pixels.clean

    def same(images: NDArray[np.uint8]) -> ScoreMaps:
        errors = np.zeros(len(images), np.float32)
        return ScoreMaps(errors, errors, errors, np.full(images.shape, 0.25, np.float32))

    monkeypatch.setattr(engine, "score_map", same)
    assert not scaled_maps(engine, data, tiles_of(digits_by_pixels, data)[:2]).any()


def test_colours_and_few_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 3, 20, 17), dtype=np.uint8)
    config = VAEConfig(
        architecture="conv", image_shape=(3, 20, 17), hidden_sizes=(4, 4, 8), latent_size=3
    )
    engine = Engine(tiny_bundle(config=config), device="cpu")
    data = ImageSet(name="clean", images=images, files={})
    one = ImageSet(name="one", images=images[:1], files={})
    anomalies, of_clean = pairs(observe(engine, data, [one], training=None))
    assert (len(anomalies), len(of_clean)) == (1, 3)
    plain, drawn_over = anomalies[0]
    assert array(plain).shape == (20, 17, 3)
    assert array(drawn_over, 1).shape == (20, 17)


def test_older_evaluations_have_no_such_picture(digits_by_pixels: Observations) -> None:
    evaluation = evaluate(digits_by_pixels, date="2026-01-01")
    assert "maps" in picture_names(evaluation)
    plain = evaluation.to_json()
    assert Evaluation.from_json(plain) == evaluation
    del plain["has_maps"]
    assert "maps" not in picture_names(Evaluation.from_json(plain))
