"""An evaluation in Markdown."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from model.evaluation.figures import Estimate, Evaluation, Localization
from model.evaluation.report import PICTURES, number, picture_names, report, sections
from tests.unit.model.evaluation.evaluations import ALARMS, EVALUATION, facts


def test_it_holds_every_figure() -> None:
    text = report(EVALUATION)
    for line in (
        "# Evaluation of mnist",
        "| mnist | 10,000 | 0.01234 | 0.01560 | 25.50 | -512.2 | 9 of 10 |",
        "| `fused` | 0.0474 | 0.0096 |",
        "| `mse` | 0.0452 | 0.0085 |",
        "| expected for exchangeable sets, 95 % | 0.0500 ± 0.0062 | 0.0100 ± 0.0028 |",
        "| letters | 1,234 | 0.9800 (0.9700–0.9850) | 0.2500 (0.2000–0.3000) | "
        "mean intensity, 0.8000 |",
        "### letters, 1,234 images",
        "| `mse` | 0.9000 (0.8900–0.9050) | 0.2500 (0.2000–0.3000) |",
        "| baseline: PNG size, larger is more anomalous | 0.7500 (0.7400–0.7550) | "
        "0.2500 (0.2000–0.3000) |",
    ):
        assert line in text.splitlines()
    for part in (
        "`0123456789abcdef`",
        "2026-03-04",
        "9,000 images (mnist, held out, 2026-01-02)",
        "0.0501 ± 0.0044 at α = 0.05 and 0.0099 ± 0.0020 at α = 0.01",
        "baseline: mean intensity, smaller is more anomalous",
        "9 of 10 latent dimensions are active",
    ):
        assert part in text


def test_its_tables_are_tables() -> None:
    lines = report(EVALUATION).splitlines()
    for above, line in pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|"), line
    assert not any(re.search(r"\s$", line) for line in lines)


def test_it_shows_the_pictures_that_there_are() -> None:
    def shown(evaluation: Evaluation, **options: bool) -> set[str]:
        text = "\n".join(sections(evaluation, **options))
        return set(re.findall(r"!\[[^\]]+\]\(plots/(\w+)\.png\)", text))

    assert shown(EVALUATION) == set(PICTURES) - {"manifold", "mistakes", "maps"}
    new = replace(EVALUATION, has_mistakes=True, has_maps=True)
    assert shown(new) == set(PICTURES) - {"manifold"}
    assert shown(replace(new, latent_size=2)) == set(PICTURES)
    plain = replace(new, false_alarms=None)
    assert shown(plain) == set(picture_names(plain)) == set(PICTURES) - {"manifold", "p_values"}
    assert "p_values" not in shown(EVALUATION, alarms_are_current=False)


def test_it_says_what_is_not_known() -> None:
    plain = report(replace(EVALUATION, false_alarms=None, negative_elbo=None))
    assert "no calibration" in plain
    assert "| 25.50 | – | 9 of 10 |" in plain
    stale = "\n".join(sections(EVALUATION, alarms_are_current=False))
    assert "calibrated anew" in stale
    assert "0.0474" not in stale
    assert "> **Note:** Beware." in report(replace(EVALUATION, notes=("Beware.",)))


@pytest.mark.parametrize("fields", [{"derived": True}, {"images": facts("mirrored", 1_234)}])
def test_flipped_images_are_explained_where_there_are_some(fields: dict[str, Any]) -> None:
    """Also in the cards of older evaluations, which know them by their names alone."""
    anomalies = (replace(EVALUATION.anomalies[0], **fields),)
    assert "are the clean images themselves, flipped" in report(
        replace(EVALUATION, anomalies=anomalies)
    )
    assert "flipped" not in report(EVALUATION)


def test_one_of_anything_is_singular() -> None:
    letters = EVALUATION.anomalies[0]
    peak = Estimate(value=1.0, low=0.1, high=1.0)
    found = Localization(
        n=1,
        without_mask=1,
        regions=1,
        pixel_auroc=0.91,
        region_overlap=0.5,
        peak_in_defect=peak,
        defect_share=0.034,
    )
    alarms = replace(ALARMS, calibration=replace(ALARMS.calibration, n=1))
    text = report(
        replace(
            EVALUATION,
            latent_size=1,
            active_units=1,
            false_alarms=alarms,
            anomalies=(replace(letters, images=facts("a", 1), localization=found),),
        )
    )
    for part in (
        "### a, 1 image\n",
        "calibrated on 1 image (",
        "\n1 anomaly has no mask, or an empty one, and does not count here.",
        "\n1 of 1 latent dimension is active: ",
    ):
        assert part in text, part
    assert "1 of 10 latent dimensions is active" in report(replace(EVALUATION, active_units=1))


def test_a_name_cannot_break_a_table() -> None:
    odd = facts("a|b\nc", 12)
    anomalies = (replace(EVALUATION.anomalies[0], images=odd),)
    lines = report(replace(EVALUATION, clean=odd, anomalies=anomalies)).splitlines()
    assert any(line.startswith(r"| a\|b c | 12 | 0.9800") for line in lines)
    assert any(line.startswith(r"| a\|b c | 12 | 0.01234") for line in lines)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.0000"), (0.99999, "0.9999"), (0.98765, "0.9877"), (0.0, "0.0000")],
)
def test_what_is_not_one_does_not_look_like_it(value: float, text: str) -> None:
    assert number(value) == text


def test_the_first_line_says_where_the_network_is_no_better_than_a_baseline() -> None:
    letters = EVALUATION.anomalies[0]
    *scores, png, intensity = letters.detections
    assert report(EVALUATION).startswith("# Evaluation of mnist")
    equal = replace(intensity, advantage=Estimate(value=0.18, low=-0.01, high=0.37))
    judged = replace(EVALUATION, anomalies=(replace(letters, detections=(*scores, png, equal)),))
    first, blank, heading, *rest = report(judged).splitlines()
    assert first.startswith("On letters, mean intensity alone is as good as fused within the error")
    assert (blank, heading) == ("", "# Evaluation of mnist")
    assert f"> {first}" in rest


def test_masks_have_a_table_and_kinds_are_marked() -> None:
    letters = EVALUATION.anomalies[0]
    peak = Estimate(value=0.25, low=0.1, high=0.4)
    found = Localization(
        n=30,
        without_mask=4,
        regions=33,
        pixel_auroc=0.91,
        region_overlap=0.5,
        peak_in_defect=peak,
        defect_share=0.034,
    )
    whole = replace(letters, localization=found, flagged=0.75)
    kind = replace(whole, images=facts("a", 12), part_of="letters", flagged=0.083)
    text = report(replace(EVALUATION, anomalies=(whole, kind)))
    for line in (
        "| letters | 30 | 33 | 0.9100 | 0.5000 | 25 % (10 %–40 %) | 3.4 % |",
        "| · a | 30 | 33 | 0.9100 | 0.5000 | 25 % (10 %–40 %) | 3.4 % |",
        "4 anomalies have no mask, or an empty one, and do not count here.",
        "### a (letters), 12 images",
    ):
        assert line in text.splitlines()
    assert "| · a | 12 | 0.9800 (0.9700–0.9850) | 0.2500 (0.2000–0.3000) | 8.3 % |" in text
    # The map of a detector is not of errors.
    assert "images whose map is largest in the defect" in text
    assert "largest error" not in text
    assert "Where the defects are" not in report(EVALUATION)
