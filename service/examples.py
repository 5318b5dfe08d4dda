"""Worked examples on the OpenAPI page: a digit drawn by the `mnist` bundle, and what it answers."""

from __future__ import annotations

from typing import Any, Final

_DIGIT: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAABTUlEQVR42q2SwUpCURCG/zlz9V5JIRciCookQRRR"
    "bVvVpkX7Fj1DD9DD9BhBUPQAQrsggkqCSjIXiZZ07z2eMy2uledKO2c5H//MPz8DzKHo/w5BEUPbaehNUAZU0NqI"
    "o+QJZPbL1UpkTFpJQkF5o557vSNGGgq4trWL89ZAK5L0Ts4f7PVPLmMhxTbt2D+8vT/2ASDbzE4BBQX4Xf/tVAPg"
    "laP9PE25FUB/5i+uYpAKtpuNxYfYPSW8bn8ZAcnLsymqF+tACSNrIWKjbluKj2M3BAhEAEDGqI8+rAvxe5/NVEcj"
    "mbj9YYlJUgveeomd4AFisgBnKMfDMSVBeX9ja2vvnaBvctmYCM5YiO4NVcmEwfLqEquUIUD3+qzQ2NmstDrG3Qkg"
    "0qHnB4Xw5snMKAEx1uhM96xjk63uV5HyvGI4MEkgMy9HBJX6pLnXNxHFe/XIk+6FAAAAAElFTkSuQmCC"
)

IMAGES: Final[dict[str, Any]] = {"images": [_DIGIT]}
"""The image that `/sample?n=1&seed=7` gives."""

ENCODE: Final[dict[str, Any]] = {
    "model": "mnist",
    "mu": [[0.905, -0.9083, 1.3369, -1.4524, -0.4876, 1.0943, -0.9712, -0.4398, -0.4748, 0.4533]],
    "sigma": [[0.0328, 0.0295, 0.0286, 0.0319, 0.037, 0.036, 0.0343, 0.0386, 0.0311, 0.0292]],
}

SCORE: Final[dict[str, Any]] = {
    "model": "mnist",
    "score_type": "mse",
    "alpha": 0.01,
    "threshold": None,
    "score": [0.0043409],
    "p_value": None,
    "is_anomaly": None,
    "mse": [0.0043409],
    "kl": [33.4718],
}
