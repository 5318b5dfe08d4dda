"""A client for Python: numpy arrays, PIL images or paths in, typed results out.

>>> from service.client import Client
>>> with Client("http://localhost:8000") as client:  # doctest: +SKIP
...     client.anomaly_score(["a.png", "b.png"]).score
array([0.0031, 0.0402], dtype=float32)

Needs neither torch nor fastapi. Arrays are sent as .npy, files unchanged. Every call is safe to
repeat. If a call gets no connection, or the service refuses it for now (429, 503), it is retried
with increasing pauses, or after the time that Retry-After asks for, but never after its deadline.
"""

from __future__ import annotations

from service.client.calls import (
    AnomalyScores,
    ClientError,
    Encoding,
    ImageScore,
    ImageWarning,
    ProblemError,
    UnreachableError,
)
from service.client.client import AsyncClient, Client

__all__ = [
    "AnomalyScores",
    "AsyncClient",
    "Client",
    "ClientError",
    "Encoding",
    "ImageScore",
    "ImageWarning",
    "ProblemError",
    "UnreachableError",
]
