"""The detector: its scores and maps, as its docstring states them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional

from model.engine.onnx_graph import OnnxGraph
from model.features.backbone import FEATURES, with_backbone
from model.features.detector import (
    BLOCK,
    INPUT_MULTIPLE,
    LARGEST_CELLS,
    LONGER_SIDE,
    MAX_SIZE,
    PARTS,
    TEXTURE_SHARE,
    Detector,
    DetectorConfig,
    Findings,
    StoredDetector,
    detector_types,
)
from model.features.texture import BANDS, GRID
from model.training.fit_detector import extract, findings, fit_detector
from model.training.onnx_export import export_graph
from tests.unit.model.features.detectors import (
    GREY,
    SHAPE,
    SMALL,
    Fitted,
    as_pixels,
    fitted,
    photographs,
    random_backbone,
    stored,
)
from tests.unit.samples import assert_one_line

CONFIGS = pytest.mark.parametrize("config", [SMALL, GREY], ids=["colour", "grey"])
FEATURES_PART, POOLED, TEXTURE = range(3)


@pytest.fixture
def small() -> Fitted:
    return fitted()


def found_in(detector: Detector, images: Any) -> Findings:
    with torch.inference_mode():
        return detector.split(detector(as_pixels(images)))


# --- configuration


@pytest.mark.parametrize(
    ("sides", "input_sides"),
    [
        ((256, 256), (256, 256)),
        ((28, 28), (256, 256)),
        ((128, 96), (256, 192)),
        ((96, 128), (192, 256)),
        ((1000, 10), (256, 32)),
        ((1, 1), (256, 256)),
        ((48, 24), (256, 128)),
    ],
)
def test_the_input_keeps_the_proportions(
    sides: tuple[int, int], input_sides: tuple[int, int]
) -> None:
    config = DetectorConfig(image_shape=(1, *sides))
    h, w = config.grid
    assert config.input_sides == input_sides
    assert max(input_sides) == LONGER_SIDE
    assert (h, w) == (input_sides[0] // 16, input_sides[1] // 16)
    assert all(side % INPUT_MULTIPLE == 0 for side in input_sides)
    assert config.columns == 3 + h * w + 64


@pytest.mark.parametrize("value", [0, -1, MAX_SIZE + 1, True, 2.0, "3", None])
@pytest.mark.parametrize("name", ["latent_size", "hidden_size"])
def test_a_size_that_is_none_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name) as raised:
        DetectorConfig(image_shape=SHAPE, **{name: value})  # type: ignore[arg-type]
    assert_one_line(raised.value, repr(value), f"{MAX_SIZE:,}")
    with pytest.raises(ValueError, match=name) as raised:
        DetectorConfig.from_json(SMALL.to_json() | {name: value}, SHAPE)
    assert_one_line(raised.value, repr(value), f"{MAX_SIZE:,}")


def test_the_configuration_comes_back_from_json() -> None:
    content = SMALL.to_json()
    assert content == {"latent_size": 4, "hidden_size": 32}
    assert DetectorConfig.from_json(content, SHAPE) == SMALL
    wrong: list[object] = [None, [], "", 3, {}, {"latent_size": 4}, content | {"more": 1}]
    for value in wrong:
        with pytest.raises(ValueError, match="detector: expected an object") as raised:
            DetectorConfig.from_json(value, SHAPE)
        assert_one_line(raised.value, "latent_size", "hidden_size")


# --- shapes


@CONFIGS
def test_the_columns_are_the_findings(config: DetectorConfig) -> None:
    detector = fitted(config).detector
    images = photographs(3, config.image_shape, seed=5)
    pixels = as_pixels(images)
    h, w = config.grid
    with torch.inference_mode():
        columns = detector(pixels)
        features, bands = detector.features(pixels), detector.bands(pixels)
    assert columns.dtype == torch.float32
    assert columns.shape == (3, config.columns)
    assert features.shape == (3, h, w, FEATURES)
    assert bands.shape == (3, GRID * GRID, BANDS)
    split = detector.split(columns)
    assert [part.shape for part in split] == [(3, len(PARTS)), (3, h, w), (3, GRID, GRID)]
    with torch.inference_mode():
        for one, other in zip(split, detector.find(features, bands), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@CONFIGS
def test_an_image_is_independent_of_those_beside_it(config: DetectorConfig) -> None:
    detector = fitted(config).detector
    images = photographs(5, config.image_shape, seed=5)
    images[1], images[3] = 0, 255
    whole = found_in(detector, images)
    for order in ([0], [2], [4, 2, 0], [3, 3, 4, 1, 0, 2]):
        for part, of_whole in zip(found_in(detector, images[order]), whole, strict=True):
            torch.testing.assert_close(part, of_whole[order], rtol=1e-3, atol=1e-3)


def test_grey_is_as_colour_without_one() -> None:
    """A grey image and the same in three channels have the same features and texture."""
    colour = Detector(SMALL)
    grey = Detector(DetectorConfig(image_shape=(1, *SHAPE[1:]), latent_size=4, hidden_size=32))
    for detector in (colour, grey):
        detector.backbone.load_state_dict(dict(random_backbone()))
    images = photographs(2, (1, *SHAPE[1:]))
    with torch.inference_mode():
        for of in ("features", "bands"):
            one = getattr(grey, of)(as_pixels(images))
            other = getattr(colour, of)(as_pixels(images.repeat(3, axis=1)))
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


# --- what the docstring says


@CONFIGS
@torch.inference_mode()
def test_features_are_averages_of_the_backbones_cells(config: DetectorConfig) -> None:
    """By loops over the cells: 3×3 of the own grid, fewer at the border; then a square of them."""
    detector = fitted(config).detector
    pixels = as_pixels(photographs(1, config.image_shape, seed=5))
    image = functional.interpolate(
        pixels.reshape(1, *config.image_shape), config.input_sides, mode="bilinear"
    )
    maps = with_backbone(random_backbone())(image.expand(-1, 3, -1, -1))
    found = detector.features(pixels)[0]
    for i, j in [(0, 0), (1, 0), (2, 3), (config.grid[0] - 1, config.grid[1] - 1)]:
        expected = []
        for cells, size in zip(maps, (4, 2, 1), strict=True):
            averaged = [
                cells[0, :, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean(dim=(1, 2))
                for y in range(i * size, (i + 1) * size)
                for x in range(j * size, (j + 1) * size)
            ]
            expected.append(torch.stack(averaged).mean(dim=0))
        torch.testing.assert_close(found[i, j], torch.cat(expected), rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_a_place_is_as_far_as_its_elbo_by_torchs_distributions(small: Fitted) -> None:
    detector = stored(small.detector).module()
    bias = detector.vae.encoder[-1].bias
    assert isinstance(bias, Tensor)
    bias.copy_(torch.linspace(-2, 2, len(bias)))  # a KL that a short training does not reach
    x = torch.from_numpy(small.unseen.features[:2]).float()
    standardized = (x - detector.feature_mean) / detector.feature_std
    residual, kl = detector.residuals(standardized)
    distance = detector.place_distance(standardized)
    h, w = SMALL.grid
    assert distance.shape == kl.shape == (2, h, w)
    assert kl.min() > 1
    for y, x_ in [(0, 0), (1, 1), (h - 1, 0), (6, w - 3)]:
        block = (y // BLOCK) * (w // BLOCK) + x_ // BLOCK
        root = detector.residual_roots[block].double()
        normal: Any = MultivariateNormal(
            detector.residual_mean[y, x_].double(), precision_matrix=root @ root.T
        )
        constant = -normal.log_prob(normal.mean)  # of the density
        minus_elbo = kl[:, y, x_] - normal.log_prob(residual[:, y, x_].double())
        expected = (2 * (minus_elbo - constant)).sqrt()
        torch.testing.assert_close(distance[:, y, x_].double(), expected, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_the_scores_are_those_of_the_most_unusual(small: Fitted) -> None:
    detector = small.detector
    parts, places, cells = found_in(detector, small.unseen_images[:6])
    largest = cells.flatten(1).sort(dim=1, descending=True).values[:, :LARGEST_CELLS]
    torch.testing.assert_close(parts[:, FEATURES_PART], places.flatten(1).amax(dim=1))
    torch.testing.assert_close(parts[:, TEXTURE], largest.mean(dim=1))


@torch.inference_mode()
def test_pooled_distance_is_the_logarithm_of_mahalanobis(small: Fitted) -> None:
    detector = small.detector
    features = detector.features(as_pixels(small.unseen_images[:4]))
    pooled = ((features - detector.feature_mean) / detector.feature_std).mean(dim=(1, 2))
    precision = (detector.pooled_root @ detector.pooled_root.T).double()
    offset = (pooled - detector.pooled_mean).double()
    expected = torch.einsum("ni,ij,nj->n", offset, precision, offset).sqrt().log()
    found = found_in(detector, small.unseen_images[:4]).parts[:, POOLED]
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@CONFIGS
def test_places_of_unseen_images_are_on_one_scale(config: DetectorConfig) -> None:
    """Each has a mean of 0 there; the map's median is 0, and 1 its quantile of 99.9 %."""
    detector, _, _, unseen, _ = fitted(config)
    found = findings(detector, unseen)
    for own, (median, full) in zip(found[1:], detector.map_scale, strict=False):
        torch.testing.assert_close(own.mean(dim=0), torch.zeros(own.shape[1:]), rtol=0, atol=1e-3)
        assert float(own.median()) == pytest.approx(float(median), abs=1e-2)
        assert float(np.quantile(own, 0.999)) == pytest.approx(float(median + full), abs=1e-3)
    mixed = detector.map_of("combined", found)
    assert float(mixed.median()) == pytest.approx(0, abs=1e-2)
    assert float(np.quantile(mixed, 0.999)) == pytest.approx(1, abs=1e-3)


