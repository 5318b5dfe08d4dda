"""Every method of the Python clients, against the running service."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.client import AnomalyScores, ClientError, Encoding, ProblemError
from tests.api.client.helpers import Images, Use, ask, free_port, near
from tests.api.helpers import uint8_body
from tests.processes import Server

INPUTS: dict[str, Callable[[Images, list[Path]], Any]] = {
    "uint8 (N, C, H, W)": lambda x, _: x,
    "uint8 (N, H, W)": lambda x, _: x[:, 0],
    "uint8 (N, C·H·W)": lambda x, _: x.reshape(4, -1),
    "float64": lambda x, _: x / 255,
    "float32": lambda x, _: x / np.float32(255),
    "a view": lambda x, _: np.repeat(x, 2, axis=0)[::2],
    "Fortran order": lambda x, _: np.asfortranarray(x),
    "a list of arrays": lambda x, _: list(x[:, 0]),
    "a tuple of arrays": lambda x, _: tuple(x),
    "PIL": lambda x, _: [Image.fromarray(image[0]) for image in x],
    "paths": lambda _, paths: paths,
    "names": lambda _, paths: [str(path) for path in paths],
    "PIL and paths": lambda x, paths: [Image.fromarray(x[0, 0]), *paths[1:3], str(paths[3])],
}


@pytest.mark.parametrize("kind", INPUTS)
def test_images_of_every_kind(
    server: Server, http: httpx.Client, use: Use, four: Images, paths: list[Path], kind: str
) -> None:
    images = INPUTS[kind](four, paths)
    expected = ask(http, "/encode", uint8_body(four))
    found = use(server.url, "encode", images)
    assert isinstance(found, Encoding)
    for values, name in zip(found, ("mu", "sigma"), strict=True):
        assert values.dtype == np.float32
        assert values.shape == (4, 10)
        assert values == near(expected[name])

    scores = use(server.url, "anomaly_score", images, alpha=0.05, score="mse")
    assert isinstance(scores, AnomalyScores)
    expected = ask(http, "/anomaly-score?alpha=0.05&score=mse&map=true", uint8_body(four))
    for name in ("score", "mse", "kl"):
        values = getattr(scores, name)
        assert values.dtype == np.float32
        assert values == near(expected[name])
    for name in ("p_value", "is_anomaly"):
        assert getattr(scores, name).tolist() == pytest.approx(expected[name], abs=2e-4)
    for name in ("threshold", "score_type", "alpha"):
        assert getattr(scores, name) == expected[name]
    drawn, again = (
        use(server.url, "anomaly_score", images, score="iwae", samples=4, seed=7) for _ in range(2)
    )
    assert drawn.score.tolist() == again.score.tolist()
    assert drawn.p_value is drawn.is_anomaly is drawn.threshold is None
    discovered = use(server.url, "anomaly_score", images, alpha=0.5, fdr=True)
    bounded = ask(http, "/anomaly-score?alpha=0.5&fdr=bh", uint8_body(four))
    assert discovered.is_anomaly.tolist() == bounded["is_anomaly"]

    anomaly_map = use(server.url, "anomaly_map", images)
    assert anomaly_map.shape == (4, 28, 28)
    assert anomaly_map == near(expected["anomaly_map"])
    back = use(server.url, "reconstruct", images)
    assert back.dtype == np.float32
    assert back == near(ask(http, "/reconstruct", uint8_body(four))["images"])
    drawn = use(server.url, "reconstruct", images, sample=True, seed=7)
    query = "/reconstruct?sample=true&seed=7"
    assert drawn == near(ask(http, query, uint8_body(four))["images"])


def test_one_image_may_come_alone(server: Server, use: Use, four: Images) -> None:
    together = use(server.url, "encode", four).mu
    assert use(server.url, "encode", four[2, 0]).mu == near(together[2:3])


def test_latents_samples_and_the_model(server: Server, http: httpx.Client, use: Use) -> None:
    z = np.random.default_rng(5).standard_normal((3, 10))
    expected = ask(http, "/decode", {"z": z.astype(np.float32).tolist()})["images"]
    for latents in (z, z.astype(np.float32), z.tolist()):
        found = use(server.url, "decode", latents)
        assert found.dtype == np.float32
        assert found == near(expected)
    assert use(server.url, "decode", z[0]) == near(expected[:1])

    expected = ask(http, "/decode", {"n": 5, "seed": 11})["images"]
    assert use(server.url, "sample", 5, seed=11) == near(expected)
    assert use(server.url, "sample").shape == (1, 28, 28)
    cold = use(server.url, "sample", 2, temperature=0)
    assert cold == near(ask(http, "/decode", {"z": [[0] * 10] * 2})["images"])
    warm = np.load(
        BytesIO(
            http.get(
                "/sample?n=5&seed=11&temperature=0.5", headers={"Accept": "application/x-npy"}
            ).content
        )
    )
    assert use(server.url, "sample", 5, seed=11, temperature=0.5) == near(warm)
    assert use(server.url, "model") == http.get("/model").json()
    assert use(f"{server.url}/", "model") == http.get("/model").json()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"]
)
def test_pil_images_of_every_mode(server: Server, use: Use, four: Images, mode: str) -> None:
    grey = four[1, 0] // 128 * 255  # black and white are the same in all of them
    image = Image.fromarray(grey)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    assert image.mode == mode
    expected = use(server.url, "encode", grey).mu
    assert use(server.url, "encode", [image]).mu == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pil_images_without_a_white_are_refused(use: Use, four: Images, mode: str) -> None:
    """0..1, 0..255 or anything: guessing would make black or white of them, in silence."""
    with pytest.raises(TypeError, match=mode):
        use("http://127.0.0.1:1", "encode", [Image.fromarray(four[0, 0]).convert(mode)])


def test_a_pil_image_is_what_its_file_is(
    server: Server, use: Use, four: Images, tmp_path: Path
) -> None:
    """Opened by the caller or by the service: a camera that was held upright tells so by Exif."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(np.rot90(four[2, 0])).save(path, exif=exif)
    upright = use(server.url, "encode", four[2, 0]).mu
    assert use(server.url, "encode", [path]).mu == near(upright)
    with Image.open(path) as image:
        assert use(server.url, "encode", [image]).mu == near(upright)


