"""An evaluation whose numbers are made up."""

from __future__ import annotations

from typing import Any

from model.evaluation.figures import (
    Anomalies,
    CalibrationFacts,
    Detection,
    Estimate,
    Evaluation,
    ExchangeableRate,
    FalseAlarmRate,
    FalseAlarms,
    SetFacts,
)
from model.training.goodness_of_fit import Fit

ALARMS = FalseAlarms(
    calibration=CalibrationFacts(
        data_set="mnist, held out", n=9_000, date="2026-01-02", fingerprint="00ff"
    ),
    rates=(
        FalseAlarmRate(score="fused", alpha=0.05, rate=0.0474),
        FalseAlarmRate(score="fused", alpha=0.01, rate=0.0096),
        FalseAlarmRate(score="mse", alpha=0.05, rate=0.0452),
        FalseAlarmRate(score="mse", alpha=0.01, rate=0.0085),
    ),
    halvings=200,
    exchangeable=(
        ExchangeableRate(alpha=0.05, mean=0.0501, std=0.0044),
        ExchangeableRate(alpha=0.01, mean=0.0099, std=0.002),
    ),
)


def detection(score: str, area: float, **fields: Any) -> Detection:
    values: dict[str, Any] = {
        "score": score,
        "auroc": Estimate(value=area, low=area - 0.01, high=area + 0.005),
        "fpr_at_95_tpr": Estimate(value=0.25, low=0.2, high=0.3),
        "is_baseline": False,
        "reversed": False,
    }
    return Detection(**values | fields)


def facts(name: str, n: int) -> SetFacts:
    return SetFacts(name=name, n=n, files={}, skipped=0)


EVALUATION = Evaluation(
    bundle="mnist",
    version="0123456789abcdef",
    date="2026-03-04",
    clean=facts("mnist", 10_000),
    notes=(),
    fit=Fit(mse=0.01234, mse_sampled=0.0156, kl=25.5),
    negative_elbo=-512.25,
    latent_size=10,
    active_units=9,
    false_alarms=ALARMS,
    anomalies=(
        Anomalies(
            images=facts("letters", 1_234),
            detections=(
                detection("fused", 0.98),
                detection("mse", 0.9),
                detection("PNG size", 0.75, is_baseline=True),
                detection("mean intensity", 0.8, is_baseline=True, reversed=True),
            ),
        ),
    ),
)
