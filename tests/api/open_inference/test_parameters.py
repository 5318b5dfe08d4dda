"""Parameters of infer requests: honoured as the native routes do, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.utils import (  # type: ignore[import-untyped]
    InferenceServerException,
)

from tests.api.open_inference.helpers import Arrays, document, error, outputs_of, post, tensor

OUTPUTS = ("score", "p_value", "is_anomaly", "mse", "kl")


@pytest.fixture(scope="module")
def images(http: httpx.Client, rows: Arrays) -> NDArray[np.float32]:
    """Real digits, and eight samples whose p-values are spread, (12, 784)."""
    samples = http.get("/sample?n=8&seed=1", headers={"Accept": "application/json"}).json()
    return np.concatenate(
        [rows["images"].reshape(4, 784), np.array(samples["images"], np.float32).reshape(8, 784)]
    )


def native(
    http: httpx.Client, images: NDArray[Any], path: str = "/anomaly-score", **query: Any
) -> dict[str, Any]:
    answer = http.post(path, json={"images": images.tolist()}, params=query)
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def infer(
    http: httpx.Client,
    images: NDArray[Any],
    model: str = "anomaly-score",
    outputs: list[dict[str, Any]] | None = None,
    **parameters: Any,
) -> dict[str, Any]:
    content = document("images", images) | {"parameters": parameters}
    if outputs is not None:
        content["outputs"] = outputs
    answer = post(http, model, content)
    assert answer.status_code == 200, answer.text
    return {item["name"]: item["data"] for item in answer.json()["outputs"]}


def check(found: dict[str, Any], expected: dict[str, Any], *names: str) -> None:
    for name in names:
        if name == "is_anomaly":
            assert found[name] == expected[name]
        else:
            assert found[name] == pytest.approx(np.ravel(expected[name]), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    "parameters",
    [
        {"alpha": 0.5},
        {"alpha": "0.5"},
        {"alpha": None, "score": None},
        {"score": "mse"},
        {"score": "kl", "alpha": 0.3},
        {"fdr": "bh", "alpha": 0.2},
        {"score": "iwae", "seed": 7},
        {"score": "reconstruction_probability", "seed": 2**64 - 1, "samples": 32, "alpha": 0.1},
    ],
)
def test_the_request_s_are_those_of_the_query(
    http: httpx.Client, images: NDArray[Any], parameters: dict[str, Any]
) -> None:
    query = {name: value for name, value in parameters.items() if value is not None}
    found = infer(http, images, **parameters)
    assert tuple(found) == OUTPUTS
    check(found, native(http, images, **query), *OUTPUTS)


def test_alpha_decides(http: httpx.Client, images: NDArray[Any]) -> None:
    """What used to be dropped in silence: no anomaly at p = .21, whatever alpha was."""
    p_values = np.array(infer(http, images)["p_value"])
    alpha = float(np.median(p_values))
    verdicts = infer(http, images, alpha=alpha)["is_anomaly"]
    assert verdicts == (p_values <= alpha).tolist()
    assert 0 < sum(verdicts) < len(verdicts)
    assert verdicts != infer(http, images)["is_anomaly"]


def test_a_number_of_samples_without_calibration(http: httpx.Client, images: NDArray[Any]) -> None:
    """p_value and is_anomaly are null in the native answer, and there is no null in a tensor."""
    parameters: dict[str, Any] = {"score": "iwae", "seed": 7, "samples": 16}
    found = infer(http, images, **parameters)
    expected = native(http, images, **parameters)
    assert tuple(found) == ("score", "mse", "kl")
    check(found, expected, *found)
    for name in ("p_value", "is_anomaly"):
        content = document("images", images) | {
            "parameters": parameters,
            "outputs": [{"name": name}],
        }
        error(post(http, "anomaly-score", content), 400, name, "iwae", "32", "16")


def test_an_output_s_own_override_the_request_s(http: httpx.Client, images: NDArray[Any]) -> None:
    found = infer(
        http,
        images,
        outputs=[
            {"name": "score", "parameters": {"score": "mse"}},
            {"name": "p_value"},
            {"name": "is_anomaly", "parameters": {"alpha": 0.5}},
            {"name": "kl", "parameters": {"binary_data": False}},
        ],
        alpha=0.001,
    )
    assert tuple(found) == ("score", "p_value", "is_anomaly", "kl")
    usual = native(http, images, alpha=0.5)
    check(found, usual, "p_value", "is_anomaly", "kl")
    check(found, native(http, images, score="mse"), "score")
    assert found["score"] != pytest.approx(usual["score"])


def test_the_order_of_outputs_does_not_matter(http: httpx.Client, images: NDArray[Any]) -> None:
    """`is_anomaly` has the alpha that was meant for it, whichever output comes first."""
    verdict: dict[str, Any] = {"name": "is_anomaly", "parameters": {"alpha": 0.5}}
    for outputs in ([{"name": "p_value"}, verdict], [verdict, {"name": "p_value"}]):
        found = infer(http, images, outputs=outputs, alpha=0.001)
        check(found, native(http, images, alpha=0.5), "p_value", "is_anomaly")


def test_outputs_of_three_scores(http: httpx.Client, images: NDArray[Any]) -> None:
    draws: dict[str, Any] = {"score": "iwae", "seed": 3, "samples": 8}
    found = infer(
        http,
        images,
        outputs=[
            {"name": "score", "parameters": draws},
            {"name": "p_value", "parameters": {"score": "kl"}},
            {"name": "is_anomaly", "parameters": {"score": "mse", "fdr": "bh", "alpha": 0.2}},
        ],
    )
    check(found, native(http, images, **draws), "score")
    check(found, native(http, images, score="kl"), "p_value")
    check(found, native(http, images, score="mse", fdr="bh", alpha=0.2), "is_anomaly")


def test_outputs_without_a_seed_share_their_draws(http: httpx.Client, images: NDArray[Any]) -> None:
    """Else `p_value` would be that of another score."""
    found = infer(http, images, score="iwae")
    seeded = native(http, images, score="iwae", seed=1)
    assert found["score"] != pytest.approx(seeded["score"], rel=1e-7), "drawn anew"
    order = np.argsort(found["score"])
    assert (np.diff(np.array(found["p_value"])[order]) <= 0).all()


def test_tritonclient_sends_them(client: Any, http: httpx.Client, images: NDArray[Any]) -> None:
    found = client.infer(
        "anomaly-score",
        [tensor("images", images)],
        outputs=outputs_of({"score": True, "is_anomaly": True}),
        parameters={"alpha": 0.5, "score": "mse", "fdr": "bh"},
    )
    expected = native(http, images, alpha=0.5, score="mse", fdr="bh")
    assert found.as_numpy("is_anomaly").tolist() == expected["is_anomaly"]
    assert found.as_numpy("score") == pytest.approx(expected["score"], rel=1e-5)


def test_reconstruct_draws_as_the_native_route(http: httpx.Client, images: NDArray[Any]) -> None:
    drawn: list[dict[str, Any]] = [{}, {"sample": True, "seed": 7}, {"sample": False, "seed": 7}]
    for parameters in drawn:
        found = infer(http, images, "reconstruct", **parameters)
        query = {name: str(value).lower() for name, value in parameters.items()}
        check(found, native(http, images, "/reconstruct", **query), "images", "mse")
    outputs = [{"name": "mse", "parameters": {"seed": 7}}]
    content = document("images", images) | {"outputs": outputs}
    error(post(http, "reconstruct", content), 400, "outputs[0]", "seed")


# Refused


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("anomaly-score", "alpha, score, seed, fdr, samples, timeout, binary_data_output"),
        ("reconstruct", "sample, seed, timeout"),
        ("encode", "expected timeout, binary_data_output"),
        ("decode", "expected timeout, binary_data_output"),
    ],
)
def test_an_unknown_one_is_refused(
    http: httpx.Client, rows: Arrays, model: str, known: str
) -> None:
    name = "z" if model == "decode" else "images"
    content = document(name, rows[name])
    for unknown in ("alhpa", "map", "sequence_id", "priority", "", "x" * 1_000):
        answer = post(http, model, content | {"parameters": {unknown: 1}})
        error(answer, 400, repr(unknown[:64]), "not a known parameter in parameters", known)


def test_unknown_ones_of_tensors_are_refused(http: httpx.Client, rows: Arrays) -> None:
    content = document("images", rows["images"])
    content["inputs"][0]["parameters"] = {"alpha": 0.5}
    error(post(http, "anomaly-score", content), 400, "'alpha'", "inputs[0].parameters")
    content = document("images", rows["images"])
    for unknown in ("alhpa", "timeout", "binary_data_size"):
        outputs = [{"name": "kl"}, {"name": "score", "parameters": {unknown: 1}}]
        answer = post(http, "anomaly-score", content | {"outputs": outputs})
        error(answer, 400, repr(unknown), "outputs[1].parameters", "alpha", "binary_data")
    outputs = [{"name": "mu", "parameters": {"alpha": 0.5}}]
    error(post(http, "encode", content | {"outputs": outputs}), 400, "'alpha'")


@pytest.mark.parametrize(
    ("parameters", "mentioned"),
    [
        ({"alpha": 2}, ["alpha", "'2'", "less than 1"]),
        ({"alpha": 0}, ["alpha", "greater than 0"]),
        ({"alpha": "x"}, ["alpha", "'x'"]),
        ({"alpha": True}, ["alpha is true"]),
        ({"alpha": [0.5]}, ["alpha is an array"]),
        ({"alpha": {}}, ["alpha is an object"]),
        ({"score": "nothing"}, ["'nothing'", "mse", "kl"]),
        ({"score": 5}, ["score", "'5'"]),
        ({"seed": -1}, ["seed", "'-1'"]),
        ({"seed": 0.5}, ["seed", "'0.5'"]),
        ({"seed": False}, ["seed is false"]),
        ({"samples": 0, "score": "iwae"}, ["samples", "'0'"]),
        ({"samples": 4_097, "score": "iwae"}, ["samples", "'4097'"]),
        ({"samples": 4_096, "score": "iwae"}, ["16,384 draws", "8,192"]),
        ({"fdr": "bonferroni"}, ["fdr", "'bonferroni'", "bh"]),
    ],
)
@pytest.mark.parametrize("of_output", [False, True])
def test_a_wrong_value_is_refused(
    http: httpx.Client,
    rows: Arrays,
    parameters: dict[str, Any],
    mentioned: list[str],
    of_output: bool,
) -> None:
    content = document("images", rows["images"])
    if of_output:
        content["outputs"] = [{"name": "score", "parameters": parameters}]
    else:
        content["parameters"] = parameters
    error(post(http, "anomaly-score", content), 400, *mentioned)


def test_query_parameters_are_refused(client: Any, rows: Arrays) -> None:
    images = [tensor("images", rows["images"])]
    with pytest.raises(InferenceServerException, match=r"'alpha' .* the body's parameters"):
        client.infer("anomaly-score", images, query_params={"alpha": 0.5})
    calls: list[Callable[[dict[str, Any]], Any]] = [
        lambda query: client.infer("encode", images, query_params=query),
        lambda query: client.get_model_metadata("encode", query_params=query),
        lambda query: client.get_server_metadata(query_params=query),
        lambda query: client.get_inference_statistics(query_params=query),
        lambda query: client.get_inference_statistics("encode", query_params=query),
        lambda query: client.get_model_repository_index(query_params=query),
    ]
    for call in calls:
        with pytest.raises(InferenceServerException) as caught:
            call({"alhpa": 1})
        assert caught.value.status() == "400"
        assert "'alhpa' is not a known query parameter here" in caught.value.message()


def test_large_bodies_have_them_too(http: httpx.Client, digits: NDArray[np.uint8]) -> None:
    """Threads read these."""
    images = digits[:400].reshape(400, 784)
    content = document("images", images, datatype="UINT8") | {"parameters": {"score": "mse"}}
    found = {item["name"]: item["data"] for item in post(
        http, "anomaly-score", content).json()["outputs"]}  # fmt: skip
    assert found["score"] == found["mse"]
    content["parameters"] = {"alhpa": 1}
    error(post(http, "anomaly-score", content), 400, "'alhpa'")


def test_a_boolean_hears_what_is_expected(http: httpx.Client, rows: Arrays) -> None:
    content = document("images", rows["images"])
    for name, expected in (("fdr", "'bh'"), ("alpha", "a number"), ("score", "name of a score")):
        answer = post(http, "anomaly-score", content | {"parameters": {name: True}})
        error(answer, 400, f"{name} is true, expected", expected)


def test_pixels_in_0_to_255_hear_of_the_datatype(http: httpx.Client, rows: Arrays) -> None:
    """Which is not called dtype here."""
    content = document("images", rows["images"] * 0 + 200)
    error(post(http, "encode", content), 400, "for pixels in 0..255, send the datatype UINT8")
