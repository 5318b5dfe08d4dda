"""The scores in C against those in torch: the same numbers for any input."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model.bundle.bundle import find_bundle, load_bundle
from model.scores import native
from model.scores.deterministic import offered_scores
from model.scores.mixture import GaussianMixture
from model.scores.native import NativeScores, errors_in_c
from tests.unit.model.scores.native_cases import (
    NAMES,
    RTOL,
    SIGMOID_ATOL,
    Case,
    D,
    Floats,
    random,
)

seeds = st.integers(0, 2**31)
each_name = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _compiled() -> None:
    reason = (
        "model/scores/_native.c was not compiled when the package was installed: pip install -e ."
    )
    if native.available:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def score(*arguments: Any) -> None:
    """`_native.score`, which this module must not import before it is known to be there."""
    importlib.import_module("model.scores._native").score(*arguments)


# The same as torch


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 200),
    pixels=st.integers(1, 3000),
    latents=st.integers(1, 64),
    components=st.integers(1, 40),
    seed=seeds,
    spread=st.sampled_from([0.1, 2.0, 20.0]),
)
def test_scores_are_those_of_torch(**sizes: Any) -> None:
    Case(**sizes | {"n": min(sizes["n"], 1 + 60_000 // sizes["pixels"])}).check()


@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 784, 1023, 1024, 1025, 2049, 12_288])
def test_sizes_about_a_block_and_a_register(pixels: int) -> None:
    Case(n=3, pixels=pixels).check()


@pytest.mark.parametrize("components", [1, 15, 16, 17, 32, 256])
def test_mixtures_that_do_and_do_not_fill_a_register(components: int) -> None:
    Case(n=9, components=components, latents=7).check()


@pytest.mark.parametrize("n", [1, 12, 200])
@pytest.mark.parametrize("name", ["mnist", "mnist-2d", "fashion-mnist", "mnist-conv"])
def test_the_shipped_networks_score_the_same(name: str, n: int, digits: NDArray[np.uint8]) -> None:
    bundle = load_bundle(find_bundle(name))
    network = bundle.network()
    assert bundle.statistics is not None
    case = Case()
    case.config, case.statistics = bundle.config, bundle.statistics
    numbers = np.random.default_rng(n)
    for images in (digits[:n], numbers.integers(0, 256, digits[:n].shape, np.uint8)):
        case.pixels = torch.from_numpy(images.reshape(n, -1) / np.float32(255))
        with torch.inference_mode():
            case.heads = network.encoder(case.pixels).contiguous()
            mean, _ = case.heads.chunk(2, dim=1)
            case.logits = network.decoder(mean).contiguous()
            case.check()


@settings(max_examples=60, deadline=None)
@given(pixels=st.integers(1, 400), seed=seeds, data=st.data())
def test_any_count_of_worst_pixels(pixels: int, seed: int, data: st.DataObject) -> None:
    worst = data.draw(st.integers(1, pixels))
    case = Case(n=4, pixels=pixels, seed=seed)
    if data.draw(st.booleans()):
        case.pixels, case.logits = case.pixels.round(), case.logits.round()  # many ties
    errors = np.sort((case.pixels - case.logits.sigmoid()).square().numpy(), axis=1)
    found, expected = np.sqrt(worst_of(case, worst)), np.sqrt(errors[:, -worst:].mean(axis=1))
    np.testing.assert_allclose(found, expected, rtol=RTOL, atol=SIGMOID_ATOL)


def worst_of(case: Case, worst: int) -> Floats:
    """mse_top5 with another count."""
    out: Floats = np.empty((3, len(case.pixels)), np.float32)
    parts = (case.pixels.numpy(), case.logits.numpy(), case.heads.numpy())
    score("mse_top5", *parts, worst, native.CONSTANTS, None, out)
    found: Floats = out[0]
    return found


def errors_of(values: Tensor) -> Case:
    """One image whose squared errors are the squares of `values`: x̂ is 0."""
    case = Case(n=1, pixels=len(values))
    case.pixels, case.logits = values[None], torch.full((1, len(values)), -1e4)
    return case


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(784),
        torch.full((784,), 0.3),
        torch.full((784,), 1.0),
        torch.cat([torch.zeros(783), torch.ones(1)]),
        torch.cat([torch.full((745,), 0.25), torch.full((39,), 0.5)]),
        torch.cat([torch.full((744,), 0.25), torch.full((40,), 0.5)]),
        torch.cat([torch.full((746,), 0.25), torch.full((38,), 0.5)]),
        torch.logspace(-18, 0, 784),  # each error far from the next
        torch.logspace(-18, -17, 784),
        torch.full((784,), 0.7).nextafter(torch.rand(784, generator=random(0)).round()),
        2.0 ** -torch.arange(784).clamp_max(60),
        torch.linspace(0, 1, 784).pow(20),
    ],
)
def test_the_worst_pixels_of_adversarial_errors(values: Tensor) -> None:
    case = errors_of(values)
    case.check()
    for worst in (1, 2, 38, 40, 783, 784):
        expected = np.sort(values.square().numpy())[-worst:].mean(dtype=np.float64)
        assert worst_of(case, worst)[0] == pytest.approx(expected, rel=1e-6, abs=1e-38)


def test_a_picture_of_many_pixels() -> None:
    Case(n=1, pixels=3 * 256 * 256).check()


@pytest.mark.parametrize("size", [40.0, 43.0, 44.0, 50.0, 88.0, 89.0, 104.0, 1e4])
def test_logits_so_large_that_the_picture_is_black_and_white(size: float) -> None:
    case = Case(n=8)
    case.logits = size * case.logits.sign()
    case.check()
    case.pixels = (case.logits > 0).float()  # as it is reconstructed
    case.check()
    for name in NAMES:
        found, mse, _ = case.native(name)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(mse, 0, atol=0 if size > 43 else 1e-34)


def test_the_logistic_function_everywhere() -> None:
    """One pixel an image, x = 0: the MSE is x̂²."""
    case = Case(n=20_001, pixels=1)
    case.pixels, case.logits = torch.zeros(20_001, 1), torch.linspace(-42, 42, 20_001)[:, None]
    exact = case.logits[:, 0].double().sigmoid().square().numpy()
    for name in ("mse", "fused"):
        np.testing.assert_allclose(case.native(name)[1], exact, rtol=1e-6)


@pytest.mark.parametrize("floor", [0.03, 0.21, 0.42])  # 1 / 0.21 · 0.21 is not 1 in float32
def test_a_zero_error_stays_zero_for_any_floor(floor: float) -> None:
    case = Case(n=8)
    case.logits = 1e4 * case.logits.sign()
    case.pixels = (case.logits > 0).float()
    constants, out = native.CONSTANTS.copy(), np.empty((3, 8), np.float32)
    constants[2] = floor
    parts = (case.pixels.numpy(), case.logits.numpy(), case.heads.numpy())
    score("fused", *parts, 2, constants, native.statistics_in_groups(case.statistics), out)
    np.testing.assert_array_equal(out[1], 0)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_each_part_of_fused_where_it_is_the_largest(part: int) -> None:
    median = torch.full((3,), 1e4)
    median[part] = 0
    case = Case(n=20, pixels=784, components=30)
    case.statistics = replace(case.statistics, fused_median=median)
    case.check(("fused",))


def test_no_error_has_a_logarithm() -> None:
    """Seen where the density has no say."""
    case = Case(n=8)
    case.logits = 1e4 * case.logits.sign()
    case.pixels = (case.logits > 0).float()
    median = torch.tensor([-1.0, 0.5, 1e6])
    case.statistics = replace(case.statistics, fused_median=median)
    assert (case.native("fused")[0] > -1000).all()
    case.check(("fused",))


def test_heads_beyond_the_clamp() -> None:
    case = Case(n=6)
    case.heads[:, D:] = torch.tensor([[-1e4], [-13.0], [-12.0], [8.0], [9.0], [1e4]])
    case.check()


def test_a_prior_has_no_divergence_from_itself() -> None:
    case = Case(n=2)
    case.heads.zero_()
    np.testing.assert_array_equal(case.native("kl")[0], 0)


@pytest.mark.parametrize("grey", [0.0, 1e-40, 1e-20, 0.3, 1.0])
def test_images_of_one_grey(grey: float) -> None:
    case = Case(n=4, pixels=784)
    case.pixels.fill_(grey)
    case.check()


@pytest.mark.parametrize("contrast", [0.0, 1e-7, 0.1])
def test_images_without_contrast_are_divided_by_its_floor(contrast: float) -> None:
    case = Case(n=4, pixels=784, contrast=contrast)
    case.pixels.zero_()
    case.check()


def test_images_that_are_reconstructed_but_for_rounding() -> None:
    case = Case(n=4, pixels=784)
    case.pixels = case.logits.sigmoid()
    case.check(("mse_top5", "mse"))


def test_latents_far_from_all_components() -> None:
    case = Case(n=3, components=20)
    case.heads[:, :D] *= 1e4
    case.check(("latent_density", "fused"))


def test_a_component_may_have_next_to_no_weight() -> None:
    case = Case()
    weights = torch.tensor([0.0, -200.0])
    case.statistics = replace(case.statistics, mixture_log_weights=weights)
    case.check(("latent_density", "fused"))


@pytest.mark.parametrize("away", [1, 1000])
def test_the_density_is_exact_wherever_the_components_are(away: int) -> None:
    """Against torch in float64, so that torch's own rounding does not count."""
    case = Case(n=50, latents=64, components=30)
    known = case.statistics
    known = replace(known, mixture_means=(away * known.mixture_means).round())
    case.statistics, case.heads[:, :64] = known, case.heads[:, :64] + known.mixture_means[0]
    parts = (known.mixture_log_weights, known.mixture_means, known.mixture_roots)
    exact = -GaussianMixture(*(part.double() for part in parts)).log_density(
        case.heads[:, :64].double()
    )
    np.testing.assert_allclose(case.native("latent_density")[0], exact, rtol=2e-6)


