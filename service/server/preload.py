"""Imports what a serving process needs, torch above all."""

from __future__ import annotations

import gc


def preload() -> None:
    """Import it without garbage collections, and exclude it from those to come.

    They would look at all of torch's objects and find nothing, for a quarter of the time that the
    imports take. In a process that is forked later, the pages with these objects stay shared, as
    nothing writes to them.
    """
    gc.disable()
    try:
        import service.server.server  # noqa: F401 - with all that it imports
    finally:
        gc.freeze()
        gc.enable()
