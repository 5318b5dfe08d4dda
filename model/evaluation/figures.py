"""The figures of an evaluation, as plain values that convert to and from JSON."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from model.scores.calibration import Calibration
from model.training.goodness_of_fit import Fit

FINGERPRINT_DIGITS: Final = 16
"""Hex digits of a calibration's fingerprint."""


JSON_NAMES: Final = {"is_baseline": "is_rival"}
"""Names in JSON of fields that were renamed after bundles with them had been written."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well one score separates anomalies from clean images."""

    score: str
    auroc: Estimate
    fpr_at_95_tpr: Estimate
    """Share of clean images at or above the threshold that 95 % of the anomalies reach."""
    is_baseline: bool
    """Whether this is a baseline, which needs no network. A network's score has to beat it."""
    reversed: bool
    """Whether smaller is more anomalous. Always False for the network's scores."""
    advantage: Estimate | None = None
    """AUROC of the default score less the baseline's, on the same images. None for the network's
    scores, and in older evaluations."""

    @property
    def is_as_good(self) -> bool:
        """Whether this is a baseline that the default score does not beat for certain."""
        return self.advantage is not None and self.advantage.low <= 0

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Restore from plain values."""
        names = {json_name: name for name, json_name in JSON_NAMES.items()}
        fields = {names.get(key, key): item for key, item in value.items()}
        estimates = {
            key: Estimate(**value[key])
            for key in ("auroc", "fpr_at_95_tpr", "advantage")
            if value.get(key) is not None
        }
        return cls(**{**fields, **estimates})


@dataclass(frozen=True, kw_only=True)
class Localization:
    """How well the map of the default score shows where the defects are, by masks."""

    n: int
    """Number of anomalous images with a mask."""
    without_mask: int
    """Number of those without one, or with an empty one. They do not count here."""
    regions: int
    """Number of connected regions of the masks."""
    pixel_auroc: float
    """Over the pixels of the images with masks and of the clean images."""
    region_overlap: float
    """Mean share of a region that is found, over false-positive rates up to 0.3: 0 to 1."""
    peak_in_defect: Estimate
    """Share of images whose map is largest in the mask."""
    defect_share: float
    """Mean share of an image's pixels that are defects: the chance of a random peak."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Restore from plain values."""
        return cls(**{**value, "peak_in_defect": Estimate(**value["peak_in_defect"])})


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """An image set and its files."""

    name: str
    n: int
    files: Mapping[str, str]
    """sha256 of each file by name; empty for images derived from the clean ones."""
    skipped: int
    """Number of files that could not be read."""


@dataclass(frozen=True, kw_only=True)
class Anomalies:
    """How well each score detects one set of anomalies."""

    images: SetFacts
    detections: tuple[Detection, ...]
    """The network's scores, the default first, then the baselines."""
    part_of: str = ""
    """Name of the set that this is one kind of."""
    derived: bool = False
    """Whether these are the clean images themselves, upside down or mirrored."""
    flagged: float | None = None
    """Share of the images with p_value ≤ the first of `COMMON_ALPHAS`, by the default score. None
    without calibration."""
    localization: Localization | None = None
    """None without masks."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Restore from plain values."""
        parts: dict[str, Any] = {
            "images": SetFacts(**value["images"]),
            "detections": tuple(map(Detection.from_json, value["detections"])),
        }
        if value.get("localization") is not None:
            parts["localization"] = Localization.from_json(value["localization"])
        return cls(**{**value, **parts})

    @property
    def default(self) -> Detection:
        """The detection by the default score."""
        return self.detections[0]

    @property
    def best_baseline(self) -> Detection:
        """The baseline with the largest AUROC."""
        baselines = (detection for detection in self.detections if detection.is_baseline)
        return max(baselines, key=lambda detection: detection.auroc.value)

    @property
    def equal_baseline(self) -> Detection | None:
        """The best of the baselines that are as good as the default score, if any is."""
        equal = [detection for detection in self.detections if detection.is_as_good]
        return max(equal, key=lambda detection: detection.auroc.value, default=None)


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts:
    """The calibration that p-values were computed with."""

    data_set: str
    n: int
    date: str
    fingerprint: str
    """Start of the sha256 of its scores, in hex."""

    @classmethod
    def of(cls, calibration: Calibration) -> Self:
        """The facts of this calibration."""
        digest = hashlib.sha256()
        for name, table in sorted(calibration.scores.items()):
            digest.update(name.encode() + table.tobytes())
        return cls(
            data_set=calibration.data_set,
            n=calibration.n,
            date=calibration.date,
            fingerprint=digest.hexdigest()[:FINGERPRINT_DIGITS],
        )


