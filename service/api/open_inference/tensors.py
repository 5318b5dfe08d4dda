"""Reads the input tensor of an infer request, from JSON or from the bytes after it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import simdjson
from numpy.typing import NDArray

from service.api.open_inference.fields import (
    described,
    read_fields,
    read_parameters,
    read_string,
)
from service.codecs.json_numbers import first_not_a_number, plain_images
from service.errors import BadBodyError, counted

DATA: Final = b'"data"'
WHITESPACE: Final = b" \t\r\n"

DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "UINT8": np.dtype("u1"),
}
"""The datatypes of inputs."""

INPUT_DATATYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "images": ("FP32", "FP64", "UINT8"),
    "z": ("FP32", "FP64"),
}
"""The datatypes that each input takes."""

INPUT_PARAMETERS: Final = ("binary_data_size", "content_type")

MAX_DIMENSIONS: Final = 8
"""Maximum dimensions of a tensor's shape. Images have 4."""

MAX_SIZE: Final = 1 << 40
"""Maximum size of one dimension: far more than a body can hold, and small enough that sizes
multiply without loss of precision."""


@dataclass(frozen=True)
class Input:
    """An input tensor, in the shape that the caller gave."""

    name: str
    array: NDArray[Any]


def split_off_numbers(text: bytes) -> tuple[bytes, memoryview] | None:
    """The JSON with its `data` array emptied, and the text of that array.

    simdjson holds the GIL while it parses, 60 ms for 4,096 28×28 images;
    `service/codecs/_json.c` releases it. Returns None unless there is exactly one `data` array
    whose beginning and end can be found without parsing.
    """
    name = text.find(DATA)
    start = text.find(b"[", name)
    if name < 0 or text[name + len(DATA) : start].strip(WHITESPACE) != b":":
        return None
    ends = [end for end in (text.find(b'"', start), text.find(b"}", start)) if end >= 0]
    stop = text.rfind(b"]", start, min(ends, default=0)) + 1
    rest = text[:start] + b"[]" + text[stop:]
    # If nothing is escaped, DATA with its quotation marks can only be a whole string.
    if not stop or b"\\" in rest or rest.count(DATA) > 1:
        return None
    return rest, memoryview(text)[start:stop]


def _plain_numbers(text: memoryview, shape: tuple[int, ...], datatype: str) -> NDArray[Any]:
    """The pixels in a JSON array, parsed by `_json.c`.

    Raises `BadBodyError` for anything that `_json.c` does not read.
    """
    dtype = DATATYPES["FP32" if datatype == "FP64" else datatype]
    size = math.prod(shape)
    flat = not bytes(text[1:64]).lstrip(WHITESPACE).startswith(b"[")
    n, *sizes = (1, size) if flat else shape
    plain = None
    if len(sizes) <= 3 and size <= len(text):  # the second so that sizes fit into C integers
        channels, height, width = [1] * (3 - len(sizes)) + sizes
        before = b'{"dtype":"' + dtype.name.encode() + b'","images":' + b"[" * flat
        after = b"]" * flat + b"}"
        plain = plain_images(b"".join([before, text, after]), (channels, height, width), n)
    if plain is None or len(plain[1]) != size * dtype.itemsize:
        raise BadBodyError("inputs[0].data is not a plain array of pixels")
    return np.frombuffer(plain[1], dtype).reshape(shape)


def read_input(
    document: Mapping[str, Any], binary: memoryview, taken: str, numbers: memoryview | None
) -> Input:
    """The single input of a model, from its `data` or from the bytes after the JSON.

    `taken` is the name that the model takes, and `numbers` the text of `data` if that was split
    off. Raises `BadBodyError`.
    """
    inputs = document.get("inputs")
    if not isinstance(inputs, simdjson.Array) or not len(inputs):
        raise BadBodyError(f"inputs is {described(inputs)}, expected an array of one input")
    if len(inputs) > 1:
        names = [
            read_string(read_fields(inputs[i], f"inputs[{i}]", ("name",)), "name", f"inputs[{i}]")[
                :32
            ]
            for i in range(2)
        ]
        raise BadBodyError(
            f"there are {len(inputs):,} inputs, {', '.join(names)} …; this model takes one, {taken}"
        )
    fields = read_fields(
        inputs[0], "inputs[0]", ("name", "datatype", "shape", "data", "parameters")
    )
    name = read_string(fields, "name", "inputs[0]")
    if name != taken:
        raise BadBodyError(f"the input is {name[:64]!r}, this model takes {taken!r}")
    datatype = read_string(fields, "datatype", "inputs[0]")
    if datatype not in (datatypes := INPUT_DATATYPES[taken]):
        expected = f"{', '.join(datatypes[:-1])} or {datatypes[-1]}"
        raise BadBodyError(f"inputs[0].datatype is {datatype[:32]!r}, {taken} takes {expected}")
    shape = _shape(fields)
    parameters, _ = read_parameters(fields, "inputs[0].parameters", INPUT_PARAMETERS)
    size = parameters.get("binary_data_size")
    if size is None:
        if len(binary):
            raise BadBodyError(
                f"{len(binary):,} bytes follow the JSON, but no input has a binary_data_size"
            )
        if numbers is not None:
            return Input(name, _plain_numbers(numbers, shape, datatype))
        return Input(name, _json_data(fields, shape))
    n_bytes = math.prod(shape) * DATATYPES[datatype].itemsize
    if type(size) is not int or size != n_bytes or size != len(binary):
        raise BadBodyError(
            f"inputs[0].parameters.binary_data_size is {described(size)}; {datatype} "
            f"{list(shape)} takes {n_bytes:,} bytes, and {len(binary):,} follow the JSON"
        )
    return Input(name, np.frombuffer(binary, DATATYPES[datatype]).reshape(shape))


def _json_data(fields: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The input's `data`: row-major numbers, nested or flat. UINT8 data comes back as uint8,
    everything else as float64."""
    if not isinstance(data := fields.get("data"), simdjson.Array):
        raise BadBodyError("inputs[0] has neither data nor parameters.binary_data_size")
    try:
        flat = np.frombuffer(data.as_buffer(of_type="d"), np.float64)
    except TypeError as error:
        wrong = first_not_a_number(data) or "holds something that is not a number"
        raise BadBodyError(f"inputs[0].data {wrong}, expected numbers") from error
    if flat.size != math.prod(shape):
        raise BadBodyError(
            f"inputs[0].data has {counted(flat.size, 'number')}, but its shape {list(shape)} takes "
            f"{math.prod(shape):,}"
        )
    if fields["datatype"] != "UINT8":
        return flat.reshape(shape)
    # Clipped first, as casting a float that is out of range is undefined behaviour.
    pixels = flat.clip(0, 255).astype(np.uint8)
    if not np.array_equal(pixels, flat):
        raise BadBodyError(
            "inputs[0].data holds numbers that are not UINT8, expected whole numbers in 0..255"
        )
    return pixels.reshape(shape)


def _shape(fields: Mapping[str, Any]) -> tuple[int, ...]:
    value = fields.get("shape")
    sizes = (
        list(value) if isinstance(value, simdjson.Array) and len(value) <= MAX_DIMENSIONS else []
    )
    valid = [size for size in sizes if type(size) is int and 0 < size <= MAX_SIZE]
    if not sizes or len(valid) < len(sizes):
        raise BadBodyError(
            f"inputs[0].shape is not an array of 1 to {MAX_DIMENSIONS} whole numbers above 0"
        )
    return tuple(valid)
