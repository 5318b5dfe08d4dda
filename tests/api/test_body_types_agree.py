"""The same scores for the same 1,000 MNIST test images, from any client and in any body type."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from numpy.typing import NDArray

from model.engine.engine import Engine
from service.client import Client
from tests.api.helpers import base64_file, image_file
from tests.processes import Server

Images = NDArray[np.uint8]
Scores = NDArray[np.float64]

N = 1_000
OPTIONS = ["--silent", "--show-error", "--fail-with-body"]
TYPES = {"raw": "application/octet-stream", "npy": "application/x-npy", "json": "application/json"}


@pytest.fixture(scope="module")
def images(test_images: Callable[[str], Images]) -> Images:
    found = test_images("mnist")[:N]
    assert found.shape == (N, 1, 28, 28)
    return found


@pytest.fixture(scope="module")
def expected(server: Server, images: Images) -> Scores:
    """By httpx and JSON numbers."""
    body = {"images": images[:, 0].tolist(), "dtype": "uint8"}
    with server.client() as client:
        answer = client.post("/anomaly-score", json=body).raise_for_status().json()
    assert len(set(answer["score"])) > N * 0.99
    return np.array(answer["score"])


def test_the_scores_are_the_network_s(engine: Engine, images: Images, expected: Scores) -> None:
    """Each image's own, in the order in which they were sent."""
    assert expected == pytest.approx(engine.score(images).score, rel=1e-4, abs=1e-6)


@pytest.fixture
def curl(server: Server, tmp_path: Path) -> Callable[..., Any]:
    """The answer to `curl …`, run in `tmp_path`."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def run(line: str, route: str = "/anomaly-score", *, parse: bool = True) -> Any:
        done = subprocess.run(  # noqa: S603 - our own lines
            ["curl", *OPTIONS, *shlex.split(line), f"{server.url}{route}"],  # noqa: S607
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (done.stderr, done.stdout[:500])
        return np.array(json.loads(done.stdout)["score"]) if parse else done.stdout

    return run


def npy(array: NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def bodies(images: Images) -> dict[str, bytes]:
    return {
        "raw": images.tobytes(),
        "npy": npy(images),
        "json": json.dumps({"images": images[:, 0].tolist(), "dtype": "uint8"}).encode(),
    }


@pytest.mark.parametrize("kind", TYPES)
def test_curl_by_type(
    curl: Callable[..., Any], tmp_path: Path, images: Images, expected: Scores, kind: str
) -> None:
    (tmp_path / kind).write_bytes(bodies(images)[kind])
    assert (curl(f"--data-binary @{kind} -H 'Content-Type: {TYPES[kind]}'") == expected).all()
    if kind != "raw":
        assert (curl(f"--data-binary @{kind}") == expected).all(), "known without being named"


def test_curl_with_files(
    curl: Callable[..., Any], tmp_path: Path, images: Images, expected: Scores
) -> None:
    lines = []
    for i, image in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(image_file(image))
        lines.append(f'form = "images=@{i}.png"')
    (tmp_path / "form").write_text("\n".join(lines))
    assert (curl("--config form") == expected).all()
    texts = [base64_file(image) for image in images]
    (tmp_path / "json").write_text(json.dumps({"images": texts}))
    assert (curl("--data-binary @json -H 'Content-Type: application/json'") == expected).all()


def test_curl_with_one_file(
    curl: Callable[..., Any], tmp_path: Path, images: Images, expected: Scores
) -> None:
    """Alone it shares no batch, which may change the last bits."""
    for file_format in ("PNG", "BMP", "WEBP", "TIFF"):
        (tmp_path / "digit").write_bytes(image_file(images[7], file_format))
        by_name = curl(f"--data-binary @digit -H 'Content-Type: image/{file_format.lower()}'")
        assert (curl("--data-binary @digit") == by_name).all()
        assert by_name == pytest.approx(expected[7:8], rel=1e-5)


def test_curl_with_a_compressed_body(
    curl: Callable[..., Any], tmp_path: Path, images: Images, expected: Scores
) -> None:
    (tmp_path / "raw").write_bytes(images.tobytes())
    subprocess.run(["gzip", "raw"], cwd=tmp_path, check=True)  # noqa: S607
    line = f"--data-binary @raw.gz -H 'Content-Type: {TYPES['raw']}' -H 'Content-Encoding: gzip'"
    assert (curl(line) == expected).all()
    assert (curl(f"{line} --compressed") == expected).all(), "and a compressed answer"


def test_curl_for_arrays(
    curl: Callable[..., Any], tmp_path: Path, images: Images, expected: Scores
) -> None:
    (tmp_path / "npy").write_bytes(npy(images))
    answer = curl(f"--data-binary @npy -H 'Accept: {TYPES['npy']}'", parse=False)
    scores = np.load(BytesIO(answer), allow_pickle=False)
    assert (scores == expected.astype(np.float32)).all()
    answer = curl(f"--data-binary @npy -H 'Accept: {TYPES['raw']}'", parse=False)
    assert answer == scores.astype("<f4").tobytes()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_triton_s_client(
    server: Server, images: Images, expected: Scores, datatype: str, binary: bool
) -> None:
    array = images if datatype == "UINT8" else (images / np.float32(255)).astype(np.float32)
    tensor = triton.InferInput("images", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        result = client.infer("anomaly-score", [tensor])
    score = result.as_numpy("score")
    assert score.dtype == np.float32
    if datatype == "UINT8":
        assert (score == expected.astype(np.float32)).all()
    else:
        assert score == pytest.approx(expected, abs=1e-6)


def test_the_python_client(
    server: Server, images: Images, expected: Scores, tmp_path: Path
) -> None:
    with Client(server.url) as client:
        assert (client.anomaly_score(images).score == expected.astype(np.float32)).all()
        floats = client.anomaly_score(images / 255).score
        assert floats == pytest.approx(expected, abs=1e-6)
        streamed = [score.score for score in client.iter_scores(images)]
        assert np.array(streamed) == pytest.approx(expected, rel=1e-5)
        paths = [tmp_path / f"{i}.png" for i in range(N)]
        for path, image in zip(paths, images, strict=True):
            path.write_bytes(image_file(image))
        assert (client.anomaly_score(paths).score == expected.astype(np.float32)).all()
