"""Requests and answers of the Open Inference Protocol, by Triton's client and by hand."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton  # type: ignore[import-untyped]
from httpx import Response
from numpy.typing import NDArray
from tritonclient.utils import (  # type: ignore[import-untyped]
    np_to_triton_dtype,
)

Arrays = dict[str, NDArray[Any]]

MODELS = {
    "encode": ("images", ["mu", "sigma"]),
    "decode": ("z", ["images"]),
    "reconstruct": ("images", ["images", "mse"]),
    "anomaly-score": ("images", ["score", "p_value", "is_anomaly", "mse", "kl"]),
}
"""Each model's input and outputs."""

LENGTH = "Inference-Header-Content-Length"


def tensor(name: str, array: NDArray[Any], *, binary: bool = True) -> Any:
    found = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return found.set_data_from_numpy(array, binary_data=binary)


def outputs_of(forms: dict[str, bool]) -> list[Any]:
    """Outputs to ask for, each binary or not."""
    return [triton.InferRequestedOutput(name, binary_data=form) for name, form in forms.items()]


# What that client cannot send


def document(name: str = "z", array: NDArray[Any] | None = None, **tensor_fields: Any) -> Any:
    """An infer request with one tensor; by default two latents in JSON."""
    array = np.zeros((2, 10), np.float32) if array is None else array
    fields = {"name": name, "datatype": "FP32", "shape": list(array.shape)} | tensor_fields
    if "data" not in fields and "parameters" not in fields:
        fields["data"] = array.tolist()
    return {"inputs": [fields]}


def post(
    http: httpx.Client,
    model: str,
    content: Any,
    *,
    binary: bytes = b"",
    length: object = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """`length` is what the header says of the JSON: None leaves it out."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    headers = dict(headers or {})
    if length is not None:
        headers[LENGTH] = str(length)
    return http.post(f"/v2/models/{model}/infer", content=text + binary, headers=headers)


def error(answer: Response, status: int, *mentioned: str) -> None:
    """An error in the protocol's shape, and nothing else."""
    assert answer.status_code == status, answer.text[:500]
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert set(found) == {"error"}
    assert found["error"]
    assert isinstance(found["error"], str)
    assert len(found["error"]) < 500
    for word in ("Traceback", "/service/", "site-packages", "object at 0x"):
        assert word not in found["error"]
    for word in mentioned:
        assert word in found["error"], found["error"]
    assert answer.headers["x-request-id"]
    assert answer.headers["x-model-version"]
