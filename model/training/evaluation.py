"""What an evaluation found: figures only, as plain values that JSON can hold."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from model.scores.calibration import Calibration
from model.training.fit import Fit

FINGERPRINT_DIGITS: Final = 16
"""Hex digits that tell one calibration from another."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well one score tells anomalies from clean images."""

    score: str
    auroc: Estimate
    fpr_at_95_tpr: Estimate
    """Share of clean images above the threshold that 95 % of the anomalies reach."""
    is_rival: bool
    """It needs no network: the score has to be better than this to be worth anything."""
    reversed: bool
    """Small values are the stranger ones. Only a rival may point either way."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From plain values."""
        estimates = {key: Estimate(**value[key]) for key in ("auroc", "fpr_at_95_tpr")}
        return cls(**{**value, **estimates})


@dataclass(frozen=True, kw_only=True)
class SetFacts:
    """Which images were looked at."""

    name: str
    n: int
    files: Mapping[str, str]
    """sha256 of each file; none for images made from the clean ones."""
    skipped: int
    """Files that could not be read."""


@dataclass(frozen=True, kw_only=True)
class Anomalies:
    """An anomaly set against the clean images."""

    images: SetFacts
    detections: tuple[Detection, ...]
    """The network's scores, the default first, then the rivals."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From plain values."""
        detections = tuple(map(Detection.from_json, value["detections"]))
        return cls(images=SetFacts(**value["images"]), detections=detections)

    @property
    def default(self) -> Detection:
        """Of the default score."""
        return self.detections[0]

    @property
    def best_rival(self) -> Detection:
        """The rival of the largest AUROC."""
        rivals = (found for found in self.detections if found.is_rival)
        return max(rivals, key=lambda found: found.auroc.value)


@dataclass(frozen=True, kw_only=True)
class CalibrationFacts:
    """Which calibration p-values came from."""

    data_set: str
    n: int
    date: str
    fingerprint: str
    """Start of the sha256 of its scores."""

    @classmethod
    def of(cls, calibration: Calibration) -> Self:
        """What tells this calibration from another."""
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
    """The same where the two sets are exchangeable for sure: random halves of one set."""

    alpha: float
    mean: float
    std: float
    """Standard deviation over the halvings."""


@dataclass(frozen=True, kw_only=True)
class FalseAlarms:
    """How often clean images are called anomalies."""

    calibration: CalibrationFacts
    rates: tuple[FalseAlarmRate, ...]
    """Of each calibrated score, on the clean images."""
    halvings: int
    exchangeable: tuple[ExchangeableRate, ...]
    """Of the default score; the calibration's own images, halved. Empty for a single image."""

    def spread(self, alpha: float, n: int) -> float:
        """Half of the 95 % interval of the rate on `n` images, if they are exchangeable.

        1.96 √(α (1 − α) (1/n + 1/calibration)): both sets are samples.
        """
        return 1.96 * math.sqrt(alpha * (1 - alpha) * (1 / n + 1 / self.calibration.n))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """From plain values."""
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
    """Why some of the figures say less than they seem to."""
    fit: Fit
    negative_elbo: float | None
    """Nats an image; None for a bundle without a pixel variance."""
    latent_size: int
    active_units: int
    """Latent dimensions whose mean varies over the images: Var E[z|x] > 0.01 (Burda et al. 2016,
    "Importance weighted autoencoders", section 5.2)."""
    false_alarms: FalseAlarms | None
    """None for a bundle without calibration."""
    anomalies: tuple[Anomalies, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for a JSON file."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The reverse of `to_json`."""
        alarms = value["false_alarms"]
        parts = {
            "clean": SetFacts(**value["clean"]),
            "notes": tuple(value["notes"]),
            "fit": Fit(**value["fit"]),
            "false_alarms": None if alarms is None else FalseAlarms.from_json(alarms),
            "anomalies": tuple(map(Anomalies.from_json, value["anomalies"])),
        }
        return cls(**{**value, **parts})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
