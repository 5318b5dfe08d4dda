"""Worked examples on the OpenAPI page: a digit drawn by the `mnist` bundle, and what it answers."""

from __future__ import annotations

from typing import Any, Final

_DIGIT: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAABZ0lEQVR42r2ST0sCURTF73szvnFMHGWEmlD6My2E"
    "IIJCkCJs165lyz5GnyCwCFq0cVXb1kFF9AGkTX+QCHcajImk4vSYbJ7OaxEzTqmtort798d5XM45AP8xCPlfgg+I"
    "pCem0sF2z92IPkjCjpaSa8IQJQpMrkR4JyA+M3eF+1DLppItc0HyfvVBKbtZvq9qrIkHId7OzSoGa9UFMgBRJher"
    "Fkyh1s3OoZ/XzpyE2kcPXdZQV+2i/U2J5s+nnPwVcxx62UmGEIDPDOWM2iUVAACiF9dJjEDErhKndfSx1wIAABZn"
    "UXVC3dA8Jw6pVUlgAAC0bNGnO6NeznlX3dj27ZoSwGIo88adrs3sgu5eS0qJsfH911gwTqIS54w2ja2GCzndNZZI"
    "GIfNiq4LVv7A7PC+E4syRhhjIkvrhnWqjEo7cmzsiIPGf83744vJh4QNAABOkV44I0skTyu/dEwYkqc3nP9Biz8B"
    "A3F2MPQ+r8kAAAAASUVORK5CYII="
)

IMAGES: Final[dict[str, Any]] = {"images": [_DIGIT]}
"""The image that `/sample?n=1&seed=1` gives."""

ENCODE: Final[dict[str, Any]] = {
    "model": "mnist",
    "mu": [[1.6344, -1.1145, 0.745, 1.6656, 0.1079, 0.3781, -1.8722, 2.0247, 0.6591, -0.7023]],
    "sigma": [[0.0348, 0.0264, 0.0253, 0.0303, 0.0382, 0.0355, 0.039, 0.0423, 0.0342, 0.0315]],
}

SCORE: Final[dict[str, Any]] = {
    "model": "mnist",
    "score_type": "mse",
    "alpha": 0.01,
    "threshold": None,
    "score": [0.0035014],
    "p_value": None,
    "is_anomaly": None,
    "mse": [0.0035014],
    "kl": [36.9796],
}
