"""The engine's promises: rows do not mix, types do not matter, results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from model.bundle.bundle import Bundle
from model.config import VAEConfig
from model.engine.engine import Engine
from model.scores.deterministic import ScoreStatistics, offered_scores
from model.training.train import TrainOptions, train
from tests.unit.samples import TINY, some_statistics, tiny_bundle

N = 24
PASSES = ["encode", "reconstruct", "score", "score_map"]

passes = pytest.mark.parametrize("name", PASSES)


def run(engine: Engine, name: str, rows: Any) -> tuple[NDArray[np.float32], ...]:
    """All arrays that the pass `name` gives."""
    return tuple(getattr(engine, name)(rows))


def assert_same(one: Any, other: Any, atol: float = 0) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, strict=True)


@pytest.fixture(scope="module")
def images(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return digits[:N]


@pytest.fixture(scope="module")
def alone(engine: Engine, images: NDArray[np.uint8]) -> dict[str, tuple[NDArray[np.float32], ...]]:
    """What each pass gives for each image by itself."""
    rows = {name: [run(engine, name, images[i : i + 1]) for i in range(N)] for name in PASSES}
    return {
        name: tuple(np.concatenate(parts) for parts in zip(*rows[name], strict=True))
        for name in PASSES
    }


def test_shapes_and_types(engine: Engine, images: NDArray[np.uint8]) -> None:
    shapes = {
        "encode": [(N, 10), (N, 10)],
        "reconstruct": [(N, 1, 28, 28), (N,)],
        "score": [(N,), (N,), (N,)],
        "score_map": [(N,), (N,), (N,), (N, 1, 28, 28)],
    }
    for name, expected in shapes.items():
        results = run(engine, name, images)
        assert [result.shape for result in results] == expected
        assert all(result.dtype == np.float32 for result in results)
    decoded = engine.decode(np.zeros((3, 10), np.float32)).images
    assert decoded.shape == (3, 1, 28, 28)
    assert decoded.dtype == np.float32


def test_colour_and_height_are_not_mixed_up() -> None:
    config = VAEConfig(image_shape=(3, 4, 5), hidden_sizes=(6,), latent_size=2)
    engine = Engine(tiny_bundle(config=config), device="cpu")
    assert engine.decode(np.zeros((2, 2))).images.shape == (2, 3, 4, 5)
    assert engine.reconstruct(np.zeros((2, 3, 4, 5))).images.shape == (2, 3, 4, 5)


@passes
@settings(max_examples=25, deadline=None)
@given(
    chosen=st.lists(st.integers(0, N - 1), min_size=1, max_size=40),
    cuts=st.sets(st.integers(1, 39), max_size=8),
    data=st.data(),
)
def test_a_row_does_not_depend_on_its_batch(
    name: str,
    engine: Engine,
    images: NDArray[np.uint8],
    alone: dict[str, tuple[NDArray[np.float32], ...]],
    chosen: list[int],
    cuts: set[int],
    data: st.DataObject,
) -> None:
    """Any images, any order, in one array or several, of uint8 and floats."""
    parts: list[NDArray[Any]] = []
    for part in np.split(images[chosen], sorted(cut for cut in cuts if cut < len(chosen))):
        dtype = data.draw(st.sampled_from([np.uint8, np.float32, np.float64]))
        shape = data.draw(st.sampled_from([(1, 28, 28), (28, 28), (784,)]))
        as_type = part if dtype == np.uint8 else part.astype(dtype) / dtype(255)
        parts.append(as_type.reshape(-1, *shape))
    together = run(engine, name, parts if len(parts) > 1 else parts[0])
    assert_same(together, [expected[chosen] for expected in alone[name]], atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sets(st.integers(1, 15), max_size=5))
def test_a_latent_does_not_depend_on_its_batch(engine: Engine, seed: int, cuts: set[int]) -> None:
    z = np.random.default_rng(seed).standard_normal((16, 10))
    rows = np.concatenate([engine.decode(row[None]).images for row in z])
    together = engine.decode(np.split(z, sorted(cuts)))
    assert_same(together, (rows,), atol=1e-5)


@passes
def test_bytes_and_fractions_are_the_same(
    name: str, engine: Engine, images: NDArray[np.uint8]
) -> None:
    expected = run(engine, name, images)
    for dtype in (np.float32, np.float64):
        assert_same(run(engine, name, (images / 255).astype(dtype)), expected, atol=1e-5)


@passes
def test_the_same_input_gives_the_same_bits(
    name: str, engine: Engine, images: NDArray[np.uint8]
) -> None:
    assert_same(run(engine, name, images), run(engine, name, images.copy()))
    again = Engine(engine.bundle, device="cpu", threads=1)
    assert_same(run(again, name, images), run(engine, name, images))


@passes
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_inputs_are_left_alone(
    name: str, dtype: type[np.generic], engine: Engine, images: NDArray[np.uint8]
) -> None:
    given_images = images.astype(dtype) if dtype == np.uint8 else (images / 255).astype(dtype)
    before = given_images.copy()
    given_images.flags.writeable = False
    run(engine, name, given_images)
    run(engine, name, [given_images, given_images])
    assert np.array_equal(given_images, before)


@passes
def test_memory_order_does_not_matter(name: str, engine: Engine, images: NDArray[np.uint8]) -> None:
    expected = run(engine, name, images)
    assert_same(run(engine, name, np.asfortranarray(images)), expected)
    assert_same(run(engine, name, np.repeat(images, 2, axis=0)[::2]), expected)


@passes
def test_results_outlive_later_calls(name: str, engine: Engine, images: NDArray[np.uint8]) -> None:
    pixels = images / np.float32(255)
    results = run(engine, name, pixels)
    copies = [result.copy() for result in results]
    pixels[:] = 0
    for _ in range(3):
        run(engine, name, 255 - images)
        engine.decode(np.ones((N, 10), np.float32))
    assert_same(results, copies)


def test_a_caller_may_write_into_its_results(engine: Engine, images: NDArray[np.uint8]) -> None:
    """And changes nothing for the next caller."""
    for name in PASSES:
        expected = [result.copy() for result in run(engine, name, images)]
        for result in run(engine, name, images):
            result[...] = 7
        assert_same(run(engine, name, images), expected)


def test_the_passes_agree(engine: Engine, images: NDArray[np.uint8]) -> None:
    mu, sigma = engine.encode(images)
    reconstructed, mse = engine.reconstruct(images)
    scores = engine.score(images)
    np.testing.assert_allclose(engine.decode(mu).images, reconstructed, atol=1e-5)
    errors = (images / 255 - reconstructed) ** 2
    np.testing.assert_allclose(mse, errors.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(scores.mse, mse, rtol=1e-6)
    np.testing.assert_array_equal(engine.score(images, "mse").score, mse)
    double = sigma.astype(float) ** 2
    kl = 0.5 * (mu.astype(float) ** 2 + double - np.log(double) - 1).sum(axis=1)
    np.testing.assert_allclose(scores.kl, kl, rtol=1e-4)
    assert (sigma > 0).all()


def test_pictures_stay_in_range(engine: Engine) -> None:
    z = np.random.default_rng(0).standard_normal((50, 10)) * 1e4
    decoded = engine.decode(z).images
    assert ((decoded >= 0) & (decoded <= 1)).all()


@pytest.mark.parametrize(
    "rows", [np.zeros((2, 27, 28)), np.zeros((2, 785)), np.zeros((2, 3, 28, 28))]
)
def test_a_wrong_shape_is_an_error_and_no_answer(engine: Engine, rows: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="shape"):
        engine.encode(rows)


def test_warm_up_changes_nothing(images: NDArray[np.uint8]) -> None:
    bundle = tiny_bundle()
    engine = Engine(bundle, device="cpu")
    pixels = np.random.default_rng(0).random((3, *TINY.image_shape))
    before = run(engine, "score", pixels)
    engine.warm_up(5)
    assert_same(run(engine, "score", pixels), before)


def test_it_says_what_it_is() -> None:
    bundle = tiny_bundle()
    engine = Engine(bundle, device="cpu")
    assert (engine.device, engine.dtype) == ("cpu", "float32")
    assert engine.bundle is bundle


# Scores by name

PLAIN = ("mse_top5", "mse", "kl")
LATENT = ("latent_density", "latent_mahalanobis")
DRAWN = ("reconstruction_probability", "iwae")
DETERMINISTIC = ("fused", *PLAIN, "neg_elbo", *LATENT)


@pytest.fixture(scope="module")
def whole(digits: NDArray[np.uint8]) -> Engine:
    """A small network that has learnt a little, and so has all scores."""
    config = VAEConfig(hidden_sizes=(32,), latent_size=5)
    trained = train(config, digits[100:500], TrainOptions(epochs=5, batch_size=32))
    bundle = Bundle(
        name="small",
        config=config,
        weights=trained.network.state_dict(),
        pixel_variance=trained.pixel_variance,
        statistics=trained.statistics,
    )
    return Engine(bundle, device="cpu", threads=1)


@pytest.mark.parametrize(
    ("variance", "statistics", "expected"),
    [
        (None, None, PLAIN),
        (0.1, None, (*PLAIN, "neg_elbo", *DRAWN)),
        (None, some_statistics(), ("fused", *PLAIN, *LATENT)),
        (0.1, some_statistics(), (*DETERMINISTIC, *DRAWN)),
    ],
    ids=["imported", "likelihood", "statistics", "both"],
)
def test_which_scores_there_are_and_which_comes_first(
    variance: float | None, statistics: ScoreStatistics | None, expected: tuple[str, ...]
) -> None:
    engine = Engine(tiny_bundle(pixel_variance=variance, statistics=statistics), device="cpu")
    assert engine.scores == expected
    assert engine.sampled_scores == (DRAWN if variance else ())
    pixels = np.random.default_rng(0).random((3, *TINY.image_shape))
    assert_same(engine.score(pixels), engine.score(pixels, expected[0]))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_score_is_the_one_of_its_name(
    name: str, whole: Engine, images: NDArray[np.uint8]
) -> None:
    network, bundle = whole.bundle.network(), whole.bundle
    pixels = torch.from_numpy(images.reshape(N, -1)).float() / 255
    expected = offered_scores(bundle.statistics, bundle.pixel_variance)[name](
        pixels, network(pixels)
    )
    found = whole.score(images, name)
    # Of a network that has learnt little, μ hardly varies, and its rounding errors are seen.
    atol = 1e-3 if name in {"fused", *LATENT} else 1e-5
    np.testing.assert_allclose(found.score, expected, rtol=1e-5, atol=atol)
    assert found.score.dtype == np.float32
    for one, other in zip(found[1:], whole.score(images)[1:], strict=True):  # mse and kl
        np.testing.assert_allclose(one, other, rtol=1e-6)  # whichever score they came with


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_score_does_not_depend_on_its_batch(
    name: str, whole: Engine, engine: Engine, images: NDArray[np.uint8]
) -> None:
    """Of a network that has learnt little, μ hardly varies, and its rounding errors are seen."""
    for network, latent_atol in ((engine, 2e-5), (whole, 1e-3)):
        atol = latent_atol if name in {"fused", *LATENT} else 1e-5
        together = network.score(images, name).score
        alone = np.concatenate([network.score(image[None], name).score for image in images])
        np.testing.assert_allclose(together, alone, rtol=1e-5, atol=atol)
        backwards = network.score([images[:5:-1], images[5::-1]], name).score
        np.testing.assert_allclose(backwards[::-1], together, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("name", [None, *DETERMINISTIC])
def test_a_map_bears_the_same_scores(
    name: str | None, whole: Engine, images: NDArray[np.uint8]
) -> None:
    *scores, anomaly_map = whole.score_map(images, name)
    assert_same(scores, whole.score(images, name))
    assert anomaly_map.shape == images.shape
    np.testing.assert_allclose(anomaly_map.mean(axis=(1, 2, 3)), scores[1], rtol=1e-5)
    expected = (images / 255 - whole.reconstruct(images).images) ** 2
    np.testing.assert_allclose(anomaly_map, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["ssim", "", *DRAWN])
def test_what_is_no_score_of_one_pass_is_an_error(
    name: str, whole: Engine, images: NDArray[np.uint8]
) -> None:
    if name:
        with pytest.raises(KeyError, match=name):
            whole.score(images, name)
    with pytest.raises(KeyError):
        whole.sampled_score("mse", whole.draw(np.zeros((4, 784 + 160), np.float32)), (4, 32, 5))


# Draws


@pytest.fixture(scope="module")
def noise() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((N, 3, 5), np.float32)


@pytest.mark.parametrize("draws", [1, 31, 32, 33, 70])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_each_image_gets_each_of_its_draws(
    dtype: type[np.generic], draws: int, whole: Engine, images: NDArray[np.uint8]
) -> None:
    """32 draws a row at most, and zeros after the last."""
    noise = np.random.default_rng(2).standard_normal((N, draws, 5), np.float32)
    given_images = images if dtype == np.uint8 else (images / 255).astype(dtype)
    rows = whole.draw_rows(given_images, noise)
    each = -(-draws // 32)
    assert rows.shape == (each * N, 784 + min(draws, 32) * 5)
    assert rows.dtype == np.float32
    for number in range(N):
        own = rows[each * number : each * (number + 1)]
        np.testing.assert_allclose(own[:, :784] - images[number].ravel() / 255, 0, atol=1e-7)
        epsilons = own[:, 784:].reshape(-1, 5)
        np.testing.assert_array_equal(epsilons[:draws], noise[number])
        assert (epsilons[draws:] == 0).all()
    assert_same([whole.draw_rows(given_images.reshape(N, 784), noise)], [rows])


@pytest.mark.parametrize("count", [3, 32, 40])
def test_draws_are_as_by_hand(whole: Engine, images: NDArray[np.uint8], count: int) -> None:
    """Encoded, moved by σ·ε, decoded; the likelihoods are scipy's."""
    noise = np.random.default_rng(1).standard_normal((N, count, 5), np.float32)
    draws = whole.draw(whole.draw_rows(images, noise), min(count, 32))
    mu, sigma = (values[:, None].astype(np.float64) for values in whole.encode(images))
    z = mu + sigma * noise
    decoded = whole.decode(z.reshape(count * N, 5)).images.reshape(N, count, 784)
    assert whole.bundle.pixel_variance is not None
    scale = whole.bundle.pixel_variance**0.5
    pixels = images.reshape(N, 1, 784) / 255
    likelihood = norm.logpdf(pixels, decoded, scale).sum(axis=2)
    weight = likelihood + (norm.logpdf(z) - norm.logpdf(z, mu, sigma)).sum(axis=2)
    for found, values in ((draws.log_likelihood, likelihood), (draws.log_weight, weight)):
        by_image = found.reshape(N, -1)[:, :count]
        np.testing.assert_allclose(by_image, values, rtol=1e-4, atol=0.01)
    expected = {
        "reconstruction_probability": -likelihood.mean(axis=1),
        "iwae": np.log(count) - logsumexp(weight, axis=1),
    }
    assert tuple(expected) == whole.sampled_scores
    for name, values in expected.items():
        score = whole.sampled_score(name, draws, noise.shape)
        assert score.shape == (N,)
        assert score.dtype == np.float32
        np.testing.assert_allclose(score, values, rtol=1e-4, atol=0.01)


