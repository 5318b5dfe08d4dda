"""The engine's promises: rows do not mix, types do not matter, results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.config import VAEConfig
from model.engine import Engine
from tests.unit.samples import TINY, tiny_bundle

N = 24
PASSES = ["encode", "reconstruct", "score"]

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
    np.testing.assert_allclose(engine.decode(mu).images, reconstructed, atol=1e-6)
    errors = (images / 255 - reconstructed) ** 2
    np.testing.assert_allclose(mse, errors.mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(scores.mse, mse)
    np.testing.assert_array_equal(scores.score, mse)
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
    assert (engine.device, engine.dtype, engine.scores[0]) == ("cpu", "float32", "mse")
    assert engine.bundle is bundle
