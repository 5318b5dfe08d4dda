"""service/codecs/_json.c: what it accepts it reads as simdjson and numpy do, bit for bit."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.codecs.json_bodies import read_any_json_images, read_json_images
from service.codecs.options import ImageOptions, Pixels

try:
    from service.codecs import _json
except ImportError:
    WHY = "service/codecs/_json.c is not compiled"
    if os.environ.get("CI") == "true":
        pytest.fail(WHY, pytrace=False)
    pytest.skip(WHY, allow_module_level=True)

Body = str | bytes

OPTIONS: Final = ImageOptions(shape=(1, 2, 3), max_images=5, max_image_pixels=10_000)
SHAPES: Final = ((1, 2, 3), (3, 2, 2), (1, 1, 1), (1, 1, 4), (2, 1, 1), (1, 28, 28))
ONE_PIXEL: Final = replace(OPTIONS, shape=(1, 1, 1))

EASY = settings(deadline=None, max_examples=200)
HARD = settings(deadline=None, max_examples=1500)


def native(body: Body, options: ImageOptions = OPTIONS) -> Pixels | None:
    """What the extension makes of a body, having checked that the slow path makes the same."""
    data = body.encode() if isinstance(body, str) else body
    found = _json.read_images(data, *options.shape, options.max_images)
    if found is None:
        return None
    expected = read_any_json_images(data, options)  # and raises nothing
    dtype, pixels = found
    assert dtype == expected.dtype.name, data
    assert bytes(pixels) == expected.tobytes(), data
    rows = read_json_images(data, options)
    assert rows.shape == expected.shape
    assert rows.dtype == expected.dtype
    assert rows.flags.writeable
    return rows


def numbers_body(numbers: list[str], dtype: str = "") -> str:
    """Images of one pixel each."""
    field = f', "dtype": "{dtype}"' if dtype else ""
    return f'{{"images": [{", ".join(f"[{number}]" for number in numbers)}]{field}}}'


def takes(number: str, dtype: str = "") -> bool:
    """Whether the extension reads a number; at either side of its copy of a text's last part."""
    body = numbers_body([number], dtype)
    near = native(body, ONE_PIXEL) is not None
    far = native(body.replace("]]", "]" + " " * 64 + "]"), ONE_PIXEL) is not None
    assert near == far
    return near


def nested(values: list[str], shape: tuple[int, ...], comma: str = ",") -> str:
    """Numbers as lists of `shape`."""
    if len(shape) == 1:
        return f"[{comma.join(values)}]"
    size = len(values) // shape[0]
    parts = [values[i * size : (i + 1) * size] for i in range(shape[0])]
    return f"[{comma.join(nested(part, shape[1:], comma) for part in parts)}]"


# Numbers


def words(text: str) -> list[str]:
    return text.split()


UNITS: Final = words("""
    0 1 0.0 1.0 0.5 1e0 1E+00 5e-1 10e-1 2.5E-1 0e-5 1e-20 0.0000000000000000000001
    0.9999999999999999 0.99999999999999999 1.0000000000000000 1.000000000000000000
    1.000000000000000000e+00 0.12345678 0.1234567812345678 0.1234567812345678123
""")

WHOLE: Final = [*map(str, range(256)), "0.0", "7.0", "255.0", "2.55e2", "10e0"]

NO_PIXELS: Final = words("""
    -0 -0.0 -1 -0.5 1.0000001 1.0000000000000002 1.00000000000000022 1e-400 1e400 0e999 5e-324
    1e0000000000000000000000 1e-0000 256 18446744073709551616 100000000000000000000e-20
    1e99999999999999999999 1e-99999 +1 00 01 00.5 .5 1. 0.e1 1e 1e+ 1e- 0x1 0b1 1_0 0.5.5 0..5 0,5
    0.5f 1e1.0 1- --1 NaN nan Infinity -Infinity inf null true false "1" {} [] /0 : 0.5: 0./ 0.: １
    0.５
""")


@pytest.mark.parametrize("number", UNITS)
def test_units_are_taken(number: str) -> None:
    assert takes(number)
    assert takes(number, "float32")


@pytest.mark.parametrize("number", WHOLE)
def test_whole_numbers_are_taken(number: str) -> None:
    assert takes(number, "uint8")


@pytest.mark.parametrize("number", [*NO_PIXELS, "", "- 1", "1 1", "0. 5", "0 .5", "1 e0", "0.5\0"])
@pytest.mark.parametrize("dtype", ["", "uint8"])
def test_invalid_pixels_are_left_to_the_slow_path(number: str, dtype: str) -> None:
    assert not takes(number, dtype)


