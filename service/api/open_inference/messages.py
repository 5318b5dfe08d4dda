"""Parses infer requests of the Open Inference Protocol, JSON and binary, and builds the
responses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray
from starlette.responses import Response

from service.codecs.json_numbers import parse_json, plain_images, type_name
from service.codecs.registry import INLINE_JSON_BYTES
from service.codecs.responses import ChunkedResponse, byte_pieces, json_pieces
from service.errors import BadBodyError, ServiceError

DATA: Final = b'"data"'
WHITESPACE: Final = b" \t\r\n"

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
"""Length of the JSON in bytes. The binary tensors begin after it."""

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

OUTPUT_DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "BOOL": np.dtype(np.bool_),
}

REQUEST_PARAMETERS: Final = ("timeout", "binary_data_output", "content_type")
"""The protocol's own parameters of a request; each model may have more."""

INPUT_PARAMETERS: Final = ("binary_data_size", "content_type")

OUTPUT_PARAMETERS: Final = ("binary_data", "classification", "content_type")

CONTENT_TYPE: Final = "np"
"""MLServer's clients say with this that a tensor is an array, which is so here in any case."""

MAX_FIELDS: Final = 64
"""Maximum fields of an object, unknown ones included: reading millions of them takes long."""

MAX_DIMENSIONS: Final = 8
"""Maximum dimensions of a tensor's shape. Images have 4."""

MAX_SIZE: Final = 1 << 40
"""Maximum size of one dimension: far more than a body can hold, and small enough that sizes
multiply without loss of precision."""

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's metadata. In `shape`, -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The metadata in the protocol's form."""
        return {"name": self.name, "datatype": self.datatype, "shape": self.shape}


@dataclass(frozen=True)
class Input:
    """An input tensor, in the shape that the caller gave."""

    name: str
    array: NDArray[Any]


class Output(NamedTuple):
    """A requested output, and whether to send it as binary or as JSON."""

    spec: TensorSpec
    binary: bool
    parameters: Mapping[str, Any]
    """Of the model, for this output: they override those of the request."""


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives."""

    input: TensorSpec
    """Its name is one of `INPUT_DATATYPES`."""
    outputs: Sequence[TensorSpec]
    parameters: tuple[str, ...] = ()
    """Names of its own parameters."""


@dataclass(frozen=True)
class InferRequest:
    """A parsed infer request."""

    id: str | None
    timeout_us: Any
    input: Input
    outputs: tuple[Output, ...]
    names_outputs: bool
    """Whether the caller chose the outputs. If not, they are all that the model may have."""
    parameters: Mapping[str, Any]
    """Of the model, for all outputs: JSON values that are neither arrays nor objects."""

    @classmethod
    def parse(cls, body: bytes, json_length: str | None, signature: Signature) -> InferRequest:
        """Parse a body whose first `json_length` bytes are JSON. If that is None, all of it is.

        `json_length` is the value of `LENGTH_HEADER`. Raises `BadBodyError`.
        """
        text, binary = _split(body, json_length)
        if len(text) > INLINE_JSON_BYTES and (parts := _split_off_numbers(text)):
            # On an error simdjson parses the whole text: it reads every form, and says what is
            # wrong.
            with suppress(ServiceError):
                return cls._parse(parts[0], binary, signature, numbers=parts[1])
        return cls._parse(text, binary, signature)

    @classmethod
    def _parse(
        cls,
        text: bytes,
        binary: memoryview,
        signature: Signature,
        numbers: memoryview | None = None,
    ) -> InferRequest:
        """`numbers` is the JSON text of the input's `data`, if it was split off."""
        document = _fields(parse_json(text), "the body", ("id", "parameters", "inputs", "outputs"))
        request_id = document.get("id")
        if request_id is not None and not isinstance(request_id, str):
            raise BadBodyError(f"id is {type_name(request_id)}, expected a string")
        parameters, own = _parameters(
            document, "parameters", REQUEST_PARAMETERS, signature.parameters
        )
        return cls(
            id=request_id,
            timeout_us=parameters.get("timeout"),
            input=_input(document, binary, signature.input.name, numbers),
            outputs=tuple(_outputs(document, signature, parameters)),
            names_outputs=bool(document.get("outputs")),
            parameters=own,
        )


