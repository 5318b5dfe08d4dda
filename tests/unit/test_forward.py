"""One pass through the network, by either way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.bundle import find_bundle, load_bundle
from model.engine import CPU_BATCH
from model.forward import KEPT_VIEWS, MlpForward, ModuleForward, Pass, Rows
from model.vae import VAE


@pytest.fixture(scope="module")
def network() -> VAE:
    return load_bundle(find_bundle("mnist")).network()


def copied(done: Pass) -> list[NDArray[np.float32]]:
    return [part.numpy().copy() for part in done]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, CPU_BATCH), min_size=1, max_size=6), st.integers(0, 2**31))
@torch.inference_mode()
def test_a_row_is_the_same_to_the_last_bit_in_any_batch(
    network: VAE, sizes: list[int], seed: int
) -> None:
    """Alone too, up to the service's largest; and whatever lay in the buffers before."""
    forward = MlpForward(network)
    images = np.random.default_rng(seed).integers(0, 256, (max(sizes), 784), dtype=np.uint8)
    whole = copied(forward(images))
    for n in sizes:
        first = len(images) - n
        for part, of_whole in zip(copied(forward(images[first:])), whole, strict=True):
            np.testing.assert_array_equal(part, of_whole[first:])


@pytest.mark.parametrize("name", ["mnist", "mnist-2d"])
@pytest.mark.parametrize("head", ["log_variance", "relu"])
@torch.inference_mode()
def test_it_is_what_the_modules_give(name: str, head: str, digits: NDArray[np.uint8]) -> None:
    bundle = load_bundle(find_bundle(name))
    network = bundle.network()
    object.__setattr__(network.config, "head", head)
    kept, plain = MlpForward(network), ModuleForward(network, torch.device("cpu"))
    batches: list[Rows] = [digits[:1], digits[:50], [digits[:2], digits[:3] / 255]]
    for images in batches:
        for one, other in zip(kept(images), plain(images), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_products_in_half_precision(dtype: torch.dtype, digits: NDArray[np.uint8]) -> None:
    """By both ways near the float32 ones, and float32 again when they come out."""
    bundle = load_bundle(find_bundle("mnist"))
    full = bundle.network()(torch.from_numpy(digits[:20].reshape(20, -1) / np.float32(255)))
    half = bundle.network().to(dtype)
    for forward in (MlpForward(half), ModuleForward(half, torch.device("cpu"))):
        done = forward(digits[:20])
        assert {part.dtype for part in done} == {torch.float32}
        assert (done.logits.sigmoid() - full.images).abs().mean() < 0.01
        assert not torch.equal(done.logits.sigmoid(), full.images)


@torch.inference_mode()
def test_any_number_of_sizes_takes_the_memory_of_the_largest(network: VAE) -> None:
    forward = MlpForward(network)
    forward(np.zeros((2, 784), np.uint8))
    for n in range(1, KEPT_VIEWS + 20):
        forward(np.zeros((n, 784), np.uint8))
    assert len(forward._views) <= KEPT_VIEWS
    assert sum(buffer.nbytes for buffer in forward._buffers) < 4 * 2300 * (KEPT_VIEWS + 20)
