"""What one infer request of the Open Inference Protocol says, JSON and binary, and its answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray
from starlette.responses import Response

from service.codecs.json_numbers import kind, parse_json, plain_images
from service.codecs.registry import INLINE_JSON_BYTES
from service.codecs.responses import ChunkedResponse, byte_pieces, json_pieces
from service.errors import BadBodyError, ServiceError

DATA: Final = b'"data"'
BLANKS: Final = b" \t\r\n"

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
"""Where the JSON ends and the binary tensors begin."""

DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
"""Of inputs."""

OUTPUT_DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "BOOL": np.dtype(np.bool_),
}

PARAMETERS: Final = (
    "timeout",
    "binary_data_output",
    "binary_data",
    "binary_data_size",
    "classification",
)
"""Parameters that mean something here, of a request or of a tensor."""

MAX_FIELDS: Final = 64
"""Of an object, unknown ones among them: looking at millions takes long."""

MAX_DIMENSIONS: Final = 8
"""Of a tensor's shape; images have 4."""

MAX_SIZE: Final = 1 << 40
"""Of one dimension: far past what a body holds, and products of it stay exact."""

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as metadata tell of it; -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As the protocol has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape}


@dataclass(frozen=True)
class Input:
    """A tensor that came, with the shape its sender gave it."""

    name: str
    array: NDArray[Any]


@dataclass(frozen=True)
class Output:
    """A tensor that is asked for, and in which of the two forms."""

    spec: TensorSpec
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A whole request."""

    id: str | None
    timeout_us: Any
    input: Input
    outputs: tuple[Output, ...]

    @classmethod
    def parse(
        cls, body: bytes, json_length: str | None, offered: Sequence[TensorSpec]
    ) -> InferRequest:
        """Read a body whose first `json_length` bytes are JSON, or all of them if that is None.

        Raises `BadBodyError`.
        """
        text, binary = _split(body, json_length)
        if len(text) > INLINE_JSON_BYTES and (parts := _without_numbers(text)):
            with suppress(ServiceError):  # simdjson reads every form, and knows what is wrong
                return cls._parse(parts[0], binary, offered, numbers=parts[1])
        return cls._parse(text, binary, offered)

    @classmethod
    def _parse(
        cls,
        text: bytes,
        binary: memoryview,
        offered: Sequence[TensorSpec],
        numbers: memoryview | None = None,
    ) -> InferRequest:
        """`numbers`, if any, stand for the input's `data`."""
        document = _fields(parse_json(text), "the body", ("id", "parameters", "inputs", "outputs"))
        request_id = document.get("id")
        if request_id is not None and not isinstance(request_id, str):
            raise BadBodyError(f"id is {kind(request_id)}, expected a text")
        parameters = _parameters(document, "parameters")
        return cls(
            id=request_id,
            timeout_us=parameters.get("timeout"),
            input=_input(document, binary, numbers),
            outputs=tuple(_outputs(document, offered, parameters)),
        )


def infer_response(
    request: InferRequest,
    model_name: str,
    model_version: str,
    tensors: Tensors,
    *,
    in_pieces: bool = False,
) -> Response:
    """The chosen outputs, each in its form; what is binary follows the JSON.

    Large ones are best written and sent `in_pieces`, by a thread.
    """
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in request.outputs:
        name, datatype = output.spec.name, output.spec.datatype
        array = np.ascontiguousarray(tensors[name], OUTPUT_DATATYPES[datatype])
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if output.binary:
            binary += byte_pieces(array) if in_pieces else [array.tobytes()]
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = array.reshape(-1)
        described.append(entry)
    document: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = described
    if in_pieces:
        pieces = json_pieces(document)
        length = {LENGTH_HEADER: str(sum(map(len, pieces)))} if binary else {}
        media_type = "application/octet-stream" if binary else "application/json"
        return ChunkedResponse(pieces + binary, media_type, length)
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Response(text, media_type="application/json")
    return Response(
        b"".join([text, *binary]),
        headers={LENGTH_HEADER: str(len(text))},
        media_type="application/octet-stream",
    )


