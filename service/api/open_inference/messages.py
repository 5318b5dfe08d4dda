"""Parses infer requests of the Open Inference Protocol, JSON and binary, and builds the
responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray
from starlette.responses import Response

from service.api.open_inference.fields import (
    read_boolean,
    read_fields,
    read_parameters,
    read_string,
)
from service.api.open_inference.tensors import Input, read_input, split_off_numbers
from service.codecs.json_numbers import parse_json, type_name
from service.codecs.registry import INLINE_JSON_BYTES
from service.codecs.responses import ChunkedResponse, byte_pieces, json_pieces
from service.errors import BadBodyError, ServiceError

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
"""Length of the JSON in bytes. The binary tensors begin after it."""

OUTPUT_DATATYPES: Final[Mapping[str, np.dtype[Any]]] = {
    "FP32": np.dtype("<f4"),
    "BOOL": np.dtype(np.bool_),
}

REQUEST_PARAMETERS: Final = ("timeout", "binary_data_output", "content_type")
"""The protocol's own parameters of a request; each model may have more."""

OUTPUT_PARAMETERS: Final = ("binary_data", "classification", "content_type")

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
    """Its name is one of `service.api.open_inference.tensors.INPUT_DATATYPES`."""
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
        if len(text) > INLINE_JSON_BYTES and (parts := split_off_numbers(text)):
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
        document = read_fields(
            parse_json(text), "the body", ("id", "parameters", "inputs", "outputs")
        )
        request_id = document.get("id")
        if request_id is not None and not isinstance(request_id, str):
            raise BadBodyError(f"id is {type_name(request_id)}, expected a string")
        parameters, own = read_parameters(
            document, "parameters", REQUEST_PARAMETERS, signature.parameters
        )
        return cls(
            id=request_id,
            timeout_us=parameters.get("timeout"),
            input=read_input(document, binary, signature.input.name, numbers),
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
    fields = read_fields(parse_json(body), "the body", ("ready",), ("ready",))
    return read_boolean(fields, "ready", "the body", default=False)


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


def _outputs(
    document: Mapping[str, Any], signature: Signature, parameters: Mapping[str, Any]
) -> Iterator[Output]:
    """The requested outputs, each at most once. If none are named, all."""
    binary_by_default = read_boolean(parameters, "binary_data_output", "parameters", default=False)
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
        fields = read_fields(item, where, ("name", "parameters"))
        name = read_string(fields, "name", where)
        if name not in remaining:
            again = " again" if name in specs else ""
            raise BadBodyError(
                f"{where} asks for {name[:64]!r}{again}, this model has {', '.join(specs)}"
            )
        spec = remaining.pop(name)
        where_parameters = f"{where}.parameters"
        output_parameters, own = read_parameters(
            fields, where_parameters, OUTPUT_PARAMETERS, signature.parameters
        )
        if "classification" in output_parameters:
            raise BadBodyError(
                f"{where} asks for classification, which this server does not support"
            )
        binary = read_boolean(
            output_parameters, "binary_data", where_parameters, default=binary_by_default
        )
        yield Output(spec, binary, own)