def infer_response(
    request: InferRequest,
    outputs: Sequence[Output],
    model_name: str,
    model_version: str,
    tensors: Tensors,
    *,
    in_pieces: bool = False,
) -> Response:
    """The response with these outputs. Binary outputs follow the JSON.

    With `in_pieces`, the response is a `ChunkedResponse`. It is meant for large outputs, and must
    be built in a thread.
    """
    entries: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in outputs:
        name, datatype = output.spec.name, output.spec.datatype
        array = np.ascontiguousarray(tensors[name], OUTPUT_DATATYPES[datatype])
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if output.binary:
            binary += byte_pieces(array) if in_pieces else [array.tobytes()]
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = array.reshape(-1)
        entries.append(entry)
    document: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = entries
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


def read_index_request(body: bytes) -> bool:
    """Whether a request for the repository's index asks for ready models only.

    Raises `BadBodyError`. An empty body, which Triton's client sends, asks for all models.
    """
    if not body:
        return False
    fields = _fields(parse_json(body), "the body", ("ready",), ("ready",))
    return _boolean(fields, "ready", "the body", default=False)


def json_bytes(body: bytes, json_length: str | None) -> int:
    """The number of bytes of JSON in a body. Raises `BadBodyError`."""
    if json_length is None:
        return len(body)
    digits = json_length if json_length.isascii() and json_length.isdecimal() else ""
    if not digits or len(digits) > 18 or int(digits) > len(body):
        raise BadBodyError(
            f"{LENGTH_HEADER} is {json_length[:32]!r}, expected the length of the JSON in bytes, "
            f"at most the body's {len(body):,}"
        )
    return int(digits)


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    length = json_bytes(body, json_length)
    return body[:length], memoryview(body)[length:]


def _split_off_numbers(text: bytes) -> tuple[bytes, memoryview] | None:
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


