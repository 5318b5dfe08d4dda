"""What is observed of image sets: their scores, by the network and by the baselines."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model.datasets.folder import numbered
from model.datasets.load import DataError, ImageSet
from model.engine.engine import Engine
from model.evaluation.baselines import Values, trivial_scores
from model.evaluation.figures import Localization, SetFacts
from model.evaluation.kinds import name_and_kinds
from model.evaluation.localization import PixelCounts, count_pixels, localization
from model.evaluation.report import FLIPS
from model.results import Encoding
from model.scores.calibration import Floats, Probabilities
from model.training.calibrate import CHUNK_IMAGES, all_scores
from model.training.pca import PcaError

MIN_CLEAN_IMAGES: Final = 4
"""Half of the clean images may have to fit the PCA, and a variance needs at least two."""

MIN_SUBFOLDERS: Final = 4
"""With fewer, a half of them may differ much from the rest."""

BLOCKS: Final = 20
"""Number of blocks of consecutive images: few, so that few shots of one part lie on both sides of a
border, but enough to mix whatever drifts from the first image to the last."""


@dataclass(frozen=True, kw_only=True)
class Observed:
    """An image set with its scores, by the network and by the baselines."""

    facts: SetFacts
    names: tuple[str, ...]
    """The images' file names, or their numbers."""
    images: NDArray[np.uint8]  # (N, C, H, W)
    scores: dict[str, Floats]  # (N,) each, the default first
    baselines: dict[str, Values]  # (N,) each
    part_of: str = ""
    """Name of the set that this is one kind of."""
    derived: bool = False
    """Whether these are the clean images upside down or mirrored."""
    masks: NDArray[np.bool_] | None = None
    """(N, H, W), empty for images without a mask; None for sets without masks."""
    localization: Localization | None = None

    @property
    def default(self) -> Floats:
        """The default score of each image, (N,)."""
        return next(iter(self.scores.values()))


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Everything that the figures and plots are computed from."""

    engine: Engine
    clean: Observed
    anomalies: tuple[Observed, ...]
    encoding: Encoding  # (N, D), of the clean images
    labels: NDArray[np.int64] | None  # (N,), of the clean images

    @property
    def judged(self) -> tuple[Observed, ...]:
        """The anomalies that were given, without their kinds; the derived ones if none was."""
        given = tuple(found for found in self.anomalies if not (found.derived or found.part_of))
        return given or self.anomalies

    def p_values(self, observed: Observed) -> Probabilities | None:
        """The p-value of each image by the default score, (N,); None without calibration."""
        calibration = self.engine.bundle.calibration
        name = self.engine.scores[0]
        if calibration is None or name not in calibration.scores:
            return None
        return calibration.p_values(name, observed.scores[name])


def observe(
    engine: Engine,
    clean: ImageSet,
    anomalies: Sequence[ImageSet],
    *,
    training: NDArray[np.uint8] | None,
    labels: NDArray[np.int64] | None = None,
    masks: Sequence[NDArray[np.bool_] | None] = (),
    on_set: Callable[[str], None] = lambda _: None,
) -> Observations:
    """Score all image sets.

    Without `anomalies`, the clean images upside down and mirrored take their place. Beside real
    ones they would only confuse: a part that may lie anywhere looks as normal as before.

    A set of anomalies with subfolders is followed by a set for each of them. `masks` are those of
    each set of anomalies, (N, H, W), empty where an image has none; None or nothing for a set
    without masks.

    The PCA is fitted to the `training` images, uint8 (N, C, H, W). Without them one is fitted to
    each half of the clean images: it scores the other half, and anomalies get the mean of both.
    `on_set` is called with the name of each set before it is scored. Raises `DataError` for fewer
    than `MIN_CLEAN_IMAGES` clean images.
    """
    if len(clean.images) < MIN_CLEAN_IMAGES:
        raise DataError(
            f"{clean.name} holds {numbered(len(clean.images), 'image')}, but an evaluation needs "
            f"at least {MIN_CLEAN_IMAGES}"
        )
    on_set("PCA")
    halves = halves_apart(clean) if training is None else ()
    fitted = [training] if training is not None else [clean.images[half] for half in halves]
    pcas = [PcaError(images) for images in fitted]

    def score(data: ImageSet, name: str = "") -> Observed:
        facts = _facts(data, name)
        on_set(facts.name)
        errors: Values = np.mean([pca(data.images) for pca in pcas], axis=0)
        if data is clean and halves:
            for half, pca in zip(halves, reversed(pcas), strict=True):
                errors[half] = pca(clean.images[half])
        return Observed(
            facts=facts,
            names=data.names,
            images=data.images,
            scores=all_scores(engine, data.images),
            baselines=trivial_scores(data.images) | {PcaError.name: errors},
        )

    clean_observed = score(clean)
    names: set[str] = set()
    observed: list[Observed] = []
    given = [mask for mask in masks if mask is not None]
    clean_pixels = count_pixels(engine, clean.images) if given else None
    for i, data in enumerate(anomalies):
        name, kinds = name_and_kinds(data)
        whole = score(data, _unique(name, names))
        parts = [_part(whole, indices, _unique(kind, names)) for kind, indices in kinds.items()]
        if clean_pixels is not None and i < len(masks) and (mask := masks[i]) is not None:
            on_set(f"the masks of {whole.facts.name}")
            of_parts = [mask[indices] for indices in kinds.values()]
            observed += _localized(engine, clean_pixels, whole, parts, [mask, *of_parts])
        else:
            observed += [whole, *parts]
    for name, flipped in ({} if anomalies else _flips(clean)).items():
        flip = score(flipped, _unique(name, names))
        observed.append(replace(flip, derived=True))
    return Observations(
        engine=engine,
        clean=clean_observed,
        anomalies=tuple(observed),
        encoding=_encoding(engine, clean.images),
        labels=labels,
    )


def _part(whole: Observed, indices: NDArray[np.int64], name: str) -> Observed:
    """Some of a set's images, as a set of one kind."""
    return replace(
        whole,
        facts=SetFacts(name=name, n=len(indices), files={}, skipped=0),
        names=tuple(whole.names[i] for i in indices),
        images=whole.images[indices],
        scores={key: values[indices] for key, values in whole.scores.items()},
        baselines={key: values[indices] for key, values in whole.baselines.items()},
        part_of=whole.facts.name,
    )


