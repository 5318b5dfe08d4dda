"""Bundles come back as they were saved, or are refused with one line."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model.bundle.bundle import (
    CALIBRATION_FILE,
    FORMAT,
    MAX_CALIBRATION_BYTES,
    Bundle,
    BundleError,
    find_bundle,
    load_bundle,
    pretrained_names,
)
from model.config import VAEConfig
from model.images.preprocessing import PREPROCESSING
from model.scores.calibration import Calibration
from model.scores.deterministic import ScoreStatistics
from model.tensor_file import MAX_HEADER_BYTES
from model.training.card import model_card
from model.vae import VAE
from tests.unit.samples import (
    TINY,
    assert_one_line,
    damaged,
    some_statistics,
    tiny_bundle,
    whole_bundle,
)

UNCALIBRATED_FILES = {"README.md", "config.json", "model.safetensors"}
BUNDLE_FILES = UNCALIBRATED_FILES | {CALIBRATION_FILE}
FIELDS = {
    *("format", "name", "weights_sha256", "config", "calibration"),
    *("preprocessing", "pixel_variance", "provenance", "metrics"),
}
"""Without `known`, which bundles of older versions have not."""
WHOLE = whole_bundle(
    provenance={"data_set": "digits", "seed": 7, "files_sha256": {"a.gz": "00ff"}},
    metrics={"test": {"n": 3, "mse": 0.5, "mse_sampled": 0.6, "kl": 1.5, "negative_elbo": None}},
)


each_file = pytest.mark.parametrize("name", sorted(BUNDLE_FILES - {"README.md"}))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A saved bundle."""
    WHOLE.save(tmp_path / "bundle", model_card(WHOLE))
    return tmp_path / "bundle"


def refused(directory: Path) -> str:
    """The line with which `directory` is refused."""
    with pytest.raises(BundleError) as raised:
        load_bundle(directory)
    assert_one_line(raised.value, directory)
    return str(raised.value)