@pytest.mark.parametrize("number", ["0.5", "254.5", "255.5", "1e-1", "0.0000001", "255.0000001"])
def test_fractions_as_uint8_are_left_to_the_slow_path(number: str) -> None:
    assert not takes(number, "uint8")


@pytest.mark.parametrize("number", ["1.00000000000000001", "0.50000001490116119384765625"])
def test_accepted_numbers_are_right(number: str) -> None:
    """Such as rounds to 1, or has more digits than fit."""
    takes(number)
    takes(number, "uint8")


@pytest.mark.parametrize("digits", range(1, 31))
@pytest.mark.parametrize("filling", "0159")
def test_any_number_of_digits(digits: int, filling: str) -> None:
    for start, end in product(("0.", "1.", "0.0", "0.000", "25.", "255."), ("", "1", "5", "e-1")):
        for dtype in ("", "uint8"):
            takes(f"{start}{filling * digits}{end}", dtype)


FORMATS: Final = ("%r", *(f"%.{n}{kind}" for n in range(1, 20) for kind in "gf"), "%.18e")


def check_numbers(values: list[float]) -> int:
    """How many of `values`, in every format, the extension takes; all are right."""
    taken = 0
    for format_ in FORMATS:
        numbers = [format_ % value for value in values]
        numbers = [number for number in numbers if float(number) <= 1]
        options = replace(ONE_PIXEL, max_images=len(values))
        if native(numbers_body(numbers), options) is not None:
            taken += len(numbers)
        else:
            taken += sum(native(numbers_body([number]), options) is not None for number in numbers)
    return taken


def float32_edges(count: int) -> list[float]:
    """Doubles between which float32 rounds one way or the other, and their neighbours."""
    rng = np.random.default_rng(1)
    below = (rng.random(count) ** rng.integers(1, 6, count)).astype(np.float32)
    middle = (below.astype(np.float64) + np.nextafter(below, np.float32(2))) / 2
    middle = middle[middle < 1]
    near = [middle, np.nextafter(middle, 0), np.nextafter(middle, 1), middle * (1 - 2**-48)]
    values: list[float] = np.concatenate([*near, below]).tolist()
    return values


def test_numbers_of_all_lengths_are_exact() -> None:
    random_ = random.Random(0)
    values = [random_.random() ** random_.choice((1, 2, 5, 9)) for _ in range(2000)]
    values += [k / 255 for k in range(256)] + [float(np.float32(k / 255)) for k in range(256)]
    assert check_numbers(values) > 0.999 * len(values) * len(FORMATS)


def test_numbers_between_two_float32_are_exact() -> None:
    values = float32_edges(1000)
    assert check_numbers(values) > 0.85 * len(values) * len(FORMATS)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
@EASY
def test_any_doubles_are_exact(values: list[float]) -> None:
    check_numbers(values)


@given(st.from_regex(r"[01]\.[0-9]{1,26}([eE][+-]?[0-9]{1,4})?", fullmatch=True))
@HARD
@pytest.mark.slow
def test_any_digits_are_exact(number: str) -> None:
    takes(number)


@given(st.text("0123456789.eE+-", min_size=1, max_size=12), st.sampled_from(["", "uint8"]))
@HARD
def test_any_text_of_a_numbers_characters(number: str, dtype: str) -> None:
    takes(number, dtype)


# Bodies

BLANKS = st.text(" \t\n\r", max_size=3)
LONG_UNITS = st.integers(0, 255).map(lambda k: repr(k / 255))
SHORT_UNITS = st.sampled_from(["0", "1", "0.0", "0.5", "0.25", "1e-3"])
BYTES = st.integers(0, 255).map(str) | st.sampled_from(["0.0", "12.0", "1e0"])


@st.composite
def plain_bodies(draw: st.DrawFn) -> tuple[str, ImageOptions]:
    """Bodies that are all to be taken; small enough for every part of them to be met."""
    shape = draw(st.sampled_from(SHAPES[:-1]))
    channels, height, width = shape
    forms: list[tuple[int, ...]] = [(channels * height * width,), shape]
    if channels == 1:
        forms.append((height, width))
    form = draw(st.sampled_from(forms))
    n = draw(st.integers(1, OPTIONS.max_images))
    dtype = draw(st.sampled_from(["", "float32", "uint8"]))
    kinds = BYTES if dtype == "uint8" else draw(st.sampled_from([LONG_UNITS, SHORT_UNITS]))
    count = n * channels * height * width
    values = draw(st.lists(kinds, min_size=count, max_size=count))
    blanks = iter(draw(st.lists(BLANKS, min_size=12, max_size=12)))
    comma = f"{next(blanks)},{next(blanks)}"
    numbers = nested(values, (n, *form), comma).replace("[", f"[{next(blanks)}")
    fields = [f'"images"{next(blanks)}:{next(blanks)}{numbers.replace("]", f"{next(blanks)}]")}']
    if dtype:
        fields.insert(draw(st.integers(0, 1)), f'"dtype"{next(blanks)}:{next(blanks)}"{dtype}"')
    text = f"{next(blanks)}{{{next(blanks)}{comma.join(fields)}{next(blanks)}}}{next(blanks)}"
    return text, replace(OPTIONS, shape=shape)