def json_bytes(body: bytes, json_length: str | None) -> int:
    """How many bytes of a body are JSON. Raises `BadBodyError`."""
    if json_length is None:
        return len(body)
    digits = json_length if json_length.isascii() and json_length.isdecimal() else ""
    if not digits or len(digits) > 18 or int(digits) > len(body):
        raise BadBodyError(
            f"{LENGTH_HEADER} is {json_length[:32]!r}, expected a number of bytes up to the "
            f"body's {len(body):,}"
        )
    return int(digits)


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    length = json_bytes(body, json_length)
    return body[:length], memoryview(body)[length:]


def _without_numbers(text: bytes) -> tuple[bytes, memoryview] | None:
    """JSON with an empty list for its only `data`, and the numbers that were there.

    simdjson keeps the interpreter while it reads, 60 ms for 4,096 28×28 images, and
    `service/codecs/_json.c` does not. None if it is not plain to see where the numbers begin and
    end.
    """
    name = text.find(DATA)
    first = text.find(b"[", name)
    if name < 0 or text[name + len(DATA) : first].strip(BLANKS) != b":":
        return None
    ends = [end for end in (text.find(b'"', first), text.find(b"}", first)) if end >= 0]
    after = text.rfind(b"]", first, min(ends, default=0)) + 1
    rest = text[:first] + b"[]" + text[after:]
    # Without escapes, the quotation marks of DATA can be none but those of a name.
    if not after or b"\\" in rest or rest.count(DATA) > 1:
        return None
    return rest, memoryview(text)[first:after]


def _plain_numbers(text: memoryview, shape: tuple[int, ...], datatype: str) -> NDArray[Any]:
    """A list of pixels, by `_json.c`. Raises `BadBodyError` for what it does not take."""
    dtype = DATATYPES[datatype]
    size = math.prod(shape)
    flat = not bytes(text[1:64]).lstrip(BLANKS).startswith(b"[")
    n, *sizes = (1, size) if flat else shape
    plain = None
    if len(sizes) <= 3 and size <= len(text):  # and so fits into C's numbers
        channels, height, width = [1] * (3 - len(sizes)) + sizes
        before = b'{"dtype":"' + dtype.name.encode() + b'","images":' + b"[" * flat
        after = b"]" * flat + b"}"
        plain = plain_images(b"".join([before, text, after]), (channels, height, width), n)
    if plain is None or len(plain[1]) != size * dtype.itemsize:
        raise BadBodyError("inputs[0].data are no pixels in their plain form")
    return np.frombuffer(plain[1], dtype).reshape(shape)


def _input(document: Mapping[str, Any], binary: memoryview, numbers: memoryview | None) -> Input:
    """The one input that each model has, from its `data` or from the bytes after the JSON."""
    given = document.get("inputs")
    if not isinstance(given, simdjson.Array) or not len(given):
        raise BadBodyError(f"inputs is {_shown(given)}, expected a list of one input")
    if len(given) > 1:
        names = [
            _text(_fields(given[i], f"inputs[{i}]", ("name",)), "name", f"inputs[{i}]")[:32]
            for i in range(2)
        ]
        raise BadBodyError(
            f"there are {len(given):,} inputs, {', '.join(names)} …; each model takes one"
        )
    fields = _fields(given[0], "inputs[0]", ("name", "datatype", "shape", "data", "parameters"))
    name = _text(fields, "name", "inputs[0]")
    datatype = _text(fields, "datatype", "inputs[0]")
    if datatype not in DATATYPES:
        raise BadBodyError(
            f"inputs[0].datatype is {datatype[:32]!r}, expected {' or '.join(DATATYPES)}"
        )
    shape = _shape(fields)
    size = _parameters(fields, "inputs[0].parameters").get("binary_data_size")
    if size is None:
        if len(binary):
            raise BadBodyError(f"{len(binary):,} bytes follow the JSON, and no input claims them")
        if numbers is not None:
            return Input(name, _plain_numbers(numbers, shape, datatype))
        return Input(name, _json_data(fields, shape))
    expected = math.prod(shape) * DATATYPES[datatype].itemsize
    if type(size) is not int or size != expected or size != len(binary):
        raise BadBodyError(
            f"inputs[0].parameters.binary_data_size is {_shown(size)}; {datatype} "
            f"{list(shape)} has {expected:,} bytes, and {len(binary):,} follow the JSON"
        )
    return Input(name, np.frombuffer(binary, DATATYPES[datatype]).reshape(shape))


