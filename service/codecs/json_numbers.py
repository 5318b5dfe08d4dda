"""JSON bodies to arrays, without a Python number for each pixel.

simdjson keeps the document outside Python and copies whole arrays of numbers into a buffer: 10 µs
for a 28×28 image, where orjson and numpy take 35. With the questions that come before and the look
at the pixels' range that is 18. `service/codecs/_json.c`, where it is compiled, does it all in 4 to
8, but knows the plain form of a body only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np
import simdjson
from numpy.typing import NDArray

from service.errors import BadBodyError, InvalidContentError

try:
    from service.codecs import _json
except ImportError:
    COMPILED = False
else:
    COMPILED = True

REUSE_BYTES: Final = 1 << 20
"""Bodies up to here share a parser, whose memory then stays; larger ones get their own."""

_local = threading.local()


def plain_images(
    body: bytes, image_shape: tuple[int, int, int], max_images: int
) -> tuple[Literal["uint8", "float32"], bytearray] | None:
    """Type and pixels of a body that has images as numbers, all of one form, and is right.

    None means nothing: it may be another form, or wrong, or `service/codecs/_json.c` is not
    compiled.
    """
    return _json.read_images(body, *image_shape, max_images) if COMPILED else None


def parse_json(body: bytes) -> Any:
    """The document, as simdjson's proxies. Raises `BadBodyError` or `InvalidContentError`."""
    parser = _shared_parser() if len(body) <= REUSE_BYTES else simdjson.Parser()
    try:
        try:
            return parser.parse(body)
        except RuntimeError:  # The shared one is busy while an older document is still referred to.
            return simdjson.Parser().parse(body)
    except UnicodeDecodeError as error:
        raise BadBodyError("the body is not JSON: it is not UTF-8") from error
    except ValueError as error:
        raise BadBodyError(f"the body is not JSON: {_reason(error)}") from error
    except RuntimeError as error:
        raise InvalidContentError(
            "the body holds a whole number that does not fit into 64 bits", ("body",)
        ) from error


def fields(
    value: Any, known: Sequence[str], loc: Sequence[str | int] = ("body",)
) -> dict[str, Any]:
    """The fields of an object, each at most once and none but `known`.

    Raises `InvalidContentError`: what would be ignored, or would win over its double, is an error.
    """
    where = ".".join(str(part) for part in loc)
    if not isinstance(value, simdjson.Object):
        raise InvalidContentError(f"{where} is {kind(value)}, expected an object", loc)
    found: dict[str, Any] = {}
    for key in value:  # items() would make Python numbers of all that is below
        if key not in known:
            raise InvalidContentError(
                f"{key[:64]!r} is no known field, expected {', '.join(known)}", (*loc, key[:64])
            )
        if key in found:
            raise InvalidContentError(f"{key} is there twice", (*loc, key))
        found[key] = value[key]
    return found


def items(found: dict[str, Any], name: str) -> simdjson.Array:
    """`found[name]` as an array that is not empty. Raises `InvalidContentError`."""
    if name not in found:
        raise InvalidContentError(f"{name} is missing", ("body", name))
    value = found[name]
    if not isinstance(value, simdjson.Array):
        raise InvalidContentError(f"{name} is {kind(value)}, expected a list", ("body", name))
    if not len(value):
        raise InvalidContentError(f"{name} is empty, expected at least one item", ("body", name))
    return value


def number_rows(
    array: simdjson.Array, name: str, shapes: Sequence[tuple[int, ...]], brackets: int
) -> NDArray[np.float64]:
    """N items, each numbers in one of `shapes`, as an array with a flat row for each.

    `brackets` is the number of `[` in the document, which must all belong to this array: together
    with the lengths at each level it rules out anything deeper. Raises `InvalidContentError`
    naming the first item that is something else.
    """
    n = len(array)
    for shape in shapes:
        if brackets == 1 + n * _lists(shape) and all(_has_lengths(i, shape) for i in array):
            try:
                return np.frombuffer(array.as_buffer(of_type="d"), np.float64).reshape(n, -1)
            except TypeError:
                break  # not all are numbers
    return np.stack([number_row(item, name, i, shapes) for i, item in enumerate(array)])


def number_row(
    item: Any, name: str, index: int, shapes: Sequence[tuple[int, ...]]
) -> NDArray[np.float64]:
    """One item as a flat row. Raises `InvalidContentError` naming it by `index`."""
    if isinstance(item, simdjson.Array):
        text: Any = item.mini  # its stub says str; it is bytes
        brackets = text.count(b"[")
        for shape in shapes:
            if brackets == _lists(shape) and _has_lengths(item, shape):
                try:
                    return np.frombuffer(item.as_buffer(of_type="d"), np.float64)
                except TypeError:
                    break
    expected = " or ".join(str(list(shape)) for shape in shapes)
    raise InvalidContentError(
        f"{name}[{index}] is {_describe(item)}, expected numbers of shape {expected}",
        ("body", name, index),
    )


def _lists(shape: tuple[int, ...]) -> int:
    """How many lists make up nested lists of `shape`: [H][W] is 1 + H."""
    count = 1
    for size in reversed(shape[:-1]):
        count = 1 + size * count
    return count


def _has_lengths(item: Any, shape: tuple[int, ...]) -> bool:
    if not isinstance(item, simdjson.Array) or len(item) != shape[0]:
        return False
    return len(shape) == 1 or all(_has_lengths(part, shape[1:]) for part in item)


def _describe(item: Any) -> str:
    """What an item is that has no wanted shape; for a list, its lengths along the first items."""
    if not isinstance(item, simdjson.Array):
        return kind(item)
    lengths = list(_first_lengths(item))
    return f"a list of shape {lengths}"


def _first_lengths(item: Any, limit: int = 5) -> Iterator[int]:
    while isinstance(item, simdjson.Array) and limit:
        yield len(item)
        item = item[0] if len(item) else None
        limit -= 1


def kind(value: Any) -> str:
    """What a JSON value is, for messages."""
    if isinstance(value, simdjson.Object):
        return "an object"
    if isinstance(value, simdjson.Array):
        return "a list"
    if value is None:
        return "null"
    return {str: "a text", bool: "a boolean"}.get(type(value), "a number")


def _shared_parser() -> simdjson.Parser:
    """This thread's parser."""
    if not hasattr(_local, "parser"):
        _local.parser = simdjson.Parser()
    parser: simdjson.Parser = _local.parser
    return parser


def _reason(error: Exception) -> str:
    """simdjson's own words, without its constant's name and without its afterthoughts."""
    if str(error).startswith("NUMBER_ERROR"):
        return "a number in it is malformed or does not fit into 64 bits"
    text = str(error).partition(": ")[2] or str(error)
    return text.partition(".")[0]
