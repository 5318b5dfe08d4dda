"""Batches to an accelerator and back: all but the device's own calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from model.bundle.bundle import Bundle, find_bundle, load_bundle
from model.config import VAEConfig
from model.engine import device as device_module
from model.engine.cuda import BATCH_PIXELS, DETECTOR_BATCH, MAX_BATCH, CudaBackend
from model.engine.engine import Engine
from model.engine.staging import Buffers, Staging
from model.scores.detected import DETECTED_SCORES
from tests.unit.model.engine.host_accelerator import HostAccelerator, staged_backend
from tests.unit.model.features.detectors import detector_bundle, photographs
from tests.unit.samples import tiny_bundle

WIDTH = 6
MOST = 32


def run(rows: Tensor) -> Tensor:
    """Two columns, of which each row has its own."""
    return torch.stack([rows.sum(dim=1), rows[:, 0] - rows[:, -1]], dim=1)


def staging_on(accelerator: HostAccelerator) -> Staging:
    return Staging(accelerator, Buffers(accelerator), run, WIDTH, MOST)


def expected(rows: NDArray[Any]) -> NDArray[np.float32]:
    floats = rows / np.float32(255) if rows.dtype == np.uint8 else rows
    return run(torch.from_numpy(floats.astype(np.float32).reshape(len(rows), -1))).numpy()


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 2**31),
)
def test_rows_go_there_and_come_back(batches: list[list[tuple[int, bool]]], seed: int) -> None:
    """Any sizes, in one array or several, bytes or floats or both, one batch after another."""
    random = np.random.default_rng(seed)
    staging = staging_on(HostAccelerator())
    kept = []
    for batch in batches:
        parts: list[NDArray[Any]] = [
            random.integers(0, 256, (n, 2, 3), dtype=np.uint8)
            if of_bytes
            else random.random((n, WIDTH), dtype=np.float32)
            for n, of_bytes in batch
        ]
        found = staging(parts if len(parts) > 1 else parts[0])
        kept.append((found, np.concatenate([expected(part) for part in parts])))
    for found, wanted in kept:  # at the end: no result may lie where a later one was put
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_one_recording_a_power_of_two() -> None:
    accelerator = HostAccelerator()
    staging = staging_on(accelerator)
    for n in (1, 2, 3, 4, 5, 7, 8, 8, 17, 31, 32, 1):
        staging(np.zeros((n, WIDTH), np.uint8))
    assert accelerator.recorded == [1, 2, 4, 8, 32]
    assert accelerator.replays == accelerator.waits == 12  # and each batch is waited for once
    staging(np.zeros((3, WIDTH), np.float32))
    assert accelerator.recorded[5:] == [4]


def test_memory_that_runs_out_halves_the_batches(caplog: pytest.LogCaptureFixture) -> None:
    accelerator = HostAccelerator(rows_that_fit=8)
    staging = staging_on(accelerator)
    rows = np.random.default_rng(0).random((30, WIDTH), dtype=np.float32)
    np.testing.assert_allclose(staging(rows), expected(rows), rtol=1e-6)
    assert staging.max_rows == 7  # 30, 15, 7, of which the next power of two fits
    assert "at most 7 rows" in caplog.text
    caplog.clear()
    np.testing.assert_allclose(staging(rows), expected(rows), rtol=1e-6)
    assert not caplog.text  # the size is remembered


def test_where_not_even_one_row_fits() -> None:
    staging = staging_on(HostAccelerator(rows_that_fit=0))
    with pytest.raises(torch.OutOfMemoryError):
        staging(np.zeros((5, WIDTH), np.uint8))


# The engine through it


class Roomy:
    """A network's decoder on a device that runs out of memory above so many latents."""

    def __init__(self, decode: Callable[[Tensor], Tensor], latents_that_fit: int) -> None:
        self.decode = decode
        self.latents_that_fit = latents_that_fit
        self.tried: list[int] = []

    def __call__(self, z: Tensor) -> Tensor:
        self.tried.append(len(z))
        if len(z) > self.latents_that_fit:
            raise torch.OutOfMemoryError("out of memory")
        return self.decode(z)