def test_combined_is_the_largest_on_the_scale(small: Fitted) -> None:
    detector = small.detector
    parts = findings(detector, small.unseen).parts
    found = detector.combined(parts)
    assert found.shape == (len(parts),)
    for row, score in zip(parts, found, strict=True):
        on_scale = [
            float((value - median) / scale)
            for value, (median, scale) in zip(row, detector.combined_scale, strict=True)
        ]
        assert float(score) == pytest.approx(max(on_scale), rel=1e-4, abs=1e-4)
    for column in range(len(PARTS)):  # each may be the one that alarms
        high = parts.clone()
        high[:, column] += 1000
        assert (detector.combined(high) > found + 10).all()


# --- maps


@CONFIGS
@torch.inference_mode()
def test_a_map_is_as_large_as_the_image(config: DetectorConfig) -> None:
    detector, _, _, unseen, _ = fitted(config)
    found = findings(detector, unseen.take(np.arange(3)))
    _, height, width = config.image_shape
    maps = {name: detector.map_of(name, found) for name in (*PARTS, "combined")}
    for name, of_name in maps.items():
        assert of_name.shape == (3, height, width), name
        assert of_name.isfinite().all(), name
    torch.testing.assert_close(maps["features"], maps["pooled_distance"])
    assert not torch.allclose(maps["features"], maps["texture"])