def test_draws_tell_of_the_image_itself_too(
    whole: Engine, images: NDArray[np.uint8], noise: NDArray[np.float32]
) -> None:
    """At z = μ, whatever was drawn."""
    draws = whole.draw(whole.draw_rows(images, noise), 3)
    expected = whole.score_map(images, "mse")
    np.testing.assert_allclose(draws.mse, expected.mse, rtol=1e-5)
    np.testing.assert_allclose(draws.kl, expected.kl, rtol=1e-5)
    np.testing.assert_allclose(draws.anomaly_map, expected.anomaly_map, atol=1e-6)


def test_a_draw_does_not_depend_on_its_batch(
    whole: Engine, images: NDArray[np.uint8], noise: NDArray[np.float32]
) -> None:
    rows = whole.draw_rows(images, noise)
    together = whole.draw(rows, 3)
    each = [whole.draw(row[None], 3) for row in rows]
    alone = [np.concatenate(part) for part in zip(*each, strict=True)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3)
    parts = whole.draw([rows[:7], rows[7:10], rows[10:]], 3)
    np.testing.assert_allclose(parts.log_weight, together.log_weight, rtol=1e-5, atol=1e-3)


def test_a_drawn_reconstruction_is_that_draw_decoded(
    whole: Engine, images: NDArray[np.uint8], noise: NDArray[np.float32]
) -> None:
    found = whole.reconstruct_drawn(whole.reconstruct_rows(images, noise[:, 0]))
    mu, sigma = whole.encode(images)
    decoded = whole.decode(mu + sigma * noise[:, 0]).images
    np.testing.assert_allclose(found.images, decoded, atol=1e-5)
    errors = ((images / 255 - decoded) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found.mse, errors, rtol=1e-4)
    still = whole.reconstruct_drawn(whole.reconstruct_rows(images, 0 * noise[:, 0]))
    assert_same(still, whole.reconstruct(images), atol=1e-6)