def edit(directory: Path, **fields: Any) -> None:
    """Change fields of config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def replace_weights(directory: Path, data: bytes) -> None:
    """Other bytes for model.safetensors, with their hash in config.json."""
    (directory / "model.safetensors").write_bytes(data)
    edit(directory, weights_sha256=hashlib.sha256(data).hexdigest())


def replace_calibration(directory: Path, data: bytes) -> None:
    """Other bytes for calibration.safetensors, with their hash in config.json."""
    (directory / CALIBRATION_FILE).write_bytes(data)
    facts = json.loads((directory / "config.json").read_text())["calibration"]
    edit(directory, calibration=facts | {"sha256": hashlib.sha256(data).hexdigest()})


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def same_calibration(one: Calibration | None, other: Calibration | None) -> bool:
    assert one is not None
    assert other is not None
    return (
        (one.data_set, one.date) == (other.data_set, other.date)
        and list(one.scores) == list(other.scores)
        and all(np.array_equal(table, other.scores[name]) for name, table in one.scores.items())
    )


def same_weights(one: Bundle, other: Bundle) -> bool:
    return set(one.weights) == set(other.weights) and all(
        torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items()
    )


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        VAEConfig(image_shape=(3, 2, 3), hidden_sizes=(), latent_size=1),
        VAEConfig(image_shape=(1, 3, 3), hidden_sizes=(4, 5, 6), latent_size=2, head="relu"),
    ],
)
@pytest.mark.parametrize("pixel_variance", [None, 0.25])
def test_it_comes_back_as_it_was_saved(
    config: VAEConfig, pixel_variance: float | None, tmp_path: Path
) -> None:
    saved = tiny_bundle(
        config=config,
        name="zażółć 数字",
        pixel_variance=pixel_variance,
        provenance=WHOLE.provenance,
        metrics=WHOLE.metrics,
    )
    saved.save(tmp_path / "deep" / "down", "the card")
    loaded = load_bundle(tmp_path / "deep" / "down")
    assert loaded.name == saved.name
    assert loaded.config == config
    assert loaded.pixel_variance == pixel_variance
    assert loaded.provenance == saved.provenance
    assert loaded.metrics == saved.metrics
    assert loaded.version == saved.version
    assert same_weights(loaded, saved)
    assert (loaded.statistics, loaded.calibration) == (None, None)
    assert files(tmp_path / "deep" / "down") == UNCALIBRATED_FILES
    assert (tmp_path / "deep" / "down" / "README.md").read_text() == "the card"


def test_statistics_and_calibration_come_back_as_they_were_saved(directory: Path) -> None:
    loaded = load_bundle(directory)
    assert WHOLE.statistics is not None
    assert loaded.statistics is not None
    saved = WHOLE.statistics.tensors()
    assert set(saved) == set(loaded.statistics.tensors())
    for name, tensor in loaded.statistics.tensors().items():
        assert torch.equal(tensor, saved[name])
    assert same_calibration(loaded.calibration, WHOLE.calibration)
    assert loaded.version == WHOLE.version
    assert same_weights(loaded, WHOLE)
    assert files(directory) == BUNDLE_FILES


@pytest.mark.parametrize("statistics", [None, some_statistics()], ids=["none", "some"])
@pytest.mark.parametrize("pixel_variance", [None, 0.25])
def test_whichever_scores_there_are_their_calibration_comes_back(
    statistics: ScoreStatistics | None, pixel_variance: float | None, tmp_path: Path
) -> None:
    saved = whole_bundle(statistics=statistics, pixel_variance=pixel_variance)
    saved.save(tmp_path, "")
    assert same_calibration(load_bundle(tmp_path).calibration, saved.calibration)


def test_a_bundle_of_format_1_still_loads(tmp_path: Path) -> None:
    """As written before there were statistics and calibrations."""
    weights = safetensors.torch.save(dict(WHOLE.weights))
    (tmp_path / "model.safetensors").write_bytes(weights)
    content = {
        "format": 1,
        "name": "old",
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "config": {
            "architecture": "mlp",
            "image_shape": [1, 4, 5],
            "hidden_sizes": [7],
            "latent_size": 3,
            "head": "log_variance",
        },
        "preprocessing": json.loads(json.dumps(PREPROCESSING)),
        "pixel_variance": 0.25,
        "provenance": {"data_set": "digits"},
        "metrics": {},
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    loaded = load_bundle(tmp_path)
    assert same_weights(loaded, WHOLE)
    assert loaded.name == "old"
    assert (loaded.statistics, loaded.calibration) == (None, None)
    loaded.save(tmp_path, "")  # and becomes one of today's
    again = load_bundle(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format"] == FORMAT == 2
    assert (again.version, again.calibration) == (loaded.version, None)


def test_saved_without_calibration_it_keeps_none_of_an_earlier_one(directory: Path) -> None:
    replace(WHOLE, calibration=None).save(directory, "")
    assert files(directory) == UNCALIBRATED_FILES
    assert load_bundle(directory).calibration is None


def test_a_calibration_that_the_config_does_not_name_is_none(directory: Path) -> None:
    """As of a save cut short before the older file was removed."""
    edit(directory, calibration=None)
    assert load_bundle(directory).calibration is None


def test_the_network_has_the_weights_and_does_not_learn() -> None:
    network = WHOLE.network()
    assert isinstance(network, VAE)
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, WHOLE.weights[name])


def test_the_version_follows_weights_and_statistics_alone(directory: Path) -> None:
    assert replace(WHOLE, name="other", metrics={"a": 1}).version == WHOLE.version
    assert replace(WHOLE, calibration=None).version == WHOLE.version
    assert whole_bundle(n=8).version == WHOLE.version
    backwards = dict(reversed(list(WHOLE.weights.items())))
    assert replace(WHOLE, weights=backwards).version == WHOLE.version
    changed = {name: tensor.clone() for name, tensor in WHOLE.weights.items()}
    changed["decoder.0.bias"][0] += 1e-6
    assert replace(WHOLE, weights=changed).version != WHOLE.version
    weights_file = (directory / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights_file).hexdigest().startswith(WHOLE.version)
    assert len(WHOLE.version) == 16


def test_each_of_the_statistics_is_part_of_the_version() -> None:
    """Same version, same scores: and scores depend on them."""
    tensors = some_statistics().tensors()
    versions = {replace(WHOLE, statistics=None).version, WHOLE.version}
    for name, tensor in tensors.items():
        changed = ScoreStatistics(**(tensors | {name: tensor + 1e-3}))
        versions.add(replace(WHOLE, statistics=changed).version)
    assert len(versions) == 2 + len(tensors)


def test_saving_again_gives_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    load_bundle(directory).save(tmp_path / "again", model_card(load_bundle(directory)))
    for path in directory.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


class Stop(BaseException):
    """The machine stops."""


@pytest.mark.parametrize("before", ["absent", "present"])
@pytest.mark.parametrize(
    ("other", "steps"),
    [
        *((tiny_bundle(seed=1), steps) for steps in range(6)),
        *((whole_bundle(seed=1), steps) for steps in range(8)),
        *((replace(whole_bundle(n=9), name="anew"), steps) for steps in range(8)),
    ],
    ids=lambda value: value if isinstance(value, int) else value.name,
)
def test_a_save_cut_short_does_not_load_as_something_else(
    other: Bundle, steps: int, before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in any of its writes or renamings: an older bundle is as it was, or nothing loads.

    The last `other` has the weights of the one before, calibrated anew.
    """
    if before == "present":
        WHOLE.save(tmp_path, model_card(WHOLE))
    left = steps
    write, rename = Path.write_bytes, Path.replace

    def cut_write(path: Path, data: bytes) -> int:
        nonlocal left
        if left == 0:
            write(path, data[: len(data) // 2])
            raise Stop
        left -= 1
        return write(path, data)

    def cut_replace(path: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise Stop
        left -= 1
        return rename(path, target)

    monkeypatch.setattr(Path, "write_bytes", cut_write)
    monkeypatch.setattr(Path, "replace", cut_replace)
    with pytest.raises(Stop):
        other.save(tmp_path, model_card(other))
    monkeypatch.undo()
    assert files(tmp_path) <= BUNDLE_FILES
    try:
        loaded = load_bundle(tmp_path)
    except BundleError:
        return
    assert (tmp_path / "README.md").read_text() == model_card(loaded)
    assert same_calibration(loaded.calibration, WHOLE.calibration)


@pytest.mark.parametrize(
    "fields",
    [
        {"metrics": {"mse": float("nan")}},
        {"weights": {name: tensor * float("nan") for name, tensor in WHOLE.weights.items()}},
        {"name": " "},
        {"statistics": some_statistics(latent_size=4)},
    ],
    ids=["metrics", "weights", "name", "statistics"],
)
def test_what_would_not_load_is_not_saved(directory: Path, fields: dict[str, Any]) -> None:
    """And what was there before is as it was: a training that failed does not cost it."""
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises((BundleError, ValueError)):
        replace(WHOLE, **fields).save(directory, "other card")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


@each_file
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    assert name in refused(directory)


@each_file
def test_a_directory_in_a_files_place(directory: Path, name: str) -> None:
    (directory / name).unlink()
    (directory / name).mkdir()
    refused(directory)


def test_a_missing_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"17",
        b"{}",
        b'{"format": 1}',
        b"[" * 100_000,
        b'{"format":' * 50_000,
        b'{"format": ' + b"1" * 5_000 + b"}",
    ],
    ids=lambda text: text[:12].decode("latin-1"),
)
def test_what_is_no_config(directory: Path, text: bytes) -> None:
    (directory / "config.json").write_bytes(text)
    refused(directory)


def test_the_config_has_these_fields(directory: Path) -> None:
    assert set(json.loads((directory / "config.json").read_text())) == FIELDS | {"known"}


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_missing_field_is_named(directory: Path, field: str) -> None:
    path = directory / "config.json"
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    assert f"no '{field}'" in refused(directory)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("format", FORMAT + 1, f"format {FORMAT + 1} is newer than {FORMAT}"),
        ("format", 10**30, "newer"),
        ("format", 0, "format is 0"),
        ("format", -1, "format is -1"),
        ("format", 1.0, "format is 1.0"),
        ("format", "1", "format is '1'"),
        ("format", True, "format is True"),
        ("format", None, "format is None"),
        ("name", "", "name is ''"),
        ("name", " \n", "name is"),
        ("name", 5, "name is 5"),
        ("preprocessing", {}, "preprocessing is {}"),
        ("preprocessing", {"pixels": "uint8 / 127.5 - 1"}, "uint8 / 127.5 - 1"),
        ("preprocessing", None, "preprocessing is None"),
        ("pixel_variance", 0.0, "pixel_variance is 0.0"),
        ("pixel_variance", -1.0, "pixel_variance is -1.0"),
        ("pixel_variance", float("nan"), "pixel_variance is nan"),
        ("pixel_variance", float("inf"), "pixel_variance is inf"),
        ("pixel_variance", "1", "pixel_variance is '1'"),
        ("pixel_variance", True, "pixel_variance is True"),
        ("provenance", [], "provenance is []"),
        ("provenance", None, "provenance is None"),
        ("metrics", "good", "metrics is 'good'"),
        ("config", None, "expected an object"),
        ("config", {}, "expected an object"),
        ("config", TINY.to_json() | {"latent_size": "3"}, "latent_size"),
        ("config", TINY.to_json() | {"dropout": 1}, "exactly"),
        ("config", TINY.to_json() | {"head": "gamma"}, "gamma"),
        ("weights_sha256", "0" * 64, "sha256"),
        ("weights_sha256", None, "sha256"),
        ("weights_sha256", ["0"], "sha256"),
        ("calibration", [], "calibration is no object"),
        ("calibration", "2026", "calibration is no object"),
        ("calibration", True, "calibration is no object"),
        ("calibration", {}, "data_set, date and sha256"),
        ("calibration", {"data_set": "d", "date": 2026, "sha256": "00"}, "data_set, date"),
        ("calibration", {"data_set": None, "date": "2026", "sha256": "00"}, "data_set, date"),
        ("calibration", {"data_set": "d", "date": "2026"}, "data_set, date and sha256"),
        ("calibration", {"data_set": "d", "date": "2026", "sha256": "00"}, "is damaged"),
    ],
)
def test_a_wrong_field_is_told(directory: Path, field: str, value: object, reason: str) -> None:
    edit(directory, **{field: value})
    assert reason in refused(directory)


