"""A model directory: a trained network with all that belongs to it, and no executable code.

::

    config.json                format, name, architecture, preprocessing, provenance, metrics, and
                               under `known` the self-test; what older bundles do not record of it
                               is computed by torch when they are loaded
    model.safetensors          the weights, and statistics of images for scores; float32
    calibration.safetensors    scores of clean images, sorted, a table for each score and each type
                               that they are computed in (`bfloat16:mse`); may be missing
    trained_on.safetensors     a hash of the pixels of each image that trained the network or chose
                               its weights, sorted; may be missing
    latents.safetensors        posterior means of up to 3,000 images, with their labels if they have
                               any; may be missing
    NAME.onnx                  parts of the network for ONNX Runtime, such as `encoder` and
                               `decoder`; see `model.bundle.graph_files`; may be missing
    README.md                  the model card, with pictures in plots/
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from model.bundle import graph_files
from model.bundle.checks import (
    DETECTOR_PREFIX,
    MAX_MIXTURE,
    STATISTICS_PREFIX,
    BundleError,
    check_detector,
    check_headers,
    check_statistics,
    check_weights,
    take_prefixed,
)
from model.bundle.latent_sample import LATENTS_FILE, LatentSample, read_latents
from model.bundle.self_test import SelfTest, run_self_test
from model.bundle.verified_file import read_verified, sha256_of
from model.config import VAEConfig
from model.features.detector import DetectorConfig, StoredDetector, detector_types
from model.images.copies import Hashes
from model.images.preprocessing import WHOLE, Preprocessing
from model.scores.calibration import DTYPES, Calibration, Floats
from model.scores.deterministic import ScoreStatistics
from model.scores.sampled import score_names
from model.tensor_file import MAX_HEADER_BYTES, TensorHeader
from model.vae import VAE, weight_shapes

FORMAT: Final = 2
"""Raised when an older version of this code could misread a newer bundle. 1 had no calibration."""

CALIBRATION_FILE: Final = "calibration.safetensors"

TRAINED_ON_FILE: Final = "trained_on.safetensors"

MAX_TRAINED_ON_BYTES: Final = 1 << 28
"""Room for 33 million images."""

MAX_CALIBRATION_BYTES: Final = 1 << 28
"""Room for nine tables of 7 million images."""

PRETRAINED: Final = Path(__file__).parents[1] / "pretrained"
"""The shipped bundles, each in a directory of its name."""

VERSION_DIGITS: Final = 16
"""Leading hex digits of the weights' sha256 that form the version: 64 bits do not collide in
practice."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A network with its weights and their origin.

    `pixel_variance` is σ² of the Gaussian likelihood p(x|z) = N(x̂, σ² I), or None if the network
    was trained without one. `self_test` is the recorded output for a known image. `trained_on` are
    hashes of images by `model.images.copies`, (M,), ascending. `trained_on`, `statistics` and
    `calibration` are None if there were no images to compute them from, as for imported weights.
    `latents` are posterior means of some images, or None as in older bundles. `graphs` are parts of
    the network as ONNX files, by name; empty if none were exported. `provenance` and `metrics` are
    plain JSON values.
    """

    name: str
    config: VAEConfig
    weights: Mapping[str, Tensor]
    preprocessing: Preprocessing = WHOLE
    pixel_variance: float | None = None
    statistics: ScoreStatistics | None = None
    detector: StoredDetector | None = None
    calibration: Calibration | None = None
    self_test: SelfTest | None = None
    trained_on: Hashes | None = None
    latents: LatentSample | None = None
    graphs: Mapping[str, bytes] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """The start of the sha256 of model.safetensors, and of the graphs if there are any: same
        version, same scores (to rounding; see `model.engine.forward`)."""
        weights = sha256_of(self._safetensors())
        return graph_files.combined_sha256(weights, self.graphs)[:VERSION_DIGITS]

    def network(self) -> VAE:
        """The network with these weights, in evaluation mode."""
        with torch.device("meta"):  # no random initial values, which would be discarded
            vae = VAE(self.config)
        vae.load_state_dict(dict(self.weights), assign=True)
        return vae.eval().requires_grad_(requires_grad=False)

    def computed_self_test(self) -> SelfTest:
        """The self-test as these weights pass it, by torch on the CPU."""
        detector = None if self.detector is None else self.detector.module()
        return run_self_test(self.network(), self.config, detector)

    def save(self, directory: Path, card: str) -> None:
        """Write the directory, with `card` as its README.md.

        No file is replaced until all are written, and config.json is replaced last. It names the
        hash of the weights, so after a crash between the two the bundle fails to load rather than
        loading as something else. Raises `BundleError` for a bundle that would not load, and
        `ValueError` for metrics that JSON cannot hold.
        """
        self._check()
        data = self._safetensors()
        tables = self._calibration_tables()
        hashes = self._trained_on_table()
        latents = b"" if self.latents is None else self.latents.to_bytes()
        content = {
            "format": FORMAT,
            "name": self.name,
            "weights_sha256": sha256_of(data),
            "config": self.config.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "pixel_variance": self.pixel_variance,
            **({} if self.detector is None else {"detector": self.detector.config.to_json()}),
            "known": self.computed_self_test().to_json(),
            "calibration": self.calibration
            and {
                "data_set": self.calibration.data_set,
                "date": self.calibration.date,
                "folds": self.calibration.folds,
                "sha256": sha256_of(tables),
            },
            "trained_on": None
            if self.trained_on is None
            else {"n": len(self.trained_on), "sha256": sha256_of(hashes)},
            "provenance": self.provenance,
            "metrics": self.metrics,
        }
        # Absent, not empty: bundles made before there were any stay as they are.
        if self.latents is not None:
            content["latents"] = self.latents.to_json(latents)
        if self.graphs:
            content["graphs"] = graph_files.hashes(self.graphs)
        config = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = {
            "model.safetensors": data,
            CALIBRATION_FILE: tables,
            TRAINED_ON_FILE: hashes,
            LATENTS_FILE: latents,
            **{graph_files.file_name(name): graph for name, graph in self.graphs.items()},
            "README.md": card.encode(),
            "config.json": config.encode(),
        }
        optional = (CALIBRATION_FILE, TRAINED_ON_FILE, LATENTS_FILE)
        missing = [name for name in optional if not files[name]]
        for name in missing:
            del files[name]
        missing += graph_files.saved(directory) - set(files)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            for name, text in files.items():
                (directory / f".{name}.part").write_bytes(text)
            for name in files:
                (directory / f".{name}.part").replace(directory / name)
            for name in missing:
                (directory / name).unlink(missing_ok=True)
        finally:
            for name in files:
                (directory / f".{name}.part").unlink(missing_ok=True)

    def _check(self) -> None:
        """Raise `BundleError` for a bundle that would not load."""
        if not self.name.strip():
            raise BundleError(f"name is {self.name!r}, expected a non-empty string")
        variance = self.pixel_variance
        if variance is not None and not 0 < variance < math.inf:
            raise BundleError(f"pixel_variance is {variance!r}, expected a number above 0 or null")
        check_weights(self.weights, self.config)
        graph_files.check(self.graphs)
        if self.latents is not None:
            self.latents.check(self.config)
        if self.statistics is not None:
            check_statistics(self.statistics.tensors(), self.config)
        if self.detector is not None:
            if self.detector.config.image_shape != self.config.image_shape:
                raise BundleError(
                    f"the detector takes images of shape {self.detector.config.image_shape}, the "
                    f"network {self.config.image_shape}"
                )
            check_detector(self.detector.tensors, self.detector.config)

    def _tensors(self) -> dict[str, Tensor]:
        statistics = self.statistics.tensors() if self.statistics else {}
        detector = self.detector.tensors if self.detector else {}
        return (
            dict(self.weights)
            | {STATISTICS_PREFIX + name: tensor for name, tensor in statistics.items()}
            | {DETECTOR_PREFIX + name: tensor for name, tensor in detector.items()}
        )

    def _safetensors(self) -> bytes:
        return safetensors.torch.save({n: t.contiguous() for n, t in self._tensors().items()})

    def _calibration_tables(self) -> bytes:
        if self.calibration is None:
            return b""
        tables = dict(self.calibration.scores)
        for dtype, scores in self.calibration.other_dtypes.items():
            tables |= {f"{dtype}:{name}": table for name, table in scores.items()}
        return safetensors.numpy.save(tables)

    def _trained_on_table(self) -> bytes:
        if self.trained_on is None:
            return b""
        return safetensors.numpy.save({"pixels": self.trained_on})


def find_bundle(name_or_directory: str) -> Path:
    """The directory of a shipped bundle (`mnist`) or of one of the user's own (`runs/mine`).

    Raises `BundleError`, naming the shipped bundles, if it is neither.
    """
    shipped = pretrained_names()
    if name_or_directory in shipped:
        return PRETRAINED / name_or_directory
    directory = Path(name_or_directory)
    try:
        exists = bool(name_or_directory.strip()) and directory.is_dir()
    except (OSError, ValueError):  # a name too long for the file system, or with a null byte
        exists = False
    if not exists:
        raise BundleError(
            f"bundle {name_or_directory!r} is neither a directory nor one that ships "
            f"({', '.join(shipped)})"
        )
    return directory


def pretrained_names() -> list[str]:
    """Names of the shipped bundles, sorted."""
    return sorted(path.parent.name for path in PRETRAINED.glob("*/config.json"))


def load_bundle(directory: Path) -> Bundle:
    """Read and check a bundle. Raises `BundleError`.

    Names, types and shapes in the files' headers are checked against the config before any tensor
    is read, and the tensors against their recorded sha256.
    """
    try:
        return _load(directory)
    except (BundleError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(
            f"bundle {directory} cannot be used: {' '.join(reason.split())}"
        ) from error


def _load(directory: Path) -> Bundle:
    content = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise BundleError("config.json is not a JSON object")
    if type(content["format"]) is not int or content["format"] < 1:
        raise BundleError(f"format is {content['format']!r}, expected a whole number from 1")
    if content["format"] > FORMAT:
        raise BundleError(
            f"format {content['format']} is newer than {FORMAT}, the newest that this version reads"
        )
    preprocessing = Preprocessing.from_json(content["preprocessing"])
    if not isinstance(content["name"], str):
        raise BundleError(f"name is {content['name']!r}, expected a non-empty string")
    variance = content["pixel_variance"]
    if variance is not None and type(variance) not in (int, float):
        raise BundleError(f"pixel_variance is {variance!r}, expected a number above 0 or null")
    config = VAEConfig.from_json(content["config"])
    seen_by = content.get("detector")
    detected = None if seen_by is None else DetectorConfig.from_json(seen_by, config.image_shape)
    tensors = _load_tensors(
        directory / "model.safetensors", config, detected, content["weights_sha256"]
    )
    detector = None
    if detected is not None:
        own = take_prefixed(tensors, DETECTOR_PREFIX)
        detector = StoredDetector(config=detected, tensors=own)
    statistics = _statistics(tensors, config)
    calibration = content["calibration"] if content["format"] > 1 else None
    names = score_names(statistics, variance, detected=detector is not None)
    bundle = Bundle(
        name=content["name"],
        config=config,
        weights=tensors,
        preprocessing=preprocessing,
        pixel_variance=variance,
        statistics=statistics,
        detector=detector,
        calibration=_load_calibration(directory, calibration, names),
        self_test=SelfTest.from_json(content["known"]) if "known" in content else None,
        trained_on=_load_trained_on(directory, content.get("trained_on")),
        latents=read_latents(directory, content.get("latents"), config),
        graphs=graph_files.read(directory, content.get("graphs")),
        provenance=_object(content, "provenance"),
        metrics=_object(content, "metrics"),
    )
    bundle._check()
    return bundle


def _object(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(content[key], dict):
        raise BundleError(f"{key} is {content[key]!r}, expected an object")
    value: Mapping[str, Any] = content[key]
    return value


def _load_tensors(
    path: Path, config: VAEConfig, detector: DetectorConfig | None, sha256: str
) -> dict[str, Tensor]:
    statistics = ScoreStatistics.shapes(config.latent_size, MAX_MIXTURE)
    shapes = [*weight_shapes(config).values(), *statistics.values()]
    if detector is not None:
        shapes += [shape for _, shape in detector_types(detector).values()]
    limit = sum(math.prod(shape) * 4 for shape in shapes) + MAX_HEADER_BYTES

    def check(headers: Mapping[str, TensorHeader]) -> None:
        check_headers(headers, config, detector)

    return read_verified(path, sha256, limit, check, safetensors.torch.load)


def _statistics(tensors: dict[str, Tensor], config: VAEConfig) -> ScoreStatistics | None:
    """Remove the statistics from `tensors`, which leaves the weights, and return them."""
    statistics = take_prefixed(tensors, STATISTICS_PREFIX)
    if not statistics:
        return None
    check_statistics(statistics, config)
    return ScoreStatistics(**statistics)


def _load_calibration(directory: Path, content: Any, names: Sequence[str]) -> Calibration | None:
    """The tables of the scores in `names`, in this order, for each type that has any.

    A score without a table has no p-values; a bundle may be older than the score. Tables of
    unknown scores are ignored.
    """
    if content is None:
        return None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), str) for key in ("data_set", "date", "sha256")
    ):
        raise BundleError("calibration is no object with the strings data_set, date and sha256")
    path = directory / CALIBRATION_FILE

    def check(headers: Mapping[str, TensorHeader]) -> None:
        for name, (dtype, shape) in headers.items():
            if dtype != "F32" or len(shape) != 1:
                raise BundleError(
                    f"{path.name}: {name} is {dtype}, shape {shape}, expected F32 and one dimension"
                )

    load = safetensors.numpy.load
    tables = read_verified(path, content["sha256"], MAX_CALIBRATION_BYTES, check, load)

    def tables_of(prefix: str) -> dict[str, Floats]:
        return {name: tables[prefix + name] for name in names if prefix + name in tables}

    others = {dtype: tables_of(f"{dtype}:") for dtype in DTYPES[1:]}
    folds = content.get("folds", 0)  # bundles made before there were any have none
    if type(folds) is not int or folds < 0:
        raise BundleError(f"calibration has {folds!r} folds, expected a whole number from 0")
    return Calibration(
        scores=tables_of(""),
        data_set=content["data_set"],
        date=content["date"],
        folds=folds,
        other_dtypes={dtype: scores for dtype, scores in others.items() if scores},
    )


def _load_trained_on(directory: Path, content: Any) -> Hashes | None:
    """The hashes of the images trained on; None if the bundle has none, as older ones."""
    if content is None:
        return None
    if not isinstance(content, dict) or not isinstance(content.get("sha256"), str):
        raise BundleError("trained_on is no object with the string sha256")

    def check(headers: Mapping[str, TensorHeader]) -> None:
        shapes = {name: (dtype, len(shape)) for name, (dtype, shape) in headers.items()}
        if shapes != {"pixels": ("U64", 1)}:
            raise BundleError(f"{TRAINED_ON_FILE} holds {shapes}, expected U64 pixels only")

    path = directory / TRAINED_ON_FILE
    load = safetensors.numpy.load
    tables = read_verified(path, content["sha256"], MAX_TRAINED_ON_BYTES, check, load)
    hashes: Hashes = tables["pixels"]
    return hashes
