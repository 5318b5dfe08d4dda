"""How well the map of the default score, the service's `anomaly_map`, shows where the defects are.

Defects are given by masks. Values are counted in fine bins rather than sorted, so that neither time
nor memory limits the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label
from scipy.stats import binomtest

from model.engine.engine import Engine
from model.evaluation.figures import Estimate, Localization
from model.results import Floats
from model.training.calibrate import CHUNK_IMAGES

DROPPED_BITS: Final = 11
"""Last bits of a float32 that its bin ignores: values within 0.05 % of each other share a bin."""

BINS: Final = (int(np.float32(1).view(np.uint32)) >> DROPPED_BITS) + 1
"""Number of bins for values from 0 to 1. The bits of floats ≥ 0 are in the order of the floats."""

MAX_FALSE_POSITIVES: Final = 0.3
"""The false-positive rate up to which per-region overlap is integrated (Bergmann et al. 2020)."""

TOUCHING: Final = np.ones((3, 3), np.int64)
"""Pixels that touch at a corner belong to one region, as in the evaluation code of MVTec AD."""


@dataclass(frozen=True, kw_only=True)
class PixelCounts:
    """Pixels by the value of their map, from sets of images that can be added."""

    normal: NDArray[np.int64]
    """(BINS,), pixels outside of the masks."""
    defect: NDArray[np.int64]
    """(BINS,), pixels inside of them."""
    overlap: NDArray[np.float64]
    """(BINS,), the sum over all regions of the share of its pixels."""
    regions: int
    images: int
    peaks: int
    """Number of images whose map is largest in the mask."""
    area: float
    """Sum over the images of the mask's share of the pixels."""

    def __add__(self, other: Self) -> PixelCounts:
        return PixelCounts(
            normal=self.normal + other.normal,
            defect=self.defect + other.defect,
            overlap=self.overlap + other.overlap,
            regions=self.regions + other.regions,
            images=self.images + other.images,
            peaks=self.peaks + other.peaks,
            area=self.area + other.area,
        )


def count_pixels(
    engine: Engine, images: NDArray[np.uint8], masks: NDArray[np.bool_] | None = None
) -> PixelCounts:
    """Count the pixels of uint8 `images`, (N, C, H, W), by the value of their maps.

    Of images with `masks`, (N, H, W), those whose mask is empty are left out: where their defects
    are is not known. Images without `masks` are clean.
    """
    chosen = np.arange(len(images)) if masks is None else np.flatnonzero(masks.any(axis=(1, 2)))
    sides = images.shape[2:]
    total = count_maps(np.empty((0, *sides), np.float32), np.empty((0, *sides), np.bool_))
    for start in range(0, len(chosen), CHUNK_IMAGES):
        part = chosen[start : start + CHUNK_IMAGES]
        maps = engine.score_map(images[part]).anomaly_map.mean(axis=1)  # (n, H, W)
        if engine.scores[0] in engine.scaled_maps:
            maps = within_bins(maps)
        total += count_maps(maps, np.zeros(maps.shape, bool) if masks is None else masks[part])
    return total


def within_bins(maps: Floats) -> Floats:
    """Values of any size, as a detector's map has them, to (0, 1), in the same order."""
    inside: Floats = 0.5 + 0.5 * maps / (1 + np.abs(maps))
    return inside


def count_maps(maps: Floats, masks: NDArray[np.bool_]) -> PixelCounts:
    """Count the pixels of `maps`, values in [0, 1]; `masks` may be empty.

    Both are (N, H, W).
    """
    bins = np.ascontiguousarray(np.clip(maps, 0, 1), np.float32).view(np.uint32) >> DROPPED_BITS
    overlap = np.zeros(BINS)
    regions = 0
    for places, mask in zip(bins, masks, strict=True):
        if mask.any():
            labels, n = label(mask, TOUCHING)
            inside = labels[mask] - 1
            shares = 1 / np.bincount(inside)
            np.add.at(overlap, places[mask], shares[inside])
            regions += n
    pixels = maps.shape[1] * maps.shape[2]
    flat = masks.reshape(-1, pixels)
    peaks = maps.reshape(-1, pixels).argmax(axis=1)
    return PixelCounts(
        normal=np.bincount(bins[~masks], minlength=BINS),
        defect=np.bincount(bins[masks], minlength=BINS),
        overlap=overlap,
        regions=regions,
        images=len(maps),
        peaks=int(flat[np.arange(len(flat)), peaks].sum()),
        area=float(flat.sum()) / pixels,
    )


def localization(
    clean: PixelCounts, anomalies: PixelCounts, *, without_mask: int
) -> Localization | None:
    """Figures from the pixels of the clean images and of the anomalies; None without a mask.

    As in Bergmann et al. 2021, "The MVTec Anomaly Detection Dataset", section 5: the pixels of the
    clean images count as pixels without a defect. Per-region overlap is the mean over the
    connected regions of the masks of the share that is found, integrated over false-positive rates
    from 0 to `MAX_FALSE_POSITIVES` and divided by that (Bergmann et al. 2020, "Uninformed
    Students", section 4). The interval of peak-in-defect is Clopper and Pearson's. All at the
    network's resolution.
    """
    if not anomalies.images:
        return None
    false = _reached(clean.normal + anomalies.normal)
    found = binomtest(anomalies.peaks, anomalies.images)
    interval = found.proportion_ci(0.95, "exact")
    return Localization(
        n=anomalies.images,
        without_mask=without_mask,
        regions=anomalies.regions,
        pixel_auroc=float(np.trapezoid(_reached(anomalies.defect), false)),
        region_overlap=_area_below(false, _reached(anomalies.overlap), MAX_FALSE_POSITIVES),
        peak_in_defect=Estimate(
            value=anomalies.peaks / anomalies.images,
            low=float(interval.low),
            high=float(interval.high),
        ),
        defect_share=anomalies.area / anomalies.images,
    )


def _reached(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the counts at or above each bin, from the highest bin down, after a first 0."""
    shares: NDArray[np.float64] = np.concatenate([[0.0], counts[::-1].cumsum() / counts.sum()])
    return shares


def _area_below(x: NDArray[np.float64], y: NDArray[np.float64], limit: float) -> float:
    """Mean of the curve `y` of ascending `x`, which start at 0, for x from 0 to `limit`."""
    end = int(np.searchsorted(x, limit, side="right"))
    left, low = x[end - 1], y[end - 1]
    last = low
    if end < len(x):
        last = low + (y[end] - low) * (limit - left) / (x[end] - left)
    return float(np.trapezoid([*y[:end], last], [*x[:end], limit]) / limit)
