"""`GET /model/latents`: posterior means that are kept in the bundle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from httpx import AsyncClient

from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.bundle.latent_sample import LatentSample
from service.api import schemas
from service.app import create_app
from service.codecs.registry import INLINE_JSON_NUMBERS
from service.settings import Settings
from tests.api.bodies import NPY, RAW
from tests.api.helpers import client_of, problem
from tests.unit.samples import whole_bundle

pytestmark = pytest.mark.anyio

PATH = "/model/latents"


def sample_of(bundle: Bundle) -> LatentSample:
    assert bundle.latents is not None
    return bundle.latents


def client_for(bundle: Bundle, directory: Path) -> AsyncClient:
    bundle.save(directory / "bundle", "")
    return client_of(create_app(Settings(bundle=str(directory / "bundle"), threads=1)))


@pytest.fixture(params=["mnist", "mnist-conv"])
async def shipped(request: pytest.FixtureRequest) -> AsyncIterator[tuple[AsyncClient, Bundle]]:
    """The JSON of the first is written at once, that of the second by a thread, in pieces."""
    bundle = load_bundle(find_bundle(request.param))
    is_large = sample_of(bundle).mu.size > INLINE_JSON_NUMBERS
    assert is_large is (request.param == "mnist-conv")
    app = create_app(Settings(bundle=request.param, threads=1))
    async with client_of(app) as client:
        yield client, bundle


async def test_as_json(shipped: tuple[AsyncClient, Bundle]) -> None:
    client, bundle = shipped
    kept = sample_of(bundle)
    answer = await client.get(PATH)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == bundle.version
    schemas.LatentsAnswer.model_validate_json(answer.content, strict=True)
    found = answer.json()
    mu, labels = found.pop("mu"), found.pop("labels")
    np.testing.assert_array_equal(np.array(mu, np.float32), kept.mu)
    assert kept.labels is not None
    assert labels == kept.labels.tolist()
    assert found == {
        "model": bundle.name,
        "data_set": "mnist, images trained on",
        "n": 3_000,
        "classes": list("0123456789"),
    }


async def test_as_arrays(shipped: tuple[AsyncClient, Bundle]) -> None:
    client, bundle = shipped
    mu = sample_of(bundle).mu
    npy = await client.get(PATH, headers={"Accept": NPY})
    assert npy.headers["content-type"] == NPY
    found = np.load(BytesIO(npy.content), allow_pickle=False)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, mu)
    raw = await client.get(PATH, headers={"Accept": RAW})
    assert raw.headers["content-type"] == RAW
    assert raw.headers["x-tensor-shape"] == f"3000,{mu.shape[1]}"
    assert raw.headers["x-tensor-dtype"] == "float32"
    np.testing.assert_array_equal(np.frombuffer(raw.content, "<f4").reshape(mu.shape), mu)


async def test_they_can_be_sent_to_decode(client: AsyncClient) -> None:
    raw = await client.get(PATH, headers={"Accept": NPY})
    answer = await client.post("/decode", content=raw.content, headers={"Accept": NPY})
    assert answer.status_code == 200
    assert np.load(BytesIO(answer.content)).shape == (3_000, 28, 28)


async def test_without_labels_they_are_null(tmp_path: Path) -> None:
    latents = LatentSample(mu=np.ones((2, 3), np.float32), data_set="two")
    async with client_for(whole_bundle(latents=latents), tmp_path) as client:
        answer = await client.get(PATH)
    schemas.LatentsAnswer.model_validate_json(answer.content, strict=True)
    assert answer.json() == {
        "model": "tiny",
        "data_set": "two",
        "n": 2,
        "mu": [[1, 1, 1], [1, 1, 1]],
        "labels": None,
        "classes": None,
    }


async def test_labels_without_names(tmp_path: Path) -> None:
    labels = np.array([2**40, -1])
    latents = LatentSample(mu=np.ones((2, 3), np.float32), data_set="two", labels=labels)
    async with client_for(whole_bundle(latents=latents), tmp_path) as client:
        found = (await client.get(PATH)).json()
    assert (found["labels"], found["classes"]) == ([2**40, -1], None)


@pytest.mark.parametrize("accept", ["application/json", NPY, RAW, "image/png"])
async def test_a_bundle_that_keeps_none_says_what_to_do(accept: str, tmp_path: Path) -> None:
    async with client_for(whole_bundle(), tmp_path) as client:
        answer = await client.get(PATH, headers={"Accept": accept})
        problem(answer, 404, "bundle tiny keeps no posterior means", "vae calibrate --bundle")
        assert (await client.get("/model")).status_code == 200


async def test_a_type_that_is_not_offered(client: AsyncClient) -> None:
    answer = await client.get(PATH, headers={"Accept": "image/png"})
    problem(answer, 406, "image/png", "application/json", NPY, RAW)


async def test_a_reload_brings_those_of_the_new_bundle(tmp_path: Path) -> None:
    one = LatentSample(mu=np.ones((2, 3), np.float32), data_set="one")
    bundle = whole_bundle(latents=one)
    async with client_for(bundle, tmp_path) as client:
        assert (await client.get(PATH)).json()["data_set"] == "one"
        replace(bundle, latents=replace(one, data_set="other")).save(tmp_path / "bundle", "")
        assert (await client.post("/model/reload")).status_code == 200
        assert (await client.get(PATH)).json()["data_set"] == "other"


async def test_it_takes_a_key_that_may_infer() -> None:
    keys = "a-key-of-enough-characters"
    async with client_of(create_app(Settings(api_keys=keys, threads=1))) as client:
        problem(await client.get(PATH), 401)
        headers = {"Authorization": f"Bearer {keys}"}
        assert (await client.get(PATH, headers=headers)).status_code == 200
