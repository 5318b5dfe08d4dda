"""What one infer request of the Open Inference Protocol says, JSON and binary, and its answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray
from starlette.responses import Response

from service.errors import BadBodyError, InvalidContentError
from service.json_body import kind, parse_json

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
"""Where the JSON ends and the binary tensors begin."""

DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}

PARAMETERS: Final = (
    "timeout",
    "binary_data_output",
    "binary_data",
    "binary_data_size",
    "classification",
)
"""Parameters that mean something here, of a request or of a tensor."""

MAX_DIMENSIONS: Final = 8
"""Of a tensor's shape; images have 4."""

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

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """A whole request."""

    id: str | None
    timeout_us: Any
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    @classmethod
    def parse(
        cls, body: bytes, json_length: str | None, offered: Sequence[TensorSpec]
    ) -> InferRequest:
        """Read a body whose first `json_length` bytes are JSON, or all of them if that is None.

        Raises `BadBodyError` or `InvalidContentError`.
        """
        text, binary = _split(body, json_length)
        document = _fields(parse_json(text), "the body", ("id", "parameters", "inputs", "outputs"))
        request_id = document.get("id")
        if request_id is not None and not isinstance(request_id, str):
            raise InvalidContentError(f"id is {kind(request_id)}, expected a text", ("body", "id"))
        parameters = _parameters(document, "parameters")
        return cls(
            id=request_id,
            timeout_us=parameters.get("timeout"),
            inputs=tuple(_inputs(document, binary)),
            outputs=tuple(_outputs(document, offered, parameters)),
        )


def infer_response(
    request: InferRequest, model_name: str, model_version: str, tensors: Tensors
) -> Response:
    """The chosen outputs, each in its form; what is binary follows the JSON."""
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in request.outputs:
        array = np.ascontiguousarray(tensors[output.name], DATATYPES["FP32"])
        entry: dict[str, Any] = {"name": output.name, "datatype": "FP32", "shape": array.shape}
        if output.binary:
            binary.append(array.tobytes())
            entry["parameters"] = {"binary_data_size": array.nbytes}
        else:
            entry["data"] = array.reshape(-1)
        described.append(entry)
    document: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if request.id is not None:
        document["id"] = request.id
    document["outputs"] = described
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    if not binary:
        return Response(text, media_type="application/json")
    return Response(
        b"".join([text, *binary]),
        headers={LENGTH_HEADER: str(len(text))},
        media_type="application/octet-stream",
    )


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    if json_length is None:
        return body, memoryview(b"")
    if not json_length.isdecimal() or int(json_length) > len(body):
        raise BadBodyError(
            f"{LENGTH_HEADER} is {json_length[:32]!r}, expected a number of bytes up to the "
            f"body's {len(body):,}"
        )
    return body[: int(json_length)], memoryview(body)[int(json_length) :]


def _inputs(document: Mapping[str, Any], binary: memoryview) -> Iterator[Input]:
    for index, item in enumerate(_list(document, "inputs")):
        where = f"inputs[{index}]"
        fields = _fields(item, where, ("name", "datatype", "shape", "data", "parameters"))
        name = _text(fields, "name", where)
        datatype = _text(fields, "datatype", where)
        if datatype not in DATATYPES:
            raise InvalidContentError(
                f"{where}.datatype is {datatype[:32]!r}, expected {' or '.join(DATATYPES)}",
                ("body", "inputs", index, "datatype"),
            )
        shape = _shape(fields, where)
        size = _parameters(fields, f"{where}.parameters").get("binary_data_size")
        if size is None:
            yield Input(name, _json_data(fields, shape, where))
            continue
        expected = math.prod(shape) * DATATYPES[datatype].itemsize
        if size is True or size != expected or size > len(binary):
            raise InvalidContentError(
                f"{where}.parameters.binary_data_size is {str(size)[:32]}, expected {expected:,} "
                f"bytes for {datatype} {list(shape)}, of {len(binary):,} that follow the JSON",
                ("body", "inputs", index, "parameters", "binary_data_size"),
            )
        yield Input(name, np.frombuffer(binary[:size], DATATYPES[datatype]).reshape(shape))
        binary = binary[size:]
    if len(binary):
        raise BadBodyError(f"{len(binary):,} bytes follow the last binary tensor")