@pytest.mark.parametrize("kind", ["draw", "reconstruct_drawn"])
def test_memory_that_runs_out_halves_drawn_passes_too(
    kind: str, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(find_bundle("mnist-conv"))
    plain = Engine(bundle, device="cpu", threads=1)
    staged = CudaBackend(bundle, torch.device("cpu"), "float32", HostAccelerator(), "the host")
    noise = np.random.default_rng(0).standard_normal((21, 2, bundle.config.latent_size), np.float32)
    images = digits[:21]
    if kind == "draw":
        rows, options = plain.draw_rows(images, noise), [2]
    else:
        rows, options = plain.reconstruct_rows(images, noise[:, 0]), []
    network = staged._passes.network
    decoder = Roomy(network.decode, 12)
    monkeypatch.setattr(network, "decode", decoder)
    expected = getattr(plain, kind)(rows, *options)
    found = getattr(staged, kind)([rows[:20], rows[20:]], *options)
    assert type(found) is type(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)
    assert max(decoder.tried) > decoder.latents_that_fit
    decoder.tried.clear()
    getattr(staged, kind)(rows, *options)
    assert max(decoder.tried) <= decoder.latents_that_fit  # the size is remembered


@pytest.fixture(params=["mnist", "mnist-conv"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(find_bundle(request.param))


def test_an_engine_that_stages_agrees_with_one_that_does_not(
    bundle: Bundle, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Engine(bundle, device="cpu", threads=1)
    accelerator = HostAccelerator()
    monkeypatch.setattr(device_module, "accelerator_of", lambda _: accelerator)
    staged = Engine(bundle, device="cpu", threads=1)
    staged.warm_up(8)
    assert accelerator.replays
    assert staged.quick_images == 0  # a GPU may hang, and then the event loop must not
    recorded = len(accelerator.recorded)
    images = digits[:21]
    mu = plain.encode(images).mu
    for one, other in [
        (plain.encode(images), staged.encode(images)),
        (plain.decode(mu), staged.decode(mu)),
        (plain.reconstruct(images), staged.reconstruct(images)),
        (plain.score_map(images), staged.score_map(images)),
        *(
            (plain.score(images, name), staged.score(images, name))
            for name in plain.scores
            if name not in plain.sampled_scores
        ),
    ]:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
            assert a.shape == b.shape
            assert b.dtype == np.float32
    staged.score([digits[:3], digits[:2] / np.float32(255)])
    staged.encode(digits[:8] / np.float32(255))
    assert len(accelerator.recorded) == recorded  # none of it waited for a recording


def test_every_score_of_a_detector_is_recorded_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not while the first client waits: one recording a size and type serves all of them."""
    bundle = detector_bundle()
    images = photographs(5)
    plain = Engine(bundle, device="cpu", threads=1)
    accelerator = HostAccelerator()
    monkeypatch.setattr(device_module, "accelerator_of", lambda _: accelerator)
    staged = Engine(bundle, device="cpu", threads=1)
    staged.warm_up(8)
    recorded = len(accelerator.recorded)
    assert staged.scaled_maps == DETECTED_SCORES
    for name in DETECTED_SCORES:
        for rows in (images, images / np.float32(255)):
            found = staged.score(rows, name)
            for one, other in zip(found, plain.score(images, name), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, strict=True)
    staged.score_map(images)
    assert len(accelerator.recorded) == recorded


def test_passes_and_sizes_share_their_memory(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator = HostAccelerator()
    monkeypatch.setattr(device_module, "accelerator_of", lambda _: accelerator)
    engine = Engine(bundle, device="cpu", threads=1)
    engine.warm_up(8)
    pixels, latents = bundle.config.pixels, bundle.config.latent_size
    images = 2 * 8 * pixels * (1 + 4)  # on both sides, as uint8 and as float32
    z = 2 * 8 * latents * 4
    results = 8 * 4 * (2 * latents + pixels + (pixels + 1) + 3 + (3 + pixels))
    assert accelerator.allocated_bytes == images + z + results


def bundle_for(image_shape: tuple[int, int, int]) -> Bundle:
    return tiny_bundle(config=VAEConfig(image_shape=image_shape, hidden_sizes=(2,), latent_size=2))


@pytest.mark.parametrize(
    ("image_shape", "images"),
    [
        ((1, 28, 28), 8192),
        ((3, 32, 32), 2048),
        ((3, 256, 256), 32),
        ((3, 1024, 1024), 2),
        ((1, 4, 5), MAX_BATCH),
    ],
)
def test_a_batch_is_limited_in_pixels(image_shape: tuple[int, int, int], images: int) -> None:
    bundle = bundle_for(image_shape)
    assert staged_backend(bundle).preferred_batch == images
    assert images * bundle.config.pixels <= BATCH_PIXELS


def test_large_images_take_no_more_memory_than_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """On either side, as the service warms up if it is told nothing else."""
    allocated = []
    for side in (28, 256):
        accelerator = HostAccelerator()
        monkeypatch.setattr(device_module, "accelerator_of", lambda _, one=accelerator: one)
        engine = Engine(bundle_for((1, side, side)), device="cpu", threads=1)
        n = engine.best_batch
        engine.score_map(np.zeros((n, side * side), np.float32))
        assert accelerator.recorded == [n]
        allocated.append(accelerator.allocated_bytes)
    assert allocated[1] <= allocated[0]


def test_a_batch_with_a_detector_is_small() -> None:
    """However small the images: the backbone enlarges them."""
    assert staged_backend(detector_bundle()).preferred_batch == DETECTOR_BATCH
    detector: Any = SimpleNamespace(module=nn.Identity)
    large = replace(bundle_for((3, 512, 512)), detector=detector)
    assert staged_backend(large).preferred_batch == 8, "pixels limit it, too"


def test_the_default_score_of_a_detector_waits_for_no_recording(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accelerator = HostAccelerator()
    monkeypatch.setattr(device_module, "accelerator_of", lambda _: accelerator)
    bundle = detector_bundle()
    engine = Engine(bundle, device="cpu", threads=1)
    engine.warm_up(4)
    recorded = len(accelerator.recorded)
    for images in (np.zeros((3, bundle.config.pixels), np.uint8), engine.probe):
        engine.score(images)
        engine.score_map(images)
    assert len(accelerator.recorded) == recorded
