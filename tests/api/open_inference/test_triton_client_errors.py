"""Errors of the Open Inference Protocol, as Triton's client reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from tritonclient.utils import (  # type: ignore[import-untyped]
    InferenceServerException,
    np_to_triton_dtype,
)

from tests.api.open_inference.helpers import Arrays, outputs_of, tensor


def refused(
    client: Any, status: str, *mentioned: str, model: str = "encode", version: str = "", **what: Any
) -> None:
    inputs = what.pop("inputs", None) or [tensor("images", what.pop("images"))]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, version, **what)
    assert caught.value.status() == status, caught.value
    message = caught.value.message()
    assert not message.startswith("an exception occurred in the client"), message
    assert len(message) < 400
    for word in mentioned:
        assert word in message, message


def test_an_unknown_model_or_version(client: Any, rows: Arrays, version: str) -> None:
    images = rows["images"]
    refused(client, "404", "nothing", "anomaly-score", model="nothing", images=images)
    refused(client, "404", "'1'", version, version="1", images=images)
    refused(client, "404", "nothing", model="nothing", version=version, images=images)
    for method, *arguments in [
        ("get_model_metadata", "nothing"),
        ("get_model_metadata", "encode", "1"),
        # Parts of Triton that are no part of the protocol.
        ("get_model_config", "encode"),
        ("load_model", "encode"),
        ("get_system_shared_memory_status",),
    ]:
        with pytest.raises(InferenceServerException) as caught:
            getattr(client, method)(*arguments)
        assert caught.value.status() == "404"
        assert "there is no" in caught.value.message()


@pytest.mark.parametrize(
    "shape", [(1, 27, 28), (28, 28), (784,), (1, 785), (1, 1, 1, 28, 28), (1, 3, 28, 28)]
)
def test_a_wrong_shape(client: Any, shape: tuple[int, ...]) -> None:
    refused(client, "400", str(list(shape)), "[-1, 28, 28]", images=np.zeros(shape, np.float32))
    latents = [tensor("z", np.zeros(shape, np.float32))]
    refused(client, "400", str(list(shape)), "[-1, 10]", model="decode", inputs=latents)


@pytest.mark.parametrize("shape", [(0, 784), (0, 28, 28), (0,)])
def test_no_images(client: Any, shape: tuple[int, ...]) -> None:
    refused(client, "400", "shape", images=np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.float16, np.int32, np.int8, np.bool_])
def test_a_wrong_datatype(client: Any, dtype: type[Any]) -> None:
    array = np.zeros((1, 784), dtype)
    datatype = np_to_triton_dtype(array.dtype)
    refused(client, "400", f"'{datatype}', images takes FP32, FP64 or UINT8", images=array)
    inputs = [tensor("z", np.zeros((1, 10), dtype))]
    refused(client, "400", f"'{datatype}', z takes FP32 or FP64", model="decode", inputs=inputs)


def test_wrong_names(client: Any, rows: Arrays) -> None:
    image, z = tensor("images", rows["images"]), tensor("z", rows["z"])
    refused(client, "400", "z", "images", inputs=[z])
    refused(client, "400", "images", "z", inputs=[image], model="decode")
    refused(client, "400", "inputs", inputs=[image, z])
    refused(client, "400", "inputs", inputs=[image, image])
    twice = outputs_of({"mu": True}) * 2
    refused(client, "400", "mu", inputs=[image], outputs=twice)
    outputs = outputs_of({"mu": True, "score": True})
    refused(client, "400", "score", "mu, sigma", inputs=[image], outputs=outputs)
    classes = [triton.InferRequestedOutput("mu", class_count=3)]
    refused(client, "400", "classification", inputs=[image], outputs=classes)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("value", [-0.001, 1.001, 1e30])
def test_pixels_out_of_range(client: Any, binary: bool, value: float) -> None:
    images = np.zeros((3, 784), np.float32)
    images[2, 5] = value
    inputs = [tensor("images", images, binary=binary)]
    refused(client, "400", "images[2]", "pixel 5", "[0, 1]", inputs=inputs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(client: Any, value: float) -> None:
    """In binary: JSON has no word for them, as `test_json_without_numbers` shows."""
    images, z = np.zeros((3, 784), np.float32), np.zeros((3, 10), np.float32)
    images[1, 783] = z[1, 9] = value
    refused(client, "400", "images[1]", str(value), "pixel 783", images=images)
    inputs = [tensor("z", z)]
    refused(client, "400", "z[1]", str(value), model="decode", inputs=inputs)


def test_latents_out_of_range_or_whole(client: Any) -> None:
    z = np.zeros((3, 10), np.float32)
    z[2, 1] = 2e6
    refused(client, "400", "z[2]", "1e+06", model="decode", inputs=[tensor("z", z)])
    inputs = [tensor("z", np.zeros((1, 10), np.uint8))]
    refused(client, "400", "'UINT8', z takes FP32 or FP64", model="decode", inputs=inputs)


def test_too_much(client: Any) -> None:
    images = np.zeros((8_193, 784), np.uint8)
    refused(client, "400", "8,193", "8,192", images=images)
    images = np.zeros((11_000, 784), np.float32)
    refused(client, "400", "bytes", "33,554,432", images=images)


def test_a_deadline_too_short(client: Any, rows: Arrays) -> None:
    refused(client, "504", "1e-06", images=rows["images"], timeout=1)
    client.infer("encode", [tensor("images", rows["images"])], timeout=0)  # 0 says nothing
    headers = {"X-Request-Timeout": "0.000001"}
    refused(client, "504", images=rows["images"], timeout=10_000_000, headers=headers)
