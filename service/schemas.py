"""Queries, bodies and answers as pydantic models: what the OpenAPI page shows.

Queries are also read by them. Bodies and answers are not: `service.media` goes straight from bytes
to arrays and back.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_SEED = 2**64 - 1
MAX_SCALE = 64
DEFAULT_ALPHA = 0.01

Seed = Field(
    None, ge=0, le=MAX_SEED, description="makes the draw repeatable; a fresh one if left out"
)


class Query(BaseModel):
    """A misspelt parameter is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")


class FileQuery(Query):
    """For routes that read images."""

    resize: bool = Field(
        True, description="resize image files to the model's size; false refuses another size"
    )
    invert: bool = Field(False, description="for dark ink on light paper: image files are inverted")


class EncodeQuery(FileQuery):
    """For /encode."""

    sample: bool = Field(False, description="also draw z = μ + σ·ε")
    seed: int | None = Seed


class ReconstructQuery(FileQuery):
    """For /reconstruct."""

    sample: bool = Field(False, description="decode a draw z = μ + σ·ε instead of z = μ")
    seed: int | None = Seed
    scale: int = Field(1, ge=1, le=MAX_SCALE, description="enlarge a PNG, nearest neighbour")


class ScoreQuery(FileQuery):
    """For /anomaly-score."""

    score: str | None = Field(None, description="name of a score that /model offers")
    alpha: float = Field(DEFAULT_ALPHA, gt=0, lt=1, description="false-alarm rate on clean images")


class DecodeQuery(Query):
    """For /decode."""

    scale: int = Field(1, ge=1, le=MAX_SCALE, description="enlarge a PNG, nearest neighbour")


class SampleQuery(DecodeQuery):
    """For /sample."""

    n: int = Field(1, ge=1, description="images")
    seed: int | None = Seed


class ImagesBody(BaseModel):
    """Images as JSON."""

    images: list[str | list[float] | list[list[float]] | list[list[list[float]]]] = Field(
        min_length=1,
        description="each a base64 image file (PNG, JPEG, WebP, BMP), or numbers: [H][W], "
        "[C][H][W] or flat [C·H·W]",
    )
    dtype: Literal["float32", "uint8"] = Field(
        "float32", description="float32: numbers are in [0, 1]; uint8: whole numbers 0..255"
    )


class LatentsBody(BaseModel):
    """Latents to decode."""

    z: list[list[float]] = Field(min_length=1, description="N latents of D numbers")


class PriorBody(BaseModel):
    """Latents to draw from the prior N(0, I)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    n: int = Field(ge=1, description="how many")
    seed: int | None = Seed


Images = list[list[list[float]]] | list[list[list[list[float]]]]


class EncodeAnswer(BaseModel):
    """The posterior N(μ, diag σ²) of each image."""

    model: str
    mu: list[list[float]] = Field(description="[N][D]")
    sigma: list[list[float]] = Field(description="[N][D], standard deviations")
    z: list[list[float]] | None = Field(None, description="[N][D], with ?sample=true")


class ImagesAnswer(BaseModel):
    """Images in [0, 1]: [N][H][W], or [N][C][H][W] when C > 1."""

    model: str
    images: Images


class ReconstructAnswer(ImagesAnswer):
    """Reconstructions and how far they are off."""

    mse: list[float] = Field(description="[N], mean squared error of a pixel")


class ScoreAnswer(BaseModel):
    """How strange each image is."""

    model: str
    score_type: str
    alpha: float
    threshold: float | None = Field(description="the score at alpha; null without calibration")
    score: list[float] = Field(description="[N], grows with strangeness")
    p_value: list[float] | None = Field(description="[N]; null without calibration")
    is_anomaly: list[bool] | None = Field(
        description="[N], p_value ≤ alpha; null without calibration"
    )
    mse: list[float] = Field(description="[N], mean squared error of a pixel at z = μ")
    kl: list[float] = Field(description="[N], KL(q(z|x) ‖ N(0, I)) in nats")


class ModelAnswer(BaseModel):
    """The bundle in memory."""

    id: str
    version: str = Field(description="start of the weights' sha256")
    architecture: dict[str, Any]
    image_shape: list[int] = Field(description="C, H, W")
    latent_size: int
    scores: list[str] = Field(description="names that ?score= takes; the first is the default")
    calibration: dict[str, Any] | None
    device: str
    dtype: str
    metrics: dict[str, Any] = Field(description="figures of the training, as in the model card")
    provenance: dict[str, Any]


class HealthAnswer(BaseModel):
    """All is well; any other state is a problem."""

    status: Literal["ok"]


class ErrorItem(BaseModel):
    """One part of the request that is wrong."""

    loc: list[str | int]
    msg: str


class Problem(BaseModel):
    """RFC 9457. The detail names the value and the limit it broke."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ErrorItem] | None = None
