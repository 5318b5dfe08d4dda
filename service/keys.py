"""Command line: `python -m service.keys NAME`, or `vae keys NAME`, makes an API key."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from typing import Final

from service.access.keys import SCOPES, digest_of, read_line

KEY_BYTES: Final = 32
"""Random bytes in a new key."""


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m service.keys") -> int:
    """Make a key: the key itself goes to stderr, its line for the keys file to stdout.

    `prog` is the command's name in its help.
    """
    parser = command_line(prog)
    arguments = parser.parse_args(argv)
    options = [f"scopes={arguments.scopes}"]
    if arguments.rate is not None:
        options.append(f"rate={arguments.rate}")
    key = secrets.token_urlsafe(KEY_BYTES)
    words = [arguments.name, digest_of(key).hex(), *options]
    try:
        read_line(words)
    except ValueError as error:
        parser.error(str(error))
    print(f"The key, shown only this once: {key}", file=sys.stderr)
    print(" ".join(words))
    return 0


def command_line(prog: str) -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Make an API key. The key is printed to stderr, and only once. Its line for "
        "the file named by VAE_API_KEYS_FILE is printed to stdout; it holds the SHA-256 of the "
        "key, never the key.",
        epilog=f"example: {prog} alice --rate 1000 >> api-keys",
    )
    parser.add_argument("name", metavar="NAME", help="name of the key's owner, as shown in the log")
    parser.add_argument(
        "--scopes",
        default="infer",
        help=f"what the key is for: one or more of {', '.join(SCOPES)}, separated by commas "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--rate", metavar="N", help="maximum images per second (default: no maximum)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