def _localized(
    engine: Engine,
    clean: PixelCounts,
    whole: Observed,
    parts: Sequence[Observed],
    masks: Sequence[NDArray[np.bool_]],
) -> Iterator[Observed]:
    """A set and its kinds with their `masks`, and the figures by them."""
    found = [
        (observed, mask, count_pixels(engine, observed.images, mask))
        for observed, mask in zip(parts or [whole], masks[1:] or masks, strict=True)
    ]
    if parts:
        total = reduce(operator.add, (counts for _, _, counts in found))
        found.insert(0, (whole, masks[0], total))
    for observed, mask, counts in found:
        without = len(mask) - counts.images
        figures = localization(clean, counts, without_mask=without)
        yield replace(observed, masks=mask, localization=figures)


def _flips(clean: ImageSet) -> dict[str, ImageSet]:
    """The clean images upside down and mirrored."""
    flipped = clean.images[:, :, ::-1], clean.images[:, :, :, ::-1]
    return {
        name: ImageSet(name=name, images=np.ascontiguousarray(images), files={})
        for name, images in zip(FLIPS, flipped, strict=True)
    }


def _facts(data: ImageSet, name: str = "") -> SetFacts:
    return SetFacts(
        name=name or data.name,
        n=len(data.images),
        files=dict(data.files),
        skipped=len(data.skipped),
    )


def _unique(name: str, taken: set[str]) -> str:
    """Return `test`, then `test (2)` …, because folders may share a name; adds it to `taken`."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name} ({number})"
    taken.add(unique)
    return unique


def _encoding(engine: Engine, images: NDArray[np.uint8]) -> Encoding:
    starts = range(0, len(images), CHUNK_IMAGES)
    parts = [engine.encode(images[i : i + CHUNK_IMAGES]) for i in starts]
    return Encoding(*map(np.concatenate, zip(*parts, strict=True)))


def halves_apart(data: ImageSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of two halves of a set that share as little as possible.

    Shots of one part usually lie in one subfolder, or follow each other. So whole subfolders go to
    either half, or whole blocks of consecutive images if there are fewer than `MIN_SUBFOLDERS`.
    Random halves would hold shots of the same parts, which the one half's PCA would know.
    """
    n = len(data.images)
    folders = [] if data.folder is None else [image.folder for image in data.folder.images]
    if len(set(folders)) >= MIN_SUBFOLDERS:
        groups = np.unique(folders, return_inverse=True)[1]
    else:
        groups = np.arange(n) * min(n, BLOCKS) // n
    sizes = np.bincount(groups)
    order = np.random.default_rng(0).permutation(len(sizes))
    before = sizes[order].cumsum() - sizes[order]
    # Never all, and at least one, however large they are.
    first = order[:-1][before[:-1] < n // 2]
    is_first = np.isin(groups, first)
    return np.flatnonzero(is_first), np.flatnonzero(~is_first)
