"""Command line: `python -m vae COMMAND`, the same as `vae COMMAND`."""

from __future__ import annotations

import sys

from vae.cli import main

if __name__ == "__main__":
    sys.exit(main())
