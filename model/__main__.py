"""Command line: `python -m model train | import | download`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from model.bundle import Bundle, BundleError
from model.config import Head, VAEConfig
from model.device import DeviceError, resolve_device
from model.training.card import model_card
from model.training.checkpoint import CheckpointError
from model.training.data import DataError, ImageSet, load_images, stored_shape
from model.training.download import DATA_SETS, DownloadError, download
from model.training.evaluate import Fit, evaluate_fit
from model.training.import_checkpoint import import_checkpoint
from model.training.train import Step, Trained, TrainOptions, train

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it: 128 + SIGINT."""

LIMITS: Mapping[str, tuple[float, float]] = {
    "size": (1, 2048),
    "epochs": (1, 1_000_000),
    "batch_size": (1, 1_000_000),
    "learning_rate": (1e-9, 1),
    "seed": (0, 2**32 - 1),
    "threads": (1, 1024),
}
"""Least and most of the options that are numbers; the network's are checked by `VAEConfig`."""

CHECKPOINT_NAME = "checkpoint.safetensors"


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for input that cannot be used, or 130."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except (
        BundleError,
        CheckpointError,
        DataError,
        DeviceError,
        DownloadError,
        OSError,
        ValueError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model", description="Train networks for the service and look after them."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    _add_import(commands)
    _add_download(commands)
    return parser


def _add_train(commands: Any) -> None:
    data = os.environ.get("VAE_DATA_DIR")
    options, config = TrainOptions(), VAEConfig()
    parser = commands.add_parser(
        "train",
        help="train a network on images and write a bundle",
        description="Train a network on images and write a bundle. Ctrl-C stops it and keeps the "
        "best weights so far; --resume goes on from the last whole epoch.",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=_train)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(data) if data else None,
        required=not data,
        help="directory with IDX files, an .npz file, or a folder of image files; a name is also "
        "looked for in VAE_DATA_DIR, which is the default",
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the bundle to write")
    parser.add_argument("--name", help="name of the bundle; the directory's by default")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle in --out")
    parser.add_argument("--resume", action="store_true", help="go on where a training stopped")
    group = parser.add_argument_group("network")
    group.add_argument(
        "--size", type=int, help="side to which image files are resized; 28 if unset"
    )
    group.add_argument("--channels", type=int, choices=(1, 3), help="grey or RGB; 1 if unset")
    group.add_argument("--latent-size", type=int, default=config.latent_size, help="D")
    group.add_argument(
        "--hidden",
        type=int,
        nargs="+",
        default=list(config.hidden_sizes),
        metavar="WIDTH",
        help="widths between pixels and latent",
    )
    group.add_argument(
        "--head",
        choices=get_args(Head),
        default=config.head,
        help="relu is the tutorial's, with its loss; it collapses",
    )
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, default=options.epochs, help="times over the images")
    group.add_argument("--batch-size", type=int, default=options.batch_size, help="images a step")
    group.add_argument(
        "--learning-rate", type=float, default=options.learning_rate, help="Adam's, at its peak"
    )
    group.add_argument("--seed", type=int, default=options.seed, help="of all that is random")
    group.add_argument("--threads", type=int, help="CPU threads; torch's choice if unset")
    group.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")


def _add_import(commands: Any) -> None:
    parser = commands.add_parser(
        "import",
        help="make a bundle of a checkpoint saved by the tutorial's code",
        description="Make a bundle of a state dict saved by torch.save(vae.state_dict(), path). "
        "The file is read with weights_only: it cannot run code.",
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run=_import)
    parser.add_argument("checkpoint", type=Path, help="the .pt file")
    parser.add_argument("--out", type=Path, required=True, help="directory of the bundle to write")
    parser.add_argument("--name", help="name of the bundle; the directory's by default")
    parser.add_argument("--overwrite", action="store_true", help="replace the bundle in --out")
    parser.add_argument(
        "--head", choices=get_args(Head), default="relu", help="the tutorial's code has relu"
    )
    parser.add_argument(
        "--image-shape",
        type=int,
        nargs=3,
        metavar=("C", "H", "W"),
        help="if not one square grey channel",
    )


def _add_download(commands: Any) -> None:
    parser = commands.add_parser(
        "download",
        help="fetch a public data set",
        description="Fetch a data set's four files from its public mirrors and check their sha256.",
    )
    parser.set_defaults(run=_download)
    parser.add_argument("name", choices=sorted(DATA_SETS), help="the data set")
    parser.add_argument(
        "--data",
        type=Path,
        help="directory to put the files in; the set's own in VAE_DATA_DIR if left out",
    )


