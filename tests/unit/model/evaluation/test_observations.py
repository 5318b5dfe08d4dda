"""What is observed of image sets: halves for the PCA, kinds, masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle.bundle import Bundle
from model.config import VAEConfig
from model.datasets.folder import Folder, ImageFile
from model.datasets.load import ImageSet
from model.engine.engine import Engine
from model.evaluation.evaluate import evaluate
from model.evaluation.figures import Evaluation
from model.evaluation.localization import count_pixels, localization
from model.evaluation.observations import Observations, halves_apart, observe
from model.training.calibrate import calibrated
from model.training.pca import PcaError
from tests.unit.samples import tiny_bundle

NAMES = ("crack/0.png", "crack/1.png", "crack/2.png", "dent/0.png", "dent/1.png")


def in_folder(images: NDArray[np.uint8], names: tuple[str, ...], name: str = "bad") -> ImageSet:
    files = [
        ImageFile(path=Path(name) / file, name=file, format="PNG", mode="L", width=28, height=28)
        for file in names
    ]
    folder = Folder(path=Path(name), images=tuple(files), left_out=())
    return ImageSet(name=name, images=images, files={"5 image files": "00ff"}, folder=folder)


@pytest.fixture(scope="module")
def bundle(digits: NDArray[np.uint8]) -> Bundle:
    plain = tiny_bundle(config=VAEConfig(hidden_sizes=(16,), latent_size=3), pixel_variance=0.1)
    return calibrated(plain, digits[300:420], data_set="held out", date="2026-01-02")


@pytest.fixture(scope="module")
def masks() -> NDArray[np.bool_]:
    """Those of five images; one has none."""
    masks = np.zeros((5, 28, 28), bool)
    masks[[0, 1, 2, 4], 10:14, 5:9] = True
    return masks


@pytest.fixture(scope="module")
def observed(bundle: Bundle, digits: NDArray[np.uint8], masks: NDArray[np.bool_]) -> Observations:
    clean = ImageSet(name="digits", images=digits[:40], files={})
    bad = in_folder(255 - digits[200:205], NAMES)
    other = ImageSet(name="crack", images=digits[210:216], files={})
    engine = Engine(bundle, device="cpu")
    return observe(engine, clean, [bad, other], training=None, masks=[masks, None])


@pytest.fixture(scope="module")
def evaluation(observed: Observations) -> Evaluation:
    return evaluate(observed, date="2026-01-01")


def test_each_kind_follows_its_set(observed: Observations, evaluation: Evaluation) -> None:
    found = [(a.images.name, a.images.n, a.part_of, a.derived) for a in evaluation.anomalies]
    assert found == [
        ("bad", 5, "", False),
        ("crack", 3, "bad", False),
        ("dent", 2, "bad", False),
        ("crack (2)", 6, "", False),
    ]
    whole, _, dent = observed.anomalies[:3]
    assert dent.names == NAMES[3:]
    np.testing.assert_array_equal(dent.images, whole.images[3:])
    for own, all_of_them in ((dent.scores, whole.scores), (dent.baselines, whole.baselines)):
        for name, values in own.items():
            np.testing.assert_array_equal(values, all_of_them[name][3:])
    assert [found.facts.name for found in observed.judged] == ["bad", "crack (2)"]
    assert [found.images.name for found in evaluation.judged] == [
        *("bad", "crack", "dent", "crack (2)")
    ]


def test_figures_by_masks_are_of_each_kind(
    observed: Observations, evaluation: Evaluation, masks: NDArray[np.bool_]
) -> None:
    engine = observed.engine
    clean = count_pixels(engine, observed.clean.images)
    for found, chosen in zip(
        evaluation.anomalies, ([0, 1, 2, 3, 4], [0, 1, 2], [3, 4]), strict=False
    ):
        images = observed.anomalies[0].images[chosen]
        counts = count_pixels(engine, images, masks[chosen])
        without = len(chosen) - counts.images
        wanted = localization(clean, counts, without_mask=without)
        assert wanted is not None
        assert found.localization is not None
        assert found.localization.pixel_auroc == pytest.approx(wanted.pixel_auroc)
        assert found.localization.region_overlap == pytest.approx(wanted.region_overlap)
        assert found.localization.peak_in_defect == wanted.peak_in_defect
        assert (found.localization.n, found.localization.without_mask) == (counts.images, without)
    assert [found.localization for found in evaluation.anomalies[3:]] == [None]


def test_flagged_is_the_share_of_small_p_values(
    observed: Observations, evaluation: Evaluation
) -> None:
    for seen, found in zip(observed.anomalies, evaluation.anomalies, strict=True):
        p_values = observed.p_values(seen)
        assert p_values is not None
        assert found.flagged == pytest.approx((p_values <= 0.05).mean())


def test_what_is_new_survives_json_and_older_evaluations_load(evaluation: Evaluation) -> None:
    plain = evaluation.to_json()
    assert Evaluation.from_json(plain) == evaluation
    del plain["has_mistakes"]
    for anomalies in plain["anomalies"]:
        for name in ("part_of", "derived", "flagged", "localization"):
            del anomalies[name]
        for detection in anomalies["detections"]:
            del detection["advantage"]
    old = Evaluation.from_json(plain)
    assert not old.has_mistakes
    assert old.anomalies[0].equal_baseline is None
    assert old.anomalies[0].localization is None


# The PCA


def test_the_pca_never_scores_images_that_it_was_fitted_to(
    observed: Observations, digits: NDArray[np.uint8], bundle: Bundle
) -> None:
    halves = halves_apart(ImageSet(name="digits", images=digits[:40], files={}))
    first, second = (PcaError(digits[half]) for half in halves)
    errors = observed.clean.baselines[PcaError.name]
    assert errors[halves[1]] == pytest.approx(first(digits[halves[1]]))
    assert errors[halves[0]] == pytest.approx(second(digits[halves[0]]))
    strange = observed.anomalies[0]
    both = (first(strange.images) + second(strange.images)) / 2
    assert strange.baselines[PcaError.name] == pytest.approx(both)
    clean = ImageSet(name="digits", images=digits[:20], files={})
    engine = Engine(bundle, device="cpu")
    found = observe(engine, clean, [], training=digits[500:600])
    wanted = PcaError(digits[500:600])(digits[:20])
    assert found.clean.baselines[PcaError.name] == pytest.approx(wanted)


@pytest.mark.parametrize("n", [4, 5, 40, 99, 1_000])
def test_halves_are_halves(n: int) -> None:
    first, second = halves_apart(
        ImageSet(name="x", images=np.zeros((n, 1, 4, 4), np.uint8), files={})
    )
    assert sorted([*first, *second]) == list(range(n))
    assert abs(len(first) - len(second)) <= max(1, n // 20 + 1)


def test_shots_of_one_part_stay_together() -> None:
    names = tuple(f"part-{i // 6:02}/{i}.png" for i in range(60))
    images = np.zeros((60, 1, 4, 4), np.uint8)
    first, second = (
        {names[i].split("/")[0] for i in half} for half in halves_apart(in_folder(images, names))
    )
    assert not first & second
    assert len(first) == len(second) == 5
    # In one folder, only shots at the borders of blocks may be parted.
    flat = tuple(f"{i:03}.png" for i in range(400))
    images = np.zeros((400, 1, 4, 4), np.uint8)
    first_half, _ = halves_apart(in_folder(images, flat))
    borders = np.count_nonzero(np.diff(np.isin(np.arange(400), first_half)))
    assert 1 <= borders < 20
