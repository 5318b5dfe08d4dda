"""Running `python -m model` in this process, and looking at what it leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from model.__main__ import main

OPTIONS = {
    "train": {
        *("--data", "--out", "--name", "--overwrite", "--resume", "--recipe"),
        *("--group", "--normal-label", "--folds", "--steps"),
        *("--arch", "--backbone", "--size", "--channels", "--latent-size", "--hidden", "--head"),
        *("--epochs", "--batch-size", "--learning-rate", "--augment"),
        *("--seed", "--threads", "--device"),
    },
    "calibrate": {"--bundle", "--data", "--out", "--overwrite", "--split", "--normal-label"},
    "import": {"FILE", "--out", "--key", "--name", "--overwrite", "--head", "--image-shape"},
    "download": {"NAME", "--data"},
    "demo": {"NAME", "--out", "--parts", "--seed", "--overwrite"},
}

BUNDLE_FILES = {
    *("README.md", "config.json", "model.safetensors", "calibration.safetensors"),
    *("trained_on.safetensors", "latents.safetensors"),
}

N_TRAIN = 600

N_TEST = 100

EPOCHS = 30

NETWORK = ["--hidden", "24", "12", "--latent-size", "4"]

LONG = [
    *(*NETWORK, "--folds", "1"),
    *("--epochs", str(EPOCHS), "--batch-size", "16", "--threads", "1"),
]
"""One network, and a sixth of the images held out."""

STEPS = 20

QUICK = ["--steps", str(STEPS), "--folds", "3", "--threads", "1"]
"""Three networks, so that every image calibrates."""

SHORT = [*NETWORK, *QUICK]

PATIENCE_S = 60


@dataclass(frozen=True)
class Result:
    status: object
    out: str
    err: str


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Result:
    """Run a command in this process."""
    try:
        status: object = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's own
        status = stop.code
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


def lines(result: Result) -> list[str]:
    """The lines of standard output that say something."""
    return [line.strip() for line in result.out.splitlines() if line.strip()]


def line(result: Result, start: str) -> str:
    """The one line that starts so."""
    (found,) = (line for line in lines(result) if line.startswith(start))
    return found


def output(result: Result) -> str:
    """Standard output without line breaks."""
    return " ".join(result.out.split())


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def contents(directory: Path) -> dict[str, bytes]:
    """The files of a directory by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
