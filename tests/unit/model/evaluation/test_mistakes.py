"""The picture of the worst mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

from model.config import VAEConfig
from model.datasets.load import ImageSet
from model.engine.engine import Engine
from model.evaluation.evaluate import evaluate
from model.evaluation.mistakes import MAX_MISTAKES, MISSED, mistakes
from model.evaluation.observations import Observations, observe
from model.training.calibrate import calibrated
from tests.unit.samples import tiny_bundle


@pytest.fixture(scope="module")
def observed(digits: NDArray[np.uint8]) -> Observations:
    plain = tiny_bundle(config=VAEConfig(hidden_sizes=(16,), latent_size=3))
    bundle = calibrated(plain, digits[300:420], data_set="held out", date="2026-01-02")
    bad = ImageSet(name="bad", images=digits[40:60], files={})
    worse = ImageSet(name="worse", images=digits[60:63], files={})
    clean = ImageSet(name="digits", images=digits[:30], files={})
    masks = np.zeros((20, 28, 28), bool)
    masks[:, 3:9, 3:9] = True
    engine = Engine(bundle, device="cpu")
    return observe(engine, clean, [bad, worse], training=None, masks=[masks])


def tiles(observed: Observations) -> tuple[list[Axes], list[Axes]]:
    """The axes of the misses, and of the false alarms."""
    figure = mistakes(observed, evaluate(observed, date="2026-01-01"))
    misses, alarms = ([a for a in part.axes if a.images] for part in figure.subfigs)
    return misses, alarms


def pixels(panel: Axes) -> NDArray[np.uint8]:
    return np.asarray(panel.images[0].get_array())


def test_it_shows_the_twelve_worst_of_each(observed: Observations) -> None:
    misses, alarms = tiles(observed)
    strange = np.concatenate([found.images for found in observed.anomalies[:2]])
    scores = np.concatenate([found.default for found in observed.anomalies[:2]])
    clean = observed.clean
    for panels, images, order in (
        (misses, strange, np.argsort(scores)),
        (alarms, clean.images, np.argsort(-clean.default)),
    ):
        assert len(panels) == MAX_MISTAKES
        for panel, i in zip(panels, order, strict=False):
            np.testing.assert_array_equal(pixels(panel), images[i, 0])


def test_each_has_its_set_name_and_p_value_and_is_red_if_wrong(observed: Observations) -> None:
    misses, alarms = tiles(observed)
    first = int(np.argmax(observed.clean.default))
    p_values = observed.p_values(observed.clean)
    assert p_values is not None
    assert alarms[0].get_title().split("\n") == ["digits", str(first), f"p = {p_values[first]:.2g}"]
    for panels, is_wrong_above in ((misses, True), (alarms, False)):
        for panel in panels:
            p_value = float(panel.get_title().rpartition("= ")[2])
            assert (panel.title.get_color() == MISSED) == ((p_value > 0.05) == is_wrong_above)
    colours = {panel.title.get_color() for panel in (*misses, *alarms)}
    assert len(colours) == 2


def test_masks_are_outlined(observed: Observations) -> None:
    misses, alarms = tiles(observed)
    outlined = [bool(panel.collections) for panel in misses]
    assert outlined == [not panel.get_title().startswith("worse") for panel in misses]
    assert not any(panel.collections for panel in alarms)


def test_few_images_and_no_calibration(digits: NDArray[np.uint8]) -> None:
    bundle = tiny_bundle(config=VAEConfig(hidden_sizes=(16,), latent_size=3))
    clean = ImageSet(name="digits", images=digits[:4], files={})
    observed = observe(Engine(bundle, device="cpu"), clean, [], training=None)
    misses, alarms = tiles(replace(observed))
    assert (len(misses), len(alarms)) == (8, 4)  # of those upside down and mirrored
    assert alarms[0].get_title().split("\n")[0] == "digits"
    assert "p =" not in alarms[0].get_title()