def test_a_whole_number_is_a_variance_too(directory: Path) -> None:
    edit(directory, pixel_variance=1)
    assert load_bundle(directory).pixel_variance == 1


@pytest.mark.parametrize(
    "config",
    [
        {"latent_size": 4},
        {"hidden_sizes": [8]},
        {"hidden_sizes": [7, 7]},
        {"hidden_sizes": []},
        {"image_shape": [1, 4, 4]},
        {"image_shape": [3, 4, 5]},
    ],
    ids=str,
)
def test_weights_of_another_architecture(directory: Path, config: dict[str, Any]) -> None:
    shape = {"image_shape": list(TINY.image_shape), "hidden_sizes": list(TINY.hidden_sizes)}
    edit(directory, config=TINY.to_json() | shape | config)
    refused(directory)


def with_tensor(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {**WHOLE.weights, name: change(WHOLE.weights[name])}


def with_value(value: float) -> dict[str, Tensor]:
    return with_tensor(
        "encoder.0.weight", lambda t: t.clone().index_fill_(0, torch.tensor(3), value)
    )


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (with_value(float("nan")), "encoder.0.weight holds NaN"),
        (with_value(float("inf")), "encoder.0.weight holds NaN or infinity"),
        (with_value(float("-inf")), "encoder.0.weight holds NaN or infinity"),
        (with_tensor("decoder.0.bias", Tensor.double), "decoder.0.bias is F64"),
        (with_tensor("decoder.0.bias", Tensor.half), "decoder.0.bias is F16"),
        (with_tensor("decoder.0.bias", Tensor.int), "decoder.0.bias is I32"),
        (with_tensor("decoder.0.weight", lambda t: t.T.contiguous()), "shape (3, 7), not (7, 3)"),
        (with_tensor("decoder.0.bias", lambda t: t[:-1].clone()), "shape (6,), not (7,)"),
        ({**WHOLE.weights, "encoder.9.weight": torch.ones(1)}, "'encoder.9.weight'"),
        ({**WHOLE.weights, "extra": torch.ones(1)}, "unknown tensor 'extra'"),
        ({"decoder.0.bias": torch.ones(7)}, "lacks tensor 'decoder.0.weight'"),
        ({}, "lacks tensor"),
    ],
)
def test_wrong_weights_are_told(directory: Path, weights: dict[str, Tensor], reason: str) -> None:
    replace_weights(directory, safetensors.torch.save(weights))
    assert reason in refused(directory)