@torch.inference_mode()
def test_a_map_is_of_its_own_score(small: Fitted) -> None:
    """Places that are all alike stay so, and the combined map weighs both."""
    detector = small.detector
    (h, w), (_, height, width) = SMALL.grid, SHAPE
    found = Findings(
        torch.zeros(2, 3), torch.full((2, h, w), 3.0), torch.full((2, GRID, GRID), -2.0)
    )
    whole = torch.ones(2, height, width)
    medians, full_colours = detector.map_scale.unbind(dim=1)
    features, texture = (torch.tensor([3.0, -2.0]) - medians[:2]) / full_colours[:2]
    mixed = (1 - TEXTURE_SHARE) * features + TEXTURE_SHARE * texture
    median, full = detector.map_scale[2]
    torch.testing.assert_close(detector.map_of("features", found), features * whole)
    torch.testing.assert_close(detector.map_of("texture", found), texture * whole)
    torch.testing.assert_close(detector.map_of("combined", found), (mixed - median) / full * whole)


@pytest.mark.parametrize("place", [(2, 1), (0, 7), (15, 0), (9, 6)])
def test_a_place_of_the_grid_is_where_it_is_in_the_image(
    place: tuple[int, int], small: Fitted
) -> None:
    (h, w), (_, height, width) = SMALL.grid, SHAPE
    found = Findings(torch.zeros(1, 3), torch.zeros(1, h, w), torch.zeros(1, GRID, GRID))
    found.feature_map[0][place] = 1
    peak = int(small.detector.map_of("features", found)[0].argmax())
    y, x = divmod(peak, width)
    assert (y * h // height, x * w // width) == place


def with_patch(images: Any, top: int, left: int, size: int) -> Any:
    """A checkerboard of single pixels in a square of each image."""
    damaged = images.copy()
    y, x = np.mgrid[:size, :size]
    damaged[:, :, top : top + size, left : left + size] = 255 * ((y + x) % 2)
    return damaged


WHOLE_CELLS = DetectorConfig(image_shape=(3, 64, 32), latent_size=4, hidden_size=32)
"""Sides that texture need not extend."""


@pytest.mark.parametrize(
    ("config", "place"),
    [
        (WHOLE_CELLS, (44, 6)),
        (WHOLE_CELLS, (12, 26)),
        (SMALL, (4, 2)),
        (SMALL, (28, 14)),
    ],
)
def test_a_cell_of_texture_is_where_it_is_in_the_image(
    config: DetectorConfig, place: tuple[int, int]
) -> None:
    """Whatever was added to the image to make its cells whole."""
    detector = fitted(config).detector
    (h, w), width = config.grid, config.image_shape[2]
    (top, left), images = place, np.full((1, *config.image_shape), 127, np.uint8)
    images[:, :, top - 1 : top + 1, left - 1 : left + 1] = 255
    with torch.inference_mode():
        energy = detector.bands(as_pixels(images)).mean(dim=2).reshape(1, GRID, GRID)
        found = Findings(torch.zeros(1, 3), torch.zeros(1, h, w), energy)
        y, x = divmod(int(detector.map_of("texture", found)[0].argmax()), width)
    # Half a cell, or less.
    assert abs(y + 0.5 - top) <= 4
    assert abs(x + 0.5 - left) <= 3


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (WHOLE_CELLS, "features"),
        (WHOLE_CELLS, "texture"),
        (WHOLE_CELLS, "combined"),
        (SMALL, "features"),
        (SMALL, "combined"),
    ],
)
@pytest.mark.parametrize("where", [(0.05, 0.05), (0.65, 0.5), (0.4, 0.25)])
def test_the_peak_of_a_map_is_in_the_defect(
    config: DetectorConfig, name: str, where: tuple[float, float]
) -> None:
    """With the weights that are really used."""
    detector, _, _, _, images = fitted(config, imagenet=True)
    _, height, width = config.image_shape
    top, left, size = round(where[0] * height), round(where[1] * width), width // 2 - 2
    damaged = with_patch(images[:8], top, left, size)
    found = found_in(detector, damaged)
    with torch.inference_mode():
        peaks = detector.map_of(name, found).flatten(1).argmax(dim=1)
    inside = [
        top <= y < top + size and left <= x < left + size
        for y, x in (divmod(int(peak), width) for peak in peaks)
    ]
    assert np.mean(inside) >= 7 / 8, peaks


