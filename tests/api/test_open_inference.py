"""The Open Inference Protocol: Triton's own client, as it is, and what that client cannot send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from httpx import AsyncClient, Response
from numpy.typing import NDArray
from tritonclient.utils import (  # type: ignore[import-untyped]
    InferenceServerException,
    np_to_triton_dtype,
)

from service.app import App
from service.inference import health
from tests.api.conftest import SMALL
from tests.api.helpers import HANG_S, engine_of, hold, queue_holds
from tests.conftest import Server

Arrays = dict[str, NDArray[Any]]

MODELS = {
    "encode": ("images", ["mu", "sigma"]),
    "decode": ("z", ["images"]),
    "reconstruct": ("images", ["images", "mse"]),
    "anomaly-score": ("images", ["score", "p_value", "is_anomaly", "mse", "kl"]),
}
"""Each model's input and outputs."""

SHAPES = {"images": [-1, 1, 28, 28], "z": [-1, 10], "mu": [-1, 10], "sigma": [-1, 10]}
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    """Triton's client with its defaults."""
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def version(http: httpx.Client) -> str:
    found: str = http.get("/model").json()["version"]
    return found


@pytest.fixture(scope="module")
def rows(four: NDArray[np.uint8]) -> Arrays:
    """What goes into the models, by the input's name."""
    z = np.random.default_rng(7).standard_normal((4, 10), dtype=np.float32)
    return {"images": (four / np.float32(255)).astype(np.float32), "z": z}


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


def tensor(name: str, array: NDArray[Any], *, binary: bool = True) -> Any:
    found = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    return found.set_data_from_numpy(array, binary_data=binary)


def outputs_of(forms: dict[str, bool]) -> list[Any]:
    """Outputs to ask for, each binary or not."""
    return [triton.InferRequestedOutput(name, binary_data=form) for name, form in forms.items()]


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
    assert metadata["extensions"] == ["binary_tensor_data"]


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


def test_what_the_client_adds_for_other_servers_is_let_be(
    client: Any, rows: Arrays, native: dict[str, Arrays]
) -> None:
    result = client.infer(
        "encode",
        [tensor("images", rows["images"])],
        sequence_id=5,
        sequence_start=True,
        priority=2,
        timeout=10_000_000,
        parameters={"mine": 1, "yours": "x"},
        headers={"X-Request-ID": "a"},
        query_params={"q": 1},
    )
    check(result, native["encode"])


# Errors, as the client reads them


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


def test_a_model_or_version_that_is_not_there(client: Any, rows: Arrays, version: str) -> None:
    images = rows["images"]
    refused(client, "404", "nothing", "anomaly-score", model="nothing", images=images)
    refused(client, "404", "'1'", version, version="1", images=images)
    refused(client, "404", "nothing", model="nothing", version=version, images=images)
    for method, *arguments in [
        ("get_model_metadata", "nothing"),
        ("get_model_metadata", "encode", "1"),
        # Parts of Triton that are no part of the protocol.
        ("get_model_config", "encode"),
        ("get_inference_statistics",),
        ("get_model_repository_index",),
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


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.int8, np.bool_])
def test_a_wrong_datatype(client: Any, dtype: type[Any]) -> None:
    array = np.zeros((1, 784), dtype)
    refused(client, "400", np_to_triton_dtype(array.dtype), "FP32", "UINT8", images=array)


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
    refused(client, "400", "UINT8", "FP32", model="decode", inputs=inputs)


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


ZEROS = bytes(80)
"""Two latents."""

BINARY = document(parameters={"binary_data_size": 80})
JSON_BYTES = len(json.dumps(BINARY))


def test_binary_by_hand(http: httpx.Client) -> None:
    """So that what follows fails for its one fault only."""
    answer = post(http, "decode", BINARY, binary=ZEROS, length=JSON_BYTES)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["outputs"][0]["data"]) == 2 * 784, "JSON unless asked otherwise"
    answer = post(http, "decode", document(), length=len(json.dumps(document())))
    assert answer.status_code == 200, "a length of all is no harm"


