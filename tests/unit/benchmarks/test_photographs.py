"""The photographs of the benchmarks: files, bodies, networks, checks and tables."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks import photographs as measured
from benchmarks.machine import hardware
from benchmarks.peers import photographs
from benchmarks.peers.environment import PeerError
from benchmarks.peers.photographs import JPEG_12, NETWORKS, PNG_256, Photograph, make_network, scene
from benchmarks.peers.plain import create_photograph_app
from benchmarks.peers.table import BOUNDARY, SERVERS
from benchmarks.servers import NoAnswerError, free_port
from benchmarks.workloads import PHOTOGRAPH_CONNECTIONS, check_with, photograph_workloads
from model.bundle.bundle import load_bundle
from model.engine.engine import Engine
from model.images.preprocessing import SCALED
from model.training import backbone_weights
from tests.unit.model.features.detectors import calibrated_bundle

PHOTOGRAPH = Photograph(name=PNG_256, media_type="image/png", data=bytes(range(256)) * 2)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> tuple[Photograph, ...]:
    """In place of those that are measured: the larger is four times as wide as the network's."""
    files = {PNG_256: ("PNG", 40, 100), JPEG_12: ("JPEG", 300, 400)}
    monkeypatch.setattr(photographs, "FILES", files)
    made: tuple[Photograph, ...] = photographs.photographs.__wrapped__()
    for module in ("benchmarks.peers.photographs", "benchmarks.workloads"):
        monkeypatch.setattr(f"{module}.photographs", lambda: made)
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The bundle of a detector that has JPEG files scaled down."""
    replace(calibrated_bundle(3), preprocessing=SCALED).save(tmp_path, "")
    return tmp_path


def test_scenes_are_reproducible_and_vary_at_every_scale() -> None:
    pixels = scene(1, 96, 128)
    assert pixels.shape == (96, 128, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == scene(1, 96, 128)).all()
    assert (pixels != scene(2, 96, 128)).any()
    assert 15 < pixels.std() < 70
    cells = pixels.reshape(6, 16, 8, 16, 3).mean(axis=(1, 3))
    assert cells.std() > 10, "light and dark"
    assert np.abs(np.diff(pixels.astype(int), axis=1)).mean() > 2, "noise"


def test_files_have_their_format_and_size(small_files: tuple[Photograph, ...]) -> None:
    opened = [Image.open(BytesIO(file.data)) for file in small_files]
    assert [(image.format, image.size) for image in opened] == [
        ("PNG", (100, 40)),
        ("JPEG", (400, 300)),
    ]
    assert [file.media_type for file in small_files] == ["image/png", "image/jpeg"]


def test_those_that_are_measured_have_the_sizes_in_their_names() -> None:
    sizes = {name: (height, width) for name, (_, height, width) in photographs.FILES.items()}
    assert sizes[PNG_256] == (256, 256)
    assert sizes[JPEG_12][0] * sizes[JPEG_12][1] == 12_000_000
    assert 0.9e6 < np.prod(sizes[photographs.JPEG_1]) < 1.1e6


def in_form(headers: dict[str, str], body: bytes) -> bytes:
    assert headers["Content-Type"] == f"multipart/form-data; boundary={BOUNDARY}"
    head, _, rest = body.partition(b"\r\n\r\n")
    assert b'name="photo"' in head
    return rest.removesuffix(f"\r\n--{BOUNDARY}--\r\n".encode())


def in_binary_tensor(headers: dict[str, str], body: bytes) -> bytes:
    size = int(headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:size])["inputs"]
    data = body[size:]
    assert tensor["parameters"]["binary_data_size"] == len(data)
    assert int.from_bytes(data[:4], "little") == len(data) - 4
    return data[4:]


DECODERS: dict[str, Callable[[dict[str, str], bytes], bytes]] = {
    "ours": lambda headers, body: body if headers["Content-Type"] == "image/png" else b"",
    "ray": lambda headers, body: body,
    "plain": in_form,
    "bentoml": in_form,
    "litserve": lambda headers, body: b64decode(json.loads(body)["photo"]),
    "mlserver": lambda headers, body: b64decode(json.loads(body)["inputs"][0]["data"][0]),
    "triton": in_binary_tensor,
}


def test_every_server_with_a_network_takes_photographs() -> None:
    assert set(DECODERS) == {name for name, server in SERVERS.items() if not server.fixed}
    assert set(measured.Plan().servers) == set(DECODERS)
    with pytest.raises(ValueError, match="null takes no photographs"):
        SERVERS["null"].photograph_request(PHOTOGRAPH)


@pytest.mark.parametrize("name", DECODERS)
def test_the_file_is_in_the_body(name: str) -> None:
    path, headers, body = SERVERS[name].photograph_request(PHOTOGRAPH)
    assert path == SERVERS[name].path
    assert DECODERS[name](headers, body) == PHOTOGRAPH.data


def test_plain_fastapi_gives_the_score_that_is_expected_of_it(
    directory: Path, small_files: tuple[Photograph, ...]
) -> None:
    workloads = photograph_workloads(SERVERS["plain"], directory)
    assert [workload.name for workload in workloads] == [file.name for file in small_files]
    app = httpx.ASGITransport(create_photograph_app(directory))

    async def answers() -> list[bytes]:
        async with httpx.AsyncClient(transport=app, base_url="http://plain") as client:
            requests = [workload.request for workload in workloads]
            return [
                (await client.post(path, headers=headers, content=body)).content
                for path, headers, body in requests
            ]

    first, second = asyncio.run(answers())
    workloads[0].check(first)
    workloads[1].check(second)
    with pytest.raises(ValueError, match="not"):
        workloads[0].check(second)


def test_this_service_is_expected_to_scale_large_jpegs_and_others_to_decode_them_whole(
    directory: Path, small_files: tuple[Photograph, ...]
) -> None:
    ours, theirs = (
        photographs.expected_scores(directory, "fused", scales_jpeg=scales_jpeg)
        for scales_jpeg in (True, False)
    )
    assert ours[0] == theirs[0], "a PNG"
    assert ours[1] != theirs[1], "a JPEG"
    assert ours[1] == pytest.approx(theirs[1], rel=0.2)


def test_nothing_that_answers_yet_is_no_answer_and_not_a_wrong_one(
    directory: Path, small_files: tuple[Photograph, ...]
) -> None:
    check = check_with(photograph_workloads(SERVERS["ours"], directory))
    with pytest.raises(NoAnswerError, match=f"{PNG_256}: ConnectionRefusedError"):
        check(SERVERS["ours"], free_port(), 1)
    check(SERVERS["ours"], free_port(), 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_made_without_any_data(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "PICTURES", 8)
    monkeypatch.setattr(photographs, "STEPS", 2)
    monkeypatch.setattr(backbone_weights, "is_installed", lambda: False)
    monkeypatch.setattr("model.training.onnx_export.with_graphs", lambda bundle, _: bundle)
    bundle = load_bundle(make_network(name, tmp_path))
    side, downscale = NETWORKS[name]
    assert bundle.config.image_shape == (3, side, side)
    assert (bundle.config.architecture, bundle.config.downscale) == ("conv", downscale)
    assert (bundle.detector is not None) == (name == "features")
    assert bundle.preprocessing == SCALED
    assert bundle.calibration is not None
    image = scene(0, side, side).transpose(2, 0, 1).reshape(1, -1)
    assert np.isfinite(Engine(bundle, device="cpu").score(image).score).all()


def test_servers_are_chosen_by_name_and_those_of_other_rows_are_left_out() -> None:
    assert measured._chosen("triton,ours") == ("ours", "triton")
    assert measured._chosen("engine,ours,null,ours-by-two") == ("ours",)
    assert measured._chosen("null") == ()
    with pytest.raises(ValueError, match="no such server: nonsense; there are"):
        measured._chosen("ours,nonsense")


def test_a_server_that_cannot_be_started_is_an_error_beside_the_others(
    directory: Path, small_files: tuple[Photograph, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def running(*_: Any, **__: Any) -> None:
        raise PeerError("it ended")

    monkeypatch.setattr(measured, "running", running)
    figures = measured.measure_server(SERVERS["ours"], directory, measured.Plan())
    assert figures == {"workloads": {}, "error": "it ended"}


def figures(requests_per_s: float) -> dict[str, Any]:
    one = {
        "requests_per_s": requests_per_s,
        "p50_ms": 1000 / requests_per_s,
        "p99_ms": 2000 / requests_per_s,
        "cpu_s_per_1000_images": 7.0,
        "requests": 9,
        "errors": 0,
    }
    by_connections = {str(connections): one for connections in PHOTOGRAPH_CONNECTIONS}
    workloads = {PNG_256: by_connections, JPEG_12: by_connections}
    return {"workloads": workloads, "ready_s": 1.5, "ready_MiB": 300.0, "used_MiB": 310.0}


def some_results() -> dict[str, Any]:
    shared = {"score": "fused", "runtime": "ONNX Runtime 1.2", "image_shape": (3, 64, 48)}
    return {
        "command": "make bench-photographs",
        "date": "2030-01-01",
        "commit": "0123456789ab",
        "hardware": hardware(),
        "versions": {"python": "3.11.7", "servers": {"ours": {"vae-service": "0.1"}}},
        "plan": {"rounds": 2, "seconds": 1},
        "bytes": {PNG_256: 116_000, JPEG_12: 3_200_000},
        "networks": {
            "conv": shared | {"backbone": None},
            "features": shared | {"score": "combined", "backbone": "EfficientNet"},
        },
        "rounds": [
            {
                "conv": {"ours": figures(ours), "plain": figures(10), "ray": {"error": "it ended"}},
                "features": {"ours": figures(2 * ours), "plain": figures(10)},
            }
            for ours in (20, 30)
        ],
    }


def test_the_report_has_ratios_of_the_same_round_and_a_table_for_each_file() -> None:
    text = measured.markdown(some_results())
    conv, features = text.split("\n## features\n")
    ratios = "| FastAPI of an afternoon " + "| 2.50 (2.00–3.00) " * 4 + "|"
    assert ratios in conv
    assert ratios.replace("2.50 (2.00–3.00)", "5.00 (4.00–6.00)") in features
    assert "**Ray Serve failed** in round 1, 2: it ended" in conv
    assert "**Ray" not in features
    assert "resized to 48×64 pixels. The score is `fused`, and `mse` in FastAPI" in conv
    assert "a detector (its backbone: EfficientNet). Images" in features
    assert "The file has 3,200 kB." in features
    for network in NETWORKS:
        assert f"\n### {JPEG_12}: {network}\n" in text
    assert "| this service | 25.0 (20.0–30.0) |" in conv
    assert "| this service | 1.50 (1.50–1.50) | 300 (300–300) | 310 (310–310) |" in conv
    for table in text.split("\n\n"):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1


def test_the_report_is_written_beside_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    measured.write(some_results())
    written = json.loads((tmp_path / "photographs.json").read_text())
    assert measured.markdown(written) == (tmp_path / "photographs.md").read_text()
