"""Valid and invalid configs of a network."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import config as module
from model.config import MAX_PIXELS, MAX_WIDTH, VAEConfig, conv_sizes
from tests.unit.samples import assert_one_line

JSON: dict[str, Any] = json.loads(json.dumps(VAEConfig().to_json()))

configs = st.builds(
    VAEConfig,
    image_shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 500), st.integers(1, 500)),
    hidden_sizes=st.lists(st.integers(1, MAX_WIDTH), max_size=5).map(tuple),
    latent_size=st.integers(1, MAX_WIDTH),
    head=st.sampled_from(["log_variance", "relu"]),
)


conv_shapes = st.tuples(st.sampled_from([1, 3]), st.integers(16, 256), st.integers(16, 256))
conv_configs = st.builds(
    VAEConfig,
    architecture=st.just("conv"),
    image_shape=conv_shapes,
    hidden_sizes=st.lists(st.integers(1, MAX_WIDTH), min_size=2, max_size=4).map(tuple),
    latent_size=st.integers(1, MAX_WIDTH),
)


reduced_configs = st.builds(
    lambda shape, downscale: VAEConfig(
        architecture="conv",
        image_shape=(shape[0], downscale * shape[1], downscale * shape[2]),
        hidden_sizes=(4, 8),
        downscale=downscale,
    ),
    st.tuples(st.sampled_from([1, 3]), st.integers(16, 128), st.integers(16, 128)),
    st.integers(1, 8),
)


def test_its_examples_are_true() -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 4
    assert result.failed == 0


def test_the_default_is_the_tutorials_shape() -> None:
    config = VAEConfig()
    assert config.encoder_sizes == (784, 256, 64, 20)
    assert config.decoder_sizes == (10, 64, 256, 784)
    assert config.head == "log_variance"


@settings(deadline=None)
@given(configs)
def test_the_decoder_mirrors_the_encoder(config: VAEConfig) -> None:
    assert config.decoder_sizes[0] * 2 == config.encoder_sizes[-1]
    assert config.decoder_sizes[1:] == config.encoder_sizes[-2::-1]
    assert config.encoder_sizes[0] == config.pixels


@settings(deadline=None)
@given(configs | conv_configs | reduced_configs)
def test_json_and_back(config: VAEConfig) -> None:
    assert VAEConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_to_json_and_from_json_are_each_others_reverse() -> None:
    assert VAEConfig.from_json(VAEConfig().to_json()) == VAEConfig()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architecture", "transformer"),
        ("architecture", None),
        ("head", "softplus"),
        ("head", ""),
        ("image_shape", (28, 28)),
        ("image_shape", (1, 1, 28, 28)),
        ("image_shape", (1, 0, 28)),
        ("image_shape", (1, -28, 28)),
        ("image_shape", (1, 28.0, 28)),
        ("image_shape", (True, 28, 28)),
        ("image_shape", (2, 28, 28)),
        ("image_shape", (1, MAX_PIXELS + 1, 1)),
        ("hidden_sizes", (256, 0)),
        ("hidden_sizes", (256, -64)),
        ("hidden_sizes", (256, "64")),
        ("hidden_sizes", (256, 64.0)),
        ("hidden_sizes", (False,)),
        ("hidden_sizes", (MAX_WIDTH + 1,)),
        ("latent_size", 0),
        ("latent_size", -1),
        ("latent_size", 2.5),
        ("latent_size", True),
        ("latent_size", None),
        ("latent_size", MAX_WIDTH + 1),
    ],
)
def test_a_wrong_value_is_named_with_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} ") as raised:
        VAEConfig(**{field: value})
    culprits = value if isinstance(value, tuple) else (value,)
    digits_only = str(raised.value).replace(",", "")
    assert any(repr(item) in digits_only for item in culprits)
    assert len(str(raised.value).splitlines()) == 1


def test_the_limits_themselves_are_allowed() -> None:
    assert VAEConfig(image_shape=(3, 1024, 1024), hidden_sizes=(MAX_WIDTH,)).pixels == MAX_PIXELS


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_shape": (1, 15, 28)}, ["image_shape", "15 × 28", "16 to 256"]),
        ({"image_shape": (1, 28, 15)}, ["image_shape", "28 × 15", "16 to 256"]),
        ({"image_shape": (3, 257, 28)}, ["image_shape", "257 × 28", "16 to 256"]),
        ({"image_shape": (3, 256, 257)}, ["image_shape", "256 × 257", "16 to 256"]),
        ({"hidden_sizes": ()}, ["hidden_sizes", "()", "at least two"]),
        ({"hidden_sizes": (64,)}, ["hidden_sizes", "(64,)", "at least two"]),
        ({"hidden_sizes": (64, 0)}, ["hidden_sizes", "0"]),
        ({"hidden_sizes": (4, 4, 4, 4, 4, 8)}, ["hidden_sizes", "(4, 4, 4, 4, 4, 8)", "28"]),
        ({"hidden_sizes": (1,) * 40}, ["hidden_sizes", "28"]),
        ({"head": "relu"}, ["head", "'relu'", "log_variance"]),
    ],
    ids=str,
)
def test_impossible_conv_configs_are_reported(fields: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=f"^{words[0]} ") as raised:
        VAEConfig(**{"architecture": "conv", "hidden_sizes": (64, 128)} | fields)
    assert_one_line(raised.value, *words)


def test_the_limits_of_conv_are_allowed() -> None:
    for sides in ((16, 16), (16, 256), (256, 256)):
        VAEConfig(architecture="conv", image_shape=(3, *sides))
    deepest = VAEConfig(architecture="conv", hidden_sizes=(4, 4, 4, 4, 8))
    assert (deepest.reduction, deepest.grid) == (32, (1, 1))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"downscale": 2, "image_shape": (3, 64, 63)}, ["downscale", "2", "64 × 63"]),
        ({"downscale": 3, "image_shape": (3, 64, 66)}, ["downscale", "3", "64 × 66"]),
        ({"downscale": 0}, ["downscale", "0"]),
        ({"downscale": -1}, ["downscale", "-1"]),
        ({"downscale": 2.0}, ["downscale", "2.0"]),
        ({"downscale": True}, ["downscale", "True"]),
        ({"downscale": "2"}, ["downscale", "'2'"]),
        ({"downscale": None}, ["downscale", "None"]),
        ({"downscale": 2, "image_shape": (3, 64, 30)}, ["image_shape", "32 × 15", "16 to 256"]),
        ({"downscale": 2, "image_shape": (1, 514, 64)}, ["image_shape", "257 × 32", "16 to 256"]),
        ({"downscale": 2, "image_shape": (1, 32, 32), "hidden_sizes": (4, 4, 4, 4, 4, 8)},
         ["hidden_sizes", "16"]),
        ({"downscale": 2, "architecture": "mlp"}, ["downscale", "2", "only conv"]),
    ],
    ids=str,
)  # fmt: skip
def test_images_that_cannot_be_averaged_are_reported(
    fields: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ValueError, match=f"^{words[0]} ") as raised:
        VAEConfig(**{"architecture": "conv", "hidden_sizes": (64, 128)} | fields)
    assert_one_line(raised.value, *words)


@settings(deadline=None)
@given(reduced_configs)
def test_the_grid_is_of_the_averaged_image(config: VAEConfig) -> None:
    channels, height, width = config.image_shape
    reduced = channels, height // config.downscale, width // config.downscale
    assert config.reduced_shape == reduced
    assert config.pixels == channels * height * width
    plain = replace(config, image_shape=reduced, downscale=1)
    assert config.grid == plain.grid


def test_a_config_from_before_there_was_a_downscale_is_read_and_written_as_it_was() -> None:
    assert "downscale" not in VAEConfig(architecture="conv").to_json()
    assert VAEConfig.from_json(JSON).downscale == 1
    reduced = VAEConfig(architecture="conv", image_shape=(1, 64, 64), downscale=2)
    assert reduced.to_json()["downscale"] == 2
    assert VAEConfig.from_json(JSON | {"downscale": 1}) == VAEConfig()


@settings(deadline=None)
@given(conv_configs)
def test_the_grid_just_covers_the_image(config: VAEConfig) -> None:
    assert config.reduction == 2 ** len(config.hidden_sizes)
    for side, places in zip(config.image_shape[1:], config.grid, strict=True):
        assert (places - 1) * config.reduction < side <= places * config.reduction


@settings(deadline=None)
@given(conv_shapes)
def test_conv_sizes_suit_every_shape(image_shape: tuple[int, int, int]) -> None:
    """A grid of at most 8 places a side, after no more halvings than that takes."""
    sizes = conv_sizes(image_shape)
    config = VAEConfig(architecture="conv", image_shape=image_shape, hidden_sizes=sizes)
    assert max(config.grid) <= 8
    assert sizes == (64,) * (len(sizes) - 1) + (128,)
    if len(sizes) > 2:
        shallower = replace(config, hidden_sizes=sizes[1:])
        assert max(shallower.grid) > 8


@pytest.mark.parametrize("field", JSON)
def test_a_missing_field_is_refused(field: str) -> None:
    value = {name: item for name, item in JSON.items() if name != field}
    with pytest.raises(ValueError, match=field):
        VAEConfig.from_json(value)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly"):
        VAEConfig.from_json(JSON | {"dropout": 0.1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_shape", "28"),
        ("image_shape", None),
        ("image_shape", {"0": 1, "1": 28, "2": 28}),
        ("image_shape", [1, [28], 28]),
        ("hidden_sizes", 256),
        ("hidden_sizes", ["256"]),
        ("hidden_sizes", [None]),
        ("latent_size", "10"),
        ("latent_size", [10]),
        ("head", None),
        ("head", ["relu"]),
        ("architecture", {}),
    ],
)
def test_a_field_of_the_wrong_type_is_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} (is|holds) ") as raised:
        VAEConfig.from_json(JSON | {field: value})
    shown = (value, tuple(value), *value) if isinstance(value, list) else (value,)
    assert any(repr(item) in str(raised.value) for item in shown)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(json_values | st.fixed_dictionaries(dict.fromkeys(JSON, json_values)))
def test_any_json_is_a_config_or_a_value_error(value: object) -> None:
    try:
        config = VAEConfig.from_json(value)
    except ValueError:
        return
    assert json.loads(json.dumps(config.to_json())) == value
