"""Command line: `python -m model train | calibrate | evaluate | import | download | demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from model.bundle.checks import BundleError
from model.commands import calibrate, demo, download, evaluate, import_checkpoint, train
from model.commands.common import INTERRUPTED, HelpFormatter
from model.datasets.download import DownloadError
from model.datasets.load import DataError
from model.engine.device import DeviceError
from model.training.checkpoint import CheckpointError


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m model") -> int:
    """Run one command. `prog` is the program's name in its help.

    Returns the exit status: 0, 2 for input that cannot be used, or 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    arguments, unknown = command_line(prog).parse_known_args(argv)
    if unknown:  # reported by the command's own parser, which shows the command's own usage
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
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


def command_line(prog: str) -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train networks for the service, calibrate and evaluate them.",
        formatter_class=HelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for command in (train, calibrate, evaluate, import_checkpoint, download, demo):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
