"""Files that are missing, and configs, weights, statistics and calibrations that do not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.bundle.bundle import CALIBRATION_FILE, FORMAT, load_bundle
from model.images.preprocessing import SCALED
from model.scores.deterministic import ScoreStatistics
from tests.unit.model.bundle.helpers import (
    FIELDS,
    WHOLE,
    each_file,
    edit,
    refused,
    replace_calibration,
    replace_weights,
)
from tests.unit.samples import TINY, whole_bundle


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
def test_a_config_that_is_not_one(directory: Path, text: bytes) -> None:
    (directory / "config.json").write_bytes(text)
    refused(directory)


def test_the_config_has_these_fields(directory: Path) -> None:
    assert set(json.loads((directory / "config.json").read_text())) == FIELDS | {
        "known",
        "trained_on",
        "latents",
    }


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
        ("preprocessing", SCALED.to_json() | {"decoding": "faster"}, "'decoding': 'faster'"),
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
        ("trained_on", [], "trained_on is no object"),
        ("trained_on", {"n": 3}, "trained_on is no object with the string sha256"),
        ("trained_on", {"n": 3, "sha256": 0}, "trained_on is no object with the string sha256"),
        ("trained_on", {"n": 3, "sha256": "00"}, "trained_on.safetensors is damaged"),
    ],
)
def test_a_wrong_field_is_reported(directory: Path, field: str, value: object, reason: str) -> None:
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
def test_wrong_weights_are_reported(
    directory: Path, weights: dict[str, Tensor], reason: str
) -> None:
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
        (lambda t: t.pop("statistics.contrast"), "lacks tensor 'statistics.contrast'"),
        (lambda t: t.pop("statistics.latent_mean"), "lacks tensor 'statistics.latent_mean'"),
        (
            lambda t: t.update({"statistics.more": torch.ones(1)}),
            "unknown tensor 'statistics.more'",
        ),
        (lambda t: t.update({"statistics.": torch.ones(1)}), "unknown tensor 'statistics.'"),
        (lambda t: t.update({"statistics.contrast": torch.ones(2)}), "shape (2,), not (1,)"),
        (lambda t: t.update({"statistics.latent_mean": torch.ones(4)}), "shape (4,), not (3,)"),
        (
            lambda t: t["statistics.latent_precision"].fill_(math.nan),
            "statistics.latent_precision holds NaN",
        ),
        (
            lambda t: t["statistics.fused_tail"].fill_(math.inf),
            "statistics.fused_tail holds NaN or infinity",
        ),
        (lambda t: t.update({"statistics.contrast": torch.ones(1).double()}), "F64, expected F32"),
        (lambda t: t.update({"statistics.fused_tail": torch.ones(2)}), "shape (2,), not (3,)"),
        (
            lambda t: t.pop("statistics.mixture_log_weights"),
            "lacks tensor 'statistics.mixture_log_weights'",
        ),
        (lambda t: t.update(mixture(0)), ", not (1"),
        (lambda t: t.update(mixture(257)), ", not (256"),
        (
            lambda t: t["statistics.mixture_means"].fill_(math.nan),
            "statistics.mixture_means holds NaN",
        ),
        (
            lambda t: t.update({"statistics.mixture_log_weights": torch.tensor(1.0)}),
            ", not (1",
        ),
        (
            lambda t: t.update({"statistics.mixture_roots": torch.ones(1, 3, 3)}),
            "statistics.mixture_roots has shape (1, 3, 3), not (2, 3, 3)",
        ),
        (lambda t: [t.pop(name) for name in list(t) if "." in name], "lacks tensor"),
        (
            lambda t: t["statistics.fused_tail"].fill_(0),
            "fused_tail holds 0, expected",
        ),
        (lambda t: t["statistics.mixture_roots"].neg_(), "mixture_roots holds -"),
    ],
)
def test_wrong_statistics_are_reported(
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
def test_a_wrong_calibration_is_reported(
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