Tensors = dict[str, Tensor]
Tables = dict[str, NDArray[Any]]


def mixture(components: int) -> Tensors:
    shapes = ScoreStatistics.shapes(TINY.latent_size, components).items()
    return {f"statistics.{name}": torch.ones(shape) for name, shape in shapes if "mixture" in name}


def test_tables_of_another_version_s_scores(directory: Path) -> None:
    """One that is lacking leaves its score without p-values; one that is unknown is let be."""
    path = directory / CALIBRATION_FILE
    tables = safetensors.numpy.load(path.read_bytes())
    tables["ssim"] = tables.pop("iwae")
    replace_calibration(directory, safetensors.numpy.save(tables))
    calibration = load_bundle(directory).calibration
    assert calibration is not None
    assert {"fused", "mse"} <= set(calibration.scores)
    assert not {"ssim", "iwae"} & set(calibration.scores)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("statistics.contrast"), "lacks tensor 'contrast'"),
        (lambda t: t.pop("statistics.latent_mean"), "lacks tensor 'latent_mean'"),
        (lambda t: t.update({"statistics.more": torch.ones(1)}), "unknown tensor 'more'"),
        (lambda t: t.update({"statistics.": torch.ones(1)}), "unknown tensor ''"),
        (lambda t: t.update({"statistics.contrast": torch.ones(2)}), "shape (2,), not (1,)"),
        (lambda t: t.update({"statistics.latent_mean": torch.ones(4)}), "shape (4,), not (3,)"),
        (lambda t: t["statistics.latent_precision"].fill_(math.nan), "latent_precision holds NaN"),
        (lambda t: t["statistics.fused_tail"].fill_(math.inf), "fused_tail holds NaN or infinity"),
        (lambda t: t.update({"statistics.contrast": torch.ones(1).double()}), "F64, expected F32"),
        (lambda t: t.update({"statistics.fused_tail": torch.ones(2)}), "shape (2,), not (3,)"),
        (lambda t: t.pop("statistics.mixture_log_weights"), "lacks tensor 'mixture_log_weights'"),
        (lambda t: t.update(mixture(0)), ", not (1"),
        (lambda t: t.update(mixture(257)), ", not (256"),
        (lambda t: t["statistics.mixture_means"].fill_(math.nan), "mixture_means holds NaN"),
        (
            lambda t: t.update({"statistics.mixture_log_weights": torch.tensor(1.0)}),
            ", not (1",
        ),
        (
            lambda t: t.update({"statistics.mixture_roots": torch.ones(1, 3, 3)}),
            "mixture_roots has shape (1, 3, 3), not (2, 3, 3)",
        ),
        (lambda t: [t.pop(name) for name in list(t) if "." in name], "lacks tensor"),
        (
            lambda t: t["statistics.fused_tail"].fill_(0),
            "fused_tail holds 0, expected",
        ),
        (lambda t: t["statistics.mixture_roots"].neg_(), "mixture_roots holds -"),
    ],
)
def test_wrong_statistics_are_told(
    directory: Path, change: Callable[[Tensors], object], reason: str
) -> None:
    tensors = safetensors.torch.load((directory / "model.safetensors").read_bytes())
    change(tensors)
    replace_weights(directory, safetensors.torch.save(tensors))
    assert reason in refused(directory)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.update(mse=t["mse"].astype(np.float64)), "mse is F64, shape (7,)"),
        (lambda t: t.update(mse=t["mse"].astype(np.int32)), "mse is I32, shape (7,)"),
        (lambda t: t.update(mse=t["mse"][None]), "mse is F32, shape (1, 7)"),
        (lambda t: t.update(mse=np.array(1, np.float32)), "mse is F32, shape ()"),
        (lambda t: t.update(mse=t["mse"][:6]), "'mse': 6"),
        (lambda t: t.update({name: table[:0] for name, table in t.items()}), "'mse': 0"),
        (lambda t: t.update(mse=t["mse"][::-1].copy()), "'mse' are not sorted"),
        (lambda t: t["kl"].__setitem__(-1, np.inf), "'kl' hold NaN or infinity"),
        (lambda t: t["kl"].__setitem__(3, np.nan), "'kl' hold NaN or infinity"),
        (lambda t: t.clear(), "sizes {}"),
    ],
)
def test_a_wrong_calibration_is_told(
    directory: Path, change: Callable[[Tables], object], reason: str
) -> None:
    tables = safetensors.numpy.load((directory / CALIBRATION_FILE).read_bytes())
    change(tables)
    replace_calibration(directory, safetensors.numpy.save(tables))
    assert reason in refused(directory)


