"""Statistics in the form of Triton's extension, docs/protocol/extension_statistics.md."""

from __future__ import annotations

from typing import Any

from service.telemetry.infer_statistics import FAIL, STAGES, SUCCESS, Totals


def statistics_of(totals: Totals, name: str, version: str) -> dict[str, Any]:
    """One model's `$model_stat` object."""
    succeeded = totals.requests.get(SUCCESS, 0)
    durations = {
        outcome: _duration(totals.requests.get(outcome, 0), totals.seconds.get(outcome, 0.0))
        for outcome in (SUCCESS, FAIL)
    }
    stages = {stage: _duration(succeeded, totals.seconds.get(stage, 0.0)) for stage in STAGES}
    return {
        "name": name,
        "version": version,
        "last_inference": round(totals.last_request * 1e3),
        "inference_count": totals.images,
        "execution_count": sum(passes.count for passes in totals.passes.values()),
        "inference_stats": durations | stages | {"cache_hit": _duration(0, 0.0)},
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(0, 0.0),  # a request's, not a batch's
                "compute_infer": _duration(passes.count, passes.seconds),
                "compute_output": _duration(0, 0.0),
            }
            for size, passes in sorted(totals.passes.items())
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
