"""Command line: `python -m service.keys NAME` makes an API key."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from typing import Final

from service.access.keys import SCOPES, digest_of, read_line

KEY_BYTES: Final = 32
"""Random bytes of a new key."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m service.keys NAME`: the key on stderr, its line for the file on stdout."""
    parser = argparse.ArgumentParser(
        prog="python -m service.keys",
        description="Make an API key. The key is shown once, on stderr; on stdout is its line for "
        "the file that VAE_API_KEYS_FILE names, which holds the key's SHA-256 only.",
        epilog="example: python -m service.keys alice --rate 1000 >> api-keys",
    )
    parser.add_argument("name", metavar="NAME", help="whose it is; stands in the log")
    parser.add_argument(
        "--scopes",
        default="infer",
        help=f"comma-separated, of {', '.join(SCOPES)}; default: %(default)s",
    )
    parser.add_argument("--rate", help="images a second at most; default: no limit")
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
    print(f"The key, which is not kept anywhere: {key}", file=sys.stderr)
    print(" ".join(words))
    return 0


if __name__ == "__main__":
    sys.exit(main())
