"""Large JPEG files are scaled down while they are decoded, and nearly nothing changes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from model.images.preprocessing import (
    SCALED,
    WHOLE,
    ImageError,
    ImageSizeError,
    Preprocessing,
    image_to_array,
    is_scaled,
    open_image,
)
from tests.unit.samples import damaged, encoded

Shape = tuple[int, int, int]

MAX_PIXELS: Final = 20_000_000

GREY_LEVELS: Final = 6
COLOUR_LEVELS: Final = 24
MEAN_LEVELS: Final = 3
"""How far scaled decoding may be from whole decoding, of 255, on the `photograph`s below. In 2,000
examples we found 3, 14 and 2.2, and a mean of 0.3 over all; at 12 megapixels no pixel differed by
more than 2. Colours are further off: a JPEG stores them at half the size, and whole decoding
interpolates them."""

MAX_MIB: Final = 30
"""What a photograph of 12 megapixels may take beyond its file; we measured 1 to 8."""

sides = st.integers(1, 420)
orientations = st.integers(1, 8)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse and fine structure in colour, with the grain of a sensor."""
    numbers = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128, np.float32)
    for cells, contrast in ((3, 55), (12, 25), (48, 10)):
        coarse = numbers.standard_normal((cells, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel])
            total[..., channel] += contrast * np.asarray(
                layer.resize((width, height), Image.Resampling.BICUBIC)
            )
    total += 4 * numbers.standard_normal((height, width, 1), np.float32)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, orientation: int = 1, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif.tobytes(), **options)


def read(
    data: bytes, shape: Shape, preprocessing: Preprocessing, *, resize: bool = True
) -> NDArray[np.uint8]:
    image = open_image(data, max_pixels=MAX_PIXELS)
    return image_to_array(image, shape, preprocessing=preprocessing, resize=resize)


def refusal(data: bytes, preprocessing: Preprocessing) -> str | None:
    try:
        read(data, (3, 20, 24), preprocessing)
    except ImageError as error:
        return f"{type(error).__name__}: {error}"
    return None


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(96, 420), st.integers(96, 420)),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(8, 50), st.integers(8, 50)),
    mode=st.sampled_from(["L", "RGB", "CMYK"]),
    orientation=orientations,
    quality=st.integers(60, 98),
    progressive=st.booleans(),
    subsampling=st.sampled_from([0, 1, 2]),
    seed=st.integers(0, 1_000),
)
def test_it_is_nearly_as_if_decoded_whole(
    size: tuple[int, int],
    shape: Shape,
    mode: str,
    orientation: int,
    quality: int,
    progressive: bool,
    subsampling: int,
    seed: int,
) -> None:
    data = jpeg(
        photograph(*size, seed).convert(mode),
        orientation,
        quality=quality,
        progressive=progressive,
        subsampling=subsampling,
    )
    whole, scaled = (read(data, shape, how).astype(int) for how in (WHOLE, SCALED))
    apart = np.abs(scaled - whole)
    assert apart.max() <= (GREY_LEVELS if mode == "L" else COLOUR_LEVELS)
    assert apart.mean() <= MEAN_LEVELS