def _train(arguments: argparse.Namespace) -> int:
    console = Console(markup=False, highlight=False)  # names of files may have brackets
    _check_target(arguments)
    _check_limits(arguments)
    arguments.data = _find_data(arguments.data)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    stored = stored_shape(arguments.data) or (1, 28, 28)
    config = VAEConfig(
        image_shape=(
            arguments.channels or stored[0],
            arguments.size or stored[1],
            arguments.size or stored[2],
        ),
        hidden_sizes=tuple(arguments.hidden),
        latent_size=arguments.latent_size,
        head=arguments.head,
    )
    options = TrainOptions(
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    data = load_images(arguments.data, "train", image_shape=config.image_shape)
    for line in data.skipped:
        console.print(f"skipped {line}")
    if data.skipped:
        console.print(f"{len(data.skipped)} files skipped, {len(data.images):,} read")
    arguments.out.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.out / CHECKPOINT_NAME
    if arguments.resume and not checkpoint.exists():
        console.print(f"there is no {checkpoint}: starting anew")
    with _progress(console) as progress:
        task = progress.add_task("", total=None, loss="", mse="", kl="", epoch="")

        def show(step: Step) -> None:
            progress.update(
                task,
                total=step.steps,
                completed=step.step,
                epoch=f"{step.epoch}/{options.epochs}",
                loss=f"{step.loss:.1f}" if abs(step.loss) >= 1 else f"{step.loss:.4f}",
                mse=f"{step.mse:.4f}",
                kl=f"{step.kl:.1f}",
            )

        trained = train(
            config,
            data.images,
            options,
            device=device,
            checkpoint=checkpoint,
            resume=arguments.resume,
            data_id=dict(data.files),
            on_step=show,
        )
    bundle = _bundle(arguments, data, options, trained)
    bundle.save(arguments.out, model_card(bundle))
    for split, fit in bundle.metrics.items():
        console.print(
            f"{split.replace('_', ' ')} images: MSE {fit['mse']:.5f}, KL {fit['kl']:.2f} nats"
        )
    console.print(f"wrote {arguments.out}, version {bundle.version}")
    if not trained.finished:
        console.print("stopped early; the same command with --resume goes on")
        return INTERRUPTED
    checkpoint.unlink(missing_ok=True)
    return 0


def _bundle(
    arguments: argparse.Namespace, data: ImageSet, options: TrainOptions, trained: Trained
) -> Bundle:
    pixels = trained.network.config.pixels

    def figures(fit: Fit, n: int) -> dict[str, Any]:
        variance = trained.pixel_variance
        elbo = None if variance is None else fit.negative_elbo(pixels, variance)
        return {"n": n, **asdict(fit), "negative_elbo": elbo}

    metrics = {"held_out": figures(trained.fit, len(trained.held_out))}
    provenance: dict[str, Any] = {
        "data_set": data.name,
        "files_sha256": dict(data.files),
        "skipped_files": len(data.skipped),
        "images_trained_on": len(data.images) - len(trained.held_out),
        "images_held_out": len(trained.held_out),
        **asdict(options),
        "best_epoch": trained.epoch,
        "finished": trained.finished,
        "threads": torch.get_num_threads(),
        "device": arguments.device,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {
            "vae-service": version("vae-service"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    try:
        test = load_images(arguments.data, "test", image_shape=trained.network.config.image_shape)
    except DataError:
        pass  # a set without test images, as folders are; the held-out ones tell enough
    else:
        flat = torch.from_numpy(test.images.reshape(len(test.images), -1))
        metrics["test"] = figures(evaluate_fit(trained.network, flat), len(flat))
        provenance["files_sha256"] |= test.files
    return Bundle(
        name=arguments.name or arguments.out.resolve().name,
        config=trained.network.config,
        weights=trained.network.state_dict(),
        pixel_variance=trained.pixel_variance,
        provenance=provenance,
        metrics=metrics,
    )


def _import(arguments: argparse.Namespace) -> int:
    _check_target(arguments)
    bundle = import_checkpoint(
        arguments.checkpoint,
        name=arguments.name or arguments.out.resolve().name,
        head=arguments.head,
        image_shape=tuple(arguments.image_shape) if arguments.image_shape else None,
    )
    bundle.save(arguments.out, model_card(bundle))
    print(f"wrote {arguments.out}, version {bundle.version}")
    return 0


def _download(arguments: argparse.Namespace) -> int:
    directory = arguments.data
    if directory is None:
        if not (parent := os.environ.get("VAE_DATA_DIR")):
            raise ValueError("where to? Say --data DIR, or set VAE_DATA_DIR")
        directory = Path(parent) / arguments.name
    download(arguments.name, directory)
    return 0


def _find_data(path: Path) -> Path:
    """`path`, or what has its name in VAE_DATA_DIR: `--data mnist`."""
    parent = os.environ.get("VAE_DATA_DIR")
    if parent and not path.exists() and (Path(parent) / path).exists():
        return Path(parent) / path
    return path


def _check_limits(arguments: argparse.Namespace) -> None:
    for option, (least, most) in LIMITS.items():
        value = getattr(arguments, option)
        if value is not None and not least <= value <= most:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} is {value}, expected {least:,} to {most:,}")


def _check_target(arguments: argparse.Namespace) -> None:
    if arguments.name is not None and not arguments.name.strip():
        raise ValueError(f"--name is {arguments.name!r}, expected a text")
    resumed = "resume" in arguments and arguments.resume
    if resumed and (arguments.out / CHECKPOINT_NAME).exists():
        return
    if (arguments.out / "config.json").exists() and not arguments.overwrite:
        raise ValueError(f"{arguments.out} already holds a bundle: --overwrite replaces it")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("loss {task.fields[loss]}  MSE {task.fields[mse]}  KL {task.fields[kl]}"),
        TimeRemainingColumn(),
        console=console,
    )


if __name__ == "__main__":
    sys.exit(main())
