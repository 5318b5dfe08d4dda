"""Infer requests that Triton's client cannot send."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.open_inference.helpers import LENGTH, document, error, post

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
def test_a_wrong_json_length(http: httpx.Client, length: object) -> None:
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
        ({"datatype": "INT64"}, ["'INT64', z takes FP32 or FP64"]),
        ({"name": "images"}, ["'images', this model takes 'z'"]),
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
        ({"parameters": {"binary_data_output": 1}}, ["binary_data_output", "1", "true or false"]),
        ({"parameters": {"content_type": "str"}}, ["content_type", "'str'", "'np'"]),
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
def test_invalid_json(http: httpx.Client, content: bytes) -> None:
    error(post(http, "decode", content), 400)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_without_numbers(http: httpx.Client, word: str) -> None:
    content = json.dumps(document()).replace("0.0", word, 1).encode()
    error(post(http, "decode", content), 400, "JSON")


def test_a_duplicate_key(http: httpx.Client) -> None:
    """Which of the two is meant is not ours to guess."""
    once = json.dumps(document())
    twice = once[:-1] + ', "inputs": []}'
    error(post(http, "decode", twice.encode()), 400, "inputs", "twice")
    tensor_twice = once.replace('"name": "z"', '"name": "z", "name": "images"')
    error(post(http, "decode", tensor_twice.encode()), 400, "name", "twice")


def test_null_or_empty_outputs_mean_all(http: httpx.Client) -> None:
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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([0.0] * 9 + ["1"], "inputs[0].data has a text ('1') at 9, expected numbers"),
        ([[0.0] * 10, [0.0] * 9 + [True]], "inputs[0].data has true at [1][9]"),
        ([[None]], "inputs[0].data has null at [0][0]"),
        ([0.0, {}], "inputs[0].data has an object at 1"),
        ([0.0] * 9, "inputs[0].data has 9 numbers, but its shape [1, 10] takes 10"),
        ([0.0], "inputs[0].data has 1 number, but its shape"),
        ([0.0] * 200_000 + ["1"], "inputs[0].data holds something that is not a number"),
    ],
)
def test_what_is_wrong_with_the_data_is_named(http: httpx.Client, data: Any, words: str) -> None:
    error(post(http, "decode", document(shape=[1, 10], data=data)), 400, words)


def test_data_nested_deep_is_refused(http: httpx.Client) -> None:
    """The search for what is no number does not recurse."""
    nested = b"[" * 1_000 + b'"x"' + b"]" * 1_000
    content = json.dumps(document(shape=[1, 10], data=0)).encode()
    content = content.replace(b'"data": 0', b'"data": ' + nested)
    words = f"inputs[0].data has a text ('x') at {'[0]' * 8}…,"
    error(post(http, "decode", content), 400, words)


@pytest.mark.parametrize("path", ["health/live", "health/ready", "models/encode/ready"])
def test_probes_ignore_the_query(http: httpx.Client, path: str) -> None:
    assert http.get(f"/v2/{path}?probe=1").status_code == 200
    error(http.get("/v2/models/encode?probe=1"), 400, "'probe' is not a known query parameter")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("alpha", True, "alpha is true, expected a number"),
        ("samples", False, "samples is false, expected a number"),
        ("score", True, "score is true, expected the name of a score"),
    ],
)
def test_a_boolean_in_place_of_another_value(
    http: httpx.Client, name: str, value: bool, words: str
) -> None:
    request = document("images", np.zeros((1, 784), np.float32))
    request["parameters"] = {name: value}
    error(post(http, "anomaly-score", request), 400, words)


def test_p_values_that_a_score_does_not_have(http: httpx.Client) -> None:
    request = document("images", np.zeros((1, 784), np.float32))
    request["parameters"] = {"score": "iwae", "samples": 16}
    request["outputs"] = [{"name": "p_value"}]
    words = "p_value is available for iwae only with 32 samples, its calibration; samples is 16"
    error(post(http, "anomaly-score", request), 400, f"outputs[0]: {words}")
