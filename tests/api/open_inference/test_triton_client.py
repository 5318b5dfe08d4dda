"""The Open Inference Protocol, through Triton's own unmodified client."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from numpy.typing import NDArray
from tritonclient.utils import (  # type: ignore[import-untyped]
    InferenceServerException,
)

from tests.api.open_inference.helpers import MODELS, Arrays, document, outputs_of, post, tensor
from tests.processes import Server

SHAPES = {"images": [-1, 1, 28, 28], "z": [-1, 10], "mu": [-1, 10], "sigma": [-1, 10]}


@pytest.fixture(scope="module")
def native(http: httpx.Client, rows: Arrays) -> dict[str, Arrays]:
    """What the native routes make of `rows`, by model and output."""
    found: dict[str, Arrays] = {}
    for model, (name, outputs) in MODELS.items():
        body = {name: rows[name].reshape(4, -1).tolist()}
        answer = http.post(f"/{model}", json=body).raise_for_status().json()
        found[model] = {output: np.array(answer[output]) for output in outputs}
        if "images" in outputs:
            found[model]["images"] = found[model]["images"].reshape(4, 1, 28, 28)
    return found


def check(result: Any, expected: Arrays) -> None:
    for name, values in expected.items():
        found = result.as_numpy(name)
        assert found.dtype == (np.bool_ if name == "is_anomaly" else np.float32)
        assert found.shape == values.shape
        assert found == pytest.approx(values, abs=1e-5)


# What there is


def test_the_server(client: Any) -> None:
    assert client.is_server_live() is True
    assert client.is_server_ready() is True
    metadata = client.get_server_metadata()
    assert set(metadata) == {"name", "version", "extensions"}
    assert metadata["extensions"] == ["binary_tensor_data", "parameters", "statistics"]


@pytest.mark.parametrize("model", MODELS)
def test_the_models(client: Any, version: str, model: str) -> None:
    name, outputs = MODELS[model]

    def specs(names: list[str]) -> list[dict[str, Any]]:
        return [
            {
                "name": n,
                "datatype": "BOOL" if n == "is_anomaly" else "FP32",
                "shape": SHAPES.get(n, [-1]),
            }
            for n in names
        ]

    for asked in ("", version):
        assert client.is_model_ready(model, asked) is True
        metadata = client.get_model_metadata(model, asked)
        assert metadata.pop("platform")
        assert metadata == {
            "name": model,
            "versions": [version],
            "inputs": specs([name]),
            "outputs": specs(outputs),
        }
    assert client.is_model_ready(model, "1") is False
    assert client.is_model_ready("nothing") is False


# Tensors in, tensors out


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("binary_input", [True, False])
def test_every_mixture_of_json_and_binary(
    client: Any, rows: Arrays, native: dict[str, Arrays], model: str, binary_input: bool
) -> None:
    name, outputs = MODELS[model]
    inputs = [tensor(name, rows[name], binary=binary_input)]
    default = client.infer(model, inputs)
    check(default, native[model])
    sent = default.get_response()["outputs"]
    assert [output["name"] for output in sent] == outputs, "none named is all"
    assert all("binary_data_size" in output["parameters"] for output in sent)

    for pattern in range(2 ** len(outputs)):
        forms = {output: bool(pattern >> i & 1) for i, output in enumerate(outputs)}
        result = client.infer(model, inputs, outputs=outputs_of(forms))
        check(result, native[model])
        for output in result.get_response()["outputs"]:
            assert ("data" in output) is not forms[output["name"]]
            assert ("parameters" in output) is forms[output["name"]]


@pytest.mark.parametrize("model", ["encode", "reconstruct", "anomaly-score"])
@pytest.mark.parametrize("binary", [True, False])
def test_every_datatype_and_shape_of_images(
    client: Any, four: NDArray[np.uint8], native: dict[str, Arrays], model: str, binary: bool
) -> None:
    for images in (four, (four / np.float32(255)).astype(np.float32)):
        for shape in [(4, 28, 28), (4, 1, 28, 28), (4, 784)]:
            inputs = [tensor("images", images.reshape(shape), binary=binary)]
            check(client.infer(model, inputs), native[model])


def test_chosen_outputs_come_alone_and_as_ordered(
    client: Any, rows: Arrays, native: dict[str, Arrays]
) -> None:
    inputs = [tensor("images", rows["images"])]
    result = client.infer("anomaly-score", inputs, outputs=outputs_of({"kl": True, "score": False}))
    assert [output["name"] for output in result.get_response()["outputs"]] == ["kl", "score"]
    check(result, {name: native["anomaly-score"][name] for name in ("kl", "score")})
    assert result.as_numpy("mse") is None


def test_id_model_and_version_come_back(client: Any, rows: Arrays, version: str) -> None:
    inputs = [tensor("z", rows["z"])]
    for asked in ("", version):
        answer = client.infer("decode", inputs, asked, request_id="Zürich 7").get_response()
        assert answer["id"] == "Zürich 7"
        assert (answer["model_name"], answer["model_version"]) == ("decode", version)
    assert "id" not in client.infer("decode", inputs).get_response()


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("accepted", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_compressed_bodies(
    client: Any,
    rows: Arrays,
    native: dict[str, Arrays],
    sent: str | None,
    accepted: str | None,
    binary: bool,
) -> None:
    result = client.infer(
        "reconstruct",
        [tensor("images", rows["images"], binary=binary)],
        outputs=outputs_of({"images": binary, "mse": not binary}),
        request_compression_algorithm=sent,
        response_compression_algorithm=accepted,
    )
    check(result, native["reconstruct"])


def test_a_large_json_answer_is_compressed_on_request(http: httpx.Client, rows: Arrays) -> None:
    for encoding in ("gzip", "identity"):
        answer = post(
            http, "decode", document("z", rows["z"]), headers={"Accept-Encoding": encoding}
        )
        assert answer.headers.get("content-encoding", "identity") == encoding
        assert len(answer.json()["outputs"][0]["data"]) == 4 * 784


def test_asynchronous_calls(server: Server, rows: Arrays, native: dict[str, Arrays]) -> None:
    """Each gets its own rows back, and the failure of one is its own."""
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=4) as client:
        calls = [
            client.async_infer("encode", [tensor("images", rows["images"][i : i + 1])])
            for i in (3, 0, 2, 1) * 3
        ]
        wrong = client.async_infer("encode", [tensor("images", rows["images"] * 2)])
        for call, i in zip(calls, (3, 0, 2, 1) * 3, strict=True):
            expected = {name: rows_[i : i + 1] for name, rows_ in native["encode"].items()}
            check(call.get_result(), expected)
        with pytest.raises(InferenceServerException) as caught:
            wrong.get_result()
        assert caught.value.status() == "400"


def test_what_the_client_may_add(client: Any, rows: Arrays, native: dict[str, Arrays]) -> None:
    result = client.infer(
        "encode",
        [tensor("images", rows["images"])],
        timeout=10_000_000,
        parameters={"content_type": "np"},
        headers={"X-Request-ID": "a"},
    )
    check(result, native["encode"])


def test_fp64_is_taken_where_fp32_is(client: Any, rows: Arrays, native: dict[str, Arrays]) -> None:
    for model, (name, _) in MODELS.items():
        for binary in (True, False):
            inputs = [tensor(name, rows[name].astype(np.float64), binary=binary)]
            check(client.infer(model, inputs), native[model])


def test_fp64_in_large_json(client: Any, four: NDArray[np.uint8]) -> None:
    """Which C reads."""
    images = np.repeat(four.reshape(4, 784) / 255, 100, axis=0)
    wide, narrow = (
        client.infer("encode", [tensor("images", images.astype(dtype), binary=False)])
        for dtype in (np.float64, np.float32)
    )
    np.testing.assert_allclose(wide.as_numpy("mu"), narrow.as_numpy("mu"), atol=1e-5)
