"""Queries, request bodies and responses as pydantic models, for the OpenAPI page.

Queries are also parsed with these models. Bodies and responses are not: `service.codecs.registry`
converts directly between bytes and arrays.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.images.bit_depth import MAX_BITS, MIN_BITS
from model.scores.calibration import DEFAULT_DRAWS
from service.sampling import MAX_SEED

MAX_SCALE = 64
MAX_DRAWS = 4096
MAX_TEMPERATURE = 10

Dtype = Literal["uint8", "float32"]
Seed = Field(
    None,
    ge=0,
    le=MAX_SEED,
    description="seed of the random draw, to make it repeatable; a new seed each time by default",
    examples=[7],
)
Scale = Field(
    1,
    ge=1,
    le=MAX_SCALE,
    description="factor by which to enlarge a PNG or GIF (nearest neighbour)",
    examples=[8],
)
ResponseDtype = Field(
    None,
    description="data type of images in a raw or .npy response: float32 in [0, 1] (default) or "
    "uint8 in 0..255",
    examples=["uint8"],
)


class Query(BaseModel):
    """Base class. An unknown parameter is an error, so a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class ImagesQuery(Query):
    """Query of routes that read images."""

    resize: bool = Field(
        True,
        description="resize image files to the model's height and width, whatever their aspect "
        "ratio, so an image of another shape is squashed; if false, other sizes are refused",
        examples=[False],
    )
    invert: bool = Field(
        False,
        description="invert the images, for dark ink on light or transparent paper: transparent "
        "areas are then composited on white, otherwise on black",
        examples=[True],
    )
    bits: int | None = Field(
        None,
        ge=MIN_BITS,
        le=MAX_BITS,
        description="bits that 16-bit image files use, such as 12 for a 12-bit camera; by default "
        "what the file says, otherwise 16",
        examples=[12],
    )
    dtype: Dtype | None = Field(
        None,
        description="data type of a raw body's pixels: uint8 in 0..255 (default) or float32 in "
        "[0, 1]",
        examples=["float32"],
    )


class EncodeQuery(ImagesQuery):
    """Query of /encode."""

    sample: bool = Field(
        False, description="also draw z = μ + σ·ε; in JSON responses only", examples=[True]
    )
    seed: int | None = Seed


class PreprocessQuery(ImagesQuery):
    """Query of /preprocess."""

    dtype: Dtype | None = Field(
        None,
        description="data type of a raw body's pixels (default uint8), and of images in a raw or "
        ".npy response (default float32)",
        examples=["uint8"],
    )
    scale: int = Scale


class ReconstructQuery(PreprocessQuery):
    """Query of /reconstruct."""

    sample: bool = Field(
        False, description="decode z = μ + σ·ε, drawn at random, instead of z = μ", examples=[True]
    )
    seed: int | None = Seed


class ScoreQuery(ImagesQuery):
    """Query of /anomaly-score."""

    score: str | None = Field(
        None,
        description="name of a score that /model lists; by default the first",
        examples=["mse"],
    )
    alpha: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="false-alarm rate on clean images; by default the service's setting",
        examples=[0.05],
    )
    fdr: Literal["bh"] | None = Field(
        None,
        description="bh: alpha bounds the expected share of false alarms among all alarms of this "
        "request (Benjamini and Hochberg), instead of the false-alarm rate on clean images",
        examples=["bh"],
    )
    samples: int | None = Field(
        None,
        ge=1,
        le=MAX_DRAWS,
        description="draws per image, for reconstruction_probability and iwae; the other scores "
        f"do not draw. For any number but the default, {DEFAULT_DRAWS}, p_value is null. Images × "
        "samples must not exceed the maximum number of images in one request",
        examples=[DEFAULT_DRAWS],
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="seed of the draws for reconstruction_probability and iwae, to make them "
        "repeatable; a new seed each time by default; the other scores do not draw",
        examples=[7],
    )
    count: bool = Field(
        True,
        description="whether the images count in the metrics of p-values and anomalies, and are "
        "among the recent images; false for images that are only tried out",
        examples=[False],
    )
    map: bool = Field(
        False,
        description="also return where the image is unusual: the map of the score if it is one of "
        "a detector, else the squared error of each pixel; a PNG shows it over the image",
        examples=[True],
    )
    contour: bool = Field(
        False,
        description="with map=true, in a PNG: outline the places whose value is 1 or more, and "
        "leave the rest of the image as it is; for the scores of a detector",
        examples=[True],
    )
    scale: int = Scale