def _input(
    document: Mapping[str, Any], binary: memoryview, taken: str, numbers: memoryview | None
) -> Input:
    """The single input of a model, from its `data` or from the bytes after the JSON."""
    inputs = document.get("inputs")
    if not isinstance(inputs, simdjson.Array) or not len(inputs):
        raise BadBodyError(f"inputs is {_describe(inputs)}, expected an array of one input")
    if len(inputs) > 1:
        names = [
            _string(_fields(inputs[i], f"inputs[{i}]", ("name",)), "name", f"inputs[{i}]")[:32]
            for i in range(2)
        ]
        raise BadBodyError(
            f"there are {len(inputs):,} inputs, {', '.join(names)} …; this model takes one, {taken}"
        )
    fields = _fields(inputs[0], "inputs[0]", ("name", "datatype", "shape", "data", "parameters"))
    name = _string(fields, "name", "inputs[0]")
    if name != taken:
        raise BadBodyError(f"the input is {name[:64]!r}, this model takes {taken!r}")
    datatype = _string(fields, "datatype", "inputs[0]")
    if datatype not in (datatypes := INPUT_DATATYPES[taken]):
        expected = f"{', '.join(datatypes[:-1])} or {datatypes[-1]}"
        raise BadBodyError(f"inputs[0].datatype is {datatype[:32]!r}, {taken} takes {expected}")
    shape = _shape(fields)
    parameters, _ = _parameters(fields, "inputs[0].parameters", INPUT_PARAMETERS)
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
            f"inputs[0].parameters.binary_data_size is {_describe(size)}; {datatype} "
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
        raise BadBodyError("inputs[0].data holds something that is not a number") from error
    if flat.size != math.prod(shape):
        raise BadBodyError(
            f"inputs[0].data has {flat.size:,} numbers, but its shape {list(shape)} takes "
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


def _outputs(
    document: Mapping[str, Any], signature: Signature, parameters: Mapping[str, Any]
) -> Iterator[Output]:
    """The requested outputs, each at most once. If none are named, all."""
    binary_by_default = _boolean(parameters, "binary_data_output", "parameters", default=False)
    specs = {spec.name: spec for spec in signature.outputs}
    requested = document.get("outputs")
    if requested is not None and not isinstance(requested, simdjson.Array):
        raise BadBodyError(f"outputs is {type_name(requested)}, expected an array")
    if not requested or not len(requested):
        yield from (Output(spec, binary_by_default, {}) for spec in signature.outputs)
        return
    remaining = dict(specs)
    for index, item in enumerate(requested):
        where = f"outputs[{index}]"
        fields = _fields(item, where, ("name", "parameters"))
        name = _string(fields, "name", where)
        if name not in remaining:
            again = " again" if name in specs else ""
            raise BadBodyError(
                f"{where} asks for {name[:64]!r}{again}, this model has {', '.join(specs)}"
            )
        spec = remaining.pop(name)
        where_parameters = f"{where}.parameters"
        output_parameters, own = _parameters(
            fields, where_parameters, OUTPUT_PARAMETERS, signature.parameters
        )
        if "classification" in output_parameters:
            raise BadBodyError(
                f"{where} asks for classification, which this server does not support"
            )
        binary = _boolean(
            output_parameters, "binary_data", where_parameters, default=binary_by_default
        )
        yield Output(spec, binary, own)


def _fields(
    value: Any, where: str, known: Sequence[str], expected: Sequence[str] | None = None
) -> dict[str, Any]:
    """The fields of an object that are `known`.

    Others are refused, with what is `expected`, or else ignored: they are meant for other servers.
    """
    if not isinstance(value, simdjson.Object):
        raise BadBodyError(f"{where} is {type_name(value)}, expected an object")
    fields: dict[str, Any] = {}
    for number, key in enumerate(value):
        if number == MAX_FIELDS:
            raise BadBodyError(f"{where} has more than {MAX_FIELDS} fields")
        if key in fields:  # also limits the lookups below, which scan the object
            raise BadBodyError(f"{where} has the field {key} twice")
        if key in known:
            fields[key] = value[key]
        elif expected is not None:
            raise BadBodyError(
                f"{key[:64]!r} is not a known parameter in {where}, expected {', '.join(expected)}"
            )
    return fields


def _describe(value: Any) -> str:
    """A JSON value for error messages: numbers as they are, other values by their type."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value)[:32] if number else type_name(value)


def _string(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise BadBodyError(f"{where}.{name} is {type_name(value)}, expected a string")
    return value


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


def _parameters(
    fields: Mapping[str, Any], where: str, known: Sequence[str], own: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of a request or a tensor: those of the protocol, which are `known`, and the
    model's own.

    Raises `BadBodyError` for any other, as it would be ignored silently.
    """
    value = fields.get("parameters")
    if value is None:
        return {}, {}
    expected = (*own, *(name for name in known if name != "classification"))
    found = _fields(value, where, (*known, *own), expected)
    if (kind := found.pop("content_type", CONTENT_TYPE)) != CONTENT_TYPE:
        raise BadBodyError(
            f"{where}.content_type is {str(kind)[:32]!r}, expected {CONTENT_TYPE!r}: tensors are "
            "arrays here"
        )
    of_model = {name: found.pop(name) for name in own if name in found}
    for name, item in of_model.items():
        if isinstance(item, simdjson.Array | simdjson.Object):
            raise BadBodyError(f"{where}.{name} is {type_name(item)}, expected a single value")
    return found, of_model


def _boolean(parameters: Mapping[str, Any], name: str, where: str, *, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadBodyError(f"{where}.{name} is {_describe(value)}, expected true or false")
    return value