# The same whoever asks


@each_name
@pytest.mark.parametrize("pixels", [1, 33, 784, 1029])
def test_a_row_is_the_same_bits_in_any_batch(name: str, pixels: int) -> None:
    case = Case(n=70, pixels=pixels, components=20)
    whole = case.native(name)
    for start, stop in [(0, 1), (69, 70), (3, 5), (1, 70), (7, 48)]:
        for ours, part in zip(whole, case.native(name, slice(start, stop)), strict=True):
            np.testing.assert_array_equal(ours[start:stop], part)


@pytest.mark.parametrize("name", ["mse_top5", "latent_density"])  # which have scratch memory
def test_several_threads_at_once(name: str) -> None:
    cases = [Case(n=n, pixels=784, components=30, seed=n) for n in (1, 5, 127, 128)]

    def work(case: Case) -> bool:
        parts = (case.pixels.numpy(), case.logits.numpy(), case.heads.numpy())
        scores = case.scores
        first, _, _ = scores(name, *parts)
        return all(np.array_equal(scores(name, *parts)[0], first) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, cases))


def test_denormal_numbers_stay_switched_on() -> None:
    Case().native("fused")
    smallest = np.array([1e-40], np.float32)
    assert (smallest * np.float32(0.5)).item() > 0
    assert (torch.tensor([1e-40]) * 0.5).item() > 0