@pytest.mark.parametrize(
    "length",
    [
        JSON_BYTES - 1,
        JSON_BYTES + 1,
        0,
        JSON_BYTES + 80,
        JSON_BYTES + 81,
        10**15,
        -1,
        "",
        "x",
        "0x10",
        "1.5",
        f"+{JSON_BYTES}",
        f"{JSON_BYTES}, {JSON_BYTES}",
        "²",
        pytest.param("9" * 5_000, id="5,000 digits"),
    ],
)
def test_a_wrong_length_of_the_json(http: httpx.Client, length: object) -> None:
    headers = [(LENGTH.encode(), str(length).encode("latin-1"))]
    content = json.dumps(BINARY).encode() + ZEROS
    error(http.post("/v2/models/decode/infer", content=content, headers=headers), 400)


def test_binary_data_without_a_length(http: httpx.Client) -> None:
    error(post(http, "decode", BINARY, binary=ZEROS), 400, "JSON")
    error(post(http, "decode", BINARY), 400, "binary_data_size", "80")


@pytest.mark.parametrize(
    "size", [79, 81, 0, -80, True, "80", [80], {"a": 80}, 80.0, 80.5, 2**63, 1e300]
)
def test_a_wrong_size_of_a_binary_tensor(http: httpx.Client, size: Any) -> None:
    content = document(parameters={"binary_data_size": size})
    answer = post(http, "decode", content, binary=ZEROS, length=len(json.dumps(content)))
    if answer.status_code != 200 or type(size) is not float or size != 80:  # to JSON, 80.0 is 80
        error(answer, 400, "binary_data_size", "80")


@pytest.mark.parametrize("n", [0, 1, 79, 81, 160])
def test_too_few_or_too_many_bytes_after_the_json(http: httpx.Client, n: int) -> None:
    answer = post(http, "decode", BINARY, binary=bytes(n), length=JSON_BYTES)
    error(answer, 400, f"{n if n < 80 else n - 80:,}")


def test_bytes_that_belong_to_no_tensor(http: httpx.Client) -> None:
    text = document()
    error(post(http, "decode", text, binary=b"more", length=len(json.dumps(text))), 400, "4 bytes")


@pytest.mark.parametrize(
    ("fields", "mentioned"),
    [
        ({"data": [0.0] * 19}, ["19", "20"]),
        ({"data": [0.0] * 21}, ["21", "20"]),
        ({"data": [[0.0] * 10]}, ["10", "20"]),
        ({"data": []}, ["20"]),
        ({"data": "text"}, ["data"]),
        ({"data": None}, ["data"]),
        ({"data": {}}, ["data"]),
        ({"data": ["0"] * 20}, ["number"]),
        ({"data": [True] * 20}, ["number"]),
        ({"data": [None] * 20}, ["number"]),
        ({"data": [{}] * 20}, ["number"]),
        ({"shape": None}, ["shape"]),
        ({"shape": []}, ["shape"]),
        ({"shape": "2, 10"}, ["shape"]),
        ({"shape": [2, -10]}, ["shape"]),
        ({"shape": [2.5, 8]}, ["shape"]),
        ({"shape": [True, 20]}, ["shape"]),
        ({"shape": [1] * 100}, ["shape"]),
        ({"shape": [0, 10], "data": []}, ["shape"]),
        ({"shape": [0, 2**63], "data": []}, ["shape"]),
        ({"shape": [0, 2**62, 2**62], "data": []}, ["shape"]),
        ({"shape": [2**63, 2**63], "data": [0.0]}, ["1"]),
        ({"name": None}, ["name"]),
        ({"name": 5}, ["name"]),
        ({"name": "x" * 10_000}, ["z"]),
        ({"datatype": "FP64"}, ["FP64", "FP32"]),
        ({"datatype": None}, ["datatype"]),
        ({"parameters": []}, ["parameters"]),
        ({"parameters": "text"}, ["parameters"]),
    ],
)
def test_a_wrong_tensor(http: httpx.Client, fields: dict[str, Any], mentioned: list[str]) -> None:
    content = document(**fields)
    if "data" not in content["inputs"][0]:
        content["inputs"][0]["data"] = [0.0] * 20
    error(post(http, "decode", content), 400, *mentioned)


