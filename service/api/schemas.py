"""Queries, bodies and answers as pydantic models: what the OpenAPI page shows.

Queries are also read by them. Bodies and answers are not: `service.codecs.registry` goes straight
from bytes to arrays and back.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.scores.calibration import DEFAULT_DRAWS
from service.sampling import MAX_SEED

MAX_SCALE = 64
MAX_DRAWS = 4096

Dtype = Literal["uint8", "float32"]
Seed = Field(
    None,
    ge=0,
    le=MAX_SEED,
    description="makes the draw repeatable; a fresh one if left out",
    examples=[7],
)
Scale = Field(1, ge=1, le=MAX_SCALE, description="enlarge a PNG, nearest neighbour", examples=[8])
AnswerDtype = Field(
    None,
    description="images in a raw or .npy answer: float32 in [0, 1] (default), or uint8 0..255",
    examples=["uint8"],
)


class Query(BaseModel):
    """A misspelt parameter is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")


class ImagesQuery(Query):
    """For routes that read images."""

    resize: bool = Field(
        True,
        description="resize image files to the model's size; false refuses another size",
        examples=[False],
    )
    invert: bool = Field(
        False,
        description="for dark ink on light paper: image files are inverted",
        examples=[True],
    )
    dtype: Dtype | None = Field(
        None,
        description="pixels of a raw body: uint8 0..255 (default), or float32 in [0, 1]",
        examples=["float32"],
    )


class EncodeQuery(ImagesQuery):
    """For /encode."""

    sample: bool = Field(
        False, description="also draw z = μ + σ·ε; in JSON answers only", examples=[True]
    )
    seed: int | None = Seed


class ReconstructQuery(ImagesQuery):
    """For /reconstruct."""

    dtype: Dtype | None = Field(
        None,
        description="pixels of a raw body (uint8 if left out), and of images in a raw or .npy "
        "answer (float32 if left out)",
        examples=["uint8"],
    )
    sample: bool = Field(
        False, description="decode a draw z = μ + σ·ε instead of z = μ", examples=[True]
    )
    seed: int | None = Seed
    scale: int = Scale


class ScoreQuery(ImagesQuery):
    """For /anomaly-score."""

    score: str | None = Field(
        None,
        description="name of a score that /model offers; its first if left out",
        examples=["mse"],
    )
    alpha: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="false-alarm rate on clean images; the service's setting if left out",
        examples=[0.05],
    )
    fdr: Literal["bh"] | None = Field(
        None,
        description="bh: is_anomaly bounds the share of false alarms among all alarms of this "
        "request by alpha (Benjamini and Hochberg), rather than the rate on clean images",
        examples=["bh"],
    )
    samples: int | None = Field(
        None,
        ge=1,
        le=MAX_DRAWS,
        description="draws an image, for reconstruction_probability and iwae; the other scores "
        f"take none. With another number than the default, {DEFAULT_DRAWS}, there is no p_value. "
        "Images × samples are limited as images are",
        examples=[DEFAULT_DRAWS],
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="makes the draws of reconstruction_probability and iwae repeatable; a fresh "
        "one if left out, and the other scores take none",
        examples=[7],
    )
    map: bool = Field(
        False,
        description="also the squared error of each pixel; as a PNG, drawn over the image",
        examples=[True],
    )
    scale: int = Scale


class DecodeQuery(Query):
    """For /decode."""

    dtype: Dtype | None = AnswerDtype
    scale: int = Scale


class SampleQuery(DecodeQuery):
    """For /sample."""

    n: int = Field(1, ge=1, description="images", examples=[16])
    seed: int | None = Seed


class PriorBody(BaseModel):
    """Latents to draw from the prior N(0, I)."""

    model_config = ConfigDict(extra="forbid")

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
    fdr: Literal["bh"] | None = Field(None, description="with ?fdr=bh")
    threshold: float | None = Field(
        description="an image is an anomaly if its score is larger; null without calibration, or "
        "where that has too few images for alpha, or with fdr for the share of it that decides"
    )
    score: list[float] = Field(description="[N], grows with strangeness")
    p_value: list[float] | None = Field(
        description="[N], (1 + number of calibration scores ≥ score) / (n + 1); null without "
        "calibration"
    )
    is_anomaly: list[bool] | None = Field(
        description="[N], p_value ≤ alpha, or what fdr makes of it; null without calibration"
    )
    mse: list[float] = Field(description="[N], mean squared error of a pixel at z = μ")
    kl: list[float] = Field(description="[N], KL(q(z|x) ‖ N(0, I)) in nats")
    anomaly_map: Images | None = Field(
        None, description="with ?map=true: squared error of each pixel, shaped as the images"
    )


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


class ReloadAnswer(BaseModel):
    """The bundle that is in memory now."""

    id: str
    version: str


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
