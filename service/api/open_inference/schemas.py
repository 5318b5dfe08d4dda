"""The Open Inference Protocol on the OpenAPI page."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.openapi import BINARY, HEADERS, REQUEST_HEADERS, Responses, inlined


class Error(BaseModel):
    """What the protocol says of an error."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"error": "there is no model 'encoder', only encode, decode, reconstruct"}
        }
    )

    error: str


class ServerMetadata(BaseModel):
    """The server."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "vae-service",
                "version": "0.1.0",
                "extensions": ["binary_tensor_data"],
            }
        }
    )

    name: str
    version: str
    extensions: list[str]


class Liveness(BaseModel):
    """Whether the process is alive."""

    live: bool


class Readiness(BaseModel):
    """Whether the network answers."""

    ready: bool


class ModelReadiness(Readiness):
    """Whether the network answers, asked of one model."""

    name: str


class TensorMetadata(BaseModel):
    """A tensor; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model's tensors."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "name": "encode",
                "versions": ["2dbf223dc5839734"],
                "platform": "pytorch_vae",
                "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 28, 28]}],
                "outputs": [{"name": "mu", "datatype": "FP32", "shape": [-1, 10]}],
            }
        }
    )

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class InputTensor(BaseModel):
    """A tensor that comes."""

    name: str = Field(description="images, or z for decode")
    datatype: Literal["FP32", "UINT8"]
    shape: list[int] = Field(
        min_length=1, description="images: [-1, H, W], [-1, C, H, W] or [-1, C·H·W]; z: [-1, D]"
    )
    data: list[Any] | None = Field(None, description="row-major, nested or flat")
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_size, in bytes, if the data follow the JSON"
    )


class WantedOutput(BaseModel):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] | None = Field(None, description="binary_data: true or false")


class InferBody(BaseModel):
    """An infer request."""

    id: str | None = Field(None, description="comes back in the answer")
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_output, and timeout in microseconds"
    )
    inputs: list[InputTensor] = Field(min_length=1)
    outputs: list[WantedOutput] | None = Field(None, description="all of them if left out")


class OutputTensor(BaseModel):
    """A tensor of the answer."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = None
    parameters: dict[str, Any] | None = None


class InferAnswer(BaseModel):
    """An infer answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model_name": "anomaly-score",
                "model_version": "2dbf223dc5839734",
                "outputs": [{"name": "mse", "datatype": "FP32", "shape": [1], "data": [0.0035]}],
            }
        }
    )

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


def answers(model: type[BaseModel], *errors: int) -> Responses:
    """The answers of a route: `model`, and errors in the protocol's own shape."""
    found: Responses = {200: {"model": model, "headers": HEADERS}}
    for status in errors:
        found[status] = {
            "model": Error,
            "description": HTTPStatus(status).phrase,
            "headers": HEADERS,
        }
    return found


MODEL_ANSWERS: Final = answers(ModelMetadata, 404)

READY_ANSWERS: Final = answers(ModelReadiness, 404) | {503: {"model": ModelReadiness}}

_INFER_ANSWERS: Final = answers(InferAnswer, 400, 404, 408, 500, 503, 504)
_INFER_ANSWERS[200]["content"] = {"application/octet-stream": {"schema": BINARY}}

_LENGTH_PARAMETER: Final[dict[str, Any]] = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "bytes of the JSON, if binary tensors follow it",
    "schema": {"type": "integer", "minimum": 0},
}

_EXAMPLE: Final = {
    "inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 10], "data": [0.0] * 10}]
}

INFER: Final[dict[str, Any]] = {
    "responses": _INFER_ANSWERS,
    "openapi_extra": {
        "parameters": [_LENGTH_PARAMETER, *REQUEST_HEADERS],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": inlined(InferBody),
                    "example": _EXAMPLE,
                },
                "application/octet-stream": {"schema": BINARY},
            },
        },
    },
}
"""How both infer routes are declared."""