@pytest.mark.parametrize("value", [256, -1, 0.5, 1e300, -1e300])
def test_numbers_that_are_no_uint8(http: httpx.Client, value: float) -> None:
    data = [0] * 783 + [value]
    content = document("images", datatype="UINT8", shape=[1, 784], data=data)
    error(post(http, "encode", content), 400, "UINT8", "0..255")


@pytest.mark.parametrize(
    ("change", "mentioned"),
    [
        ({"inputs": []}, ["inputs"]),
        ({"inputs": None}, ["inputs"]),
        ({"inputs": {}}, ["inputs"]),
        ({"inputs": [5]}, ["inputs[0]"]),
        ({"inputs": [[]]}, ["inputs[0]"]),
        ({"outputs": "images"}, ["outputs"]),
        ({"outputs": ["images"]}, ["outputs[0]"]),
        ({"outputs": [{}]}, ["name"]),
        ({"outputs": [{"name": "mu"}]}, ["mu", "images"]),
        ({"outputs": [{"name": "images", "parameters": 5}]}, ["parameters"]),
        ({"id": 5}, ["id"]),
        ({"id": ["a"]}, ["id"]),
        ({"parameters": 5}, ["parameters"]),
        ({"parameters": {"timeout": -1}}, ["timeout", "-1"]),
        ({"parameters": {"timeout": "5"}}, ["timeout"]),
        ({"parameters": {"timeout": True}}, ["timeout"]),
        ({"parameters": {"timeout": 0.5}}, ["timeout", "0.5"]),
    ],
)
def test_a_wrong_request(http: httpx.Client, change: dict[str, Any], mentioned: list[str]) -> None:
    error(post(http, "decode", document() | change), 400, *mentioned)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"text",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"inputs": [NaN]}',
        b'{"id": "\xff"}',
        b'{"id": "\\ud800"}',
        b'{"inputs": 18446744073709551616}',
        b'{"inputs": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
        b"[" * 5_000,
    ],
)
def test_json_without_sense(http: httpx.Client, content: bytes) -> None:
    error(post(http, "decode", content), 400)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_without_numbers(http: httpx.Client, word: str) -> None:
    content = json.dumps(document()).replace("0.0", word, 1).encode()
    error(post(http, "decode", content), 400, "JSON")


def test_a_key_that_is_there_twice(http: httpx.Client) -> None:
    """Which of the two is meant is not ours to guess."""
    once = json.dumps(document())
    twice = once[:-1] + ', "inputs": []}'
    error(post(http, "decode", twice.encode()), 400, "inputs", "twice")
    tensor_twice = once.replace('"name": "z"', '"name": "z", "name": "images"')
    error(post(http, "decode", tensor_twice.encode()), 400, "name", "twice")


def test_outputs_that_are_none_are_all(http: httpx.Client) -> None:
    expected = post(http, "decode", document()).json()
    nothing: list[Any] = [None, []]
    for outputs in nothing:
        assert post(http, "decode", document() | {"outputs": outputs}).json() == expected


def test_binary_output_on_request(http: httpx.Client) -> None:
    """The request's setting holds for all outputs, and an output's own wins over it."""
    images = document("images", np.zeros((2, 784), np.float32))
    for everything, own, expected in [
        (True, None, True),
        (None, True, True),
        (True, False, False),
        (False, True, True),
        (None, None, False),
    ]:
        output: dict[str, Any] = {"name": "mu"}
        if own is not None:
            output["parameters"] = {"binary_data": own}
        content = images | {"outputs": [output, {"name": "sigma"}]}
        if everything is not None:
            content["parameters"] = {"binary_data_output": everything}
        answer = post(http, "encode", content)
        assert answer.status_code == 200
        length = int(answer.headers.get(LENGTH, len(answer.content)))
        mu, sigma = json.loads(answer.content[:length])["outputs"]
        assert ("data" not in mu) is expected
        assert ("data" not in sigma) is bool(everything)
        sizes = [output.get("parameters", {}).get("binary_data_size", 0) for output in (mu, sigma)]
        assert len(answer.content) - length == sum(sizes)
        kind = "application/octet-stream" if any(sizes) else "application/json"
        assert answer.headers["content-type"] == kind


# Errors of every route