def test_a_calibration_of_another_bundle_is_refused(directory: Path) -> None:
    whole_bundle(n=9).save(directory.parent / "other", "")
    (directory.parent / "other" / CALIBRATION_FILE).replace(directory / CALIBRATION_FILE)
    assert f"{CALIBRATION_FILE} is damaged" in refused(directory)


def test_every_truncation_of_the_calibration_is_refused(directory: Path) -> None:
    path = directory / CALIBRATION_FILE
    data = path.read_bytes()
    for length in range(0, len(data), 41):
        path.write_bytes(data[:length])
        assert "damaged" in refused(directory)
        replace_calibration(directory, data[:length])
        assert "damaged" in refused(directory)


def test_every_truncation_of_the_weights_is_refused(directory: Path) -> None:
    path = directory / "model.safetensors"
    data = path.read_bytes()
    for length in range(0, len(data), 41):
        path.write_bytes(data[:length])
        assert "damaged" in refused(directory)


def test_every_truncation_is_refused_even_with_a_right_hash(directory: Path) -> None:
    data = (directory / "model.safetensors").read_bytes()
    for length in range(0, len(data), 41):
        replace_weights(directory, data[:length])
        refused(directory)


def test_every_truncation_of_the_config_is_refused(directory: Path) -> None:
    path = directory / "config.json"
    data = path.read_bytes().rstrip()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(directory)


