"""Command line: `python -m model train | calibrate | evaluate | import | download`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from model.bundle.bundle import BundleError
from model.commands import calibrate, download, evaluate, import_checkpoint, train
from model.commands.common import INTERRUPTED
from model.engine.device import DeviceError
from model.training.checkpoint import CheckpointError
from model.training.data import DataError
from model.training.download import DownloadError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 2 for input that cannot be used, or 130."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(argv)
    arguments.argv = list(argv[1:])
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
    for command in (train, calibrate, evaluate, import_checkpoint, download):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