def test_without_a_pixel_variance_there_are_no_draws() -> None:
    engine = Engine(tiny_bundle(statistics=some_statistics()), device="cpu")
    with pytest.raises(ValueError, match="pixel variance"):
        engine.draw(np.zeros((1, TINY.pixels + TINY.latent_size), np.float32))


@pytest.mark.parametrize("variance", [None, 0.1])
def test_warm_up_runs_every_kind_of_pass(
    variance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no client is the first, with any score and at the largest batch."""
    engine = Engine(tiny_bundle(pixel_variance=variance), device="cpu")
    ran: set[tuple[str, int, Any]] = set()
    for name in ("encode", "decode", "reconstruct", "reconstruct_drawn", "score", "score_map"):
        run_it = getattr(engine, name)

        def noted(rows: Any, *args: Any, name: str = name, run_it: Any = run_it) -> Any:
            ran.add((name, len(rows), args))
            return run_it(rows, *args)

        monkeypatch.setattr(engine, name, noted)
    drawn: list[int] = []
    monkeypatch.setattr(engine, "draw", lambda rows: drawn.append(len(rows)))
    engine.warm_up(9)
    passes = ("encode", "decode", "reconstruct", "reconstruct_drawn", "score_map")
    expected: set[tuple[str, int, Any]] = {(name, n, ()) for name in passes for n in (1, 9)}
    one_pass = set(engine.scores) - set(engine.sampled_scores)
    expected |= {("score", n, (name,)) for name in one_pass for n in (1, 9)}
    assert ran - {("score", n, ()) for n in (1, 2, 4, 8)} == expected  # and some to see their time
    assert drawn == ([] if variance is None else [1, 9])
