"""The Open Inference Protocol's requests and responses, for the OpenAPI page."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from service.api.openapi import BINARY, HEADERS, REQUEST_HEADERS, Responses, inlined


class Error(BaseModel):
    """An error response in the protocol's form."""

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
                "extensions": ["binary_tensor_data", "parameters", "statistics"],
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
    """Whether forward passes work."""

    ready: bool


class ModelReadiness(Readiness):
    """Whether forward passes work, for one of the protocol's models."""

    name: str


class TensorMetadata(BaseModel):
    """A tensor's name, type and shape; -1 stands for any size."""

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
    """An input tensor."""

    name: str = Field(description="images, or z for decode")
    datatype: Literal["FP32", "FP64", "UINT8"] = Field(description="UINT8 is for images only")
    shape: list[int] = Field(
        min_length=1, description="images: [-1, H, W], [-1, C, H, W] or [-1, C·H·W]; z: [-1, D]"
    )
    data: list[Any] | None = Field(None, description="row-major, nested or flat")
    parameters: dict[str, Any] | None = Field(
        None, description="binary_data_size, in bytes, if the data comes after the JSON"
    )


class RequestedOutput(BaseModel):
    """An output that the caller requests."""

    name: str
    parameters: dict[str, Any] | None = Field(
        None,
        description="binary_data: true or false; of anomaly-score also the parameters that the "
        "request may have, for this output",
    )


class InferBody(BaseModel):
    """An infer request."""

    id: str | None = Field(None, description="returned in the response")
    parameters: dict[str, Any] | None = Field(
        None,
        description="binary_data_output, and timeout in microseconds; of anomaly-score also alpha, "
        "score, seed, fdr and samples, and of reconstruct sample and seed, as in the queries of "
        "the native routes. Any other is refused",
    )
    inputs: list[InputTensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = Field(None, description="by default all outputs")


class ModelState(BaseModel):
    """A model in the repository."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class RepositoryIndex(RootModel[list[ModelState]]):
    """All models."""


class Duration(BaseModel):
    """How often something happened, and how long it took in all."""

    count: int
    ns: int


class InferenceStats(BaseModel):
    """Of requests: those that succeeded and failed, and the stages of the former."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration = Field(description="always 0")


class BatchStats(BaseModel):
    """Of forward passes with about the same batch size."""

    batch_size: int = Field(description="rounded up to a power of two")
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class ModelStats(BaseModel):
    """Of one model, since the service started."""

    name: str
    version: str
    last_inference: int = Field(description="milliseconds since 1970; 0 if there was none")
    inference_count: int = Field(description="images or latents of requests that succeeded")
    execution_count: int = Field(description="forward passes for infer requests")
    inference_stats: InferenceStats
    batch_stats: list[BatchStats]


class Statistics(BaseModel):
    """Statistics of models."""

    model_stats: list[ModelStats]


class OutputTensor(BaseModel):
    """An output tensor."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float] | None = None
    parameters: dict[str, Any] | None = None


class InferAnswer(BaseModel):
    """An infer response."""

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


def responses(model: type[BaseModel], *errors: int) -> Responses:
    """The responses of a route: `model`, and errors in the protocol's own form."""
    by_status: Responses = {200: {"model": model, "headers": HEADERS}}
    for status in errors:
        by_status[status] = {
            "model": Error,
            "description": HTTPStatus(status).phrase,
            "headers": HEADERS,
        }
    return by_status


METADATA_RESPONSES: Final = responses(ModelMetadata, 400, 404)

READY_RESPONSES: Final = responses(ModelReadiness, 404) | {503: {"model": ModelReadiness}}

_INFER_RESPONSES: Final = responses(InferAnswer, 400, 404, 408, 500, 503, 504)
_INFER_RESPONSES[200]["content"] = {"application/octet-stream": {"schema": BINARY}}

_LENGTH_PARAMETER: Final[dict[str, Any]] = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "length of the JSON in bytes, if binary tensors follow it",
    "schema": {"type": "integer", "minimum": 0},
}

_EXAMPLE: Final = {
    "inputs": [{"name": "z", "datatype": "FP32", "shape": [1, 10], "data": [0.0] * 10}]
}

INDEX_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"ready": {"type": ["boolean", "null"]}},
                    "additionalProperties": False,
                }
            }
        },
    }
}

INFER: Final[dict[str, Any]] = {
    "responses": _INFER_RESPONSES,
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
"""Arguments that declare both infer routes to FastAPI."""
