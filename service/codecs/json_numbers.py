"""Parses JSON bodies to arrays without creating a Python number for each pixel.

simdjson keeps the document outside Python and copies whole arrays of numbers into a buffer. That
takes 10 µs for a 28×28 image, where orjson and numpy take 35 µs; with the checks of its shape and
pixel range it is 18 µs. `service/codecs/_json.c`, if it is compiled, does all of that in 4 to 8 µs,
but reads only the plain form of a body.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Final, Literal

import numpy as np
import simdjson
from numpy.typing import NDArray

from service.codecs.json_errors import too_deep, why_not_json, why_not_utf8
from service.errors import BadBodyError, InvalidContentError

try:
    from service.codecs import _json
except ImportError:
    COMPILED = False
else:
    COMPILED = True

REUSE_BYTES: Final = 1 << 20
"""Bodies up to this size share one parser per thread, which keeps its memory. A larger body gets a
parser of its own, whose memory is freed."""

SHOWN: Final = 24
"""Characters of a wrong text that a message shows."""

SHOWN_LEVELS: Final = 8
"""Levels of nesting that a message shows. The parser allows a thousand."""

SEARCHED_NUMBERS: Final = 100_000
"""Numbers before a wrong element among which it is located, which takes some 20 ms."""

END: Final = object()

_local = threading.local()


def plain_images(
    body: bytes, image_shape: tuple[int, int, int], max_images: int
) -> tuple[Literal["uint8", "float32"], bytearray] | None:
    """The dtype and pixels of a valid body whose images are all numbers of one shape.

    None says nothing about the body: it may have another form or be invalid, or
    `service/codecs/_json.c` may not be compiled.
    """
    return _json.read_images(body, *image_shape, max_images) if COMPILED else None


def parse_json(body: bytes) -> Any:
    """The document as simdjson's proxy objects. Raises `BadBodyError` or `InvalidContentError`.

    simdjson skips a byte order mark.
    """
    parser = _shared_parser() if len(body) <= REUSE_BYTES else simdjson.Parser()
    try:
        try:
            return parser.parse(body)
        except RuntimeError:  # the shared parser cannot be reused while its last document is alive
            return simdjson.Parser().parse(body)
    except UnicodeDecodeError as error:
        raise BadBodyError(why_not_utf8(body)) from error
    except ValueError as error:
        raise BadBodyError(why_not_json(body, _reason(error))) from error
    except RuntimeError as error:
        if str(error).startswith("DEPTH_ERROR"):
            raise BadBodyError(too_deep()) from error
        raise InvalidContentError(
            "the body holds a whole number that does not fit into 64 bits", ("body",)
        ) from error


def fields(
    value: Any,
    known: Sequence[str],
    loc: Sequence[str | int] = ("body",),
    query_names: Collection[str] = (),
) -> dict[str, Any]:
    """The fields of an object. `query_names` are parameters that some callers put there.

    Raises `InvalidContentError` for a field that is not `known`, as it would be ignored silently,
    and for one that is there twice, as only one of the values would count.
    """
    where = ".".join(str(part) for part in loc)
    if not isinstance(value, simdjson.Object):
        raise InvalidContentError(
            f"{where} is {type_name(value)}, expected an object with {known[0]}", loc
        )
    values: dict[str, Any] = {}
    for key in value:  # items() would convert all values to Python objects
        if key not in known:
            raise InvalidContentError(_unknown(key, known, query_names), (*loc, key[:64]))
        if key in values:
            raise InvalidContentError(f"the field {key} is there twice", (*loc, key))
        values[key] = value[key]
    return values


def _unknown(key: str, known: Sequence[str], query_names: Collection[str]) -> str:
    if key in query_names:
        return f"{key} is not a field of the body, it goes into the query: ?{key}=…"
    message = f"{key[:64]!r} is not a known field, expected {', '.join(known)}"
    near = get_close_matches(key[:64], [*known, *query_names], 1)
    if not near:
        return message
    where = "?{}=… in the query" if near[0] in query_names and near[0] not in known else "{}"
    return f"{message}; did you mean {where.format(near[0])}?"


def items(document: dict[str, Any], name: str) -> simdjson.Array:
    """The field `name`, which must be a non-empty array. Raises `InvalidContentError`."""
    if name not in document:
        raise InvalidContentError(f"{name} is missing", ("body", name))
    value = document[name]
    if not isinstance(value, simdjson.Array):
        raise InvalidContentError(
            f"{name} is {type_name(value)}, expected an array", ("body", name)
        )
    if not len(value):
        raise InvalidContentError(f"{name} is empty, expected at least one item", ("body", name))
    return value


def number_rows(
    array: simdjson.Array, name: str, shapes: Sequence[tuple[int, ...]], brackets: int
) -> NDArray[np.float64]:
    """N items, each an array of numbers with one of `shapes`, as N flat rows.

    `brackets` is the number of `[` in the document. If all of them belong to this array and the
    length at each level is right, nothing can be nested deeper. Raises `InvalidContentError` that
    names the first item of another type or shape.
    """
    n = len(array)
    for shape in shapes:
        if brackets == 1 + n * _array_count(shape) and all(_has_lengths(i, shape) for i in array):
            try:
                return np.frombuffer(array.as_buffer(of_type="d"), np.float64).reshape(n, -1)
            except TypeError:
                break  # something in it is not a number
    return np.stack([number_row(item, name, i, shapes, n) for i, item in enumerate(array)])


def number_row(
    item: Any, name: str, index: int, shapes: Sequence[tuple[int, ...]], n: int = 0
) -> NDArray[np.float64]:
    """One of `n` items as a flat row. Raises `InvalidContentError` that names `name[index]`."""
    if isinstance(item, simdjson.Array):
        text: Any = item.mini  # bytes, although the type stub says str
        brackets = text.count(b"[")
        for shape in shapes:
            if brackets == _array_count(shape) and _has_lengths(item, shape):
                try:
                    return np.frombuffer(item.as_buffer(of_type="d"), np.float64)
                except TypeError:
                    break
    wrong = _misfit(item, shapes)
    if name == "images" and not isinstance(item, simdjson.Array):
        wrong = wrong.replace("expected numbers", "expected an image file in base64, or numbers")
    if (n, *_first_lengths(item)) in shapes:  # of the first item: it is a part of one
        wrong += f"; {name} is a list: put a single one into another pair of brackets"
    raise InvalidContentError(f"{name}[{index}] {wrong}", ("body", name, index))


def _misfit(item: Any, shapes: Sequence[tuple[int, ...]]) -> str:
    """What is wrong with an item that does not have one of `shapes`: the first place that is wrong,
    if its first elements do not already show another shape."""
    lengths = tuple(_first_lengths(item))
    first = item
    for _ in lengths:
        first = first[0] if len(first) else None
    for shape in shapes:
        meant = lengths == shape or (lengths[:1] == shape[:1] and type(first) not in (int, float))
        if meant and (wrong := _first_wrong(item, shape)) is not None:
            return wrong
    expected = " or ".join(str(list(shape)) for shape in shapes)
    return f"is {_describe(item)}, expected numbers of shape {expected}"


def _first_wrong(item: Any, shape: tuple[int, ...], path: tuple[int, ...] = ()) -> str | None:
    """What is wrong in nested arrays that should have `shape`, such as `has a text at 9`."""
    if not shape:
        if type(item) in (int, float):
            return None
        return f"has {_element(item)} at {_place(path)}, expected a number"
    if not isinstance(item, simdjson.Array):
        return f"has {_element(item)} at {_place(path)}, expected an array of {shape[0]}"
    if len(item) != shape[0]:
        return f"has an array of {len(item):,} at {_place(path)}, expected {shape[0]:,}"
    found = (_first_wrong(part, shape[1:], (*path, i)) for i, part in enumerate(item))
    return next((wrong for wrong in found if wrong is not None), None)


def first_not_a_number(array: simdjson.Array) -> str | None:
    """What nested arrays of any shape have that is not a number, such as `has a text ('1') at 9`.

    None if there is nothing among the first `SEARCHED_NUMBERS`. Does not recurse: arrays may be
    nested as deep as the parser allows.
    """
    path, levels = [0], [iter(array)]
    left = SEARCHED_NUMBERS
    while levels and left:
        value = next(levels[-1], END)
        if value is END:
            levels.pop()
            path.pop()
            if path:
                path[-1] += 1
        elif isinstance(value, simdjson.Array):
            levels.append(iter(value))
            path.append(0)
        elif type(value) in (int, float):
            path[-1] += 1
            left -= 1
        else:
            return f"has {_element(value)} at {_place(tuple(path))}"
    return None


def _place(path: tuple[int, ...]) -> str:
    """`9` in a flat list, `[3][9]` in nested ones."""
    if len(path) == 1:
        return str(path[0])
    return "".join(f"[{i}]" for i in path[:SHOWN_LEVELS]) + "…" * (len(path) > SHOWN_LEVELS)


def _element(value: Any) -> str:
    """An element for error messages: a text, true, null, an array."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"a text ({value[:SHOWN]!r}{'…' if len(value) > SHOWN else ''})"
    return type_name(value)