# What goes wrong


def test_a_problem_s_fields_are_the_exception_s(
    server: Server, http: httpx.Client, use: Use, four: Images
) -> None:
    spoilt = (four / 255).astype(np.float64)
    spoilt[3, 0, 0, 0] = 7
    with pytest.raises(ProblemError) as caught:
        use(server.url, "encode", spoilt)
    error = caught.value
    assert isinstance(error, ClientError)
    file = BytesIO()
    np.save(file, spoilt)
    problem = http.post("/encode", content=file.getvalue()).json()
    assert error.status == problem["status"] == 422
    assert (error.title, error.detail) == (problem["title"], problem["detail"])
    assert error.errors == problem["errors"]
    assert "images[3]" in error.detail
    assert len(error.request_id) == len(problem["request_id"])
    assert error.retry_after_s is None
    for part in ("422", error.title, error.detail):
        assert part in str(error)


@pytest.mark.parametrize(
    ("method", "arguments", "options", "status"),
    [
        ("encode", [np.zeros((2, 27, 28))], {}, 422),
        ("encode", [np.zeros((2, 28, 28), np.int64)], {}, 422),
        ("encode", [np.zeros((9_000, 28, 28), np.uint8)], {}, 413),
        ("anomaly_score", [np.zeros((1, 28, 28))], {"alpha": 2.0}, 422),
        ("anomaly_score", [np.zeros((1, 28, 28))], {"score": "nope"}, 422),
        ("decode", [np.full((1, 10), np.nan)], {}, 422),
        ("sample", [9_000], {}, 413),
        ("sample", [1], {"seed": -1}, 422),
    ],
)
def test_what_the_service_refuses(
    server: Server, use: Use, method: str, arguments: Any, options: Any, status: int
) -> None:
    with pytest.raises(ProblemError) as caught:
        use(server.url, method, *arguments, **options)
    assert caught.value.status == status


def test_a_non_image_is_refused_before_it_is_sent(use: Use, four: Images, tmp_path: Path) -> None:
    """Nothing listens at this address."""
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(TypeError, match="arrays and image files"):
        use(url, "encode", [Image.fromarray(four[0, 0]), four[0]])
    with pytest.raises(FileNotFoundError):
        use(url, "encode", [tmp_path / "none.png"])