def blurred(images: Tensor) -> Tensor:
    return functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "smoother": blurred,
    "sharper": lambda images: (images + 2 * (images - blurred(images))).clamp(0, 1),
}


@CONFIGS
@pytest.mark.parametrize("change", CHANGES)
def test_texture_has_two_sides(change: str, config: DetectorConfig) -> None:
    """A place that is smoother than others is as unusual as one that is rougher."""
    detector, _, _, unseen, images = fitted(config)
    pixels = as_pixels(images).reshape(-1, *config.image_shape)
    before = findings(detector, unseen).parts[:, TEXTURE]
    with torch.inference_mode():
        after = detector.split(detector(CHANGES[change](pixels).flatten(1))).parts[:, TEXTURE]
    assert (after > before).float().mean() > 0.9
    assert after.median() > before.quantile(0.95)


@pytest.mark.parametrize("name", ["features", "combined"])
def test_a_defect_raises_the_score(name: str) -> None:
    detector, _, _, unseen, images = fitted(SMALL, imagenet=True)
    before, after = (
        found.parts
        for found in (findings(detector, unseen), found_in(detector, with_patch(images, 20, 8, 8)))
    )
    if name == "features":
        one, other = before[:, FEATURES_PART], after[:, FEATURES_PART]
    else:
        one, other = detector.combined(before), detector.combined(after)
    assert (other > one).all()
    assert other.min() > one.median()


