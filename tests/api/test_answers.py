"""Each route answers as the contract says, with the network's own numbers."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from httpx import AsyncClient, Response
from numpy.typing import NDArray
from pydantic import BaseModel

from model.engine.engine import Engine
from service.api import schemas
from service.app import App, create_app
from service.sampling import standard_normal
from service.settings import Settings
from tests.api.bodies import NPY
from tests.api.helpers import IMAGE_ROUTES, WORK_ROUTES, base64_file, client_of, uint8_body

pytestmark = pytest.mark.anyio

JSON = {"Accept": "application/json"}


def body_of(answer: Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text[:500]
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def near(expected: NDArray[np.float32]) -> Any:
    return pytest.approx(expected, rel=1e-5, abs=1e-5)


async def test_encode(client: AsyncClient, engine: Engine, four: NDArray[np.uint8]) -> None:
    answer = body_of(await client.post("/encode", json=uint8_body(four)))
    assert set(answer) == {"model", "mu", "sigma"}
    assert answer["model"] == "mnist"
    expected = engine.encode(four)
    assert np.array(answer["mu"]) == near(expected.mu)
    assert np.array(answer["sigma"]) == near(expected.sigma)


async def test_decode(client: AsyncClient, engine: Engine) -> None:
    z = np.random.default_rng(0).standard_normal((3, 10), dtype=np.float32)
    answer = body_of(await client.post("/decode", json={"z": z.tolist()}))
    assert set(answer) == {"model", "images"}
    assert np.array(answer["images"]) == near(engine.decode(z).images[:, 0])


async def test_reconstruct(client: AsyncClient, engine: Engine, four: NDArray[np.uint8]) -> None:
    answer = body_of(await client.post("/reconstruct", json=uint8_body(four)))
    assert set(answer) == {"model", "images", "mse"}
    expected = engine.reconstruct(four)
    assert np.array(answer["images"]) == near(expected.images[:, 0])
    assert np.array(answer["mse"]) == near(expected.mse)


async def test_anomaly_score(client: AsyncClient, engine: Engine, four: NDArray[np.uint8]) -> None:
    answer = body_of(await client.post("/anomaly-score", json=uint8_body(four)))
    keys = "model score_type alpha threshold score p_value is_anomaly mse kl"
    assert set(answer) == set(keys.split())
    expected = engine.score(four)
    for key in ("score", "mse", "kl"):
        assert np.array(answer[key]) == near(getattr(expected, key))
    assert (answer["score_type"], answer["alpha"]) == ("fused", 0.01)


async def test_anomaly_score_says_what_was_asked(
    client: AsyncClient, four: NDArray[np.uint8]
) -> None:
    answer = body_of(await client.post("/anomaly-score?score=mse&alpha=0.2", json=uint8_body(four)))
    assert (answer["score_type"], answer["alpha"]) == ("mse", 0.2)


async def test_score_grows_with_strangeness(client: AsyncClient, digits: NDArray[np.uint8]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)
    both = np.concatenate([digits[:20], noise])
    answer = body_of(await client.post("/anomaly-score", json=uint8_body(both)))
    assert max(answer["score"][:20]) < min(answer["score"][20:])


async def test_model(client: AsyncClient, engine: Engine) -> None:
    answer = body_of(await client.get("/model"))
    assert answer["id"] == "mnist"
    assert answer["version"] == engine.bundle.version
    assert answer["architecture"] == engine.bundle.config.to_json() | {
        "image_shape": [1, 28, 28],
        "hidden_sizes": [256, 64],
    }
    assert answer["image_shape"] == [1, 28, 28]
    assert answer["latent_size"] == 10
    assert answer["device"] == "cpu"
    assert answer["dtype"] == "float32"


@pytest.mark.parametrize(
    ("method", "path", "body", "schema"),
    [
        ("POST", "/encode", "images", schemas.EncodeAnswer),
        ("POST", "/encode?sample=true&seed=1", "images", schemas.EncodeAnswer),
        ("POST", "/reconstruct", "images", schemas.ReconstructAnswer),
        ("POST", "/anomaly-score", "images", schemas.ScoreAnswer),
        ("POST", "/decode", "latents", schemas.ImagesAnswer),
        ("GET", "/sample?n=2", None, schemas.ImagesAnswer),
        ("GET", "/model", None, schemas.ModelAnswer),
        ("GET", "/model/latents", None, schemas.LatentsAnswer),
        ("GET", "/livez", None, schemas.HealthAnswer),
        ("GET", "/readyz", None, schemas.HealthAnswer),
    ],
)
async def test_answers_are_as_documented(
    client: AsyncClient,
    four: NDArray[np.uint8],
    method: str,
    path: str,
    body: str | None,
    schema: type[BaseModel],
) -> None:
    bodies: dict[str | None, Any] = {
        "images": uint8_body(four),
        "latents": {"n": 2, "seed": 1},
        None: None,
    }
    answer = await client.request(method, path, json=bodies[body], headers=JSON)
    schema.model_validate_json(answer.content, strict=True)
    assert set(body_of(answer)) <= set(schema.model_fields)


async def test_a_name_that_ships_chooses_the_network(four: NDArray[np.uint8]) -> None:
    async with client_of(create_app(Settings(bundle="fashion-mnist", threads=1))) as client:
        answer = await client.post("/encode", json=uint8_body(four))
        assert body_of(answer)["model"] == "fashion-mnist"
        model = body_of(await client.get("/model"))
        assert model["id"] == "fashion-mnist"
        assert answer.headers["x-model-version"] == model["version"]


async def test_rows_are_the_same_alone_and_together(
    client: AsyncClient, digits: NDArray[np.uint8]
) -> None:
    for route in IMAGE_ROUTES:
        together = body_of(await client.post(route, json=uint8_body(digits[:5])))
        for i in range(5):
            alone = body_of(await client.post(route, json=uint8_body(digits[i : i + 1])))
            for key, value in alone.items():
                if isinstance(value, list):
                    assert np.array(together[key][i]) == near(np.array(value[0])), (route, key, i)


# Draws


async def test_encode_draws_z_from_the_posterior(
    client: AsyncClient, four: NDArray[np.uint8]
) -> None:
    plain = body_of(await client.post("/encode", json=uint8_body(four)))
    drawn = body_of(await client.post("/encode?sample=true&seed=7", json=uint8_body(four)))
    assert drawn["mu"] == plain["mu"]
    epsilon = (np.array(drawn["z"]) - drawn["mu"]) / np.array(drawn["sigma"])
    assert epsilon.shape == (4, 10)
    assert len(np.unique(epsilon.round(4))) == 40, "each number has its own noise"
    assert np.abs(epsilon).max() < 5
    assert 0.5 < epsilon.std() < 1.5


@pytest.mark.parametrize("path", ["/encode?sample=true", "/reconstruct?sample=true"])
async def test_a_seed_makes_a_draw_repeatable(
    client: AsyncClient, four: NDArray[np.uint8], path: str
) -> None:
    body = uint8_body(four)
    first, again, other = [
        body_of(await client.post(f"{path}&seed={seed}", json=body)) for seed in (7, 7, 8)
    ]
    assert first == again != other
    unseeded = [body_of(await client.post(path, json=body)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
async def test_any_64_bit_seed_will_do(client: AsyncClient, seed: int) -> None:
    by_query = body_of(await client.get(f"/sample?seed={seed}", headers=JSON))
    by_body = body_of(await client.post("/decode", json={"n": 1, "seed": seed}))
    assert by_query == by_body


async def test_each_of_the_64_bits_of_a_seed_counts(client: AsyncClient) -> None:
    drawn = [
        (await client.get(f"/sample?seed={seed}")).content
        for seed in (7, 7 + 2**32, 7 + 2**53, 7 + 2**63)
    ]
    assert len(set(drawn)) == 4


async def test_a_draw_does_not_depend_on_what_shares_its_batch(
    client: AsyncClient, digits: NDArray[np.uint8]
) -> None:
    body = uint8_body(digits[:2])
    calls = [f"{route}?sample=true&seed=7" for route in ("/encode", "/reconstruct")]
    alone = [body_of(await client.post(call, json=body)) for call in calls]
    others = [
        client.post(f"/{route}?sample=true&seed={i}", json=uint8_body(digits[i : 2 * i]))
        for i in range(1, 8)
        for route in ("encode", "reconstruct")
    ]
    among = await asyncio.gather(*others, *(client.post(call, json=body) for call in calls))
    for expected, answer in zip(alone, among[-2:], strict=True):
        for key, value in body_of(answer).items():
            assert key == "model" or np.array(value) == near(np.array(expected[key]))


async def test_reconstruct_can_decode_a_draw(client: AsyncClient, four: NDArray[np.uint8]) -> None:
    body = uint8_body(four)
    z = body_of(await client.post("/encode?sample=true&seed=7", json=body))["z"]
    drawn = body_of(await client.post("/reconstruct?sample=true&seed=7", json=body))
    decoded = body_of(await client.post("/decode", json={"z": z}))
    assert np.array(drawn["images"]) == near(np.array(decoded["images"]))
    errors = np.array(drawn["images"]) - four[:, 0] / 255
    assert np.array(drawn["mse"]) == near(np.square(errors).mean(axis=(1, 2)))


async def test_sample_and_decode_draw_the_same(client: AsyncClient) -> None:
    sampled = body_of(await client.get("/sample?n=5&seed=7", headers=JSON))
    decoded = body_of(await client.post("/decode", json={"n": 5, "seed": 7}))
    assert sampled == decoded
    assert np.array(sampled["images"]).shape == (5, 28, 28)
    other = body_of(await client.get("/sample?n=5&seed=8", headers=JSON))
    assert other != sampled
    unseeded = [body_of(await client.get("/sample", headers=JSON)) for _ in range(2)]
    assert unseeded[0] != unseeded[1]


async def test_temperature_scales_the_draws(client: AsyncClient) -> None:
    async def sampled(query: str) -> bytes:
        answer = await client.get(f"/sample?n=3&seed=7{query}", headers={"Accept": NPY})
        assert answer.status_code == 200
        return answer.content

    z = standard_normal((3, 10), 7)
    for temperature in (0, 0.5, 1, 10):
        scaled = {"z": (z * np.float32(temperature)).tolist()}
        decoded = await client.post("/decode", json=scaled, headers={"Accept": NPY})
        assert await sampled(f"&temperature={temperature}") == decoded.content
    drawn = await client.post("/decode", json={"n": 3, "seed": 7}, headers={"Accept": NPY})
    assert await sampled("") == await sampled("&temperature=1.0") == drawn.content
    cold = np.load(BytesIO(await sampled("&temperature=0")))
    assert (np.abs(cold - cold[0]) < 1e-6).all(), "the image of z = 0"


async def test_the_same_input_has_the_same_answer_in_another_process(
    app: App, four: NDArray[np.uint8]
) -> None:
    answers = []
    for one in (app, create_app(Settings(threads=1))):
        async with client_of(one) as client:
            answers.append(
                [
                    (await client.post(route, json=body)).content
                    for route in WORK_ROUTES
                    for body in [
                        {"n": 3, "seed": 7}
                        if route == "/decode"
                        else {"images": [base64_file(image) for image in four]}
                    ]
                ]
            )
    assert answers[0] == answers[1]