def _json_data(fields: Mapping[str, Any], shape: tuple[int, ...], where: str) -> NDArray[Any]:
    """Row-major numbers, nested or flat; UINT8 is checked with the range of pixels."""
    if not isinstance(data := fields.get("data"), simdjson.Array):
        raise InvalidContentError(
            f"{where} has neither data nor parameters.binary_data_size", ("body", "inputs")
        )
    try:
        flat = np.frombuffer(data.as_buffer(of_type="d"), np.float64)
    except TypeError as error:
        raise InvalidContentError(
            f"{where}.data holds something that is no number", ("body", "inputs")
        ) from error
    if flat.size != math.prod(shape):
        raise InvalidContentError(
            f"{where}.data has {flat.size:,} numbers, its shape {list(shape)} has "
            f"{math.prod(shape):,}",
            ("body", "inputs"),
        )
    if fields["datatype"] != "UINT8":
        return flat.reshape(shape)
    whole = flat.astype(np.uint8)
    if not np.array_equal(whole, flat):
        raise InvalidContentError(
            f"{where}.data holds numbers that are no UINT8, whole and in 0..255", ("body", "inputs")
        )
    return whole.reshape(shape)


def _outputs(
    document: Mapping[str, Any], offered: Sequence[TensorSpec], parameters: Mapping[str, Any]
) -> Iterator[Output]:
    binary_by_default = parameters.get("binary_data_output") is True
    names = [spec.name for spec in offered]
    if document.get("outputs") is None:
        yield from (Output(name, binary_by_default) for name in names)
        return
    for index, item in enumerate(_list(document, "outputs")):
        where = f"outputs[{index}]"
        fields = _fields(item, where, ("name", "parameters"))
        name = _text(fields, "name", where)
        if name not in names:
            raise InvalidContentError(
                f"{where} asks for {name[:64]!r}, this model has {', '.join(names)}",
                ("body", "outputs", index),
            )
        own = _parameters(fields, f"{where}.parameters")
        if "classification" in own:
            raise InvalidContentError(
                f"{where} asks for classification, which this server does not have",
                ("body", "outputs", index),
            )
        yield Output(name, own.get("binary_data", binary_by_default) is True)


def _fields(value: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    """The fields that are `known`; others are for other servers, and are let be."""
    if not isinstance(value, simdjson.Object):
        raise InvalidContentError(f"{where} is {kind(value)}, expected an object", ("body",))
    return {key: value[key] for key in value if key in known}


def _list(document: Mapping[str, Any], name: str) -> simdjson.Array:
    value = document.get(name)
    if not isinstance(value, simdjson.Array) or not len(value):
        raise InvalidContentError(
            f"{name} is {kind(value) if name in document else 'missing'}, expected a list that is "
            "not empty",
            ("body", name),
        )
    return value


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise InvalidContentError(f"{where}.{name} is {kind(value)}, expected a text", ("body",))
    return value


def _shape(fields: Mapping[str, Any], where: str) -> tuple[int, ...]:
    value = fields.get("shape")
    sizes = (
        list(value) if isinstance(value, simdjson.Array) and len(value) <= MAX_DIMENSIONS else []
    )
    whole = [size for size in sizes if type(size) is int and size >= 0]
    if not sizes or len(whole) < len(sizes):
        raise InvalidContentError(
            f"{where}.shape is no list of 1 to {MAX_DIMENSIONS} whole numbers", ("body", "inputs")
        )
    return tuple(whole)


def _parameters(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    value = fields.get("parameters")
    return {} if value is None else _fields(value, where, PARAMETERS)
