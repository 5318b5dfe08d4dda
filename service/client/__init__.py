"""A client for Python: numpy arrays, PIL images or paths in, typed results out.

>>> from service.client import Client
>>> with Client("http://localhost:8000") as client:  # doctest: +SKIP
...     client.anomaly_score(["a.png", "b.png"]).score
array([0.0031, 0.0402], dtype=float32)

Imports neither torch nor fastapi. Arrays travel as .npy, files as they are. Every call is safe to
repeat, so a call that fails for lack of a connection or of room (503) is repeated with growing
pauses, or after as long as the service asks for, and never past the call's deadline.
"""

from __future__ import annotations

from service.client.calls import (
    AnomalyScores,
    ClientError,
    Encoding,
    ImageScore,
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
    "ProblemError",
    "UnreachableError",
]
