"""Every image's scores as a CSV file, to sort, plot and count elsewhere."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model.evaluation.observations import Observations, Observed
from model.scores.calibration import COMMON_ALPHAS


def write_scores(path: Path, observations: Observations) -> None:
    """Write a row for each clean image and each given anomaly.

    Columns: the set, the file's name in it (a number for an array), `is_anomaly` (1 for an
    anomaly, 0 for a clean image), every score, every baseline, and by the default score the
    `p_value` and the `verdict`: `anomaly` if p_value ≤ the first of `COMMON_ALPHAS`, else `normal`.
    The last two are empty without calibration.
    """
    clean = observations.clean
    head = ["set", "file", "is_anomaly", *clean.scores, *clean.baselines, "p_value", "verdict"]
    given = [found for found in observations.judged if not found.derived]
    # Names of files may hold bytes that are no text.
    with path.open("w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        for observed in (clean, *given):
            writer.writerows(_rows(observations, observed))


def _rows(observations: Observations, observed: Observed) -> Iterator[list[str]]:
    n = len(observed.names)
    columns = [[f"{value:.7g}" for value in values] for values in observed.scores.values()]
    columns += [[f"{value:.7g}" for value in values] for values in observed.baselines.values()]
    p_values = observations.p_values(observed)
    if p_values is None:
        columns += [[""] * n, [""] * n]
    else:
        columns.append([f"{p:.6g}" for p in p_values])
        columns.append(list(np.where(p_values <= COMMON_ALPHAS[0], "anomaly", "normal")))
    is_anomaly = "0" if observed is observations.clean else "1"
    for name, *values in zip(observed.names, *columns, strict=True):
        yield [observed.facts.name, name, is_anomaly, *values]
