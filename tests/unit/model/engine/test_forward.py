"""One pass through the network, in C and by torch."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.bundle.bundle import find_bundle, load_bundle
from model.config import VAEConfig
from model.engine import forward as forward_module
from model.engine.forward import (
    KEPT_VIEWS,
    ForwardOutput,
    MlpForward,
    ModuleForward,
    weights_in_blocks,
)
from model.engine.passes import heads_and_logits
from model.engine.rows import Rows
from model.vae import VAE


@pytest.fixture(scope="module")
def network() -> VAE:
    return load_bundle(find_bundle("mnist")).network()


@pytest.fixture
def _in_c() -> None:
    if not forward_module.available:
        reason = "model.engine._layers is not compiled, or this processor has no AVX-512"
        if os.environ.get("CI") == "true" and "avx512dq" in open("/proc/cpuinfo").read():  # noqa: PTH123, SIM115
            pytest.fail(reason)
        pytest.skip(reason)


def copied(output: ForwardOutput) -> list[NDArray[np.float32]]:
    return [part.copy() for part in output]


def in_double(network: VAE, pixels: NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    exact = VAE(network.config).double()
    exact.load_state_dict({name: t.double() for name, t in network.state_dict().items()})
    with torch.inference_mode():
        return heads_and_logits(exact, torch.from_numpy(pixels).double())


@pytest.mark.usefixtures("_in_c")
@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(0, 2**31), st.booleans())
def test_a_row_is_the_same_to_the_last_bit_in_any_batch(
    network: VAE, sizes: list[int], seed: int, sparse: bool
) -> None:
    """Alone too, and whatever lay in the buffers before, and whatever is black beside it."""
    forward = MlpForward(network)
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (max(sizes), 784), dtype=np.uint8)
    if sparse:
        images[random.random(images.shape) < random.random((len(images), 1))] = 0
    whole = copied(forward(images))
    for n in sizes:
        first = len(images) - n
        for part, of_whole in zip(copied(forward(images[first:])), whole, strict=True):
            np.testing.assert_array_equal(part, of_whole[first:])


SIZES = st.lists(st.integers(1, 70), max_size=3).map(tuple)


@pytest.mark.usefixtures("_in_c")
@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9), st.integers(1, 9), SIZES, st.integers(1, 20), st.integers(1, 80),
    st.sampled_from(["log_variance", "relu"]), st.integers(0, 2**31),
)  # fmt: skip
def test_any_sizes_are_as_near_to_the_truth_as_torch(
    height: int,
    width: int,
    hidden: tuple[int, ...],
    latents: int,
    n: int,
    head: Literal["log_variance", "relu"],
    seed: int,
) -> None:
    config = VAEConfig(
        image_shape=(1, height, width), hidden_sizes=hidden or (1,), latent_size=latents, head=head
    )
    torch.manual_seed(seed)
    network = VAE(config).eval().requires_grad_(requires_grad=False)
    pixels = np.random.default_rng(seed).random((n, config.pixels), dtype=np.float32)
    pixels[:, :: 1 + seed % 3] = 0
    done = MlpForward(network)(pixels)
    for found, exact in zip((done.heads, done.logits), in_double(network, pixels), strict=True):
        np.testing.assert_allclose(found, exact.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["mnist", "mnist-2d"])
@pytest.mark.parametrize("in_c", [True, False])
def test_decoding_a_mean_is_the_second_half_of_the_pass(
    name: str, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, *, in_c: bool
) -> None:
    """In C to the last bit, in any batch, be there more of them than before or fewer."""
    monkeypatch.setattr(forward_module, "available", in_c and forward_module.available)
    network = load_bundle(find_bundle(name)).network()
    forward, plain = MlpForward(network), ModuleForward(network)
    for images in (digits[:3], digits[:200], digits[:70]):
        done = forward(images)
        means = done.heads[:, : network.config.latent_size].copy()
        found = forward.decode(means)
        np.testing.assert_allclose(found, plain.decode(means), rtol=1e-4, atol=1e-4)
        if forward_module.available:
            np.testing.assert_array_equal(found, done.logits)
            np.testing.assert_array_equal(forward.decode(means[1:2]), done.logits[1:2])
        else:
            np.testing.assert_allclose(found, done.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_in_c")
def test_real_networks_are_too(network: VAE, digits: NDArray[np.uint8]) -> None:
    pixels = digits[:150].reshape(150, -1) / np.float32(255)
    heads, logits = in_double(network, pixels)
    by_c = MlpForward(network)(pixels)
    by_torch = ModuleForward(network)(pixels)
    for found, other, exact in (
        (by_c.heads, by_torch.heads, heads.numpy()),
        (by_c.logits, by_torch.logits, logits.numpy()),
    ):
        assert np.abs(found - exact).max() < 2 * np.abs(other - exact).max()


@pytest.mark.usefixtures("_in_c")
def test_what_does_not_fit_is_an_error(network: VAE) -> None:
    from model.engine import _layers

    weights = weights_in_blocks(network)
    encoder, decoder = network.config.encoder_sizes, network.config.decoder_sizes
    good = (2, np.zeros((2, 784), np.float32), weights, encoder, decoder, False)
    out = np.zeros((2, 20), np.float32), np.zeros((2, 784), np.float32)
    _layers.forward(*good, *out)
    frozen = out[0].copy()
    frozen.flags.writeable = False
    for place, wrong in [
        (0, 3), (0, -1), (1, np.zeros((2, 783), np.float32)), (1, np.zeros((2, 784))),
        (1, np.zeros((784, 2), np.float32).T), (2, weights[:-1]), (3, (784,)), (3, [784, 20]),
        (3, (784, 256, 64, 18)), (4, (10, 64, 256, 783)), (4, (0, 784)), (4, (10,) * 70),
        (6, frozen), (6, out[0][:1]), (7, None),
    ]:  # fmt: skip
        arguments = [*good, *out]
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"."):
            _layers.forward(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _layers.forward(*good)  # type: ignore[call-arg]
    z, logits = np.zeros((2, 10), np.float32), out[1]
    _layers.decode(2, z, weights, encoder, decoder, logits)
    for place, wrong in [
        (0, 3), (1, z[:, :9].copy()), (1, out[0]), (2, weights[:-1]), (3, decoder), (5, logits[:1]),
    ]:  # fmt: skip
        arguments = [2, z, weights, encoder, decoder, logits]
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"."):
            _layers.decode(*arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _layers.decode(2, z)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["mnist", "mnist-2d"])
@pytest.mark.parametrize("head", ["log_variance", "relu"])
@pytest.mark.parametrize("in_c", [True, False])
def test_both_ways_agree(
    name: str, head: str, digits: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, *, in_c: bool
) -> None:
    monkeypatch.setattr(forward_module, "available", in_c and forward_module.available)
    network = load_bundle(find_bundle(name)).network()
    object.__setattr__(network.config, "head", head)
    kept, plain = MlpForward(network), ModuleForward(network)
    batches: list[Rows] = [digits[:1], digits[:50], [digits[:2], digits[:3] / 255]]
    for images in batches:
        for one, other in zip(kept(images), plain(images), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_in_half_precision(dtype: torch.dtype, digits: NDArray[np.uint8]) -> None:
    """Near the float32 ones, and float32 again when they come out."""
    bundle = load_bundle(find_bundle("mnist"))
    full = ModuleForward(bundle.network())(digits[:20])
    half = ModuleForward(bundle.network().to(dtype))(digits[:20])
    assert {part.dtype for part in half} == {np.dtype(np.float32)}
    off = np.abs(1 / (1 + np.exp(-half.logits)) - 1 / (1 + np.exp(-full.logits)))
    assert 0 < off.mean() < 0.01


@pytest.mark.parametrize("hidden", [31, 32, 40])
def test_any_number_of_layers(hidden: int) -> None:
    """More than C knows are torch's."""
    config = VAEConfig(image_shape=(1, 3, 3), hidden_sizes=(5,) * hidden, latent_size=2)
    network = VAE(config).eval().requires_grad_(requires_grad=False)
    images = np.random.default_rng(0).random((3, 9), dtype=np.float32)
    for one, other in zip(MlpForward(network)(images), ModuleForward(network)(images), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_any_number_of_sizes_takes_the_memory_of_the_largest(network: VAE) -> None:
    forward = MlpForward(network)
    for n in range(1, KEPT_VIEWS + 20):
        forward(np.zeros((n, 784), np.uint8))
    assert len(forward._views) <= KEPT_VIEWS
    assert sum(buffer.nbytes for buffer in forward._buffers) < 4 * 1600 * (KEPT_VIEWS + 20)