def paths_of(http: httpx.Client) -> dict[str, list[str]]:
    """Paths below /v2, and the methods of each."""
    paths = http.get("/openapi.json").json()["paths"]
    return {
        path: [method.upper() for method in methods]
        for path, methods in paths.items()
        if path.startswith("/v2")
    }


def test_every_route_with_every_other_method(http: httpx.Client, version: str) -> None:
    paths = paths_of(http)
    assert len(paths) == 9
    for path, offered in paths.items():
        url = path.format(name="encode", version=version)
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
            if method in offered:
                continue
            answer = http.request(method, url)
            error(answer, 405, *offered, method)
            assert answer.headers["allow"] == ", ".join(offered)


def test_every_route_with_a_wrong_model_or_version(http: httpx.Client, version: str) -> None:
    for path, (method,) in paths_of(http).items():
        if "{name}" in path:
            url = path.format(name="no%20such", version=version)
            error(http.request(method, url), 404, "no such", "anomaly-score")
        if "{version}" in path:
            error(http.request(method, path.format(name="encode", version="0")), 404, "0", version)


@pytest.mark.parametrize(
    "path", ["/v2/nothing", "/v2/models", "/v2/models/encode/x", "/v2/health", "/v2/models//infer"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_such_route(http: httpx.Client, method: str, path: str) -> None:
    error(http.request(method, path), 404, "there is no")


def test_only_below_v2(http: httpx.Client) -> None:
    assert http.get("/v2x").headers["content-type"] == "application/problem+json"


def test_a_body_in_an_unknown_encoding(http: httpx.Client) -> None:
    answer = post(http, "decode", document(), headers={"Content-Encoding": "br"})
    error(answer, 400, "br", "gzip", "deflate")
    answer = post(http, "decode", document(), headers={"Content-Encoding": "gzip"})
    error(answer, 400, "gzip")


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon"])
def test_a_wrong_timeout_header(http: httpx.Client, timeout: str) -> None:
    error(post(http, "decode", document(), headers={"X-Request-Timeout": timeout}), 400, timeout)


# What only an app with small limits and an engine to break can show


Infer = Callable[..., Any]


@pytest.fixture
def infer(small_client: AsyncClient) -> Infer:
    async def post(n: int = 1, model: str = "decode") -> Response:
        size = 10 if model == "decode" else 784
        content = document(MODELS[model][0], np.zeros((n, size), np.float32))
        return await small_client.post(f"/v2/models/{model}/infer", json=content)

    return post


@pytest.mark.anyio
async def test_too_many_images_or_bytes(infer: Infer) -> None:
    error(await infer(SMALL.max_images_per_request + 1), 400, "9", "8")
    error(await infer(50, "encode"), 400, "60,000")


@pytest.mark.anyio
async def test_a_full_queue(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient, infer: Infer
) -> None:
    held = hold(monkeypatch, small_app, "decode")
    tasks = [asyncio.create_task(infer(8))]
    await held.begun()
    tasks.append(asyncio.create_task(infer(4)))
    await queue_holds(small_client, 8)
    answer = await infer(2)
    error(answer, 503, "not fit", "8")
    assert int(answer.headers["retry-after"]) >= 1
    held.let_go()
    assert [(await task).status_code for task in tasks] == [200, 200]


@pytest.mark.anyio
async def test_a_body_that_does_not_arrive(small_client: AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(HANG_S)

    headers = {"X-Request-Timeout": "0.05"}
    url = "/v2/models/decode/infer"
    error(await small_client.post(url, content=body(), headers=headers), 408, "0.05")


@pytest.mark.anyio
async def test_not_ready(
    monkeypatch: pytest.MonkeyPatch, small_app: App, small_client: AsyncClient, infer: Infer
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(health, "READY_FOR_S", 0.0)
    for name in ("score", "decode"):
        monkeypatch.setattr(engine_of(small_app), name, broken)
    version = small_app.state.service.version
    for path, expected in {
        "health/ready": {"ready": False},
        "models/encode/ready": {"name": "encode", "ready": False},
        f"models/encode/versions/{version}/ready": {"name": "encode", "ready": False},
    }.items():
        answer = await small_client.get(f"/v2/{path}")
        assert (answer.status_code, answer.json()) == (503, expected)
    assert (await small_client.get("/v2/health/live")).json() == {"live": True}
    error(await infer(), 500, "log")
