"""`python -m model train`."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console

from model.bundle.bundle import Bundle
from model.commands.common import (
    CHECKPOINT_NAME,
    INTERRUPTED,
    HelpFormatter,
    check_limits,
    check_name,
    check_target,
    find_data,
    standard_output,
    today,
    warn_if_few,
)
from model.commands.progress import FittingProgress, Stage, TrainingProgress
from model.commands.train_options import LIMITS, add_options, parse_size, with_recipe
from model.commands.training_images import (
    ARCH_FEATURES,
    TrainingImages,
    expects_detector,
    find_files,
    group_of_each,
    has_detector,
    plan,
    read_training_images,
    wants_detector,
    warn_of_near_copies,
)
from model.config import VAEConfig
from model.datasets.folder import Folder, numbered
from model.engine.device import resolve_device
from model.evaluation.card import model_card
from model.features.backbone import BackboneError
from model.features.detector import DetectorConfig
from model.training.backbone_weights import (
    INSTALL,
    BackboneWeights,
    backbone_from,
    usual_backbone,
)
from model.training.calibrate import calibrated, calibration_by_dtype
from model.training.chosen import PHOTO_SIDE, choose_downscale, is_photographs, suitable_config
from model.training.cross_fit import as_bundle, cross_scores, on_common_scale, train_folds
from model.training.detectors import thinned, with_detectors
from model.training.fit_detector import extract
from model.training.goodness_of_fit import evaluate_fit
from model.training.latents import with_latents
from model.training.onnx_export import exporter_versions, with_graphs
from model.training.split import Split
from model.training.train import Trained, TrainOptions, train
from model.training.verdict import Verdict, as_metrics, judge, judge_detector

RESUMES: Final = "the same command with --resume continues"

NO_DETECTOR: Final = "--backbone is for detectors, and these images get none: add --arch features"

CHECKED_IMAGES: Final = 16
"""A backbone is tried on this number of images before anything is trained."""

MAX_COMPARED: Final = 5
"""Images that were held out on which exported graphs are compared with torch."""


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "train",
        help="train a network on images and write a bundle",
        description="Train a network on normal images and write a bundle, calibrated on images "
        "that it was not trained on. Options that are left out are chosen to suit the images, and "
        "printed. Ctrl-C stops the training and keeps the best weights so far; --resume continues.",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, and write the bundle."""
    if arguments.recipe:
        arguments = with_recipe(arguments, arguments.argv)
    console = standard_output()
    check_name(arguments.name)
    check_limits(arguments, LIMITS)
    arguments.size = None if arguments.size is None else parse_size(arguments.size)
    arguments.data = find_data(arguments.data)
    arguments.out = arguments.out or Path("runs") / arguments.data.resolve().stem
    checkpoint = arguments.out / CHECKPOINT_NAME
    resumes = arguments.resume and checkpoint.exists()
    check_target(arguments.out, overwrite=arguments.overwrite or resumes)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    folder = find_files(arguments.data)
    weights = _weights(arguments, folder)  # the wrong ones are reported before images are decoded
    with Stage(console, "reading the images"):
        data = read_training_images(console, arguments, folder)
    backbone = _backbone(console, arguments, data, weights)
    config = suitable_config(
        data.image_shape,
        architecture=None if arguments.arch == ARCH_FEATURES else arguments.arch,
        downscale=choose_downscale(data.image_shape[1:]) if backbone else 1,
        hidden_sizes=tuple(arguments.hidden or ()) or None,
        latent_size=arguments.latent_size,
        head=arguments.head,
    )
    options = TrainOptions(
        steps=arguments.steps,
        epochs=None if arguments.steps else arguments.epochs,  # the recipe's, with a flag --steps
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        augment=arguments.augment,
        seed=arguments.seed,
    )
    groups = group_of_each(console, data, arguments.group)
    kind = ARCH_FEATURES if backbone else config.architecture
    splits = plan(groups, kind, arguments.folds, arguments.seed)
    with Stage(console, "looking for near-copies"):
        warn_of_near_copies(console, data, splits, arguments.group)
    console.print(_network(config))
    if backbone is not None:
        _check_backbone(backbone, data)
        console.print(f"detector: a VAE over the features of {backbone.origin['name']}; texture")
        if config.architecture == "mlp" and max(data.image_shape[1:]) > PHOTO_SIDE:
            console.print(
                "the network is fully connected, as it could not average squares of these images: "
                f"with {2 * config.pixels * (config.hidden_sizes or (0,))[0]:,} weights or more"
            )
    console.print(_training(options.resolved(len(splits[0].train)), splits))
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.resume and not checkpoint.exists():
        console.print(f"there is no {checkpoint} to resume from: starting from scratch")
    stale = None if resumes else _identity_of_file(checkpoint)  # another training's

    def can_resume() -> bool:
        return _identity_of_file(checkpoint) not in {None, stale}

    with TrainingProgress(console, len(splits)) as progress:
        first = train(
            config,
            data.images,
            options,
            splits[0],
            device=device,
            checkpoint=checkpoint,
            resume=arguments.resume,
            data_id=_identity(data, splits),
            on_step=progress.show,
        )
        networks = [first]
        if first.finished and len(splits) > 1:
            progress.steps_per_fold = first.step
            networks = train_folds(
                first, data.images, splits[1:], device=device, on_step=progress.show_fold
            )
            networks = on_common_scale(networks, data.images)
    finished = first.finished and len(networks) == len(splits)
    lacks_detector = False
    if backbone is not None:
        fitted = _fit_detectors(console, networks, data, backbone) if finished else None
        if fitted is None:  # a second Ctrl-C would lose the networks
            backbone, finished, lacks_detector = None, False, True
        else:
            networks, first = fitted, fitted[0]
    with (
        _resumable(console, can_resume),
        Stage(console, "scoring the images that calibrate"),  # in three dtypes: it takes a while
    ):
        verdict = replace(judge(networks, data.images), can_resume=can_resume())
        bundle = _bundle(
            arguments,
            data,
            networks,
            verdict,
            backbone=backbone,
            finished=finished,
            report=console.print,
        )
        bundle.save(arguments.out, model_card(bundle))
        found = None if backbone is None else judge_detector(bundle, first, data.images)
    if first.finished and first.history[-1][0] < (first.options.steps or 0):
        console.print(
            "training ended early, as the validation images no longer improved: the weights after "
            f"{numbered(first.step, 'step')} are kept"
        )
    console.print(verdict.figures)
    if "test" in bundle.metrics:
        test = bundle.metrics["test"]
        console.print(f"test images: MSE {test['mse']:.5f}, KL {test['kl']:.2f} nats")
    assert bundle.calibration is not None  # noqa: S101 - for mypy: it was just calibrated
    warn_if_few(console, bundle.calibration.n)
    console.print(f"wrote {arguments.out}, version {bundle.version}")
    if finished:
        checkpoint.unlink(missing_ok=True)
    elif can_resume():
        if lacks_detector:
            console.print(
                "this bundle has no detector, as the training was stopped: --resume adds it"
            )
        console.print(f"stopped early; {RESUMES}")
    else:
        console.print(
            "stopped early, before the first checkpoint; the same command with --overwrite starts "
            "from scratch"
        )
    if found is None:
        console.print(verdict.judgement)
    else:
        console.print(f"reconstructions: {verdict.judgement}")
        console.print(found)
    return 0 if finished else INTERRUPTED