@given(plain_bodies())
@EASY
def test_plain_bodies_are_taken(case: tuple[str, ImageOptions]) -> None:
    body, options = case
    assert native(body, options) is not None


@given(plain_bodies(), st.data())
@HARD
@pytest.mark.slow
def test_damaged_bodies_are_read_right_or_left_to_the_slow_path(
    case: tuple[str, ImageOptions], data: st.DataObject
) -> None:
    body = bytearray(case[0].encode())
    frequent = st.sampled_from(list(b'[]{},:." 0159eE+-\t\0'))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        length = data.draw(st.sampled_from([0, 1, 1, 2, len(body)]))
        new = data.draw(st.lists(frequent | st.integers(0, 255), max_size=2))
        body[at : at + length] = bytes(new)
    native(bytes(body), case[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["", "float32", "uint8"])
@pytest.mark.parametrize("indent", [None, 1])
def test_all_forms_of_images(shape: tuple[int, int, int], dtype: str, indent: int | None) -> None:
    options = replace(OPTIONS, shape=shape)
    rng = np.random.default_rng(0)
    pixels: Any = rng.integers(0, 256, (4, *shape))
    if dtype != "uint8":
        pixels = pixels / 255
    for form in (pixels, pixels.reshape(4, -1), pixels[:, 0]):
        body: dict[str, Any] = {"images": form.tolist()} | ({"dtype": dtype} if dtype else {})
        rows = native(json.dumps(body, indent=indent), options)
        if form.size == pixels.size:
            assert rows is not None
            assert np.array_equal(rows, pixels.reshape(4, -1).astype(rows.dtype))
        else:
            assert rows is None


IMAGE: Final = "[0,0,0,0,0,0]"

NOT_PLAIN: Final = """
{
{}
[]
null
{"images"
{"images":
{"images": [
{"images": ]
{"images": }
{"images": [}
{"images": []}
{"images": [[]]}
{"images": [[[]]]}
{"images": [[[[]]]]}
{"images": [0,0,0,0,0,0]}
{"images": [[0,0,0,0,0]]}
{"images": [[0,0,0,0,0,0,0]]}
{"images": [[0,0,0],[0,0,0]]}
{"images": [[[0,0],[0,0],[0,0]]]}
{"images": [[[0,0,0],[0,0,0],[0,0,0]]]}
{"images": [[[0,0,0],[0,0,0,0]]]}
{"images": [[[[0,0,0]],[[0,0,0]]]]}
{"images": [[[[0,0,0],[0,0,0]],[[0,0,0],[0,0,0]]]]}
{"images": [[[[[0,0,0],[0,0,0]]]]]}
{"images": [IMAGE,[[0,0,0],[0,0,0]]]}
{"images": [IMAGE,0]}
{"images": [IMAGE,"aGVsbG8="]}
{"images": ["[]"]}
{"images": "[]"}
{"images": [IMAGE],}
{"images": [IMAGE,]}
{"images": [,IMAGE]}
{"images": [IMAGE IMAGE]}
{"images": [IMAGE,,IMAGE]}
{"images": [[0,0,0,0,0,0,]]}
{"images": [[,0,0,0,0,0,0]]}
{"images": [[0,0,0,0,0,,0]]}
{"images": [[0 0,0,0,0,0]]}
{"images": [IMAGE]]}
{"images": [IMAGE}
{"images": [[0,0,0}
{"images": [IMAGE]}}
{"images": [IMAGE]} x
{"images": [IMAGE]} ]
{"images": [IMAGE]}{}
{"images": [IMAGE
{"images" [IMAGE]}
{"images": [IMAGE]
"images": [IMAGE]}
{images: [IMAGE]}
{'images': [IMAGE]}
{"Images": [IMAGE]}
{"images ": [IMAGE]}
{"image": [IMAGE]}
{"z": [IMAGE]}
{"images": [IMAGE], "images": [IMAGE]}
{"images": [IMAGE], "x": 1}
{"x": [], "images": [IMAGE]}
{"dtype": "uint8"}
{"dtype": "uint8", }
{"dtype": "uint8", "dtype": "uint8"}
{"dtype": "uint8", "dtype": "uint8", "images": [IMAGE]}
{"images": [IMAGE], "dtype": "uint8", "dtype": "uint8"}
{"dtype": "uint8", "images": [IMAGE], "dtype": "uint8"}
{"dtype": "uint8" "images": [IMAGE]}
{"dtype": "uint8", "images": [IMAGE],}
{"images": [IMAGE] "dtype": "uint8"}
{"images": [IMAGE], "dtype": "uint8",}
{"images": [IMAGE], "dtype": 8}
{"images": [IMAGE], "dtype": null}
{"images": [IMAGE], "dtype": "int8"}
{"images": [IMAGE], "dtype": "uint8 "}
{"images": [IMAGE], "dtype": "float64"}
{"images": [IMAGE], "dtype": ["uint8"]}
{"images": [IMAGE], "dtype" "uint8"}
{"images": [IMAGE], "dtype": "uint8"
{"images": [IMAGE], "dtype": "uint8
{"images": [IMAGE], "dtype":
{"images": [IMAGE], "dtype
{"images": [IMAGE],
""".replace("IMAGE", IMAGE).splitlines()


@pytest.mark.parametrize("body", NOT_PLAIN)
def test_unusual_bodies_are_left_to_the_slow_path(body: str) -> None:
    assert native(body) is None


@pytest.mark.parametrize(
    "inserted", ["\0", "\x0b", "\x0c", "\xa0", "\u2028", "\ufeff", "/**/", "\\"]
)
def test_only_blanks_of_json_are_blanks(inserted: str) -> None:
    body = f'{{"images": [{IMAGE}]}}'
    assert native(body) is not None
    for at in range(len(body) + 1):
        assert native(body[:at] + inserted + body[at:]) is None


def test_every_part_of_a_body_is_too_little() -> None:
    body = json.dumps({"images": [[0.5] * 6] * 2, "dtype": "float32"})
    assert native(body) is not None
    for length in range(len(body)):
        assert native(body[:length]) is None


def test_escapes_are_left_to_others() -> None:
    assert native(f'{{"imag\\u0065s": [{IMAGE}]}}') is None
    assert native(f'{{"images": [{IMAGE}], "dtype": "uint\\u0038"}}') is None
    assert len(read_json_images(f'{{"imag\\u0065s": [{IMAGE}]}}'.encode(), OPTIONS)) == 1


@pytest.mark.parametrize("form", [IMAGE, "[[0,0,0],[0,0,0]]", "[[[0,0,0],[0,0,0]]]"])
def test_images_are_counted(form: str) -> None:
    for n in range(1, 9):
        rows = native(f'{{"images": [{",".join([form] * n)}]}}')
        assert (rows is not None) == (n <= OPTIONS.max_images)
    assert native(f'{{"images": [{form}]}}', replace(OPTIONS, max_images=1)) is not None
    assert native(f'{{"images": [{form}]}}', replace(OPTIONS, max_images=2**63 - 1)) is not None


def test_large_bodies_in_several_threads() -> None:
    """So large that Python's lock is given away meanwhile."""
    options = replace(OPTIONS, shape=(1, 28, 28), max_images=100)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 784))
    bodies = [json.dumps({"images": (pixels / k).tolist()}).encode() for k in range(255, 263)]
    with ThreadPoolExecutor(4) as threads:
        for rows in threads.map(lambda body: native(body, options), bodies * 4):
            assert rows is not None
    wrong = bodies[0].replace(b"]]", b", 0.5]]")
    assert native(wrong, options) is None


