"""The network's mathematics, each part against an independent implementation."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from model.config import MAX_WIDTH, Head, VAEConfig
from model.vae import LOG_VARIANCE_RANGE, VAE, DiagonalGaussian, weight_shapes
from tests.unit.samples import TINY

D = 6
rows = st.integers(1, 5)
seeds = st.integers(0, 2**31)
heads = pytest.mark.parametrize("head", ["log_variance", "relu"])


def gaussian(n: int, seed: int) -> DiagonalGaussian:
    """Means from -30 to 30 and variances all over the allowed range."""
    generator = torch.Generator().manual_seed(seed)
    mean = 60 * torch.rand(n, D, generator=generator, dtype=torch.float64) - 30
    low, high = LOG_VARIANCE_RANGE
    log_variance = low + (high - low) * torch.rand(n, D, generator=generator, dtype=torch.float64)
    return DiagonalGaussian(mean, (log_variance / 2).exp(), log_variance)


def tiny(head: Head = "log_variance", seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE(replace(TINY, head=head))


@settings(deadline=None)
@given(rows, seeds)
def test_kl_is_that_of_torch_distributions(n: int, seed: int) -> None:
    q = gaussian(n, seed)
    expected = kl_divergence(Normal(q.mean, q.std), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(q.kl(), expected)
    assert (q.kl() >= 0).all()


def test_kl_is_nothing_for_the_prior_itself() -> None:
    prior = DiagonalGaussian(torch.zeros(2, D), torch.ones(2, D), torch.zeros(2, D))
    assert prior.kl().tolist() == [0, 0]


def test_draws_are_distributed_as_the_posterior_says() -> None:
    mean, std = torch.tensor([[3.0, -1.0]]), torch.tensor([[0.5, 4.0]])
    q = DiagonalGaussian(mean, std, 2 * std.log())
    draws = q.sample(torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(draws.mean(dim=0), mean[0], atol=0.03, rtol=0)
    torch.testing.assert_close(draws.std(dim=0), std[0], atol=0.03, rtol=0)


@settings(deadline=None)
@given(rows, seeds)
def test_gradients_pass_through_a_draw(n: int, seed: int) -> None:
    q = gaussian(n, seed)
    mean, std = q.mean.requires_grad_(), q.std.requires_grad_()
    noise = torch.randn(n, D, dtype=torch.float64)
    z = q.sample(noise)
    torch.testing.assert_close(z, mean + std * noise)
    by_mean, by_std = torch.autograd.grad(z.sum(), [mean, std])
    assert torch.equal(by_mean, torch.ones_like(mean))
    assert torch.equal(by_std, noise)


@heads
@settings(deadline=None)
@given(seed=seeds, scale=st.sampled_from([1e-6, 1.0, 1e3, 1e6]), pixel=st.sampled_from([0.0, 1.0]))
def test_extreme_weights_leave_all_finite(
    head: Head, seed: int, scale: float, pixel: float
) -> None:
    vae = tiny(head, seed)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.mul_(scale)
        output = vae(torch.full((1, vae.config.pixels), pixel))
    posterior = output.posterior
    for tensor in (posterior.mean, posterior.std, posterior.log_variance, posterior.kl()):
        assert tensor.isfinite().all()
    assert output.images.isfinite().all()
    assert ((output.images >= 0) & (output.images <= 1)).all()


def test_log_variance_stays_in_its_range() -> None:
    low, high = LOG_VARIANCE_RANGE
    vae = tiny()
    x = torch.rand(1, vae.config.pixels)
    for bias, expected in ((-1e30, low), (1e30, high), (math.inf, high), (-math.inf, low)):
        with torch.no_grad():
            last = vae.encoder[-1]
            assert isinstance(last.bias, Tensor)
            last.bias.fill_(bias)
        posterior = vae.encode(x)
        assert (posterior.log_variance == expected).all()
        torch.testing.assert_close(
            posterior.std, torch.full_like(posterior.std, expected / 2).exp()
        )


@settings(deadline=None)
@given(seeds)
def test_the_posteriors_three_fields_agree(seed: int) -> None:
    posterior = tiny(seed=seed).encode(torch.rand(4, TINY.pixels))
    torch.testing.assert_close(posterior.std.square().log(), posterior.log_variance)
    assert (posterior.std > 0).all()


@settings(deadline=None)
@given(seeds)
def test_the_relu_head_gives_nothing_negative(seed: int) -> None:
    posterior = tiny("relu", seed).encode(10 * torch.rand(4, TINY.pixels))
    assert (posterior.mean >= 0).all()
    assert (posterior.std >= 0).all()
    torch.testing.assert_close(posterior.log_variance, (posterior.std.square() + 1e-8).log())


@heads
def test_shapes(head: Head) -> None:
    vae = tiny(head)
    output = vae(torch.rand(5, TINY.pixels))
    assert output.images.shape == (5, TINY.pixels)
    for tensor in (output.posterior.mean, output.posterior.std, output.posterior.log_variance):
        assert tensor.shape == (5, TINY.latent_size)
    assert output.posterior.kl().shape == (5,)


@heads
def test_without_noise_z_is_the_mean(head: Head) -> None:
    vae, x = tiny(head), torch.rand(5, TINY.pixels)
    posterior = vae.encode(x)
    assert torch.equal(vae(x).images, vae.decode(posterior.mean))
    noise = torch.randn(5, TINY.latent_size)
    assert torch.equal(vae(x, noise).images, vae.decode(posterior.sample(noise)))


def test_no_hidden_layer_is_a_network_too() -> None:
    vae = VAE(VAEConfig(image_shape=(3, 2, 2), hidden_sizes=(), latent_size=1))
    assert sorted(vae.state_dict()) == [
        "decoder.0.bias",
        "decoder.0.weight",
        "encoder.0.bias",
        "encoder.0.weight",
    ]
    assert vae(torch.rand(2, 12)).images.shape == (2, 12)


def test_weight_shapes_are_the_networks() -> None:
    expected = {name: tuple(t.shape) for name, t in VAE(VAEConfig()).state_dict().items()}
    assert weight_shapes(VAEConfig()) == expected


# Convolutions


@st.composite
def conv_networks(draw: st.DrawFn) -> VAE:
    """Small ones, for images of any shape that there is."""
    sides = st.sampled_from([16, 17, 28, 256]) | st.integers(16, 256)
    torch.manual_seed(draw(st.integers(0, 9)))
    return VAE(
        VAEConfig(
            architecture="conv",
            image_shape=(draw(st.sampled_from([1, 3])), draw(sides), draw(sides)),
            hidden_sizes=draw(st.sampled_from([(3, 5), (2, 3, 4), (2, 2, 3, 5)])),
            latent_size=draw(st.integers(1, 4)),
        )
    ).requires_grad_(requires_grad=False)


@settings(max_examples=25, deadline=None)
@given(conv_networks(), st.integers(1, 4))
def test_convolutions_take_every_shape_and_keep_their_rows_apart(vae: VAE, n: int) -> None:
    config = vae.config
    x = torch.rand(n, config.pixels)
    output = vae(x)
    assert output.images.shape == (n, config.pixels)
    assert output.images.min() >= 0
    assert output.images.max() <= 1
    for tensor in (output.posterior.mean, output.posterior.std, output.posterior.log_variance):
        assert tensor.shape == (n, config.latent_size)
        assert tensor.isfinite().all()
    for i in range(n):
        alone = vae(x[i : i + 1])
        torch.testing.assert_close(alone.images[0], output.images[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            alone.posterior.mean[0], output.posterior.mean[i], atol=1e-5, rtol=1e-5
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    assert weight_shapes(config) == shapes


def reduced_networks(downscale: int, shape: tuple[int, int, int]) -> tuple[VAE, VAE]:
    """A network for images of this shape, and one for those that it averages, of one's weights."""
    config = VAEConfig(
        architecture="conv", image_shape=shape, hidden_sizes=(3, 4, 5), latent_size=2,
        downscale=downscale,
    )  # fmt: skip
    torch.manual_seed(0)
    reduced = VAE(config).requires_grad_(requires_grad=False)
    plain = VAE(replace(config, image_shape=config.reduced_shape, downscale=1))
    for one, other in zip(plain.parameters(), reduced.parameters(), strict=True):
        one.data = other.data
    return reduced, plain.requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("downscale", "shape"), [(2, (1, 48, 36)), (3, (3, 51, 69)), (4, (3, 64, 256))]
)
def test_squares_of_pixels_are_averaged_and_enlarged_again(
    downscale: int, shape: tuple[int, int, int]
) -> None:
    reduced, plain = reduced_networks(downscale, shape)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    c, h, w = reduced.config.reduced_shape
    squares = x.reshape(2, c, h, downscale, w, downscale).mean(dim=(3, 5))
    heads = reduced.heads(x.flatten(1))
    assert heads.shape == (2, 2 * 2)
    torch.testing.assert_close(heads, plain.heads(squares.flatten(1)))
    z = torch.randn(2, 2, generator=torch.Generator().manual_seed(2))
    logits = reduced.logits(z)
    assert logits.shape == (2, reduced.config.pixels)
    small = plain.logits(z).reshape(2, c, h, w)
    large = logits.reshape(2, c, h, downscale, w, downscale)
    together = torch.stack([large.mean(dim=(3, 5)).flatten(), small.flatten()])
    assert torch.corrcoef(together)[0, 1] > 0.9
    assert small.min() <= logits.min() < logits.max() <= small.max()
    steps = [logits.reshape(2, *shape).diff(dim=d).abs().max() for d in (2, 3)]
    small_steps = [small.diff(dim=d).abs().max() for d in (2, 3)]
    for fine, coarse in zip(steps, small_steps, strict=True):
        assert fine <= coarse / downscale + 1e-5  # no blocks
    shapes = {name: tuple(tensor.shape) for name, tensor in reduced.state_dict().items()}
    assert weight_shapes(reduced.config) == shapes