class CalibrationQuery(Query):
    """Query of /model/calibration."""

    score: str | None = Field(
        None,
        description="name of a score that /model lists; by default the first",
        examples=["mse"],
    )


class RecentQuery(Query):
    """Query of /recent."""

    after: int = Field(
        0, ge=0, description="id of the last image that is known; only newer ones are returned"
    )


class DecodeQuery(Query):
    """Query of /decode."""

    dtype: Dtype | None = ResponseDtype
    scale: int = Scale


class SampleQuery(DecodeQuery):
    """Query of /sample."""

    n: int = Field(1, ge=1, description="number of images", examples=[16])
    seed: int | None = Seed
    temperature: float = Field(
        1,
        ge=0,
        le=MAX_TEMPERATURE,
        description="standard deviation of the draws: below 1 they are nearer to the mean image, "
        "above 1 stranger; the same seed keeps their directions",
        examples=[0.7],
    )


class PriorBody(BaseModel):
    """A request for latents drawn from the prior N(0, I)."""

    model_config = ConfigDict(extra="forbid")

    n: int = Field(ge=1, description="number of latents")
    seed: int | None = Seed


Warnings = Field(
    None,
    description="what to know of how the images were read, such as 12-bit values in a 16-bit file; "
    "only if there is something. Other answer types have it in the header X-Warnings",
)

Images = list[list[list[float]]] | list[list[list[list[float]]]]


class EncodeAnswer(BaseModel):
    """The posterior N(μ, diag σ²) of each image."""

    model: str
    mu: list[list[float]] = Field(description="[N][D]")
    sigma: list[list[float]] = Field(description="[N][D], standard deviations")
    z: list[list[float]] | None = Field(None, description="[N][D], with ?sample=true")
    warnings: list[str] | None = Warnings


class ImagesAnswer(BaseModel):
    """Images in [0, 1]: [N][H][W], or [N][C][H][W] when C > 1."""

    model: str
    images: Images


class ReconstructAnswer(ImagesAnswer):
    """Reconstructions and their errors."""

    mse: list[float] = Field(description="[N], mean squared error per pixel")
    warnings: list[str] | None = Warnings


class ImageFile(BaseModel):
    """An image file, and what was done to it."""

    format: str = Field(description="PNG, JPEG, WEBP, BMP or TIFF")
    width: int = Field(description="of the image when it is upright")
    height: int = Field(description="of the image when it is upright")
    mode: str = Field(description="how its pixels are stored, such as RGBA")
    orientation: int = Field(description="as in EXIF, 1 to 8; 1 is upright")
    actions: list[str] = Field(description="what was done to it, in words, in this order")


class PreprocessAnswer(ImagesAnswer):
    """The images as the network gets them, and the files that they came in."""

    files: list[ImageFile | None] | None = Field(
        description="for each image its file, or null if it came as numbers; null if all did. "
        "Other answer types have it in the header X-Image-Files"
    )
    warnings: list[str] | None = Warnings