def _array_count(shape: tuple[int, ...]) -> int:
    """The number of JSON arrays in nested arrays of `shape`: 1 + H for [H][W]."""
    count = 1
    for size in reversed(shape[:-1]):
        count = 1 + size * count
    return count


def _has_lengths(item: Any, shape: tuple[int, ...]) -> bool:
    if not isinstance(item, simdjson.Array) or len(item) != shape[0]:
        return False
    return len(shape) == 1 or all(_has_lengths(part, shape[1:]) for part in item)


def _describe(item: Any) -> str:
    """An item for error messages: its type, or an array's lengths along the first items."""
    if not isinstance(item, simdjson.Array):
        return type_name(item)
    lengths = list(_first_lengths(item))
    return f"an array of shape {lengths}"


def _first_lengths(item: Any, limit: int = 5) -> Iterator[int]:
    while isinstance(item, simdjson.Array) and limit:
        yield len(item)
        item = item[0] if len(item) else None
        limit -= 1


def type_name(value: Any) -> str:
    """The type of a JSON value, with its article, for error messages."""
    if isinstance(value, simdjson.Object):
        return "an object"
    if isinstance(value, simdjson.Array):
        return "an array"
    if value is None:
        return "null"
    return {str: "a string", bool: "a boolean"}.get(type(value), "a number")


def _shared_parser() -> simdjson.Parser:
    """This thread's parser."""
    if not hasattr(_local, "parser"):
        _local.parser = simdjson.Parser()
    parser: simdjson.Parser = _local.parser
    return parser


def _reason(error: Exception) -> str:
    """The first sentence of simdjson's message, without the name of the error constant."""
    if str(error).startswith("NUMBER_ERROR"):
        return "a number in it is malformed or does not fit into 64 bits"
    text = str(error).partition(": ")[2] or str(error)
    return text.partition(".")[0]
