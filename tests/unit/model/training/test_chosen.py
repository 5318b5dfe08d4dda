"""Sides, channels and network that suit the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import VAEConfig, conv_sizes
from model.datasets.folder import Folder, ImageFile
from model.training.chosen import (
    DETECTOR_SIDE,
    PHOTO_SIDE,
    can_be_averaged,
    choose_architecture,
    choose_channels,
    choose_downscale,
    choose_sides,
    is_grey,
    longer_side,
    nearest_sides,
    suitable_config,
)


def folder(sizes: Sequence[tuple[int, int]], modes: Sequence[str] = ("RGB",)) -> Folder:
    """Of images of these widths and heights."""
    names = [f"{number:04}.png" for number in range(max(len(sizes), len(modes)))]
    images = tuple(
        ImageFile(
            path=Path(name),
            name=name,
            format="PNG",
            mode=modes[number % len(modes)],
            width=sizes[number % len(sizes)][0],
            height=sizes[number % len(sizes)][1],
        )
        for number, name in enumerate(names)
    )
    return Folder(path=Path("photos"), images=images, left_out=())


@pytest.mark.parametrize(
    ("sizes", "longer", "sides"),
    [
        ([(28, 28)], None, (28, 28)),
        ([(8, 8)], None, (8, 8)),
        ([(64, 48)], None, (48, 64)),
        ([(48, 64)], None, (64, 48)),
        ([(4_000, 3_000)], None, (48, 64)),
        ([(3_000, 4_000)], None, (64, 48)),
        ([(900, 900)], None, (64, 64)),
        ([(4_000, 3_000)], 128, (96, 128)),
        ([(640, 480)], 2_048, (1_536, 2_048)),
        ([(100, 33)], None, (21, 64)),
        ([(4_000, 100)], None, (16, 64)),  # the least that conv takes
        ([(4_000, 100)], 256, (16, 256)),
        ([(30, 20), (60, 40), (90, 60)], None, (40, 60)),
        ([(100, 50), (100, 50), (50, 100)], 64, (32, 64)),
        ([(100, 50), (50, 100)], 64, (64, 64)),
        ([(60, 60), (60, 60), (5_000, 100)], None, (60, 60)),
        ([(1, 1)], None, (1, 1)),
        ([(640, 480)], 1, (1, 1)),
    ],
)
def test_the_sides_have_the_median_aspect_ratio(
    sizes: list[tuple[int, int]], longer: int | None, sides: tuple[int, int]
) -> None:
    assert choose_sides(folder(sizes), longer) == sides


sides = st.integers(1, 5_000)


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=9), st.none() | st.integers(1, 300))
def test_any_images_have_sides(sizes: list[tuple[int, int]], longer: int | None) -> None:
    height, width = choose_sides(folder(sizes), longer)
    assert min(height, width) >= 1
    assert max(height, width) == longer or (longer is None and max(height, width) <= 64)
    turned = [(b, a) for a, b in sizes]
    assert choose_sides(folder(turned), longer) == (width, height)


@pytest.mark.parametrize(
    ("size", "longer", "expected"),
    [
        ((4_000, 3_000), None, (192, 256)),
        ((900, 900), None, (256, 256)),
        ((28, 28), None, (28, 28)),
        ((64, 48), None, (48, 64)),
        ((127, 127), None, (126, 126)),
        ((128, 96), None, (96, 128)),
        ((640, 480), 130, (96, 129)),
        ((640, 480), 257, (190, 255)),
        ((4_000, 100), None, (64, 256)),  # averaged to the 16 that conv takes
        ((640, 480), 512, (384, 512)),
    ],
)
def test_with_a_detector_the_sides_are_multiples_of_squares(
    size: tuple[int, int], longer: int | None, expected: tuple[int, int]
) -> None:
    assert choose_sides(folder([size]), longer, DETECTOR_SIDE) == expected


@given(st.tuples(sides, sides), st.none() | st.integers(1, 2_048))
def test_sides_for_a_detector_can_always_be_averaged(
    size: tuple[int, int], longer: int | None
) -> None:
    """To at most `PHOTO_SIDE`, and as little below as the rounding makes it."""
    found = choose_sides(folder([size]), longer, DETECTOR_SIDE)
    wanted = min(max(size), DETECTOR_SIDE) if longer is None else longer
    downscale = choose_downscale(found)
    assert can_be_averaged(found)
    assert wanted - math.ceil(wanted / PHOTO_SIDE) < max(found) <= wanted
    assert max(found) // downscale <= PHOTO_SIDE
    assert (downscale == 1) == (max(found) <= PHOTO_SIDE)
    if max(found) > PHOTO_SIDE:
        assert choose_architecture((3, *found), downscale) == "conv"


@pytest.mark.parametrize(
    ("found", "downscale"),
    [
        ((28, 28), 1), ((64, 64), 1), ((65, 65), 1), ((66, 66), 2), ((80, 96), 2),
        ((128, 128), 2), ((192, 256), 4), ((126, 126), 2), ((129, 96), 3), ((255, 190), 5),
        ((130, 128), 1), ((132, 258), 6), ((131, 257), 1), ((300, 257), 1), ((512, 512), 8),
        ((140, 175), 5), ((150, 200), 5), ((201, 134), 1),
    ],
)  # fmt: skip
def test_the_smallest_squares_that_fit_both_sides(found: tuple[int, int], downscale: int) -> None:
    """Smaller than twice what is needed: more would lose what can be seen at `PHOTO_SIDE`."""
    assert choose_downscale(found) == choose_downscale(found[::-1]) == downscale


@pytest.mark.parametrize(
    ("wanted", "nearest"),
    [
        ((131, 257), (132, 258)), ((257, 131), (258, 132)), ((300, 257), (300, 258)),
        ((131, 251), (132, 252)), ((40, 256), (64, 256)), ((65, 65), (64, 64)),
    ],
)  # fmt: skip
def test_the_nearest_sides_that_work(wanted: tuple[int, int], nearest: tuple[int, int]) -> None:
    assert not can_be_averaged(wanted)
    assert nearest_sides(wanted) == nearest


@given(st.integers(65, 2_048), st.integers(1, 2_048))
def test_sides_that_work_are_always_near(one: int, other: int) -> None:
    """Nearer than a square, unless a side is too short for `conv`."""
    found = nearest_sides((one, other))
    assert can_be_averaged(found)
    if can_be_averaged((one, other)):
        return
    square = math.ceil(max(one, other) / PHOTO_SIDE)
    if min(one, other) >= 17 * square:
        assert max(abs(found[0] - one), abs(found[1] - other)) <= square


def test_without_a_detector_the_sides_stay_as_asked_for() -> None:
    assert choose_sides(folder([(640, 480)]), 130) == (98, 130)


def test_the_longer_side_is_the_median() -> None:
    assert longer_side(folder([(30, 20), (40, 60), (900, 90)])) == 60


def test_a_large_image_gets_the_network_of_the_averaged_one() -> None:
    config = suitable_config((3, 192, 256), downscale=4)
    assert (config.architecture, config.downscale) == ("conv", 4)
    assert config.hidden_sizes == conv_sizes((3, 48, 64))
    asked = suitable_config((3, 192, 256), downscale=4, architecture="mlp")
    assert (asked.architecture, asked.downscale) == ("mlp", 1)
    small = suitable_config((3, 60, 256), downscale=4)  # 15 pixels are too few for conv
    assert (small.architecture, small.downscale) == ("mlp", 1)


@given(st.integers(16, 5_000), st.integers(16, 5_000))
def test_the_ratio_is_kept_unless_the_shorter_side_would_be_below_16(w: int, h: int) -> None:
    height, width = choose_sides(folder([(w, h)]), None)
    if min(w, h) / max(w, h) * min(64, max(w, h)) >= 16:
        assert height / width == pytest.approx(h / w, abs=0.5 * max(1, h / w) ** 2 / 16 + 0.04)
    else:
        assert min(height, width) == 16


@pytest.mark.parametrize(
    ("modes", "channels"),
    [
        (["L"], 1),
        (["1", "L", "LA", "I", "I;16", "I;16B", "F"], 1),
        (["RGB"], 3),
        (["L", "L", "RGB"], 3),
        (["L", "P"], 3),
        (["RGBA"], 3),
        (["CMYK"], 3),
    ],
)
def test_channels_follow_the_modes(modes: list[str], channels: int) -> None:
    assert choose_channels(folder([(8, 8)], modes)) == channels


def test_grey_images_saved_as_rgb_are_grey() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (5, 1, 6, 4), dtype=np.uint8)
    images = np.repeat(grey, 3, axis=1)
    assert is_grey(images)
    for channel in range(3):
        coloured = images.copy()
        coloured[-1, channel, -1, -1] ^= 1
        assert not is_grey(coloured)


@pytest.mark.parametrize(
    ("shape", "architecture"),
    [
        ((1, 28, 28), "mlp"),
        ((1, 32, 32), "mlp"),
        ((1, 32, 33), "conv"),
        ((1, 64, 64), "conv"),
        ((3, 28, 28), "conv"),
        ((3, 16, 64), "conv"),
        ((3, 15, 64), "mlp"),
        ((3, 8, 8), "mlp"),
        ((3, 256, 256), "conv"),
        ((3, 256, 257), "mlp"),
        ((1, 8, 300), "mlp"),
    ],
)
def test_small_grey_pictures_get_the_mlp_and_photographs_the_conv(
    shape: tuple[int, int, int], architecture: str
) -> None:
    assert choose_architecture(shape) == architecture
    config = suitable_config(shape)
    assert (config.architecture, config.image_shape) == (architecture, shape)


def test_the_usual_sizes() -> None:
    assert suitable_config((1, 28, 28)) == VAEConfig()
    photo = suitable_config((3, 48, 64))
    assert photo.hidden_sizes == conv_sizes((3, 48, 64))
    assert (photo.latent_size, photo.head) == (32, "log_variance")


def test_what_is_asked_for_wins() -> None:
    shape = (3, 48, 64)
    config = suitable_config(shape, architecture="mlp")
    assert config == VAEConfig(image_shape=shape)
    config = suitable_config(shape, hidden_sizes=(8, 9, 10), latent_size=5)
    assert (config.architecture, config.hidden_sizes) == ("conv", (8, 9, 10))
    assert config.latent_size == 5
    config = suitable_config((1, 28, 28), architecture="conv")
    assert (config.hidden_sizes, config.latent_size) == (conv_sizes((1, 28, 28)), 32)
    assert suitable_config((1, 28, 28), hidden_sizes=()).hidden_sizes == ()


def test_the_relu_head_gets_the_one_network_that_has_it() -> None:
    config = suitable_config((3, 48, 64), head="relu")
    assert (config.architecture, config.head) == ("mlp", "relu")
    with pytest.raises(ValueError, match="head"):
        suitable_config((3, 48, 64), architecture="conv", head="relu")


def test_wrong_values_are_reported_and_not_replaced() -> None:
    with pytest.raises(ValueError, match="latent_size"):
        suitable_config((1, 28, 28), latent_size=0)
    with pytest.raises(ValueError, match="hidden_sizes"):
        suitable_config((3, 48, 64), hidden_sizes=())
    with pytest.raises(ValueError, match="sides"):
        suitable_config((3, 8, 8), architecture="conv")
