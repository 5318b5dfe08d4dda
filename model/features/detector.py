"""The detector: how unusual a photograph is, and where, by features and by texture.

N images, P = C·H·W pixels each in [0, 1], h × w places with F = `FEATURES` features each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Final, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.features.backbone import FEATURES, STRIDE, Backbone
from model.features.place_vae import PlaceVAE
from model.features.texture import ALIGNED, BANDS, GRID, Texture

PARTS: Final = ("features", "pooled_distance", "texture")
"""The scores of an image, in the order of `Findings.parts`."""

LONGER_SIDE: Final = 256
"""Of the image that the backbone sees. Twice that found no more defects, in four times the time."""

BLOCK: Final = 2
"""Sides of a square of places that share a covariance."""

INPUT_MULTIPLE: Final = STRIDE * BLOCK
"""The sides of the backbone's input are multiples of this, so that blocks are whole."""

LARGEST_CELLS: Final = 4
"""`texture` is the mean over this many of the most unusual cells."""

TEXTURE_SHARE: Final = 0.3
"""Of the map of texture in that of all parts. On synthetic defects, 0.3 put the peak into the
defect more often than 0, 0.5 or the larger of both."""

MAX_SIZE: Final = 4096
"""Largest hidden or latent size: more is a mistake."""

TINY: Final = 1e-12
"""The smallest argument of a logarithm: an image equal to the mean of all has no distance at all.
A lower bound, not a term added, which the export to ONNX leaves out as too small to matter."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """Architecture of a detector.

    >>> DetectorConfig(image_shape=(3, 128, 96)).grid
    (16, 12)

    Raises `ValueError`, naming the field, the value and the limit, for an invalid one.
    """

    image_shape: tuple[int, int, int]
    """C, H, W, those of the network's images."""
    latent_size: int = 32
    hidden_size: int = 256

    def __post_init__(self) -> None:
        for name in ("latent_size", "hidden_size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MAX_SIZE:
                raise ValueError(f"{name} is {value!r}, expected a whole number 1..{MAX_SIZE:,}")

    @property
    def input_sides(self) -> tuple[int, int]:
        """Height and width of the image that the backbone sees: the longer is `LONGER_SIDE`."""
        _, *sides = self.image_shape
        scale = LONGER_SIDE / max(sides) / INPUT_MULTIPLE
        height, width = (max(1, round(side * scale)) * INPUT_MULTIPLE for side in sides)
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """h and w."""
        height, width = self.input_sides
        return height // STRIDE, width // STRIDE

    @property
    def columns(self) -> int:
        """Numbers that `Detector.forward` finds in an image."""
        h, w = self.grid
        return len(PARTS) + h * w + GRID * GRID

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {name: value for name, value in asdict(self).items() if name != "image_shape"}

    @classmethod
    def from_json(cls, value: object, image_shape: tuple[int, int, int]) -> Self:
        """The reverse of `to_json`. Raises `ValueError` for missing, unknown or wrong fields."""
        names = {field.name for field in fields(cls)} - {"image_shape"}
        if not isinstance(value, dict) or set(value) != names:
            raise ValueError(
                f"detector: expected an object with exactly {', '.join(sorted(names))}"
            )
        return cls(image_shape=image_shape, **value)


class Findings(NamedTuple):
    """What a detector finds in images."""

    parts: Tensor  # (N, 3), `PARTS`; larger means more unusual
    feature_map: Tensor  # (N, h, w), relative to each place; `Detector.map_of` scales it
    texture_map: Tensor  # (N, GRID, GRID), likewise


class Detector(nn.Module):
    """A photograph to scores and maps.

    The features of a place are those of the backbone at three scales, each averaged over 3×3 cells
    of its own grid, on one grid of 16 pixels; and standardized by the mean and the spread that this
    place has in the images trained on. The scores of an image:

    - `features`: that of its most unusual place. A place's is √(2·(−ELBO − c)) by the VAE of
      features, relative to the mean and the spread of this place in images that were not trained
      on. In it p(x|z) = N(x̂ + b, Σ), with the mean and the full covariance of the residuals of the
      images trained on; squares of `BLOCK` × `BLOCK` places share Σ. The constant c is that of the
      normal density. A Gaussian of each place, without a VAE, is what Defard et al. 2021 use
      ("PaDiM: a patch distribution modeling framework for anomaly detection and localization").
    - `pooled_distance`: log of the Mahalanobis distance of the mean of all places, which finds what
      changes a whole image a little.
    - `texture`: how far the log band energies of a cell are from their mean there, as a Mahalanobis
      distance: a smooth place is as unusual as a rough one. Relative like a place's, and the mean
      of the `LARGEST_CELLS` most unusual cells.

    Maps are on the scale of images that were not trained on: 0 is the median of their places, 1
    their quantile of 99.9 %.
    """

    feature_mean: Tensor
    feature_std: Tensor
    residual_mean: Tensor
    residual_roots: Tensor
    place_scale: Tensor
    pooled_mean: Tensor
    pooled_root: Tensor
    texture_mean: Tensor
    texture_roots: Tensor
    cell_scale: Tensor
    map_scale: Tensor
    combined_scale: Tensor
    smoothing: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        h, w = config.grid
        self.backbone = Backbone()
        self.vae = PlaceVAE(FEATURES, config.grid, config.hidden_size, config.latent_size)
        self.texture = Texture(config.image_shape[1:])
        for name, shape in {
            "feature_mean": (h, w, FEATURES),
            "feature_std": (h, w, FEATURES),
            "residual_mean": (h, w, FEATURES),
            "place_scale": (2, h, w),  # mean and spread
            "pooled_mean": (FEATURES,),
            "pooled_root": (FEATURES, FEATURES),
            "texture_mean": (GRID * GRID, BANDS),
            "texture_roots": (GRID * GRID, BANDS, BANDS),
            "cell_scale": (2, GRID, GRID),
            "map_scale": (3, 2),  # of features, of texture and of both: median, and what becomes 1
            "combined_scale": (len(PARTS), 2),  # median, and a standard deviation
        }.items():
            self.register_buffer(name, torch.zeros(shape))
        # In half precision, as these are the largest tensors: distances differ by 0.02 % at most.
        roots = torch.zeros(h // BLOCK * (w // BLOCK), FEATURES, FEATURES, dtype=torch.float16)
        self.register_buffer("residual_roots", roots)
        kernel = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("smoothing", torch.outer(kernel, kernel)[None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to `Findings` side by side, (N, 3 + h·w + GRID²), for `split`."""
        findings = self.find(self.features(pixels), self.bands(pixels))
        return torch.cat([part.flatten(1) for part in findings], dim=1)

    def split(self, columns: Tensor) -> Findings:
        """The inverse of the concatenation in `forward`."""
        h, w = self.config.grid
        parts, feature_map, texture_map = torch.split(
            columns, [len(PARTS), h * w, GRID * GRID], dim=1
        )
        return Findings(parts, feature_map.reshape(-1, h, w), texture_map.reshape(-1, GRID, GRID))

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to the features of every place, (N, h, w, F)."""
        images = pixels.reshape(-1, *self.config.image_shape)
        if (factor := max(self.config.image_shape[1:]) // LONGER_SIDE) > 1:
            # Bilinear interpolation alone would skip pixels, and thin lines with them.
            images = functional.avg_pool2d(images, factor, ceil_mode=True)
        images = functional.interpolate(
            images, self.config.input_sides, mode="bilinear", align_corners=False
        )
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        fine, middle, coarse = (
            functional.avg_pool2d(found, 3, stride=1, padding=1, count_include_pad=False)
            for found in self.backbone(images)
        )
        maps = [functional.avg_pool2d(fine, 4), functional.avg_pool2d(middle, 2), coarse]
        return torch.cat(maps, dim=1).permute(0, 2, 3, 1)  # (N, h, w, F)

    def bands(self, pixels: Tensor) -> Tensor:
        """Pixels, (N, P), to the log band energies of their mean channel, (N, cells, BANDS)."""
        images = pixels.reshape(-1, *self.config.image_shape)
        bands: Tensor = self.texture(images.mean(dim=1, keepdim=True))
        return bands.flatten(2).transpose(1, 2)

    def find(self, features: Tensor, bands: Tensor) -> Findings:
        """Features, (N, h, w, F), and band energies, (N, cells, BANDS), to the findings."""
        standardized = self.standardized(features)
        places = _relative(self.place_distance(standardized), self.place_scale)
        cells = _relative(self.cell_distance(bands), self.cell_scale)
        pooled = (standardized.mean(dim=(1, 2)) - self.pooled_mean) @ self.pooled_root  # (N, F)
        parts = [
            places.flatten(1).amax(dim=1),
            0.5 * pooled.square().sum(dim=1).clamp_min(TINY).log(),
            cells.flatten(1).topk(LARGEST_CELLS, dim=1).values.mean(dim=1),
        ]
        return Findings(torch.stack(parts, dim=1), places, cells)

    def standardized(self, features: Tensor) -> Tensor:
        """Features, (N, h, w, F), less the mean of their place, by its spread."""
        return (features - self.feature_mean) / self.feature_std

    def place_distance(self, standardized: Tensor) -> Tensor:
        """√(2·(−ELBO − c)) of every place, (N, h, w, F) to (N, h, w)."""
        residual, kl = self.residuals(standardized)
        h, w = self.config.grid
        rows, columns = h // BLOCK, w // BLOCK
        offset = residual - self.residual_mean
        offset = offset.reshape(-1, rows, BLOCK, columns, BLOCK, FEATURES)
        blocks = offset.permute(1, 3, 0, 2, 4, 5).reshape(rows * columns, -1, FEATURES)
        squares = torch.bmm(blocks, self.residual_roots.float()).square().sum(dim=2)
        squares = squares.reshape(rows, columns, -1, BLOCK, BLOCK).permute(2, 0, 3, 1, 4)
        return (squares.reshape(-1, h, w) + 2 * kl).sqrt()

    def residuals(self, standardized: Tensor) -> tuple[Tensor, Tensor]:
        """x − x̂ at z = μ, (N, h, w, F), and the KL in nats, (N, h, w), of every place."""
        n, h, w, _ = standardized.shape
        position = self.vae.positions.expand(n, -1, -1).flatten(0, 1)
        residual, kl = self.vae(standardized.reshape(n * h * w, FEATURES), position)
        return residual.reshape(n, h, w, FEATURES), kl.reshape(n, h, w)

    def cell_distance(self, bands: Tensor) -> Tensor:
        """Mahalanobis distance of every cell, (N, cells, BANDS) to (N, GRID, GRID)."""
        offset = (bands - self.texture_mean).transpose(0, 1)  # (cells, N, BANDS)
        squares = torch.bmm(offset, self.texture_roots).square().sum(dim=2)
        return squares.transpose(0, 1).sqrt().reshape(-1, GRID, GRID)

    def combined(self, parts: Tensor) -> Tensor:
        """The largest of the parts, (N, 3), on one scale: (N,).

        The scale is that of images that were not trained on: standard deviations above the median,
        as their upper tail has them. So the largest acts as the smallest of three p-values, and
        calibration turns it into one p-value again.
        """
        median, scale = self.combined_scale.unbind(dim=1)
        return ((parts - median) / scale).amax(dim=1)

    def map_of(self, name: str, findings: Findings) -> Tensor:
        """The map of a score, one of `PARTS` or `combined`, in the size of the images, (N, H, W).

        `pooled_distance` has no places of its own, and gets the map of `features`. Places are
        smoothed over their neighbours.
        """
        if name == "texture":
            return self._enlarged(_relative(findings.texture_map, self.map_scale[1]), ALIGNED)
        if name in PARTS:
            return self._enlarged(_relative(findings.feature_map, self.map_scale[0]))
        return _relative(self.mixed_map(findings), self.map_scale[2])

    def mixed_map(self, findings: Findings) -> Tensor:
        """The weighted mean of both maps, in the size of the images, (N, H, W), not yet scaled."""
        features, texture = (self.map_of(name, findings) for name in ("features", "texture"))
        return (1 - TEXTURE_SHARE) * features + TEXTURE_SHARE * texture

    def _enlarged(self, grid_map: Tensor, multiple: int = 1) -> Tensor:
        """A map of a grid in the size of the images, which it covers extended to a `multiple`."""
        padded = functional.pad(grid_map[:, None], (1, 1, 1, 1), mode="replicate")
        smooth = functional.conv2d(padded, self.smoothing)
        _, height, width = self.config.image_shape
        sides = (height + -height % multiple, width + -width % multiple)
        whole = functional.interpolate(smooth, sides, mode="bicubic", align_corners=False)
        return whole[:, 0, :height, :width]


def _relative(values: Tensor, scale: Tensor) -> Tensor:
    """Values, (N, h, w), on a scale of (2, h, w) or (2,): its zero, and its unit."""
    return (values - scale[0]) / scale[1]


@dataclass(frozen=True, kw_only=True)
class StoredDetector:
    """A detector as a bundle holds it."""

    config: DetectorConfig
    tensors: Mapping[str, Tensor]

    def module(self) -> Detector:
        """The detector, in evaluation mode."""
        detector = Detector(self.config)
        detector.load_state_dict(dict(self.tensors))
        return detector.eval().requires_grad_(requires_grad=False)


@cache
def detector_types(config: DetectorConfig) -> Mapping[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor of a detector, by name. Allocates none of them."""
    with torch.device("meta"):
        state = Detector(config).state_dict()
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()}