@pytest.mark.parametrize("body", [b'{"images": [' + b"[" * 100_000, b"[" * 100_000, b" " * 100_000])
def test_depth_and_blanks_take_no_stack(body: bytes) -> None:
    assert native(body) is None
    assert native(body + b"0" + b"]" * 100_000 + b"}") is None


@pytest.mark.parametrize("shape", [(0, 2, 3), (1, 0, 3), (1, 2, 0), (-1, 2, -3), (2**62, 2**62, 4)])
def test_shapes_that_no_body_can_have(shape: tuple[int, int, int]) -> None:
    assert _json.read_images(f'{{"images": [{IMAGE}]}}'.encode(), *shape, 5) is None
    assert _json.read_images(b'{"images": [[]]}', *shape, 5) is None


def test_arguments_are_checked() -> None:
    read: Any = _json.read_images
    assert read("{}", 1, 2, 3, 5) is None, "a text is no bytes"
    assert read(bytearray(b"{}"), 1, 2, 3, 5) is None
    assert read(b"{}", 1, 2, 3, 0) is None
    with pytest.raises(TypeError):
        read(b"{}", 1, 2, 3)
    with pytest.raises(TypeError):
        read(b"{}", 1, 2, "3", 5)
    with pytest.raises(OverflowError):
        read(b"{}", 1, 2, 2**70, 5)