def test_a_pickle_is_not_even_tried(directory: Path, tmp_path: Path) -> None:
    torch.save(dict(WHOLE.weights), tmp_path / "weights.pt")
    replace_weights(directory, (tmp_path / "weights.pt").read_bytes())
    assert "damaged" in refused(directory)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("model.safetensors", MAX_HEADER_BYTES + 100_000),
        (CALIBRATION_FILE, MAX_CALIBRATION_BYTES + 1),
    ],
)
def test_too_large_a_file_is_refused_unread(
    name: str, size: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (directory / name).open("r+b") as file:
        file.truncate(size)  # sparse
    read: list[str] = []
    whole = Path.read_bytes

    def noting(path: Path) -> bytes:
        read.append(path.name)
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", noting)
    assert f"{name} has {size:,} bytes > " in refused(directory)
    assert name not in read


def header_of(entries: object, length: int | None = None) -> bytes:
    """A safetensors file of a header and nothing else."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


WRONG_HEADERS: dict[str, tuple[bytes, str]] = {
    "of 2⁶³ bytes": (header_of({}, 2**63), "9,223,372,036,854,775,808 bytes > maximum 1,048,576"),
    "of 100 MB": (header_of({}, 100_000_000), "100,000,000 bytes > maximum 1,048,576"),
    "longer than the file": (header_of({}, 1_000), "ends within its header of 1,000 bytes"),
    "no object": (header_of([]), "no JSON object"),
    "no JSON": (struct.pack("<Q", 4) + b"\x80\x02}.", "not JSON"),
    "nested": (struct.pack("<Q", 100_000) + b"[" * 100_000, ""),
    "a shape of floats": (header_of({"a": {"dtype": "F32", "shape": [1.5]}}), "no dtype and shape"),
    "a shape below 0": (header_of({"a": {"dtype": "F32", "shape": [-1]}}), "no dtype and shape"),
    "a shape past all memory": (
        header_of(
            {
                name: {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 0]}
                for name in WHOLE.weights
            }
        ),
        "has shape (1099511627776, 1099511627776), not",
    ),
    "no tensor": (header_of({"__metadata__": {}}), "lacks tensor"),
}


@pytest.mark.parametrize("kind", WRONG_HEADERS)
def test_weights_are_not_read_past_a_wrong_header(
    kind: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the hash is right: it is made by who made the file."""
    data, reason = WRONG_HEADERS[kind]
    replace_weights(directory, data)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr(safetensors.torch, "load", lambda _: pytest.fail("it was parsed"))
    assert reason in refused(directory)


def test_a_calibration_is_not_read_past_a_wrong_header(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_calibration(directory, header_of({"mse": {"dtype": "F32", "shape": [2**40, 7]}}))
    monkeypatch.setattr(safetensors.numpy, "load", lambda _: pytest.fail("it was parsed"))
    assert "mse is F32, shape (1099511627776, 7)" in refused(directory)


class Saved(NamedTuple):
    """One directory for all examples of a property, and what was in it."""

    directory: Path
    contents: dict[str, bytes]

    def restored(self) -> Path:
        for name, data in self.contents.items():
            (self.directory / name).write_bytes(data)
        return self.directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    directory = tmp_path_factory.mktemp("fuzzed") / "bundle"
    WHOLE.save(directory, model_card(WHOLE))
    return Saved(directory, {path.name: path.read_bytes() for path in directory.iterdir()})


@each_file
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_is_refused_or_harmless(name: str, saved: Saved, data: st.DataObject) -> None:
    fuzzed = saved.restored()
    (fuzzed / name).write_bytes(data.draw(damaged(saved.contents[name])))
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        assert same_weights(loaded, WHOLE)
        assert loaded.config == WHOLE.config
        if loaded.calibration is not None:
            tables = replace(loaded.calibration, data_set="clean digits", date="2026-01-02")
            assert same_calibration(tables, WHOLE.calibration)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_with_a_right_hash_is_refused_or_a_network(
    saved: Saved, data: st.DataObject
) -> None:
    """As a file by someone who means harm would be."""
    fuzzed = saved.restored()
    replace_weights(fuzzed, data.draw(damaged(saved.contents["model.safetensors"])))
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        network = loaded.network()
        assert all(weight.isfinite().all() for weight in network.parameters())
        statistics = loaded.statistics.tensors() if loaded.statistics else {}
        assert all(tensor.isfinite().all() for tensor in statistics.values())


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_damaged_calibration_with_a_right_hash_is_refused_or_one(
    saved: Saved, data: st.DataObject
) -> None:
    fuzzed = saved.restored()
    replace_calibration(fuzzed, data.draw(damaged(saved.contents[CALIBRATION_FILE])))
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        assert loaded.calibration is not None
        assert WHOLE.calibration is not None
        assert set(loaded.calibration.scores) <= set(WHOLE.calibration.scores)
        for table in loaded.calibration.scores.values():
            assert np.array_equal(table, np.sort(table))
            assert np.isfinite(table).all()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(
    field=st.sampled_from(sorted(FIELDS)),
    value=json_values,
)
@example("format", float("inf"))
@example("name", "two\nlines")
def test_any_value_of_any_field_is_refused_or_harmless(
    saved: Saved, field: str, value: object
) -> None:
    fuzzed = saved.restored()
    edit(fuzzed, **{field: value})
    try:
        loaded = load_bundle(fuzzed)
    except BundleError as error:
        assert_one_line(error, fuzzed)
    else:
        assert same_weights(loaded, WHOLE)


def test_a_shipped_name_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_bundle(find_bundle("mnist")).name == "mnist"
    assert {"mnist", "fashion-mnist"} <= set(pretrained_names())


def test_a_directory_is_found(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_bundle(find_bundle(str(directory))).version == WHOLE.version
    monkeypatch.chdir(directory.parent)
    assert load_bundle(find_bundle("bundle")).version == WHOLE.version


@pytest.mark.parametrize("name", ["minst", "", "../nowhere", "mnist/", "a\0b", "x" * 5_000])
def test_what_is_no_bundle_is_answered_with_the_shipped_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError) as raised:
        find_bundle(name)
    assert_one_line(raised.value, repr(name), *pretrained_names())