@each_name
def test_no_images_give_no_scores(name: str) -> None:
    assert [part.shape for part in Case(n=0).native(name)] == [(0,)] * 3


# Errors of many reconstructions


@pytest.mark.parametrize("pixels", [1, 33, 784, 1029])
@pytest.mark.parametrize("k", [1, 2, 32])
def test_errors_of_many_reconstructions_are_those_of_each(pixels: int, k: int) -> None:
    case = Case(n=5 * k, pixels=pixels)
    x, latents, logits = case.pixels[:5], torch.ones(5 * k, D), case.logits.numpy()
    found = errors_in_c(lambda z: logits if z.shape == (5 * k, D) else z)(x, latents)
    assert found.shape == (5, k)
    repeated = np.repeat(x.numpy(), k, axis=0)
    expected = case.scores("mse", repeated, logits, case.heads.numpy())[0]
    np.testing.assert_array_equal(found.ravel(), expected)


def test_errors_of_mismatched_shapes_are_refused() -> None:
    x, logits, out = (np.zeros(shape, np.float32) for shape in ((2, 9), (6, 9), (2, 3)))
    frozen = out.copy()
    frozen.flags.writeable = False
    from model.scores import _native

    _native.errors(x, logits, out)
    for place, wrong in [
        (0, x[:1]), (0, x[:, :8].copy()), (0, x.astype(np.float64)), (0, wide(x)), (0, x[0]),
        (1, logits[:5]), (1, logits[:, :8].copy()), (1, None), (2, out[:, :2].copy()),
        (2, out[:1]), (2, frozen),
    ]:  # fmt: skip
        arguments: list[Any] = [x, logits, out]
        arguments[place] = wrong
        with pytest.raises(ValueError, match=r"."):
            _native.errors(*arguments)
    with pytest.raises(TypeError):
        _native.errors(x, logits)  # type: ignore[call-arg]