@settings(max_examples=100, deadline=None)
@given(
    sides=st.tuples(sides, sides),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 60), st.integers(1, 60)),
    orientation=orientations,
)
def test_it_is_scaled_to_twice_the_wanted_sides_at_least_or_not_at_all(
    sides: tuple[int, int], shape: Shape, orientation: int
) -> None:
    """Where it is not, the pixels are the very same."""
    _, height, width = shape
    wanted = (height, width) if orientation >= 5 else (width, height)  # as stored
    ratio = min(side // (2 * want) for side, want in zip(sides, wanted, strict=True))
    scale = max(scale for scale in (1, 2, 4, 8) if scale <= max(1, ratio))
    data = jpeg(photograph(*sides), orientation)
    image = open_image(data, max_pixels=MAX_PIXELS)
    assert is_scaled(image, shape, SCALED) == (scale > 1)
    assert not is_scaled(image, shape, WHOLE)
    scaled = image_to_array(image, shape, preprocessing=SCALED)
    assert image.size == tuple(-(-side // scale) for side in sides)
    if scale == 1:
        assert np.array_equal(scaled, read(data, shape, WHOLE))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(257, 265), (321, 289), (263, 271)])
def test_nothing_moves_where_the_scale_does_not_divide_the_sides(
    size: tuple[int, int], orientation: int
) -> None:
    """The channels are ramps: an edge moved by seven pixels would be seven levels off."""
    width, height = size
    rows, columns = np.indices((height, width))
    ramps = [columns * 255 // width, rows * 255 // height, np.full_like(rows, 128)]
    image = Image.fromarray(np.stack(ramps, axis=-1).astype(np.uint8))
    data = jpeg(image, orientation, quality=98, subsampling=0)
    shape = (3, 16, 16)
    assert is_scaled(open_image(data, max_pixels=MAX_PIXELS), shape, SCALED)
    apart = np.abs(read(data, shape, SCALED).astype(int) - read(data, shape, WHOLE))
    assert apart.max() <= 2


@pytest.mark.parametrize(
    "colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
)
def test_saturated_colours_keep_their_grey(colour: tuple[int, int, int]) -> None:
    data = jpeg(Image.new("RGB", (300, 200), colour), quality=90)
    for channels in (1, 3):
        shape = (channels, 16, 20)
        apart = np.abs(read(data, shape, SCALED).astype(int) - read(data, shape, WHOLE))
        assert apart.max() <= 1


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP"])
def test_other_formats_are_decoded_whole(file_format: str) -> None:
    data = encoded(photograph(300, 200), file_format)
    image = open_image(data, max_pixels=MAX_PIXELS)
    assert not is_scaled(image, (3, 20, 24), SCALED)
    scaled = image_to_array(image, (3, 20, 24), preprocessing=SCALED)
    assert image.size == (300, 200)
    assert np.array_equal(scaled, read(data, (3, 20, 24), WHOLE))


def test_a_size_that_must_match_is_the_file_s() -> None:
    """And not that to which it would be scaled."""
    data = jpeg(photograph(48, 40))
    with pytest.raises(ImageSizeError, match="48 × 40"):
        read(data, (3, 20, 24), SCALED, resize=False)
    same = read(data, (3, 40, 48), SCALED, resize=False)
    assert np.array_equal(same, read(data, (3, 40, 48), WHOLE, resize=False))


SOUND: Final = {
    progressive: jpeg(photograph(203, 151), quality=70, progressive=progressive)
    for progressive in (False, True)
}


@settings(max_examples=200, deadline=None)
@given(st.data(), st.booleans())
def test_a_damaged_file_is_refused_in_the_same_words(
    data: st.DataObject, progressive: bool
) -> None:
    file = data.draw(damaged(SOUND[progressive]))
    assert refusal(file, SCALED) == refusal(file, WHOLE)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_file_is_refused(progressive: bool) -> None:
    sound = SOUND[progressive]
    assert refusal(sound, SCALED) is None
    for kept in (0.3, 0.6, 0.9):
        found = refusal(sound[: int(len(sound) * kept)], SCALED)
        assert found is not None
        assert found.startswith("MalformedImageError: JPEG file is damaged")


MEASURE: Final = """
import sys
from pathlib import Path
from model.images.preprocessing import SCALED, WHOLE, image_to_array, open_image

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

data = Path(sys.argv[1]).read_bytes()
preprocessing = SCALED if sys.argv[2] == "scaled" else WHOLE
before = kib("VmHWM")
image_to_array(open_image(data, max_pixels=10**8), (3, 256, 256), preprocessing=preprocessing)
print(kib("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_photograph_of_12_megapixels_takes_little_memory(tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("photograph") / "large.jpg"
    path.write_bytes(jpeg(photograph(4000, 3000), orientation=6, quality=90))

    def mib(how: str) -> float:
        line = [sys.executable, "-c", MEASURE, str(path), how]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
        return int(done.stdout) / 1024

    assert mib("scaled") < MAX_MIB < mib("whole")


def test_the_rules_are_known_again() -> None:
    for preprocessing in (WHOLE, SCALED):
        assert Preprocessing.from_json(preprocessing.to_json()) == preprocessing
    assert WHOLE.to_json() == {
        "pixels": "uint8 / 255",
        "alpha": "composited on black",
        "resize": "bicubic, anti-aliased, to the whole image shape",
    }, "as in bundles that exist"


@pytest.mark.parametrize(
    "content",
    [None, [], "whole", {}, {"decoding": "scaled"}, SCALED.to_json() | {"decoding": "faster"}],
)
def test_other_rules_are_refused(content: object) -> None:
    with pytest.raises(ValueError, match=r"preprocessing is .*, expected .* or "):
        Preprocessing.from_json(content)