def _json_data(fields: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Row-major numbers, nested or flat; UINT8 is checked with the range of pixels."""
    if not isinstance(data := fields.get("data"), simdjson.Array):
        raise BadBodyError("inputs[0] has neither data nor parameters.binary_data_size")
    try:
        flat = np.frombuffer(data.as_buffer(of_type="d"), np.float64)
    except TypeError as error:
        raise BadBodyError("inputs[0].data holds something that is no number") from error
    if flat.size != math.prod(shape):
        raise BadBodyError(
            f"inputs[0].data has {flat.size:,} numbers, its shape {list(shape)} has "
            f"{math.prod(shape):,}"
        )
    if fields["datatype"] != "UINT8":
        return flat.reshape(shape)
    whole = flat.clip(0, 255).astype(np.uint8)  # clipped first: what casting the rest does is open
    if not np.array_equal(whole, flat):
        raise BadBodyError("inputs[0].data holds numbers that are no UINT8, whole and in 0..255")
    return whole.reshape(shape)


def _outputs(
    document: Mapping[str, Any], offered: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> Iterator[Output]:
    """The outputs that are asked for, each at most once; all of them if none is named."""
    binary_by_default = parameters.get("binary_data_output") is True
    specs = {spec.name: spec for spec in offered}
    asked = document.get("outputs")
    if asked is not None and not isinstance(asked, simdjson.Array):
        raise BadBodyError(f"outputs is {kind(asked)}, expected a list")
    if not asked or not len(asked):
        yield from (Output(spec, binary_by_default) for spec in offered)
        return
    left = dict(specs)
    for index, item in enumerate(asked):
        where = f"outputs[{index}]"
        fields = _fields(item, where, ("name", "parameters"))
        name = _text(fields, "name", where)
        if name not in left:
            twice = " again" if name in specs else ""
            raise BadBodyError(
                f"{where} asks for {name[:64]!r}{twice}, this model has {', '.join(specs)}"
            )
        spec = left.pop(name)
        own = _parameters(fields, f"{where}.parameters")
        if "classification" in own:
            raise BadBodyError(f"{where} asks for classification, which this server does not have")
        yield Output(spec, own.get("binary_data", binary_by_default) is True)


def _fields(value: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    """The fields that are `known`; others are for other servers, and are let be."""
    if not isinstance(value, simdjson.Object):
        raise BadBodyError(f"{where} is {kind(value)}, expected an object")
    found: dict[str, Any] = {}
    for number, key in enumerate(value):
        if number == MAX_FIELDS:
            raise BadBodyError(f"{where} has more than {MAX_FIELDS} fields")
        if key in found:  # also because looking one up takes as long as the object is
            raise BadBodyError(f"{where} has {key} twice")
        if key in known:
            found[key] = value[key]
    return found


def _shown(value: Any) -> str:
    """A JSON value for messages: numbers as they are, the rest by its kind."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value)[:32] if number else kind(value)


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadBodyError(f"{where}.{name} is {kind(value)}, expected a text")
    return value


def _shape(fields: Mapping[str, Any]) -> tuple[int, ...]:
    value = fields.get("shape")
    sizes = (
        list(value) if isinstance(value, simdjson.Array) and len(value) <= MAX_DIMENSIONS else []
    )
    whole = [size for size in sizes if type(size) is int and 0 < size <= MAX_SIZE]
    if not sizes or len(whole) < len(sizes):
        raise BadBodyError(
            f"inputs[0].shape is no list of 1 to {MAX_DIMENSIONS} whole numbers from 1"
        )
    return tuple(whole)


def _parameters(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    value = fields.get("parameters")
    return {} if value is None else _fields(value, where, PARAMETERS)