RAGGED = VAEConfig(architecture="conv", image_shape=(3, 18, 21), hidden_sizes=(4, 8), latent_size=2)
"""Sides that are no multiples of 4: 5 × 6 places, of which the last of each row are cut."""


def patch(tensor: Tensor) -> set[tuple[int, int]]:
    """Which places of the grid hold pixels that are not 0 in an image, (P,)."""
    _, rows, columns = tensor.view(RAGGED.image_shape).nonzero(as_tuple=True)
    return set(zip((rows // 4).tolist(), (columns // 4).tolist(), strict=True))


def around(row: int, column: int) -> set[tuple[int, int]]:
    """A place and its neighbours, as a 3 × 3 convolution sees them."""
    rows, columns = range(max(0, row - 1), row + 2), range(max(0, column - 1), column + 2)
    return {(r, c) for r in rows for c in columns if r < 5 and c < 6}


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (4, 5), (4, 0)])
def test_a_place_of_the_grid_sees_its_own_part_of_the_image(place: tuple[int, int]) -> None:
    """Rows, columns and colours are where they are; and the decoder puts them back there."""
    assert RAGGED.grid == (5, 6)
    torch.manual_seed(0)
    vae = VAE(RAGGED)
    x = torch.rand(1, RAGGED.pixels, requires_grad=True)
    maps = vae.encoder[:4](x)  # (1, 4, 5, 6)
    (gradient,) = torch.autograd.grad(maps[0, :, place[0], place[1]].sum(), x)
    assert patch(gradient[0]) == around(*place)
    assert all(channel.any() for channel in gradient.view(RAGGED.image_shape))

    decode = vae.decoder[-4:]  # from the grid on
    grid = torch.rand(1, 4, 5, 6)
    other = grid.clone()
    other[0, :, place[0], place[1]] += 1
    assert patch((decode(other) - decode(grid))[0]) == around(*place)


def test_weight_shapes_need_no_memory() -> None:
    huge = VAEConfig(image_shape=(3, 1024, 1024), hidden_sizes=(MAX_WIDTH, MAX_WIDTH))
    assert weight_shapes(huge)["encoder.0.weight"] == (MAX_WIDTH, 3 * 1024 * 1024)  # 800 GB
