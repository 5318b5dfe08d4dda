"""Worked examples for the OpenAPI page: a digit drawn by the `mnist` bundle, and the responses to
it."""

from __future__ import annotations

from typing import Any, Final

_DIGIT: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAAAAABXZoBIAAABWElEQVR4nM2SS0tCURSF1z7Hm+ajCB/QIMvA"
    "IMK5DaPHPGjapN/Rr2jUz4hoFjQpmgiFBImGJppwffTAR5n33rMbXFPvlebt0eF8Z6+9WPsA/73EbJBGZxfz"
    "HJ2k3ZDIvhGHB54n5XxP0qcJIhKpUnaLxjJ2Q2g5XNYtih4vdDLshKTtpNfyFyUrrEk5mDAHAMxiYz2VDHTr"
    "RZITE21Z1RbNy+uy8ZmFDjfkSq56VjGZ73oNMQUbt/WWAiBqea+lID3KAA8hqBAISMPyb7ZWdnMEy0tFsw+y"
    "I5CBaHwvaSG+JAp5vVDv6vrXsJNZtQchf/B1MT7XM+4zz2R1TAZGcchIzLQS+9u106sPE1BjQwBUs0Gy/KIF"
    "H95NdrgFwAxW1Gr4wKP8XCtT87HEOFsn5G4ttDrz17K/b5rJiPilHidUj+fBPhNsaXJCaNFY9W3IpiBBsOub"
    "/FE/A4uGA3H6Sp0AAAAASUVORK5CYII="
)

IMAGES: Final[dict[str, Any]] = {"images": [_DIGIT]}
"""The image that `/sample?n=1&seed=1` returns."""

ENCODE: Final[dict[str, Any]] = {
    "model": "mnist",
    "mu": [[1.5516, -1.6305, 1.1636, 1.0058, -0.2404, 0.4007, -1.776, 1.4076, 0.2437, -0.7648]],
    "sigma": [[0.0295, 0.027, 0.0313, 0.039, 0.032, 0.0438, 0.0454, 0.0403, 0.0364, 0.0339]],
}

SCORE: Final[dict[str, Any]] = {
    "model": "mnist",
    "score_type": "fused",
    "alpha": 0.01,
    "threshold": 1.16778,
    "score": [0.535148],
    "p_value": [0.207279],
    "is_anomaly": [False],
    "mse": [0.0031822],
    "kl": [35.1368],
}