@contextmanager
def _resumable(console: Console, can_resume: Callable[[], bool]) -> Iterator[None]:
    """Say after Ctrl-C in the block that the training before it need not be done again."""
    try:
        yield
    except KeyboardInterrupt:
        if can_resume():
            console.print(f"the bundle is not written; {RESUMES}")
        raise


def _identity_of_file(path: Path) -> tuple[int, int] | None:
    """What changes whenever the file is replaced; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _weights(arguments: argparse.Namespace, folder: Folder | None) -> BackboneWeights | None:
    """The weights of the detector's backbone, if it is certain that the network gets a detector or
    `--backbone` asks for one; otherwise None. Raises `BackboneError`."""
    if arguments.backbone is None:
        return usual_backbone() if expects_detector(arguments, folder) else None
    if not wants_detector(arguments):
        raise BackboneError(NO_DETECTOR)
    return backbone_from(arguments.backbone)


def _backbone(
    console: Console,
    arguments: argparse.Namespace,
    data: TrainingImages,
    weights: BackboneWeights | None,
) -> BackboneWeights | None:
    """The weights of the detector's backbone; None for a network without a detector.

    `weights` are those that were loaded before the images. Raises `BackboneError`.
    """
    if has_detector(arguments, data):
        return weights or usual_backbone()
    if arguments.backbone is not None:
        raise BackboneError(NO_DETECTOR)
    if arguments.arch is None and data.data.folder is not None and is_photographs(data.images):
        console.print(
            f"without a detector, which finds far more defects in photographs: {INSTALL} adds it"
        )
    return None


def _check_backbone(backbone: BackboneWeights, data: TrainingImages) -> None:
    """Raise `BackboneError` for weights whose features of some images are too large.

    Without this check, the error would come after all networks are trained.
    """
    some = thinned(np.arange(len(data.images)), CHECKED_IMAGES)
    extract(DetectorConfig(image_shape=data.image_shape), backbone.tensors, data.images[some])


def _fit_detectors(
    console: Console, networks: Sequence[Trained], data: TrainingImages, backbone: BackboneWeights
) -> list[Trained] | None:
    """The networks with their detectors; None if Ctrl-C stopped the fitting."""
    try:
        with FittingProgress(console, len(networks)) as fitting:
            return with_detectors(
                networks,
                data.images,
                backbone,
                on_images=fitting.show_images,
                on_step=fitting.show_step,
            )
    except KeyboardInterrupt:
        return None


def _network(config: VAEConfig) -> str:
    channels, height, width = config.image_shape
    layers = ", ".join(map(str, config.hidden_sizes))
    return (
        f"network: {config.architecture} ({layers}), latent size {config.latent_size}, for "
        f"{'grey' if channels == 1 else 'RGB'} images of {width}×{height} (width×height)"
    )


def _training(options: TrainOptions, splits: Sequence[Split]) -> str:
    steps, images = numbered(options.steps or 0, "step"), numbered(options.batch_size or 0, "image")
    line = f"training: at most {steps} of {images}"
    n = sum(len(split.held_out) for split in splits)
    if len(splits) == 1:
        return f"{line}; calibrated on {numbered(n, 'image')} held out"
    return (
        f"{line}; calibrated on all {n:,} images, each scored by the one of {len(splits)} networks "
        "that was not trained on it"
    )


def _identity(data: TrainingImages, splits: Sequence[Split]) -> dict[str, Any]:
    """What --resume must find unchanged, beside the options of the training.

    Otherwise training would continue on other images, and images that the network was trained on
    would calibrate it.
    """
    return {
        **data.files,
        "folds": len(splits),
        **{key: data.facts[key] for key in ("label", "grouped_by") if key in data.facts},
    }


def _bundle(
    arguments: argparse.Namespace,
    data: TrainingImages,
    networks: Sequence[Trained],
    verdict: Verdict,
    *,
    backbone: BackboneWeights | None,
    finished: bool,
    report: Callable[[str], object],
) -> Bundle:
    first = networks[0]
    split = first.split
    seen = np.concatenate([split.train, split.validation])
    metrics = {"held_out": as_metrics(verdict)}
    provenance: dict[str, Any] = {
        "data_set": data.name,
        "files_sha256": dict(data.files),
        **data.facts,
        "images_trained_on": len(split.train),
        "images_validated_on": len(split.validation),
        "images_held_out": len(split.held_out),
        "networks": len(networks),
        **({} if backbone is None else {"backbone": dict(backbone.origin)}),
        **{key: value for key, value in asdict(first.options).items() if value is not None},
        "best_step": first.step,
        "finished": finished,
        "threads": torch.get_num_threads(),
        "device": arguments.device,
        "date": today(),
        "versions": {
            "vae-service": version("vae-service"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    if (test := data.test_images) is not None:
        flat = torch.from_numpy(test.images.reshape(len(test.images), -1))
        fit = evaluate_fit(first.network, flat)
        elbo = first.negative_elbo(fit)
        metrics["test"] = {"n": len(flat), **asdict(fit), "negative_elbo": elbo}
        provenance["files_sha256"] |= test.files
    bundle = as_bundle(
        first,
        arguments.name or arguments.out.resolve().name,
        preprocessing=data.preprocessing,
        trained_on=np.sort(data.hashes[seen]),
        provenance=provenance,
        metrics=metrics,
    )
    held_out = data.images[split.held_out]
    bundle = with_latents(bundle, data.data, split.train, "images trained on")
    bundle = with_graphs(bundle, report, held_out[:MAX_COMPARED])
    if bundle.graphs:  # which are part of the version
        provenance["versions"] |= exporter_versions()
        bundle = replace(bundle, provenance=provenance)
    if len(networks) == 1:  # calibrated by what will serve it
        return calibrated(
            bundle, held_out, data_set=f"{data.name}, training images held out", date=today()
        )
    calibration = calibration_by_dtype(
        cross_scores(networks, data.images),
        data_set=f"{data.name}, across {len(networks)} folds",
        date=today(),
        folds=len(networks),
    )
    return replace(bundle, calibration=calibration)