@dataclass(frozen=True, kw_only=True)
class FalseAlarmRate:
    """Share of clean images with p_value ≤ alpha."""

    score: str
    alpha: float
    rate: float


@dataclass(frozen=True, kw_only=True)
class ExchangeableRate:
    """False-alarm rate between sets that are certainly exchangeable: random halves of one set."""

    alpha: float
    mean: float
    std: float
    """Standard deviation over the halvings."""


@dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """How often clean images are called anomalies."""

    calibration: CalibrationFacts
    rates: tuple[FalseAlarmRate, ...]
    """The rate of each calibrated score on the clean images, at each common alpha."""
    halvings: int
    exchangeable: tuple[ExchangeableRate, ...]
    """The default score's rates on halves of the calibration set. Empty for a single image."""

    def spread(self, alpha: float, n: int) -> float:
        """Half width of the 95 % interval of the rate on `n` exchangeable images.

        1.96 √(α (1 − α) (1/n + 1/m)) with m calibration images, because both sets are samples.
        """
        return 1.96 * math.sqrt(alpha * (1 - alpha) * (1 / n + 1 / self.calibration.n))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Restore from plain values."""
        return cls(
            calibration=CalibrationFacts(**value["calibration"]),
            rates=tuple(FalseAlarmRate(**rate) for rate in value["rates"]),
            halvings=value["halvings"],
            exchangeable=tuple(ExchangeableRate(**rate) for rate in value["exchangeable"]),
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All figures of one bundle."""

    bundle: str
    version: str
    date: str
    """ISO 8601."""
    clean: SetFacts
    notes: tuple[str, ...]
    """Reasons why some figures say less than they seem to."""
    fit: Fit
    negative_elbo: float | None
    """Nats an image; None for a bundle without a pixel variance."""
    latent_size: int
    active_units: int
    """Number of latent dimensions whose mean varies over the images: Var E[z|x] > 0.01 (Burda et
    al. 2016, "Importance weighted autoencoders", section 5.2)."""
    false_alarms: FalseAlarms | None
    """None for a bundle without calibration."""
    anomalies: tuple[Anomalies, ...]
    has_mistakes: bool = False
    """Whether there is a plot of the worst mistakes, which older evaluations lack."""
    has_maps: bool = False
    """Whether there is a plot of maps, which older evaluations lack."""

    @property
    def judged(self) -> tuple[Anomalies, ...]:
        """The sets that the network is judged by: those given, or the derived ones if none was."""
        given = tuple(anomalies for anomalies in self.anomalies if not anomalies.derived)
        return given or self.anomalies

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        plain: dict[str, Any] = _plain(asdict(self, dict_factory=_json_fields))
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Restore from `to_json`'s result. Raises `KeyError` or `TypeError` for other fields."""
        alarms = value["false_alarms"]
        parts = {
            "clean": SetFacts(**value["clean"]),
            "notes": tuple(value["notes"]),
            "fit": Fit(**value["fit"]),
            "false_alarms": None if alarms is None else FalseAlarms.from_json(alarms),
            "anomalies": tuple(map(Anomalies.from_json, value["anomalies"])),
        }
        return cls(**{**value, **parts})


def _json_fields(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {JSON_NAMES.get(name, name): value for name, value in fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