class ScoreAnswer(BaseModel):
    """How anomalous each image is."""

    model: str
    score_type: str
    alpha: float
    fdr: Literal["bh"] | None = Field(None, description="with ?fdr=bh")
    threshold: float | None = Field(
        description="an image is an anomaly if its score is higher; null without calibration, if "
        "the calibration has too few images for alpha, or, with fdr, if it has too few for the "
        "level that Benjamini-Hochberg arrives at"
    )
    score: list[float] = Field(description="[N], higher is more anomalous")
    p_value: list[float] | None = Field(
        description="[N], (1 + number of calibration scores ≥ score) / (n + 1); null without "
        "calibration"
    )
    is_anomaly: list[bool] | None = Field(
        description="[N], p_value ≤ alpha, or with fdr the Benjamini-Hochberg decision; null "
        "without calibration"
    )
    mse: list[float] = Field(description="[N], mean squared error per pixel at z = μ")
    kl: list[float] = Field(description="[N], KL(q(z|x) ‖ N(0, I)) in nats")
    anomaly_map: Images | None = Field(
        None,
        description="with ?map=true, shaped as the images: for the scores of a detector, how "
        "unusual each place is, where 0 is the median of clean images and 1 their quantile of "
        "99.9 %, the same in each channel; for other scores, the squared error of each pixel",
    )
    warnings: list[str] | None = Warnings


class ModelAnswer(BaseModel):
    """The bundle in memory."""

    id: str
    version: str = Field(description="first digits of the weights' SHA-256")
    architecture: dict[str, Any] = Field(
        description="of the network; `detector` is that of the detector, if there is one"
    )
    image_shape: list[int] = Field(description="C, H, W")
    latent_size: int
    scores: list[str] = Field(description="values for ?score=; the first is the default")
    scaled_maps: list[str] = Field(
        description="scores whose map has 0 at the median of clean images and 1 at their quantile "
        "of 99.9 %; the maps of others are squared errors"
    )
    calibration: dict[str, Any] | None
    device: str
    dtype: str
    metrics: dict[str, Any] = Field(description="training metrics, as in the model card")
    provenance: dict[str, Any]


class CalibrationAnswer(BaseModel):
    """The scores of clean images that a score's p-values come from."""

    model: str
    score_type: str
    data_set: str
    date: str
    folds: int = Field(
        description="0, or the number of networks that scored the images, each trained on the rest"
    )
    n: int = Field(description="number of clean images")
    scores: list[float] = Field(
        description="in ascending order: all n, or if n > 10,000 those of 10,000 evenly spaced "
        "ranks, the least and the greatest among them"
    )


class LatentsAnswer(BaseModel):
    """Posterior means of images that are kept in the bundle."""

    model: str
    data_set: str = Field(description="where the images come from, in words")
    n: int = Field(description="M, the number of images, at most 3,000")
    mu: list[list[float]] = Field(description="[M][D]")
    labels: list[int] | None = Field(description="[M], null if the images have none")
    classes: list[str] | None = Field(
        description="the name of each label, from 0; null if they are not known"
    )


class RecentImage(BaseModel):
    """An image that was scored."""

    id: int = Field(description="number of the image, counted from the start of the process")
    time: float = Field(description="when it was scored, in seconds since 1970")
    score_type: str
    score: float
    p_value: float | None = Field(description="null without calibration")
    thumbnail: str = Field(
        description="a PNG in base64, reduced to at most 64 pixels a side",
        json_schema_extra={"contentEncoding": "base64", "contentMediaType": "image/png"},
    )


class RecentAnswer(BaseModel):
    """The images that this process scored last."""

    capacity: int = Field(description="how many are kept, VAE_RECENT_IMAGES")
    process: str = Field(description="which process answers: a random id, new at each start")
    images: list[RecentImage] = Field(description="the newest last; ids increase")


class Setting(BaseModel):
    """A setting in force."""

    name: str
    variable: str = Field(description="of the environment, such as VAE_PORT")
    value: bool | int | float | str | None = Field(
        description="null if it is unset; of a path its last part, of a secret `set`"
    )
    default: bool | int | float | str | None
    description: str


class SettingsAnswer(BaseModel):
    """All settings, in the order of the documentation."""

    settings: list[Setting]


class ReloadAnswer(BaseModel):
    """The bundle in memory after the reload."""

    id: str
    version: str


class HealthAnswer(BaseModel):
    """The healthy state; every other state is a problem response."""

    status: Literal["ok"]


class ErrorItem(BaseModel):
    """One part of the request that is wrong."""

    loc: list[str | int]
    msg: str


class Problem(BaseModel):
    """An error response as in RFC 9457. `detail` names the value and the limit that it exceeds."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ErrorItem] | None = None