# What it offers, and refuses


def test_the_names_are_those_that_can_be_scored() -> None:
    case = Case()
    assert case.scores.names == NAMES
    assert case.scores.names[0] == next(iter(offered_scores(case.statistics, None)))
    bare = NativeScores.of(case.config, None)
    assert bare is not None
    assert bare.names == ("mse_top5", "mse", "kl")
    parts = (case.pixels.numpy(), case.logits.numpy(), case.heads.numpy())
    for name in bare.names:
        for ours, theirs in zip(bare(name, *parts), case.native(name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for name in ("fused", "latent_density"):
        with pytest.raises(ValueError, match=f"{name} needs statistics"):
            bare(name, *parts)


def test_relu_heads_are_left_to_torch() -> None:
    assert NativeScores.of(replace(Case().config, head="relu"), None) is None


def test_where_it_was_not_compiled_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", False)
    assert NativeScores.of(Case().config, None) is None


def wide(array: Floats) -> Floats:
    """Of the same shape, with gaps between the numbers."""
    return np.repeat(array, 2, axis=-1)[..., ::2]


def locked(array: Floats) -> Floats:
    array.flags.writeable = False
    return array


WRONG: Final[dict[str, tuple[int, Callable[[Any], Any], str]]] = {
    "an unknown name": (0, lambda _: "neg_elbo", "no score is named neg_elbo"),
    "no array": (1, lambda _: 3, "pixels is not a C-contiguous array"),
    "another type": (1, np.float64, "pixels has the type d, expected f"),
    "another type as wide": (2, lambda a: a.view(np.int32), "logits has the type i, expected f"),
    "bytes": (3, lambda a: a.tobytes(), "heads has the type B, expected f"),
    "one image": (1, lambda a: a[0], "pixels has 1 dimensions, expected 2"),
    "images with sides": (2, lambda a: a[:, None], "logits has 3 dimensions, expected 2"),
    "gaps": (1, wide, "pixels is not a C-contiguous array"),
    "columns": (2, np.asfortranarray, "logits is not a C-contiguous array"),
    "fewer logits": (2, lambda a: a[:-1], "number of logits' rows is 4, expected 5"),
    "shorter logits": (2, lambda a: a[:, :-1].copy(), "of logits' columns is 49, expected 50"),
    "more heads": (3, lambda a: np.vstack([a, a]), "number of heads' rows is 10, expected 5"),
    "half a head": (3, lambda a: a[:, :-1].copy(), "heads has 5 columns, expected twice"),
    "no head": (3, lambda a: a[:, :0].copy(), "heads has 0 columns"),
    "other latents": (3, lambda a: a[:, :-2].copy(), "expected 7 [+] K [*] 6 for 2 latents"),
    "no worst pixel": (4, lambda _: 0, "worst is 0, expected 1 to 50"),
    "too many worst pixels": (4, lambda _: 51, "worst is 51, expected 1 to 50"),
    "a constant too few": (5, lambda a: a[:-1], "number of constants is 4, expected 5"),
    "no statistics": (6, lambda _: None, "fused needs statistics"),
    "short statistics": (6, lambda a: a[:-1], "statistics has"),
    "hardly any statistics": (6, lambda a: a[:7], "statistics has 7 numbers"),
    "empty statistics": (6, lambda a: a[:0], "statistics has 0 numbers"),
    "two rows": (7, lambda a: a[:2], "number of out's rows is 2, expected 3"),
    "short rows": (7, lambda a: a[:, :4].copy(), "number of out's columns is 4, expected 5"),
    "no place to write": (7, locked, "out is not a writable C-contiguous array"),
}


@pytest.mark.parametrize(("place", "spoil", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(place: int, spoil: Callable[[Any], Any], message: str) -> None:
    case = Case()
    arguments: list[Any] = [
        *("fused", case.pixels.numpy(), case.logits.numpy(), case.heads.numpy(), 2),
        *(
            native.CONSTANTS,
            native.statistics_in_groups(case.statistics),
            np.zeros((3, 5), np.float32),
        ),
    ]
    score(*arguments)
    arguments[place] = spoil(arguments[place])
    with pytest.raises(ValueError, match=message):
        score(*arguments)


def test_the_number_of_arguments_is_checked() -> None:
    with pytest.raises(TypeError, match="score takes 8 arguments, 1 given"):
        score("mse")
