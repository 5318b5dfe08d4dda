"""What only a GPU shows: `pytest -m gpu` on a machine that has one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.bundle.bundle import find_bundle, load_bundle
from model.engine.cuda import CudaBackend
from model.engine.engine import Engine
from model.scores.detected import DETECTED_SCORES
from service.inference.health import EXIT_STATUS
from tests.api.helpers import uint8_body
from tests.processes import Server, children, wait_until
from tests.unit.model.features.detectors import calibrated_bundle, clean, defective

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

POISON = """
import asyncio, torch
from service.inference import health
from service.app import create_app
from service.errors import NotReadyError
from service.settings import Settings

health.READY_FOR_S = 0.0

async def main():
    service = create_app(
        Settings(device="cuda", max_batch_images=8, stall_timeout_s=1)
    ).state.service
    await service.health.check_ready()
    print("ready", flush=True)
    watch = asyncio.create_task(service.health.watch())
    try:
        torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")]  # a device-side assertion
        torch.cuda.synchronize()
    except RuntimeError:
        pass
    try:
        await service.health.check_ready()
    except NotReadyError as error:
        print("not ready:", error.detail, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


NETWORKS = ["mnist", "mnist-conv"]


@pytest.fixture(scope="module", params=NETWORKS)
def engines(request: pytest.FixtureRequest) -> tuple[Engine, Engine]:
    bundle = load_bundle(find_bundle(request.param))
    on_gpu = Engine(bundle, device="cuda")
    on_gpu.warm_up(64)
    return Engine(bundle, device="cpu", threads=1), on_gpu


def test_it_agrees_with_the_cpu(engines: tuple[Engine, Engine], digits: NDArray[np.uint8]) -> None:
    cpu, gpu = engines
    for n in (1, 2, 5, 64, 100):
        images = digits[:n]
        for name in ("encode", "reconstruct", "score", "score_map"):
            for one, other in zip(
                getattr(cpu, name)(images), getattr(gpu, name)(images), strict=True
            ):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_bytes_and_floats_agree(engines: tuple[Engine, Engine], digits: NDArray[np.uint8]) -> None:
    _, gpu = engines
    for n in (1, 64):
        images = digits[:n]
        for one, other in zip(gpu.score(images), gpu.score(images / np.float32(255)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_known_image_has_its_scores_in_each_type(name: str, dtype: str) -> None:
    engine = Engine(load_bundle(find_bundle(name)), device="cuda", dtype=dtype)
    assert engine.is_right(engine.score(engine.probe, "mse"))


@pytest.mark.parametrize("name", NETWORKS)
def test_recordings_share_their_memory(name: str) -> None:
    """Otherwise each of some 200 recordings would keep what it needs while it runs."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    engine = Engine(load_bundle(find_bundle(name)), device="cuda")
    engine.warm_up(1024)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - before < 2 << 30


# A detector


@pytest.fixture(scope="module")
def photographs() -> NDArray[np.uint8]:
    """Clean ones and ones with a defect, (12, 3, H, W)."""
    return np.concatenate([clean(6, 3, seed=9), defective(6, 3)])


@pytest.fixture(scope="module")
def detectors() -> tuple[Engine, Engine]:
    """The same bundle by torch on the CPU and on the GPU."""
    bundle = calibrated_bundle(3)
    on_gpu = Engine(bundle, device="cuda")
    on_gpu.warm_up(8)
    return Engine(bundle, device="cpu", threads=1), on_gpu


@pytest.mark.parametrize("name", DETECTED_SCORES)
def test_a_detector_agrees_with_the_cpu(
    name: str, detectors: tuple[Engine, Engine], photographs: NDArray[np.uint8]
) -> None:
    """Rounding in float32 is about 1e-5 here; with TF32, scores would be off by 1e-2."""
    cpu, gpu = detectors
    assert name in gpu.scaled_maps
    for n in (1, 5, 12):
        images = photographs[-n:]
        for rows in (images, images / np.float32(255)):
            for method in ("score", "score_map"):
                for one, other in zip(
                    getattr(cpu, method)(images, name),
                    getattr(gpu, method)(rows, name),
                    strict=True,
                ):
                    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3, strict=True)


def test_a_detector_s_p_values_are_those_of_the_cpu(
    detectors: tuple[Engine, Engine], photographs: NDArray[np.uint8]
) -> None:
    cpu, gpu = detectors
    assert gpu.calibration is not None
    for name in DETECTED_SCORES:
        one, other = (
            gpu.calibration.p_values(name, engine.score(photographs, name).score)
            for engine in (cpu, gpu)
        )
        # A score may lie as close to a calibration image's as rounding.
        np.testing.assert_allclose(other, one, atol=1.01 / (gpu.calibration.n + 1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_leaves_a_detector_alone(
    dtype: str, detectors: tuple[Engine, Engine], photographs: NDArray[np.uint8]
) -> None:
    _, gpu = detectors
    half = Engine(gpu.bundle, device="cuda", dtype=dtype)
    for name in DETECTED_SCORES:
        found, expected = half.score_map(photographs, name), gpu.score_map(photographs, name)
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-4)


def test_a_detector_warms_up_in_little_memory(detectors: tuple[Engine, Engine]) -> None:
    """With the batch that it serves with by default."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    engine = Engine(detectors[1].bundle, device="cuda")
    engine.warm_up(engine.best_batch)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() - before < 2 << 30
    assert engine.quick_images == 0


def test_a_network_is_recorded_while_another_serves(digits: NDArray[np.uint8]) -> None:
    """As when a bundle is loaded again. What one thread has recorded, another one replays."""
    bundle = load_bundle(find_bundle("mnist"))
    images = digits[:64]

    def load() -> Engine:
        engine = Engine(bundle, device="cuda")
        engine.warm_up(64)
        return engine

    serving = load()
    expected = serving.score(images).score
    noise = np.zeros((64, bundle.config.latent_size), np.float32)
    with ThreadPoolExecutor(1) as executor:
        loading = executor.submit(load)
        while not loading.done():
            np.testing.assert_allclose(serving.score(images).score, expected, rtol=1e-5)
            serving.reconstruct_drawn(serving.reconstruct_rows(images, noise))
        loaded = loading.result()
    np.testing.assert_allclose(loaded.score(images).score, expected, rtol=1e-5, atol=1e-5)


def test_memory_that_runs_out_splits_the_batch(digits: NDArray[np.uint8]) -> None:
    bundle = load_bundle(find_bundle("mnist"))
    engine = Engine(bundle, device="cuda")
    expected = engine.score(digits[:64]).score
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
    try:
        many = np.tile(
            digits[:64].reshape(64, -1), (128, 1)
        )  # 8,192 images, 26 MB an array of them
        np.testing.assert_allclose(engine.score(many).score[:64], expected, rtol=1e-4, atol=1e-4)
        assert isinstance(engine._backend, CudaBackend)
        assert engine._backend.max_rows("score fused") < 8192
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_forked_workers_use_the_gpu(
    start_server: Callable[..., Server], engine: Engine, digits: NDArray[np.uint8]
) -> None:
    """The fork server must not: what has opened a GPU cannot pass it to a process it forks."""
    server = start_server("--workers", "2", "--device", "cuda")
    (fork_server,) = children(server.process.pid, "vae-fork-server")
    opened = [str(file.readlink()) for file in Path(f"/proc/{fork_server}/fd").iterdir()]
    assert not [path for path in opened if "nvidia" in path]
    before = children(server.process.pid)
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: server.log.read_text().count("is in memory on cuda") == 3, 60)
    expected = engine.score(digits[:8]).score
    for _ in range(8):  # over connections of their own, to reach both workers
        with server.client() as client:
            scored = client.post("/anomaly-score", json=uint8_body(digits[:8])).json()["score"]
        np.testing.assert_allclose(scored, expected, rtol=1e-4, atol=1e-4)


def test_a_poisoned_context_is_not_ready_and_then_the_end() -> None:
    """In a process of its own: nothing on the GPU works in it from then on."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", POISON], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.startswith("ready\nnot ready: a forward pass failed"), done.stderr
    assert done.returncode == EXIT_STATUS