# --- any image


@CONFIGS
@pytest.mark.parametrize("kind", ["black", "white", "grey", "noise", "dot", "halves"])
def test_it_is_finite_for_any_image(kind: str, config: DetectorConfig) -> None:
    detector = fitted(config).detector
    images = np.zeros((2, *config.image_shape), np.uint8)
    match kind:
        case "white":
            images[:] = 255
        case "grey":
            images[:] = 127
        case "noise":
            images[:] = np.random.default_rng(0).integers(0, 256, images.shape)
        case "dot":
            images[..., 3, 4] = 255
        case "halves":
            images[..., : images.shape[-1] // 2] = 255
    found = found_in(detector, images)
    assert all(part.isfinite().all() for part in found)
    with torch.inference_mode():
        for name in (*PARTS, "combined"):
            assert detector.map_of(name, found).isfinite().all()
    assert detector.combined(found.parts).isfinite().all()


# --- as it is stored


def test_it_comes_back_as_it_was_stored(small: Fitted) -> None:
    module = StoredDetector(config=SMALL, tensors=small.detector.state_dict()).module()
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    pixels = as_pixels(small.unseen_images[:3])
    with torch.inference_mode():
        assert torch.equal(module(pixels), small.detector(pixels))


@CONFIGS
def test_its_types_are_those_of_its_tensors(config: DetectorConfig) -> None:
    tensors = stored(fitted(config).detector).tensors
    assert detector_types(config) == {
        name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()
    }


def test_types_of_the_largest_take_no_memory() -> None:
    """Whoever made a bundle chose its config: it is checked before anything is allocated."""
    config = DetectorConfig(image_shape=(3, 1000, 1000), latent_size=MAX_SIZE, hidden_size=MAX_SIZE)
    numbers = sum(math.prod(shape) for _, shape in detector_types(config).values())
    assert numbers > 50e6


def test_the_same_seed_gives_the_same_detector() -> None:
    backbone = random_backbone()
    trained, unseen = (
        extract(GREY, backbone, photographs(n, GREY.image_shape, seed=n)) for n in (8, 6)
    )
    made: list[Mapping[str, Tensor]] = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(made))  # the global generator has no part in it
        made.append(fit_detector(GREY, backbone, trained, unseen, seed=seed, steps=5).state_dict())
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())
    assert not torch.equal(made[0]["vae.encoder.0.weight"], made[2]["vae.encoder.0.weight"])


# --- inputs


def test_an_image_at_the_mean_has_a_finite_distance_in_the_graph_too(small: Fitted) -> None:
    """An exporter drops a term as small as `TINY`; a bound stays."""
    pytest.importorskip("onnxruntime")
    detector = deepcopy(small.detector)
    detector.pooled_root.zero_()
    pixels = as_pixels(small.unseen_images[:2])
    graph = OnnxGraph("detector", export_graph("detector", detector, pixels))
    with torch.inference_mode():
        by_torch = detector(pixels)
    assert by_torch.isfinite().all()
    np.testing.assert_allclose(graph(pixels.numpy()), by_torch, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_thin_lines_of_large_images_reach_the_backbone() -> None:
    """Wherever they are: the input of the backbone is smaller than the image."""
    config = DetectorConfig(image_shape=(1, 1024, 64), latent_size=3, hidden_size=8)
    detector = Detector(config).eval()
    detector.backbone.load_state_dict(dict(random_backbone()))
    clean = torch.full((1, *config.image_shape), 0.5)
    plain = detector.features(clean.flatten(1))
    changes = []
    for row in range(500, 504):
        line = clean.clone()
        line[:, :, row] = 0
        changes.append(float((detector.features(line.flatten(1)) - plain).abs().max()))
    assert min(changes) > 0.5 * max(changes)
